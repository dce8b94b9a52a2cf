import gym
import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from sim.gym_env import (
    DEFAULT_ACTIONS,
    ENVIRONMENT_ID,
    DeepRacerEnv,
    GymnasiumDeepRacerEnv,
    center_line_reward,
)
from sim.simulator import EpisodeRules

STRAIGHT_SLOW = 2
LEFT_FAST = 9


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.filterwarnings("error")
def test_passes_gymnasiums_checker(channels: int) -> None:
    env = gymnasium.make(ENVIRONMENT_ID, track="Oval_track", channels=channels)
    check_env(env.unwrapped)
    env.close()


def test_gymnasium_vectorises_it() -> None:
    envs = gymnasium.make_vec(ENVIRONMENT_ID, num_envs=3, track="Oval_track")
    pictures, _ = envs.reset(seed=1)
    assert pictures.shape == (3, 120, 160, 1)
    for _ in range(30):  # long enough for episodes to end and begin again
        pictures, rewards, *_ = envs.step(np.full(3, LEFT_FAST))
    assert pictures.shape == (3, 120, 160, 1) and rewards.shape == (3,)
    envs.close()


def test_gym_makes_it_by_its_name_with_the_old_interface() -> None:
    env = gym.make(ENVIRONMENT_ID, track="Oval_track")
    assert env.seed(3) == [3]
    picture = env.reset()
    assert env.observation_space.contains(picture)
    assert env.action_space.n == 10
    picture, reward, done, info = env.step(STRAIGHT_SLOW)
    assert env.observation_space.contains(picture)
    assert reward == 1.0 and done is False
    assert info["steps"] == 1.0 and info["speed"] == 1.0
    assert env.render(mode="rgb_array").shape == (120, 160, 3)


def test_both_interfaces_drive_the_same_car() -> None:
    old, new = DeepRacerEnv(), GymnasiumDeepRacerEnv()
    old.reset()
    new.reset(seed=0)
    for action in (2, 3, 7, 6):
        old_picture, old_reward, _, old_info = old.step(action)
        new_picture, new_reward, _, _, new_info = new.step(np.int64(action))
        assert (old_picture == new_picture).all()
        assert old_reward == new_reward and old_info == new_info


def test_step_cap_truncates_and_leaving_the_road_terminates() -> None:
    env = GymnasiumDeepRacerEnv(rules=EpisodeRules(max_steps=2))
    env.reset()
    assert env.step(np.int64(STRAIGHT_SLOW))[2:4] == (False, False)
    assert env.step(np.int64(STRAIGHT_SLOW))[2:4] == (False, True)
    env = GymnasiumDeepRacerEnv()
    env.reset()
    ended = (False, False)
    while ended == (False, False):
        ended = env.step(np.int64(LEFT_FAST))[2:4]
    assert ended == (True, False)


def test_starts_advance_and_a_seed_begins_anew() -> None:
    env = GymnasiumDeepRacerEnv(start_advance=0.25)
    places = []
    for seed in (7, None, None, 7):
        env.reset(seed=seed)
        info = env.step(np.int64(STRAIGHT_SLOW))[4]
        places.append(info["projection_distance"] / info["track_length"])
    assert places[1] - places[0] == pytest.approx(0.25, abs=0.01)
    assert places[2] - places[1] == pytest.approx(0.25, abs=0.01)
    assert places[3] == places[0]


def test_direction_alternates_if_asked() -> None:
    env = GymnasiumDeepRacerEnv(alternate_direction=True)
    directions = []
    for _ in range(3):
        env.reset()
        directions.append(env.step(np.int64(STRAIGHT_SLOW))[4]["is_reversed"])
    assert directions == [False, True, False]


def test_reward_function_gets_the_parameters_and_cannot_spoil_the_info() -> None:
    seen = []

    def reward_function(params: dict) -> float:  # type: ignore[type-arg]
        seen.append(params["steps"])
        params.clear()
        return 0.75

    env = GymnasiumDeepRacerEnv(reward_function=reward_function)
    env.reset()
    _, reward, _, _, info = env.step(np.int64(STRAIGHT_SLOW))
    assert reward == 0.75 and seen == [1.0]
    assert info["steps"] == 1.0


@pytest.mark.parametrize(
    ("distance_m", "reward"),
    [(0.0, 1.0), (0.1, 1.0), (0.11, 0.5), (0.25, 0.5), (0.5, 0.1), (0.51, 1e-3)],
)
def test_center_line_reward_has_the_services_tiers(distance_m: float, reward: float) -> None:
    assert center_line_reward({"distance_from_center": distance_m, "track_width": 1.0}) == reward


@pytest.mark.parametrize(
    "settings",
    [
        {"actions": DEFAULT_ACTIONS[:1]},
        {"actions": [{"steering_angle": 0.0}, {"steering_angle": 1.0}]},
        {"actions": [{"steering_angle": 31.0, "speed": 1.0}, DEFAULT_ACTIONS[0]]},
        {"actions": [{"steering_angle": 0.0, "speed": 4.1}, DEFAULT_ACTIONS[0]]},
        {"channels": 2},
        {"start_advance": 1.0},
        {"render_mode": "human"},
    ],
)
def test_impossible_environment_is_refused(settings: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match="must"):
        GymnasiumDeepRacerEnv(**settings)


def test_unknown_action_is_refused() -> None:
    env = DeepRacerEnv()
    env.reset()
    with pytest.raises(ValueError, match="from 0 to 9"):
        env.step(10)
