from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from driven import drive, oval
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from local_trainer.episodes import Episode
from local_trainer.errors import NotFound, RunFailed
from local_trainer.runs import Run
from local_trainer.step_files import (
    evaluation_steps_file,
    newest_evaluation_steps,
    read_steps,
    write_steps,
)
from sim.simulator import EpisodeRules, EpisodeStart
from sim.steps import STEP_DTYPE

STEP_BYTES = sum(STEP_DTYPE[name].itemsize for name in STEP_DTYPE.names)


def assert_same(one: Episode, other: Episode) -> None:
    assert one.start == other.start
    assert (one.phase, one.iteration) == (other.phase, other.iteration)
    assert other.steps.dtype == STEP_DTYPE
    for name in STEP_DTYPE.names:
        assert one.steps[name].tobytes() == other.steps[name].tobytes(), name
    for name in ("actions", "rewards", "wall_clock", "probabilities"):
        ours, theirs = getattr(one, name), getattr(other, name)
        if ours is None:
            assert theirs is None
        else:
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
            assert ours.tobytes() == theirs.tobytes(), name
    assert other.observations is None and other.final_observation is None


def test_driven_episodes_come_back_bit_for_bit(tmp_path: Path) -> None:
    track = oval()
    pictures = np.zeros((1, 120, 160, 1), np.uint8)
    episodes = [
        drive(track, 0, noise_deg=2.0),
        replace(drive(track, 1, noise_deg=20.0), observations=pictures),
        replace(drive(track, 2, phase="evaluation", is_reversed=True), probabilities=None),
    ]
    write_steps(tmp_path / "steps.npz", episodes)
    back = read_steps(tmp_path / "steps.npz")
    assert len(back) == 3
    for ours, theirs in zip(episodes, back, strict=True):
        assert_same(ours, theirs)


@st.composite
def any_episode(draw: st.DrawFn) -> Episode:
    count = draw(st.integers(0, 4))
    floats = arrays.arrays("f8", count, elements=st.floats(width=64))
    steps = np.zeros(count, STEP_DTYPE)
    for name in STEP_DTYPE.names:
        raw = draw(st.binary(min_size=8 * count, max_size=8 * count))
        kind = STEP_DTYPE[name]
        steps[name] = (
            np.frombuffer(raw, "f8") if kind == "f8" else np.frombuffer(raw, "i8").astype(kind)
        )
    start = EpisodeStart(
        episode=draw(st.integers(0, 2**40)),
        fraction=draw(st.floats(0.0, 1.0, exclude_max=True)),
        is_reversed=draw(st.booleans()),
        lateral_offset_m=draw(st.floats(-1.0, 1.0)),
        yaw_offset_rad=draw(st.floats(-3.0, 3.0)),
        rules=EpisodeRules(max_steps=draw(st.integers(1, 100_000)), max_resets=7),
    )
    has_probabilities = draw(st.booleans())
    return Episode(
        start=start,
        phase=draw(st.sampled_from(["training", "evaluation"])),
        iteration=draw(st.integers(0, 2**40)),
        steps=steps,
        actions=draw(arrays.arrays("i4", count)),
        rewards=draw(floats),
        wall_clock=draw(floats),
        probabilities=(draw(arrays.arrays("f4", (count, 3))) if has_probabilities else None),
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(any_episode(), max_size=4))
def test_any_numbers_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, episodes: list[Episode]
) -> None:
    path = tmp_path_factory.mktemp("steps") / "steps.npz"
    write_steps(path, episodes)
    back = read_steps(path)
    assert len(back) == len(episodes)
    for ours, theirs in zip(episodes, back, strict=True):
        assert_same(ours, theirs)


def test_the_same_episodes_give_the_same_file(tmp_path: Path) -> None:
    episodes = [drive(oval(), k) for k in range(2)]
    write_steps(tmp_path / "a.npz", episodes)
    write_steps(tmp_path / "b.npz", episodes)
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert {n: a[n].tobytes() for n in a.files} == {n: b[n].tobytes() for n in b.files}


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="recorded no such steps"):
        read_steps(tmp_path / "steps.npz")


@pytest.mark.parametrize("keep", [0, 10, 700, -30])
def test_a_cut_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "steps.npz"
    write_steps(path, [drive(oval())])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunFailed, match="damaged"):
        read_steps(path)


def test_a_file_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "steps.npz"
    np.savez(path, version=np.array([{"a": 1}], dtype=object))
    with pytest.raises(RunFailed, match="damaged"):
        read_steps(path)


def test_action_spaces_of_different_sizes_are_refused(tmp_path: Path) -> None:
    episode = drive(oval())
    other = replace(episode, probabilities=np.zeros((len(episode.steps), 3), np.float32))
    with pytest.raises(ValueError, match=r"one number of actions, got \[3, 10\]"):
        write_steps(tmp_path / "steps.npz", [episode, other])


def test_the_newest_evaluation_is_found_among_in_training_ones(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert newest_evaluation_steps(run) is None
    write_steps(run.steps_file("evaluation", 12), [])
    assert newest_evaluation_steps(run) is None
    for stamp in ("20260102030405", "20250102030405"):
        write_steps(evaluation_steps_file(run, stamp), [])
    assert newest_evaluation_steps(run) == evaluation_steps_file(run, "20260102030405")
