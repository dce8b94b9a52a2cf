"""Checkpoints and frozen graphs: what is written is what was, and nothing else is taken."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from coach_presets.compat import tf

import numpy as np
import pytest
from agents import (
    NUM_ACTIONS,
    SETTINGS,
    make_episode,
    new_agent,
    pictures,
    put_state,
    session_of,
    short_lived,
    state_of,
    weights_of,
)

from coach_presets.agent import INPUT_NODE, ONLINE, POLICY_NODE, LocalPPOAgent
from coach_presets.checkpoints import (
    CheckpointWriter,
    FrozenPolicy,
    freeze,
    policy_graph,
    read_checkpoint,
    restore_state,
    restore_weights,
)
from local_trainer.checkpoints import TrainerState, list_checkpoints, list_states
from local_trainer.errors import ConfigError
from local_trainer.runs import Run

STATE = TrainerState(1, 20, 2, 5, 3.5, 0)


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[LocalPPOAgent, Run, dict[str, np.ndarray]]]:
    """A trained agent, the run it was written to, and its state then."""
    run = Run(tmp_path_factory.mktemp("run"))
    with short_lived(new_agent()) as agent:
        agent.train_on_episodes([make_episode(agent, 20)], replace(SETTINGS, averaging=0.5))
        CheckpointWriter(agent, run).write(STATE)
        yield agent, run, state_of(agent)


@pytest.fixture
def agent(written: tuple[LocalPPOAgent, Run, dict[str, np.ndarray]]) -> LocalPPOAgent:
    """The agent, moved on since it was written."""
    agent, _, values = written
    put_state(agent, {name: value + 1 for name, value in values.items()})
    return agent


@pytest.fixture
def run(written: tuple[LocalPPOAgent, Run, dict[str, np.ndarray]], tmp_path: Path) -> Run:
    """A copy of the run, to damage; made of links, so replace a file and do not write into it."""
    shutil.copytree(written[1].path, tmp_path / "run", copy_function=os.link)
    return Run(tmp_path / "run")


def prefix_of(run: Run) -> Path:
    return STATE.checkpoint.prefix(run.model_dir)


def is_state(agent: LocalPPOAgent, values: dict[str, np.ndarray]) -> bool:
    now = state_of(agent)
    return now.keys() == values.keys() and all(
        np.array_equal(now[name], values[name]) for name in values
    )


def averages_of(agent: LocalPPOAgent, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a state's average weights by the name of the weight."""
    return {name: state[mean.op.name] for name, mean in agent.average.items()}


# Writing and going on.


def test_a_state_comes_back_exactly(
    agent: LocalPPOAgent, run: Run, written: tuple[LocalPPOAgent, Run, dict[str, np.ndarray]]
) -> None:
    assert not is_state(agent, written[2])
    restore_state(agent, run, STATE)
    assert is_state(agent, written[2])
    assert any("Adam" in name and np.abs(value).max() > 0 for name, value in written[2].items())


def test_the_files_are_whole_and_nothing_is_left_over(run: Run) -> None:
    name = "1_Step-20.ckpt"
    suffixes = (".data-00000-of-00001", ".index", ".meta")
    assert {path.name for path in run.model_dir.iterdir()} == {
        *(name + suffix for suffix in suffixes),
        "model_1.pb",
    }
    assert list_checkpoints(run.model_dir) == [STATE.checkpoint]
    assert list_states(run) == [STATE]


def test_the_checkpoint_holds_the_trainable_variables_only(run: Run) -> None:
    names = read_checkpoint(prefix_of(run)).keys()
    assert len(names) == 22
    assert all(name.startswith(f"{ONLINE}/network_") and "Adam" not in name for name in names)


def test_the_checkpoint_holds_the_average_weights(
    agent: LocalPPOAgent, run: Run, written: tuple[LocalPPOAgent, Run, dict[str, np.ndarray]]
) -> None:
    kept = averages_of(agent, written[2])
    held = read_checkpoint(prefix_of(run))
    assert held.keys() == kept.keys()
    assert all(np.array_equal(held[name], kept[name]) for name in kept)
    assert not all(np.array_equal(held[name], written[2][name]) for name in kept)


