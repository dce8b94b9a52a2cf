import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.track_files import (
    import_routes,
    list_tracks,
    load_route,
    load_track,
    new_from_definition,
    new_from_points,
    save_route,
)

REQUIRED = {
    "reinvent_base",
    "reinvent_carpet",
    "reinvent_concrete",
    "reinvent_wood",
    "AWS_track",
    "Bowtie_track",
    "Oval_track",
    "Straight_track",
}


def names_in(folder: Path) -> list[str]:
    """Return all files of a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def write_route(path: Path, name: str = "hairpins") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_route(load_track(name), path)
    return path


def npy_bytes(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def test_every_promised_track_is_there_and_usable() -> None:
    infos = {info.name: info for info in list_tracks(Path("no such folder"))}
    assert infos.keys() >= REQUIRED
    assert len(infos) > len(REQUIRED)
    for info in infos.values():
        assert info.problem == ""
        assert info.is_built_in
        assert info.length_m > 5.0


def test_a_route_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    track = load_track("wide_loop")
    save_route(track, tmp_path / "again.npy")
    again = load_track(tmp_path / "again.npy")
    assert again.name == "again"
    assert np.array_equal(again.route(), track.route())
    assert names_in(tmp_path) == ["again.npy"]


def test_a_saved_route_is_a_plain_float64_array(tmp_path: Path) -> None:
    route = np.load(write_route(tmp_path / "a.npy"))
    assert route.dtype == np.float64
    assert route.shape[1] == 6
    assert np.array_equal(route[0], route[-1])


def test_a_route_may_be_loaded_under_another_name_and_ground(tmp_path: Path) -> None:
    track = load_route(write_route(tmp_path / "route.npy"), "lake", "wood")
    assert (track.name, track.surface) == ("lake", "wood")


def test_an_unknown_track_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Unknown track 'oval'. Did you mean 'Oval_track'\\?"):
        load_track("oval", tmp_path)


def test_a_users_track_replaces_ours_of_the_same_name(tmp_path: Path) -> None:
    write_route(tmp_path / "Oval_track.npy", "wide_loop")
    assert load_track("Oval_track", tmp_path).length_m == load_track("wide_loop").length_m
    [info] = [info for info in list_tracks(tmp_path) if info.name == "Oval_track"]
    assert not info.is_built_in


def test_a_broken_file_is_listed_with_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("width_m: 1\n")
    [info] = [info for info in list_tracks(tmp_path) if info.name == "mine"]
    assert "either segments or points" in info.problem


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is damaged"),
        (b"not an array", "it holds pickled objects|it is damaged"),
        (npy_bytes(np.zeros((9, 6)))[:100], "it is damaged"),
        (npy_bytes(np.zeros((9, 6)))[:-8], "it is damaged"),
        (pickle.dumps({"a": 1}), "it holds pickled objects"),
        (npy_bytes(np.array([{}], dtype=object), allow_pickle=True), "it holds pickled objects"),
        (b"PK\x03\x04 no archive", "it is damaged"),
        (npy_bytes(np.zeros((0, 6))), "rows, got 0|it is damaged"),
        (npy_bytes(np.zeros((1, 6))), "rows, got 1"),
        (npy_bytes(np.zeros((9, 5))), "at least 6 columns"),
        (npy_bytes(np.full((9, 6), np.nan)), "must be finite"),
        (npy_bytes(np.zeros((9, 6))), "must have a length"),
        (npy_bytes(np.zeros((9, 6), "U3")), "must hold numbers"),
        (npy_bytes(np.zeros(9, [("x", "f8")])), "at least 6 columns"),
    ],
)
def test_a_file_that_is_no_route_is_refused_and_nothing_written(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "in").mkdir()
    write_route(tmp_path / "in" / "good.npy")
    (tmp_path / "in" / "bad.npy").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        import_routes(tmp_path / "in", tmp_path / "tracks")
    assert "'bad'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names_in(tmp_path / "tracks") == []


def test_an_archive_of_arrays_is_no_route(tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", a=np.zeros(3))
    (tmp_path / "some.npz").rename(tmp_path / "some.npy")
    with pytest.raises(ValueError, match="got an archive of arrays"):
        load_track(tmp_path / "some.npy")


@given(data=st.data())
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_damaged_route_is_a_route_or_a_value_error(tmp_path: Path, data: st.DataObject) -> None:
    whole = npy_bytes(load_track("Straight_track").route())
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.npy"
    path.write_bytes(bytes(content))
    try:
        load_route(path)
    except ValueError as error:
        assert "\n" not in str(error)


def test_import_takes_a_file_or_a_folder(tmp_path: Path) -> None:
    one = write_route(tmp_path / "in" / "one.npy")
    write_route(tmp_path / "in" / "two.npy", "Straight_track")
    assert import_routes(one, tmp_path / "a") == ["one"]
    assert import_routes(tmp_path / "in", tmp_path / "b") == ["one", "two"]
    assert names_in(tmp_path / "b") == ["one.npy", "two.npy"]
    assert np.array_equal(load_track("one", tmp_path / "b").route(), load_track("hairpins").route())


def test_import_in_both_directions_writes_a_route_each_way(tmp_path: Path) -> None:
    import_routes(write_route(tmp_path / "lake.npy"), tmp_path / "tracks", both_directions=True)
    assert names_in(tmp_path / "tracks") == ["lake.npy", "lake_ccw.npy", "lake_cw.npy"]
    own, ccw, cw = (
        load_track(name, tmp_path / "tracks") for name in ("lake", "lake_ccw", "lake_cw")
    )
    assert np.array_equal(own.route(), ccw.route())
    assert np.array_equal(own.route()[::-1], cw.route())
    assert ccw.is_ccw
    assert not cw.is_ccw


def test_a_route_with_a_direction_in_its_name_gets_its_counterpart(tmp_path: Path) -> None:
    source = write_route(tmp_path / "lake_cw.npy", "long_straights")
    names = import_routes(source, tmp_path / "tracks", both_directions=True)
    assert names == ["lake_ccw", "lake_cw"]
    assert load_track("lake_ccw", tmp_path / "tracks").is_ccw


def test_a_direction_that_the_folder_holds_itself_is_taken_from_it(tmp_path: Path) -> None:
    write_route(tmp_path / "in" / "lake.npy", "hairpins")
    write_route(tmp_path / "in" / "lake_ccw.npy", "wide_loop")
    import_routes(tmp_path / "in", tmp_path / "tracks", both_directions=True)
    ccw = load_track("lake_ccw", tmp_path / "tracks")
    assert np.array_equal(ccw.route(), load_track("wide_loop").route())


def test_an_empty_folder_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must hold .npy files, got none"):
        import_routes(tmp_path, tmp_path / "tracks")
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match="must be a .npy file, got"):
        import_routes(tmp_path / "a.txt", tmp_path / "tracks")


def test_a_track_that_exists_is_only_replaced_on_request(tmp_path: Path) -> None:
    source = write_route(tmp_path / "lake.npy")
    (tmp_path / "tracks").mkdir()
    (tmp_path / "tracks" / "lake.yaml").write_text("mine")
    with pytest.raises(ValueError, match="'lake' exists already"):
        import_routes(source, tmp_path / "tracks")
    assert (tmp_path / "tracks" / "lake.yaml").read_text() == "mine"
    import_routes(source, tmp_path / "tracks", replace=True)
    assert names_in(tmp_path / "tracks") == ["lake.npy"]


RING = [[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".npy"])
def test_a_new_track_runs_through_the_points_of_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"points{suffix}"
    if suffix == ".csv":
        path.write_text("x,y\n" + "\n".join(f"{x}, {y}" for x, y in RING) + "\n\n")
    elif suffix == ".json":
        path.write_text(json.dumps(RING))
    else:
        np.save(path, np.array(RING))
    new_from_points("ring", path, 0.7, tmp_path / "tracks")
    track = load_track("ring", tmp_path / "tracks")
    assert track.is_loop
    assert track.widths_m == pytest.approx(np.full(len(track.center), 0.7))
    for point in RING:
        assert np.hypot(*(track.center - point).T).min() < 0.08


def test_a_new_track_may_be_open(tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    path.write_text("[[0, 0], [3, 0]]")
    new_from_points("road", path, 0.7, tmp_path, closed=False)
    track = load_track("road", tmp_path)
    assert not track.is_loop
    assert track.length_m == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "", "got shape \\(0,\\)"),
        ("p.csv", "x,y\n1,2\n3,oops\n", "row 3 is '3,oops'"),
        ("p.csv", "1,2\n3\n", "its rows differ in length"),
        ("p.csv", "1,2\nnan,2\n3,3\n", "must be finite, got \\[nan, 2.0\\] in row 1"),
        ("p.csv", "1,2,3,4\n", "got shape \\(1, 4\\)"),
        ("p.json", "[[1, 2], [3]]", "must be rows of x, y"),
        ("p.json", "{", "must be rows of x, y"),
        ("p.json", '{"a": 1}', "got shape \\(\\) of object"),
        ("p.json", '[["a", "b"]]', "of <U1"),
        ("p.json", "[[0, 0], [1, 0]]", "at least 3 different points, got 2"),
        ("p.json", "[[0, 0], [4, 4], [4, 0], [0, 4]]", "must not cross itself"),
        ("p.txt", "", "must end in .csv, .json or .npy, got '.txt'"),
        ("p.npy", "", "it is damaged"),
    ],
)
def test_points_that_make_no_track_are_refused_and_nothing_written(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        new_from_points("mine", path, 0.5, tmp_path / "tracks")
    assert "\n" not in str(caught.value)
    assert names_in(tmp_path / "tracks") == []


@pytest.mark.parametrize("width_m", [0.0, -1.0, float("nan"), 21.0])
def test_a_width_out_of_range_is_refused(tmp_path: Path, width_m: float) -> None:
    path = tmp_path / "points.json"
    path.write_text(json.dumps(RING))
    with pytest.raises(ValueError, match="width must be above 0 and at most 20 m, got"):
        new_from_points("mine", path, width_m, tmp_path)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "x.npy", "ä"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "segments.yaml"
    path.write_text("{width_m: 1, segments: [{left_deg: 360, radius_m: 2}]}")
    with pytest.raises(ValueError, match="A track's name must be"):
        new_from_definition(name, path, tmp_path / "tracks")


def test_a_definition_file_is_kept_as_it_was_written(tmp_path: Path) -> None:
    text = "# round\n{width_m: 1, segments: [{left_deg: 360, radius_m: 2}]}\n"
    (tmp_path / "segments.yaml").write_text(text)
    new_from_definition("round", tmp_path / "segments.yaml", tmp_path / "tracks")
    assert (tmp_path / "tracks" / "round.yaml").read_text() == text
    assert load_track("round", tmp_path / "tracks").is_ccw
