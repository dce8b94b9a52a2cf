"""One model on several tracks: every episode as on its track alone, and told apart everywhere."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from training import run_command, train_command

from local_trainer.actions import default_action_space
from local_trainer.config import load_config, resolve_config
from local_trainer.episodes import Episode
from local_trainer.errors import ConfigError
from local_trainer.evaluation import read_report
from local_trainer.history import read_history
from local_trainer.players import LocalPlayers
from local_trainer.reward import RewardFunction
from local_trainer.rollout import (
    Exploration,
    Rollout,
    evaluation_starts,
    robust_starts,
    track_of,
    training_starts,
)
from local_trainer.run_files import create_run, load_run_track, load_run_tracks
from local_trainer.runs import Run
from local_trainer.step_files import read_steps
from sim.embedded import EmbeddedSimulator
from sim.simulator import EpisodeStart
from sim.track import Track
from sim.track_files import load_track

NAMES = ("reinvent_base", "Oval_track", "Straight_track")
SEVERAL = "tracks=[reinvent_base, Oval_track, Straight_track]"
LAP_LENGTH = "def reward_function(params):\n    return float(params['track_length'])\n"


class AnyAction:
    """A policy without preference."""

    def probabilities(self, observations: np.ndarray) -> np.ndarray:
        return np.full((len(observations), 10), 0.1, np.float32)

    def graph(self) -> bytes:
        raise NotImplementedError


class OneEach:
    """A reward of 1 a step."""

    def rewards(self, steps: np.ndarray) -> np.ndarray:
        return np.ones(len(steps))


def rollout_on(track: Track, cars: int) -> Rollout:
    return Rollout(EmbeddedSimulator(track, cars, seed=7), default_action_space(), OneEach(), 7)


def play(rollouts: Sequence[Rollout], starts: list[EpisodeStart]) -> list[Episode]:
    found = LocalPlayers(rollouts).play(
        AnyAction(), starts, "training", 0, Exploration("categorical")
    )
    return sorted(found, key=lambda episode: episode.index)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["tracks=[a, a]"], "tracks must differ, got a, a."),
        (["tracks=[a, b]", "track=b"], "track must be left out or the first of tracks, 'a'"),
        (["tracks=[a, b]", "simulator.backend=gazebo"], "embedded with several tracks"),
        (
            ["tracks=[a, b]", "ppo.episodes_between_training=1"],
            "ppo.episodes_between_training must be at least the number of tracks, 2, got 1.",
        ),
    ],
)
def test_tracks_that_do_not_go_together_are_refused(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_config(sets=sets)
    assert message in str(caught.value)


def test_episodes_go_round_the_tracks_and_along_each_of_them() -> None:
    sets = ["tracks=[a, b]", "alternate_direction=true", "episodes.round_robin_advance=0.05"]
    config = resolve_config(sets=sets)
    starts = training_starts(config, 0, 6)
    assert [track_of(start.episode, 2) for start in starts] == [0, 1, 0, 1, 0, 1]
    assert [start.fraction for start in starts] == [0.0, 0.0, 0.05, 0.05, 0.1, 0.1]
    assert [start.is_reversed for start in starts] == [False, False, True, True, False, False]


def test_an_evaluation_drives_every_track_equally_often() -> None:
    config = resolve_config(sets=["tracks=[a, b, c]"])
    laps = evaluation_starts(config, 9, 2)
    assert [start.episode for start in laps] == [9, 10, 11, 12, 13, 14]
    assert [start.lateral_offset_m == 0.0 for start in laps] == [True] * 3 + [False] * 3
    robust = robust_starts(config, 4)
    assert [start.episode for start in robust] == list(range(12))
    for track in range(3):
        mine = [start for start in robust if track_of(start.episode, 3) == track]
        assert [start.fraction for start in mine] == [0.0, 0.25, 0.5, 0.75]


def test_one_track_in_a_list_is_that_track() -> None:
    config = resolve_config(sets=["tracks=[Oval_track]"])
    assert config.track == "Oval_track"
    assert training_starts(config, 3, 2) == training_starts(resolve_config(), 3, 2)


def test_a_run_keeps_all_its_tracks(tmp_path: Path) -> None:
    run = create_run(resolve_config(sets=[SEVERAL]), tmp_path)
    tracks = load_run_tracks(run)
    assert tuple(track.name for track in tracks) == NAMES
    for track in tracks:
        assert np.array_equal(track.route(), load_track(track.name).route())
        assert track.surface == load_track(track.name).surface
    assert np.array_equal(np.load(run.route_file), tracks[0].route())
    assert load_config(run.config_file).all_tracks == NAMES
    assert run.read_status().track == ", ".join(NAMES)
    assert run.name.startswith("reinvent_base-and-2-more-")
    with pytest.raises(ConfigError, match="This takes runs of one track"):
        load_run_track(run)


def test_each_track_has_a_yaml_file_of_the_service_that_names_it(tmp_path: Path) -> None:
    run = create_run(resolve_config(sets=[SEVERAL]), tmp_path)
    listed = json.loads((run.path / "multi_config.json").read_text())["multi_config"]
    assert [one["world_name"] for one in listed] == list(NAMES)
    for one in listed:
        values = yaml.safe_load((run.path / one["config_file"]).read_text())
        assert values["WORLD_NAME"] == one["world_name"]
    assert yaml.safe_load(run.training_params_file.read_text())["WORLD_NAME"] == NAMES[0]


def test_the_users_surface_holds_for_all_tracks(tmp_path: Path) -> None:
    run = create_run(resolve_config(sets=[SEVERAL, "surface=wood"]), tmp_path)
    assert {track.surface for track in load_run_tracks(run)} == {"wood"}


def test_an_episode_is_the_same_as_on_its_track_alone() -> None:
    tracks = [load_track(name) for name in NAMES[:2]]
    config = resolve_config(sets=["tracks=[reinvent_base, Oval_track]", "episodes.max_steps=30"])
    starts = training_starts(config, 0, 10)
    together = play([rollout_on(track, 2) for track in tracks], starts)
    assert [episode.index for episode in together] == list(range(10))
    for number, track in enumerate(tracks):
        alone = play([rollout_on(track, 5)], starts[number::2])
        for episode, expected in zip(together[number::2], alone, strict=True):
            assert np.array_equal(episode.steps, expected.steps)
            assert np.array_equal(episode.actions, expected.actions)


def test_the_reward_function_gets_the_waypoints_of_the_episodes_track(tmp_path: Path) -> None:
    file = tmp_path / "reward.py"
    file.write_text(LAP_LENGTH)
    tracks = [load_track(name) for name in NAMES[:2]]
    starts = training_starts(resolve_config(sets=["episodes.max_steps=10"]), 0, 4)
    rewards = [RewardFunction(file, track) for track in tracks]
    try:
        rollouts = [
            Rollout(EmbeddedSimulator(track, 2, seed=7), default_action_space(), reward, 7)
            for track, reward in zip(tracks, rewards, strict=True)
        ]
        for episode in play(rollouts, starts):
            length_m = tracks[track_of(episode.index, 2)].length_m
            np.testing.assert_allclose(episode.rewards, length_m, rtol=1e-6)
    finally:
        for reward in rewards:
            reward.close()


# A whole training.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("tracks")
    train(folder, "whole", "20")
    return Run(folder / "whole")


def train(folder: Path, name: str, episodes: str) -> subprocess.CompletedProcess[str]:
    tracks = ("--track", NAMES[0], "--track", NAMES[1])
    return run_command(train_command(folder, name, *tracks, "--episodes", episodes, "--quiet"))


@pytest.mark.slow
def test_what_a_training_leaves_says_which_track(trained: Run) -> None:
    first, second = NAMES[:2]
    history = read_history(trained)
    assert [event.track for event in history.training] == [first, second] * 10
    for evaluation in history.evaluations:
        assert list(evaluation.tracks) == [first, second]
        assert {result.trials for result in evaluation.tracks.values()} == {2}
        mean = sum(r.mean_progress_percent for r in evaluation.tracks.values()) / 2
        assert evaluation.mean_progress_percent == pytest.approx(mean)
    metrics = json.loads(trained.training_metrics_file.read_text())["metrics"]
    assert [e["track"] for e in metrics if e["phase"] == "training"] == [first, second] * 10
    lengths = {track.name: track.length_m for track in load_run_tracks(trained)}
    for number, name in enumerate((first, second)):
        rows = trained.training_trace_file(1, number).read_text().splitlines()
        column = rows[0].split(",").index("track_len")
        for row in rows[1:]:
            assert float(row.split(",")[column]) == pytest.approx(lengths[name], abs=0.01)
    (report,) = trained.path.glob("evaluation-*/report.json")
    assert {name: len(one.trials) for name, one in read_report(report).by_track().items()} == {
        first: 2,
        second: 2,
    }
    for name in ("path", "off_tracks"):
        for file in (f"{name}.png", f"{name}-1.png"):
            assert (trained.plots_dir / file).stat().st_size > 10_000
    for file in ("evaluation.mp4", "evaluation-1.mp4"):
        assert (trained.plots_dir / file).stat().st_size > 1000
    assert f"On {second}:" in trained.report_file.read_text()


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(
    tmp_path: Path, trained: Run
) -> None:
    train(tmp_path, "half", "10")
    place = ["--runs-dir", str(tmp_path), "--episodes", "20", "--quiet"]
    run_command([*train_command(tmp_path, "half")[:4], "--resume", "half", *place])
    run = Run(tmp_path / "half")
    for phase in ("training", "evaluation"):
        for iteration in (0, 1):
            found = read_steps(run.steps_file(phase, iteration))
            expected = read_steps(trained.steps_file(phase, iteration))
            for episode, other in zip(found, expected, strict=True):
                assert episode.start == other.start
                assert np.array_equal(episode.steps, other.steps)
    assert run.training_metrics_file.read_bytes() == trained.training_metrics_file.read_bytes()
