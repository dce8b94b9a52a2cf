"""Options that many commands take, each with its name and help in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder the runs lie in.")]
TracksDir = Annotated[Path, typer.Option("--tracks-dir", help="Folder your own tracks lie in.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
