"""The car: one table of parameters, one camera frame of physics, and a way to refit the table.

The model is a rigid body on four wheels that all turn at one speed. A wheel touches the ground
along its width; its two edges stand for that. Each contact resists slip with Coulomb friction,
across the wheel and along it independently of each other, up to friction times load: the
reference simulator's contact model. In a turn the outer wheels drag and the inner ones push,
because all turn at one speed, and the moment of that holds the car back. That, rather than lack
of side grip, makes it understeer from about 1 m/s on; above 2 m/s with the steering turned far
in it spins.

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
        # m/s: by how much the friction of each contact changed the car's speed in the last
        # substep. Where the search for the next substep's begins; see `drive` for the order.
        ("pushes_mps", "f8", (11,)),
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

    wheel_width_m: float = 0.034
    """Distance of a wheel's two edges. Vehicle description."""

    center_x_m: float = 0.002463
    """Centre of mass seen from the car's origin, forward positive. Vehicle description."""

    center_height_m: float = 0.0238
    """Height of the centre of mass, which shifts load between wheels. Vehicle description."""

    gyration_radius_m: float = 0.11
    """Root of yaw inertia over mass: 0.0832 kg m2 and 6.86 kg. Vehicle description."""

    top_speed_mps: float = 3.6
    """Fastest rim speed, whatever is commanded. Reference simulator: 100 rad/s."""

    substeps: int = 6
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
        front_x_m = self.rear_axle_x_m + self.wheelbase_m
        if not self.rear_axle_x_m < self.center_x_m < front_x_m:
            raise ValueError(
                f"car.center_x_m must lie between the axles, in ({self.rear_axle_x_m}, "
                f"{front_x_m}), got {self.center_x_m}"
            )
        if self.substeps != int(self.substeps) or self.substeps > 1000:
            raise ValueError(
                f"car.substeps must be a whole number from 1 to 1000, got {self.substeps}"
            )

    def numbers(self) -> CarNumbers:
        """Return the car as plain numbers for compiled kernels."""
        front_m = self.wheelbase_m + self.rear_axle_x_m
        center_to_front_m = front_m - self.center_x_m
        center_to_rear_m = self.center_x_m - self.rear_axle_x_m
        half_width_m = self.wheel_width_m / 2.0
        wheels_y2 = self.front_wheel_y_m**2 + self.rear_wheel_y_m**2
        substep_s = STEP_S / int(self.substeps)
        return CarNumbers(
            front_m=front_m,
            rear_m=-self.rear_axle_x_m,
            front_y_m=self.front_wheel_y_m,
            rear_y_m=self.rear_wheel_y_m,
            half_width_m=half_width_m,
            center_x_m=self.center_x_m,
            front_load_mps2=GRAVITY_MPS2 * center_to_rear_m / self.wheelbase_m,
            rear_load_mps2=GRAVITY_MPS2 * center_to_front_m / self.wheelbase_m,
            pitch=self.center_height_m / self.wheelbase_m,
            roll_1pm=self.center_height_m / (4.0 * (wheels_y2 + 2.0 * half_width_m**2)),
            max_steering_deg=self.max_steering_deg,
            min_speed_mps=self.min_speed_mps,
            max_speed_mps=self.max_speed_mps,
            top_speed_mps=self.top_speed_mps,
            steering_gain=1.0 - math.exp(-substep_s / self.steering_lag_s),
            steering_change_rad=self.steering_rate_radps * substep_s,
            rim_change_mps=self.rim_acceleration_mps2 * substep_s,
            side_friction=self.side_friction,
            drive_friction=self.drive_friction,
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
    "wheel_width_m",
    "center_height_m",
    "gyration_radius_m",
    "top_speed_mps",
    "substeps",
)


class CarNumbers(NamedTuple):
    """A `CarConfig` prepared for the kernels; loads and forces are per mass, in m/s2."""

    front_m: float
    """Origin to front axle."""
    rear_m: float
    """Origin to rear axle, positive."""
    front_y_m: float
    rear_y_m: float
    half_width_m: float
    """Middle of a wheel to its edges."""
    center_x_m: float
    """Origin to centre of mass."""
    front_load_mps2: float
    rear_load_mps2: float
    pitch: float
    """Load that a forward acceleration takes from the front axle, over the acceleration."""
    roll_1pm: float
    """Load that a leftward acceleration takes from a contact, a metre that it lies left."""
    max_steering_deg: float
    min_speed_mps: float
    max_speed_mps: float
    top_speed_mps: float
    steering_gain: float
    """Part of the way to the commanded steering that one substep covers."""
    steering_change_rad: float
    """Largest change of the steering in one substep."""
    rim_change_mps: float
    """Largest change of the rim speed in one substep."""
    side_friction: float
    drive_friction: float
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


