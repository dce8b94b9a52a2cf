"""A run trained again comes out bit for bit the same, whatever ended the first."""

import json
from pathlib import Path

import pytest
from training import command, run_command, train_command

pytestmark = pytest.mark.slow


def test_a_repetition_is_the_run_bit_for_bit(tmp_path: Path) -> None:
    # In two starts, the first of which leaves a limit that the repetition must not keep to.
    run_command(train_command(tmp_path, "first", "--episodes", "10", "-q"))
    place = ["--runs-dir", str(tmp_path), "-q", "--json"]
    run_command(command("train", "--resume", "first", "--episodes", "20", *place))
    manifest = json.loads((tmp_path / "first" / "manifest.json").read_text())
    starts = [(start["first_iteration"], start["last_iteration"]) for start in manifest["starts"]]
    assert starts == [(0, 1), (1, 2)]
    run_command(command("runs", "verify", "first", "--runs-dir", str(tmp_path)))

    done = run_command(command("train", "--repeat", "first", *place))
    repetition = json.loads(done.stdout)
    assert repetition["run"] == "first-repeat-1"
    compared = repetition["repetition"]
    assert (compared["different"], compared["missing"]) == ([], [])
    assert {"model/model_2.pb", "steps/training-1.npz", "steps/evaluation-1.npz"} <= set(
        compared["same"]
    )
