"""Step traces of every generation, made from episodes that our simulator drove.

`local_trainer.simtrace` writes today's form; here it is cut down to what older ones held.
"""

from __future__ import annotations

import io
import math
import tarfile
from pathlib import Path

from local_trainer.episodes import Episode
from local_trainer.simtrace import TRACE_FIELDS, TraceRow, trace_lines, trace_rows, world_line
from sim.track import Track

FIELDS_OF = {
    15: TRACE_FIELDS[:15],
    16: TRACE_FIELDS[:16],
    17: TRACE_FIELDS[:17],
    18: (*TRACE_FIELDS[:17], "wall_clock"),
    19: TRACE_FIELDS,
}
YAW, STEER, TSTAMP, WALL_CLOCK = 4, 5, 14, 18


def rows_of(episodes: list[Episode], track: Track) -> list[TraceRow]:
    rows: list[TraceRow] = []
    clock_s = 12.5
    for episode in episodes:
        rows += trace_rows(episode, track, start_s=clock_s)
        clock_s += episode.duration_s
    return rows


def generation_lines(episodes: list[Episode], track: Track, num_fields: int) -> list[str]:
    """Return the log lines of a generation, with its number of decimals."""
    rows = rows_of(episodes, track)
    if num_fields == 15:
        rows = [_as_2019(row) for row in rows]
    names = FIELDS_OF[num_fields]
    kept = [TRACE_FIELDS.index(name) for name in names]
    lines = []
    for line in trace_lines(rows):
        values = line.partition(":")[2].split(",")
        lines.append("SIM_TRACE_LOG:" + ",".join(values[k] for k in kept))
    return lines


def generation_log(episodes: list[Episode], track: Track, num_fields: int) -> str:
    """Return a log as it comes from a container: other lines around, prefixes, a tab behind."""
    lines = [f"[rollout-3] {line}\t" for line in generation_lines(episodes, track, num_fields)]
    middle = len(lines) // 2
    other = "Training> Name=main_level/agent, Worker=0, Episode=1, Total reward=3.0, Steps=7"
    return "\n".join([world_line(track.name), *lines[:middle], other, *lines[middle:], "end", ""])


def generation_csv(episodes: list[Episode], track: Track, num_fields: int) -> str:
    """Return a CSV with the values of the log lines under their heading."""
    values = [line.partition(":")[2] for line in generation_lines(episodes, track, num_fields)]
    return "\n".join([",".join(FIELDS_OF[num_fields]), *values]) + "\n"


def archive(path: Path, files: dict[str, str], links: dict[str, str] | None = None) -> Path:
    """Write a tar.gz of texts by name, and of symbolic links by name and target."""
    with tarfile.open(path, "w:gz") as tar:
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        for name, text in files.items():
            data = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def folder(path: Path, files: dict[str, str]) -> Path:
    """Write a folder of texts by name."""
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text, encoding="utf-8")
    return path


def _as_2019(row: TraceRow) -> TraceRow:
    values = list(row)
    values[YAW] = math.radians(row[YAW])
    values[STEER] = math.radians(row[STEER])
    values[TSTAMP] = row[WALL_CLOCK]
    return tuple(values)