@numba.njit(nogil=True, cache=True, inline="always")
def _resist(
    push: float, slip_mps: float, mass_share: float, limit_mps: float
) -> tuple[float, float]:
    """Return the push of a contact that stops its slip, or as much of it as friction allows.

    With it, by how much it has changed.
    """
    new = clip(push - slip_mps * mass_share, -limit_mps, limit_mps)
    return new, new - push


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
    forward, turn = body.forward_mps, body.yaw_rate_radps
    leftward = body.leftward_mps + turn * car.center_x_m  # from here on of the centre of mass
    rim, steering = body.rim_mps, body.steering_rad
    pushes = body.pushes_mps
    # Along the wheels: front and rear, left and right wheel, outer and inner edge.
    front_lo, front_li, front_ri, front_ro = pushes[0], pushes[1], pushes[2], pushes[3]
    rear_lo, rear_li, rear_ri, rear_ro = pushes[4], pushes[5], pushes[6], pushes[7]
    # Across the wheels. The edges of a wheel, and the rear wheels, slip sideways alike.
    side_l, side_r, side_rear = pushes[8], pushes[9], pushes[10]

    cos_yaw, sin_yaw = math.cos(yaw), math.sin(yaw)
    cos, sin = math.cos(steering), math.sin(steering)

    dt = car.substep_s
    inertia, per_inertia = car.gyration2, 1.0 / car.gyration2
    front_m, rear_m = car.front_m - car.center_x_m, car.rear_m + car.center_x_m
    rear_out_m, rear_in_m = car.rear_y_m + car.half_width_m, car.rear_y_m - car.half_width_m
    rear_out_share = inertia / (inertia + rear_out_m * rear_out_m)
    rear_in_share = inertia / (inertia + rear_in_m * rear_in_m)
    rear_side_share = inertia / (inertia + rear_m * rear_m)
    drive_friction = friction_scale * car.drive_friction
    side_per_drive = car.side_friction / car.drive_friction
    rim_target = min(speed_mps, car.top_speed_mps)
    for _ in range(car.substeps):
        rim += clip(rim_target - rim, -car.rim_change_mps, car.rim_change_mps)
        change_rad = clip(
            (steering_rad - steering) * car.steering_gain,
            -car.steering_change_rad,
            car.steering_change_rad,
        )
        steering += change_rad
        cos, sin = _turned(cos, sin, change_rad)
        # A wheel that is being steered drags its edges over the ground, one ahead, one back.
        scrub = car.half_width_m * change_rad / dt

        # The same velocity, seen from the car as it has turned meanwhile; then the pushes of the
        # last substep, which are almost this one's.
        cos_turn = 1.0 - 0.5 * (dt * turn) * (dt * turn)
        forward, leftward = (
            forward * cos_turn + leftward * dt * turn,
            leftward * cos_turn - forward * dt * turn,
        )
        front_drive = front_lo + front_li + front_ri + front_ro
        rear_drive = rear_lo + rear_li + rear_ri + rear_ro
        side = side_l + side_r
        along = front_drive * cos - side * sin + rear_drive
        across = front_drive * sin + side * cos + side_rear

        # Load on a contact: its share of the axle's, less what the accelerations take from it.
        front_load = drive_friction * 0.25 * (car.front_load_mps2 * dt - car.pitch * along)
        rear_load = drive_friction * 0.25 * (car.rear_load_mps2 * dt + car.pitch * along)
        roll_load = drive_friction * car.roll_1pm * across
        edge_m = car.half_width_m * cos
        front_lo_limit = max(front_load - roll_load * (car.front_y_m + edge_m), 0.0)
        front_li_limit = max(front_load - roll_load * (car.front_y_m - edge_m), 0.0)
        front_ri_limit = max(front_load + roll_load * (car.front_y_m - edge_m), 0.0)
        front_ro_limit = max(front_load + roll_load * (car.front_y_m + edge_m), 0.0)
        rear_lo_limit = max(rear_load - roll_load * rear_out_m, 0.0)
        rear_li_limit = max(rear_load - roll_load * rear_in_m, 0.0)
        rear_ri_limit = max(rear_load + roll_load * rear_in_m, 0.0)
        rear_ro_limit = max(rear_load + roll_load * rear_out_m, 0.0)

        # Lever arms about the centre of mass: a push turns the car by arm over inertia.
        mid_m, out_m = front_m * sin, car.front_y_m * cos
        lo_m, li_m = mid_m - out_m - car.half_width_m, mid_m - out_m + car.half_width_m
        ri_m, ro_m = mid_m + out_m - car.half_width_m, mid_m + out_m + car.half_width_m
        side_l_m = front_m * cos + car.front_y_m * sin
        side_r_m = front_m * cos - car.front_y_m * sin

        forward += along
        leftward += across
        # Pair by pair, so that a car that drives straight keeps exactly straight.
        turn += (
            (lo_m * front_lo + ro_m * front_ro)
            + (li_m * front_li + ri_m * front_ri)
            + rear_out_m * (rear_ro - rear_lo)
            + rear_in_m * (rear_ri - rear_li)
            + (side_l_m * side_l + side_r_m * side_r - rear_m * side_rear)
        ) * per_inertia

        # Correct the pushes, those of each left and right pair together, so that left and right
        # turns mirror each other. Once a substep is enough, since they begin where they were.
        limit = side_per_drive * (rear_lo_limit + rear_li_limit + rear_ri_limit + rear_ro_limit)
        side_rear, change = _resist(side_rear, leftward - rear_m * turn, rear_side_share, limit)
        leftward += change
        turn -= rear_m * change * per_inertia

        # Both front wheels slip almost alike, so each takes half of what one would have to.
        slip = leftward * cos - forward * sin
        share = 0.5 * inertia / (inertia + side_l_m * side_l_m)
        limit = side_per_drive * (front_lo_limit + front_li_limit)
        side_l, change_l = _resist(side_l, slip + side_l_m * turn, share, limit)
        share = 0.5 * inertia / (inertia + side_r_m * side_r_m)
        limit = side_per_drive * (front_ri_limit + front_ro_limit)
        side_r, change_r = _resist(side_r, slip + side_r_m * turn, share, limit)
        forward -= sin * (change_l + change_r)
        leftward += cos * (change_l + change_r)
        turn += (side_l_m * change_l + side_r_m * change_r) * per_inertia

        slip = forward * cos + leftward * sin - rim
        share = inertia / (inertia + lo_m * lo_m)
        front_lo, change_l = _resist(front_lo, slip + lo_m * turn - scrub, share, front_lo_limit)
        share = inertia / (inertia + ro_m * ro_m)
        front_ro, change_r = _resist(front_ro, slip + ro_m * turn + scrub, share, front_ro_limit)
        forward += cos * (change_l + change_r)
        leftward += sin * (change_l + change_r)
        turn += (lo_m * change_l + ro_m * change_r) * per_inertia

        slip = forward * cos + leftward * sin - rim
        share = inertia / (inertia + li_m * li_m)
        front_li, change_l = _resist(front_li, slip + li_m * turn + scrub, share, front_li_limit)
        share = inertia / (inertia + ri_m * ri_m)
        front_ri, change_r = _resist(front_ri, slip + ri_m * turn - scrub, share, front_ri_limit)
        forward += cos * (change_l + change_r)
        leftward += sin * (change_l + change_r)
        turn += (li_m * change_l + ri_m * change_r) * per_inertia

        slip = forward - rim
        rear_lo, change_l = _resist(
            rear_lo, slip - rear_out_m * turn, rear_out_share, rear_lo_limit
        )
        rear_ro, change_r = _resist(
            rear_ro, slip + rear_out_m * turn, rear_out_share, rear_ro_limit
        )
        forward += change_l + change_r
        turn += rear_out_m * (change_r - change_l) * per_inertia

        slip = forward - rim
        rear_li, change_l = _resist(rear_li, slip - rear_in_m * turn, rear_in_share, rear_li_limit)
        rear_ri, change_r = _resist(rear_ri, slip + rear_in_m * turn, rear_in_share, rear_ri_limit)
        forward += change_l + change_r
        turn += rear_in_m * (change_r - change_l) * per_inertia

        yaw += dt * turn
        cos_yaw, sin_yaw = _turned(cos_yaw, sin_yaw, dt * turn)
        origin_leftward = leftward - turn * car.center_x_m
        x += dt * (forward * cos_yaw - origin_leftward * sin_yaw)
        y += dt * (forward * sin_yaw + origin_leftward * cos_yaw)

    body.x, body.y, body.yaw = x, y, yaw
    body.forward_mps, body.yaw_rate_radps = forward, turn
    body.leftward_mps = leftward - turn * car.center_x_m
    body.rim_mps, body.steering_rad = rim, steering
    pushes[0], pushes[1], pushes[2], pushes[3] = front_lo, front_li, front_ri, front_ro
    pushes[4], pushes[5], pushes[6], pushes[7] = rear_lo, rear_li, rear_ri, rear_ro
    pushes[8], pushes[9], pushes[10] = side_l, side_r, side_rear