def test_the_meta_graph_can_be_imported_and_restored_by_plain_tensorflow(run: Run) -> None:
    prefix = str(prefix_of(run))
    with tf.Graph().as_default() as graph, tf.Session() as session:
        saver = tf.train.import_meta_graph(f"{prefix}.meta", clear_devices=True)
        saver.restore(session, prefix)
        bias = f"{ONLINE}/network_1/ppo_head_0/policy_fc/bias"
        value = session.run(graph.get_tensor_by_name(f"{bias}:0"))
    np.testing.assert_array_equal(value, read_checkpoint(prefix_of(run))[bias])


# Weights from elsewhere.


def test_weights_of_another_run_leave_the_optimizer_as_it_is(
    agent: LocalPPOAgent, run: Run, written: tuple[LocalPPOAgent, Run, dict[str, np.ndarray]]
) -> None:
    before = state_of(agent)
    assert restore_weights(agent, prefix_of(run)) == []
    kept = averages_of(agent, written[2])
    copies = {mean.op.name: name for name, mean in agent.average.items()}
    for name, value in state_of(agent).items():
        expected = kept.get(copies.get(name, name), before[name])
        np.testing.assert_array_equal(value, expected, err_msg=name)


def test_weights_that_lack_are_named_and_stay(
    agent: LocalPPOAgent, written: tuple[LocalPPOAgent, Run, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    lacking = f"{ONLINE}/network_0/v_values_head_0/output/bias"
    weights = agent.networks["main"].online_network.weights
    kept = [variable for variable in weights if variable.op.name != lacking]
    with session_of(agent).graph.as_default():
        saver = tf.train.Saver(kept)
    saver.save(session_of(agent), str(tmp_path / "other.ckpt"), write_meta_graph=False)
    put_state(agent, written[2])
    before = weights_of(agent)[lacking]
    assert restore_weights(agent, tmp_path / "other.ckpt") == [lacking]
    np.testing.assert_array_equal(weights_of(agent)[lacking], before)


def test_another_number_of_actions_is_told_in_one_line(run: Run) -> None:
    with short_lived(new_agent(num_actions=NUM_ACTIONS + 2)) as other:
        before = weights_of(other)
        with pytest.raises(ConfigError) as failure:
            restore_weights(other, prefix_of(run))
        after = weights_of(other)
    assert str(failure.value) == (
        "checkpoint 1_Step-20.ckpt does not fit: its actions is 5, this run's is 7."
    )
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_checkpoint_of_something_else_is_refused(agent: LocalPPOAgent, tmp_path: Path) -> None:
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("other", initializer=1.0)
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(tmp_path / "other.ckpt"))
    with pytest.raises(ConfigError, match="other.ckpt holds none of the network's weights"):
        restore_weights(agent, tmp_path / "other.ckpt")


# Damage.


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def empty(data: bytes) -> bytes:
    return b""


def remove(data: bytes) -> None:
    return None


def damage(path: Path, how: Callable[[bytes], bytes | None]) -> None:
    """Replace a file by what becomes of its content; None: by nothing."""
    data = how(path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)


@pytest.mark.parametrize("folder", ["model", "resume"])
@pytest.mark.parametrize("suffix", [".data-00000-of-00001", ".index"])
@pytest.mark.parametrize("how", [cut, flip, empty, remove])
def test_a_damaged_file_is_told_in_one_line(
    agent: LocalPPOAgent, run: Run, folder: str, suffix: str, how: Callable[[bytes], bytes | None]
) -> None:
    name = "1_Step-20.ckpt" if folder == "model" else "1.ckpt"
    damage(run.path / folder / (name + suffix), how)
    before = state_of(agent)
    with pytest.raises(ConfigError) as failure:
        restore_state(agent, run, STATE)
    assert name in str(failure.value) and "\n" not in str(failure.value)
    assert is_state(agent, before)


# The frozen graph.


@pytest.fixture
def frozen(run: Run) -> Iterator[FrozenPolicy]:
    policy = FrozenPolicy(STATE.checkpoint.frozen_graph(run.model_dir), threads=2)
    yield policy
    policy.close()


def definition_of(run: Run) -> tf.GraphDef:
    definition = tf.GraphDef()
    definition.ParseFromString(STATE.checkpoint.frozen_graph(run.model_dir).read_bytes())
    return definition


def test_the_frozen_graph_is_what_the_car_takes(run: Run) -> None:
    nodes = {node.name: node for node in definition_of(run).node}
    placeholders = [node for node in nodes.values() if node.op == "Placeholder"]
    assert [node.name for node in placeholders] == [INPUT_NODE]
    assert INPUT_NODE == (
        "main_level/agent/main/online/network_0/FRONT_FACING_CAMERA/FRONT_FACING_CAMERA"
    )
    shape = placeholders[0].attr["shape"].shape
    assert [dimension.size for dimension in shape.dim] == [-1, 120, 160, 1]
    assert placeholders[0].attr["dtype"].type == tf.float32.as_datatype_enum
    assert nodes[POLICY_NODE].op == "Softmax"
    assert POLICY_NODE == "main_level/agent/main/online/network_1/ppo_head_0/policy"
    assert {node.device for node in nodes.values()} == {""}
    assert not {node.op for node in nodes.values()} & {"VariableV2", "VarHandleOp"}
    size = STATE.checkpoint.frozen_graph(run.model_dir).stat().st_size
    assert size == pytest.approx(23.4e6, rel=0.01)


def test_the_frozen_policy_is_the_live_one(
    agent: LocalPPOAgent, run: Run, frozen: FrozenPolicy
) -> None:
    restore_state(agent, run, STATE)
    seen = pictures(20, seed=5)
    given = frozen.probabilities(seen)
    with agent.averaged():
        np.testing.assert_allclose(given, agent.probabilities(seen), rtol=0, atol=1e-6)
    assert np.abs(given - agent.probabilities(seen)).max() > 1e-5
    assert frozen.num_actions == NUM_ACTIONS


@pytest.mark.parametrize(
    "data",
    [b"", b"no graph at all", bytes(range(256)) * 10, tf.GraphDef().SerializeToString()],
    ids=["empty", "text", "bytes", "no nodes"],
)
def test_garbage_is_no_frozen_policy(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.pb").write_bytes(data)
    with pytest.raises(ConfigError, match=r"model\.pb") as failure:
        FrozenPolicy(tmp_path / "model.pb", threads=1)
    assert "\n" not in str(failure.value)


def test_a_missing_cut_or_foreign_graph_is_no_frozen_policy(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pb"):
        FrozenPolicy(tmp_path / "none.pb", threads=1)
    path = STATE.checkpoint.frozen_graph(run.model_dir)
    with tf.Graph().as_default() as graph:
        tf.nn.softmax(tf.placeholder(tf.float32, [None, 2]))
    (tmp_path / "foreign.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(ConfigError, match=r"foreign\.pb"):
        FrozenPolicy(tmp_path / "foreign.pb", threads=1)
    damage(path, cut)
    with pytest.raises(ConfigError, match=r"model_1\.pb"):
        FrozenPolicy(path, threads=1)


def test_a_second_checkpoint_goes_beside_the_first(agent: LocalPPOAgent, run: Run) -> None:
    later = replace(STATE, number=2, steps=40)
    CheckpointWriter(agent, run).write(later)
    assert list_checkpoints(run.model_dir) == [STATE.checkpoint, later.checkpoint]
    restore_state(agent, run, STATE)
    restore_state(agent, run, later)


def test_a_frozen_graph_is_the_one_that_tensorflows_converter_makes(agent: LocalPPOAgent) -> None:
    session = session_of(agent)
    graph = policy_graph(session)
    theirs = tf.graph_util.convert_variables_to_constants(session, graph, [POLICY_NODE])
    for node in theirs.node:
        node.attr.pop("_class", None)
    assert freeze(session, graph) == theirs.SerializeToString(deterministic=True)


def test_freezing_leaves_no_weights_behind(agent: LocalPPOAgent) -> None:
    """What lies in a ring of objects stays until Python next looks for rings."""
    session = session_of(agent)
    graph = policy_graph(session)
    freeze(session, graph)
    gc.collect()
    gc.disable()
    try:
        freeze(session, graph)
        assert gc.collect() == 0
    finally:
        gc.enable()
