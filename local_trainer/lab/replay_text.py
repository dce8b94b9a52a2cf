"""A replay in words and numbers, as command line and page show it."""

from __future__ import annotations

from local_trainer.cli.console import NOTHING
from local_trainer.lab.recordings import Exactness, Recording
from local_trainer.lab.replay import Replay

TABLE_COLUMNS = (
    "run",
    "reward",
    ">episodes",
    ">steps",
    ">recorded/ep.",
    ">new/ep.",
    ">corr. steps",
    ">corr. ep.",
    ">equal",
    ">within 1e-3",
    ">steps/s",
)


def table_row(one: Replay) -> tuple[str, ...]:
    """Return a replay's row of `TABLE_COLUMNS`."""
    return (
        one.recording.name,
        one.reward_file.name + (" (its own)" if one.is_own_reward else ""),
        f"{len(one.recording.episodes):,}",
        f"{one.recording.num_steps:,}",
        f"{one.old_totals.mean():.2f}",
        f"{one.new_totals.mean():.2f}",
        _number(one.step_correlation),
        _number(one.total_correlation),
        share_text(one.exact_fraction),
        share_text(one.within_fraction),
        f"{one.steps_per_second:,.0f}",
    )


def exactness_rows(recording: Recording) -> list[tuple[str, str]]:
    """Return where a recording's parameters come from, as names and texts."""
    exactness = recording.exactness
    rows = [(recording.name, f"{recording.kind} on {recording.track.name}")]
    if exactness.exact:
        return [*rows, ("exact", ", ".join(exactness.exact))]
    return [
        *rows,
        ("from the log", ", ".join(exactness.logged)),
        ("recomputed", ", ".join(exactness.recomputed)),
        ("log agrees", _agreement_text(exactness)),
        *(("note", note) for note in exactness.notes),
    ]


def share_text(value: float | None) -> str:
    """Return a share in percent; only all of them are 100 %."""
    if value is None:
        return NOTHING
    shown = f"{100.0 * value:.2f}"
    if value < 1.0 and shown == "100.00":
        shown = "99.99"
    return "100 %" if value == 1.0 else f"{shown} %"


def _agreement_text(exactness: Exactness) -> str:
    return ", ".join(
        f"{one.field} {share_text(one.share)}"
        + (f" (worst {one.worst:.2g})" if one.num_equal < one.num_steps else "")
        for one in exactness.agreement
    )


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"
