"""``local-trainer reward hack``: look for ways to earn a reward without driving well."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from local_trainer.cli.console import NOTHING, facts, print_json, stdout, table
from local_trainer.cli.options import AsJson, TracksDir
from local_trainer.errors import ConfigError

if TYPE_CHECKING:
    from local_trainer.lab.hack import HackReport


def hack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The reward function.")],
    track_name: Annotated[
        str, typer.Option("--track", help="Track, or path of its file.")
    ] = "reinvent_base",
    is_reversed: Annotated[
        bool, typer.Option("--reverse", help="Drive against the track's row order.")
    ] = False,
    profile: Annotated[
        Literal["fast", "cloud"],
        typer.Option("--profile", help="Whose discount factor and step cap apply."),
    ] = "fast",
    discount: Annotated[
        float | None, typer.Option("--discount", help="Discount factor, 0 to 1.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", help="Steps after which an episode is cut off.")
    ] = None,
    actions: Annotated[
        Path | None,
        typer.Option(
            "--actions", help="model_metadata.json: drivers may give only its actions' commands."
        ),
    ] = None,
    start: Annotated[
        float, typer.Option("--start", help="Where episodes begin, fraction of a lap.")
    ] = 0.0,
    seconds: Annotated[
        float, typer.Option("--seconds", help="Time for the search of further drivers.")
    ] = 10.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Fixes what the search tries.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Draw the paths into this PNG.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page to this file.")] = None,
    tracks_dir: TracksDir = Path("tracks"),
    fails: Annotated[
        bool, typer.Option("--fail", help="Exit with status 1 on a severe finding.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Drive in ways nobody wants, and list those that earn more than a clean fast lap.

    Scripted drivers (crawling, standing still, circling, weaving, cutting corners, driving
    backwards and more) and a search drive episodes in the simulator under training's rules.
    """
    from local_trainer.actions import load_action_space
    from local_trainer.lab.hack import attack, report_data
    from local_trainer.run_files import find_user_file
    from sim.track_files import load_track

    for path, suffix, name in ((output, ".png", "--output"), (html, ".html", "--html")):
        if path is not None and path.suffix != suffix:
            raise ConfigError(f"{name} must end in {suffix}, got {str(path)!r}")
    found = find_user_file("reward function", file)
    space = load_action_space(actions) if actions is not None else None
    try:
        track = load_track(track_name, tracks_dir)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    report = attack(
        found,
        track,
        is_reversed,
        profile,
        discount,
        max_steps,
        seconds,
        seed,
        start,
        space,
    )
    if output is not None:
        from local_trainer.lab.figures.hack import write_hack_plot

        write_hack_plot(output, report)
    if html is not None:
        from local_trainer.lab.hack_page import write_hack_page

        write_hack_page(html, report)
    if as_json:
        print_json(report_data(report))
    else:
        _show(report)
        for path in (output, html):
            if path is not None:
                print(f"Written: {path}")
    if fails and report.is_severe:
        raise typer.Exit(1)


def _show(report: HackReport) -> None:
    from local_trainer.lab.hack import GRADE_MEANINGS, sentence, shown_findings
    from local_trainer.lab.hack_page import TABLE_COLUMNS, counts, drive_row

    console = stdout()
    direction = ", against the row order" if report.is_reversed else ""
    console.print(
        facts(
            [
                ("reward", str(report.reward)),
                ("track", report.track.name + direction),
                ("episodes", f"at most {report.max_steps:,} steps"),
                ("discount", f"{report.discount:g}"),
                ("search", f"{report.num_searched:,} drivers in {report.search_s:.1f} s"),
            ]
        )
    )
    rows = [("clean lap", *drive_row(one)) for one in report.yardsticks]
    rows += [(one.grade or NOTHING, *drive_row(one)) for one in report.drives]
    console.print(table(TABLE_COLUMNS, rows))
    for grade, count in counts(report):
        if count:
            console.print(f"{count} {grade}: {GRADE_MEANINGS[grade]}.", markup=False)
    shown = shown_findings(report)
    if not shown:
        console.print("Nothing found: no driver earns more than a clean fast lap.")
    for one in shown:
        console.print(f"\n{one.grade}: {one.name}", markup=False, style="bold")
        console.print(f"It {one.description}. {sentence(one, report.bar)}", markup=False)
