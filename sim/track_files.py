"""Where tracks come from and go to: our definitions, the user's, and the service's routes.

A track is named by its file: ``<name>.npy`` (a route, see `sim.track`) or ``<name>.yaml`` (a
definition, see `sim.track_definition`) in the user's tracks folder, else one of ours. The
user's files come first, so an imported route replaces our definition of the same name.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
import tokenize
import zipfile
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from sim.track import MAX_ROWS, Track
from sim.track_definition import (
    MAX_WIDTH_M,
    format_points_definition,
    parse_definition,
    read_definition,
)

DEFAULT_TRACKS_DIR = Path("tracks")
BUILT_IN_DIR = Path(__file__).parent / "tracks"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_SUFFIXES = (".npy", ".yaml", ".yml")
_DAMAGED = (
    ValueError,
    EOFError,
    OverflowError,
    TypeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
)
"""What numpy raises for a file whose header makes no sense."""


@dataclass(frozen=True)
class TrackInfo:
    """One line of the list of tracks."""

    name: str
    path: str
    is_built_in: bool
    length_m: float = 0.0
    width_m: float = 0.0
    """Median distance between the borders."""
    rows: int = 0
    is_loop: bool = False
    is_ccw: bool = False
    surface: str = ""
    problem: str = ""
    """Why the file cannot be used; empty if it can."""


# --- reading ---------------------------------------------------------------------------------


def load_track(name_or_path: str | Path, tracks_dir: Path = DEFAULT_TRACKS_DIR) -> Track:
    """Return a track by its name, or from a ``.npy`` or ``.yaml`` file.

    Args:
        name_or_path: A name known here, or a path.
        tracks_dir: The user's tracks folder; need not exist.

    Raises:
        ValueError: If there is no such track, or its file is not usable.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(_SUFFIXES):
        return _read(Path(text))
    files = _track_files(tracks_dir)
    if text not in files:
        by_lower = {name.lower(): name for name in files}
        near = get_close_matches(text.lower(), by_lower, n=1, cutoff=0.5)
        hint = f" Did you mean {by_lower[near[0]]!r}?" if near else ""
        raise ValueError(f"Unknown track {text!r}.{hint} Tracks: {', '.join(sorted(files))}.")
    return _read(files[text])


def list_tracks(tracks_dir: Path = DEFAULT_TRACKS_DIR) -> list[TrackInfo]:
    """Return what tracks there are, by name; one whose file is broken says why."""
    infos = []
    for name, path in sorted(_track_files(tracks_dir).items()):
        is_built_in = path.parent == BUILT_IN_DIR
        try:
            track = _read(path)
        except ValueError as error:
            infos.append(TrackInfo(name, str(path), is_built_in, problem=str(error)))
            continue
        infos.append(
            TrackInfo(
                name,
                str(path),
                is_built_in,
                length_m=track.length_m,
                width_m=float(np.median(track.widths_m)),
                rows=len(track.center),
                is_loop=track.is_loop,
                is_ccw=track.is_ccw,
                surface=track.surface,
            )
        )
    return infos


def load_route(path: Path, name: str | None = None, surface: str = "asphalt") -> Track:
    """Return the track of a route file.

    Args:
        path: A ``.npy`` file.
        name: What to call it; by default as the file.
        surface: What its ground looks like.

    Raises:
        ValueError: If the file is not a route.
    """
    name = path.stem if name is None else name
    return Track.from_route(name, _read_array(f"track {name!r}", path), surface)


def _track_files(tracks_dir: Path) -> dict[str, Path]:
    """Return the file of each name: ours, then over them the user's."""
    files: dict[str, Path] = {}
    for folder in (BUILT_IN_DIR, tracks_dir):
        for suffix in reversed(_SUFFIXES):
            files |= {path.stem: path for path in sorted(folder.glob(f"*{suffix}"))}
    return files


