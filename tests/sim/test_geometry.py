import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import geometry
from sim.track_files import list_tracks, load_track

SQUARE = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0], [0.0, 0.0]])


def even_odd(ring_edges: np.ndarray, x: float, y: float) -> bool:
    """Return whether a point is inside, by counting every edge to its right."""
    ax, ay, bx, by = ring_edges.T
    spans = (ay > y) != (by > y)
    crossing = ax[spans] + (y - ay[spans]) / (by[spans] - ay[spans]) * (bx[spans] - ax[spans])
    return bool(np.count_nonzero(x < crossing) % 2)


def test_arc_lengths_add_up_along_a_square() -> None:
    assert geometry.arc_lengths(SQUARE).tolist() == [0.0, 4.0, 8.0, 12.0, 16.0]


def test_signed_area_is_positive_counter_clockwise() -> None:
    assert geometry.signed_area(SQUARE) == 16.0
    assert geometry.signed_area(SQUARE[::-1]) == -16.0


def test_a_figure_of_eight_crosses_itself() -> None:
    eight = np.array([[0.0, 0.0], [2.0, 2.0], [2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    assert geometry.first_self_crossing(eight) == (0, 2)


def test_a_square_does_not_cross_itself() -> None:
    assert geometry.first_self_crossing(SQUARE) is None


def test_a_segment_of_no_length_is_nearest_at_its_start() -> None:
    table = geometry.segment_table(np.array([[1.0, 1.0], [1.0, 1.0]]))
    one_list = geometry.Candidates(np.array([0, 1], np.int32), np.array([0], np.int32))
    assert geometry.nearest_segment(table, one_list, 0, 3.0, 1.0) == (0, 0.0)


def test_the_first_of_two_equally_near_segments_is_taken() -> None:
    table = geometry.segment_table(SQUARE)
    everything = geometry.Candidates(np.array([0, 4], np.int32), np.arange(4, dtype=np.int32))
    assert geometry.nearest_segment(table, everything, 0, 2.0, 2.0) == (0, 0.5)


def test_a_point_outside_the_grid_has_no_cell() -> None:
    grid = geometry.grid_over(SQUARE, 0.5, 0.1)
    assert geometry.cell_of(grid, -0.6, 0.0) == -1
    assert geometry.cell_of(grid, 0.0, 4.6) == -1
    assert geometry.cell_of(grid, -0.45, -0.45) == 0


def test_a_huge_grid_gets_larger_cells_instead_of_more() -> None:
    grid = geometry.grid_over(1000.0 * SQUARE, 0.5, 0.1)
    assert grid.columns * grid.rows < 500_000


@pytest.mark.parametrize("name", [info.name for info in list_tracks()])
def test_lookups_answer_as_trying_everything_does(name: str) -> None:
    track = load_track(name)
    arrays = track.arrays
    rng = np.random.default_rng(7)
    corners = track.route().reshape(-1, 2)
    points = rng.uniform(corners.min(axis=0) - 1.0, corners.max(axis=0) + 1.0, (1500, 2))
    for x, y in points:
        cell = geometry.cell_of(arrays.grid, x, y)
        near = geometry.nearest_segment(arrays.center, arrays.center_near_cell, cell, x, y)
        assert near == geometry.nearest_segment(arrays.center, arrays.center_near_cell, -1, x, y)
        is_inside = geometry.is_inside(
            arrays.grid, arrays.road_cells, arrays.road_edges, arrays.road_bands, x, y
        )
        assert is_inside == even_odd(arrays.road_edges, x, y)


@pytest.mark.parametrize("name", ["reinvent_base", "hairpins", "wide_loop"])
def test_border_lookups_answer_as_trying_everything_does(name: str) -> None:
    arrays = load_track(name).arrays
    rng = np.random.default_rng(3)
    for segment in range(len(arrays.center)):
        x, y = arrays.center[segment, :2] + rng.random() * arrays.center[segment, 2:4]
        for border, near in (
            (arrays.inner, arrays.inner_near_segment),
            (arrays.outer, arrays.outer_near_segment),
        ):
            found = geometry.nearest_segment(border, near, segment, x, y)
            assert found == geometry.nearest_segment(border, near, -1, x, y)


coordinate = st.floats(-5.0, 5.0, allow_nan=False)


@given(st.lists(st.tuples(coordinate, coordinate), min_size=2, max_size=12), coordinate, coordinate)
@settings(max_examples=60, deadline=None)
def test_the_nearest_point_is_no_farther_than_any_vertex(
    vertices: list[tuple[float, float]], x: float, y: float
) -> None:
    points = np.array(vertices)
    table = geometry.segment_table(points)
    nothing = geometry.Candidates(np.zeros(2, np.int32), np.zeros(0, np.int32))
    k, t = geometry.nearest_segment(table, nothing, -1, x, y)
    distance_m = math.hypot(x - table[k, 0] - t * table[k, 2], y - table[k, 1] - t * table[k, 3])
    assert 0.0 <= t <= 1.0
    assert distance_m <= np.hypot(*(points - (x, y)).T).min() + 1e-9
