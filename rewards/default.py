"""Stay close to the centre line: the service's own first reward."""


def reward_function(params):
    """Return 1, 0.5 or 0.1 by how near the centre line the car is, nearly 0 beyond."""
    track_width = params["track_width"]
    distance_from_center = params["distance_from_center"]

    if distance_from_center <= 0.1 * track_width:
        return 1.0
    if distance_from_center <= 0.25 * track_width:
        return 0.5
    if distance_from_center <= 0.5 * track_width:
        return 0.1
    return 1e-3
