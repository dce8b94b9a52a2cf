"""The car: one table of parameters, one camera frame of physics, and a way to refit the table.

The model is a rigid body on four wheels that all turn at one speed. The tyres of an axle share
their side force; every wheel has its own drive force; each force saturates at friction times
load, the two directions independently of each other (the reference simulator's contact model
does the same). In a turn the outer wheels drag and the inner ones push, because all turn at one
speed, and the moment of that holds the car back. That, rather than lack of side grip, makes it
understeer from about 1 m/s on; above 2 m/s with the steering turned far in it spins.

Measuring the model (`driving_table`) and fitting it to a measured car (`fit_car`) live here too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numba
import numpy as np

STEP_S = 1.0 / 15.0
"""One step is one camera frame."""

GRAVITY_MPS2 = 9.8

BODY_DTYPE = np.dtype(
    [
        ("x", "f8"),  # m, world frame: the car's origin, taken as its centre of mass
        ("y", "f8"),
        ("yaw", "f8"),  # rad, not wrapped
        ("forward_mps", "f8"),  # velocity of the origin in the car's frame
        ("leftward_mps", "f8"),
        ("yaw_rate_radps", "f8"),
        ("rim_mps", "f8"),  # speed of all four wheels at the rim
        ("steering_rad", "f8"),  # left positive
    ]
)
"""How one car moves."""


@dataclass(frozen=True)
class CarConfig:
    """Everything that decides how the car drives; docs/simulator.md repeats it as a table."""

    wheelbase_m: float = 0.163974
    """Rear axle to front hinges. Vehicle description: 0.082311 + 0.081663."""

    rear_axle_x_m: float = -0.081663
    """Rear axle seen from the car's origin, forward positive. Vehicle description."""

    rear_wheel_y_m: float = 0.08105
    """Rear wheels left and right of the car's axis. Vehicle description."""

    front_wheel_y_m: float = 0.079601
    """Front hinges left and right of the car's axis. Vehicle description."""

    max_steering_deg: float = 30.0
    """Commands beyond +- this are clipped. The service's action range."""

    min_speed_mps: float = 0.1
    """Slower commands are clipped up to this. The service's action range."""

    max_speed_mps: float = 4.0
    """Faster commands are clipped down to this. The service's action range."""

    steering_lag_s: float = 0.025
    """Time constant of the steering. Reference simulator: a velocity motor of gain 40 / s."""

    steering_rate_radps: float = 10.0
    """Fastest turn of the steering. Reference simulator: limit of that motor."""

    rim_acceleration_mps2: float = 16.0
    """How fast the wheels' rim speed changes: 0.5 Nm less friction, 0.00041 kg m2 a wheel."""

    side_friction: float = 0.5
    """Largest side force over load. The wheels' friction coefficient."""

    drive_friction: float = 0.5
    """Largest drive or braking force over load. The wheels' friction coefficient."""

    side_slip_mps: float = 0.003
    """Sideways slip at which a tyre reaches 71 % of its largest side force. Fitted."""

    drive_slip_mps: float = 0.02
    """Lengthways slip at which a wheel reaches 71 % of its largest drive force. Fitted."""

    gyration_radius_m: float = 0.106
    """Root of yaw inertia over mass: 0.08 kg m2 and 7.1 kg in the reference simulator."""

    substeps: int = 10
    """Physics steps in one camera frame. More moves turning radii by less than 2 %."""

    def __post_init__(self) -> None:
        """Refuse values that the physics cannot be computed with."""
        for name in _POSITIVE:
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"car.{name} must be a number > 0, got {value!r}")
        if self.min_speed_mps >= self.max_speed_mps:
            raise ValueError(
                f"car.min_speed_mps must be below car.max_speed_mps ({self.max_speed_mps}), "
                f"got {self.min_speed_mps}"
            )
        if self.max_steering_deg >= 90.0:
            raise ValueError(f"car.max_steering_deg must be below 90, got {self.max_steering_deg}")
        if not -self.wheelbase_m < self.rear_axle_x_m < 0.0:
            raise ValueError(
                f"car.rear_axle_x_m must lie in (-{self.wheelbase_m}, 0): the origin is between "
                f"the axles, got {self.rear_axle_x_m}"
            )
        if self.substeps != int(self.substeps) or self.substeps > 1000:
            raise ValueError(
                f"car.substeps must be a whole number from 1 to 1000, got {self.substeps}"
            )

    def numbers(self) -> CarNumbers:
        """Return the car as plain numbers for compiled kernels."""
        front_m = self.wheelbase_m + self.rear_axle_x_m
        substep_s = STEP_S / int(self.substeps)
        return CarNumbers(
            front_m=front_m,
            rear_m=-self.rear_axle_x_m,
            front_y_m=self.front_wheel_y_m,
            rear_y_m=self.rear_wheel_y_m,
            front_load_mps2=GRAVITY_MPS2 * -self.rear_axle_x_m / self.wheelbase_m,
            rear_load_mps2=GRAVITY_MPS2 * front_m / self.wheelbase_m,
            max_steering_deg=self.max_steering_deg,
            min_speed_mps=self.min_speed_mps,
            max_speed_mps=self.max_speed_mps,
            steering_gain=1.0 - math.exp(-substep_s / self.steering_lag_s),
            steering_change_rad=self.steering_rate_radps * substep_s,
            rim_change_mps=self.rim_acceleration_mps2 * substep_s,
            side_friction=self.side_friction,
            drive_friction=self.drive_friction,
            side_slip2=self.side_slip_mps**2,
            drive_slip2=self.drive_slip_mps**2,
            gyration2=self.gyration_radius_m**2,
            substep_s=substep_s,
            substeps=int(self.substeps),
        )


