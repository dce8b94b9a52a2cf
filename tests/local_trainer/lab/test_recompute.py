from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trace_writers import generation_lines, generation_log

from local_trainer.bench.replay import record_run
from local_trainer.episodes import Episode
from local_trainer.lab.recompute import Recomputed, agreements, recompute
from local_trainer.lab.recordings import Recording, read_recording
from local_trainer.lab.traces import parse_log
from sim.steps import EpisodeStatus
from sim.track import Track
from sim.track_files import load_track

FLAGS = (
    "previous_waypoint",
    "next_waypoint",
    "is_offtrack",
    "is_crashed",
    "is_reversed",
    "done",
    "status",
    "reset_count",
)


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    path = tmp_path_factory.mktemp("runs")
    record_run(path, 48, seed=1)
    recording = read_recording("driven", path)
    return replace(recording, episodes=[e for e in recording.episodes if e.phase == "training"])


def recomputed(
    episodes: list[Episode],
    track: Track,
    num_fields: int = 19,
    phase: str = "training",
    on: Track | None = None,
) -> Recomputed:
    trace = parse_log(generation_log(episodes, track, num_fields), "test")
    return recompute(trace, on or track, phase, np.zeros(len(trace.rows), int))


@pytest.mark.parametrize("num_fields", [15, 16, 19])
def test_what_a_trace_lacks_is_measured_again(driven: Recording, num_fields: int) -> None:
    result = recomputed(driven.episodes, driven.track, num_fields)
    got = np.concatenate([e.steps for e in result.episodes])
    expected = np.concatenate([e.steps for e in driven.episodes])
    # Positions are rounded to 0.05 mm in x and in y; the road's width changes slowly along it.
    assert np.abs(got["distance_from_center"] - expected["distance_from_center"]).max() < 1e-4
    assert np.abs(got["track_width"] - expected["track_width"]).max() < 1e-4
    apart_m = np.abs(got["projection_distance"] - expected["projection_distance"])
    lap_m = driven.track.length_m
    # On the inside of a bend, a small step sideways is a larger one along the centre line.
    assert np.quantile(np.minimum(apart_m, lap_m - apart_m), 0.99) < 2e-4
    is_other_side = got["is_left_of_center"] != expected["is_left_of_center"]
    assert expected["distance_from_center"][is_other_side].max(initial=0.0) < 1e-4
    for name in FLAGS:
        # A car within 0.1 mm of a line may come to lie on its other side.
        assert (got[name] != expected[name]).mean() < 2e-3, name


def test_log_and_measurement_agree_on_the_right_track(driven: Recording) -> None:
    parts = [recomputed(driven.episodes, driven.track)]
    found = {one.field: one for one in agreements(parts, driven.track)}
    assert set(found) == {"all_wheels_on_track", "closest_waypoint", "progress", "track_length"}
    assert all(one.num_steps == driven.num_steps for one in found.values())
    assert found["all_wheels_on_track"].share > 0.998
    assert found["closest_waypoint"].share > 0.998
    assert found["progress"].share > 0.99
    assert found["track_length"].share == 1.0
    assert found["track_length"].worst <= 0.005


def test_a_wrong_track_shows(driven: Recording) -> None:
    wrong = load_track("wide_loop")
    parts = [recomputed(driven.episodes, driven.track, on=wrong)]
    found = {one.field: one.share for one in agreements(parts, wrong)}
    assert found["closest_waypoint"] < 0.2
    assert found["progress"] < 0.2
    assert found["track_length"] == 0.0


def test_direction_is_found_from_the_progress(driven: Recording) -> None:
    result = recomputed(driven.episodes, driven.track)
    expected = [e.start.is_reversed for e in driven.episodes]
    assert set(expected) == {False, True}
    assert [e.start.is_reversed for e in result.episodes] == expected


def test_direction_of_a_single_step_is_found_from_its_waypoint(driven: Recording) -> None:
    episodes = [
        replace(
            e,
            steps=e.steps[:1],
            rewards=e.rewards[:1],
            actions=e.actions[:1],
            wall_clock=e.wall_clock[:1],
        )
        for e in driven.episodes[2:6]
    ]
    result = recomputed(episodes, driven.track)
    assert [e.start.is_reversed for e in result.episodes] == [e.start.is_reversed for e in episodes]


def test_start_of_an_episode_is_found(driven: Recording) -> None:
    for got, expected in zip(
        recomputed(driven.episodes, driven.track).episodes, driven.episodes, strict=True
    ):
        apart = (got.start.fraction - expected.start.fraction + 0.5) % 1.0 - 0.5
        # Half of 0.1 mm of 17.7 m, and twice that in a bend.
        assert abs(apart) < 1e-5


def test_all_recorded_rewards_of_our_own_training_can_be_compared(driven: Recording) -> None:
    assert all(mask.all() for mask in recomputed(driven.episodes, driven.track).comparable)


def test_rewards_the_service_gave_itself_are_not_compared(driven: Recording) -> None:
    lines = generation_lines(driven.episodes[:2], driven.track, 19)
    assert lines[0].split(",")[15] == "prepare"
    fields = lines[0].split(",")
    fields[8] = "0.0000"  # the service: no reward while the car is being prepared
    trace = parse_log("\n".join([",".join(fields), *lines[1:]]), "test")
    masks = recompute(trace, driven.track, "training", np.zeros(len(lines), int)).comparable
    assert not masks[0][0]
    assert masks[0][1:].all()
    assert masks[1].all()


def test_forced_reward_of_2019_is_not_compared(driven: Recording) -> None:
    episode = next(e for e in driven.episodes if e.status is EpisodeStatus.OFF_TRACK)
    forced = replace(episode, rewards=np.append(episode.rewards[:-1], 1e-8))
    (mask,) = recomputed([forced], driven.track, 15).comparable
    assert not mask[-1]
    assert mask[:-1].all()


def test_evaluations_of_others_are_not_compared(driven: Recording) -> None:
    result = recomputed(driven.episodes[:2], driven.track, phase="evaluation")
    assert not any(mask.any() for mask in result.comparable)


def test_episodes_of_one_number_are_told_apart_by_their_steps(driven: Recording) -> None:
    twice = [driven.episodes[0], driven.episodes[0]]
    result = recomputed(twice, driven.track)
    assert [len(e.steps) for e in result.episodes] == [len(e.steps) for e in twice]


def test_resets_are_counted(driven: Recording, tmp_path: Path) -> None:
    lines = generation_lines(driven.episodes[:1], driven.track, 19)
    for k in (5, 9):
        lines[k] = lines[k].replace("in_progress", "off_track")
    trace = parse_log("\n".join(lines), "test")
    (episode,) = recompute(trace, driven.track, "evaluation", np.zeros(len(lines), int)).episodes
    counts = episode.steps["reset_count"]
    assert counts[:5].max() == 0
    assert set(counts[5:9]) == {1}
    assert set(counts[9:]) == {2}
    assert episode.steps["is_offtrack"][[5, 9]].all()
