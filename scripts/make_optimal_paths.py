"""Write the racing lines of the shipped tracks into the optimal-path reward, or check them.

The reward runs where none of this project is, so it carries its paths with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from local_trainer.lab.racing_line import RacingLine, racing_line
from local_trainer.runs import write_atomically
from sim.track import Track
from sim.track_files import BUILT_IN_DIR, load_track

REWARD_FILE = Path(__file__).parents[1] / "rewards" / "reward_estimator_optimal_path.py"
_TABLE = "PATHS: dict = {"
_EVERY = 2
"""Points of a line, 0.1 m apart, for each one in the table."""
_POINTS_A_LINE = 5
_AWAY_M = 0.05
_SPEED_MPS = 0.3
"""What a table may differ by: the optimiser's last digits depend on the machine."""


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: make_optimal_paths.py [--check]", file=sys.stderr)
        return 2
    lines = shipped_lines()
    text = REWARD_FILE.read_text(encoding="utf-8")
    head = text[: text.index(_TABLE)]
    if not arguments:
        write_atomically(REWARD_FILE, (head + table_text(lines)).encode())
        return 0
    stale = stale_paths(lines)
    for name in stale:
        print(f"{REWARD_FILE.name}: the path of {name} is not up to date", file=sys.stderr)
    return 1 if stale else 0


def shipped_lines() -> dict[str, RacingLine]:
    """Return the racing line of each shipped track, one for all of the same shape."""
    tracks: list[Track] = []
    for path in sorted(BUILT_IN_DIR.glob("*.yaml"), key=lambda path: path.stem.lower()):
        track = load_track(path)
        if not any(np.array_equal(track.route(), other.route()) for other in tracks):
            tracks.append(track)
    return {track.name: racing_line(track) for track in tracks}


def table_text(lines: dict[str, RacingLine]) -> str:
    """Return the table's source text."""
    rows = [_TABLE]
    for name, line in lines.items():
        numbers = np.column_stack((line.points_m, line.speeds_mps))[::_EVERY]
        points = [f"{x:.2f} {y:.2f} {speed:.1f}" for x, y, speed in numbers.tolist()]
        rows.append(f'    "{name}": (')
        for first in range(0, len(points), _POINTS_A_LINE):
            rows.append(f'        "{"  ".join(points[first : first + _POINTS_A_LINE])}  "')
        rows.append("    ),")
    return "\n".join([*rows, "}", ""])


def stale_paths(lines: dict[str, RacingLine]) -> list[str]:
    """Return the tracks whose path in the reward is missing, too much or away from its line."""
    from rewards.reward_estimator_optimal_path import PATHS

    stale = sorted(set(PATHS) ^ set(lines))
    for name in sorted(set(PATHS) & set(lines)):
        path = np.array(PATHS[name].split(), float).reshape(-1, 3)
        line = lines[name]
        gaps_m = np.hypot(*(path[:, None, :2] - line.points_m[None]).transpose(2, 0, 1))
        nearest = gaps_m.argmin(axis=1)
        # Half the distance of a line's points can lie between the nearest one and the path.
        is_away = gaps_m.min(axis=1).max() > _AWAY_M + 0.05
        is_short = gaps_m.min(axis=0).max() > _AWAY_M + 0.1 * _EVERY
        change_mps = np.abs(path[:, 2] - line.speeds_mps[nearest])
        if is_away or is_short or change_mps.mean() > _SPEED_MPS:
            stale.append(name)
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
