"""Drive fast along a short smooth path, estimated from the waypoints at the first call.

The path is a band stretched tight inside the road: corners are cut as far as the margin allows.
Where no path can be estimated the centre line takes its place.
"""

import math

import numpy as np

ROAD_SHARE = 0.55  # how much of the half width the path may use
ROUNDS = 150  # of tightening the band
SIDE_GRIP = 2.5  # m/s2: sets how fast a bend is taken
MAX_SPEED = 4.0
MIN_SPEED = 1.0

known_paths: dict = {}


def reward_function(params):
    """Return how well the car follows the path, and how near it is to the path's best speed."""
    if params["is_offtrack"] or params["is_crashed"]:
        return 1e-3
    points, speeds = path_of(params["waypoints"], float(params["track_width"]))
    first, second = params["closest_waypoints"][0], params["closest_waypoints"][1]

    away = distance_to_segment(params["x"], params["y"], points[first], points[second])
    near = math.exp(-((away / (0.25 * params["track_width"])) ** 2))

    direction = points[second] - points[first]
    turn = math.atan2(direction[1], direction[0]) - math.radians(params["heading"])
    aligned = max(0.0, math.cos(turn))

    best_speed = speeds[second]
    swift = 1.0 - min(abs(params["speed"] - best_speed) / best_speed, 1.0)

    reward = near * aligned * (0.4 + 0.6 * swift)
    if not params["all_wheels_on_track"]:
        reward *= 0.5
    if params["progress"] >= 100.0:
        reward += 5.0
    return float(reward + 1e-3)


def path_of(waypoints, track_width):
    """Return the path's points, one a waypoint, and the best speed at each."""
    # A track driven the other way has its waypoints the other way round.
    key = (len(waypoints), tuple(waypoints[0]), tuple(waypoints[1]))
    if key not in known_paths:
        center = np.array(waypoints, dtype=float)
        points = tightened(center, ROAD_SHARE * 0.5 * track_width)
        known_paths[key] = (points, best_speeds(points))
    return known_paths[key]


def tightened(center, reach):
    """Return the centre line pulled tight, each point at most ``reach`` from where it was."""
    is_loop = len(center) > 3 and np.allclose(center[0], center[-1])
    if not is_loop:
        return center  # an open track has no bend worth cutting: its centre line will do
    ring = center[:-1]
    along = np.roll(ring, -1, axis=0) - np.roll(ring, 1, axis=0)
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)
    across = np.column_stack((-along[:, 1] / length, along[:, 0] / length))
    offset = np.zeros(len(ring))
    for _ in range(ROUNDS):
        path = ring + offset[:, None] * across
        middle = 0.5 * (np.roll(path, -1, axis=0) + np.roll(path, 1, axis=0))
        offset = np.clip(((middle - ring) * across).sum(axis=1), -reach, reach)
    path = ring + offset[:, None] * across
    return np.vstack((path, path[:1]))


def best_speeds(points):
    """Return how fast each point can be passed with the given side grip."""
    before, after = np.roll(points, 3, axis=0), np.roll(points, -3, axis=0)
    a = np.hypot(*(points - before).T)
    b = np.hypot(*(after - points).T)
    c = np.hypot(*(after - before).T)
    (ux, uy), (vx, vy) = (points - before).T, (after - points).T
    curvature = 2.0 * np.abs(ux * vy - uy * vx) / np.maximum(a * b * c, 1e-9)
    return np.clip(np.sqrt(SIDE_GRIP / np.maximum(curvature, 1e-3)), MIN_SPEED, MAX_SPEED)


def distance_to_segment(x, y, start, end):
    """Return the distance of a point from a line segment."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    squared = dx * dx + dy * dy
    share = ((x - start[0]) * dx + (y - start[1]) * dy) / squared if squared > 0.0 else 0.0
    share = max(0.0, min(share, 1.0))
    return math.hypot(x - start[0] - share * dx, y - start[1] - share * dy)
