"""The camera shows ground points where a pinhole sees them, the same way every time."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest

from sim.camera import Camera
from sim.ground import STYLES, to_grey
from sim.randomization import (
    RandomizationConfig,
    episode_generator,
    plain_looks,
    sample_look,
)
from sim.track import Track

HALF_WIDTH_M = 0.4
STYLE = STYLES["asphalt"]


def straight_track(length_m: float = 6.0) -> Track:
    """A road along +x from x = 0, centred on y = 0, 0.8 m wide. Left is +y."""
    x = np.linspace(0.0, length_m, 13)
    y = np.zeros_like(x)
    return Track.from_route(
        "straight", np.stack([x, y, x, y + HALF_WIDTH_M, x, y - HALF_WIDTH_M], axis=1)
    )


def circle_track(radius_m: float = 2.0) -> Track:
    angle = np.linspace(0.0, 2 * np.pi, 121)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    rings = [ring * r for r in (radius_m, radius_m - HALF_WIDTH_M, radius_m + HALF_WIDTH_M)]
    route = np.concatenate(rings, axis=1)
    route[-1] = route[0]
    return Track.from_route("circle", route)


@pytest.fixture(scope="module")
def grey() -> Camera:
    return Camera(straight_track())


@pytest.fixture(scope="module")
def colour() -> Camera:
    return Camera(straight_track(), channels=3)


@pytest.fixture(scope="module")
def circle() -> Camera:
    return Camera(circle_track())


def see(camera: Camera, x: float, y: float, yaw: float, look: np.ndarray | None = None):  # noqa: ANN201
    out = np.zeros((1, 120, 160, camera.channels), np.uint8)
    looks = None if look is None else np.atleast_1d(look)
    camera.render(np.array([0]), np.array([x]), np.array([y]), np.array([yaw]), out, looks)
    return out[0] if camera.channels == 3 else out[0, :, :, 0]


def pixel_of(ahead_m: float, left_m: float, up_m: float = 0.0) -> tuple[float, float]:
    """Column and row (centres at whole numbers) of a point given from the car's origin.

    Written from the camera's data sheet alone: 640 x 480 shrunk to 160 x 120, 1.13 rad wide,
    0.14529 m ahead and 0.13033 m up, 0.2618 rad down.
    """
    focal_px = 320.0 / math.tan(1.13 / 2.0) / 4.0
    ahead, up = ahead_m - 0.14529, up_m - 0.13033
    depth = ahead * math.cos(0.2618) - up * math.sin(0.2618)
    above = ahead * math.sin(0.2618) + up * math.cos(0.2618)
    return 79.5 - focal_px * left_m / depth, 59.5 - focal_px * above / depth


def edge_col(row: np.ndarray, is_light: bool, from_col: int, to_col: int) -> float:
    """Column where brightness along a row first crosses the middle between road and line."""
    middle = (float(to_grey(STYLE.road)) + float(to_grey(STYLE.border_line))) / 2
    step = 1 if to_col > from_col else -1
    for col in range(from_col, to_col, step):
        if (row[col] > middle) == is_light:
            return col - step / 2
    raise AssertionError("no edge in the row")


@pytest.mark.parametrize("ahead_m", [0.45, 0.6, 0.9, 1.3, 2.0])
def test_border_lines_land_where_a_pinhole_puts_them(grey: Camera, ahead_m: float) -> None:
    picture = see(grey, 1.0, 0.0, 0.0)
    row = round(pixel_of(ahead_m, 0.0)[1])
    # The row's own distance, not that of the pixel it was rounded to.
    distances = np.linspace(ahead_m * 0.8, ahead_m * 1.3, 4001)
    rows = np.array([pixel_of(d, 0.0)[1] for d in distances])
    at_row = float(distances[np.abs(rows - row).argmin()])
    expected_left = pixel_of(at_row, 0.35)[0]  # inner edge of the line, 5 cm inside the border
    expected_right = pixel_of(at_row, -0.35)[0]
    if expected_left < 0:
        assert picture[row].max() < 200  # so near that the lines are out of sight
        return
    # Half a pixel for its width, half for the texel (5 mm are 0.9 pixels at 0.7 m).
    assert edge_col(picture[row], True, 70, -1) == pytest.approx(expected_left, abs=1.2)
    assert edge_col(picture[row], True, 89, 160) == pytest.approx(expected_right, abs=1.2)


def test_horizon_is_where_level_rays_are() -> None:
    # Level rays: 0.2618 rad above the image's middle, 59.5 - 126.1 * tan(0.2618) = 25.7.
    camera = Camera(straight_track(length_m=20.0))
    picture = see(camera, 1.0, 0.0, 0.0)
    # Half a pixel below it the ground is 126.1 / 0.5 * 0.13 m = 33 m away: behind the wall.
    assert np.isin(picture[:27], np.append(camera.scene.walls, camera.scene.sky)).all()
    # Straight ahead the wall's foot is 126.1 * 0.13 / 19.9 = 0.8 pixels below it.
    assert np.isin(picture[27, 75:85], camera.scene.walls).sum() == 0


def test_ground_begins_at_the_foot_of_the_wall(grey: Camera) -> None:
    # Facing the north wall, which stands 1 m behind the border at y = 0.4.
    picture = see(grey, 3.0, 0.0, np.pi / 2)
    foot = pixel_of(1.4, 0.0)[1]
    assert (picture[: math.floor(foot)] == grey.scene.walls[0]).all()
    assert (picture[math.ceil(foot) + 1] == to_grey(STYLE.field)).all()


def test_wall_ends_and_sky_begins_at_its_height() -> None:
    camera = Camera(straight_track(length_m=20.0))
    picture = see(camera, 1.0, 0.0, 0.0)
    top = pixel_of(20.0, 0.0, up_m=1.0)[1]
    assert picture[math.floor(top) - 1, 80] == camera.scene.sky[0]
    assert picture[math.ceil(top) + 1, 80] == camera.scene.walls[1]  # east


def test_room_corners_are_upright_where_a_pinhole_puts_them(grey: Camera) -> None:
    # From the middle, looking north-east, at the corner (7, 1.4).
    picture = see(grey, 6.0, 0.0, 0.6)
    dx, dy = grey.scene.right_m - 6.0, grey.scene.top_m
    ahead, left = dx * math.cos(0.6) + dy * math.sin(0.6), dy * math.cos(0.6) - dx * math.sin(0.6)
    for row, up_m in ((5, 0.36), (20, 0.21)):
        col, at_row = pixel_of(ahead, left, up_m)
        assert at_row == pytest.approx(row, abs=5)
        north, east = grey.scene.walls[0], grey.scene.walls[1]
        assert picture[row, math.floor(col) - 1] == north
        assert picture[row, math.ceil(col) + 2] == east


def test_a_straight_road_looks_the_same_left_and_right(grey: Camera) -> None:
    # On a whole texel, so that both sides round alike; rows up to 2.3 m ahead.
    picture = see(grey, 1.0, 0.0, 0.0)[33:].astype(int)
    style_noise = 8  # the road's mottling is not symmetric
    difference = np.abs(picture - picture[:, ::-1])
    assert np.mean(difference > style_noise) < 0.01


def test_grey_is_the_grey_of_the_colour_picture(grey: Camera, colour: Camera) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y, yaw = rng.uniform(0, 6), rng.uniform(-0.5, 0.5), rng.uniform(-np.pi, np.pi)
        rgb = see(colour, x, y, yaw).astype(float)
        luminance = 0.2989 * rgb[..., 0] + 0.5870 * rgb[..., 1] + 0.1140 * rgb[..., 2]
        assert np.abs(luminance - see(grey, x, y, yaw)).max() <= 1.5  # 1 after rounding
        assert np.abs(to_grey(rgb).astype(int) - see(grey, x, y, yaw)).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_do_not_depend_on_batch_or_threads(channels: int) -> None:
    camera = Camera(circle_track(), channels)
    rng = np.random.default_rng(1)
    x, y, yaw = rng.uniform(-3, 3, 9), rng.uniform(-3, 3, 9), rng.uniform(-4, 4, 9)
    cars = rng.permutation(9)
    together = np.zeros((9, 120, 160, channels), np.uint8)
    camera.render(cars, x, y, yaw, together)
    apart = np.zeros_like(together)
    for part in (slice(0, 1), slice(1, 4), slice(4, 9)):
        camera.render(cars[part], x[part], y[part], yaw[part], apart)
    np.testing.assert_array_equal(together, apart)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        camera.render(cars, x, y, yaw, apart)
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(together, apart)


def test_only_the_named_cars_are_drawn(grey: Camera) -> None:
    out = np.full((4, 120, 160, 1), 7, np.uint8)
    one = np.array([1.0, 1.0])
    grey.render(np.array([1, 3]), one, 0 * one, 0 * one, out)
    assert (out[[0, 2]] == 7).all()
    np.testing.assert_array_equal(out[1], out[3])


@pytest.mark.parametrize("x", [-50.0, 6.9, 1e6])
def test_a_camera_outside_the_walls_is_kept_inside(grey: Camera, x: float) -> None:
    for yaw in np.linspace(-np.pi, np.pi, 9):
        assert see(grey, x, 3.0, float(yaw)).min() >= 0


def test_wrong_pictures_and_cars_are_refused(grey: Camera) -> None:
    zero = np.zeros(1)
    with pytest.raises(ValueError, match="out must be contiguous"):
        grey.render(np.array([0]), zero, zero, zero, np.zeros((1, 120, 160, 3), np.uint8))
    with pytest.raises(ValueError, match=r"cars must be in \[0, 1\), got 1 to 1"):
        grey.render(np.array([1]), zero, zero, zero, np.zeros((1, 120, 160, 1), np.uint8))
    with pytest.raises(ValueError, match="channels must be 1"):
        Camera(straight_track(), channels=2)


def supersampled(camera: Camera, x: float, y: float, yaw: float, row: int) -> np.ndarray:
    """A row of the picture, each pixel the mean of 16 x 4 samples of the finest ground."""
    picture = to_grey(camera.ground.rgb).astype(float)
    focal_px = 320.0 / math.tan(1.13 / 2.0) / 4.0
    up = (59.5 - row + (np.arange(16) + 0.5) / 16 - 0.5)[:, None] / focal_px
    right = (np.arange(160)[:, None] + (np.arange(4) + 0.5) / 4 - 80.0).ravel()[None] / focal_px
    reach = 0.13033 / (math.sin(0.2618) - up * math.cos(0.2618))
    ahead = 0.14529 + reach * (math.cos(0.2618) + up * math.sin(0.2618))
    left = -reach * right
    world_x = x + ahead * math.cos(yaw) - left * math.sin(yaw)
    world_y = y + ahead * math.sin(yaw) + left * math.cos(yaw)
    col = ((world_x - camera.ground.left_m) / camera.ground.cell_m).astype(int)
    at = ((camera.ground.top_m - world_y) / camera.ground.cell_m).astype(int)
    inside = (col >= 0) & (col < picture.shape[1]) & (at >= 0) & (at < picture.shape[0])
    samples = picture[at.clip(0, picture.shape[0] - 1), col.clip(0, picture.shape[1] - 1)]
    samples = np.where(inside, samples, np.nan).reshape(16, 160, 4)
    return samples.mean(axis=(0, 2))


def test_far_lines_do_not_flicker_when_the_car_creeps(circle: Camera) -> None:
    rows = range(31, 50)  # 3 m to 0.9 m ahead, where a pixel covers 5 to 50 cm of road
    error, change = [], []
    for start in (0.3, 2.1, 4.4):
        ours, true = [], []
        for frame in range(8):
            angle = start + frame * 0.0015  # 3 mm a frame
            pose = 2.0 * math.cos(angle), 2.0 * math.sin(angle), angle + np.pi / 2
            ours.append(see(circle, *pose)[rows.start : rows.stop].astype(float))
            true.append(np.array([supersampled(circle, *pose, row) for row in rows]))
        is_ground = np.isfinite(np.sum(true, axis=0))
        error.append(np.abs(np.array(ours) - np.array(true))[:, is_ground].mean())
        change.append(np.abs(np.diff(ours, axis=0))[:, is_ground].mean())
    # Grey levels a pixel. Measured 1.65 and 0.76; the finest level alone is wrong by 4.2.
    assert np.mean(error) < 2.0
    assert np.mean(change) < 1.0


def test_plain_looks_change_nothing(colour: Camera, grey: Camera) -> None:
    look = plain_looks(1)
    np.testing.assert_array_equal(see(colour, 1.0, 0.1, 0.2, look), see(colour, 1.0, 0.1, 0.2))
    difference = see(grey, 1.0, 0.1, 0.2, look).astype(int) - see(grey, 1.0, 0.1, 0.2)
    assert np.abs(difference).max() <= 1


def test_default_randomization_samples_the_plain_look() -> None:
    config = RandomizationConfig()
    look = sample_look(config, episode_generator(3, 7))
    plain = plain_looks(1)[0]
    assert not config.changes_camera
    for name in set(look.dtype.names or ()) - {"noise_key"}:
        np.testing.assert_array_equal(look[name], plain[name])


def test_tints_reach_their_material_only(colour: Camera) -> None:
    look = plain_looks(1)
    look["field_gain"] = [1.5, 0.5, 1.0]
    plain, tinted = see(colour, 1.0, 0.0, 0.0), see(colour, 1.0, 0.0, 0.0, look)
    field = (plain == STYLE.field).all(axis=2)
    assert field.sum() > 300
    red, green, blue = STYLE.field
    assert (tinted[field] == [round(red * 1.5), round(green * 0.5), blue]).all()
    road = (np.abs(plain.astype(int) - STYLE.road) < 8).all(axis=2)
    np.testing.assert_array_equal(tinted[road], plain[road])


def test_brightness_and_contrast(colour: Camera) -> None:
    look = plain_looks(1)
    look["brightness"], look["contrast"] = 0.5, 0.5
    plain = see(colour, 1.0, 0.0, 0.0).astype(float)
    expected = 127.5 + (plain * 0.5 - 127.5) * 0.5
    assert np.abs(see(colour, 1.0, 0.0, 0.0, look) - expected).max() <= 0.51


def test_noise_has_its_sigma_and_is_fixed_by_episode_and_frame(colour: Camera) -> None:
    look = plain_looks(1)
    look["noise_sigma"], look["noise_key"] = 6.0, 12345
    plain = see(colour, 1.0, 0.0, 0.0).astype(float)
    noisy = see(colour, 1.0, 0.0, 0.0, look)
    assert (noisy - plain).std() == pytest.approx(6.0, rel=0.02)
    assert abs((noisy - plain).mean()) < 0.1
    np.testing.assert_array_equal(noisy, see(colour, 1.0, 0.0, 0.0, look))
    look["frame"] = 1
    again = see(colour, 1.0, 0.0, 0.0, look)
    # Fresh noise: uncorrelated with that of the frame before.
    assert abs(np.corrcoef((noisy - plain).ravel(), (again - plain).ravel())[0, 1]) < 0.02


def test_camera_pose_offsets_move_the_horizon_and_the_lines(grey: Camera) -> None:
    look = plain_looks(1)
    look["camera_pitch_rad"] = 0.05
    # Facing the wall; its foot is atan(0.13033 / 1.25471) = 0.1035 rad below the horizon.
    foot = 59.5 - 126.1 * math.tan(0.2618 + 0.05 - 0.1035)
    picture = see(grey, 3.0, 0.0, np.pi / 2, look)
    assert (np.abs(picture[: math.floor(foot)] - float(grey.scene.walls[0])) <= 1).all()
    assert (picture[math.ceil(foot) + 1] == to_grey(STYLE.field)).all()
    look = plain_looks(1)
    look["camera_yaw_rad"] = 0.1
    # Looking 0.1 rad to the left is what a car turned about its camera sees.
    x, y = 1.14529 - 0.14529 * math.cos(0.1), -0.14529 * math.sin(0.1)
    turned = see(grey, x, y, 0.1).astype(int)
    assert np.mean(np.abs(see(grey, 1.0, 0.0, 0.0, look) - turned) > 1) < 0.01
    look = plain_looks(1)
    look["camera_height_m"] = 0.05
    assert (see(grey, 1.0, 0.0, 0.0, look) != see(grey, 1.0, 0.0, 0.0)).any()


def test_ranges_out_of_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"randomization.brightness .* got \(1.2, 0.8\)"):
        RandomizationConfig(brightness=(1.2, 0.8))
    with pytest.raises(ValueError, match=r"randomization.camera_height_m .* got \(-0.2, 0.0\)"):
        RandomizationConfig(camera_height_m=(-0.2, 0.0))


def test_widening_one_range_leaves_the_other_draws_as_they_were() -> None:
    narrow = RandomizationConfig(brightness=(0.8, 1.2))
    wide = RandomizationConfig(brightness=(0.8, 1.2), road_tint=(0.5, 1.5), noise_sigma=(0, 9))
    looks = [sample_look(config, episode_generator(5, 2)) for config in (narrow, wide)]
    assert looks[0]["brightness"] == looks[1]["brightness"]
    assert looks[0]["noise_key"] == looks[1]["noise_key"]
    assert (looks[1]["road_gain"] != 1.0).all()
