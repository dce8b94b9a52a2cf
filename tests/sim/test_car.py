import math
from dataclasses import replace

import numpy as np
import pytest

from sim.car import (
    BODY_DTYPE,
    CarConfig,
    TurnMeasurement,
    drive,
    driving_table,
    fit_car,
    place,
    wheel_points,
)

CAR = CarConfig()


def drive_steps(
    car: CarConfig, commands: list[tuple[float, float]], friction_scale: float = 1.0
) -> np.ndarray:
    """Return the body after each (steering rad, speed) command from rest at the origin."""
    bodies = np.zeros(1, BODY_DTYPE)
    states = []
    for steering_rad, speed_mps in commands:
        drive(car.numbers(), friction_scale, steering_rad, speed_mps, bodies, 0)
        states.append(bodies[0].copy())
    return np.array(states)


def test_turns_and_speeds_up_like_the_measured_car() -> None:
    slow, middle, fast = driving_table(CAR, [(0.5, 0.3), (1.5, 0.3), (3.0, 0.3)])
    # Measured in Gazebo: means of left and right; docs/parity.md has the whole table.
    assert slow.turn_radius_m == pytest.approx(0.615, rel=0.02)
    assert middle.turn_radius_m == pytest.approx(1.84, rel=0.05)
    assert fast.turn_radius_m == pytest.approx(4.59, rel=0.05)
    assert fast.steps_to_speed == 9


@pytest.mark.parametrize(("speed_mps", "steering_rad"), [(3.0, math.radians(30)), (4.0, 0.3)])
def test_spins_when_pushed_hard(speed_mps: float, steering_rad: float) -> None:
    assert driving_table(CAR, [(speed_mps, steering_rad)])[0].spins


def test_does_not_spin_at_training_speeds() -> None:
    commands = [(speed, math.radians(deg)) for speed in (1.0, 2.0) for deg in (15, 30)]
    assert not any(test.spins for test in driving_table(CAR, commands))


def test_narrow_car_drives_the_wheels_own_circle() -> None:
    # Without width no wheel drags or pushes, and the radius is that of the geometry: wheelbase /
    # tan(steering), measured at the origin, half a wheelbase ahead of the rear axle.
    narrow = replace(CAR, front_wheel_y_m=1e-3, rear_wheel_y_m=1e-3, wheel_width_m=1e-3)
    rear_m = CAR.wheelbase_m / math.tan(0.3)
    expected_m = math.hypot(rear_m, CAR.rear_axle_x_m)
    assert driving_table(narrow, [(0.5, 0.3)])[0].turn_radius_m == pytest.approx(
        expected_m, rel=0.01
    )


def test_understeers_more_the_faster_it_goes() -> None:
    radii_m = [t.turn_radius_m for t in driving_table(CAR, [(v, 0.3) for v in (0.5, 1, 2, 3)])]
    assert radii_m == sorted(radii_m)


def test_drives_straight_without_steering() -> None:
    last = drive_steps(CAR, [(0.0, 2.0)] * 45)[-1]
    assert last["y"] == 0.0 and last["yaw"] == 0.0
    assert last["forward_mps"] == pytest.approx(2.0, abs=0.01)
    # 3 s at 2 m/s, less what speeding up at friction's 4.9 m/s2 loses: 2 / (2 * 4.9) s.
    assert last["x"] == pytest.approx(2.0 * (3.0 - 2.0 / 9.8), abs=0.05)


def test_left_and_right_mirror_each_other() -> None:
    commands = [(0.4 * math.sin(0.4 * t), 1.0 + (t % 3)) for t in range(60)]
    left = drive_steps(CAR, commands)
    right = drive_steps(CAR, [(-steering, speed) for steering, speed in commands])
    np.testing.assert_allclose(left["x"], right["x"], atol=1e-9)
    np.testing.assert_allclose(left["y"], -right["y"], atol=1e-9)
    np.testing.assert_allclose(left["yaw"], -right["yaw"], atol=1e-9)


def test_same_motion_from_any_pose() -> None:
    commands = [(0.3, 1.5)] * 30
    at_origin = drive_steps(CAR, commands)[-1]
    bodies = np.zeros(1, BODY_DTYPE)
    place(bodies, 0, 2.0, -1.0, 2.5)
    for steering_rad, speed_mps in commands:
        drive(CAR.numbers(), 1.0, steering_rad, speed_mps, bodies, 0)
    turn = np.array([[math.cos(2.5), -math.sin(2.5)], [math.sin(2.5), math.cos(2.5)]])
    expected = np.array([2.0, -1.0]) + turn @ [at_origin["x"], at_origin["y"]]
    assert [bodies["x"][0], bodies["y"][0]] == pytest.approx(expected, abs=1e-9)


def test_standing_car_without_command_stays() -> None:
    last = drive_steps(CAR, [(0.0, 0.0)] * 10)[-1]
    assert last["x"] == 0.0 and last["forward_mps"] == 0.0


def test_less_friction_turns_wider_and_speeds_up_later() -> None:
    commands = [(0.0, 2.0)] * 5
    assert (
        drive_steps(CAR, commands, 0.5)[-1]["forward_mps"]
        < drive_steps(CAR, commands, 1.0)[-1]["forward_mps"]
    )


