"""The reward process: right numbers, and one line for everything a user's file can do wrong."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest

from local_trainer.errors import NotFound, RewardFunctionError
from local_trainer.reward import LOG_LIMIT_BYTES, RewardFunction, check_reward_file, trial_steps
from sim.reward_params import KEYS
from sim.track import Track
from sim.track_files import load_track

ROOT = Path(__file__).parents[2]
REWARDS = sorted(path for path in (ROOT / "rewards").glob("*.py") if path.stem != "__init__")


@pytest.fixture(scope="module")
def track() -> Track:
    return load_track("reinvent_base")


def write(folder: Path, text: str) -> Path:
    path = folder / "my_reward.py"
    path.write_text(text, encoding="utf-8")
    return path


def function(body: str) -> str:
    return f"def reward_function(params):\n    {body}\n"


def test_rewards_are_what_the_function_returns_for_each_step(tmp_path: Path, track: Track) -> None:
    body = 'return params["x"] + 10 * params["is_reversed"] + 100 * params["closest_waypoints"][1]'
    # More steps than one batch holds.
    steps = np.tile(trial_steps(track), 40)
    steps["is_reversed"][1::2] = True
    with RewardFunction(write(tmp_path, function(body)), track) as reward:
        rewards = reward.rewards(steps)
        assert reward.rewards(steps[:0]).shape == (0,)
    expected = steps["x"] + 10.0 * steps["is_reversed"] + 100.0 * steps["next_waypoint"]
    assert rewards.dtype == np.float64
    np.testing.assert_array_equal(rewards, expected)


def test_the_function_gets_every_parameter_and_the_waypoints_in_driving_direction(
    tmp_path: Path, track: Track
) -> None:
    text = (
        f"KEYS = {KEYS!r}\n"
        + function("assert tuple(params) == KEYS, tuple(params)")
        + '    return params["waypoints"][1][0]\n'
    )
    steps = trial_steps(track)[:2]
    steps["is_reversed"][1] = True
    with RewardFunction(write(tmp_path, text), track) as reward:
        forward, backward = reward.rewards(steps)
    assert (forward, backward) == (track.center[1, 0], track.center[-2, 0])


def test_globals_live_from_call_to_call(tmp_path: Path, track: Track) -> None:
    text = "calls = 0\n" + function("global calls; calls += 1; return calls")
    with RewardFunction(write(tmp_path, text), track) as reward:
        assert reward.rewards(trial_steps(track)[:3]).tolist() == [1.0, 2.0, 3.0]
        assert reward.rewards(trial_steps(track)[:1]).tolist() == [4.0]


def test_changing_the_parameters_does_not_reach_the_next_call(tmp_path: Path, track: Track) -> None:
    body = 'n = len(params["waypoints"]); params["waypoints"].clear(); return n'
    with RewardFunction(write(tmp_path, function(body)), track) as reward:
        rewards = reward.rewards(trial_steps(track))
    assert set(rewards) == {float(len(track.center))}


def test_the_function_sees_no_secret_of_the_environment(
    tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "LOCAL_TRAINER_CONSOLE_PASSWORD", "REDIS_PASSWORD"):
        monkeypatch.setenv(name, "s3cr3t")
    monkeypatch.setenv("MY_OWN_SETTING", "kept")
    text = "import os\n" + function(
        'return 100 * ("MY_OWN_SETTING" in os.environ) + [*os.environ.values()].count("s3cr3t")'
    )
    path = write(tmp_path, text)
    with RewardFunction(path, track) as reward:
        assert reward.rewards(trial_steps(track)[:1]).tolist() == [100.0]


@pytest.mark.parametrize("value", ["True", "3", "__import__('numpy').float32(0.5)", "-1e5"])
def test_every_kind_of_number_is_a_reward(tmp_path: Path, track: Track, value: str) -> None:
    check_reward_file(write(tmp_path, function(f"return {value}")), track)


# The second column is the line of the file that the message must name.
CALLS = {
    "raises": ("return 1 / 0", 2, "raised ZeroDivisionError: division by zero"),
    "unknown key": ('return params["sped"]', 2, "raised KeyError: 'sped'"),
    "none": ("pass", 1, "returned None; it must return a number"),
    "nan": ("return float('nan')", 1, "returned NaN"),
    "infinite": ("return 1e400", 1, "returned inf"),
    "text": ("return '1.0'", 1, "returned the text '1.0'; it must return a number"),
    "list": ("return [1]", 1, "returned [1] (list)"),
    "complex": ("return 1j", 1, "returned 1j (complex)"),
    "too large": ("return 2e5", 1, "returned 200000; it must return a number within +-1e5"),
    "hangs": ("while True: pass", 2, "did not return within 0.3 s"),
    "hangs in C": ("return sum(range(10**13))", 2, "did not return within 0.3 s"),
    "swallows": (
        "while True:\n        try: len('')\n        except BaseException: pass",
        None,
        "did not return within 0.3 s",
    ),
    "exits": ("raise SystemExit(3)", 2, "ended the process with exit status 3"),
    "exits at once": ("import os; os._exit(4)", None, "ended the process with exit status 4"),
    "is killed": ("import os; os.kill(os.getpid(), 9)", None, "was ended by signal SIGKILL"),
    "eats memory": ("return len(bytearray(6 * 2**30))", 2, "raised MemoryError"),
    "recurses": ("return reward_function(params)", 2, "raised RecursionError"),
}


@pytest.mark.parametrize(("body", "line", "says"), CALLS.values(), ids=CALLS)
def test_a_failing_call_is_one_line_with_place_and_parameters(
    tmp_path: Path, track: Track, body: str, line: int | None, says: str
) -> None:
    path = write(tmp_path, function(body))
    with pytest.raises(RewardFunctionError) as error:
        check_reward_file(path, track, time_limit_s=0.3)
    text = str(error.value)
    assert "\n" not in text
    assert f"reward_function {says}" in text
    assert text.startswith(f"{path}:{line}: " if line else f"{path}:")
    assert re.search(r"given progress=0, steps=1, x=\S+, y=\S+, heading=\S+, speed=1, ", text)
    assert error.value.params is not None and tuple(error.value.params) == KEYS


def test_the_parameters_are_those_of_the_call_that_failed(tmp_path: Path, track: Track) -> None:
    body = "return 1.0 if params['steps'] < 7 else None"
    with pytest.raises(RewardFunctionError) as error:
        check_reward_file(write(tmp_path, function(body)), track)
    assert error.value.params is not None and error.value.params["steps"] == 7.0


LOADS = {
    "syntax": ("x = 1\ndef reward_function(params)\n", ":2: is not valid Python: expected ':'"),
    "no function": ("x = 1\n", ": must define reward_function(params), got no reward_function"),
    "no callable": ("reward_function = 3\n", "got reward_function = 3"),
    "two parameters": (
        "def reward_function(a, b):\n    return 1\n",
        "reward_function must take one parameter, got reward_function(a, b)",
    ),
    "import": ("import nonesuch_module\n", ":1: raised ModuleNotFoundError: No module named"),
    "raises": ("x = 1\nraise ValueError('a\\nb')\n", ":2: raised ValueError: a b"),
    "exits": ("import os\nos._exit(2)\n", ": ended the process with exit status 2"),
    "hangs": ("while True: pass\n", ":1: did not finish loading within 0.3 s"),
}


@pytest.mark.parametrize(("text", "says"), LOADS.values(), ids=LOADS)
def test_a_file_that_cannot_be_loaded_is_one_line(
    tmp_path: Path, track: Track, text: str, says: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RewardFunctionError) as error:
        with RewardFunction(path, track, load_limit_s=0.3) as reward:
            reward.wait_until_loaded()
    assert str(path) in str(error.value) and says in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.params is None


def test_a_missing_file_is_not_found(tmp_path: Path, track: Track) -> None:
    with pytest.raises(NotFound, match="No reward function file"):
        check_reward_file(tmp_path / "none.py", track)


def test_a_slow_batch_is_fine_as_long_as_each_call_is_quick(tmp_path: Path, track: Track) -> None:
    text = "import time\n" + function("time.sleep(0.1); return 1.0")
    with RewardFunction(write(tmp_path, text), track, time_limit_s=1.0) as reward:
        assert reward.rewards(trial_steps(track)).tolist() == [1.0] * 20  # 2 s


def test_a_function_that_failed_once_can_be_called_again(tmp_path: Path, track: Track) -> None:
    steps = trial_steps(track)
    with RewardFunction(write(tmp_path, function('return 1 / (params["steps"] - 1)')), track) as f:
        with pytest.raises(RewardFunctionError):
            f.rewards(steps[:1])
        assert f.rewards(steps[1:3]).tolist() == [1.0, 0.5]


def test_prints_go_to_the_log_and_end_at_a_limit(tmp_path: Path, track: Track) -> None:
    log = tmp_path / "logs" / "reward.log"
    text = "import os\nprint('hello')\n" + function("print('x' * 100_000); return 1.0")
    with RewardFunction(write(tmp_path, text), track, log_path=log) as reward:
        assert reward.rewards(trial_steps(track)).tolist() == [1.0] * 20  # 2 MB of x
    written = log.read_text(encoding="utf-8")
    assert written.startswith("hello\n")
    assert written.endswith("output is left out)\n")
    assert len(written) < LOG_LIMIT_BYTES + 200


def test_closing_ends_the_process_and_what_it_started(tmp_path: Path, track: Track) -> None:
    text = "import subprocess\nsleeper = subprocess.Popen(['sleep', '60'])\n" + function(
        "return sleeper.pid"
    )
    with RewardFunction(write(tmp_path, text), track) as reward:
        pid = int(reward.rewards(trial_steps(track)[:1])[0])
        assert Path(f"/proc/{pid}").exists()
    deadline = time.monotonic() + 5.0
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _is_running(pid)
    reward.close()  # a second time does nothing


def _is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    # A killed process may stay as a zombie until its new parent looks.
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("path", REWARDS, ids=lambda path: path.stem)
def test_shipped_rewards_work_on_loops_and_open_tracks(path: Path, track: Track) -> None:
    for one in (track, load_track("Straight_track")):
        steps = np.tile(trial_steps(one), 2)
        steps["is_reversed"][20:] = True
        with RewardFunction(path, one) as reward:
            rewards = reward.rewards(steps)
        on_road, off_road = rewards[:10], rewards[10:20]
        assert on_road[1:].min() > off_road.max()


@pytest.mark.parametrize("path", REWARDS, ids=lambda path: path.stem)
def test_shipped_rewards_pass_the_consoles_rules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # Forbidden anywhere, comments included.
    for word in ("__import__", "load", "fromfile", "genfromtxt", "tofile", "save", "memmap"):
        assert word not in text, word
    assert set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)) <= {
        "math",
        "random",
        "numpy",
    }
    assert not re.search(r"^[ \t]+(import|from) ", text, re.MULTILINE)
    assert not re.search(r"\b(open|exec|eval|compile|input)\(", text)
    assert len(text) < 140_000
    # Keys the checker's own cases lack may only be read with a default.
    for key in ("projection_distance", "sim_time", "objects_distance_from_center"):
        assert f'params["{key}"]' not in text


@pytest.mark.parametrize("path", REWARDS, ids=lambda path: path.stem)
def test_shipped_rewards_return_true_floats_without_the_three_keys(
    path: Path, track: Track
) -> None:
    from local_trainer.reward_process import load_function
    from sim.reward_params import RewardParams

    function = load_function(path)
    for params in RewardParams(track).dicts(trial_steps(track)):
        for key in ("projection_distance", "sim_time", "objects_distance_from_center"):
            del params[key]
        params["waypoints"] = np.array(params["waypoints"])  # as the checker passes them
        assert type(function(params)) is float


def test_the_template_reads_every_parameter() -> None:
    text = (ROOT / "rewards" / "complex_reward.py").read_text(encoding="utf-8")
    for key in KEYS:
        assert f'"{key}"' in text, key
