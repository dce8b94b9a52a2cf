import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from local_trainer.actions import default_action_space
from local_trainer.config import RunConfig, resolve_config
from local_trainer.episodes import Episode
from local_trainer.errors import RewardFunctionError
from local_trainer.rollout import (
    GREEDY,
    Exploration,
    Interrupted,
    Rollout,
    evaluation_starts,
    pick_actions,
    play_together,
    robust_starts,
    training_exploration,
    training_starts,
)
from sim.embedded import EmbeddedSimulator
from sim.simulator import EpisodeRules, EpisodeStart
from sim.track import Track
from sim.track_files import load_track

CATEGORICAL = Exploration("categorical")
RULES = EpisodeRules(max_steps=40)


class PicturePolicy:
    """Probabilities that depend on each picture alone, whichever are looked at with it."""

    def __init__(self) -> None:
        self._weights = np.random.default_rng(0).normal(0.0, 0.0005, (10, 12 * 16))
        self.batch_sizes: list[int] = []

    def probabilities(self, observations: np.ndarray) -> np.ndarray:
        self.batch_sizes.append(len(observations))
        coarse = observations[:, ::10, ::10, 0].reshape(len(observations), 1, -1)
        scores = (coarse * self._weights).sum(axis=2)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


class SpeedReward:
    def rewards(self, steps: np.ndarray) -> np.ndarray:
        return steps["speed"] + steps["progress"]


@dataclass
class BrokenReward:
    episodes_before: int

    def rewards(self, steps: np.ndarray) -> np.ndarray:
        self.episodes_before -= 1
        if self.episodes_before < 0:
            raise RewardFunctionError("reward.py:3: no")
        return np.zeros(len(steps))


@pytest.fixture(scope="module")
def oval() -> Track:
    return load_track("Oval_track")


def new_rollout(track: Track, num_cars: int, seed: int = 1, reward: Any = None) -> Rollout:
    simulator = EmbeddedSimulator(track, num_cars, seed)
    return Rollout(simulator, default_action_space(), reward or SpeedReward(), seed)


def some_starts(count: int, first: int = 0) -> list[EpisodeStart]:
    return [
        EpisodeStart(episode, 0.13 * episode % 1.0, episode % 2 == 1, rules=RULES)
        for episode in range(first, first + count)
    ]


def by_index(episodes: Iterator[Episode]) -> list[Episode]:
    return sorted(episodes, key=lambda episode: episode.index)


