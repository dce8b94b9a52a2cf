"""The page of an attack on a reward function."""

from __future__ import annotations

from pathlib import Path

from local_trainer.lab.figures.hack import hack_png
from local_trainer.lab.hack import (
    GRADE_MEANINGS,
    GRADES,
    Drive,
    Grade,
    HackReport,
    sentence,
    shown_findings,
)
from local_trainer.page import Badge, Cell, Page, Tone

TONES: dict[str | None, Tone] = {
    "severe": "bad",
    "moderate": "warn",
    "mild": "info",
    "note": "plain",
    None: "good",
}
TABLE_COLUMNS = (
    "grade", "driver", "end", ">time", ">progress", ">per episode", ">more", ">per second",
    ">more", ">discounted", ">more",
)  # fmt: skip


def write_hack_page(path: Path, report: HackReport) -> None:
    """Write the page of a report; replaced if it exists."""
    direction = ", against the row order" if report.is_reversed else ""
    page = Page(
        f"Attack on {report.reward.name}",
        subtitle=(
            f"{report.track.name}{direction}, at most {report.max_steps:,} steps an episode, "
            f"discount factor {report.discount:g}",
            f"{len(report.yardsticks) + len(report.drives)} drivers, the best of "
            f"{report.num_searched:,} tried in {report.search_s:.0f} s among them",
        ),
        badge=verdict(report),
        width_px=1280,
    )
    page.cards(
        [
            ("Clean fast lap, per episode", f"{report.bar.total:.4g}"),
            ("per second", f"{report.bar.per_second:.3g}"),
            ("discounted", f"{report.bar.discounted:.3g}"),
            *((grade, str(count)) for grade, count in counts(report)),
        ]
    )
    page.section("What it means")
    page.facts(
        [
            (one.name, f"{one.description[:1].upper()}{one.description[1:]}. "
             f"{sentence(one, report.bar)}")
            for one in shown_findings(report)
        ]
        or [("Nothing found", "No driver earns more than a clean fast lap.")]
    )  # fmt: skip
    page.section("Paths and earnings")
    page.picture(
        hack_png(report),
        "Dot: start. Cross: an end before the lap was finished. Dashed: a clean fast lap.",
        min_width_px=900,
    )
    page.section("All drivers")
    page.table(
        TABLE_COLUMNS,
        [
            (_badge(one, "lap"), *drive_row(one))
            for one in report.yardsticks
        ]
        + [(_badge(one, "–"), *drive_row(one)) for one in report.drives],
    )  # fmt: skip
    page.section("Grades").facts([(grade, GRADE_MEANINGS[grade]) for grade in GRADES])
    page.text(
        "More: compared with a clean fast lap, the fastest centre-line lap or the fastest racing "
        "line that keeps all wheels on the road, whichever earns more. The discounted return from "
        "the start is what PPO raises."
    )
    page.write(path)


def verdict(report: HackReport) -> Badge:
    """Return the gravest grade found, as a badge."""
    for grade, count in counts(report):
        if count:
            return Badge(f"{count} {grade}", TONES[grade])
    return Badge("nothing found", "good")


def counts(report: HackReport) -> list[tuple[Grade, int]]:
    """Return how many findings there are of each grade, gravest first."""
    return [(g, sum(one.grade == g for one in report.drives)) for g in GRADES]


def drive_row(one: Drive) -> tuple[str, ...]:
    """Return a driver's row of `TABLE_COLUMNS`, without its grade."""
    end = one.episode.status.label.lower()
    if one.is_complete and not one.is_clean:
        end += ", unclean"
    cells = [one.name, end, f"{one.episode.duration_s:.1f} s", f"{one.episode.progress:.0f} %"]
    for value, more in (
        (f"{one.earned.total:.4g}", one.more["total"]),
        (f"{one.earned.per_second:.3g}", one.more["per_second"]),
        (f"{one.earned.discounted:.3g}", one.more["discounted"]),
    ):
        cells += [value, share_text(more)]
    return tuple(cells)


def share_text(share: float) -> str:
    """Return a share as a signed percentage, or as a factor where it is large."""
    if share >= 10.0:
        return f"x {1.0 + share:,.0f}" if share < 1e4 else "x > 10,000"
    return f"{100.0 * share:+.0f} %".replace("-0 %", "+0 %")


def _badge(one: Drive, otherwise: str) -> Cell:
    if one.grade is None:
        return Badge(otherwise, "good") if otherwise == "lap" else otherwise
    return Badge(one.grade, TONES[one.grade])
