"""What a process sees of the environment variables if other people's files are opened in it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_SECRET_NAMES = re.compile(
    r"(AWS|MINIO|REDIS|LOCAL_TRAINER_CONSOLE)_|.*(PASSWORD|SECRET|TOKEN|API_?KEY)", re.IGNORECASE
)


def without_secrets(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment without what opens a bucket, the console, Redis or the like."""
    return {key: value for key, value in environment.items() if not _SECRET_NAMES.match(key)}
