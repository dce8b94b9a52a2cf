"""A template that reads every parameter there is; keep what you need and change the rest.

Units: metres, degrees, percent; angles count counter-clockwise, steering to the left is positive.
Three parameters are read with a default because the console's checker does not give them.
"""

import math

MAX_SPEED = 4.0  # m/s, the fastest an action can ask for
LOOK_AHEAD = 3  # waypoints
STEEP_STEERING = 15.0  # degrees
SAFE_DISTANCE = 0.8  # metres to the next object on the road


def reward_function(params):
    """Return a reward made of where the car is, where it looks, its speed and what is ahead."""
    # Where the car is.
    x = params["x"]
    y = params["y"]
    track_width = params["track_width"]
    track_length = params["track_length"]
    distance_from_center = params["distance_from_center"]
    is_left_of_center = params["is_left_of_center"]
    projection_distance = params.get("projection_distance", 0.0)
    all_wheels_on_track = params["all_wheels_on_track"]
    is_offtrack = params["is_offtrack"]
    is_crashed = params["is_crashed"]

    # Where it is going.
    heading = params["heading"]
    steering_angle = params["steering_angle"]
    speed = params["speed"]
    waypoints = params["waypoints"]
    closest_waypoints = params["closest_waypoints"]
    is_reversed = params["is_reversed"]

    # How the episode is going.
    progress = params["progress"]
    steps = params["steps"]
    sim_time = params.get("sim_time", 0.0)

    # What else is on the road; the lists are empty without objects.
    objects_location = params["objects_location"]
    objects_distance = params["objects_distance"]
    objects_distance_from_center = params.get("objects_distance_from_center", [])
    objects_left_of_center = params["objects_left_of_center"]
    objects_heading = params["objects_heading"]  # radians
    objects_speed = params["objects_speed"]
    closest_objects = params["closest_objects"]
    object_in_camera = params["object_in_camera"]

    if is_offtrack or is_crashed:
        return 1e-3

    # 1 on the centre line, 0 at the border.
    centred = max(0.0, 1.0 - distance_from_center / (0.5 * track_width))
    if not all_wheels_on_track:
        centred *= 0.5

    # 1 when the car looks where the road leads, 0 when it looks the other way. The waypoints
    # already run in driving direction, whether is_reversed or not.
    here = waypoints[closest_waypoints[0]]
    ahead = waypoints[(closest_waypoints[1] + LOOK_AHEAD) % len(waypoints)]
    road_direction = math.degrees(math.atan2(ahead[1] - here[1], ahead[0] - here[0]))
    turn = (road_direction - heading + 180.0) % 360.0 - 180.0  # positive: the road goes left
    aligned = max(0.0, math.cos(math.radians(turn)))

    # Fast, and steady where the road is straight.
    swift = (speed / MAX_SPEED) ** 2
    if abs(turn) < 10.0 and abs(steering_angle) > STEEP_STEERING:
        swift *= 0.5
    # Cut the corner: a little more on the inner side of a bend.
    inside = 0.1 if abs(turn) > 20.0 and is_left_of_center == (turn > 0.0) else 0.0

    # Average pace since the start, in laps a minute; the simulation makes 15 steps a second.
    minutes = max(steps, 1.0) / 15.0 / 60.0
    pace = max(0.0, min(progress / 100.0 / minutes / 6.0, 1.0))

    # All of it counts by speed: otherwise a slow car, which takes more steps, would earn more.
    reward = swift * (centred + aligned + inside + 0.5 * pace)

    # Keep away from the next object ahead if it is on the same side of the road.
    if objects_location:
        ahead_index = closest_objects[1]
        gap = (objects_distance[ahead_index] - projection_distance) % track_length
        object_x, object_y = objects_location[ahead_index][0], objects_location[ahead_index][1]
        gap = min(gap, math.hypot(object_x - x, object_y - y))
        same_side = objects_left_of_center[ahead_index] == is_left_of_center
        if ahead_index < len(objects_distance_from_center):
            same_side = same_side or objects_distance_from_center[ahead_index] < 0.1
        closing = speed - objects_speed[ahead_index] * math.cos(
            objects_heading[ahead_index] - math.radians(heading)
        )
        if same_side and object_in_camera and closing > 0.0 and gap < SAFE_DISTANCE:
            reward *= 0.2

    if progress >= 100.0:
        reward += 10.0
        # print() goes to the run's log of the reward function.
        way = "against" if is_reversed else "along"
        print("lap", way, "the row order in", steps, "steps, clock", round(sim_time, 2), "s")
    return float(reward)
