import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sim import geometry
from sim.track import Track
from sim.track_definition import format_points_definition, parse_definition
from sim.track_files import BUILT_IN_DIR, load_route, load_track

SHARED = Path(__file__).parents[2] / ".." / "shared"

STADIUM = """
width_m: 1.0
spacing_m: 0.1
start: {x_m: 1.0, y_m: 2.0, heading_deg: 90}
segments:
  - {straight_m: 4.0}
  - {left_deg: 180, radius_m: 1.0}
  - {straight_m: 4.0}
  - {left_deg: 180, radius_m: 1.0}
"""


def test_a_stadium_has_the_shape_its_segments_say() -> None:
    track = parse_definition("stadium", STADIUM)
    assert track.is_loop
    assert track.is_ccw
    assert track.length_m == pytest.approx(8.0 + math.tau, rel=1e-3)  # chords of the arcs
    assert track.pose_at(0.0) == pytest.approx((1.0, 2.0, math.pi / 2))
    assert track.center.max(axis=0) == pytest.approx([1.0, 7.0], abs=2e-3)
    assert track.center.min(axis=0) == pytest.approx([-1.0, 1.0], abs=2e-3)
    assert track.outer.max(axis=0) == pytest.approx([1.5, 7.5], abs=2e-3)
    assert track.inner.max(axis=0) == pytest.approx([0.5, 6.5], abs=2e-3)
    assert track.widths_m == pytest.approx(np.ones(len(track.center)))
    assert track.surface == "asphalt"


def test_right_turns_make_a_clockwise_track_with_inner_inside() -> None:
    track = parse_definition("stadium", STADIUM.replace("left", "right"))
    assert not track.is_ccw
    assert abs(geometry.signed_area(track.inner)) < abs(geometry.signed_area(track.outer))


def test_a_width_is_reached_at_the_end_of_its_segment() -> None:
    text = (
        "{width_m: 1.0, closed: false, spacing_m: 0.5, segments: "
        "[{straight_m: 2.0, width_m: 2.0}, {straight_m: 1.0}]}"
    )
    track = parse_definition("cone", text)
    assert track.widths_m.tolist() == pytest.approx([1.0, 1.25, 1.5, 1.75, 2.0, 2.0, 2.0])


def test_a_small_gap_is_spread_over_the_lap() -> None:
    track = parse_definition(
        "stadium", STADIUM.replace("- {straight_m: 4.0}", "- {straight_m: 4.05}", 1)
    )
    steps_m = np.hypot(*np.diff(track.center, axis=0).T)
    assert steps_m.max() < 0.105


def test_a_curve_runs_through_its_points() -> None:
    points = [[0.0, 0.0], [4.0, 0.5], [5.0, 3.0], [2.0, 4.0], [-0.5, 2.0]]
    track = parse_definition("curve", format_points_definition(np.array(points), 0.6))
    assert track.is_loop
    assert track.pose_at(0.0)[:2] == pytest.approx((0.0, 0.0))
    fine = track.center
    for point in points:
        assert np.hypot(*(fine - point).T).min() < 0.08  # half a row


def test_points_may_have_their_own_widths() -> None:
    text = "{width_m: 0.5, points: [[0, 0], [4, 0, 1.5], [4, 4], [0, 4]]}"
    track = parse_definition("curve", text)
    assert track.widths_m.min() == pytest.approx(0.5)
    assert track.widths_m.max() == pytest.approx(1.5, abs=0.05)


