"""Runs side by side: the verdict by its rule, what differs, curves, and the page."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from driven import oval, write_run

from local_trainer.cli.main import run as run_cli
from local_trainer.compare.comparing import compare
from local_trainer.compare.comparison import Comparison, Verdict, Way
from local_trainer.compare.laps import _CODE, _ROOT, Conditions, keep
from local_trainer.compare.models import find_models
from local_trainer.compare.page import build_page
from local_trainer.compare.training import learning_curve
from local_trainer.errors import ConfigError, NotFound
from local_trainer.evaluation import EvaluationReport, Trial, write_report
from local_trainer.history import read_history
from local_trainer.progress import EpisodeEvent, EvaluationEvent, PhaseEvent, ProgressLog
from local_trainer.runs import Run

CONDITIONS = Conditions("t", "asphalt", 0, 20, 0.1, "e", "s", "", "c")
CHECKPOINT = "2_Step-600.ckpt"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run of three iterations; its files are copied, not changed."""
    return write_run(tmp_path_factory.mktemp("driven") / "one", oval())


@pytest.fixture
def runs_dir(tmp_path: Path, finished: Run) -> Path:
    """Return a folder with the runs ``one`` and ``two``, each with one checkpoint."""
    for name in ("one", "two"):
        add_run(tmp_path, finished, name)
    return tmp_path


def add_run(runs_dir: Path, finished: Run, name: str, checkpoint: str = CHECKPOINT) -> Run:
    run = Run(runs_dir / name)
    shutil.copytree(finished.path, run.path)
    run.write_status(replace(run.read_status(), run=name, job_name=name))
    add_checkpoint(run, checkpoint)
    return run


def add_checkpoint(run: Run, name: str) -> None:
    run.model_dir.mkdir(exist_ok=True)
    for suffix in (".index", ".meta", ".data-00000-of-00001"):
        (run.model_dir / f"{name}{suffix}").touch()


def trials(completed: int, lap_s: float, count: int = 20, spread_s: float = 0.5) -> list[Trial]:
    """Return laps of which the first ones are complete, with times around ``lap_s``."""
    return [
        Trial(
            trial=k + 1,
            status="lap_complete" if k < completed else "off_track",
            completion_percentage=100.0 if k < completed else 40.0,
            elapsed_time_s=lap_s + spread_s * (-1) ** k,
            off_tracks=0,
            resets=0,
            reward=1.0,
            start_fraction=k / count,
            is_reversed=k % 2 == 1,
        )
        for k in range(count)
    ]


def drive(
    runs_dir: Path,
    name: str,
    found: list[Trial],
    conditions: Conditions | None = CONDITIONS,
    checkpoint: str = CHECKPOINT,
) -> None:
    run = Run(runs_dir / name)
    report = EvaluationReport(name, checkpoint, True, 0.1, tuple(found))
    if conditions is None:
        write_report(report, run.path / "evaluation-20260102030405" / "report.json")
    else:
        keep(run, report, conditions)


def compared(runs_dir: Path, *names: str, way: Way = "both") -> Comparison:
    models = find_models(names or ("one", "two"), runs_dir)
    return compare(models, runs_dir, way)


def verdict_of(runs_dir: Path, *names: str) -> Verdict:
    (verdict,) = compared(runs_dir, *names).verdicts
    return verdict


# The verdict.


def test_more_complete_laps_win_over_faster_ones(runs_dir: Path) -> None:
    drive(runs_dir, "one", trials(20, lap_s=15.0))
    drive(runs_dir, "two", trials(6, lap_s=9.0))
    verdict = verdict_of(runs_dir)
    assert (verdict.kind, verdict.run, verdict.checkpoint) == ("send", "one", 2)
    assert verdict.sentence == (
        "Send one@2 to the car: 20 of 20 robust laps complete, mean lap 15.00 s; "
        "that is clearly more than two@2 (6 of 20)."
    )
    export = f"local-trainer export car one@2 --runs-dir {runs_dir}"
    assert verdict.commands == [("Pack it for the car", export)]


def test_among_equally_complete_the_clearly_faster_one_wins(runs_dir: Path) -> None:
    drive(runs_dir, "one", trials(20, lap_s=10.0))
    drive(runs_dir, "two", trials(20, lap_s=9.5))
    verdict = verdict_of(runs_dir)
    assert (verdict.kind, verdict.run) == ("send", "two")
    assert "it is clearly faster than one@2 (20 of 20), by 0.50 s a lap." in verdict.sentence


def test_a_clearly_faster_one_overtakes_one_that_is_barely_more_complete(runs_dir: Path) -> None:
    drive(runs_dir, "one", trials(20, lap_s=10.0))
    drive(runs_dir, "two", trials(19, lap_s=9.0))
    assert (verdict_of(runs_dir).kind, verdict_of(runs_dir).run) == ("send", "two")


