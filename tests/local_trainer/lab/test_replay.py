import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from trace_writers import generation_log
from typer.testing import CliRunner

from local_trainer.bench.replay import record_run, traced_fraction
from local_trainer.bench.replay import run as bench_run
from local_trainer.cli.reward.replay import replay as replay_command
from local_trainer.cli.reward.replay import split_rewards
from local_trainer.errors import ConfigError, NotFound, RewardFunctionError
from local_trainer.lab.recordings import Recording, read_recording
from local_trainer.lab.replay import CSV_COLUMNS, correlation, replay, write_step_csv
from local_trainer.lab.replay_page import replay_page
from local_trainer.lab.replay_text import share_text
from sim.steps import EpisodeStatus

REWARDS = Path(__file__).parents[3] / "rewards"


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    record_run(path, 48)
    return path


@pytest.fixture(scope="module")
def own(runs_dir: Path) -> Recording:
    return read_recording("driven", runs_dir)


def write_reward(path: Path, body: str) -> Path:
    path.write_text(f"calls = 0\ndef reward_function(params):\n    global calls\n    {body}\n")
    return path


def test_own_reward_of_a_run_comes_out_bit_for_bit(own: Recording) -> None:
    assert {e.phase for e in own.episodes} == {"training", "evaluation"}
    assert {EpisodeStatus.LAP_COMPLETE, EpisodeStatus.OFF_TRACK} <= {e.status for e in own.episodes}
    result = replay(own)
    assert len(result.old) == own.num_steps
    assert result.old.tobytes() == result.new.tobytes()
    assert result.exact_fraction == 1.0
    assert result.is_own_reward


def test_own_reward_that_counts_its_calls_comes_out_bit_for_bit(tmp_path: Path) -> None:
    file = write_reward(
        tmp_path / "counts.py", "calls += 1; return calls * 1e-3 + params['progress'] / 7.0"
    )
    record_run(tmp_path, 24, reward_file=file)
    recording = read_recording("driven", tmp_path)
    # Episodes are not recorded in the order in which they were judged.
    ends = [e.wall_clock[-1] for e in recording.episodes]
    assert ends != sorted(ends)
    assert replay(recording).exact_fraction == 1.0


def test_one_different_bit_is_seen(own: Recording) -> None:
    episode = own.episodes[0]
    rewards = episode.rewards.copy()
    rewards[0] = np.nextafter(rewards[0], 2.0)
    changed = replace(own, episodes=[replace(episode, rewards=rewards), *own.episodes[1:]])
    result = replay(changed)
    assert result.exact_fraction == pytest.approx(1.0 - 1.0 / own.num_steps, abs=1e-12)
    assert result.within_fraction == 1.0


def test_other_reward_is_what_it_says(own: Recording, tmp_path: Path) -> None:
    file = write_reward(tmp_path / "speed.py", "return params['speed']")
    result = replay(own, file)
    for episode, rewards in zip(own.episodes, result.rewards, strict=True):
        assert np.array_equal(rewards, episode.steps["speed"])
    figures = result.figures()
    speeds = [episode.steps["speed"].sum() for episode in own.episodes]
    assert figures["replayed_per_episode"] == pytest.approx(np.mean(speeds))
    assert figures["recorded_per_step"] == pytest.approx(
        sum(e.rewards.sum() for e in own.episodes) / own.num_steps
    )
    assert not figures["is_own_reward"]
    assert len(figures["totals"]) == len(own.episodes)


def test_constant_reward_has_no_correlation(own: Recording, tmp_path: Path) -> None:
    assert replay(own, write_reward(tmp_path / "one.py", "return 1.0")).step_correlation is None
    line = np.arange(5.0)
    assert correlation(line, 3.0 * line + 1.0) == pytest.approx(1.0)
    assert correlation(line, -line) == pytest.approx(-1.0)
    assert correlation(line[:1], line[:1]) is None


def test_trace_of_an_own_run_gives_nearly_all_rewards(own: Recording, tmp_path: Path) -> None:
    for name in ("default.py", "complex_reward.py"):
        assert traced_fraction(own, REWARDS / name, tmp_path) >= 0.999


def test_trace_log_replays_its_recorded_rewards(own: Recording, tmp_path: Path) -> None:
    training = [e for e in own.episodes if e.phase == "training"]
    path = tmp_path / "a.log"
    path.write_text(generation_log(training, own.track, 18))
    result = replay(read_recording(path), REWARDS / "default.py")
    assert result.within_fraction is not None
    assert result.within_fraction >= 0.999


