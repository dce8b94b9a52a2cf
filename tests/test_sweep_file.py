"""What a sweep file may say, and the one line for each mistake in it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from local_trainer.errors import ConfigError, NotFound
from local_trainer.progress import EvaluationEvent
from local_trainer.sweep.config import check_sweep, load_sweep, num_trials, points, trial_config
from local_trainer.sweep.scores import best_score, score

LIMIT = {"stop": {"episodes": 30}}


def sweep(**data: Any) -> dict[str, Any]:
    return {"name": "s", "base": LIMIT, **data}


def test_lists_give_every_combination_with_every_seed() -> None:
    config = check_sweep(
        sweep(space={"ppo.batch_size": [32, 64], "track": ["Oval_track"]}, seeds=[3, 5])
    )
    found = [(p.values["ppo.batch_size"], p.values["track"], p.seed) for p in points(config)]
    track = "Oval_track"
    assert found == [(32, track, 3), (32, track, 5), (64, track, 3), (64, track, 5)]
    assert num_trials(config) == 4


def test_drawn_values_lie_in_their_range_and_are_the_same_each_time() -> None:
    data = sweep(
        space={
            "ppo.learning_rate": {"log_uniform": [1e-5, 1e-3]},
            "ppo.optimization_epochs": {"integer": [1, 3]},
            "ppo.discount_factor": {"uniform": [0.9, 0.99]},
            "ppo.loss_type": {"choice": ["huber", "mean squared error"]},
            "ppo.batch_size": [32, 64],
        },
        samples=40,
    )
    config = check_sweep(data)
    found = [point.values for point in points(config)]
    assert len(found) == num_trials(config) == 80
    rates = [values["ppo.learning_rate"] for values in found]
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)
    # Half of a logarithmic range lies below its geometric mean: 40 +- 4 standard deviations.
    assert 22 <= sum(rate < 1e-4 for rate in rates) <= 58
    assert {values["ppo.optimization_epochs"] for values in found} == {1, 2, 3}
    assert {values["ppo.loss_type"] for values in found} == {"huber", "mean squared error"}
    assert [point.values for point in points(check_sweep(data))] == found
    assert [point.values for point in points(check_sweep({**data, "search_seed": 1}))] != found


def test_a_trial_has_the_settings_of_base_profile_and_point() -> None:
    config = check_sweep(
        sweep(
            base={"profile": "cloud", "stop.minutes": 2, "ppo": {"clip": 0.1}},
            space={"ppo.target_kl": [None, 0.02]},
            seeds=[7],
        )
    )
    trials = [trial_config(config, point) for point in points(config)]
    assert [trial.ppo.target_kl for trial in trials] == [None, 0.02]
    assert {(t.seed, t.ppo.clip, t.stop.minutes, t.simulator.num_cars) for t in trials} == {
        (7, 0.1, 2.0, 20)
    }


def test_the_name_of_the_file_is_the_sweeps_name(tmp_path: Path) -> None:
    file = tmp_path / "rates.yaml"
    file.write_text("base: {stop: {minutes: 1}}\nspace:\n  ppo.clip: [0.1, 0.2]\n")
    assert load_sweep(file).name == "rates"
    with pytest.raises(NotFound, match="other.yaml"):
        load_sweep(tmp_path / "other.yaml")


CLIP = {"ppo.clip": [0.1, 0.2]}
DRAWN = {"ppo.clip": {"uniform": [0.1, 0.2]}}


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"space": CLIP, "sedes": [1]}, "Unknown key 'sedes'. Did you mean 'seeds'?"),
        ({"space": {"ppo.batchsize": [1, 2]}}, "Did you mean 'ppo.batch_size'?"),
        ({"base": {"stp": {}}, "space": CLIP}, "Unknown key 'stp'"),
        ({}, "The space is empty"),
        ({"space": {}}, "The space is empty"),
        ({"space": {"ppo.clip": []}}, "must be a list of at least one value"),
        ({"space": {"ppo.clip": 0.1}}, "space: ppo.clip must be a list, or one of grid"),
        ({"space": {"ppo.clip": {"unifrom": [0, 1]}}}, "got 'unifrom'"),
        ({"space": {"ppo.clip": [0.1, 0.1]}}, "each value once"),
        ({"space": {"ppo.clip": {"uniform": [0.2, 0.1]}}, "samples": 2}, "[lowest, highest]"),
        ({"space": {"ppo.clip": {"log_uniform": [0, 0.1]}}, "samples": 2}, "begin above 0"),
        ({"space": {"ppo.clip": [0.1, 2.0]}}, "ppo.clip must be"),
        ({"space": {"ppo.clip": {"uniform": [0.1, 2]}}, "samples": 2}, "got 2"),
        ({"space": {"seed": [1, 2]}}, "seed cannot be set in a sweep"),
        ({"space": {"run": ["a", "b"]}}, "run cannot be set in a sweep"),
        ({"space": {"simulator.backend": ["gazebo", "embedded"]}}, "embedded simulator"),
        (
            {"space": CLIP, "base": {"cluster": {"ray": "auto"}}},
            "cluster.ray cannot be set in a sweep",
        ),
        ({"space": {"cluster.ray": [None, "auto"]}}, "cluster.ray cannot be set in a sweep"),
        ({"space": DRAWN}, "samples must say how often"),
        ({"space": CLIP, "samples": 3}, "samples goes with values that are drawn"),
        ({"space": CLIP, "search": "optuna"}, "takes choice in place of a list"),
        ({"space": CLIP, "search": "grid"}, "search must be one of random, optuna, got 'grid'"),
        ({"space": CLIP, "metric": "speed"}, "metric must be one of completion, lap_time"),
        ({"space": CLIP, "seeds": [1, 1]}, "each seed once"),
        ({"space": CLIP, "seeds": [-1]}, "seeds must be"),
        ({"space": CLIP, "name": "../x"}, "name must be a name"),
        ({"space": CLIP, "resources": {"cpu": 2}}, "Did you mean 'resources.cpus'?"),
        ({"space": CLIP, "resources": {"cpus": 0}}, "resources.cpus must be"),
        ({"space": CLIP, "early_stopping": "yes"}, "early_stopping must be"),
        ({"space": CLIP, "early_stopping": {"grace": 5}}, "grace_percent"),
        ({"space": CLIP, "early_stopping": {"reduction": 1}}, "early_stopping.reduction must be"),
        ({"space": CLIP, "base": {"stop": {"minutes": None}}}, "needs a limit"),
        ({"space": CLIP, "base": {"instance": "gpu"}}, "resources.gpus must be > 0"),
        ({"space": {"ppo.clip": {"grid": [0.1]}}, "seeds": list(range(10_001))}, "at most 10000"),
        (
            {"space": {"ppo.batch_size": [64, 60_000], "episodes.max_steps": [500, 20]}},
            "ppo.batch_size must be at most",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(data: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_sweep(sweep(**data))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_completion_counts_first_and_lap_time_between_equals() -> None:
    order = [(99.9, 5.0), (100.0, None), (100.0, 30.0), (100.0, 12.0)]
    values = [score("completion", *one) for one in order]
    assert values == sorted(values)
    assert len(set(values)) == 4
    order = [(20.0, None), (90.0, None), (50.0, 300.0), (10.0, 12.0)]
    values = [score("lap_time", *one) for one in order]
    assert values == sorted(values)


def test_a_trials_score_is_that_of_its_best_evaluation() -> None:
    events = [
        EvaluationEvent(number, f"{number}", 5, 0, percent, None, None, True)
        for number, percent in enumerate([10.0, 60.0, 30.0])
    ]
    assert best_score("completion", events) == 60.0
    assert best_score("completion", []) is None
    assert math.isfinite(score("lap_time", 0.0, None))
