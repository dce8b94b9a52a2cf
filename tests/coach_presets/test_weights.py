"""Weights made elsewhere go in under any of their names, or are refused part by part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coach_presets.compat import tf

import numpy as np
import pytest
from agents import NUM_ACTIONS, new_agent, short_lived, weights_of

from coach_presets.agent import ONLINE, LocalPPOAgent
from coach_presets.checkpoints import CheckpointWriter
from coach_presets.preset import CAMERA
from coach_presets.weights import (
    Weights,
    _renamed,
    checkpoint_weights,
    frozen_weights,
    is_same_policy,
    policy_difference,
    read_graph,
    restore,
    unsupported_parts,
)
from local_trainer.checkpoints import Checkpoint, TrainerState
from local_trainer.errors import ConfigError
from local_trainer.runs import Run

STATE = TrainerState(1, 20, 2, 5, 3.5, 0)
FIRST_KERNEL = f"{ONLINE}/network_1/{CAMERA}/Conv2d_0/kernel"


@pytest.fixture(scope="module")
def agent() -> Iterator[LocalPPOAgent]:
    with short_lived(new_agent()) as made:
        yield made


@pytest.fixture(scope="module")
def theirs(agent: LocalPPOAgent) -> dict[str, np.ndarray]:
    """Weights of another training."""
    random = np.random.default_rng(1)
    return {
        name: random.normal(0.0, 0.02, value.shape).astype(np.float32)
        if value.shape
        else np.float32(1.0)
        for name, value in weights_of(agent).items()
    }


@pytest.fixture(scope="module")
def run(
    agent: LocalPPOAgent, theirs: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A run whose checkpoint and frozen graph hold those weights."""
    made = Run(tmp_path_factory.mktemp("run"))
    restore(agent, Weights(theirs, ()))
    CheckpointWriter(agent, made).write(STATE)
    return made


def forget(agent: LocalPPOAgent) -> None:
    """Put other weights in."""
    weights = weights_of(agent)
    restore(agent, Weights({name: np.zeros_like(value) for name, value in weights.items()}, ()))


def graph_of(run: Run) -> Path:
    return STATE.checkpoint.frozen_graph(run.model_dir)


def rewritten(run: Run, path: Path, change: Any) -> Path:
    """Write the frozen graph anew with each node changed."""
    graph = tf.GraphDef()
    graph.ParseFromString(graph_of(run).read_bytes())
    change(graph)
    path.write_bytes(graph.SerializeToString())
    return path


def test_a_checkpoint_goes_in_whole(
    agent: LocalPPOAgent, run: Run, theirs: dict[str, np.ndarray]
) -> None:
    forget(agent)
    weights = checkpoint_weights(Checkpoint(1, 20).prefix(run.model_dir))
    assert unsupported_parts(agent, weights) == []
    assert restore(agent, weights) == []
    for name, value in weights_of(agent).items():
        np.testing.assert_array_equal(value, theirs[name])
    assert policy_difference(agent, graph_of(run)) < 1e-6


def test_a_frozen_graph_gives_the_policy_network(
    agent: LocalPPOAgent, run: Run, theirs: dict[str, np.ndarray]
) -> None:
    forget(agent)
    assert not is_same_policy(policy_difference(agent, graph_of(run)))
    weights = frozen_weights(graph_of(run), agent)
    assert unsupported_parts(agent, weights) == []
    lacking = restore(agent, weights)
    assert lacking and all("/network_0/" in name for name in lacking)
    assert policy_difference(agent, graph_of(run)) < 1e-6
    values = weights_of(agent)
    np.testing.assert_array_equal(values[FIRST_KERNEL], theirs[FIRST_KERNEL])


def test_a_graph_whose_constants_were_renamed_gives_the_policy_too(
    agent: LocalPPOAgent, run: Run, tmp_path: Path
) -> None:
    def rename(graph: Any) -> None:
        names = {
            node.name: f"const_{number}"
            for number, node in enumerate(graph.node)
            if node.op == "Const"
        }
        for node in graph.node:
            node.name = names.get(node.name, node.name)
            inputs = [names.get(name, name) for name in node.input]
            del node.input[:]
            node.input.extend(inputs)

    path = rewritten(run, tmp_path / "model.pb", rename)
    forget(agent)
    restore(agent, frozen_weights(path, agent))
    assert policy_difference(agent, path) < 1e-6


