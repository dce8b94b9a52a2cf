"""The console's rules for a reward function, as findings of a model check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from local_trainer.errors import LocalTrainerError
from local_trainer.export.findings import Finding, not_checked, passed, refused

if TYPE_CHECKING:
    from sim.track import Track

_MOST_SHOWN = 5


def reward_findings(path: Path, track: Track | None = None) -> Iterator[Finding]:
    """Yield a finding for each reason to refuse the file; it runs in a guarded process.

    Args:
        path: The reward function.
        track: The model's own, for the console's cases; None: it is not known here.
    """
    from local_trainer.lab.check import check_reward

    rule = "reward_function.py"
    try:
        report = check_reward(path, console_track=track)
    except LocalTrainerError as error:
        yield not_checked(rule, str(error)[:200])
        return
    mend = "local-trainer reward check FILE tells more"
    for refusal in report.refusals[:_MOST_SHOWN]:
        line = "" if refusal.line is None else f"line {refusal.line}: "
        yield refused(f"{rule} ({refusal.rule})", f"{line}{refusal.what}"[:200], mend)
    more = len(report.refusals) - _MOST_SHOWN
    if more > 0:
        yield refused(rule, f"{more} reasons more", mend)
    if report.refusals:
        return
    if report.is_console_complete:
        place = "reinvent_base, for its own track is not here" if track is None else track.name
        yield passed(rule, f"its text and the console's five cases, on {place}")
        return
    errors = [finding.what for finding in report.errors]
    why = errors[0] if errors else "it ended before the console's five cases"
    yield refused(rule, why[:200], mend)
