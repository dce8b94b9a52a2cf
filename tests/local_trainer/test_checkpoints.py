"""A run's checkpoints on disk: names, pointers, which one is meant, which ones stay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from local_trainer.checkpoints import (
    BestAndLast,
    Checkpoint,
    TrainerState,
    bring_first_weights,
    choose_checkpoint,
    first_weights,
    list_checkpoints,
    list_states,
    remove_old,
    remove_unfinished,
    state_files,
    write_pointers,
    write_state,
)
from local_trainer.config import PretrainedConfig
from local_trainer.errors import NotFound
from local_trainer.runs import Run


def write_checkpoint(run: Run, number: int) -> Checkpoint:
    """Write empty files where a checkpoint, its frozen graph and its state would lie."""
    state = TrainerState(number, 100 * number, 20 * number, 5 * number, 1.0, 0)
    files = [*state.checkpoint.files(run.model_dir), state.checkpoint.frozen_graph(run.model_dir)]
    for path in files + state_files(run, number):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_state(run, state)
    return state.checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with the checkpoints 0 to 2."""
    run = Run(tmp_path / "run")
    for number in range(3):
        write_checkpoint(run, number)
    return run


def test_a_name_says_number_and_steps() -> None:
    checkpoint = Checkpoint(3, 2048)
    assert checkpoint.name == "3_Step-2048.ckpt"
    assert Checkpoint.parse(checkpoint.name) == checkpoint
    assert checkpoint.prefix(Path("model")) == Path("model/3_Step-2048.ckpt")
    assert checkpoint.frozen_graph(Path("model")) == Path("model/model_3.pb")


@pytest.mark.parametrize(
    "name", ["", "3", "3_Step-2048", "x_Step-1.ckpt", "3_Step-x.ckpt", "3_Step-.ckpt", "-1_Step-1"]
)
def test_anything_else_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="<number>_Step-<steps>.ckpt"):
        Checkpoint.parse(name)


def test_only_whole_checkpoints_are_listed_in_the_order_of_their_numbers(run: Run) -> None:
    write_checkpoint(run, 10)
    (run.model_dir / "1_Step-100.ckpt.meta").unlink()
    (run.model_dir / "other.ckpt.index").touch()
    assert [checkpoint.number for checkpoint in list_checkpoints(run.model_dir)] == [0, 2, 10]
    assert list_checkpoints(run.path / "nothing") == []


def test_the_pointer_files_are_the_service_s(run: Run) -> None:
    write_pointers(run.model_dir, BestAndLast(Checkpoint(1, 100), 71.5, Checkpoint(2, 200), 60.0))
    data = json.loads((run.model_dir / "deepracer_checkpoints.json").read_text())
    assert list(data) == ["best_checkpoint", "last_checkpoint"]
    stamps = [entry.pop("time_stamp") for entry in data.values()]
    assert all(isinstance(stamp, float) for stamp in stamps)
    assert data == {
        "best_checkpoint": {"name": "1_Step-100.ckpt", "avg_eval_metric": 71.5},
        "last_checkpoint": {"name": "2_Step-200.ckpt", "avg_eval_metric": 60.0},
    }
    assert (run.model_dir / ".coach_checkpoint").read_text() == "2_Step-200.ckpt"


def test_best_last_number_and_name_are_understood(run: Run) -> None:
    write_pointers(run.model_dir, BestAndLast(Checkpoint(1, 100), 71.5, Checkpoint(2, 200), 60.0))
    chosen = {
        which: choose_checkpoint(run.model_dir, which).number
        for which in ("best", "last", "0", "1_Step-100.ckpt")
    }
    assert chosen == {"best": 1, "last": 2, "0": 0, "1_Step-100.ckpt": 1}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"best_checkpoint": {"name": "9_Step-9.ckpt"}}'])
def test_the_newest_stands_in_for_a_best_that_is_not_there(run: Run, text: str) -> None:
    (run.model_dir / "deepracer_checkpoints.json").write_text(text)
    assert choose_checkpoint(run.model_dir, "best").number == 2


def test_an_unknown_checkpoint_is_told_with_those_there_are(run: Run) -> None:
    with pytest.raises(NotFound, match="No checkpoint '7' in .*; allowed: best, last, 0, 1, 2"):
        choose_checkpoint(run.model_dir, "7")
    with pytest.raises(NotFound, match="holds no checkpoint yet"):
        choose_checkpoint(run.path / "empty", "best")


def test_the_newest_four_and_the_best_stay_and_two_can_be_resumed(run: Run) -> None:
    best = Checkpoint(1, 100)
    for number in range(3, 9):
        write_checkpoint(run, number)
        remove_old(run, best)
    assert [checkpoint.number for checkpoint in list_checkpoints(run.model_dir)] == [1, 5, 6, 7, 8]
    graphs = sorted(path.name for path in run.model_dir.glob("*.pb"))
    assert graphs == ["model_1.pb", "model_5.pb", "model_6.pb", "model_7.pb", "model_8.pb"]
    assert [state.number for state in list_states(run)] == [7, 8]
    assert len(list((run.path / "resume").iterdir())) == 6


def test_the_weights_a_run_begins_with_can_go_along(run: Run, tmp_path: Path) -> None:
    best_and_last = BestAndLast(Checkpoint(1, 100), 71.5, Checkpoint(2, 200), 60.0)
    write_pointers(run.model_dir, best_and_last)
    (run.path / "status.json").touch()  # what makes a folder a run
    begun, source = Run(tmp_path / "begun"), PretrainedConfig(run="run", checkpoint="best")
    begun.path.mkdir()
    there = first_weights(begun, source)
    assert there == run.model_dir / "1_Step-100.ckpt"
    there.with_name(there.name + ".index").write_bytes(b"weights")
    bring_first_weights(begun, source)
    shutil.rmtree(run.path)
    bring_first_weights(begun, source)  # again, as when it is gone on with
    here = first_weights(begun, source)
    assert here == begun.pretrained_dir / "1_Step-100.ckpt"
    assert here.with_name(here.name + ".index").read_bytes() == b"weights"
    assert [path.name for path in begun.path.iterdir()] == ["pretrained"]  # nothing half done


def test_a_run_that_begins_anew_brings_nothing(run: Run) -> None:
    bring_first_weights(run, PretrainedConfig())
    assert not run.pretrained_dir.exists()


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = TrainerState(
        4, 887, 40, 8, 17.25, 2, best="1_Step-244.ckpt", best_metric=5.02, best_lap_s=11.5
    )
    run = Run(tmp_path)
    write_state(run, state)
    assert list_states(run) == [state]
    assert state.checkpoint == Checkpoint(4, 887)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"number": 5}', '{"unknown": 1}'])
def test_a_damaged_state_is_passed_over(run: Run, text: str) -> None:
    state_files(run, 2)[0].write_text(text)
    assert [state.number for state in list_states(run)] == [0, 1]


def test_what_never_was_whole_is_removed(run: Run) -> None:
    write_pointers(run.model_dir, BestAndLast(None, 0.0, Checkpoint(2, 200), 60.0))
    before = sorted(run.path.rglob("*"))
    for name in ("model/.3_Step-300.ckpt.data-00000-of-00001", "model/.model_3.pb.x1", "resume/.3"):
        (run.path / name).touch()
    remove_unfinished(run)
    assert sorted(run.path.rglob("*")) == before
    remove_unfinished(Run(run.path / "new"))
