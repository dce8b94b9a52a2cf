"""A user's environment as a simulator; what all simulators promise is in tests/contract."""

import math
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sim.embedded import EmbeddedSimulator
from sim.gym_env import DEFAULT_ACTIONS, DeepRacerEnv
from sim.gym_simulator import INFO_KEYS, GymSimulator
from sim.reward_params import RewardParams
from sim.simulator import EpisodeRules, EpisodeStart
from sim.steps import STEP_DTYPE, EpisodeStatus
from sim.track import Track
from sim.track_files import load_track

ONE = np.array([0])

# An environment that owes us nothing but the interface: a car that slides along a straight line.
FOREIGN = """
import gym
import numpy as np

class DeepRacerRacetrackEnv(gym.Env):
    def __init__(self, track):
        self.action_space = gym.spaces.Discrete(10)
        self.track_length = track.length_m
        self.seeds = []

    def seed(self, seed=None):
        self.seeds.append(seed)
        return [seed]

    def picture(self):
        return np.full((120, 160, 3), (255, 0, 0), np.uint8)

    def reset(self):
        self.steps = 0
        return self.picture()

    def info(self, action):
        return dict(
            x=1.14 + self.steps, y=2.0, heading=0.0, distance_from_center=0.1,
            projection_distance=0.5, progress=10.0 * self.steps, steps=self.steps,
            speed=1.5, steering_angle=30.0, track_width=0.8, sim_time=self.steps / 15,
            all_wheels_on_track=True, is_left_of_center=True, is_offtrack=False,
            is_crashed=False, is_reversed=False, closest_waypoints=[3, 4],
            track_length=self.track_length,
        )

    def step(self, action):
        self.steps += 1
        info = self.info(action)
        return self.picture(), 0.0, False, info
"""


@pytest.fixture(scope="module")
def oval() -> Track:
    return load_track("Oval_track")


@pytest.fixture
def open_file(tmp_path: Path, oval: Track) -> Callable[..., GymSimulator]:
    def open_file(code: str, num_cars: int = 1) -> GymSimulator:
        path = tmp_path / "environment.py"
        path.write_text(textwrap.dedent(code), encoding="utf-8")
        return GymSimulator(path, oval, num_cars, seed=3, actions=DEFAULT_ACTIONS)

    return open_file


def ours(body: str) -> str:
    """Return a file with a subclass of our environment."""
    head = "from sim.gym_env import DeepRacerEnv\n\nclass DeepRacerRacetrackEnv(DeepRacerEnv):\n"
    return head + textwrap.indent(textwrap.dedent(body), "    ")


def step_one(simulator: GymSimulator, steering_deg: float, speed_mps: float) -> np.ndarray:
    return simulator.step(ONE, np.array([steering_deg]), np.array([speed_mps]))


def test_an_unchanged_environment_drives_as_the_embedded_simulator(
    open_file: Callable[..., GymSimulator], oval: Track
) -> None:
    simulators = (open_file(ours("pass"), 2), EmbeddedSimulator(oval, 2, seed=3))
    cars = np.arange(2)
    start = EpisodeStart(5, 0.3, True, lateral_offset_m=0.1, rules=EpisodeRules(max_steps=30))
    for simulator in simulators:
        simulator.reset(cars, [start, EpisodeStart(6, 0.6)])
    for steering_deg in (0.0, 15.0, -30.0, 0.0):
        records = [s.step(cars, np.array([steering_deg, 0.0]), np.ones(2)) for s in simulators]
        assert (records[0] == records[1]).all()
        assert (simulators[0].observations == simulators[1].observations).all()