def _read(path: Path) -> Track:
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"A track file must end in {', '.join(_SUFFIXES)}, got {str(path)!r}")
    try:
        return load_route(path) if path.suffix == ".npy" else read_definition(path)
    except OSError as error:
        raise ValueError(f"Cannot read the track {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"track {path.stem!r}: a definition must be UTF-8 text") from None


def _read_array(what: str, path: Path) -> np.ndarray:
    """Return the array of a ``.npy`` file; never unpickles, never trusts the stated size."""
    try:
        # Mapping compares the file's size with what its header claims before memory is taken.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _DAMAGED as error:
        is_pickle = any(word in str(error).lower() for word in ("pickle", "object"))
        reason = "it holds pickled objects" if is_pickle else "it is damaged"
        raise ValueError(
            f"{what}: must be a .npy file of numbers, but {reason}: {str(path)!r}"
        ) from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{what}: must be a .npy file, got an archive of arrays: {str(path)!r}")
    return array


# --- writing ---------------------------------------------------------------------------------


def save_route(track: Track, path: Path) -> None:
    """Write a track as a route file, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, track.route(), allow_pickle=False)
    _write_whole({path: buffer.getvalue()})


def import_routes(
    source: Path,
    tracks_dir: Path = DEFAULT_TRACKS_DIR,
    both_directions: bool = False,
    replace: bool = False,
) -> list[str]:
    """Copy one route file, or all of a folder, into the user's tracks; all of them or none.

    Args:
        source: A ``.npy`` file or a folder of them.
        tracks_dir: Where to put them; made if it does not exist.
        both_directions: Also write ``<name>_ccw`` and ``<name>_cw``, the route in either driving
            direction, where the source does not hold them itself.
        replace: Overwrite tracks of the same name.

    Returns:
        The names written, sorted.

    Raises:
        ValueError: If a file is not a route, or a track of its name exists.
        OSError: If the folder cannot be written.
    """
    if source.is_dir():
        paths = sorted(source.glob("*.npy"))
        if not paths:
            raise ValueError(f"The folder {str(source)!r} must hold .npy files, got none")
    else:
        paths = [source]
    tracks = {}
    for path in paths:
        if path.suffix != ".npy":
            raise ValueError(f"A route must be a .npy file, got {str(path)!r}")
        track = _read(path)
        tracks[check_name(track.name)] = track
    if both_directions:
        for track in list(tracks.values()):
            tracks = _directions(track) | tracks
    contents = {}
    for name, track in tracks.items():
        buffer = io.BytesIO()
        np.save(buffer, track.route(), allow_pickle=False)
        contents[tracks_dir / f"{name}.npy"] = buffer.getvalue()
    _write_tracks(contents, replace)
    return sorted(tracks)


def _directions(track: Track) -> dict[str, Track]:
    """Return a track driven counter-clockwise and clockwise, by their names."""
    base = re.sub(r"_c?cw$", "", track.name)
    own, other = ("_ccw", "_cw") if track.is_ccw else ("_cw", "_ccw")
    return {base + own: track, base + other: track.reverse()}


def new_from_points(
    name: str,
    points_file: Path,
    width_m: float,
    tracks_dir: Path = DEFAULT_TRACKS_DIR,
    closed: bool = True,
    replace: bool = False,
) -> Track:
    """Make a track whose centre line runs smoothly through points, and keep its definition.

    Args:
        name: Its name.
        points_file: Rows of x, y in m, optionally with a width: ``.csv`` (a heading line is
            allowed), ``.json`` (a list of lists) or ``.npy``.
        width_m: Width of the road where a row gives none.
        tracks_dir: Where to put it; made if it does not exist.
        closed: Whether the last point joins the first.
        replace: Overwrite a track of the same name.

    Raises:
        ValueError: If the points make no track, or a track of the name exists.
        OSError: If a file cannot be read or written.
    """
    if not 0.0 < width_m <= MAX_WIDTH_M:
        raise ValueError(f"The width must be above 0 and at most {MAX_WIDTH_M:g} m, got {width_m}")
    text = format_points_definition(_read_points(points_file), width_m, closed)
    return _new(name, text, tracks_dir, replace)


def new_from_definition(
    name: str,
    definition_file: Path,
    tracks_dir: Path = DEFAULT_TRACKS_DIR,
    replace: bool = False,
) -> Track:
    """Make a track from a definition file (`sim.track_definition`) and keep a copy of it.

    Raises:
        ValueError: If the file is no definition, or a track of the name exists.
        OSError: If a file cannot be read or written.
    """
    try:
        text = definition_file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{str(definition_file)!r} must be UTF-8 text") from None
    return _new(name, text, tracks_dir, replace)


def check_name(name: str) -> str:
    """Return the name if a track may have it.

    Raises:
        ValueError: If it may not.
    """
    if not _NAME.fullmatch(name) or name.endswith(_SUFFIXES):
        raise ValueError(
            "A track's name must be letters, digits, '_', '-' and '.', begin with a letter or "
            f"digit and be no file name, got {name!r}"
        )
    return name


def _new(name: str, text: str, tracks_dir: Path, replace: bool) -> Track:
    track = parse_definition(check_name(name), text)
    _write_tracks({tracks_dir / f"{name}.yaml": text.encode("utf-8")}, replace)
    return track


def _read_points(path: Path) -> np.ndarray:
    """Return rows of x, y or x, y, width from a file. Shape (N, 2) or (N, 3)."""
    what = f"points file {str(path)!r}"
    if path.suffix == ".npy":
        points = _read_array(what, path)
    elif path.suffix in (".json", ".csv"):
        try:
            text = path.read_text(encoding="utf-8")
            points = np.asarray(json.loads(text) if path.suffix == ".json" else _csv_rows(text))
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{what}: must be rows of x, y[, width] in m: {reason}") from None
    else:
        raise ValueError(f"{what}: must end in .csv, .json or .npy, got {path.suffix!r}")
    if points.ndim != 2 or points.shape[1] not in (2, 3) or points.dtype.kind not in "fiu":
        raise ValueError(
            f"{what}: must be rows of x, y[, width] in m, got shape {points.shape} "
            f"of {points.dtype}"
        )
    if len(points) > MAX_ROWS:
        raise ValueError(f"{what}: must have at most {MAX_ROWS} rows, got {len(points)}")
    points = points.astype(np.float64)
    bad = np.nonzero(~np.isfinite(points).all(axis=1))[0]
    if len(bad):
        raise ValueError(f"{what}: must be finite, got {points[bad[0]].tolist()} in row {bad[0]}")
    return points


def _csv_rows(text: str) -> list[list[float]]:
    """Return the numbers of a CSV file; its first line may be a heading."""
    rows = [row for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)]
    numbers = []
    for index, row in enumerate(rows):
        try:
            numbers.append([float(cell) for cell in row])
        except ValueError:
            if index > 0:
                raise ValueError(f"row {index + 1} is {','.join(row)!r}") from None
    if len({len(row) for row in numbers}) > 1:
        raise ValueError("its rows differ in length")
    return numbers


def _write_tracks(contents: dict[Path, bytes], replace: bool) -> None:
    """Write track files, refusing to touch a track that exists unless told to."""
    for path in contents:
        others = [path.with_suffix(suffix) for suffix in _SUFFIXES]
        existing = [other for other in others if other.exists()]
        if existing and not replace:
            raise ValueError(
                f"The track {path.stem!r} exists already ({existing[0]}); choose another name or "
                "replace it"
            )
    _write_whole(contents)
    for path in contents:  # a replaced track may have had the other kind of file
        for suffix in _SUFFIXES:
            if suffix != path.suffix:
                path.with_suffix(suffix).unlink(missing_ok=True)


def _write_whole(contents: dict[Path, bytes]) -> None:
    """Write files so that none appears unless all could be written."""
    temporary: dict[Path, str] = {}
    try:
        for path, data in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary[path] = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary[path], 0o644)
        for path in contents:
            os.replace(temporary[path], path)
    except BaseException:
        for name in temporary.values():
            Path(name).unlink(missing_ok=True)
        raise
