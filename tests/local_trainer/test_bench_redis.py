"""``bench redis``: both sides deliver the same transitions, ours in less than half the bytes."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from local_trainer.bench.redis import NUM_EPISODES, driven_episodes, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server here"),
]


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return run(rounds=1)


@pytest.mark.parametrize("kind", ["driving", "beginner"])
def test_it_measures_both_sides_in_one_run(figures: dict[str, Any], kind: str) -> None:
    of_kind = figures if kind == "driving" else figures[kind]
    transitions = sum(len(episode.steps) for episode in driven_episodes(kind))
    assert (of_kind["episodes"], of_kind["transitions"]) == (NUM_EPISODES, transitions)
    # One picture each, and a few bytes around it: that is what pickle cannot go below.
    assert 160 * 120 < of_kind["pickle_bytes_per_transition"] < 1.2 * 160 * 120
    share = of_kind["bytes_per_transition"] / of_kind["pickle_bytes_per_transition"]
    assert of_kind["share_of_pickle_bytes"] == pytest.approx(share) and 0.0 < share <= 0.5
    assert of_kind["ratio_to_pickle"] > 0.0 and of_kind["transitions_per_second"] > 0.0


def test_a_beginner_leaves_the_road_and_a_driver_is_put_back() -> None:
    lengths = {
        kind: [len(episode.steps) for episode in driven_episodes(kind)]
        for kind in ("driving", "beginner")
    }
    assert set(lengths["driving"]) == {100}
    assert sum(lengths["beginner"]) / NUM_EPISODES < 30
