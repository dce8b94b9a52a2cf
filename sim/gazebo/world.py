"""A track and a car as a Gazebo world: SDF text and the files it refers to.

What the world shows and how the car drives come from the same places as the embedded simulator's:
`sim.ground` paints the ground, `sim.camera` says where the camera is and what surrounds it,
`sim.car.CarConfig` how the car is built. Gazebo's physics alone is its own.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from sim.camera import (
    CAMERA_FORWARD_M,
    CAMERA_HEIGHT_M,
    CAMERA_PITCH_RAD,
    FIELD_OF_VIEW_RAD,
    WALL_HEIGHT_M,
    wall_colors,
)
from sim.car import GRAVITY_MPS2, STEP_S, CarConfig
from sim.ground import Ground, draw_ground
from sim.simulator import CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX
from sim.track import Track

ITERATIONS_PER_STEP = 33
"""Physics iterations in one camera frame, 2.02 ms each."""

WORLD_NAME = "track"
CAR_NAME = "racecar"
FOLDER = "{folder}"
"""Stands in the SDF for the folder that the server puts the files into."""

WHEEL_RADIUS_M = 0.036
WHEEL_SPIN_INERTIA_KGM2 = 0.00041226
WHEEL_TURN_INERTIA_KGM2 = 0.00026046
CAR_MASS_KG = 6.8622
"""Vehicle description: chassis, body and camera 5.3 kg, wheels 0.34055 kg, hinges 0.1 kg."""

# How the mass is dealt out. The solver passes forces on from body to body, a little further each
# iteration; between bodies as different as the description's (53 to 1) it stops half way, and then
# left and right turns come out different. Only the whole decides how the car drives.
_WHEEL_MASS_KG = 0.8
_HINGE_MASS_KG = 0.6
_HINGE_INERTIA_KGM2 = 1e-3
_CHASSIS_ROLL_PITCH_INERTIA_KGM2 = (0.0116, 0.0534)
_LEAST_YAW_INERTIA_KGM2 = 1e-3

_SOLVER_ITERATIONS = 50
_OVER_RELAXATION = 1.6

# A wheel's edge stands on a damped spring: 8 N push it in by 0.03 mm. Much harder and the load is
# shared by chance, much softer or with less damping and the car rocks on its wheels; either shows
# in the radius of its turns (docs/parity.md).
_CONTACT_STIFFNESS_NPM = 2.5e5
_CONTACT_DAMPING_NSPM = 800.0

_MAX_TEXTURE_PX = 8192
"""What any OpenGL driver takes; a longer ground gets a coarser picture."""

_WALL_THICKNESS_M = 0.01


@dataclass(frozen=True)
class World:
    """What the server needs to start Gazebo."""

    sdf: str
    files: dict[str, bytes]

    @property
    def digest(self) -> str:
        """Tells worlds apart."""
        digest = hashlib.sha256(self.sdf.encode())
        for name in sorted(self.files):
            digest.update(name.encode() + b"\0" + self.files[name])
        return digest.hexdigest()


def write_world(track: Track, car: CarConfig | None = None) -> World:
    """Return the world of a track with one car in it.

    Args:
        track: Where to drive; the direction does not matter.
        car: How the car is built.

    Raises:
        ValueError: If the car cannot be built of parts.
    """
    car = car or CarConfig()
    ground = draw_ground(track)
    root = ElementTree.Element("sdf", version="1.6")
    world = _add(root, "world", name=WORLD_NAME)
    _add_light(world, ground)
    _add_physics(world)
    _add_ground(world, ground)
    _add_walls(world, ground)
    _add_car(world, car)
    _add_plugin(world, car)
    ElementTree.indent(root)
    sdf = '<?xml version="1.0"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
    return World(sdf, {"ground.png": _texture(ground), "ground.material": _MATERIAL.encode()})


# The picture shows its own colours: it glows, and there is no light. Read like the embedded camera
# does: the nearest texel, of a level between what a pixel covers lengthways and across.
_MATERIAL = """\
material track/ground
{
  technique
  {
    pass
    {
      ambient 0 0 0
      diffuse 0 0 0
      specular 0 0 0 0
      emissive 1 1 1
      texture_unit
      {
        texture ground.png
        tex_address_mode clamp
        filtering point point linear
        mipmap_bias -1.5
      }
    }
  }
}
"""


def _texture(ground: Ground) -> bytes:
    rgb = ground.rgb
    shrink = math.ceil(max(rgb.shape[:2]) / _MAX_TEXTURE_PX)
    image = Image.fromarray(rgb)
    if shrink > 1:
        image = image.reduce(shrink)
    png = io.BytesIO()
    image.save(png, "PNG", compress_level=1)
    return png.getvalue()


# XML.


def _add(
    parent: ElementTree.Element, tag: str, text: object = None, **attributes: str
) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag, attributes)
    if text is not None:
        element.text = _text(text)
    return element


def _text(value: object) -> str:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, tuple | list | np.ndarray):
        return " ".join(_text(float(part)) for part in value)
    return str(value)


def _add_light(world: ElementTree.Element, ground: Ground) -> None:
    scene = _add(world, "scene")
    _add(scene, "ambient", (0.0, 0.0, 0.0, 1.0))
    _add(scene, "background", [*(part / 255.0 for part in ground.style.sky), 1.0])
    _add(scene, "shadows", 0)


def _add_physics(world: ElementTree.Element) -> None:
    _add(world, "gravity", (0.0, 0.0, -GRAVITY_MPS2))
    physics = _add(world, "physics", type="ode")
    _add(physics, "max_step_size", STEP_S / ITERATIONS_PER_STEP)
    _add(physics, "real_time_update_rate", 0)  # as fast as it can
    solver = _add(_add(physics, "ode"), "solver")
    _add(solver, "type", "quick")
    _add(solver, "iters", _SOLVER_ITERATIONS)
    _add(solver, "sor", _OVER_RELAXATION)


def _add_ground(world: ElementTree.Element, ground: Ground) -> None:
    width_m, height_m = ground.right_m - ground.left_m, ground.top_m - ground.bottom_m
    middle = ((ground.left_m + ground.right_m) / 2, (ground.top_m + ground.bottom_m) / 2)
    model = _add(world, "model", name="ground")
    _add(model, "static", "true")
    link = _add(model, "link", name="link")
    collision = _add(link, "collision", name="collision")
    _add_plane(collision, 100.0, 100.0)
    ode = _add(_add(_add(collision, "surface"), "friction"), "ode")
    # The wheels' coefficients count: contacts take the smaller of two.
    _add(ode, "mu", 100.0)
    _add(ode, "mu2", 100.0)
    visual = _add(link, "visual", name="picture")
    _add(visual, "pose", (*middle, 0.0, 0.0, 0.0, 0.0))
    _add(visual, "cast_shadows", "false")
    _add_plane(visual, width_m, height_m)
    script = _add(_add(visual, "material"), "script")
    _add(script, "uri", f"file://{FOLDER}")
    _add(script, "name", "track/ground")


def _add_plane(parent: ElementTree.Element, width_m: float, height_m: float) -> None:
    plane = _add(_add(parent, "geometry"), "plane")
    _add(plane, "normal", (0.0, 0.0, 1.0))
    _add(plane, "size", (width_m, height_m))


def _add_walls(world: ElementTree.Element, ground: Ground) -> None:
    """Surround the ground; walls are seen, not felt, as in the embedded simulator."""
    middle_x, middle_y = (ground.left_m + ground.right_m) / 2, (ground.top_m + ground.bottom_m) / 2
    out_m = _WALL_THICKNESS_M / 2
    along_x = (ground.right_m - ground.left_m + 4 * out_m, _WALL_THICKNESS_M, WALL_HEIGHT_M)
    along_y = (_WALL_THICKNESS_M, ground.top_m - ground.bottom_m, WALL_HEIGHT_M)
    sides = (
        ("north", middle_x, ground.top_m + out_m, along_x),
        ("east", ground.right_m + out_m, middle_y, along_y),
        ("south", middle_x, ground.bottom_m - out_m, along_x),
        ("west", ground.left_m - out_m, middle_y, along_y),
    )
    model = _add(world, "model", name="walls")
    _add(model, "static", "true")
    link = _add(model, "link", name="link")
    for (name, x, y, size_m), color in zip(sides, wall_colors(ground.style), strict=True):
        visual = _add(link, "visual", name=name)
        _add(visual, "pose", (x, y, WALL_HEIGHT_M / 2, 0.0, 0.0, 0.0))
        _add(visual, "cast_shadows", "false")
        _add(_add(_add(visual, "geometry"), "box"), "size", size_m)
        _add_color(visual, tuple(int(part) for part in color))


def _add_color(visual: ElementTree.Element, rgb: tuple[int, ...]) -> None:
    material = _add(visual, "material")
    for name in ("ambient", "diffuse", "specular"):
        _add(material, name, (0.0, 0.0, 0.0, 1.0))
    _add(material, "emissive", [*(part / 255.0 for part in rgb), 1.0])


def _add_car(world: ElementTree.Element, car: CarConfig) -> None:
    model = _add(world, "model", name=CAR_NAME)
    # A body that ODE puts to sleep would start its next step differently.
    _add(model, "allow_auto_disable", "false")
    _add_chassis(model, car)
    front_x_m = car.rear_axle_x_m + car.wheelbase_m
    for side, sign in (("left", 1.0), ("right", -1.0)):
        rear = (car.rear_axle_x_m, sign * car.rear_wheel_y_m, WHEEL_RADIUS_M)
        front = (front_x_m, sign * car.front_wheel_y_m, WHEEL_RADIUS_M)
        hinge = f"{side}_steering_hinge"
        _add_wheel(model, f"{side}_rear_wheel", rear, car)
        _add_wheel(model, f"{side}_front_wheel", front, car)
        link = _add_link(model, hinge, front, _HINGE_MASS_KG, (_HINGE_INERTIA_KGM2,) * 3)
        _add(link, "self_collide", "false")
        _add_joint(model, f"{hinge}_joint", "chassis", hinge, (0.0, 0.0, 1.0), limit_rad=1.0)
        for end, parent in (("rear", "chassis"), ("front", hinge)):
            wheel = f"{side}_{end}_wheel"
            _add_joint(model, f"{wheel}_joint", parent, wheel, (0.0, 1.0, 0.0), limit_rad=1e16)


def _add_chassis(model: ElementTree.Element, car: CarConfig) -> None:
    mass_kg, x_m, height_m, yaw_kgm2 = _chassis(car)
    inertia = (*_CHASSIS_ROLL_PITCH_INERTIA_KGM2, yaw_kgm2)
    link = _add_link(model, "chassis", (x_m, 0.0, height_m), mass_kg, inertia)
    visual = _add(link, "visual", name="body")
    _add(visual, "pose", (-0.03 - x_m, 0.0, 0.08 - height_m, 0.0, 0.0, 0.0))
    _add(_add(_add(visual, "geometry"), "box"), "size", (0.22, 0.12, 0.06))
    _add_color(visual, (25, 25, 128))
    sensor = _add(link, "sensor", name="camera", type="camera")
    at = (CAMERA_FORWARD_M - x_m, 0.0, CAMERA_HEIGHT_M - height_m)
    _add(sensor, "pose", (*at, 0.0, CAMERA_PITCH_RAD, 0.0))
    _add(sensor, "always_on", 0)  # the plugin takes the pictures
    _add(sensor, "update_rate", 15)
    camera = _add(sensor, "camera")
    _add(camera, "horizontal_fov", FIELD_OF_VIEW_RAD)
    image = _add(camera, "image")
    _add(image, "width", CAMERA_WIDTH_PX)
    _add(image, "height", CAMERA_HEIGHT_PX)
    _add(image, "format", "R8G8B8")
    clip = _add(camera, "clip")
    _add(clip, "near", 0.02)
    _add(clip, "far", 300)


def _chassis(car: CarConfig) -> tuple[float, float, float, float]:
    """Return what is left of the car for the chassis, in kg, m, m and kg m2.

    Mass, place of its centre (forward of the origin, above ground) and yaw inertia, so that all
    parts together have the car's.
    """
    front_x_m = car.rear_axle_x_m + car.wheelbase_m
    # Left and right alike: mass, forward, sideways, yaw inertia of each pair's parts.
    pairs = (
        (_WHEEL_MASS_KG, car.rear_axle_x_m, car.rear_wheel_y_m, WHEEL_TURN_INERTIA_KGM2),
        (_WHEEL_MASS_KG, front_x_m, car.front_wheel_y_m, WHEEL_TURN_INERTIA_KGM2),
        (_HINGE_MASS_KG, front_x_m, car.front_wheel_y_m, _HINGE_INERTIA_KGM2),
    )
    others_kg = 2.0 * sum(mass for mass, *_ in pairs)
    mass_kg = CAR_MASS_KG - others_kg
    forward = CAR_MASS_KG * car.center_x_m - 2.0 * sum(mass * x for mass, x, *_ in pairs)
    x_m = forward / mass_kg
    height_m = (CAR_MASS_KG * car.center_height_m - others_kg * WHEEL_RADIUS_M) / mass_kg
    yaw_kgm2 = CAR_MASS_KG * car.gyration_radius_m**2 - mass_kg * (x_m - car.center_x_m) ** 2
    for part_kg, x, y, own_kgm2 in pairs:
        yaw_kgm2 -= 2.0 * (own_kgm2 + part_kg * ((x - car.center_x_m) ** 2 + y**2))
    if yaw_kgm2 < _LEAST_YAW_INERTIA_KGM2:
        missing_kgm2 = _LEAST_YAW_INERTIA_KGM2 - yaw_kgm2
        least_m = math.sqrt(car.gyration_radius_m**2 + missing_kgm2 / CAR_MASS_KG)
        raise ValueError(
            f"car.gyration_radius_m must be at least {least_m:.3f} with Gazebo, where wheels have "
            f"mass, got {car.gyration_radius_m}"
        )
    return mass_kg, x_m, height_m, yaw_kgm2


def _add_wheel(
    model: ElementTree.Element, name: str, at: tuple[float, float, float], car: CarConfig
) -> None:
    inertia = (WHEEL_TURN_INERTIA_KGM2, WHEEL_SPIN_INERTIA_KGM2, WHEEL_TURN_INERTIA_KGM2)
    link = _add_link(model, name, at, _WHEEL_MASS_KG, inertia)
    collision = _add(link, "collision", name="collision")
    surface = _add(collision, "surface")
    friction = _add(_add(surface, "friction"), "ode")
    _add(friction, "mu", car.side_friction)
    _add(friction, "mu2", car.drive_friction)
    _add(friction, "fdir1", (0.0, 0.0, 1.0))  # mu acts along the axle
    contact = _add(_add(surface, "contact"), "ode")
    _add(contact, "kp", _CONTACT_STIFFNESS_NPM)
    _add(contact, "kd", _CONTACT_DAMPING_NSPM)
    _add(contact, "min_depth", 0.0005)
    for part in (collision, _add(link, "visual", name="tyre")):
        # A cylinder stands on its end: lay it on its side.
        _add(part, "pose", (0.0, 0.0, 0.0, math.pi / 2, 0.0, 0.0))
        cylinder = _add(_add(part, "geometry"), "cylinder")
        _add(cylinder, "radius", WHEEL_RADIUS_M)
        _add(cylinder, "length", car.wheel_width_m)
    _add_color(part, (13, 13, 13))


def _add_link(
    model: ElementTree.Element,
    name: str,
    at: tuple[float, float, float],
    mass_kg: float,
    inertia_kgm2: tuple[float, ...],
) -> ElementTree.Element:
    link = _add(model, "link", name=name)
    _add(link, "pose", (*at, 0.0, 0.0, 0.0))
    inertial = _add(link, "inertial")
    _add(inertial, "mass", mass_kg)
    inertia = _add(inertial, "inertia")
    for axis, value in zip(("ixx", "iyy", "izz"), inertia_kgm2, strict=True):
        _add(inertia, axis, value)
    for axis in ("ixy", "ixz", "iyz"):
        _add(inertia, axis, 0)
    return link


def _add_joint(
    model: ElementTree.Element,
    name: str,
    parent: str,
    child: str,
    along: tuple[float, float, float],
    limit_rad: float,
) -> None:
    joint = _add(model, "joint", name=name, type="revolute")
    _add(joint, "parent", parent)
    _add(joint, "child", child)
    axis = _add(joint, "axis")
    _add(axis, "xyz", along)
    limit = _add(axis, "limit")
    _add(limit, "lower", -limit_rad)
    _add(limit, "upper", limit_rad)


def _add_plugin(world: ElementTree.Element, car: CarConfig) -> None:
    plugin = _add(world, "plugin", name="lockstep", filename="libcar_simulator.so")
    _add(plugin, "iterations_per_step", ITERATIONS_PER_STEP)
    _add(plugin, "wheel_torque_nm", wheel_torque_nm(car))
    _add(plugin, "steering_gain", 1.0 / car.steering_lag_s)
    _add(plugin, "steering_rate_radps", car.steering_rate_radps)


def wheel_torque_nm(car: CarConfig) -> float:
    """Return the motor torque that changes a slipping wheel's rim speed as fast as the car says."""
    friction_nm = car.drive_friction * CAR_MASS_KG * GRAVITY_MPS2 / 4 * WHEEL_RADIUS_M
    return friction_nm + car.rim_acceleration_mps2 / WHEEL_RADIUS_M * WHEEL_SPIN_INERTIA_KGM2