_POSITIVE = (
    "wheelbase_m",
    "rear_wheel_y_m",
    "front_wheel_y_m",
    "max_steering_deg",
    "min_speed_mps",
    "max_speed_mps",
    "steering_lag_s",
    "steering_rate_radps",
    "rim_acceleration_mps2",
    "side_friction",
    "drive_friction",
    "side_slip_mps",
    "drive_slip_mps",
    "gyration_radius_m",
    "substeps",
)


class CarNumbers(NamedTuple):
    """A `CarConfig` prepared for the kernels; forces are per mass, in m/s2."""

    front_m: float
    """Origin to front axle."""
    rear_m: float
    """Origin to rear axle, positive."""
    front_y_m: float
    rear_y_m: float
    front_load_mps2: float
    rear_load_mps2: float
    max_steering_deg: float
    min_speed_mps: float
    max_speed_mps: float
    steering_gain: float
    """Part of the way to the commanded steering that one substep covers."""
    steering_change_rad: float
    """Largest change of the steering in one substep."""
    rim_change_mps: float
    """Largest change of the rim speed in one substep."""
    side_friction: float
    drive_friction: float
    side_slip2: float
    drive_slip2: float
    gyration2: float
    substep_s: float
    substeps: int


@numba.njit(nogil=True, cache=True, inline="always")
def clip(value: float, low: float, high: float) -> float:
    """Return the value, or the limit that it exceeds."""
    return min(max(value, low), high)


@numba.njit(nogil=True, cache=True, inline="always")
def _turned(cos: float, sin: float, angle_rad: float) -> tuple[float, float]:
    """Return cosine and sine after turning by a small angle.

    A tenth of the time of computing them anew; wrong by angle^5 / 120, and only until the end
    of the frame.
    """
    square = angle_rad * angle_rad
    cos_turn = 1.0 - square * (0.5 - square / 24.0)
    sin_turn = angle_rad * (1.0 - square / 6.0)
    return cos * cos_turn - sin * sin_turn, sin * cos_turn + cos * sin_turn


