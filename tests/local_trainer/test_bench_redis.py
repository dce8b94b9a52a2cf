"""``bench redis``: both sides deliver the same transitions, ours in less than half the bytes."""

from __future__ import annotations

import shutil

import pytest

from local_trainer.bench.redis import NUM_EPISODES, driven_episodes, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server here"),
]


def test_it_measures_both_sides_in_one_run() -> None:
    figures = run(rounds=1)
    transitions = sum(len(episode.steps) for episode in driven_episodes())
    assert (figures["episodes"], figures["transitions"]) == (NUM_EPISODES, transitions)
    # One picture each, and a few bytes around it: that is what pickle cannot go below.
    assert 160 * 120 < figures["pickle_bytes_per_transition"] < 1.2 * 160 * 120
    share = figures["bytes_per_transition"] / figures["pickle_bytes_per_transition"]
    assert figures["share_of_pickle_bytes"] == pytest.approx(share) and 0.0 < share <= 0.5
    assert figures["ratio_to_pickle"] > 0.0 and figures["transitions_per_second"] > 0.0