@numba.njit(nogil=True, cache=True)
def place(bodies: np.ndarray, i: int, x: float, y: float, yaw: float) -> None:
    """Put a car at a pose, standing still with straight wheels."""
    body = bodies[i]
    body.x, body.y, body.yaw = x, y, yaw
    body.forward_mps = body.leftward_mps = body.yaw_rate_radps = 0.0
    body.rim_mps = body.steering_rad = 0.0
    body.pushes_mps[:] = 0.0


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


_FITTED = ("side_friction", "drive_friction", "center_height_m")


def fit_car(
    measured: Sequence[TurnMeasurement],
    steps_to_speed: Sequence[tuple[float, int]] = (),
    start: CarConfig | None = None,
) -> CarConfig:
    """Return the car whose turning radii and speed response are nearest to measured ones.

    Fits both friction coefficients and the height of the centre of mass, which cannot be
    measured with a ruler; everything else stays as in ``start``. Errors count relative to the
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
    low, high = np.log([0.1, 0.1, 1e-3]), np.log([2.0, 2.0, 0.1])
    # Large difference steps: radii are smooth in the parameters, step counts are not.
    result = least_squares(
        errors, np.clip(first, low, high), bounds=(low, high), diff_step=0.02, max_nfev=40
    )
    return candidate(result.x)