def assert_same(some: list[Episode], others: list[Episode]) -> None:
    assert [episode.start for episode in some] == [episode.start for episode in others]
    for one, other in zip(some, others, strict=True):
        assert one.steps.tolist() == other.steps.tolist()
        for name in ("actions", "rewards", "observations", "probabilities", "final_observation"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


def play(rollout: Rollout, starts: list[EpisodeStart], exploration: Exploration) -> list[Episode]:
    return by_index(
        rollout.play(PicturePolicy(), starts, "training", 4, exploration, keeps_pictures=True)
    )


# Playing.


def test_every_start_gives_one_whole_episode(oval: Track) -> None:
    episodes = play(new_rollout(oval, 3), some_starts(7), CATEGORICAL)
    assert [episode.start for episode in episodes] == some_starts(7)
    for episode in episodes:
        count = len(episode.steps)
        assert episode.steps["done"].tolist() == [False] * (count - 1) + [True]
        assert episode.steps["steps"].tolist() == list(range(1, count + 1))
        assert (episode.phase, episode.iteration) == ("training", 4)
        assert episode.rewards.tolist() == SpeedReward().rewards(episode.steps).tolist()
        assert episode.observations is not None and episode.probabilities is not None
        assert episode.observations.shape == (count, 120, 160, 1)
        assert episode.probabilities.shape == (count, 10)
        assert len(episode.actions) == len(episode.wall_clock) == count


def test_actions_are_carried_out_and_pictures_are_those_acted_on(oval: Track) -> None:
    space = default_action_space()
    episode = play(new_rollout(oval, 1), some_starts(1), CATEGORICAL)[0]
    assert episode.observations is not None and episode.probabilities is not None
    assert episode.steps["steering_angle"].tolist() == space.steering_deg[episode.actions].tolist()
    assert episode.steps["speed"].tolist() == space.speed_mps[episode.actions].tolist()
    again = PicturePolicy().probabilities(episode.observations)
    assert np.array_equal(again, episode.probabilities)
    simulator = EmbeddedSimulator(oval, 1, seed=1)
    one = np.array([0])
    simulator.reset(one, some_starts(1))
    for picture, step in zip(episode.observations, episode.steps, strict=True):
        assert np.array_equal(simulator.observations[0], picture)
        simulator.step(one, step["steering_angle"][None], step["speed"][None])
    assert np.array_equal(simulator.observations[0], episode.final_observation)


@pytest.mark.parametrize("num_cars", [1, 4, 30])
def test_same_seed_same_episodes_whatever_the_number_of_cars(oval: Track, num_cars: int) -> None:
    expected = play(new_rollout(oval, 7), some_starts(7), CATEGORICAL)
    assert_same(play(new_rollout(oval, num_cars), some_starts(7), CATEGORICAL), expected)


def test_an_episode_does_not_depend_on_the_order_or_the_others(oval: Track) -> None:
    starts = some_starts(6)
    expected = play(new_rollout(oval, 2), starts, CATEGORICAL)
    assert_same(play(new_rollout(oval, 2), starts[::-1], CATEGORICAL), expected)
    assert_same(play(new_rollout(oval, 1), starts[3:4], CATEGORICAL), expected[3:4])


def test_another_seed_or_phase_explores_differently(oval: Track) -> None:
    starts = some_starts(1)
    actions = play(new_rollout(oval, 1), starts, CATEGORICAL)[0].actions.tolist()
    assert play(new_rollout(oval, 1, seed=2), starts, CATEGORICAL)[0].actions.tolist() != actions
    other = new_rollout(oval, 1).play(PicturePolicy(), starts, "evaluation", 4, CATEGORICAL)
    assert next(other).actions.tolist() != actions


def test_pictures_are_left_out_unless_asked_for(oval: Track) -> None:
    episode = next(new_rollout(oval, 1).play(PicturePolicy(), some_starts(1), "evaluation", 0))
    assert episode.observations is episode.probabilities is episode.final_observation is None


def test_one_policy_call_serves_all_cars_that_drive(oval: Track) -> None:
    policy = PicturePolicy()
    episodes = list(new_rollout(oval, 3).play(policy, some_starts(5), "training", 0))
    assert policy.batch_sizes[0] == 3
    assert sum(policy.batch_sizes) == sum(len(episode.steps) for episode in episodes)


def test_greedy_takes_the_likeliest_action(oval: Track) -> None:
    episode = play(new_rollout(oval, 1), some_starts(1), GREEDY)[0]
    assert episode.probabilities is not None
    assert episode.actions.tolist() == episode.probabilities.argmax(axis=1).tolist()


def test_action_noise_stays_within_its_share(oval: Track) -> None:
    space = default_action_space()
    rollout = new_rollout(oval, 1)
    episode = play(rollout, some_starts(1), Exploration("categorical", action_noise=0.1))[0]
    speed = space.speed_mps[episode.actions]
    share = episode.steps["speed"] / speed - 1.0
    assert 0.02 < np.abs(share).max() <= 0.1
    steering = space.steering_deg[episode.actions]
    assert (np.abs(episode.steps["steering_angle"] - steering) <= 0.1 * np.abs(steering)).all()


def test_a_request_interrupts_between_two_steps(oval: Track) -> None:
    policy = PicturePolicy()
    rollout = new_rollout(oval, 2)
    with pytest.raises(Interrupted):
        list(
            rollout.play(
                policy,
                some_starts(2),
                "training",
                0,
                should_stop=lambda: len(policy.batch_sizes) > 4,
            )
        )
    assert len(policy.batch_sizes) == 5
    # And the cars can start anew.
    assert len(play(rollout, some_starts(2), CATEGORICAL)) == 2


# Several workers.


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_play_the_same_episodes_as_one(oval: Track, num_workers: int) -> None:
    expected = play(new_rollout(oval, 4), some_starts(8, first=5), CATEGORICAL)
    workers = [new_rollout(oval, 2) for _ in range(num_workers)]
    found = play_together(
        workers, PicturePolicy(), some_starts(8, first=5), "training", 4, CATEGORICAL, True
    )
    assert_same(by_index(found), expected)


def test_each_worker_plays_its_share(oval: Track) -> None:
    @dataclass
    class Names:
        """Tells the workers apart by the reward they give."""

        name: float

        def rewards(self, steps: np.ndarray) -> np.ndarray:
            return np.full(len(steps), self.name)

    workers = [new_rollout(oval, 2, reward=Names(float(number))) for number in range(3)]
    for episode in play_together(workers, PicturePolicy(), some_starts(7), "training", 0):
        assert episode.rewards[0] == episode.index % 3


def test_more_workers_than_episodes_is_fine(oval: Track) -> None:
    workers = [new_rollout(oval, 1) for _ in range(3)]
    found = play_together(workers, PicturePolicy(), some_starts(2), "training", 0)
    assert [episode.index for episode in by_index(found)] == [0, 1]


def test_first_error_of_a_worker_is_raised_and_the_others_stop(oval: Track) -> None:
    workers = [new_rollout(oval, 1), new_rollout(oval, 1, reward=BrokenReward(1))]
    found = []
    with pytest.raises(RewardFunctionError, match=r"reward\.py:3"):
        for episode in play_together(workers, PicturePolicy(), some_starts(400), "training", 0):
            found.append(episode)
    assert sum(episode.index % 2 == 1 for episode in found) == 1
    assert len(found) < 200
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rollout")]


def test_a_request_interrupts_all_workers(oval: Track) -> None:
    workers = [new_rollout(oval, 1) for _ in range(2)]
    found: list[Episode] = []
    with pytest.raises(Interrupted):
        for episode in play_together(
            workers,
            PicturePolicy(),
            some_starts(400),
            "training",
            0,
            should_stop=lambda: len(found) >= 3,
        ):
            found.append(episode)
    assert 3 <= len(found) < 200


def test_leaving_early_stops_the_workers(oval: Track) -> None:
    workers = [new_rollout(oval, 1) for _ in range(2)]
    episodes = play_together(workers, PicturePolicy(), some_starts(400), "training", 0)
    next(episodes)
    episodes.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rollout")]


# Picking actions.

HALF_QUARTERS = np.array([[0.5, 0.25, 0.25]], np.float32)


@pytest.mark.parametrize(
    ("chance", "action"),
    [(0.0, 0), (0.49, 0), (0.5, 1), (0.74, 1), (0.75, 2), (0.999999, 2)],
)
def test_categorical_picks_by_the_sum_of_probabilities(chance: float, action: int) -> None:
    picked = pick_actions(HALF_QUARTERS, np.array([[chance, 0.0]]), CATEGORICAL)
    assert picked.tolist() == [action]


def test_categorical_never_picks_what_is_impossible() -> None:
    probabilities = np.array([[0.0, 1.0, 0.0]], np.float32)
    for chance in (0.0, 0.5, np.nextafter(1.0, 0.0)):
        assert pick_actions(probabilities, np.array([[chance, 0.0]]), CATEGORICAL).tolist() == [1]


def test_categorical_draws_each_action_as_often_as_it_is_likely() -> None:
    rng = np.random.default_rng(3)
    picked = pick_actions(
        np.repeat(HALF_QUARTERS, 20_000, axis=0), rng.random((20_000, 2)), CATEGORICAL
    )
    # Four standard deviations of a share of 20,000 draws are 0.014.
    assert np.bincount(picked) / 20_000 == pytest.approx([0.5, 0.25, 0.25], abs=0.014)


@pytest.mark.parametrize(
    ("chances", "action"),
    [((0.29, 0.0), 0), ((0.29, 0.34), 1), ((0.29, 0.99), 2), ((0.3, 0.34), 0), ((0.9, 0.99), 0)],
)
def test_e_greedy_picks_anything_with_a_share_of_epsilon(
    chances: tuple[float, float], action: int
) -> None:
    picked = pick_actions(HALF_QUARTERS, np.array([chances]), Exploration("e-greedy", epsilon=0.3))
    assert picked.tolist() == [action]


def test_rows_are_picked_one_by_one() -> None:
    probabilities = np.array([[0.1, 0.9], [0.9, 0.1]], np.float32)
    assert pick_actions(probabilities, np.zeros((2, 2)), GREEDY).tolist() == [1, 0]
    assert pick_actions(probabilities, np.full((2, 2), 0.5), CATEGORICAL).tolist() == [1, 0]


def test_epsilon_falls_in_a_straight_line_from_1() -> None:
    ppo = resolve_config(
        overrides={
            "ppo.exploration_type": "e-greedy",
            "ppo.e_greedy_value": 0.2,
            "ppo.epsilon_steps": 1000,
        }
    ).ppo
    epsilons = [training_exploration(ppo, steps).epsilon for steps in (0, 500, 1000, 9999)]
    assert epsilons == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert training_exploration(ppo, 0).kind == "e-greedy"


def test_categorical_is_the_default_exploration() -> None:
    assert training_exploration(resolve_config().ppo, 0) == CATEGORICAL


# Starts.


def config(**overrides: Any) -> RunConfig:
    return resolve_config(overrides={key.replace("__", "."): v for key, v in overrides.items()})


def test_training_starts_go_round_the_track() -> None:
    settings = config(
        episodes__round_robin_advance=0.4,
        episodes__start_position_offset=0.1,
        episodes__max_steps=77,
    )
    starts = training_starts(settings, 2, 3)
    assert [start.episode for start in starts] == [2, 3, 4]
    assert [start.fraction for start in starts] == pytest.approx([0.9, 0.3, 0.7])
    assert not any(start.is_reversed for start in starts)
    assert {start.rules.max_steps for start in starts} == {77}


def test_training_starts_lie_off_the_centre_line_both_ways_within_the_limits() -> None:
    settings = config(episodes__start_sideways_m=0.3, episodes__start_turn_deg=30)
    starts = training_starts(settings, 0, 400)
    sideways = np.array([start.lateral_offset_m for start in starts])
    turned = np.degrees([start.yaw_offset_rad for start in starts])
    for values, limit in ((sideways, 0.3), (turned, 30.0)):
        assert np.abs(values).max() <= limit
        # Even: the mean of 400 is within four of its standard errors, and both ends are reached.
        assert abs(values.mean()) < 4 * limit / np.sqrt(3 * 400)
        assert values.min() < -0.95 * limit and values.max() > 0.95 * limit
    assert abs(np.corrcoef(sideways, turned)[0, 1]) < 4 / np.sqrt(400)
    assert training_starts(settings, 100, 5) == starts[100:105]  # wherever an iteration begins


def test_the_services_starts_are_on_the_centre_line() -> None:
    starts = training_starts(resolve_config(profile="cloud"), 0, 20)
    assert {(start.lateral_offset_m, start.yaw_offset_rad) for start in starts} == {(0.0, 0.0)}
    assert [round(20 * start.fraction) for start in starts] == list(range(20))


def test_training_starts_stay_if_asked() -> None:
    settings = config(episodes__change_start_position=False, episodes__start_position_offset=0.25)
    assert {start.fraction for start in training_starts(settings, 5, 4)} == {0.25}


@pytest.mark.parametrize(
    ("reverse", "alternate", "expected"),
    [
        (False, True, [True, False, True]),
        (True, True, [False, True, False]),
        (True, False, [True, True, True]),
    ],
)
def test_training_direction_is_fixed_by_the_episodes_number(
    reverse: bool, alternate: bool, expected: list[bool]
) -> None:
    settings = config(reverse_direction=reverse, alternate_direction=alternate)
    assert [start.is_reversed for start in training_starts(settings, 3, 3)] == expected


def test_evaluation_begins_at_the_line_and_then_a_little_off_it() -> None:
    settings = config(episodes__start_position_offset=0.5, evaluation__max_steps=66)
    starts = evaluation_starts(settings, 10, 5)
    assert [start.episode for start in starts] == [10, 11, 12, 13, 14]
    assert {start.fraction for start in starts} == {0.5}
    assert starts[0].lateral_offset_m == starts[0].yaw_offset_rad == 0.0
    offsets = [(start.lateral_offset_m, start.yaw_offset_rad) for start in starts[1:]]
    assert len(set(offsets)) == 4
    assert all(0 < abs(left_m) <= 0.1 and 0 < abs(yaw) <= 0.15 for left_m, yaw in offsets)
    assert starts == evaluation_starts(settings, 10, 5)
    assert starts[1:] != evaluation_starts(config(seed=1), 10, 5)[1:]
    assert {start.rules.max_steps for start in starts} == {66}


def test_evaluation_changes_direction_with_the_training() -> None:
    starts = evaluation_starts(config(alternate_direction=True), 7, 4)
    assert [start.is_reversed for start in starts] == [False, True, False, True]


def test_robust_starts_lie_all_around_in_both_directions() -> None:
    starts = robust_starts(config(), 4)
    assert [start.fraction for start in starts] == [0.0, 0.25, 0.5, 0.75]
    assert [start.is_reversed for start in starts] == [False, True, False, True]
    assert robust_starts(config(), 1, EpisodeRules(max_steps=5))[0].rules.max_steps == 5