def test_what_the_environment_shows_is_what_is_seen(
    open_file: Callable[..., GymSimulator], oval: Track
) -> None:
    simulator = open_file(
        ours("""
        def reset(self):
            return super().reset() // 2

        def step(self, action):
            picture, reward, done, info = super().step(action)
            return picture // 4, reward, done, info
        """)
    )
    plain = EmbeddedSimulator(oval, 1)
    for each in (simulator, plain):
        each.reset(ONE, [EpisodeStart(0, 0.2)])
    assert (simulator.observations == plain.observations // 2).all()
    for each in (simulator, plain):
        each.step(ONE, np.zeros(1), np.ones(1))
    assert (simulator.observations == plain.observations // 4).all()


def test_what_info_says_is_what_is_recorded(open_file: Callable[..., GymSimulator]) -> None:
    simulator = open_file(
        ours("""
        def step(self, action):
            picture, reward, done, info = super().step(action)
            info["speed"] = 0.25
            info["is_crashed"] = True
            return picture, reward, True, info
        """)
    )
    simulator.reset(ONE, [EpisodeStart(0)])
    step = step_one(simulator, 0.0, 1.0)[0]
    assert step["speed"] == 0.25 and step["actual_speed"] > 0.0
    assert step["done"] and step["status"] == EpisodeStatus.CRASHED
    with pytest.raises(ValueError, match="reset it"):
        step_one(simulator, 0.0, 1.0)


@pytest.mark.parametrize(
    ("command", "action"),
    [((0.0, 1.0), 2), ((29.0, 1.9), 9), ((8.0, 1.0), 3), ((-7.0, 1.6), 7), ((-90.0, 9.0), 5)],
)
def test_a_command_is_the_nearest_action(
    open_file: Callable[..., GymSimulator], command: tuple[float, float], action: int
) -> None:
    simulator = open_file(ours("pass"))
    simulator.reset(ONE, [EpisodeStart(0)])
    step = step_one(simulator, *command)[0]
    expected = DEFAULT_ACTIONS[action]
    assert step["steering_angle"] == expected["steering_angle"]
    assert step["speed"] == expected["speed"]


def test_a_foreign_environment_is_recorded_from_its_info(
    open_file: Callable[..., GymSimulator], oval: Track
) -> None:
    simulator = open_file(FOREIGN, 2)
    simulator.reset(np.arange(2), [EpisodeStart(0), EpisodeStart(1)])
    step = simulator.step(np.array([1]), np.zeros(1), np.ones(1))
    assert step.dtype == STEP_DTYPE and step.shape == (1,)
    params = RewardParams(oval).dicts(step)[0]
    assert (params["x"], params["y"], params["sim_time"]) == pytest.approx((2.14, 2.0, 1 / 15))
    assert params["closest_waypoints"] == [3, 4] and params["is_left_of_center"] is True
    assert step["origin_x"][0] == pytest.approx(2.0)  # x is measured 14 cm ahead
    assert step["yaw"][0] == 0.0 and step["actual_speed"][0] == 1.5
    assert step["actual_steering"][0] == pytest.approx(math.pi / 6)
    assert step["status"][0] == EpisodeStatus.IN_PROGRESS and not step["done"][0]
    # Red is 0.2989 of grey; the car that was not stepped shows its first picture.
    assert (simulator.observations == round(0.2989 * 255)).all()


def test_a_foreign_environment_is_seeded_by_seed_and_episode(
    open_file: Callable[..., GymSimulator],
) -> None:
    seeds = []
    for episode in (7, 8, 7):
        simulator = open_file(FOREIGN)
        simulator.reset(ONE, [EpisodeStart(episode)])
        seeds.append(simulator._environments[0].seeds[-1])
    assert seeds[0] == seeds[2] != seeds[1]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("", EpisodeStatus.TIME_UP),
        ("info['progress'] = 100.0", EpisodeStatus.LAP_COMPLETE),
        ("info['is_offtrack'] = True", EpisodeStatus.OFF_TRACK),
        ("info['is_crashed'] = info['is_offtrack'] = True", EpisodeStatus.CRASHED),
    ],
)
def test_why_a_foreign_episode_ended_is_read_from_its_last_step(
    open_file: Callable[..., GymSimulator], change: str, status: EpisodeStatus
) -> None:
    code = FOREIGN.replace(
        "info = self.info(action)", f"info = self.info(action); {change or 'pass'}"
    ).replace("0.0, False, info", "0.0, self.steps == 2, info")
    simulator = open_file(code)
    simulator.reset(ONE, [EpisodeStart(0)])
    assert not step_one(simulator, 0.0, 1.0)["done"][0]
    last = step_one(simulator, 0.0, 1.0)[0]
    assert last["done"] and last["status"] == status


