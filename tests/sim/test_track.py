import math

import numpy as np
import pytest

from sim.track import Track, project, start_pose
from sim.track_files import list_tracks, load_track

NAMES = [info.name for info in list_tracks()]


def square_route() -> np.ndarray:
    """Return a road 1 m wide around a 4 m square, counter-clockwise from its lower left."""
    corners = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0], [0.0, 0.0]])
    middle = np.array([2.0, 2.0])
    inner = middle + (corners - middle) * 0.75
    outer = middle + (corners - middle) * 1.25
    return np.hstack((corners, inner, outer))


def test_a_square_has_the_length_and_direction_of_its_centre_line() -> None:
    track = Track.from_route("square", square_route())
    assert track.length_m == 16.0
    assert track.is_loop
    assert track.is_ccw
    assert track.waypoints == [(0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 4.0), (0.0, 0.0)]


def test_reversing_turns_the_direction_and_keeps_inner_inside() -> None:
    track = Track.from_route("square", square_route()).reverse()
    assert not track.is_ccw
    assert track.waypoints[1] == (0.0, 4.0)
    assert np.array_equal(track.inner[0], [0.5, 0.5])
    assert np.array_equal(track.reverse().route(), square_route())


def test_an_open_track_counts_as_counter_clockwise() -> None:
    track = Track.from_route("open", square_route()[:4][::-1])
    assert not track.is_loop
    assert track.is_ccw


def test_a_repeated_row_is_dropped_and_the_closing_row_kept() -> None:
    route = square_route()
    for repeated in (0, 2, 4):
        doubled = np.insert(route, repeated, route[repeated], axis=0)
        track = Track.from_route("square", doubled)
        assert np.array_equal(track.route(), route)


def test_poses_lie_on_the_centre_line_and_look_along_it() -> None:
    track = Track.from_route("square", square_route())
    assert track.pose_at(0.125) == (2.0, 0.0, 0.0)
    assert track.pose_at(0.25) == (4.0, 0.0, math.pi / 2)  # at a corner: towards the next one
    assert track.pose_at(1.125) == (2.0, 0.0, 0.0)
    assert track.pose_at(0.125, lateral_offset_m=0.3) == (2.0, 0.3, 0.0)
    assert start_pose(track.arrays, True, 0.125, 0.0) == (0.0, 2.0, math.pi / 2)
    x, y, yaw = start_pose(track.arrays, True, 0.875, 0.3)  # going west, left is south
    assert (x, y, yaw) == pytest.approx((2.0, -0.3, math.pi))


def test_an_open_track_ends_at_its_ends() -> None:
    track = load_track("Straight_track")
    first, last = track.center[0], track.center[-1]
    assert track.pose_at(-0.5)[:2] == pytest.approx(tuple(first))
    assert track.pose_at(1.0)[:2] == pytest.approx(tuple(last))
    assert track.pose_at(2.0)[:2] == pytest.approx(tuple(last))


def test_a_point_off_a_corner_projects_onto_its_waypoint_in_both_directions() -> None:
    arrays = Track.from_route("square", square_route()).arrays
    assert project(arrays, False, 4.3, -0.3)[:2] == (4.0, 1)
    assert project(arrays, True, 4.3, -0.3)[:2] == (12.0, 3)


def test_a_point_off_the_start_corner_is_at_the_start_in_both_directions() -> None:
    arrays = Track.from_route("square", square_route()).arrays
    assert project(arrays, False, -0.3, -0.3)[:2] == (0.0, 0)
    assert project(arrays, True, -0.3, -0.3)[:2] == (0.0, 0)


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_point_of_the_centre_line_projects_onto_its_own_station(
    name: str, is_reversed: bool
) -> None:
    track = load_track(name)
    for fraction in np.linspace(0.001, 0.999, 150):
        x, y, _ = start_pose(track.arrays, is_reversed, fraction, 0.0)
        station_m, _, center_x, center_y, _ = project(track.arrays, is_reversed, x, y)
        assert station_m == pytest.approx(fraction * track.length_m, abs=1e-9)
        assert (center_x, center_y) == pytest.approx((x, y), abs=1e-9)


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_beside_a_straight_the_station_does_not_depend_on_the_offset(
    name: str, is_reversed: bool
) -> None:
    track = load_track(name)
    arrays = track.arrays
    quarter_m = 0.25 * float(track.widths_m.min())
    checked = 0
    for fraction in np.linspace(0.02, 0.98, 150):
        _, _, yaw = start_pose(arrays, is_reversed, fraction, 0.0)
        reach = (quarter_m + 0.3) / track.length_m
        turns = [
            math.remainder(start_pose(arrays, is_reversed, fraction + step, 0.0)[2] - yaw, math.tau)
            for step in np.linspace(-reach, reach, 9)
        ]
        if max(map(abs, turns)) > 1e-4:
            continue
        checked += 1
        for offset_m in (-quarter_m, quarter_m):
            x, y, _ = start_pose(arrays, is_reversed, fraction, offset_m)
            station_m = project(arrays, is_reversed, x, y)[0]
            # 1e-4 rad of bend over the offset
            assert station_m == pytest.approx(fraction * track.length_m, abs=2e-4 * quarter_m)
    assert checked or name in ("narrow_loop", "wide_loop")  # smooth curves without straights


@pytest.mark.parametrize("name", NAMES)
def test_stations_of_the_two_directions_add_up_to_a_lap(name: str) -> None:
    track = load_track(name)
    rng = np.random.default_rng(1)
    for fraction in rng.uniform(0.01, 0.99, 50):
        x, y, _ = track.pose_at(fraction, rng.uniform(-0.2, 0.2))
        forward_m = project(track.arrays, False, x, y)[0]
        backward_m = project(track.arrays, True, x, y)[0]
        assert forward_m + backward_m == pytest.approx(track.length_m, abs=1e-9)


def route_with(row: int, column: int, value: float) -> np.ndarray:
    route = square_route()
    route[row, column] = value
    return route


def bow_route() -> np.ndarray:
    center = np.array([[0.0, 0.0], [4.0, 4.0], [4.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    return np.hstack((center, center + 0.2, center - 0.2))


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (np.zeros((4, 5)), "at least 6 columns.*got shape"),
        (np.zeros(6), "at least 6 columns"),
        (np.zeros((1, 6)), "2 to 5000 rows, got 1"),
        (np.zeros((0, 6)), "2 to 5000 rows, got 0"),
        (np.zeros((6000, 6)), "2 to 5000 rows, got 6000"),
        (np.zeros((4, 6), complex), "numbers, got complex128"),
        (np.full((4, 6), "a"), "numbers, got <U1"),
        (route_with(2, 3, math.nan), "finite.*in row 2"),
        (route_with(1, 0, math.inf), "finite.*in row 1"),
        (np.tile(square_route()[0], (5, 1)), "must have a length"),
        (square_route()[[0, 1, 0]], "a loop needs three"),
        (np.hstack([square_route()[:, :4], square_route()[:, 2:4]]), "wider than 0 m.*row 0"),
        (bow_route(), "must not cross itself.*rows 0 and 2"),
        (square_route()[:, [0, 1, 4, 5, 2, 3]], "inner border.*must enclose less"),
    ],
)
def test_a_route_that_cannot_be_driven_is_refused(route: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Track.from_route("bad", route)
    assert str(caught.value).startswith("track 'bad': ")
    assert "\n" not in str(caught.value)


def test_an_unknown_surface_is_refused() -> None:
    with pytest.raises(ValueError, match="surface must be one of asphalt, .*got 'ice'"):
        Track.from_route("square", square_route(), "ice")