@numba.njit(nogil=True, cache=True, error_model="numpy")
def drive(
    car: CarNumbers,
    friction_scale: float,
    steering_rad: float,
    speed_mps: float,
    bodies: np.ndarray,
    i: int,
) -> None:
    """Move one car for one camera frame.

    Args:
        car: The car's parameters.
        friction_scale: Multiplies both friction coefficients.
        steering_rad: Commanded steering, left positive, within the car's limits.
        speed_mps: Commanded speed, within the car's limits.
        bodies: Array of `BODY_DTYPE`, changed in place.
        i: Index of the car in it.
    """
    body = bodies[i]
    x, y, yaw = body.x, body.y, body.yaw
    forward, leftward, turn = body.forward_mps, body.leftward_mps, body.yaw_rate_radps
    rim, steering = body.rim_mps, body.steering_rad

    cos_yaw, sin_yaw = math.cos(yaw), math.sin(yaw)
    cos, sin = math.cos(steering), math.sin(steering)

    dt = car.substep_s
    front_side = friction_scale * car.side_friction * car.front_load_mps2
    rear_side = friction_scale * car.side_friction * car.rear_load_mps2
    front_drive = friction_scale * car.drive_friction * car.front_load_mps2 / 2.0
    rear_drive = friction_scale * car.drive_friction * car.rear_load_mps2 / 2.0
    for _ in range(car.substeps):
        rim += clip(speed_mps - rim, -car.rim_change_mps, car.rim_change_mps)
        change_rad = clip(
            (steering_rad - steering) * car.steering_gain,
            -car.steering_change_rad,
            car.steering_change_rad,
        )
        steering += change_rad
        cos, sin = _turned(cos, sin, change_rad)

        # A force is its friction limit times slip / sqrt(slip2 + small2), so its resistance
        # (force over slip) is finite at rest and the slip's own sign does the rest.
        front_leftward = leftward + turn * car.front_m
        slip = front_leftward * cos - forward * sin
        front_grip = front_side / math.sqrt(slip * slip + car.side_slip2)
        front_force = -front_grip * slip
        slip = leftward - turn * car.rear_m
        rear_grip = rear_side / math.sqrt(slip * slip + car.side_slip2)
        rear_force = -rear_grip * slip

        ahead = forward * cos + front_leftward * sin - rim
        apart = turn * car.front_y_m * cos
        slip = ahead - apart
        front_left_pull = front_drive / math.sqrt(slip * slip + car.drive_slip2)
        front_left = -front_left_pull * slip
        slip = ahead + apart
        front_right_pull = front_drive / math.sqrt(slip * slip + car.drive_slip2)
        front_right = -front_right_pull * slip
        slip = forward - turn * car.rear_y_m - rim
        rear_left_pull = rear_drive / math.sqrt(slip * slip + car.drive_slip2)
        rear_left = -rear_left_pull * slip
        slip = forward + turn * car.rear_y_m - rim
        rear_right_pull = rear_drive / math.sqrt(slip * slip + car.drive_slip2)
        rear_right = -rear_right_pull * slip

        front_along = (front_left + front_right) * cos - front_force * sin
        front_across = (front_left + front_right) * sin + front_force * cos
        along = front_along + rear_left + rear_right + turn * leftward
        across = front_across + rear_force - turn * forward
        moment = (
            car.front_m * front_across
            - car.rear_m * rear_force
            + car.front_y_m * (front_right - front_left) * cos
            + car.rear_y_m * (rear_right - rear_left)
        )

        # The forces resist slip so steeply that a plain explicit step would ring: treat each
        # velocity's own resistance implicitly (the steady state stays exactly the same).
        front_pull = front_left_pull + front_right_pull
        rear_pull = rear_left_pull + rear_right_pull
        front_resists_along = front_pull * cos * cos + front_grip * sin * sin
        front_resists_across = front_pull * sin * sin + front_grip * cos * cos
        turn_resistance = (
            front_resists_across * car.front_m * car.front_m
            + rear_grip * car.rear_m * car.rear_m
            + front_pull * cos * cos * car.front_y_m * car.front_y_m
            + rear_pull * car.rear_y_m * car.rear_y_m
        )
        forward += dt * along / (1.0 + dt * (front_resists_along + rear_pull))
        leftward += dt * across / (1.0 + dt * (front_resists_across + rear_grip))
        turn += dt * moment / (car.gyration2 + dt * turn_resistance)

        yaw += dt * turn
        cos_yaw, sin_yaw = _turned(cos_yaw, sin_yaw, dt * turn)
        x += dt * (forward * cos_yaw - leftward * sin_yaw)
        y += dt * (forward * sin_yaw + leftward * cos_yaw)

    body.x, body.y, body.yaw = x, y, yaw
    body.forward_mps, body.leftward_mps, body.yaw_rate_radps = forward, leftward, turn
    body.rim_mps, body.steering_rad = rim, steering


@numba.njit(nogil=True, cache=True)
def place(bodies: np.ndarray, i: int, x: float, y: float, yaw: float) -> None:
    """Put a car at a pose, standing still with straight wheels."""
    body = bodies[i]
    body.x, body.y, body.yaw = x, y, yaw
    body.forward_mps = body.leftward_mps = body.yaw_rate_radps = 0.0
    body.rim_mps = body.steering_rad = 0.0


@numba.njit(nogil=True, cache=True)
def wheel_points(car: CarNumbers, x: float, y: float, yaw: float, wheels: np.ndarray) -> None:
    """Write the four wheel positions of a car at a pose.

    Args:
        car: The car's parameters.
        x: Origin in m, world frame.
        y: Origin in m, world frame.
        yaw: Direction in rad.
        wheels: Written: front left, front right, rear left, rear right, shape (4, 2).
    """
    cos = math.cos(yaw)
    sin = math.sin(yaw)
    for wheel in range(4):
        is_front = wheel < 2
        ahead = car.front_m if is_front else -car.rear_m
        left = car.front_y_m if is_front else car.rear_y_m
        if wheel % 2 == 1:
            left = -left
        wheels[wheel, 0] = x + ahead * cos - left * sin
        wheels[wheel, 1] = y + ahead * sin + left * cos


class DrivingTest(NamedTuple):
    """One constant command and what the car does with it, from rest."""

    speed_mps: float
    steering_rad: float
    turn_radius_m: float
    """Radius of the origin's path once steady; infinite when straight or spinning."""
    steady_speed_mps: float
    """Speed of the origin once steady."""
    steps_to_speed: int
    """Camera frames until 95 % of the steady speed, driving straight."""
    largest_sideslip_rad: float
    """Largest angle between where the car looks and where it goes, steered from rest."""

    @property
    def spins(self) -> bool:
        """Whether the car comes round when started with the steering already turned in."""
        return self.largest_sideslip_rad > math.pi / 2.0


