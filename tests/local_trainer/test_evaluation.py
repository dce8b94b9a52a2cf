"""An evaluation's report: what it sums up, and its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from driven import drive, oval

from local_trainer.errors import RunFailed
from local_trainer.evaluation import (
    EvaluationReport,
    Trial,
    read_report,
    report_of,
    write_report,
)
from sim.steps import EpisodeStatus

LAP = Trial(1, "lap_complete", 100.0, 12.5, 0, 0, 80.0, 0.0, False)
TRIALS = (
    LAP,
    replace(LAP, trial=2, elapsed_time_s=11.5, start_fraction=0.25),
    replace(LAP, trial=3, status="off_track", completion_percentage=40.0, off_tracks=1),
)
REPORT = EvaluationReport("run", "3_Step-300.ckpt", True, 0.1, TRIALS)


def test_the_summary_by_hand() -> None:
    assert REPORT.completed == 2
    assert REPORT.mean_completion_percentage == 80.0
    assert REPORT.best_lap_s == 11.5
    assert REPORT.mean_lap_s == 12.0


def test_without_a_finished_lap_there_is_no_lap_time() -> None:
    report = replace(REPORT, trials=TRIALS[2:])
    assert (report.completed, report.best_lap_s, report.mean_lap_s) == (0, None, None)


def test_a_report_comes_back_from_its_file(tmp_path: Path) -> None:
    write_report(REPORT, tmp_path / "a" / "report.json")
    assert read_report(tmp_path / "a" / "report.json") == REPORT
    data = json.loads((tmp_path / "a" / "report.json").read_text())
    assert data["summary"]["best_lap_s"] == 11.5
    assert data["trials"][2]["status"] == "off_track"


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"trials": [{"trial": 1}]}'])
def test_a_file_that_is_no_report_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(RunFailed, match=r"report\.json must be an evaluation report"):
        read_report(tmp_path / "report.json")
    with pytest.raises(RunFailed, match=r"none\.json must be an evaluation report"):
        read_report(tmp_path / "none.json")


def test_trials_are_what_was_driven() -> None:
    track = oval()
    episodes = [
        drive(track, 0, phase="evaluation", fraction=0.25, is_reversed=True),
        drive(track, 1, phase="evaluation", noise_deg=60.0),
    ]
    report = report_of("run", "3_Step-300.ckpt", episodes)
    assert [trial.trial for trial in report.trials] == [1, 2]
    first = report.trials[0]
    assert (first.start_fraction, first.is_reversed) == (0.25, True)
    for trial, episode in zip(report.trials, episodes, strict=True):
        assert trial.completion_percentage == episode.progress
        assert trial.elapsed_time_s == episode.duration_s
        assert trial.status == episode.status.trace_name
        assert trial.is_complete == episode.is_complete
        assert trial.off_tracks == (episode.steps["status"] == EpisodeStatus.OFF_TRACK).sum()
    assert (report.is_robust, report.action_noise) == (False, 0.0)
