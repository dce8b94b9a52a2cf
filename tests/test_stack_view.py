"""The page that shows what simulators see: its server, and the reader of a camera's topic."""

from __future__ import annotations

import io
import json
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from local_trainer.errors import ConfigError
from local_trainer.launch.compose import Simulator
from local_trainer.launch.stack_view import png, serve
from sim.gazebo.camera_topic import Picture, read_image


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """The page for one simulator at an address where nobody answers."""
    server = serve(lambda: [Simulator("sim-1", "127.0.0.1")], 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def get(server: ThreadingHTTPServer, path: str, **headers: str) -> bytes:
    url = f"http://127.0.0.1:{server.server_port}{path}"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
        body: bytes = answer.read()
    return body


def status(server: ThreadingHTTPServer, path: str, **headers: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as raised:
        get(server, path, **headers)
    return raised.value.code


def test_page_loads_nothing_from_elsewhere(server: ThreadingHTTPServer) -> None:
    page = get(server, "/").decode()
    assert "What the cars see" in page
    assert "http://" not in page and "https://" not in page and " src=" not in page


def test_simulator_that_does_not_answer_is_named(server: ThreadingHTTPServer) -> None:
    (one,) = json.loads(get(server, "/state"))
    assert one["name"] == "sim-1" and one["time_s"] is None
    assert one["steps_per_second"] == 0.0
    assert status(server, "/picture/sim-1") == 404


def test_only_this_machine_by_its_own_name_is_answered(server: ThreadingHTTPServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert status(server, "/state", Host="elsewhere.example:80") == 403
    assert status(server, "/../../etc/passwd") == 404


def test_taken_port_is_one_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port must be one that is free, got {port}"):
            serve(lambda: [], port)


def image_message(rgb: np.ndarray, encoding: bytes = b"rgb8") -> bytes:
    """Return a sensor_msgs/Image as ROS puts it on the wire (its documented field order)."""
    height, width, _ = rgb.shape
    text = struct.pack("<III", 7, 12, 500_000_000) + struct.pack("<I", 3) + b"cam"
    text += struct.pack("<III", height, width, len(encoding)) + encoding
    return text + struct.pack("<BII", 0, 3 * width, rgb.size) + rgb.tobytes()


def test_camera_message_is_read() -> None:
    rgb = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    picture = read_image(image_message(rgb))
    assert picture.time_s == 12.5
    assert np.array_equal(picture.rgb, rgb)
    with Image.open(io.BytesIO(png(Picture(0.0, rgb)))) as shown:
        assert np.array_equal(np.asarray(shown), rgb)


@pytest.mark.parametrize("cut", [0, 10, 30])
def test_damaged_camera_message_is_refused(cut: int) -> None:
    message = image_message(np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(ConnectionError, match="no picture"):
        read_image(message[:cut])
    with pytest.raises(ConnectionError, match="no picture"):
        read_image(image_message(np.zeros((2, 3, 3), np.uint8), b"mono8"))
