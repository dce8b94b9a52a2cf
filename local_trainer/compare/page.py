"""A comparison as one offline HTML page, and as rows of a table."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from local_trainer.compare.comparison import Candidate, ComparedRun, Comparison, Verdict
from local_trainer.compare.verdict import RULE
from local_trainer.page import Badge, Cell, Page, Tone

_TONES: dict[str, Tone] = {
    "send": "good",
    "alone": "info",
    "no clear difference": "warn",
    "not settled": "warn",
    "not ready": "bad",
    "nothing": "bad",
}
_NOTHING = "–"
_CURVES_WIDTH_PX = 760
_LAPS_WIDTH_PX = 640

LAPS_COLUMNS = (
    "checkpoint",
    "",
    ">complete laps",
    ">share (95 %)",
    ">forward",
    ">reversed",
    ">mean lap, s (95 %)",
    ">best lap, s",
)
"""Names of what `laps_rows` gives; ``>`` aligns to the right."""


def write_page(comparison: Comparison, path: Path) -> Path:
    """Write the page of a comparison, whole or not at all, and return its path."""
    return build_page(comparison).write(path)


def build_page(comparison: Comparison) -> Page:
    """Return the page of a comparison."""
    names = [run.name for run in comparison.runs]
    badge = Badge(comparison.verdicts[0].kind, _TONES[comparison.verdicts[0].kind])
    is_one = len(comparison.verdicts) == 1
    page = Page(
        "Which one goes on the car?", _title(comparison), badge if is_one else None, width_px=1060
    )
    for verdict in comparison.verdicts:
        _add_verdict(page, verdict, is_one)
    notes = [f"{run.name} {note}." for run in comparison.runs for note in run.notes]
    page.section("Good to know").text(*notes, *comparison.notes)
    _add_laps(page, comparison)
    _add_curves(page, comparison)
    page.section("What was reached").table(
        ("", *(f">{name}" for name in names)),
        [(_words(key), *map(_result, row)) for key, row in comparison.results.items()],
    )
    _add_settings(page, comparison)
    _add_actions(page, comparison.runs)
    _add_rewards(page, comparison)
    page.section("How this was decided").text(*RULE)
    return page


def laps_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return a row for each checkpoint, as `LAPS_COLUMNS` names them; an arrow at the chosen."""
    chosen = {(verdict.run, verdict.checkpoint) for verdict in comparison.verdicts}
    return [_laps_row(one, (one.run, one.number) in chosen) for one in comparison.candidates]


def shown(value: Any) -> str:
    """Return a setting or result as a cell's text."""
    if value is None or value == "":
        return _NOTHING
    return f"{value:g}" if isinstance(value, float) else str(value)


def _result(value: Any) -> str:
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.2f}"
    return f"{value:,.0f}" if isinstance(value, int | float) else shown(value)


def _laps_row(one: Candidate, is_chosen: bool) -> tuple[str, ...]:
    name = f"→ {one.name}" if is_chosen else one.name
    laps = one.laps
    if laps is None:
        return (name, one.which, "none yet", *[_NOTHING] * 5)
    share, mean = laps.completed_share, laps.mean_lap
    between = f" ({mean.low:.2f} to {mean.high:.2f})" if mean else ""
    return (
        name,
        one.which,
        f"{laps.completed} of {len(laps.trials)}",
        f"{100 * share.estimate:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})",
        "{} of {}".format(*laps.forward),
        "{} of {}".format(*laps.reversed),
        _seconds(laps.mean_lap_s) + between,
        _seconds(laps.best_lap_s),
    )


def _seconds(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.2f}"


def _title(comparison: Comparison) -> list[str]:
    names = ", ".join(run.name for run in comparison.runs)
    tracks = ", ".join(dict.fromkeys(run.track for run in comparison.runs))
    return [names, f"Track {tracks}" if len(comparison.verdicts) == 1 else f"Tracks {tracks}"]


def _add_verdict(page: Page, verdict: Verdict, is_one: bool) -> None:
    page.section("Verdict" if is_one else f"Verdict for {verdict.track}")
    if not is_one:
        page.facts([("", Badge(verdict.kind, _TONES[verdict.kind]))])
    # The sentence is what most come for.
    page.markup(_strong(verdict.sentence))
    page.commands(verdict.commands)
    if len(verdict.reasons) > 1:
        chosen = f"{verdict.run}@{verdict.checkpoint}"
        page.details(f"{chosen} against each of the others", "\n".join(verdict.reasons))


def _strong(text: str) -> str:
    return f'<p style="font-size:1.15rem;color:var(--ink)">{escape(text)}</p>'


def _add_laps(page: Page, comparison: Comparison) -> None:
    page.section("Robust laps")
    driven = [one for one in comparison.candidates if one.laps is not None]
    if driven:
        from local_trainer.compare.plots import plot_laps
        from local_trainer.plots import png

        noise = max(one.laps.action_noise for one in driven if one.laps)
        page.text(
            "Laps from all around the track, every other one against its direction, with up to "
            f"{100 * noise:.0f} % noise on steering and speed: what survives this has a chance "
            "on carpet. Bars are 95 % intervals: where they overlap much, the difference may be "
            "chance. Dots are single laps, hollow ones reversed; black is the mean."
        )
        page.picture(
            png(plot_laps(comparison)), alt="Complete laps and times", min_width_px=_LAPS_WIDTH_PX
        )
    elif comparison.candidates:
        page.text("None of the checkpoints has driven robust laps yet.")
    page.table(LAPS_COLUMNS, laps_rows(comparison))
    if driven:
        page.details("Lap by lap", _lap_by_lap(driven))


