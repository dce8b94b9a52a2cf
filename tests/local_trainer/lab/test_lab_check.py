"""``reward check``: every kind of finding, by real files in the real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from local_trainer.cli.reward import app
from local_trainer.errors import ConfigError, NotFound
from local_trainer.lab.check import CheckReport, Finding, check_reward

ROOT = Path(__file__).parents[3]
REWARDS = sorted(path for path in (ROOT / "rewards").glob("*.py") if path.stem != "__init__")


def write(folder: Path, text: str) -> Path:
    path = folder / "my_reward.py"
    path.write_text(text, encoding="utf-8")
    return path


def function(body: str, top: str = "") -> str:
    return f"{top}def reward_function(params):\n    {body}\n"


def checked(folder: Path, body: str, top: str = "") -> CheckReport:
    return check_reward(write(folder, function(body, top)), call_limit_s=0.3)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def only_error(report: CheckReport) -> Finding:
    assert len(report.errors) == 1, report.errors
    return report.errors[0]


def test_the_function_sees_no_secret_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_TRAINER_CONSOLE_PASSWORD", "s3cr3t")
    body = 'assert "s3cr3t" not in os.environ.values(); return 1.0'
    assert checked(tmp_path, body, "import os\n").errors == ()


# --- errors ----------------------------------------------------------------------------------

# Body of the function; kind, line and beginning of the error.
ERRORS = {
    "raises": ("return 1.0 / 0", "exception", 2, "raised ZeroDivisionError: float division"),
    "none": ("return None", "return", 2, "returned None; it must return a number"),
    "text": ("return 'fast'", "return", 2, "returned the text 'fast'"),
    "list": ("return [1.0]", "return", 2, "returned [1.0] (list); it must return a number"),
    "nan": ("return float('nan')", "return", 2, "returned NaN"),
    "infinite": ("return float('inf')", "return", 2, "returned inf"),
    "large": ("return -100001.0", "return", 2, "returned -100001; it must return a number within"),
    "hangs": ("while True: pass", "hang", 2, "did not return within 0.3 s"),
    "exits": ("exit(3)", "exit", 2, "ended the process with exit status 3"),
    "exits at once": ("import os; os._exit(4)", "exit", None, "ended the process with exit st"),
    "forks": ("import os; os.fork(); return 1.0", "process", 2, "must not start a process (os.f"),
    "shell": ("import os; os.system('true')", "process", 2, "must not start a process (os.system)"),
    "eats memory": ("return len(bytearray(6 * 2**30))", "exception", 2, "raised MemoryError"),
}


@pytest.mark.parametrize(("body", "kind", "line", "what"), ERRORS.values(), ids=ERRORS)
def test_what_a_call_does_wrong_is_told_with_line_place_and_parameters(
    tmp_path: Path, body: str, kind: str, line: int | None, what: str
) -> None:
    error = only_error(checked(tmp_path, body))
    assert (error.kind, error.line, error.what[: len(what)]) == (kind, line, what)
    assert "\n" not in error.what
    assert error.where == "reinvent_base: at the start"
    assert error.params is not None and error.params["steps"] == 1.0
    assert error.params["is_reversed"] is False


def test_an_error_in_some_poses_is_counted_and_shown_at_the_first(tmp_path: Path) -> None:
    report = checked(tmp_path, "return 1.0 if not params['is_offtrack'] else None")
    error = only_error(report)
    assert error.where == "reinvent_base: off the road on the left"
    assert error.params is not None and error.params["is_offtrack"] is True
    # Two poses of each of the four cars on each track are off the road.
    assert error.count == 2 * 4 * report.num_tracks
    assert report.num_calls == report.num_poses


def test_a_hang_with_objects_names_the_pose_and_keeps_what_the_text_told(tmp_path: Path) -> None:
    report = checked(
        tmp_path, "while params['is_crashed']: pass\n    return params.get('sped', 1.0)"
    )
    error = only_error(report)
    assert (error.kind, error.line) == ("hang", 2)
    assert error.where == "reinvent_base, with objects: near an object"
    assert [finding.what for finding in report.warnings] == [
        "there is no parameter 'sped'; did you mean 'speed'?"
    ]
    assert not report.is_console_complete and not report.is_leak_tested


LOADS = {
    "syntax": ("def reward_function(params)\n", "load", 1, "is not valid Python: expected ':'"),
    "no function": ("x = 1\n", "load", None, "must define reward_function(params)"),
    "raises": ("x = 1\ny = 1 / 0\n", "load", 2, "raised ZeroDivisionError"),
    "exits": ("import os\nos._exit(2)\n", "exit", None, "ended the process with exit status 2"),
    "forks": ("import os\nos.fork()\n", "load", 2, "must not start a process (os.fork)"),
    "nested": ("x = " + "-" * 100_000 + "1\n", "load", None, ""),
}


@pytest.mark.parametrize(("text", "kind", "line", "what"), LOADS.values(), ids=LOADS)
def test_a_file_that_cannot_be_loaded_is_one_error_and_a_refusal(
    tmp_path: Path, text: str, kind: str, line: int | None, what: str
) -> None:
    report = check_reward(write(tmp_path, text))
    error = only_error(report)
    assert (error.kind, error.line) == (kind, line)
    assert error.what.startswith(what) and "\n" not in error.what
    assert report.refusals and report.call_times is None


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No reward function file"):
        check_reward(tmp_path / "none.py")


def test_output_past_print_is_bounded_and_told(tmp_path: Path) -> None:
    report = checked(tmp_path, "os.write(1, b'x' * 10**7); return 1.0", "import os\n")
    assert any("writes past print: more than" in error.what for error in report.errors)


def test_much_printing_is_a_warning(tmp_path: Path) -> None:
    report = checked(tmp_path, "print('x' * 99_999); return 1.0")
    assert not report.errors
    assert [one.what.split(";")[0] for one in report.warnings] == [
        "prints 100,000 characters a call"
    ]


def test_nothing_is_left_running(tmp_path: Path) -> None:
    mark = f"60.{os.getpid()}"
    body = f"try: subprocess.Popen(['sleep', '{mark}'], start_new_session=True)\n"
    report = checked(
        tmp_path, body + "    except Exception: pass\n    return 1.0", "import subprocess\n"
    )
    error = only_error(report)
    assert (error.line, error.what) == (3, "must not start a process (subprocess.Popen)")
    running = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            running.append(path.read_bytes())
        except OSError:
            continue  # it has ended
    assert not [line for line in running if mark.encode() in line]
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    assert not children.exists() or children.read_text().strip() == ""


# --- parameters ------------------------------------------------------------------------------


def test_a_missing_parameter_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    report = checked(tmp_path, "return params['sped']")
    what = "raised KeyError: 'sped': there is no parameter 'sped'; did you mean 'speed'?"
    assert only_error(report).what == what
    assert not report.warnings


def test_unknown_and_deprecated_parameters_are_found_in_branches_and_helpers(
    tmp_path: Path,
) -> None:
    top = "def helper(given):\n    return given.get('heding', 0.0)\n\n\n"
    body = "if helper(params) > 1:\n        return params['on_track']\n    return params['speed']"
    report = checked(tmp_path, body, top)
    assert not report.errors
    assert [(one.line, one.what) for one in report.warnings] == [
        (2, "there is no parameter 'heding'; did you mean 'heading'?"),
        (7, "'on_track' is deprecated and no longer given: use 'all_wheels_on_track'"),
    ]
    assert report.parameters_read == ("speed",)


# --- state -----------------------------------------------------------------------------------

KEEPS_BEST = "best[0] = max(best[0], params['progress'])\n    return best[0]"
KEEPS_FIRST = (
    "global first, calls\n    calls += 1\n    if first is None:\n"
    "        first = params['waypoints'][0]\n    return float(params['x'] - first[0])"
)
KEEPS_STEP = (
    "if params['steps'] == 1.0:\n        last['progress'] = 0.0\n"
    "    gained = params['progress'] - last['progress']\n"
    "    last['progress'] = params['progress']\n"
    "    return float(gained)"
)
# Top and body; then the kind of leak, the global and the line in which it changes.
LEAKS = {
    "list": ("best = [0.0]\n", KEEPS_BEST, "after another episode", "the global best", 3),
    "dict": (
        "last = {'progress': 0.0}\n",
        KEEPS_STEP,
        "when the calls of two cars alternate",
        "the global last",
        4,
    ),
    "one of two": (
        "first = None\ncalls = 0\n",
        KEEPS_FIRST,
        "after driving another track or direction",
        "the global first",
        7,
    ),
    "attribute": (
        "",
        "reward_function.n = getattr(reward_function, 'n', 0) + 1\n"
        "    return float(reward_function.n)",
        "after another episode",
        "the defaults or attributes of reward_function",
        None,
    ),
}


@pytest.mark.parametrize(("top", "body", "when", "name", "line"), LEAKS.values(), ids=LEAKS)
def test_state_that_leaks_is_told_with_its_global(
    tmp_path: Path, top: str, body: str, when: str, name: str, line: int | None
) -> None:
    report = checked(tmp_path, body, top)
    assert not report.errors and report.is_leak_tested
    leak = next(one for one in report.warnings if one.kind == "leak")
    assert f"gives other values {when} through {name}" in leak.what
    assert leak.line == line
    if line is not None:
        assert f"{name} (changed in line {line}): " in leak.what
    assert "calls (changed" not in leak.what  # changes as well, but no value depends on it


def test_a_cache_that_changes_no_value_is_no_leak(tmp_path: Path) -> None:
    body = (
        "key = tuple(params['waypoints'][:2])\n    if key not in known:\n"
        "        known[key] = params['track_length']\n    return float(known[key])"
    )
    report = checked(tmp_path, body, "known = {}\n")
    assert not report.findings and report.is_leak_tested


def test_chance_is_told_as_such(tmp_path: Path) -> None:
    report = checked(tmp_path, "return random.random()", "import random\n")
    (leak,) = report.warnings
    assert "it uses chance, the clock or something outside the file" in leak.what


# --- time ------------------------------------------------------------------------------------


def test_times_and_the_slowest_line_are_measured(tmp_path: Path) -> None:
    body = "time.sleep(0.001)\n    return params['speed']"
    report = checked(tmp_path, body, "import time\n")
    times = report.call_times
    assert times is not None
    # It sleeps 1 ms; beyond that a busy machine takes what it likes.
    assert 1e-3 <= times.median_s <= times.p99_s <= times.max_s
    assert times.slowest_lines[0].line == 3
    assert times.slowest_lines[0].source == "time.sleep(0.001)"
    assert times.slowest_lines[0].share > 0.9


def test_a_slow_function_is_not_called_for_minutes(tmp_path: Path) -> None:
    start = time.monotonic()
    report = checked(tmp_path, "time.sleep(0.05); return 1.0", "import time\n")
    assert time.monotonic() - start < 20.0  # 716 calls alone would take 36 s
    texts = " ".join(one.what for one in report.warnings)
    assert "ms a call: no run can be faster than" in texts
    assert f"only {report.num_calls} of {report.num_poses} poses could be tried" in texts
    assert 15 <= report.num_calls < report.num_poses


# --- the whole -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", REWARDS, ids=lambda path: path.stem)
def test_shipped_rewards_pass_and_the_console_takes_them(path: Path) -> None:
    report = check_reward(path)
    assert not report.errors
    assert not report.refusals and report.is_console_complete
    assert report.num_calls == report.num_poses
    assert not [one for one in report.warnings if one.kind != "leak"]


def test_the_command_prints_the_report_and_fails_on_errors_only(tmp_path: Path) -> None:
    good = write(tmp_path, function("return float(params['speed'])"))
    result = invoke(good)
    assert result.exit_code == 0, result.output
    assert "0 errors, 0 warnings; the console takes it" in result.stdout
    refused = write(tmp_path, function("return 1"))
    result = invoke(refused)
    assert result.exit_code == 0
    assert "Would be refused by the console (1)" in result.stdout
    assert f"{refused}:2: must return a float, returns 1 (int)" in result.stdout
    assert invoke(refused, "--console").exit_code == 1
    result = invoke(write(tmp_path, function("return None")))
    assert result.exit_code == 1
    assert "returned None; it must return a number" in result.stdout
    assert "given x=" in result.stdout


def test_json_and_the_page_hold_the_report(tmp_path: Path) -> None:
    path = write(tmp_path, function("return params['<sped>']"))
    page = tmp_path / "page.html"
    result = invoke(path, "--json", "--html", page)
    assert result.exit_code == 1
    data: dict[str, Any] = json.loads(result.stdout)
    assert data["is_ok"] is False and data["page"] == str(page)
    assert data["findings"][0]["kind"] == "exception" and data["findings"][0]["line"] == 2
    assert data["findings"][0]["params"]["track_width"] == pytest.approx(0.762, abs=0.01)
    assert data["refusals"][0]["rule"] == "call-fails"
    html = page.read_text(encoding="utf-8")
    assert "raised KeyError: &#x27;&lt;sped&gt;&#x27;" in html
    assert "<sped>" not in html
    assert "http://" not in html and "https://" not in html


def test_a_page_of_another_kind_is_refused(tmp_path: Path) -> None:
    result = invoke(write(tmp_path, function("return 1.0")), "--html", tmp_path / "page.pdf")
    assert isinstance(result.exception, ConfigError)
    assert "--html must end in .html" in str(result.exception)


def test_help_starts_without_numpy() -> None:
    code = (
        "import sys; from local_trainer.cli.reward import check; "
        "sys.exit(any(name in sys.modules for name in ('numpy', 'numba', 'tensorflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
