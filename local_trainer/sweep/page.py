"""A sweep's leaderboard as rows of text and as an offline page."""

from __future__ import annotations

from typing import Any

from local_trainer.page import Badge, Cell, Page, Tone
from local_trainer.sweep.folder import Sweep, SweepState
from local_trainer.sweep.leaderboard import Entry, Leaderboard

NOTHING = "–"

TEXT = (
    "Order: completed robust laps, then mean completion, then mean lap time. Every trial's best "
    "checkpoint drove the same robust laps: starts all around the lap, both directions, up to 10 % "
    "noise on the actions. Behind completed laps stands the 95 % interval of the share (Wilson), "
    "behind the lap time that of the mean (bootstrap, from six laps on). Lap times of different "
    "tracks cannot be compared; a trial with several tracks is judged on its first."
)

_TONES: dict[str, Tone] = {
    "finished": "good",
    "stopped": "warn",
    "failed": "bad",
    "running": "info",
}


def columns(leaderboard: Leaderboard) -> tuple[str, ...]:
    """Return the table's headings; those of numbers begin with ``>``."""
    return (
        "place", "trial", "state", *leaderboard.differing, ">robust laps", ">95 %",
        ">completion", ">mean lap", ">95 %", ">steps", ">minutes",
    )  # fmt: skip


def row(entry: Entry) -> tuple[str, ...]:
    """Return an entry's cells, the state third."""
    share, lap = entry.completion, entry.lap_interval
    return (
        NOTHING if entry.place is None else str(entry.place),
        entry.run,
        entry.state,
        *(shown(value) for value in entry.values.values()),
        f"{entry.completed} of {entry.laps}" if entry.laps else NOTHING,
        f"{100 * share.low:.0f} to {100 * share.high:.0f} %" if share else NOTHING,
        NOTHING
        if entry.mean_completion_percent is None
        else f"{entry.mean_completion_percent:.0f} %",
        NOTHING if entry.lap_s is None else f"{entry.lap_s:.2f} s",
        f"{lap.low:.2f} to {lap.high:.2f} s" if lap else NOTHING,
        f"{entry.steps:,}",
        f"{entry.minutes:.1f}",
    )


def shown(value: Any) -> str:
    """Return a setting's value as it is written in a table."""
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def counts(state: SweepState) -> str:
    """Return how many trials there are of each state: ``3 finished, 1 failed of 8``."""
    found: dict[str, int] = {}
    for trial in state.trials:
        found[trial.state] = found.get(trial.state, 0) + 1
    waiting = found.pop("waiting", 0) + state.num_trials - len(state.trials)
    parts = [f"{found[name]} {name}" for name in ("running", *_TONES) if found.get(name)]
    parts = list(dict.fromkeys(parts))
    if waiting:
        parts.append(f"{waiting} waiting")
    return f"{', '.join(parts) or 'none'} of {state.num_trials}"


def write_page(sweep: Sweep, state: SweepState, leaderboard: Leaderboard) -> None:
    """Write the sweep's page; replaced if it exists."""
    from local_trainer.sweep_plots import parallel_coordinates_png

    best = leaderboard.best
    page = Page(
        f"Sweep {sweep.name}",
        subtitle=(
            f"{counts(state)} trials; {state.minutes:.1f} minutes in all",
            f"varied: {', '.join(leaderboard.differing) or 'nothing'}",
        ),
        width_px=1280,
    )
    if best is not None:
        settings = ", ".join(f"{key} {shown(value)}" for key, value in best.values.items())
        page.cards(
            [
                ("best trial", best.run),
                ("robust laps", f"{best.completed} of {best.laps}"),
                ("mean lap", NOTHING if best.lap_s is None else f"{best.lap_s:.2f} s"),
                ("with", settings or "the same settings as all"),
            ]
        )
    page.section("Leaderboard").text(TEXT)
    page.table(columns(leaderboard), [_cells(entry) for entry in leaderboard.entries])
    reasons = [(e.run, e.reason) for e in leaderboard.entries if e.reason and e.state != "waiting"]
    page.section("Why each trial ended").facts(reasons)
    if leaderboard.differing and any(entry.laps for entry in leaderboard.entries):
        page.section("Settings and results")
        page.picture(
            parallel_coordinates_png(leaderboard),
            "Each line is a trial: its settings from left to right, then what it reached. The "
            "thick line is the best.",
            min_width_px=700,
        )
    if best is not None:
        runs = sweep.read_state().runs_dir
        page.section("What next").commands(
            [
                ("See the best trial", f"local-trainer runs show {best.run} --runs-dir {runs}"),
                (
                    "Train it longer",
                    f"local-trainer train --resume {best.run} --minutes 30 --runs-dir {runs}",
                ),
            ]
        )
    page.write(sweep.report_file)


def _cells(entry: Entry) -> list[Cell]:
    place, name, state, *others = row(entry)
    return [place, name, Badge(state, _TONES.get(state, "plain")), *others]