_STRAIGHT_STEPS = 30
_TEST_STEPS = 90
_STEADY_STEPS = 15


def driving_table(car: CarConfig, commands: Sequence[tuple[float, float]]) -> list[DrivingTest]:
    """Measure how the car answers constant commands.

    Args:
        car: The car.
        commands: Pairs of speed in m/s and steering in rad.
    """
    return [_driving_test(car.numbers(), speed, steering) for speed, steering in commands]


def _driving_test(car: CarNumbers, speed_mps: float, steering_rad: float) -> DrivingTest:
    steered_late = _constant_drive(car, speed_mps, steering_rad, straight_steps=_STRAIGHT_STEPS)
    velocity_mps = np.hypot(steered_late["forward_mps"], steered_late["leftward_mps"])
    steady = slice(-_STEADY_STEPS, None)
    yaw_rate_radps = steered_late["yaw_rate_radps"][steady].mean()
    straight = _constant_drive(car, speed_mps, 0.0, straight_steps=0)["forward_mps"]
    at_once = _constant_drive(car, speed_mps, steering_rad, straight_steps=0)
    sideslip_rad = np.arctan2(at_once["leftward_mps"], at_once["forward_mps"])
    return DrivingTest(
        speed_mps=speed_mps,
        steering_rad=steering_rad,
        turn_radius_m=(
            float(velocity_mps[steady].mean() / abs(yaw_rate_radps)) if yaw_rate_radps else math.inf
        ),
        steady_speed_mps=float(velocity_mps[steady].mean()),
        steps_to_speed=int(np.argmax(straight >= 0.95 * straight[-1])) + 1,
        largest_sideslip_rad=float(np.abs(sideslip_rad).max()),
    )


def _constant_drive(
    car: CarNumbers, speed_mps: float, steering_rad: float, straight_steps: int
) -> np.ndarray:
    """Return the body after each step of a drive from rest, shape (_TEST_STEPS,)."""
    body = np.zeros(1, BODY_DTYPE)
    states = np.zeros(_TEST_STEPS, BODY_DTYPE)
    for step in range(_TEST_STEPS):
        drive(car, 1.0, steering_rad if step >= straight_steps else 0.0, speed_mps, body, 0)
        states[step] = body[0]
    return states


class TurnMeasurement(NamedTuple):
    """One row of a measured table: the radius a real or simulated car drove."""

    speed_mps: float
    steering_rad: float
    turn_radius_m: float


_FITTED = ("drive_friction", "side_slip_mps", "drive_slip_mps")


def fit_car(
    measured: Sequence[TurnMeasurement],
    steps_to_speed: Sequence[tuple[float, int]] = (),
    start: CarConfig | None = None,
) -> CarConfig:
    """Return the car whose turning radii and speed response are nearest to measured ones.

    Fits drive friction and the two slip speeds, which cannot be read off a vehicle
    description; everything else stays as in ``start``. Errors count relative to the
    measured value.

    Args:
        measured: Turning radii at steady speeds.
        steps_to_speed: Pairs of commanded speed in m/s and the camera frames from rest to 95 %.
        start: Where the search begins, and where all other parameters come from.

    Raises:
        ValueError: If nothing was measured, or a measurement is not a positive number.
    """
    if not measured:
        raise ValueError("measured must hold at least one turning radius, got none")
    for row in measured:
        if not (math.isfinite(row.turn_radius_m) and row.turn_radius_m > 0.0):
            raise ValueError(f"turn_radius_m must be a number > 0, got {row.turn_radius_m}")
    from scipy.optimize import least_squares

    base = start or CarConfig()

    def candidate(log_values: np.ndarray) -> CarConfig:
        values = np.exp(log_values).tolist()
        return replace(base, **dict(zip(_FITTED, values, strict=True)))

    def errors(log_values: np.ndarray) -> list[float]:
        car = candidate(log_values).numbers()
        turns = [
            math.log(_driving_test(car, row.speed_mps, row.steering_rad).turn_radius_m)
            - math.log(row.turn_radius_m)
            for row in measured
        ]
        responses = [
            _driving_test(car, speed, 0.0).steps_to_speed / steps - 1.0
            for speed, steps in steps_to_speed
        ]
        return turns + responses

    first = np.log([getattr(base, name) for name in _FITTED])
    low, high = np.log([0.1, 5e-4, 2e-3]), np.log([2.0, 0.2, 0.5])
    # Large difference steps: radii are smooth in the parameters, step counts are not.
    result = least_squares(
        errors, np.clip(first, low, high), bounds=(low, high), diff_step=0.02, max_nfev=40
    )
    return candidate(result.x)
