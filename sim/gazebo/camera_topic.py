"""Reads a simulator's camera topic as any ROS node may, without ROS: for viewers on the host.

A reader asks the ROS master who publishes, that node where it sends, and connects there. It
registers nothing, so that nothing is left behind in the simulator when it ends.
"""

from __future__ import annotations

import socket
import struct
import xmlrpc.client
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.gazebo.client import MASTER_PORT

TOPIC = "/racecar/camera/zed/rgb/image_rect_color"
"""What the first car sees; one picture a step, published while somebody listens."""

_CALLER = "/viewer"
_TYPE = "sensor_msgs/Image"
_MOST_BYTES = 16 * 2**20
_STILL_S = 1.0


@dataclass(frozen=True)
class Picture:
    """One picture and when it was taken."""

    time_s: float
    """Simulated time."""
    rgb: np.ndarray
    """Shape (height, width, 3), uint8, row 0 on top."""


class CameraTopic:
    """The pictures of one simulator's first car, from now on."""

    def __init__(self, host: str, limit_s: float = 3.0) -> None:
        """Connect.

        Args:
            host: Name or address of the simulator.
            limit_s: Longest to wait for each answer.

        Raises:
            ConnectionError: If the simulator does not answer.
            LookupError: If it runs no world yet.
        """
        try:
            self._socket = self._connect(host, limit_s)
        except (OSError, xmlrpc.client.Error) as error:
            raise ConnectionError(f"{host} does not answer: {error}") from None

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()

    def pictures(self) -> Iterator[Picture | None]:
        """Yield pictures as they arrive; None whenever none came for a second.

        Raises:
            ConnectionError: If the simulator is gone.
        """
        held = b""
        self._socket.settimeout(_STILL_S)
        while True:
            try:
                data = self._socket.recv(2**18)
            except TimeoutError:
                yield None
                continue
            if not data:
                raise ConnectionError("the simulator has ended")
            held += data
            while len(held) >= 4:
                size = int.from_bytes(held[:4], "little")
                if size > _MOST_BYTES:
                    raise ConnectionError(f"a picture of {size} bytes is none")
                if len(held) < 4 + size:
                    break
                message, held = held[4 : 4 + size], held[4 + size :]
                yield read_image(message)

    def _connect(self, host: str, limit_s: float) -> socket.socket:
        master = _server(f"http://{host}:{MASTER_PORT}", limit_s)
        publishers = dict(_value(master.getSystemState(_CALLER))[0]).get(TOPIC)
        if not publishers:
            raise LookupError(f"{host} runs no world yet")
        node = _server(_value(master.lookupNode(_CALLER, publishers[0])), limit_s)
        _, address, port = _value(node.requestTopic(_CALLER, TOPIC, [["TCPROS"]]))
        connection = socket.create_connection((address, port), timeout=limit_s)
        fields = {"callerid": _CALLER, "topic": TOPIC, "type": _TYPE, "md5sum": "*"}
        header = b"".join(
            _sized(f"{name}={value}".encode()) for name, value in (fields | _NODELAY).items()
        )
        try:
            connection.sendall(_sized(header))
            answer = _receive(connection, int.from_bytes(_receive(connection, 4), "little"))
            if b"error=" in answer:
                raise ConnectionError(answer.partition(b"error=")[2].decode("utf-8", "replace"))
        except BaseException:
            connection.close()
            raise
        return connection


_NODELAY = {"tcp_nodelay": "1"}


def read_image(message: bytes) -> Picture:
    """Return the picture of a serialized sensor_msgs/Image in rgb8.

    Raises:
        ConnectionError: If it is none.
    """
    try:
        _, seconds, nanoseconds, offset = *struct.unpack_from("<III", message), 12
        _, offset = _text(message, offset)  # frame
        height, width = struct.unpack_from("<II", message, offset)
        encoding, offset = _text(message, offset + 8)
        size = int.from_bytes(message[offset + 5 : offset + 9], "little")
        if encoding != b"rgb8" or size != height * width * 3:
            raise ValueError(f"{encoding!r}, {size} bytes")
        rgb = np.frombuffer(message, np.uint8, size, offset + 9).reshape(height, width, 3)
    except (struct.error, ValueError) as error:
        raise ConnectionError(f"a message of {TOPIC} is no picture: {error}") from None
    return Picture(seconds + 1e-9 * nanoseconds, rgb)


def _text(message: bytes, offset: int) -> tuple[bytes, int]:
    end = offset + 4 + int.from_bytes(message[offset : offset + 4], "little")
    return message[offset + 4 : end], end


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("the connection was closed")
        data += part
    return data


class _Transport(xmlrpc.client.Transport):
    """XML-RPC over HTTP with a time limit."""

    def __init__(self, limit_s: float) -> None:
        super().__init__()
        self._limit_s = limit_s

    def make_connection(self, host: Any) -> Any:
        connection = super().make_connection(host)
        connection.timeout = self._limit_s
        return connection


def _server(uri: str, limit_s: float) -> Any:
    return xmlrpc.client.ServerProxy(uri, transport=_Transport(limit_s))


def _value(answer: Any) -> Any:
    """Return the value of a ROS answer: status, message, value."""
    status, message, value = answer
    if status != 1:
        raise ConnectionError(message)
    return value
