"""What the cars in the stack's simulators see, as a page on this machine while they drive.

A reader a simulator keeps the newest picture, only while somebody looks at the page. Nothing is
written to a simulator.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image

from local_trainer.errors import ConfigError
from local_trainer.launch.compose import Simulator
from sim.gazebo.camera_topic import CameraTopic, Picture
from sim.simulator import STEPS_PER_SECOND

_UNSEEN_S = 5.0
_RETRY_S = 1.0
_LIST_S = 2.0
_RATE_S = 2.0
"""Over how long the rate of pictures is taken."""

_PAGE = Path(__file__).with_name("stack_view.html")


class Reader:
    """The newest picture of one simulator, read by a thread of its own while somebody looks."""

    def __init__(self, simulator: Simulator) -> None:
        """Note the simulator; nothing is read before `look`."""
        self.simulator = simulator
        self.picture: Picture | None = None
        self.state = "connects …"
        """What the page says of it."""
        self._arrivals: list[float] = []
        self._looked = 0.0
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Note that somebody looks, and begin to read if nobody did."""
        self._looked = time.monotonic()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def steps_per_second(self) -> float:
        """Return how many steps arrived each second lately."""
        now = time.monotonic()
        return sum(now - at < _RATE_S for at in list(self._arrivals)) / _RATE_S

    def _work(self) -> None:
        while self._is_looked_at():
            try:
                topic = CameraTopic(self.simulator.address)
            except LookupError:
                self._rest("no world is loaded: nothing drives in it yet")
                continue
            except ConnectionError as error:
                self._rest(f"does not answer: {error}")
                continue
            try:
                self.state = "stands still"
                for picture in topic.pictures():
                    if not self._is_looked_at():
                        return
                    self._take(picture)
            except ConnectionError as error:
                self._rest(str(error))
            finally:
                topic.close()

    def _take(self, picture: Picture | None) -> None:
        if picture is None:
            self.state = "stands still"
            return
        now = time.monotonic()
        self._arrivals = [at for at in self._arrivals if now - at < _RATE_S] + [now]
        self.picture, self.state = picture, "drives"

    def _rest(self, state: str) -> None:
        self.state, self.picture, self._arrivals = state, None, []
        time.sleep(_RETRY_S)  # between two attempts

    def _is_looked_at(self) -> bool:
        return time.monotonic() - self._looked < _UNSEEN_S


class View:
    """All simulators of the stack, as far as somebody looks."""

    def __init__(self, find: Callable[[], list[Simulator]]) -> None:
        """Take what finds the simulators that run."""
        self._find = find
        self._readers: dict[Simulator, Reader] = {}
        self._listed = 0.0
        self._lock = threading.Lock()

    def readers(self) -> list[Reader]:
        """Return a reader for each simulator that runs, by name, and note that somebody looks."""
        with self._lock:
            if time.monotonic() - self._listed > _LIST_S:
                found = self._find()
                self._readers = {one: self._readers.get(one) or Reader(one) for one in found}
                self._listed = time.monotonic()
            readers = list(self._readers.values())
        for reader in readers:
            reader.look()
        return readers

    def state(self) -> list[dict[str, object]]:
        """Return what the page shows of each simulator."""
        return [
            {
                "name": reader.simulator.name,
                "state": reader.state,
                "time_s": reader.picture.time_s if reader.picture else None,
                "steps_per_second": reader.steps_per_second(),
                "real_time_factor": reader.steps_per_second() / STEPS_PER_SECOND,
            }
            for reader in self.readers()
        ]

    def picture(self, name: str) -> bytes | None:
        """Return a simulator's newest picture as PNG, None if there is none."""
        for reader in self.readers():
            if reader.simulator.name == name and reader.picture is not None:
                return png(reader.picture)
        return None


def png(picture: Picture) -> bytes:
    """Return a picture as PNG."""
    file = io.BytesIO()
    Image.fromarray(picture.rgb).save(file, "PNG", compress_level=1)
    return file.getvalue()


def serve(find: Callable[[], list[Simulator]], port: int) -> ThreadingHTTPServer:
    """Return a server of the page on loopback; ``serve_forever`` runs it.

    Args:
        find: Returns the simulators that run.
        port: Where; 0 takes any that is free.

    Raises:
        ConfigError: If the port is taken.
    """
    view = View(find)

    class Handler(BaseHTTPRequestHandler):
        """Answers GET alone, and only who means this machine by its own name."""

        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            path = self.path.partition("?")[0]
            if host not in ("127.0.0.1", "localhost"):
                # A page from elsewhere whose name was made to point here.
                self._answer(403, "text/plain", b"only for this machine")
            elif path == "/":
                self._answer(200, "text/html; charset=utf-8", _PAGE.read_bytes())
            elif path == "/state":
                self._answer(200, "application/json", json.dumps(view.state()).encode())
            elif path.startswith("/picture/"):
                picture = view.picture(path.removeprefix("/picture/"))
                status = 200 if picture is not None else 404
                self._answer(status, "image/png", picture or b"")
            else:
                self._answer(404, "text/plain", b"not here")

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            try:
                self.wfile.write(body)
            except ConnectionError:
                pass  # the page was closed

        def log_message(self, format: str, *arguments: object) -> None:
            pass  # a line a picture would fill the terminal

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise ConfigError(
            f"--port must be one that is free, got {port}: {error.strerror}."
        ) from None
