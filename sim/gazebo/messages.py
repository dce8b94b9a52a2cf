"""rospy and the classes of the plugin's own messages, generated from its .msg and .srv files.

ROS is not on PyPI. Debian's python3-rospy is plain Python: where the interpreter does not see it by
itself (a virtual environment), the folder of Debian's packages is searched after all others.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

DEBIAN_PACKAGES = "/usr/lib/python3/dist-packages"
PACKAGE = "car_simulator"
_INTERFACE = Path(__file__).parent / "plugin"
_MESSAGES = ("CarState", "DriveCommand", "File")
_SERVICES = ("Load", "Place", "Step")


class Ros(NamedTuple):
    """What the client needs of ROS."""

    rospy: Any
    rosgraph: Any
    TCPROSTransport: Any
    """rospy's connection to a service."""
    msg: Any
    """The plugin's messages as classes."""
    srv: Any
    """The plugin's services as classes."""


@cache
def import_ros() -> Ros:
    """Return rospy and the plugin's interface.

    Raises:
        RuntimeError: If rospy is not installed.
    """
    rospy, rosgraph = _import("rospy"), _import("rosgraph")
    msg, srv = _generate_classes()
    transport = _import("rospy.impl.tcpros_base").TCPROSTransport
    return Ros(rospy, rosgraph, transport, msg, srv)


def _import(name: str) -> Any:
    # By name: ROS comes from Debian, which the project's list of PyPI packages cannot say.
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        if DEBIAN_PACKAGES not in sys.path:
            sys.path.append(DEBIAN_PACKAGES)
            importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"the Gazebo simulator needs {name} ({error}): sudo apt install python3-rospy"
        ) from None


def _generate_classes() -> tuple[ModuleType, ModuleType]:
    """Compile the interface files into modules, as ROS's own build would."""
    loader = _import("genmsg.msg_loader")
    generator = _import("genpy.generator")
    context = loader.MsgContext.create_default()
    search_path = {PACKAGE: [str(_INTERFACE / "msg")]}
    package, msg, srv = (ModuleType(PACKAGE + part) for part in ("", ".msg", ".srv"))
    package.msg, package.srv = msg, srv  # type: ignore[attr-defined]
    sys.modules |= {module.__name__: module for module in (package, msg, srv)}
    for name in _MESSAGES:
        path = str(_INTERFACE / "msg" / f"{name}.msg")
        spec = loader.load_msg_from_file(context, path, f"{PACKAGE}/{name}")
        loader.load_depends(context, spec, search_path)
        exec("\n".join(generator.msg_generator(context, spec, search_path)), msg.__dict__)
    for name in _SERVICES:
        path = str(_INTERFACE / "srv" / f"{name}.srv")
        spec = loader.load_srv_from_file(context, path, f"{PACKAGE}/{name}")
        loader.load_depends(context, spec, search_path)
        for part in (spec.request, spec.response):
            lines = generator.msg_generator(context, part, search_path)
            exec("\n".join(lines), srv.__dict__)
        exec("\n".join(generator.srv_generator(context, spec, search_path)), srv.__dict__)
    return msg, srv
