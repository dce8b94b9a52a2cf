"""Exits with 0 if the simulator can load a world."""

import os
import socket

import rosgraph

address = os.environ.get("ROS_IP") or socket.gethostbyname(socket.gethostname())
master = rosgraph.Master("/health", f"http://{address}:11311")
master.lookupService("/simulator/load")