def test_speed_does_not_make_up_for_two_more_lost_laps(runs_dir: Path) -> None:
    drive(runs_dir, "one", trials(20, lap_s=10.0))
    drive(runs_dir, "two", trials(17, lap_s=9.0))
    verdict = verdict_of(runs_dir)
    # McNemar: three of three that differ, p = 0.25; so the doubt stays, and is told.
    assert (verdict.kind, verdict.run) == ("no clear difference", "one")
    assert "two@2 is faster, by 1.00 s a lap, but completed fewer (17 of 20)" in verdict.sentence


def test_what_does_not_differ_clearly_is_said_to(runs_dir: Path) -> None:
    drive(runs_dir, "one", trials(18, lap_s=10.0))
    drive(runs_dir, "two", [*trials(18, lap_s=10.0)[::-1]])
    verdict = verdict_of(runs_dir)
    assert verdict.kind == "no clear difference"
    assert "no clear difference from" in verdict.sentence
    assert verdict.commands[1][1].endswith("--evaluate --trials 80")


def test_laps_of_a_pair_are_compared_one_by_one_only_if_driven_alike(runs_dir: Path) -> None:
    one = trials(20, lap_s=10.0, spread_s=3.0)
    drive(runs_dir, "one", one)
    drive(runs_dir, "two", [replace(t, elapsed_time_s=t.elapsed_time_s - 0.2) for t in one])
    (difference,) = compared(runs_dir).differences
    assert difference.is_paired and difference.num_lap_pairs == 20
    assert difference.is_lap_clear
    assert difference.lap_s is not None
    assert difference.lap_s.estimate == pytest.approx(0.2)
    shutil.rmtree(next((runs_dir / "two").glob("evaluation-*")))
    drive(
        runs_dir,
        "two",
        [replace(t, elapsed_time_s=t.elapsed_time_s - 0.2) for t in one],
        replace(CONDITIONS, seed=1),
    )
    comparison = compared(runs_dir)
    assert not comparison.differences[0].is_paired
    assert not comparison.differences[0].is_lap_clear
    assert any("not lap by lap" in note for note in comparison.notes)


def test_conditions_that_all_share_are_preferred_to_newer_laps(runs_dir: Path) -> None:
    for name in ("one", "two"):
        drive(runs_dir, name, trials(20, lap_s=10.0))
    drive(runs_dir, "two", trials(3, lap_s=10.0), replace(CONDITIONS, seed=1))
    completed = [one.laps.completed for one in compared(runs_dir).candidates if one.laps]
    assert completed == [20, 20]


def test_without_a_complete_lap_nothing_is_sent(runs_dir: Path) -> None:
    for name in ("one", "two"):
        drive(runs_dir, name, trials(0, lap_s=10.0))
    verdict = verdict_of(runs_dir)
    assert verdict.kind == "not ready"
    assert "None is ready for the car" in verdict.sentence
    assert not any("export" in command for _, command in verdict.commands)


def test_a_weak_winner_is_called_weak(runs_dir: Path) -> None:
    drive(runs_dir, "one", trials(9, lap_s=10.0))
    drive(runs_dir, "two", trials(0, lap_s=10.0))
    assert verdict_of(runs_dir).sentence.endswith("train on before you trust it.")


def test_without_robust_laps_of_all_nothing_is_settled(runs_dir: Path) -> None:
    drive(runs_dir, "one", trials(20, lap_s=10.0))
    verdict = verdict_of(runs_dir)
    assert verdict.kind == "not settled"
    assert verdict.sentence.startswith("Not settled: two has no robust laps yet")
    assert verdict.commands[0][1] == (
        f"local-trainer runs compare one two --runs-dir {runs_dir} --evaluate"
    )


def test_what_looked_best_in_training_is_named_while_nothing_is_settled(
    runs_dir: Path,
) -> None:
    add_checkpoint(Run(runs_dir / "two"), "9_Step-900.ckpt")
    log = ProgressLog(Run(runs_dir / "two").progress_file)
    log.write(EvaluationEvent(9, "9_Step-900.ckpt", 5, 5, 100.0, 9.5, 9.7, True))
    log.close()
    verdict = verdict_of(runs_dir, "one", "two@9")
    assert verdict.sentence.endswith("two@9 looked best: 5 of 5 laps complete, best 9.50 s.")
    assert (verdict.run, verdict.checkpoint) == ("two", 9)


def test_runs_on_different_tracks_get_a_verdict_each(
    runs_dir: Path, finished: Run, tmp_path: Path
) -> None:
    other = write_run(tmp_path / "wide", oval(straight_m=5.0), iterations=1, per_iteration=1)
    add_checkpoint(other, CHECKPOINT)
    drive(runs_dir, "one", trials(20, lap_s=10.0))
    drive(runs_dir, "wide", trials(20, lap_s=9.0))
    comparison = compared(runs_dir, "one", "wide")
    assert [verdict.kind for verdict in comparison.verdicts] == ["alone", "alone"]
    assert [verdict.run for verdict in comparison.verdicts] == ["one", "wide"]
    assert comparison.differences == []
    assert any("different tracks" in note for note in comparison.notes)