def test_steps_that_cannot_be_compared_are_judged_but_not_counted(own: Recording) -> None:
    masks = [np.arange(len(e.steps)) % 2 == 0 for e in own.episodes]
    result = replay(replace(own, comparable=masks))
    assert len(result.old) == sum(mask.sum() for mask in masks)
    assert sum(map(len, result.rewards)) == own.num_steps
    nothing = replay(replace(own, comparable=[np.zeros_like(mask) for mask in masks]))
    assert nothing.exact_fraction is nothing.within_fraction is nothing.step_correlation is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", "raised ZeroDivisionError"),
        ("return float('nan')", "returned NaN"),
        ("raise SystemExit(3)", "ended the process with exit status 3"),
    ],
)
def test_failing_reward_is_one_line(
    own: Recording, tmp_path: Path, body: str, message: str
) -> None:
    file = write_reward(tmp_path / "bad.py", body)
    with pytest.raises(RewardFunctionError, match=message) as caught:
        replay(own, file)
    assert "\n" not in str(caught.value)


def test_reward_that_never_returns_ends_the_replay(own: Recording, tmp_path: Path) -> None:
    file = write_reward(tmp_path / "hangs.py", "\n    while True: pass")
    with pytest.raises(RewardFunctionError, match="did not return within"):
        replay(own, file)


def test_recording_without_a_reward_needs_one(own: Recording) -> None:
    with pytest.raises(ConfigError, match="name one with --reward FILE"):
        replay(replace(own, reward_file=None))
    with pytest.raises(NotFound, match="No reward function file"):
        replay(own, Path("nowhere.py"))


def test_step_csv_holds_every_step_exactly(own: Recording, tmp_path: Path) -> None:
    result = replay(own, REWARDS / "complex_reward.py")
    write_step_csv(tmp_path / "steps.csv", [result])
    with (tmp_path / "steps.csv").open() as file:
        heading, *rows = csv.reader(file)
    assert tuple(heading) == CSV_COLUMNS
    assert len(rows) == own.num_steps
    assert [float(row[-1]) for row in rows] == np.concatenate(result.rewards).tolist()
    assert [float(row[-2]) for row in rows] == [r for e in own.episodes for r in e.rewards]


def test_page_is_one_file_with_its_pictures(own: Recording) -> None:
    html = replay_page([replay(own), replay(own, REWARDS / "complex_reward.py")]).html()
    assert html.count('src="data:image/png;base64,') == 3  # one episode, and one a reward
    assert "http" not in html.replace("http-equiv", "")
    assert "equal bit for bit" in html
    assert "complex_reward.py" in html


def test_python_files_among_the_runs_are_rewards() -> None:
    given = split_rewards(["run", "b.py", "logs.tar.gz", "c.py"], [Path("a.py")])
    assert given == (["run", "logs.tar.gz"], [Path("a.py"), Path("b.py"), Path("c.py")])
    with pytest.raises(ConfigError, match="at least one run"):
        split_rewards(["a.py"], [])


def test_command_replays_every_run_with_every_reward(
    runs_dir: Path, own: Recording, tmp_path: Path
) -> None:
    log = tmp_path / "a.log"
    log.write_text(generation_log(own.episodes[:4], own.track, 17))
    app = typer.Typer()
    app.command()(replay_command)
    output = ["--output", str(tmp_path / "o.csv")]
    rewards = ["--reward", str(REWARDS / "default.py"), str(REWARDS / "complex_reward.py")]
    result = CliRunner().invoke(
        app, ["driven", str(log), *rewards, "--runs-dir", str(runs_dir), "--json", *output]
    )
    assert result.exit_code == 0, result.output
    answer = json.loads(result.output)
    assert [one["kind"] for one in answer["recordings"]] == ["own run", "trace log"]
    assert answer["recordings"][1]["agreement"]["closest_waypoint"]["share"] > 0.99
    pairs = [(one["recording"], Path(one["reward_file"]).name) for one in answer["replays"]]
    assert pairs == [
        ("driven", "default.py"),
        ("driven", "complex_reward.py"),
        ("a.log", "default.py"),
        ("a.log", "complex_reward.py"),
    ]
    assert answer["replays"][0]["exact_fraction"] == 1.0
    assert (tmp_path / "o.csv").exists()


def test_command_prints_a_table_and_writes_a_page(runs_dir: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(replay_command)
    page = tmp_path / "o.html"
    table = CliRunner().invoke(app, ["driven", "--runs-dir", str(runs_dir), "--html", str(page)])
    assert "100 %" in table.output
    assert f"Written: {page}" in table.output
    assert "Reward replay" in page.read_text()


def test_only_all_of_them_are_100_percent() -> None:
    assert share_text(1.0) == "100 %"
    assert share_text(0.999999) == "99.99 %"
    assert share_text(0.5) == "50.00 %"
    assert share_text(None) == "–"


def test_bench_measures_a_run_it_drives() -> None:
    figures = bench_run(num_episodes=16, rounds=1)
    assert figures["exact_fraction"] == 1.0
    assert figures["exact_fraction_csv"] >= 0.999
    assert figures["steps_per_second"] > 0
