"""The check of any model folder or archive before it is sent off."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from local_trainer.archives import DEFAULT_LIMITS, ArchiveLimits, opened
from local_trainer.errors import NotFound
from local_trainer.export.car import GRAPH_NAME
from local_trainer.export.check_car import check_car_folder
from local_trainer.export.check_console import check_console_folder
from local_trainer.export.findings import CheckReport
from local_trainer.export.probe import TryOut, probe

Target = Literal["console", "car"]
TARGETS: tuple[Target, ...] = ("console", "car")

_FOLDER_LIMITS = ArchiveLimits(total_bytes=2**50, file_bytes=2**50, files=100_000)
"""A folder lies on the disk already: how large it may be is one of the rules, no danger."""


def check_model(
    path: Path,
    target: Target | None = None,
    name: str | None = None,
    description: str | None = None,
    limits: ArchiveLimits = DEFAULT_LIMITS,
    try_out: TryOut = probe,
) -> CheckReport:
    """Hold a model to every rule of where it is to go.

    Args:
        path: Folder, zip, tar or tar.gz, ours or not.
        target: Where it is to go; None: told from what is inside.
        name: Name it is to have in the console.
        description: Its description there.
        limits: The most that is unpacked of an archive.
        try_out: Tries the model out.

    Raises:
        NotFound: If there is nothing at the path.
        ConfigError: If it must not be opened at all: links, names that lead elsewhere, devices,
            a bomb, a pickle, damage.
    """
    if not path.exists():
        raise NotFound(f"No model folder or archive {path}.")
    with opened(path, _FOLDER_LIMITS if path.is_dir() else limits) as folder:
        root = _root(folder)
        chosen = target or _target(root)
        if chosen == "car":
            # An archive's own root is what the car sees.
            return CheckReport(str(path), "car", check_car_folder(folder, path, try_out))
        findings = check_console_folder(root, name, description, try_out)
        return CheckReport(str(path), "console", findings)


def _root(folder: Path) -> Path:
    """Return the model's folder: zips often hold it as their only entry."""
    entries = list(folder.iterdir())
    if len(entries) == 1 and entries[0].is_dir() and entries[0].name not in ("model", "agent"):
        return entries[0]
    return folder


def _target(folder: Path) -> Target:
    is_for_console = (folder / "model").is_dir() or (folder / "reward_function.py").exists()
    return "car" if (folder / GRAPH_NAME).exists() and not is_for_console else "console"
