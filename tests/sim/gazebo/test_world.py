import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from sim.camera import CAMERA_FORWARD_M, CAMERA_HEIGHT_M, CAMERA_PITCH_RAD
from sim.car import CarConfig
from sim.gazebo.world import CAR_MASS_KG, World, wheel_torque_nm, write_world
from sim.ground import draw_ground
from sim.track import Track
from sim.track_files import load_track

MASS_AND_YAW = ("mass", "inertia/izz")


@pytest.fixture(scope="module")
def track() -> Track:
    return load_track("Oval_track")


@pytest.fixture(scope="module")
def world(track: Track) -> World:
    return write_world(track)


def numbers(element: ElementTree.Element | None) -> list[float]:
    assert element is not None and element.text is not None
    return [float(part) for part in element.text.split()]


def test_ground_wears_the_embedded_simulators_picture(track: Track, world: World) -> None:
    ground = draw_ground(track)
    texture = np.asarray(Image.open(io.BytesIO(world.files["ground.png"])))
    assert (texture == ground.rgb).all()
    root = ElementTree.fromstring(world.sdf)
    visual = root.find(".//visual[@name='picture']")
    assert visual is not None
    x, y, *rest = numbers(visual.find("pose"))
    width_m, height_m = numbers(visual.find("geometry/plane/size"))
    assert (x - width_m / 2, y + height_m / 2) == pytest.approx((ground.left_m, ground.top_m))
    assert (x + width_m / 2, y - height_m / 2) == pytest.approx((ground.right_m, ground.bottom_m))
    assert rest == [0.0] * 4


def test_camera_is_where_the_embedded_one_is(world: World) -> None:
    chassis = ElementTree.fromstring(world.sdf).find(".//link[@name='chassis']")
    assert chassis is not None
    forward_m, _, height_m, *_ = numbers(chassis.find("pose"))
    x, y, z, roll, pitch, yaw = numbers(chassis.find("sensor/pose"))
    assert (x + forward_m, y, z + height_m) == pytest.approx(
        (CAMERA_FORWARD_M, 0.0, CAMERA_HEIGHT_M)
    )
    assert (roll, pitch, yaw) == (0.0, CAMERA_PITCH_RAD, 0.0)


def test_car_is_built_by_its_table(track: Track) -> None:
    car = CarConfig(wheelbase_m=0.18, rear_axle_x_m=-0.08, side_friction=0.7, drive_friction=0.6)
    root = ElementTree.fromstring(write_world(track, car).sdf)
    rear = numbers(root.find(".//link[@name='left_rear_wheel']/pose"))
    front = numbers(root.find(".//link[@name='right_front_wheel']/pose"))
    assert rear[:2] == pytest.approx([-0.08, car.rear_wheel_y_m])
    assert front[:2] == pytest.approx([0.1, -car.front_wheel_y_m])
    for wheel in ("left_rear", "right_rear", "left_front", "right_front"):
        friction = root.find(f".//link[@name='{wheel}_wheel']//friction/ode")
        assert friction is not None
        assert numbers(friction.find("mu")) == [0.7]
        assert numbers(friction.find("mu2")) == [0.6]


def test_parts_together_are_the_whole_car(track: Track) -> None:
    car = CarConfig(center_x_m=0.004, center_height_m=0.03, gyration_radius_m=0.12)
    root = ElementTree.fromstring(write_world(track, car).sdf)
    parts = []
    for link in root.findall(".//model[@name='racecar']/link"):
        (mass_kg,), (yaw_kgm2,) = (numbers(link.find(f"inertial/{n}")) for n in MASS_AND_YAW)
        parts.append((mass_kg, *numbers(link.find("pose"))[:3], yaw_kgm2))
    mass_kg, x, y, z, yaw_kgm2 = np.array(parts).T
    assert len(parts) == 7 and (mass_kg > 0).all() and (yaw_kgm2 > 0).all()
    assert mass_kg.sum() == pytest.approx(CAR_MASS_KG)
    center = [np.average(along, weights=mass_kg) for along in (x, y, z)]
    assert center == pytest.approx([0.004, 0.0, 0.03], abs=1e-9)
    whole_kgm2 = (yaw_kgm2 + mass_kg * ((x - 0.004) ** 2 + y**2)).sum()
    assert whole_kgm2 == pytest.approx(CAR_MASS_KG * 0.12**2)


def test_a_car_lighter_at_its_ends_than_its_wheels_is_refused(track: Track) -> None:
    with pytest.raises(ValueError, match=r"gyration_radius_m must be at least 0.0\d+ .*got 0.05"):
        write_world(track, CarConfig(gyration_radius_m=0.05))


def test_wheels_get_the_torque_of_the_car_they_imitate() -> None:
    # The vehicle description: 0.5 Nm a wheel. The table rounds the rim acceleration.
    assert wheel_torque_nm(CarConfig()) == pytest.approx(0.5, rel=0.04)


def test_time_in_a_step_is_a_camera_frame(world: World) -> None:
    root = ElementTree.fromstring(world.sdf)
    step_s = numbers(root.find(".//max_step_size"))[0]
    iterations = numbers(root.find(".//plugin/iterations_per_step"))[0]
    assert step_s * iterations == pytest.approx(1 / 15, rel=1e-12)
    assert step_s == pytest.approx(0.002, rel=0.02)


def test_worlds_differ_by_track_and_car(track: Track, world: World) -> None:
    assert write_world(track).digest == world.digest
    assert write_world(track, CarConfig(side_friction=0.6)).digest != world.digest
    assert write_world(load_track("Straight_track")).digest != world.digest


def test_walls_surround_the_ground(track: Track, world: World) -> None:
    ground = draw_ground(track)
    root = ElementTree.fromstring(world.sdf)
    inner_faces = {}
    for side in ("north", "east", "south", "west"):
        wall = root.find(f".//visual[@name='{side}']")
        assert wall is not None
        x, y, z, *_ = numbers(wall.find("pose"))
        size_x, size_y, size_z = numbers(wall.find("geometry/box/size"))
        assert z == size_z / 2
        inner_faces[side] = {
            "north": y - size_y / 2,
            "south": y + size_y / 2,
            "east": x - size_x / 2,
            "west": x + size_x / 2,
        }[side]
    assert inner_faces == pytest.approx(
        {
            "north": ground.top_m,
            "south": ground.bottom_m,
            "east": ground.right_m,
            "west": ground.left_m,
        }
    )