def test_the_step_cap_holds_in_any_environment(open_file: Callable[..., GymSimulator]) -> None:
    simulator = open_file(FOREIGN)
    simulator.reset(ONE, [EpisodeStart(0, rules=EpisodeRules(max_steps=3))])
    steps = [step_one(simulator, 0.0, 1.0)[0] for _ in range(3)]
    assert [bool(step["done"]) for step in steps] == [False, False, True]
    assert steps[-1]["status"] == EpisodeStatus.TIME_UP


def test_a_constructor_gets_what_it_asks_for(open_file: Callable[..., GymSimulator]) -> None:
    code = ours("""
    def __init__(self, seed, track):
        super().__init__(track=track)
        self.got = (seed, track.name)
    """)
    assert open_file(code)._environments[0].got == (3, "Oval_track")


def test_next_start_is_used_once_and_later_ones_go_on_from_it() -> None:
    env = DeepRacerEnv(track="Oval_track")
    places = []
    env.begin_next_at(EpisodeStart(9, fraction=0.8))
    for _ in range(2):
        env.reset()
        info = env.step(2)[3]
        places.append(info["projection_distance"] / info["track_length"])
    assert places == pytest.approx([0.8, 0.5], abs=0.02)  # episode 10 begins at 10 x 0.05


NO_PROGRESS = "info = self.info(action); del info['progress']"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import rospy\n", ":1: ModuleNotFoundError: No module named 'rospy'"),
        ("x = 1\n", "must define the class DeepRacerRacetrackEnv"),
        ("raise SystemExit(3)", ":1: SystemExit: 3"),
        ("def broken(:\n", ":1: SyntaxError: "),
        (FOREIGN.replace("self, track", "self, world"), "missing 1 required .*'world'"),
        (FOREIGN.replace("Discrete(10)", "Discrete(6)"), r"Discrete\(10\), .* got Discrete\(6\)"),
        (FOREIGN.replace("(120, 160, 3)", "(60, 80, 3)"), r"reset\(\) must give .* \(60, 80, 3\)"),
        (FOREIGN.replace("np.uint8", "np.float32"), "uint8, got .* float32"),
        (
            FOREIGN.replace("return self.picture()\n\n    def info", "return 1\n\n    def info"),
            "got 1",
        ),
        (FOREIGN.replace("False, info", "False, False, info"), "got a tuple of 5"),
        (FOREIGN.replace("False, info", "False, None"), "info must be a dict .* got None"),
        (FOREIGN.replace("info = self.info(action)", NO_PROGRESS), "info must .*; lacks progress"),
        (FOREIGN.replace("x=1.14 + self.steps", "x=float('nan')"), r"\['x'\] must be a finite"),
        (FOREIGN.replace("x=1.14 + self.steps", "x='far'"), r"\['x'\] must .* got 'far'"),
        (FOREIGN.replace("[3, 4]", "[3]"), r"\['closest_waypoints'\] must be two indices"),
        (FOREIGN.replace("track.length_m", "17.7"), "drives on another track"),
        (ours("def step(self, action):\n    return 1 // 0"), ":5: ZeroDivisionError"),
        (ours("def __init__(self):\n    super().__init__(track='moon')"), ":5: ValueError: .*moon"),
    ],
)
def test_mistakes_in_the_file_are_one_line_when_it_is_opened(
    open_file: Callable[..., GymSimulator], code: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says) as error:
        open_file(code)
    assert str(error.value).startswith("environment ") and "\n" not in str(error.value)


def test_our_own_environment_says_all_that_info_must() -> None:
    env = DeepRacerEnv(track="Oval_track")
    env.reset()
    assert set(INFO_KEYS) <= set(env.step(0)[3])
