"""Where ``bench scale`` says that more workers have stopped to help."""

from __future__ import annotations

import pytest

from local_trainer.bench.scale import stops_growing_at


@pytest.mark.parametrize(
    ("speeds", "count"),
    [
        ({1: 100.0, 2: 180.0, 4: 300.0}, None),
        ({1: 100.0, 2: 180.0, 4: 190.0}, 2),
        ({1: 100.0, 2: 109.0, 4: 300.0}, 1),  # the first that brings less than a tenth
        ({1: 100.0, 2: 80.0}, 1),
        ({1: 100.0, 2: 111.0}, None),
        ({1: 100.0}, None),
        ({}, None),
    ],
)
def test_workers_stop_to_help_where_more_bring_less_than_a_tenth(
    speeds: dict[int, float], count: int | None
) -> None:
    assert stops_growing_at(speeds) == count
