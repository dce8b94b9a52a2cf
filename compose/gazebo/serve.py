"""Runs in the simulator's container: a ROS master, a display without a screen, and Gazebo.

Offers the ROS service /simulator/load (sim/gazebo/plugin/srv/Load.srv), which starts Gazebo with a
world. The world's plugin then offers /simulator/place and /simulator/step.

Python 3.9, the system's own: rospy is there.
"""
# ruff: noqa: D102, D103, D107

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path

import rosgraph
import rospy
from car_simulator.srv import Load, LoadResponse

# rospy 1.15.9 still calls the name that Python 3.9 dropped.
threading.Thread.isAlive = threading.Thread.is_alive

MASTER_PORT = 11311
READY_LINE = "simulator ready"
START_LIMIT_S = 60.0
STOP_LIMIT_S = 3.0
ALIVE_FILE = Path("/tmp/alive")
"""Its age tells the container's health check that this process works."""
SERVICES = ("/simulator/place", "/simulator/step")


def main():
    adopt_address()
    processes = [start_master(), start_display()]
    wait_for_master()
    rospy.init_node("simulator_server", disable_signals=True)
    gazebo = Gazebo()
    rospy.Service("/simulator/load", Load, gazebo.load)
    print("waiting for a world", flush=True)
    ALIVE_FILE.touch()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(1.0):
        ALIVE_FILE.touch()
        for process in processes:
            if process.poll() is not None:
                gazebo.stop()
                sys.exit(f"{process.args[0]} ended with code {process.returncode}")
    gazebo.stop()
    rospy.signal_shutdown("stopped")
    for process in reversed(processes):
        process.terminate()


def adopt_address():
    """Tell other machines to reach us by our address: it needs no name service."""
    address = socket.gethostbyname(socket.gethostname())
    os.environ.setdefault("ROS_IP", address)
    os.environ["ROS_MASTER_URI"] = f"http://{os.environ['ROS_IP']}:{MASTER_PORT}"


def start_master():
    return subprocess.Popen(["rosmaster", "--core", "-p", str(MASTER_PORT)])


def start_display():
    Path("/tmp/.X11-unix").mkdir(mode=0o1777, exist_ok=True)
    lock = Path("/tmp/.X99-lock")
    lock.unlink(missing_ok=True)  # left over by a container that was killed
    os.environ["DISPLAY"] = ":99"
    screen = ["-screen", "0", "640x480x24", "+extension", "GLX", "-nolisten", "tcp"]
    return subprocess.Popen(["Xvfb", ":99", *screen])


def wait_for_master():
    deadline = time.monotonic() + START_LIMIT_S
    while not rosgraph.is_master_online():
        if time.monotonic() > deadline:
            sys.exit(f"no ROS master at {os.environ['ROS_MASTER_URI']} after {START_LIMIT_S:.0f} s")
        time.sleep(0.05)


class Gazebo:
    """At most one Gazebo process and the world it runs."""

    def __init__(self):
        self.lock = threading.Lock()
        self.process = None
        self.request = None
        self.folder = None
        self.is_ready = threading.Event()
        self.last_lines = deque(maxlen=5)

    def load(self, request):
        with self.lock:
            is_running = self.process is not None and self.process.poll() is None
            if is_running and self.is_ready.is_set() and request == self.request:
                return LoadResponse("")
            self.stop()
            try:
                self.start(request)
            except ValueError as error:
                return LoadResponse(str(error))
            problem = self.wait_until_ready()
            if problem:
                self.stop()
            return LoadResponse(problem)

    def start(self, request):
        self.folder = Path(tempfile.mkdtemp(prefix="world-"))
        for file in request.files:
            if Path(file.name).name != file.name or file.name in ("", ".", "..", "world.sdf"):
                raise ValueError(f"a file's name must be plain, without folders, got {file.name!r}")
            (self.folder / file.name).write_bytes(file.data)
        world = self.folder / "world.sdf"
        world.write_text(request.world_sdf.replace("{folder}", str(self.folder)))
        self.request = request
        self.is_ready.clear()
        self.last_lines.clear()
        self.process = subprocess.Popen(
            ["gzserver", "--verbose", str(world)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        threading.Thread(target=self.follow, args=(self.process,), daemon=True).start()

    def follow(self, process):
        """Copy what Gazebo says to the container's log."""
        for line in process.stdout:
            line = re.sub(r"\x1b\[[0-9;]*m", "", line)  # colours
            print(line, end="", flush=True)
            self.last_lines.append(line.strip())
            if READY_LINE in line:
                self.is_ready.set()

    def wait_until_ready(self):
        deadline = time.monotonic() + START_LIMIT_S
        while not self.is_ready.wait(0.05):
            if self.process.poll() is not None:
                said = " | ".join(line for line in self.last_lines if line)
                return f"Gazebo ended with code {self.process.returncode}: {said}"
            if time.monotonic() > deadline:
                return f"Gazebo was not ready after {START_LIMIT_S:.0f} s"
        return ""

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None
        self.is_ready.clear()
        forget_services()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None


def forget_services():
    """Take back what a killed Gazebo left registered."""
    for service in SERVICES:
        try:
            master = rosgraph.Master("/gazebo")
            master.unregisterService(service, master.lookupService(service))
        except rosgraph.MasterError:
            pass  # nothing registered


if __name__ == "__main__":
    main()