def test_car_that_stands_stays_whatever_the_steering() -> None:
    last = drive_steps(CAR, [(0.4, 0.0)] * 30)[-1]
    # Turning its front wheels on the spot moves it by less than a thousandth of a millimetre.
    assert max(abs(last["x"]), abs(last["y"])) < 1e-6 and abs(last["yaw"]) < 1e-4


def test_wheels_turn_no_faster_than_they_can() -> None:
    last = drive_steps(CAR, [(0.0, 4.0)] * 30)[-1]
    assert last["forward_mps"] == pytest.approx(3.6, abs=1e-6)


def test_speeds_up_and_brakes_with_all_the_friction_there_is() -> None:
    states = drive_steps(CAR, [(0.0, 3.0)] * 20 + [(0.0, 1.0)] * 3)["forward_mps"]
    # 0.5 * 9.8 m/s2 over 1/15 s a step.
    assert states[1] - states[0] == pytest.approx(4.9 / 15.0, rel=1e-6)
    assert states[20] - states[19] == pytest.approx(-4.9 / 15.0, rel=0.02)


def test_center_of_mass_and_inertia_are_those_of_the_vehicle_description() -> None:
    # Chassis, four wheels and two hinges as points on the ground plan; the chassis' own inertia.
    rear, front = (2 * 0.34055, CAR.rear_axle_x_m), (2 * 0.44055, 0.082311)
    mass_kg = 5.3 + rear[0] + front[0]
    center_m = (rear[0] * rear[1] + front[0] * front[1]) / mass_kg
    assert CAR.center_x_m == pytest.approx(center_m, abs=1e-6)
    inertia_kgm2 = 0.0616 + 4 * 0.00026046 + 2 * 4e-5 + 5.3 * center_m**2
    for (part_kg, x_m), y_m in ((rear, CAR.rear_wheel_y_m), (front, CAR.front_wheel_y_m)):
        inertia_kgm2 += part_kg * ((x_m - center_m) ** 2 + y_m**2)
    assert CAR.gyration_radius_m == pytest.approx(math.sqrt(inertia_kgm2 / mass_kg), rel=0.002)


def test_more_substeps_change_little() -> None:
    commands = [(speed, angle) for speed in (0.5, 1.0, 2.0, 3.0) for angle in (0.1, 0.3)]
    coarse = driving_table(CAR, commands)
    fine = driving_table(replace(CAR, substeps=60), commands)
    for one, other in zip(coarse, fine, strict=True):
        assert one.turn_radius_m == pytest.approx(other.turn_radius_m, rel=0.02)


def test_stays_finite_whatever_is_commanded() -> None:
    rng = np.random.default_rng(3)
    limit_rad = math.radians(CAR.max_steering_deg)
    commands = [(rng.uniform(-limit_rad, limit_rad), rng.uniform(0.1, 4.0)) for _ in range(2000)]
    for friction_scale in (0.05, 1.0, 4.0):
        states = drive_steps(CAR, commands, friction_scale)
        speeds_mps = np.hypot(states["forward_mps"], states["leftward_mps"])
        assert speeds_mps.max() < 5.0
        assert np.abs(states["yaw_rate_radps"]).max() < 50.0


def test_wheels_stand_where_the_vehicle_description_has_them() -> None:
    wheels = np.zeros((4, 2))
    wheel_points(CAR.numbers(), 1.0, 2.0, math.pi / 2, wheels)
    # Looking along +y: ahead is +y, left is -x.
    expected = [
        (1.0 - 0.079601, 2.0 + 0.082311),
        (1.0 + 0.079601, 2.0 + 0.082311),
        (1.0 - 0.08105, 2.0 - 0.081663),
        (1.0 + 0.08105, 2.0 - 0.081663),
    ]
    np.testing.assert_allclose(wheels, expected, atol=1e-12)


def test_fit_finds_a_car_that_drives_like_the_measured_one() -> None:
    other = replace(CAR, drive_friction=0.48, side_friction=0.52, center_height_m=0.03)
    commands = [(0.5, 0.3), (1.0, 0.5), (1.5, 0.3), (2.0, 0.2)]
    measured = [
        TurnMeasurement(test.speed_mps, test.steering_rad, test.turn_radius_m)
        for test in driving_table(other, commands)
    ]
    fitted = driving_table(fit_car(measured), commands)
    for got, wanted in zip(fitted, measured, strict=True):
        assert got.turn_radius_m == pytest.approx(wanted.turn_radius_m, rel=0.03)


@pytest.mark.parametrize("measured", [[], [TurnMeasurement(1.0, 0.3, math.nan)]])
def test_fit_refuses_useless_measurements(measured: list[TurnMeasurement]) -> None:
    with pytest.raises(ValueError, match="must"):
        fit_car(measured)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("side_friction", 0.0),
        ("wheel_width_m", math.nan),
        ("max_steering_deg", 90.0),
        ("min_speed_mps", 5.0),
        ("rear_axle_x_m", 0.1),
        ("center_x_m", 0.2),
        ("substeps", 0),
        ("substeps", 1.5),
    ],
)
def test_impossible_car_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"car.{name}"):
        replace(CAR, **{name: value})
