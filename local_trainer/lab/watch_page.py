"""The page of ``local-trainer reward watch``: stays open and shows the newest version."""

from __future__ import annotations

from pathlib import Path

from local_trainer.lab.watch import Diff, Note, Severity, Version, number
from local_trainer.page import Badge, Page, Tone

REFRESH_S = 2.0
TONES: dict[Severity, Tone] = {"error": "bad", "warning": "warn", "console": "info"}
SEVERITY_WORDS: dict[Severity, str] = {
    "error": "error",
    "warning": "warning",
    "console": "console refuses",
}


def watch_page(
    path: Path, version: Version, diff: Diff, clock: str, picture: bytes | None, caption: str
) -> Page:
    """Return the page of a version; a browser reads it again every two seconds.

    Args:
        path: The reward function's file.
        version: The newest version.
        diff: Against the version before.
        clock: When it was tried.
        picture: The map, PNG; None while no version had one.
        caption: What the picture shows.
    """
    badge = Badge("fails", "bad") if version.has_failed else Badge("works", "good")
    page = Page(
        path.name,
        (f"Version {version.number}, tried at {clock} in {version.elapsed_s:.1f} s", str(path)),
        badge,
        refresh_s=REFRESH_S,
    )
    page.cards(_cards(version))
    new = {note.key for note in diff.came}
    page.section("Findings").table(
        ("", "line", "what", ""),
        [
            *(_row(note, "new" if note.key in new and version.number > 1 else "")
              for note in version.notes),
            *(_row(note, "gone") for note in diff.went),
        ],
    )  # fmt: skip
    if not (version.notes or diff.went):
        page.text("None." if version.report else "The check could not be done.")
    if version.problems:
        page.section("Could not be done").text(*version.problems)
    page.section("Figures" if version.number == 1 else "Since the version before").table(
        ("", ">now", ">before", ">change"),
        [(one.name, one.now, one.before, one.change) for one in diff.figures],
    )
    page.section("Reward over the track")
    if picture is not None:
        page.picture(picture, caption, min_width_px=600)
    return page


def _cards(version: Version) -> list[tuple[str, str]]:
    report, replayed, mapped = version.report, version.replay, version.map
    cards = []
    if report is not None:
        cards += [
            ("Errors", str(len(report.errors))),
            ("Warnings", str(len(report.warnings))),
            ("Console refuses", str(len(report.refusals))),
        ]
    if replayed is not None:
        cards.append(("Reward an episode", number(float(replayed.new_totals.mean()))))
    if mapped is not None:
        cards.append(("Mean of the map", number(mapped.facts["mean"])))
    return cards


def _row(note: Note, state: str) -> tuple[Badge, str, str, Badge | str]:
    is_gone = state == "gone"
    word = Badge(SEVERITY_WORDS[note.severity], "plain" if is_gone else TONES[note.severity])
    mark = Badge(state, "good" if is_gone else "plain") if state else ""
    return word, str(note.line or ""), note.text, mark
