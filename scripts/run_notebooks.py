"""Runs the notebooks from top to bottom and keeps their outputs, with small pictures.

``python scripts/run_notebooks.py --minutes 5``: what the notebooks in the repository show is what
came out of this. ``--check`` runs them and keeps nothing.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ("DeepRacer_Framework.ipynb", "DeepRacer_Configure.ipynb")
MOST_PICTURE_BYTES = 60_000
_KEPT_OUTPUTS = ("DeepRacer_Framework.ipynb",)
"""The other one tells of the machine it ran on."""
_STARTUP_LIMIT_S = 300
_TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def execute(path: Path, minutes: float, limit_s: float = 3600.0) -> nbformat.NotebookNode:
    """Return a notebook with its outputs; it runs in its own folder.

    Args:
        path: The notebook.
        minutes: How long each training may take.
        limit_s: How long a cell may take.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails; says which.
    """
    os.environ["LOCAL_TRAINER_NOTEBOOK_MINUTES"] = f"{minutes:g}"
    # The kernel needs no installed package: it finds ours where this script is.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    )
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as sockets:
        # Sockets of files: no port of this machine is open to others meanwhile.
        kernel = AsyncKernelManager(
            kernel_name="python3", transport="ipc", ip=str(Path(sockets) / "kernel")
        )
        client = NotebookClient(
            notebook,
            km=kernel,
            timeout=limit_s,
            startup_timeout=_STARTUP_LIMIT_S,
            resources={"metadata": {"path": str(path.parent)}},
        )
        executed: nbformat.NotebookNode = client.execute()
    return executed


def shrink(png: bytes, most_bytes: int = MOST_PICTURE_BYTES) -> bytes:
    """Return a picture in at most so many bytes: fewer colours first, then fewer pixels."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    found = png
    for share in (1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3):
        size = (round(picture.width * share), round(picture.height * share))
        small = picture.resize(size, Image.Resampling.LANCZOS).quantize(48)
        buffer = io.BytesIO()
        small.save(buffer, "PNG", optimize=True)
        found = min(found, buffer.getvalue(), key=len)
        if len(found) <= most_bytes:
            break
    return found


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Make pictures small and leave out what differs from machine to machine."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                small = shrink(base64.b64decode(data["image/png"]))
                data["image/png"] = base64.b64encode(small).decode("ascii")
            if "text" in output:
                output["text"] = _TERMINAL_COLOUR.sub("", output["text"])
    return notebook


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Run the notebooks from top to bottom.")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each training")
    parser.add_argument("--check", action="store_true", help="keep no outputs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "notebooks"
        folder.mkdir()
        for name in NOTEBOOKS:
            shutil.copy(ROOT / "notebooks" / name, folder)
            notebook = execute(folder / name, arguments.minutes)
            print(f"{name}: {len(notebook.cells)} cells", file=sys.stderr)
            if name in _KEPT_OUTPUTS and not arguments.check:
                nbformat.write(tidy(notebook), ROOT / "notebooks" / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
