"""The ground picture shows a track where it is, in the materials it has."""

from __future__ import annotations

import time

import numpy as np
import pytest

from sim import ground
from sim.ground import draw_ground, to_grey, top_view
from sim.track import SURFACES, Track

HALF_WIDTH_M = 0.4


def straight_track(surface: str = "asphalt", length_m: float = 6.0) -> Track:
    """A road along +x from x = 0, centred on y = 0, 0.8 m wide. Left is +y."""
    x = np.linspace(0.0, length_m, 13)
    y = np.zeros_like(x)
    route = np.stack([x, y, x, y + HALF_WIDTH_M, x, y - HALF_WIDTH_M], axis=1)
    return Track.from_route("straight", route, surface)


def square_track() -> Track:
    """A counter-clockwise ring: centre line a square of 4 m, 0.8 m wide."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]], float)
    rings = [
        np.concatenate(
            [np.linspace(a, b, 8, endpoint=False) for a, b in zip(ring, ring[1:], strict=False)]
            + [ring[:1]]
        )
        for ring in (corners * 2.0, corners * 1.6, corners * 2.4)
    ]
    return Track.from_route("square", np.concatenate(rings, axis=1))


def material_at(drawn: ground.Ground, x: float, y: float) -> str:
    col, row = (drawn.world_to_pixel @ [x, y, 1.0]).astype(int)
    return ("field", "road", "line")[int(drawn.materials[row, col].argmax())]


@pytest.mark.parametrize(
    ("y", "material"),
    [
        (0.45, "field"),
        (0.405, "field"),
        (0.395, "line"),
        (0.355, "line"),
        (0.345, "road"),
        (0.1, "road"),
        (-0.1, "road"),
        (-0.38, "line"),
        (-0.42, "field"),
    ],
)
def test_across_a_road_lie_field_white_line_and_road(y: float, material: str) -> None:
    assert material_at(draw_ground(straight_track()), 3.03, y) == material


def test_center_line_is_dashed_with_equal_gaps() -> None:
    drawn = draw_ground(straight_track())
    xs = np.arange(0.05, 5.95, 0.005)
    is_dash = np.array([material_at(drawn, x, 0.0) == "line" for x in xs])
    changes = xs[1:][is_dash[1:] != is_dash[:-1]]
    # 6 m hold exactly 25 periods of two times 0.12 m; cells are 0.005 m.
    assert np.diff(changes) == pytest.approx(ground.DASH_M, abs=0.011)


def test_an_open_track_ends_square_and_nothing_is_painted_beyond() -> None:
    drawn = draw_ground(straight_track())
    assert material_at(drawn, 0.01, 0.2) == "road"
    for x in (-0.01, 6.01):
        for y in (0.0, 0.2, 0.38):
            assert material_at(drawn, x, y) == "field"


def test_covered_area_is_the_road_s_area() -> None:
    drawn = draw_ground(square_track())
    on_road_m2 = (255 - drawn.materials[..., 0].astype(int)).sum() / 255 * drawn.cell_m**2
    assert on_road_m2 == pytest.approx(4.8**2 - 3.2**2, rel=2e-3)


def test_materials_of_every_cell_add_up() -> None:
    assert (draw_ground(square_track()).materials.sum(axis=2, dtype=int) == 255).all()


def test_edges_are_antialiased() -> None:
    # Columns of a road that leans 1:20: the border must pass through partly covered cells.
    track = straight_track()
    leaning = [
        points @ np.array([[1.0, 0.05], [0.0, 1.0]])
        for points in (track.center, track.inner, track.outer)
    ]
    drawn = draw_ground(Track.from_route("leaning", np.concatenate(leaning, axis=1)))
    field = drawn.materials[:, drawn.materials.shape[1] // 2 : -300, 0]
    partly = ((field > 40) & (field < 215)).sum(axis=0)
    assert partly.mean() > 1.0  # two borders, about 0.7 such cells each


@pytest.mark.parametrize("surface", SURFACES)
def test_every_surface_has_its_own_colours(surface: str) -> None:
    drawn = draw_ground(straight_track(surface))
    style = ground.STYLES[surface]
    assert tuple(drawn.rgb[0, 0]) == style.field
    col, row = (drawn.world_to_pixel @ [3.03, 0.38, 1.0]).astype(int)
    assert tuple(drawn.rgb[row, col]) == style.border_line


def test_lines_stand_out_from_road_and_field_in_grey_on_every_surface() -> None:
    for style in ground.STYLES.values():
        road, field, border, center = (
            int(to_grey(color))
            for color in (style.road, style.field, style.border_line, style.center_line)
        )
        assert border - max(road, field) > 60
        assert center - road > 40
        assert abs(road - field) > 10


def test_a_large_ground_gets_coarser_cells_and_stays_bounded() -> None:
    drawn = draw_ground(straight_track(length_m=200.0))
    assert drawn.cell_m > ground.FINEST_CELL_M
    assert max(drawn.rgb.shape) <= ground.MAX_SIDE_CELLS + 1
    assert drawn.rgb.shape[0] * drawn.rgb.shape[1] <= ground.MAX_CELLS * 1.01


def test_ground_is_drawn_in_well_under_half_a_second() -> None:
    track = square_track()
    draw_ground(track)
    taken_s = []
    for _ in range(3):  # a busy machine may pause for a second, not three times
        start = time.perf_counter()
        draw_ground(track)
        taken_s.append(time.perf_counter() - start)
    assert min(taken_s) < 0.5  # typically 0.05 s


def test_top_view_has_the_size_asked_for_and_maps_the_world() -> None:
    picture, transform = top_view(square_track(), 300, 200)
    assert picture.shape == (200, 300, 3)
    # The square is centred; 4.8 m of road and two margins of 1 m fill the height.
    assert transform @ [0.0, 0.0, 1.0] == pytest.approx([150.0, 100.0])
    assert transform @ [0.0, 3.4, 1.0] == pytest.approx([150.0, 0.0])
    col, row = (transform @ [2.1, 0.05, 1.0]).astype(int)
    assert np.abs(picture[row, col].astype(int) - ground.STYLES["asphalt"].road).max() < 10


def test_top_view_refuses_an_empty_picture() -> None:
    with pytest.raises(ValueError, match="at least 1 px, got 0 x 10"):
        top_view(square_track(), 0, 10)
