"""Ask for speed: the share of the lap that each step gains, and nothing for being slow."""

OFF_ROAD = -3.0
EDGE_FACTOR = 0.6  # what is left of a step's reward when not all wheels are on the road
FULL_SPEED_M = 2.0 / 15.0  # metres in one step at 2 m/s: earns 1
LAP_BONUS = 10.0

# Where the car was at the step before; steps of one episode come one after another.
previous = {"steps": 0.0, "progress": 0.0}


def reward_function(params):
    """Return the ground gained in this step, 1.0 for going 2 m/s along the centre line."""
    steps = float(params["steps"])
    progress = float(params["progress"])
    # At an episode's first step, and should calls ever come in another order, the average since
    # the episode's start takes the place of the difference.
    gained_percent = progress / max(steps, 1.0)
    if steps > 1.0 and steps == previous["steps"] + 1.0:
        gained_percent = progress - previous["progress"]
    previous["steps"] = steps
    previous["progress"] = progress

    if params["is_offtrack"] or params["is_crashed"]:
        return OFF_ROAD
    gained_m = gained_percent / 100.0 * float(params["track_length"])
    reward = max(-1.0, min(gained_m / FULL_SPEED_M, 2.0))
    if not params["all_wheels_on_track"]:
        reward *= EDGE_FACTOR
    if progress >= 100.0:
        reward += LAP_BONUS
    return float(reward)
