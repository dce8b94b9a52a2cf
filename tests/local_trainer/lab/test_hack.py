"""Attacks find the traps of bad rewards, and none in good ones, in the real simulator."""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from local_trainer.actions import default_action_space
from local_trainer.cli.reward import app as reward_app
from local_trainer.errors import ConfigError, RewardFunctionError
from local_trainer.lab.earnings import Earnings
from local_trainer.lab.figures.hack import write_hack_plot
from local_trainer.lab.hack import (
    Drive,
    HackReport,
    attack,
    excess,
    grade,
    report_data,
    sentence,
    shown_findings,
)
from local_trainer.lab.hack_page import share_text, write_hack_page
from sim.track_files import load_track

ROOT = Path(__file__).parents[3]
TRACK = load_track("reinvent_base")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """Return a function that attacks a reward, given its body, without a search."""
    folder = tmp_path_factory.mktemp("rewards")

    @lru_cache
    def attack_body(body: str, profile: str = "fast") -> HackReport:
        path = folder / f"r{abs(hash(body))}.py"
        path.write_text(f"def reward_function(params):\n    {body}\n", encoding="utf-8")
        return attack(path, TRACK, profile=profile, seconds=0.0)

    return attack_body


def found(report: HackReport, name: str) -> Drive:
    return next(one for one in report.drives if one.name == name)


def test_slowness_that_pays_is_a_severe_trap(attacked):
    report = attacked("return 5.0 - params['speed']")
    assert report.is_severe
    crawling = found(report, "crawling")
    # 500 steps at 0.1 m/s, 4.9 each.
    assert crawling.earned.total == pytest.approx(2450.0)
    assert crawling.earned.per_second == pytest.approx(15.0 * 4.9)
    assert crawling.grade == found(report, "standing still").grade == "severe"


def test_pay_per_step_favours_long_episodes_but_pulls_only_a_far_sighted_learner(attacked):
    body = "return 1.0 if params['all_wheels_on_track'] else 1e-3"
    fast = attacked(body)
    assert not fast.is_severe
    assert found(fast, "crawling").grade == "moderate"
    assert found(fast, "crawling").earned.total == pytest.approx(500.0)
    assert found(fast, "slow lap").grade == "mild"
    # The service's discount factor of 0.999 looks over a minute ahead, and its cap is far off:
    # crawling even gets round.
    cloud = attacked(body, "cloud")
    assert found(cloud, "crawling").is_complete
    assert found(cloud, "crawling").grade == "severe"


def test_bare_speed_pays_most_to_those_who_leave_the_road(attacked):
    report = attacked("return float(params['speed'])")
    flat_out = found(report, "flat out")
    assert flat_out.grade == "note"
    assert flat_out.earned.per_second == pytest.approx(60.0)
    assert flat_out.more["per_second"] > 0.25 and flat_out.more["total"] < 0.0


def test_time_penalty_without_a_price_for_leaving_makes_crashing_pay(attacked):
    report = attacked("return -1.0")
    crash = found(report, "circling at full speed")
    assert crash.grade == "severe"
    assert crash.earned.total == -len(crash.episode.steps)


def test_centre_line_reward_is_reported_as_it_is_and_no_worse():
    report = attack(ROOT / "rewards/default.py", TRACK, seconds=0.0)
    # True: slow laps and crawling earn more an episode. But no step pulls there.
    assert found(report, "crawling").grade == "moderate"
    assert found(report, "centre line at 50 %").grade == "mild"
    assert not report.is_severe


def test_reward_for_progress_has_no_trap():
    report = attack(ROOT / "rewards/speed.py", TRACK, seconds=0.0)
    assert [one.name for one in report.findings if one.grade != "note"] == []
    assert report.yardsticks[0].name.startswith("racing line")


def test_bar_is_the_better_yardstick_and_yardsticks_are_never_findings(attacked):
    report = attacked("return 5.0 - params['speed']")
    assert report.bar.total == max(one.earned.total for one in report.yardsticks)
    assert all(one.is_complete and one.is_clean for one in report.yardsticks)
    assert all(one.grade is None for one in report.yardsticks)
    names = [one.name for one in report.drives]
    assert not set(names) & {one.name for one in report.yardsticks}


@pytest.mark.slow
def test_search_finds_a_trap_that_no_scripted_driver_stands_for(tmp_path: Path):
    # Pays for one distance from the centre line at one speed.
    path = tmp_path / "narrow.py"
    path.write_text(
        "def reward_function(params):\n"
        "    is_there = abs(params['distance_from_center'] - 0.3) < 0.06\n"
        "    return 1.0 if is_there and params['speed'] < 0.5 else 0.01\n",
        encoding="utf-8",
    )
    once = attack(path, TRACK, num_rounds=4, seed=1)
    again = attack(path, TRACK, num_rounds=4, seed=1)
    assert once.num_searched == again.num_searched == 4 * 24
    assert [(d.name, d.earned) for d in once.drives] == [(d.name, d.earned) for d in again.drives]
    best = max(once.drives, key=lambda d: d.earned.total)
    assert best.name.startswith("search: ") and best.grade == "severe"
    scripted = [d.earned.total for d in once.drives if not d.name.startswith("search: ")]
    assert best.earned.total > 1.5 * max(scripted)


