"""How rewards order episodes: the reference order, the correlations and where rewards differ."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from local_trainer.bench.replay import record_run
from local_trainer.cli.reward import app as reward_app
from local_trainer.episodes import Episode
from local_trainer.errors import ConfigError
from local_trainer.lab.earnings import earnings, returns, short_names
from local_trainer.lab.rank import kendall, rank, reference_value, spearman
from local_trainer.lab.rank_page import report_data, write_rank_page
from local_trainer.lab.recordings import Recording
from sim.simulator import EpisodeStart
from sim.steps import STEP_DTYPE, EpisodeStatus
from sim.track_files import load_track

REWARDS = Path(__file__).parents[3] / "rewards"
TRACK = load_track("reinvent_base")
OTHER_TRACK = load_track("hairpins")


def episode(number: int, num_steps: int, progress: float, speed: float = 1.0) -> Episode:
    """Return an episode that ended at a progress; 100 finished its lap."""
    steps = np.zeros(num_steps, STEP_DTYPE)
    steps["steps"] = 1.0 + np.arange(num_steps)
    steps["sim_time"] = steps["steps"] / 15.0
    steps["progress"] = progress * steps["steps"] / num_steps
    steps["x"], steps["y"] = TRACK.center[np.arange(num_steps) % len(TRACK.center)].T
    steps["speed"] = speed
    steps["track_width"] = 1.0
    steps["next_waypoint"] = 1
    end = EpisodeStatus.LAP_COMPLETE if progress == 100.0 else EpisodeStatus.OFF_TRACK
    steps["status"][-1] = end
    steps["done"][-1] = True
    return Episode(
        start=EpisodeStart(number),
        phase="training",
        iteration=0,
        steps=steps,
        actions=np.zeros(num_steps, np.int32),
        rewards=np.zeros(num_steps),
        wall_clock=np.zeros(num_steps),
    )


def recording(episodes: list[Episode], name: str = "run", track=TRACK) -> Recording:
    return Recording(name, Path(name), track, episodes, "own run")


def mixed() -> list[Episode]:
    """Five laps, faster ones first, and seven failures, farther ones first."""
    laps = [episode(k, 20 + k, 100.0) for k in range(5)]
    return laps + [episode(5 + k, 30 - 2 * k, 70.0 - 10.0 * k) for k in range(7)]


def reward_file(folder: Path, name: str, body: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(f"def reward_function(params):\n    {body}\n", encoding="utf-8")
    return path


# Progress until the end, then what is left of a big bonus: exactly the reference order.
PERFECT = (
    "return 1e5 / params['steps'] if params['progress'] >= 100.0 "
    "else params['progress'] / params['steps'] * 1e-3"
)


def test_finished_laps_stand_above_unfinished_ones_and_faster_above_slower():
    fast, slow = episode(0, 100, 100.0), episode(1, 140, 100.0)
    far, near = episode(2, 300, 99.0), episode(3, 20, 5.0)
    values = [reference_value(e) for e in (fast, slow, far, near)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4
    # Two laps of equally many steps are equal, however the clock summed up.
    same = episode(4, 100, 100.0)
    same.steps["sim_time"][-1] += 1e-12
    assert reference_value(same) == reference_value(fast)


def test_earnings_are_sum_rate_and_discounted_return():
    rewards = np.array([1.0, 2.0, 4.0])
    earned = earnings(rewards, duration_s=0.5, discount=0.5)
    assert (earned.total, earned.per_second, earned.discounted) == (7.0, 14.0, 3.0)
    np.testing.assert_allclose(returns(rewards, 0.5), (3.0, 4.0, 4.0), rtol=0.0, atol=0.0)


def test_correlations_are_scipys_with_ties_and_on_resamples():
    random = np.random.default_rng(3)
    first = random.integers(0, 6, 40).astype(float)
    second = first + random.integers(0, 5, 40)
    draws = random.integers(40, size=(5, 40))
    counts = np.stack([np.bincount(draw, minlength=40) for draw in draws])
    taus = kendall(first, second, counts)
    rhos = spearman(first[draws], second[draws])
    for draw, tau, rho in zip(draws, taus, rhos, strict=True):
        assert tau == pytest.approx(kendalltau(first[draw], second[draw]).statistic, abs=1e-6)
        assert rho == pytest.approx(spearmanr(first[draw], second[draw]).statistic, abs=1e-12)
    assert np.isnan(spearman(np.ones((1, 4)), np.arange(4.0)[None])).all()
    assert np.isnan(kendall(np.ones(4), np.arange(4.0), np.ones((1, 4)))).all()


def test_a_perfect_reward_correlates_fully_and_its_opposite_not_at_all(tmp_path: Path):
    files = [
        reward_file(tmp_path, "perfect", PERFECT),
        reward_file(tmp_path, "worst", PERFECT.replace("return ", "return -1.0 * (") + ")"),
        reward_file(tmp_path, "constant", "return 0.0"),
    ]
    report = rank([recording(mixed())], files, discount=0.95, num_resamples=50)
    perfect, worst, constant = report.rewards
    assert perfect.agreement["total"].spearman.value == pytest.approx(1.0)
    assert perfect.agreement["total"].kendall.value == pytest.approx(1.0)
    assert perfect.agreement["total"].spearman.low == pytest.approx(1.0)
    assert (perfect.finished_above, perfect.laps_kendall) == (1.0, pytest.approx(1.0))
    assert worst.agreement["total"].spearman.value == pytest.approx(-1.0)
    assert (worst.finished_above, worst.laps_kendall) == (0.0, pytest.approx(-1.0))
    # A reward that orders nothing has no correlation, and ties count half.
    assert constant.agreement["total"].spearman.value is None
    assert constant.finished_above == 0.5
    assert (perfect.is_best_share, worst.is_best_share) == (1.0, 0.0)
    assert [e.index for e in report.episodes] == list(range(12))
    assert [e.places[0] for e in report.episodes] == [float(k) for k in range(1, 13)]


def test_intervals_repeat_with_the_seed_and_hold_the_value(tmp_path: Path):
    files = [reward_file(tmp_path, "steps", "return 1.0")]
    once, again, other = (
        rank([recording(mixed())], files, 0.95, seed=seed, num_resamples=200) for seed in (1, 1, 2)
    )
    found = once.rewards[0].agreement["total"].spearman
    assert found == again.rewards[0].agreement["total"].spearman
    assert found != other.rewards[0].agreement["total"].spearman
    assert found.low < found.value < found.high
    # By hand: the sum of the rewards is the number of steps.
    episodes = mixed()
    expected = spearmanr([reference_value(e) for e in episodes], [len(e.steps) for e in episodes])
    assert found.value == pytest.approx(expected.statistic)


def test_tracks_are_ranked_apart_and_combined_by_their_episodes(tmp_path: Path):
    # Right on one track with 12 episodes, wrong on the other with 24: (12 - 24) / 36.
    right = recording(mixed(), "right")
    wrong = recording([e for k in range(2) for e in mixed()], "wrong", OTHER_TRACK)
    body = PERFECT.replace(
        "return ", "sign = 1.0 if params['track_length'] < LENGTH else -1.0; return sign * ("
    )
    middle_m = 0.5 * (TRACK.length_m + OTHER_TRACK.length_m)
    file = reward_file(tmp_path, "half", body.replace("LENGTH", repr(middle_m)) + ")")
    assert TRACK.length_m < OTHER_TRACK.length_m
    report = rank([right, wrong], [file], 0.95, num_resamples=10)
    assert report.tracks == ("reinvent_base", "hairpins")
    assert report.rewards[0].agreement["total"].spearman.value == pytest.approx(-1.0 / 3.0)


def test_disputed_steps_are_where_one_reward_pays_and_the_other_does_not(tmp_path: Path):
    files = [
        reward_file(tmp_path, "late", "return params['steps']"),
        reward_file(tmp_path, "early", "return -params['steps']"),
        reward_file(tmp_path, "late_too", "return 2.0 * params['steps']"),
    ]
    report = rank([recording(mixed())], files, 0.95, num_resamples=10)
    assert report.step_spearman["late", "early"] == pytest.approx(-1.0)
    assert report.step_spearman["late", "late_too"] == pytest.approx(1.0)
    dispute = report.dispute
    assert dispute is not None
    assert (dispute.first, dispute.second) == ("late", "early")
    # Of all steps the last ones of the longest episode have the most extreme ranks.
    longest = max(mixed(), key=lambda e: len(e.steps))
    first = dispute.steps[0]
    assert (first.index, first.step) == (longest.index, len(longest.steps))
    assert first.values == (len(longest.steps), -len(longest.steps))
    assert len(dispute.maps[0].difference) == sum(len(e.steps) for e in mixed())


def test_what_cannot_be_ranked_is_refused_in_one_line(tmp_path: Path):
    file = reward_file(tmp_path, "one", "return 1.0")
    with pytest.raises(ConfigError, match="at least 10 episodes on reinvent_base, got 9"):
        rank([recording(mixed()[:9])], [file], 0.95)
    same = [episode(k, 20, 50.0) for k in range(10)]
    with pytest.raises(ConfigError, match="10 episodes on reinvent_base all ended the same"):
        rank([recording(same)], [file], 0.95)
    with pytest.raises(ConfigError, match="run twice"):
        rank([recording(mixed()), recording(mixed())], [file], 0.95)
    with pytest.raises(ConfigError, match=r"one\.py twice"):
        rank([recording(mixed())], [file, file], 0.95)
    with pytest.raises(ConfigError, match="--reward, got none"):
        rank([recording(mixed())], [], 0.95)


def test_reward_files_of_one_name_are_told_apart_by_their_folder():
    assert short_names([Path("/a/v1/r.py"), Path("/a/v2/r.py"), Path("/a/s.py")]) == [
        "v1/r",
        "v2/r",
        "s",
    ]


def test_report_becomes_a_page_and_plain_data(tmp_path: Path):
    files = [reward_file(tmp_path, "a<b", "return 1.0"), reward_file(tmp_path, "c", PERFECT)]
    report = rank([recording(mixed())], files, 0.95, num_resamples=20)
    write_rank_page(tmp_path / "rank.html", report)
    page = (tmp_path / "rank.html").read_text(encoding="utf-8")
    assert "a&lt;b" in page and "a<b" not in page
    assert page.count("data:image/png") == 1
    data = json.loads(json.dumps(report_data(report)))
    assert data["num_episodes"] == 12
    assert [reward["name"] for reward in data["rewards"]] == ["a<b", "c"]


def test_command_ranks_a_recorded_run(tmp_path: Path, capsys):
    record_run(tmp_path / "runs", 48)
    own = ["rank", "driven", "--runs-dir", str(tmp_path / "runs")]
    rewards = ["--reward", str(REWARDS / "default.py"), str(REWARDS / "speed.py")]
    assert not reward_app([*own, *rewards, "--json"], standalone_mode=False)
    data = json.loads(capsys.readouterr().out)
    _, speed = data["rewards"]
    assert speed["agreement"]["total"]["spearman"]["value"] > 0.5
    assert {episode["is_complete"] for episode in data["episodes"]} == {False, True}
    assert not reward_app([*own, "-o", str(tmp_path / "rank.png")], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "Best and worst episodes" in printed and "disagree" not in printed
    assert (tmp_path / "rank.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ConfigError, match="--discount must be"):
        reward_app([*own, "--discount", "2"], standalone_mode=False)