def test_a_repeated_first_point_closes_the_curve_once() -> None:
    open_ring = "{width_m: 0.5, points: [[0, 0], [4, 0], [4, 4], [0, 4]]}"
    closed_ring = "{width_m: 0.5, points: [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]}"
    rings = [parse_definition("ring", text).route() for text in (open_ring, closed_ring)]
    assert np.array_equal(*rings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping of .*got nothing"),
        ("[1, 2]", "must be a mapping of .*got list"),
        ("width_m: [", "not valid YAML in line 1"),
        ("a: b: c", "not valid YAML in line 1"),
        ("\x00", "not valid YAML"),
        ("[" * 10000, "not valid YAML: nested too deeply"),
        ("{width_m: 2001-99-99}", "not valid YAML: month must be"),
        (f"{{width_m: {10**400}}}", "width_m must be a number above 0"),
        ("{widht_m: 1}", "unknown key 'widht_m'. Did you mean 'width_m'\\?"),
        ("{points: [[0, 0], [1, 0], [0, 1]]}", "width_m is missing"),
        ("{width_m: 0, points: []}", "width_m must be a number above 0 and at most 20, got 0"),
        ("{width_m: -1, points: []}", "width_m must be .*got -1"),
        ("{width_m: .nan, points: []}", "width_m must be .*got nan"),
        ("{width_m: '1', points: []}", "width_m must be .*got '1'"),
        ("{width_m: true, points: []}", "width_m must be .*got True"),
        ("{width_m: 1}", "either segments or points, got neither"),
        ("{width_m: 1, points: [], segments: []}", "either segments or points, got both"),
        ("{width_m: 1, points: []}", "at least 3 different points, got 0"),
        ("{width_m: 1, points: [[0, 0], [1, 1]]}", "at least 3 different points, got 2"),
        ("{width_m: 1, points: 3}", "points must be a list"),
        ("{width_m: 1, points: [[0, 0], [1]]}", "point 2: must be \\[x, y\\]"),
        ("{width_m: 1, points: [[0, 0], [1, .nan]]}", "point 2: y must be a number, got nan"),
        ("{width_m: 1, points: [[0, 0, -1]]}", "point 1: width must be .*got -1"),
        (
            "{width_m: 1, points: [[0, 0], [1, 0], [1, 0], [0, 1]]}",
            "differ from the one before, got \\[1.0, 0.0\\] twice \\(points 2 and 3\\)",
        ),
        ("{width_m: 1, closed: 1, points: []}", "closed must be true or false, got 1"),
        ("{width_m: 1, start: {x_m: 1}, points: []}", "start belongs to segments"),
        ("{width_m: 1, start: {x: 1}, segments: []}", "start: unknown key 'x'"),
        ("{width_m: 1, segments: []}", "segments must be a list of at least one"),
        ("{width_m: 1, segments: [{radius_m: 1}]}", "segment 1: give one of .*got none"),
        ("{width_m: 1, segments: [{straight_m: 0}]}", "segment 1: straight_m must be .*got 0"),
        ("{width_m: 1, segments: [{left_deg: 90}]}", "segment 1: radius_m is missing"),
        ("{width_m: 1, segments: [{straight_m: 1, radius_m: 2}]}", "a straight has no radius_m"),
        (
            "{width_m: 1, segments: [{left_deg: 1, right_deg: 2, radius_m: 1}]}",
            "give one of .*got left_deg and right_deg",
        ),
        ("{width_m: 1, segments: [{straight_m: 5}]}", "must end where it begins.*gap of 5.00 m"),
        ("{width_m: 1, segments: [{left_deg: 180, radius_m: 1}]}", "and 180.0 deg"),
        (
            "{width_m: 1, segments: [{left_deg: 360, radius_m: 0.4}]}",
            "radius must be more than half the road's width, got a tighter one to the left",
        ),
        (
            "{width_m: 1, closed: false, segments: [{straight_m: 900}]}",
            "at most 5000 rows, got 6000",
        ),
        (
            "{width_m: 1, surface: ice, segments: [{left_deg: 360, radius_m: 2}]}",
            "surface must be one of",
        ),
        (
            "{width_m: 0.2, segments: [{left_deg: 360, radius_m: 1}, {right_deg: 360, "
            "radius_m: 1}]}",
            "got a gap of 0.00 m and 0.0 deg",
        ),
        (
            "{width_m: 0.2, closed: false, segments: [{straight_m: 3}, {left_deg: 270, "
            "radius_m: 1}, {straight_m: 3}]}",
            "must not cross itself",
        ),
    ],
)
def test_a_wrong_definition_is_refused_with_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_definition("mine", text)
    assert str(caught.value).startswith("track 'mine'")
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_track_or_a_value_error(text: str) -> None:
    try:
        track = parse_definition("any", text)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(track, Track)


_number = st.one_of(st.floats(), st.integers(-5, 5), st.none(), st.text(max_size=3))
_segment = st.dictionaries(
    st.sampled_from(["straight_m", "left_deg", "right_deg", "radius_m", "width_m", "x"]), _number
)