def test_grades_follow_lap_and_measure():
    def more(total: float, per_second: float, discounted: float) -> dict:
        return {"total": total, "per_second": per_second, "discounted": discounted}

    assert grade(more(2.0, 0.0, 0.5), gets_round=False) == "severe"
    assert grade(more(2.0, 0.1, 0.1), gets_round=False) == "moderate"
    assert grade(more(2.0, 0.5, 0.5), gets_round=True) == "mild"
    assert grade(more(-0.5, 0.5, 0.0), gets_round=False) == "note"
    assert grade(more(0.005, 0.1, 0.1), gets_round=True) is None
    assert grade(more(-0.1, 0.1, 0.0), gets_round=False) is None


def test_excess_is_a_share_of_the_bar_s_size_whatever_its_sign():
    bar = Earnings(-100.0, -10.0, 4.0)
    assert excess(Earnings(-50.0, -15.0, 5.0), bar) == {
        "total": 0.5,
        "per_second": -0.5,
        "discounted": 0.25,
    }
    assert [share_text(share) for share in (0.5, -0.001, 12.0, 1e6)] == [
        "+50 %",
        "+0 %",
        "x 13",
        "x > 10,000",
    ]


def test_drivers_held_to_a_model_s_actions_cannot_crawl(attacked, tmp_path: Path):
    path = tmp_path / "slow.py"
    path.write_text("def reward_function(params):\n    return 5.0 - params['speed']\n")
    report = attack(path, TRACK, seconds=0.0, actions=default_action_space())
    assert {s for one in report.drives for s in set(one.episode.steps["speed"])} == {1.0, 2.0}
    assert found(report, "crawling").earned.total < 2450.0


def test_reversed_direction_drives_against_the_rows(tmp_path: Path):
    path = tmp_path / "way.py"
    path.write_text("def reward_function(params):\n    return float(params['is_reversed'])\n")
    report = attack(path, TRACK, is_reversed=True, seconds=0.0)
    assert report.bar.per_second == pytest.approx(15.0)
    assert all(one.is_complete for one in report.yardsticks)


def test_open_track_has_yardsticks_too(tmp_path: Path):
    path = tmp_path / "one.py"
    path.write_text("def reward_function(params):\n    return 1.0\n")
    report = attack(path, load_track("Straight_track"), seconds=0.0)
    assert report.yardsticks
    # A lap of two seconds ends within sight of the discount factor: not finishing pays.
    assert found(report, "crawling").grade == "severe"


def test_failing_function_and_wrong_numbers_are_one_line(tmp_path: Path):
    path = tmp_path / "bad.py"
    path.write_text("def reward_function(params):\n    return params['nothing']\n")
    with pytest.raises(RewardFunctionError, match=r"bad\.py:2"):
        attack(path, TRACK, seconds=0.0)
    for settings, match in (
        ({"start_fraction": 1.0}, "--start must be"),
        ({"seconds": -1.0}, "--seconds must be"),
        ({"discount": 1.5}, "discount_factor"),
        ({"max_steps": 5}, "max_steps"),
    ):
        with pytest.raises(ConfigError, match=match):
            attack(path, TRACK, **settings)
    path.write_text("def reward_function(params):\n    return 1.0\n")
    with pytest.raises(ConfigError, match="No driver finishes a lap"):
        attack(path, TRACK, max_steps=20, seconds=0.0)


def test_report_becomes_text_picture_page_and_plain_data(attacked, tmp_path: Path):
    report = attacked("return 5.0 - params['speed']")
    shown = shown_findings(report)
    assert shown[0].grade == "severe" and len(shown) <= 5
    assert "2450 per episode" in sentence(found(report, "crawling"), report.bar)
    write_hack_plot(tmp_path / "hack.png", report)
    assert (tmp_path / "hack.png").read_bytes()[:4] == b"\x89PNG"
    write_hack_page(tmp_path / "hack.html", report)
    page = (tmp_path / "hack.html").read_text(encoding="utf-8")
    assert "crawling" in page and page.count("data:image/png") == 1
    data = json.loads(json.dumps(report_data(report)))
    assert data["is_severe"] and data["findings"][0]["grade"] == "severe"
    assert np.isclose(data["clean_fast_lap"]["total"], report.bar.total)


def test_command_prints_findings_and_fails_where_asked(tmp_path: Path, capsys):
    path = tmp_path / "slow.py"
    path.write_text("def reward_function(params):\n    return 5.0 - params['speed']\n")
    command = ["hack", str(path), "--seconds", "0"]
    assert reward_app([*command, "--fail", "--json"], standalone_mode=False) == 1
    assert json.loads(capsys.readouterr().out)["is_severe"] is True
    assert not reward_app([*command, "--html", str(tmp_path / "p.html")], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "severe: crawling" in printed and f"Written: {tmp_path / 'p.html'}" in printed
    with pytest.raises(ConfigError, match=r"--output must end in \.png"):
        reward_app([*command, "-o", "x.jpg"], standalone_mode=False)