def test_a_run_without_checkpoint_does_not_hinder_the_others(runs_dir: Path) -> None:
    drive(runs_dir, "one", trials(20, lap_s=10.0))
    shutil.rmtree(runs_dir / "two" / "model")
    comparison = compared(runs_dir)
    assert comparison.verdicts[0].kind == "alone"
    assert comparison.verdicts[0].run == "one"
    assert "has no checkpoint yet" in comparison.runs[1].notes


def test_two_checkpoints_of_one_run_compare(runs_dir: Path) -> None:
    add_checkpoint(Run(runs_dir / "one"), "7_Step-900.ckpt")
    drive(runs_dir, "one", trials(4, lap_s=10.0))
    drive(runs_dir, "one", trials(20, lap_s=10.0), checkpoint="7_Step-900.ckpt")
    verdict = verdict_of(runs_dir, "one@2", "one@last")
    assert (verdict.kind, verdict.run, verdict.checkpoint) == ("send", "one", 7)


def test_a_checkpoint_of_the_same_run_that_does_as_well_leaves_no_doubt_about_the_run(
    runs_dir: Path,
) -> None:
    add_checkpoint(Run(runs_dir / "one"), "7_Step-900.ckpt")
    drive(runs_dir, "one", trials(20, lap_s=10.0))
    drive(runs_dir, "one", trials(19, lap_s=10.0), checkpoint="7_Step-900.ckpt")
    drive(runs_dir, "two", trials(1, lap_s=10.0))
    verdict = verdict_of(runs_dir)
    assert (verdict.kind, verdict.run, verdict.checkpoint) == ("send", "one", 2)
    assert verdict.sentence.endswith(
        "that is clearly more than two@2 (1 of 20). one@7 of the same run does about as well."
    )


def test_laps_of_a_checkpoint_that_is_gone_do_not_count(runs_dir: Path) -> None:
    for name in ("one", "two"):
        drive(runs_dir, name, trials(10, lap_s=10.0))
    drive(runs_dir, "one", trials(20, lap_s=10.0), checkpoint="1_Step-300.ckpt")
    assert [one.number for one in compared(runs_dir).candidates] == [2, 2]


def test_one_way_counts_the_laps_of_that_way_alone(runs_dir: Path) -> None:
    ahead = [replace(t, status="off_track") if t.is_reversed else t for t in trials(20, 9.0)]
    drive(runs_dir, "one", ahead)
    drive(runs_dir, "two", trials(20, lap_s=10.0))
    both = compared(runs_dir)
    assert both.verdicts[0].run == "two"
    assert "Of forward laps alone, one@2 would be sent: --way forward." in both.notes
    (verdict,) = compared(runs_dir, way="forward").verdicts
    assert verdict.run == "one"
    assert "10 of 10 robust laps" in verdict.sentence


def test_of_a_run_with_several_tracks_the_first_one_counts(runs_dir: Path) -> None:
    both = [
        replace(trial, track=track, status=trial.status if track == "oval" else "off_track")
        for trial in trials(20, lap_s=10.0)
        for track in ("oval", "wide")
    ]
    one = Run(runs_dir / "one")
    one.config_file.write_text("track: oval\ntracks: [oval, wide]\n", encoding="utf-8")
    drive(runs_dir, "one", both, None)
    drive(runs_dir, "two", trials(4, lap_s=10.0), None)
    comparison = compared(runs_dir)
    assert "one@2 to the car: 20 of 20" in comparison.verdicts[0].sentence
    assert comparison.runs[0].notes == ["learned 2 tracks: its laps on the first one count here"]


def test_evaluate_robust_counts_although_its_conditions_are_unknown(runs_dir: Path) -> None:
    for name, completed in (("one", 20), ("two", 2)):
        drive(runs_dir, name, trials(completed, lap_s=10.0), None)
    comparison = compared(runs_dir)
    assert comparison.verdicts[0].run == "one"
    assert not comparison.differences[0].is_paired


# What differs.


def test_settings_and_rewards_that_differ_are_told_from_those_that_do_not(runs_dir: Path) -> None:
    two = Run(runs_dir / "two")
    two.config_file.write_text("track: oval\nppo:\n  batch_size: 32\n", encoding="utf-8")
    text = two.reward_file.read_text(encoding="utf-8")
    two.reward_file.write_text(text.replace("1.0 - 2.0", "1.0 - 3.0"), encoding="utf-8")
    comparison = compared(runs_dir)
    assert comparison.settings["ppo.batch_size"] == [None, 32]
    assert comparison.equal_settings["track"] == "oval"
    (diff,) = comparison.rewards
    assert not diff.is_equal
    assert "-    return float(max(1e-3, 1.0 - 2.0 * share))" in diff.diff
    assert "+    return float(max(1e-3, 1.0 - 3.0 * share))" in diff.diff
    assert any("reward functions differ" in note for note in comparison.notes)


