"""How far the two simulators agree: a smaller `bench parity`. Needs the Gazebo container."""

from collections.abc import Iterator

import numpy as np
import pytest

from local_trainer.bench.parity import (
    compare_cameras,
    compare_speed_responses,
    compare_trajectories,
    compare_turns,
    gazebo,
)
from local_trainer.errors import ConfigError

pytestmark = pytest.mark.gazebo


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    try:
        with gazebo() as address:
            yield address
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("track", ["reinvent_base", "Oval_track"])
def test_cameras_see_the_same(host: str, track: str) -> None:
    assert compare_cameras(host, track, 20).by_pose.mean() <= 4.0


def test_cars_turn_alike(host: str) -> None:
    turns = compare_turns(host)
    assert np.isfinite(turns.gazebo_m).all()
    # A car that mirrors itself cannot be nearer to both sides than half their difference.
    assert turns.asymmetry.max() <= 0.05
    assert np.abs(turns.radius_error).max() <= 0.05
    assert np.abs(turns.speed_error).max() <= 0.05


def test_cars_follow_a_change_of_speed_alike(host: str) -> None:
    responses = compare_speed_responses(host, [(0.0, 2.0), (2.0, 1.0), (0.0, 4.0)])
    assert max(response.error for response in responses) <= 0.05


@pytest.mark.parametrize(("speed_mps", "limit_m"), [(1.0, 0.05), (2.0, 0.15)])
def test_same_commands_lead_to_the_same_place(host: str, speed_mps: float, limit_m: float) -> None:
    errors_m = compare_trajectories(host, speed_mps, num_drives=10).end_point_errors_m
    assert np.median(errors_m) <= limit_m
