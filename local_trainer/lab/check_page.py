"""The page of ``local-trainer reward check``: the findings, and the source with them in place."""

from __future__ import annotations

import json
from pathlib import Path

from local_trainer.lab.check import CheckReport, Finding, duration
from local_trainer.lab.console_rules import MISSING_PARAMETERS
from local_trainer.page import Badge, Cell, Page
from sim.reward_dict import KEYS

_MIN_SHARE = 0.005


def check_page(report: CheckReport) -> Page:
    """Return the page of a report."""
    badge = Badge("works", "good")
    if report.errors:
        badge = Badge("has errors", "bad")
    elif report.refusals:
        badge = Badge("works, but not on the console", "warn")
    path = Path(report.path)
    subtitle = (
        str(path),
        f"Called at {report.num_calls} of {report.num_poses} poses on {report.num_tracks} tracks, "
        f"in {report.elapsed_s:.1f} s",
    )
    page = Page(path.name, subtitle, badge)
    page.cards(_cards(report))
    _add_findings(page.section("Errors"), report.errors)
    page.section("Would be refused by the console").facts(
        (_line(one.line), one.what) for one in report.refusals
    )
    _add_findings(page.section("Warnings"), report.warnings)
    times = report.call_times
    if times is not None:
        page.section("Time a call").facts(
            (
                ("median", duration(times.median_s)),
                ("99 % are below", duration(times.p99_s)),
                ("longest", f"{duration(times.max_s)}, {times.max_where}"),
            )
        )
    page.section("Source").table((">line", ">time", "", "", ""), _source(report))
    page.section("Parameters").facts(
        (
            ("read", ", ".join(report.parameters_read) or "none"),
            ("not read", ", ".join(key for key in KEYS if key not in report.parameters_read)),
            ("not in the console's check", ", ".join(MISSING_PARAMETERS)),
        )
    )
    return page


def _cards(report: CheckReport) -> list[tuple[str, str]]:
    times = report.call_times
    console = str(len(report.refusals))
    if not report.refusals:
        console = "none" if report.is_console_complete else "unknown"
    return [
        ("Errors", str(len(report.errors))),
        ("Console refusals", console),
        ("Warnings", str(len(report.warnings))),
        ("Median time a call", duration(times.median_s) if times else "–"),
    ]


def _add_findings(page: Page, findings: tuple[Finding, ...]) -> None:
    for finding in findings:
        where = f"\nat {finding.where}" if finding.where else ""
        calls = f" ({finding.count} calls)" if finding.count > 1 else ""
        page.facts([(_line(finding.line), f"{finding.what}{calls}{where}")])
        if finding.params is not None:
            text = "\n".join(f"{key}: {json.dumps(one)}" for key, one in finding.params.items())
            page.details("Parameters of that call", text)


def _line(line: int | None) -> str:
    return "file" if line is None else f"line {line}"


def _source(report: CheckReport) -> list[tuple[Cell, ...]]:
    marks: dict[int | None, Badge] = {}
    for finding in report.warnings:
        marks[finding.line] = Badge("warning", "warn")
    for refusal in report.refusals:
        marks[refusal.line] = Badge("console", "info")
    for finding in report.errors:
        marks[finding.line] = Badge("error", "bad")
    shares = {}
    if report.call_times is not None:
        shares = {one.line: one.share for one in report.call_times.slowest_lines}
    text = Path(report.path).read_text(encoding="utf-8", errors="replace")
    return [
        (
            str(number),
            f"{100 * shares[number]:.0f} %" if shares.get(number, 0.0) >= _MIN_SHARE else "",
            "",  # keeps a distance
            marks.get(number, ""),
            line,
        )
        for number, line in enumerate(text.splitlines(), start=1)
    ]