def test_an_action_space_is_listed_in_order_of_steering(runs_dir: Path) -> None:
    actions = compared(runs_dir).runs[0].actions
    assert actions[0] == "-30° at 1 m/s"
    assert actions[4:6] == ["0° at 1 m/s", "0° at 2 m/s"]
    assert len(actions) == 10


def test_the_clock_stands_between_two_starts_and_goes_back_with_an_iteration(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path)
    log = ProgressLog(run.progress_file)

    def episode(iteration: int, time: float) -> EpisodeEvent:
        return EpisodeEvent(
            iteration, iteration, "training", "off_track", 50.0, 1.0, 10, 1.0,
            10 * (iteration + 1), time=time,
        )  # fmt: skip

    for event in (
        PhaseEvent("setup", 0, time=1000.0),
        episode(0, 1060.0),  # one minute
        episode(1, 1120.0),  # two, and lost
        PhaseEvent("setup", 0, time=9000.0),
        episode(1, 9090.0),  # one and a half after the first
        episode(2, 9120.0),
    ):
        log.write(event)
    log.close()
    curve = learning_curve(run, read_history(run))
    assert curve.minutes == [1.0, 2.5, 3.0]
    assert curve.steps == [10, 20, 30]


def test_a_run_under_way_and_an_imported_one_say_so(runs_dir: Path) -> None:
    one, two = Run(runs_dir / "one"), Run(runs_dir / "two")
    one.write_status(replace(one.read_status(), status="running", iteration=3))
    two.progress_file.unlink()
    (two.path / "imported").mkdir()
    (two.path / "imported" / "import.json").write_text("{}", encoding="utf-8")
    with one.lock():
        runs = compared(runs_dir).runs
    assert runs[0].notes == ["is still training, now at iteration 3: stop it before you pack it"]
    assert runs[1].notes == ["was imported: what came before that has no curves here"]
    assert runs[1].curve.steps == []


# The command and the page.


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = run_cli(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command_prints_the_verdict_and_writes_an_offline_page(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive(runs_dir, "one", trials(20, lap_s=10.0))
    drive(runs_dir, "two", trials(2, lap_s=10.0))
    place = ("--runs-dir", str(runs_dir))
    status, out, _ = call(capsys, "runs", "compare", "one", "two", *place)
    assert status == 0
    assert out.startswith("Send one@2 to the car: 20 of 20 robust laps complete")
    text = (runs_dir / "compare-one-two.html").read_text(encoding="utf-8")
    assert "local-trainer export car one@2" in text
    assert text.count("data:image/png;base64,") == 2
    assert all(link.startswith("data:") for link in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert "<script" not in text
    assert [run.name for run in sorted(runs_dir.iterdir()) if run.is_dir()] == ["one", "two"]


def test_json_holds_the_same_and_writes_no_page(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive(runs_dir, "one", trials(20, lap_s=10.0))
    drive(runs_dir, "two", trials(2, lap_s=10.0))
    place = ("--runs-dir", str(runs_dir), "--json")
    status, out, _ = call(capsys, "runs", "compare", "one", "two", *place)
    data = json.loads(out)
    assert status == 0
    assert data["verdicts"][0]["run"] == "one"
    assert data["candidates"][1]["laps"]["completed"] == 2
    assert data["results"]["minutes"] == [10.0, 10.0]
    assert not list(runs_dir.glob("*.html"))


def test_a_page_shows_code_as_text(runs_dir: Path) -> None:
    two = Run(runs_dir / "two")
    two.reward_file.write_text('def f():\n    return "<script>alert(1)</script>"\n')
    html = build_page(compared(runs_dir)).html()
    assert "<script" not in html
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["one"], "two runs or more, got 1"),
        (["one", "one"], "two runs or more, got 1"),
        (["one@2", "one@2"], "two runs or more, got 1"),
        (["one@", "two"], "A model is RUN, RUN@best"),
    ],
)
def test_too_few_models_are_refused(runs_dir: Path, names: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        find_models(names, runs_dir)


def test_laps_count_as_the_same_only_for_one_version_of_the_code_that_drives() -> None:
    assert all(any(_ROOT.glob(pattern)) for pattern in _CODE)


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(runs_dir: Path) -> None:
    with pytest.raises(NotFound, match="No checkpoint '5'.*allowed: best, last, 2"):
        find_models(["one@5", "two"], runs_dir)
