"""The notebooks: they run from top to bottom, show pictures, and hold nothing of one machine."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ("DeepRacer_Framework.ipynb", "DeepRacer_Configure.ipynb")
MOST_OUTPUT_BYTES = 200_000
NO_PATH = re.compile(r"(?<![\w.:/])/(?!/)(?:home|root|work|tmp|usr|opt|var|Users|mnt)\b/?\S*")


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nb", ROOT / "scripts" / "run_notebooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))
    return data


def outputs(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def pictures(notebook: dict[str, Any]) -> list[str]:
    data = [output.get("data", {}) for output in outputs(notebook)]
    return [one["image/png"] for one in data if "image/png" in one]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_stored_notebook_holds_nothing_of_one_machine(name: str) -> None:
    notebook = read(name)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert notebook["metadata"]["kernelspec"] == kernel
    for cell in notebook["cells"]:
        plain = json.dumps({key: value for key, value in cell.items() if key != "outputs"})
        for output in cell.get("outputs", []):
            shown = {k: v for k, v in output.get("data", {}).items() if k != "image/png"}
            plain += json.dumps([shown, output.get("text", "")])
        assert not NO_PATH.findall(plain)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_outputs_are_small_and_free_of_errors(name: str) -> None:
    notebook = read(name)
    assert all(output["output_type"] != "error" for output in outputs(notebook))
    assert all(len(json.dumps(output)) < MOST_OUTPUT_BYTES for output in outputs(notebook))
    assert all(len(picture) * 3 / 4 <= 61_000 for picture in pictures(notebook))


@pytest.mark.slow
def test_the_notebooks_run_from_top_to_bottom(tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    script = load_script()
    folder = tmp_path / "notebooks"
    folder.mkdir()
    least_pictures = {"DeepRacer_Framework.ipynb": 7, "DeepRacer_Configure.ipynb": 1}
    for name in NOTEBOOKS:
        shutil.copy(ROOT / "notebooks" / name, folder)
        notebook = script.tidy(script.execute(folder / name, minutes=0.5, limit_s=300.0))
        found = outputs(notebook)
        assert all(output["output_type"] != "error" for output in found)
        assert len(pictures(notebook)) >= least_pictures[name]
        assert all(len(json.dumps(output)) < MOST_OUTPUT_BYTES for output in found)
    folders = (path.name for path in (tmp_path / "runs").iterdir() if path.is_dir())
    runs = [name for name in folders if not name.startswith(".")]
    assert len(runs) == 5  # one model, two batches, two tracks
    assert list((tmp_path / "runs").glob("one-model-*/export/model.tar.gz"))


def test_a_picture_is_shrunk_to_what_was_asked_for() -> None:
    import io

    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    small = load_script().shrink(buffer.getvalue(), 60_000)
    assert len(small) <= 60_000
    assert Image.open(io.BytesIO(small)).format == "PNG"
