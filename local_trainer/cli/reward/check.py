"""``local-trainer reward check``: mistakes of a reward function, before they cost an hour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from local_trainer.cli.console import counted, facts, print_json, stdout
from local_trainer.cli.options import AsJson
from local_trainer.errors import ConfigError

if TYPE_CHECKING:
    from local_trainer.lab.check import CheckReport, Finding


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The reward function's file.")],
    is_console_strict: Annotated[
        bool, typer.Option("--console", help="Also fail if the console would refuse the file.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="PATH", help="Page to write, .html.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Call a reward function all over every shipped track and tell what is wrong with it.

    Ends with status 1 if there are errors; warnings and what the console would refuse do not
    count, unless --console says so.
    """
    from local_trainer.lab.check import check_reward

    if html is not None and html.suffix != ".html":
        raise ConfigError(f"--html must end in .html, got {str(html)!r}")
    report = check_reward(file)
    if html is not None:
        from local_trainer.lab.check_page import check_page

        check_page(report).write(html)
    has_failed = bool(report.errors) or (is_console_strict and bool(report.refusals))
    if as_json:
        page = None if html is None else str(html)
        print_json({**asdict(report), "is_ok": not has_failed, "page": page})
    else:
        _show(report)
        if html is not None:
            print(f"The page is {html}.")
    if has_failed:
        raise typer.Exit(1)


def _show(report: CheckReport) -> None:
    console = stdout()
    sections = (
        ("red", "Errors", [_finding_text(report, one) for one in report.errors]),
        (
            "magenta",
            "Would be refused by the console",
            [f"{_place(report, one.line)} {one.what}" for one in report.refusals],
        ),
        ("yellow", "Warnings", [_finding_text(report, one) for one in report.warnings]),
    )
    for colour, title, lines in sections:
        if not lines:
            continue
        console.print(f"[bold {colour}]{title} ({len(lines)})[/]")
        for line in lines:
            console.print(f"  {line}", markup=False, soft_wrap=True)
        console.print()
    console.print(facts(_fact_rows(report)))


def _place(report: CheckReport, line: int | None) -> str:
    return f"{report.path}:{line}:" if line else f"{report.path}:"


def _finding_text(report: CheckReport, finding: Finding) -> str:
    text = f"{_place(report, finding.line)} {finding.what}"
    if finding.count > 1:
        text += f" ({counted(finding.count, 'call')})"
    if finding.where:
        text += f"\n      at {finding.where}"
    if finding.params is not None and finding.is_error:
        text += f"\n      given {_params_text(finding.params)}"
    return text


def _params_text(params: dict[str, Any]) -> str:
    from local_trainer.lab.check import SHOWN_PARAMETERS

    shown = []
    for key in SHOWN_PARAMETERS:
        value = params[key]
        shown.append(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}")
    return ", ".join(shown)


def _fact_rows(report: CheckReport) -> Iterator[tuple[str, str]]:
    from local_trainer.lab.check import duration

    yield "called", f"{report.num_calls} of {report.num_poses} poses on {report.num_tracks} tracks"
    times = report.call_times
    if times is not None:
        yield (
            "time a call",
            f"median {duration(times.median_s)}, p99 {duration(times.p99_s)}, "
            f"longest {duration(times.max_s)} ({times.max_where})",
        )
        if times.slowest_lines:
            slowest = times.slowest_lines[0]
            yield (
                "slowest line",
                f"{slowest.line} ({100 * slowest.share:.0f} % of the time): {slowest.source}",
            )
    yield "reads", ", ".join(report.parameters_read) or "no parameter"
    if not report.is_leak_tested:
        yield "state", "could not be tested for what it keeps between calls"
    if not report.is_console_complete:
        yield "console", "its five cases could not be tried"
    yield "result", _result(report)
    yield "took", f"{report.elapsed_s:.1f} s"


def _result(report: CheckReport) -> str:
    refusals = counted(len(report.refusals), "reason")
    console = (
        f"refused by the console for {refusals}" if report.refusals else "the console takes it"
    )
    if not report.refusals and not report.is_console_complete:
        console = "not known whether the console takes it"
    errors = counted(len(report.errors), "error")
    return f"{errors}, {counted(len(report.warnings), 'warning')}; {console}"
