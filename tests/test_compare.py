"""Runs compared with laps that are driven now."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from training import command, run_command, train_command

from local_trainer.config import load_config, save_config
from local_trainer.runs import Run


@pytest.mark.slow
def test_all_runs_drive_the_same_laps_and_none_twice(tmp_path: Path) -> None:
    run_command(train_command(tmp_path, "one", "--episodes", "10", evaluation__max_steps="60"))
    one, twin = Run(tmp_path / "one"), Run(tmp_path / "twin")
    shutil.copytree(one.path, twin.path)
    twin.write_status(replace(twin.read_status(), run="twin"))
    # Whatever its own settings say, the twin must drive like the first run.
    config = load_config(twin.config_file)
    rules = config.evaluation.model_copy(update={"max_steps": 20})
    save_config(config.model_copy(update={"seed": 7, "evaluation": rules}), twin.config_file)

    arguments = ("runs", "compare", "one", "twin", "--runs-dir", str(tmp_path))
    evaluate = command(*arguments, "--evaluate", "--trials", "4", "--json")
    data = json.loads(run_command(evaluate).stdout)
    laps = [candidate["laps"] for candidate in data["candidates"]]
    assert len(laps[0]["trials"]) == 4
    assert laps[0]["conditions"]
    # The same weights under the same conditions: the same laps, bit for bit.
    assert laps[0]["trials"] == laps[1]["trials"]
    assert laps[0]["conditions"] == laps[1]["conditions"]
    assert [trial["is_reversed"] for trial in laps[0]["trials"]] == [False, True, False, True]
    assert data["verdicts"][0]["kind"] in ("no clear difference", "not ready")

    evaluations = sorted(tmp_path.glob("*/evaluation-*"))
    again = json.loads(run_command(evaluate).stdout)
    assert sorted(tmp_path.glob("*/evaluation-*")) == evaluations
    assert again["candidates"] == data["candidates"]

    run_command(command(*arguments))
    assert (tmp_path / "compare-one-twin.html").stat().st_size > 50_000