def _lap_by_lap(driven: list[Candidate]) -> str:
    """Return every lap as text: where it began, and its time or how far it came."""
    width = max(12, *(len(one.name) + 2 for one in driven))
    lines = []
    for conditions in dict.fromkeys(one.laps.conditions or one.name for one in driven if one.laps):
        group = [
            one.laps.trials
            for one in driven
            if one.laps and (one.laps.conditions or one.name) == conditions
        ]
        names = [
            one.name
            for one in driven
            if one.laps and (one.laps.conditions or one.name) == conditions
        ]
        lines.append("start  way       " + "".join(f"{name:>{width}}" for name in names))
        for row in zip(*group, strict=True):
            cells = [
                f"{t.elapsed_time_s:.2f} s"
                if t.is_complete
                else f"({t.completion_percentage:.0f} %)"
                for t in row
            ]
            way = "reversed" if row[0].is_reversed else "forward"
            start = f"{100 * row[0].start_fraction:.0f} %"
            lines.append(f"{start:<7}{way:<10}" + "".join(f"{cell:>{width}}" for cell in cells))
        lines.append("")
    return "\n".join([*lines, "In brackets: how far a lap came that was not completed."])


def _add_curves(page: Page, comparison: Comparison) -> None:
    page.section("How they learned")
    if not any(run.curve.steps for run in comparison.runs):
        return
    from local_trainer.compare.plots import plot_curves
    from local_trainer.plots import png

    page.text(
        "Left against training steps: what the same experience taught. Right against minutes of "
        "training: what the same time did. Lap times appear once an evaluation completes a lap."
    )
    page.picture(
        png(plot_curves(comparison.runs)), alt="Training curves", min_width_px=_CURVES_WIDTH_PX
    )


def _add_settings(page: Page, comparison: Comparison) -> None:
    page.section("What differs in the settings")
    rows = [
        (key, *map(shown, row))
        for key, row in comparison.settings.items()
        if not key.endswith((".py", ".json"))
    ]
    page.table(("setting", *(f">{run.name}" for run in comparison.runs)), rows)
    if not rows:
        page.text("Nothing.")
    tracks = {run.track_sha256: run.track for run in comparison.runs}
    if len(tracks) > len(set(tracks.values())):
        page.text("Tracks of the same name differ in their shape.")
    equal = "\n".join(f"{key}: {shown(value)}" for key, value in comparison.equal_settings.items())
    count = len(comparison.equal_settings)
    if equal:
        page.details(f"{count} setting{'s' if count != 1 else ''} the same for all", equal)


def _add_actions(page: Page, runs: list[ComparedRun]) -> None:
    page.section("Action spaces")
    spaces = [run.actions for run in runs]
    if all(space == spaces[0] for space in spaces):
        if spaces[0]:
            page.details(f"The same {len(spaces[0])} actions for all", "\n".join(spaces[0]))
        return
    known = dict.fromkeys(action for space in spaces for action in space)
    rows: list[tuple[Cell, ...]] = [
        (action, *("yes" if action in space else _NOTHING for space in spaces)) for action in known
    ]
    rows.sort(key=lambda row: _steering_and_speed(str(row[0])))
    page.text("Steering left is positive.")
    page.table(
        ("action", *(f"{run.name} ({len(run.actions)})" for run in runs)),
        rows,
    )


def _steering_and_speed(action: str) -> tuple[float, float]:
    steering, _, speed = action.partition("° at ")
    return float(steering), float(speed.removesuffix(" m/s"))


def _add_rewards(page: Page, comparison: Comparison) -> None:
    page.section("Reward functions")
    alike: dict[str, list[str]] = {}
    for diff in comparison.rewards:
        alike.setdefault(_body(diff.diff), []).append(diff.run)
    for diff in comparison.rewards:
        runs = alike.pop(_body(diff.diff), [])
        if runs and diff.is_equal:
            page.text(f"{', '.join(runs)}: the same as {diff.against}.")
        elif runs:
            page.text(f"{', '.join(runs)} against {diff.against}: - only there, + only here.")
            page.markup(_coloured(diff.diff))


def _body(diff: str) -> str:
    """Return a diff without the lines that name its files."""
    return diff.partition("@@")[2]


def _coloured(diff: str) -> str:
    """Return a diff as markup; the signs stay, for those who see no colours."""
    tones = {"+": "good", "-": "bad"}
    lines = []
    for line in f"@@{_body(diff)}".splitlines():
        tone = tones.get(line[:1])
        style = f' style="background:var(--{tone});color:var(--{tone}-ink)"' if tone else ""
        lines.append(f"<span{style}>{escape(line)}</span>")
    return "<pre><code>" + "\n".join(lines) + "</code></pre>"


def _words(key: str) -> str:
    return {
        "evaluations_all_laps": "evaluations with all laps",
        "first_lap_iteration": "first lap at iteration",
        "best_progress_percent": "best completion, %",
        "best_lap_s": "best lap in training, s",
    }.get(key, key.replace("_", " "))