@given(
    st.dictionaries(
        st.sampled_from(["width_m", "segments", "points", "closed", "spacing_m", "start"]),
        st.one_of(_number, st.lists(_segment, max_size=4), st.lists(st.lists(_number), max_size=4)),
    )
)
@settings(max_examples=200, deadline=None)
def test_any_mapping_is_a_track_or_a_value_error(values: dict[str, object]) -> None:
    import yaml

    try:
        parse_definition("any", yaml.safe_dump(values))
    except ValueError as error:
        assert "\n" not in str(error)


@example(radius_m=1.3816294431063463, straight_m=8.78125, width_m=1.0)
@given(radius_m=st.floats(0.6, 5.0), straight_m=st.floats(0.1, 10.0), width_m=st.floats(0.1, 1.0))
@settings(max_examples=40, deadline=None)
def test_every_stadium_is_as_long_and_wide_as_written(
    radius_m: float, straight_m: float, width_m: float
) -> None:
    half = f"{{straight_m: {straight_m!r}}}, {{right_deg: 180, radius_m: {radius_m!r}}}"
    track = parse_definition("any", f"{{width_m: {width_m!r}, segments: [{half}, {half}]}}")
    assert track.length_m == pytest.approx(2.0 * straight_m + math.tau * radius_m, rel=0.01)
    assert track.widths_m == pytest.approx(np.full(len(track.center), width_m))


def farthest_m(points: np.ndarray, line: np.ndarray) -> float:
    """Return how far from a line (N, 2) the farthest place of another lies, sampled at 1 cm."""
    stations_m = geometry.arc_lengths(points)
    at = np.arange(0.0, stations_m[-1], 0.01)
    table = geometry.segment_table(line)
    nothing = geometry.Candidates(np.zeros(2, np.int32), np.zeros(0, np.int32))
    farthest = 0.0
    for x, y in zip(*(np.interp(at, stations_m, points[:, k]) for k in (0, 1)), strict=True):
        k, t = geometry.nearest_segment(table, nothing, -1, x, y)
        nearest = table[k, :2] + t * table[k, 2:4]
        farthest = max(farthest, math.dist((x, y), nearest))
    return farthest


@pytest.mark.parametrize(
    ("name", "center_m", "border_m", "start_m"),
    [
        ("reinvent_base", 0.018, 0.018, 0.002),
        ("AWS_track", 0.020, 0.020, 0.002),
        ("Bowtie_track", 0.015, 0.017, 0.007),
        ("Oval_track", 0.020, 0.023, 0.005),
        ("Straight_track", 0.001, 0.001, 0.001),
    ],
)
def test_our_definitions_lie_as_near_to_the_real_routes_as_they_say(
    name: str, center_m: float, border_m: float, start_m: float
) -> None:
    path = SHARED / "tracks" / f"{name}.npy"
    if not path.exists():
        pytest.skip(f"needs the real route {path}")
    ours, real = load_track(name), load_route(path)
    for our_line, real_line, limit_m in (
        (ours.center, real.center, center_m),
        (ours.inner, real.inner, border_m),
        (ours.outer, real.outer, border_m),
    ):
        assert farthest_m(our_line, real_line) <= limit_m
        assert farthest_m(real_line, our_line) <= limit_m
    assert ours.length_m == pytest.approx(real.length_m, rel=0.001)
    assert ours.is_loop == real.is_loop
    assert ours.is_ccw == real.is_ccw
    assert abs(len(ours.center) - len(real.center)) <= 1
    x, y, yaw = ours.pose_at(0.0)
    real_x, real_y, real_yaw = real.pose_at(0.0)
    assert math.dist((x, y), (real_x, real_y)) <= start_m
    assert math.degrees(abs(yaw - real_yaw)) < 1.0


def test_the_reinvent_base_definition_is_as_wide_as_the_real_route() -> None:
    path = SHARED / "tracks" / "reinvent_base.npy"
    if not path.exists():
        pytest.skip(f"needs the real route {path}")
    ours, real = load_track("reinvent_base"), load_route(path)
    assert ours.widths_m.mean() == pytest.approx(real.widths_m.mean(), rel=0.02)


@pytest.mark.parametrize("surface", ["carpet", "concrete", "wood"])
def test_the_reinvent_tracks_differ_in_their_ground_only(surface: str) -> None:
    base, other = load_track("reinvent_base"), load_track(f"reinvent_{surface}")
    assert np.array_equal(base.route(), other.route())
    assert other.surface == surface


def test_definitions_are_short() -> None:
    for path in BUILT_IN_DIR.glob("*.yaml"):
        assert len(path.read_text().splitlines()) <= 40, path