def test_a_graph_with_operations_beyond_arithmetic_is_refused(run: Run, tmp_path: Path) -> None:
    def add_writer(graph: Any) -> None:
        graph.node.add(name="write", op="WriteFile")

    path = rewritten(run, tmp_path / "model.pb", add_writer)
    with pytest.raises(ConfigError, match="a policy's operations only, got WriteFile"):
        read_graph(path)
    path.write_bytes(b"no graph")
    with pytest.raises(ConfigError, match="is not a frozen graph"):
        read_graph(path)


def test_the_old_camera_name_and_the_global_copy_are_taken(
    agent: LocalPPOAgent, theirs: dict[str, np.ndarray]
) -> None:
    """2019: the camera is called observation, and what learned is the global network."""
    stale = {name: value + 1 for name, value in theirs.items()}
    old = {name.replace(CAMERA, "observation"): value for name, value in stale.items()}
    old |= {
        name.replace(CAMERA, "observation").replace("/online/", "/global/"): value
        for name, value in theirs.items()
    }
    weights = _renamed(old)
    assert unsupported_parts(agent, weights) == []
    assert weights.values.keys() == theirs.keys()
    np.testing.assert_array_equal(weights.values[FIRST_KERNEL], theirs[FIRST_KERNEL])


def test_optimizer_slots_and_counters_are_left_out(theirs: dict[str, np.ndarray]) -> None:
    more = {f"{name}/Adam": value for name, value in theirs.items()}
    more["main_level/agent/main/online/Variable"] = np.float32(1.0)
    more["global_step"] = np.int64(3)
    weights = _renamed({**theirs, **more})
    assert weights.values.keys() >= theirs.keys()
    assert weights.unsupported == ()


def test_each_unsupported_part_is_named(
    agent: LocalPPOAgent, theirs: dict[str, np.ndarray]
) -> None:
    network = "main_level/agent/main/online/network_1"
    more = {
        f"{network}/STEREO_CAMERAS/Conv2d_0/kernel": np.zeros((3, 3, 2, 32)),
        f"{network}/LIDAR/Dense_0/kernel": np.zeros((64, 256)),
        f"{network}/ppo_head_0/policy_mean/kernel": np.zeros((512, 2)),
        "main_level/agent/q/online/network_0/q_head_0/kernel": np.zeros(1),
    }
    assert unsupported_parts(agent, _renamed({**theirs, **more})) == [
        f"the sensor STEREO_CAMERAS (only {CAMERA} and observation)",
        f"the sensor LIDAR (only {CAMERA} and observation)",
        "a policy of continuous actions (only discrete)",
        "networks of SAC (only clipped PPO)",
    ]


def test_another_network_or_number_of_actions_is_named(
    agent: LocalPPOAgent, theirs: dict[str, np.ndarray]
) -> None:
    head = f"{ONLINE}/network_1/ppo_head_0/policy_fc"
    changed = {
        f"{head}/kernel": np.zeros((512, 7), np.float32),
        f"{head}/bias": np.zeros(7, np.float32),
        FIRST_KERNEL: np.zeros((5, 5, 1, 32), np.float32),
    }
    parts = unsupported_parts(agent, Weights({**theirs, **changed}, ()))
    assert parts[0] == (
        f"the weights choose among 7 actions, model_metadata.json has {NUM_ACTIONS}"
    )
    assert "other than DEEP_CONVOLUTIONAL_NETWORK_SHALLOW" in parts[1] and "5×5×1×32" in parts[1]
    assert len(parts) == 2
    assert unsupported_parts(agent, Weights({}, ())) == ["weights without a policy of clipped PPO"]


def test_weights_that_are_no_numbers_are_refused(
    agent: LocalPPOAgent, theirs: dict[str, np.ndarray]
) -> None:
    bad = theirs[FIRST_KERNEL].copy()
    bad[0] = np.nan
    with pytest.raises(ConfigError, match="must be finite numbers"):
        restore(agent, Weights({**theirs, FIRST_KERNEL: bad}, ()))
