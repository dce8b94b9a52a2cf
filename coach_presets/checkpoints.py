"""TensorFlow's side of checkpoints: write and read weights, optimizer and the frozen policy.

A checkpoint holds the trainable variables only, as the deployed stack's does, and they are the
average weights (`LocalPPOAgent.average`): the policy that was evaluated and is frozen. The
weights that learn and the optimizer's slots lie beside it for the newest two. Files appear under
their own names only when they are whole.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coach_presets.compat import tf

import numpy as np

from coach_presets.agent import ONLINE, POLICY_NODE, LocalPPOAgent
from local_trainer.checkpoints import TrainerState, remove_unfinished, write_state
from local_trainer.errors import ConfigError, RunFailed, first_line
from local_trainer.runs import Run, write_atomically


class CheckpointWriter:
    """Writes an agent's checkpoints into a run."""

    def __init__(self, agent: LocalPPOAgent, run: Run) -> None:
        """Prepare the graph's savers; call before training starts."""
        self._session = agent.networks["main"].online_network.sess
        self._run = run
        self._weights = tf.train.Saver(agent.networks["main"].online_network.weights)
        self._average = tf.train.Saver(agent.average, max_to_keep=None)
        self._learner = tf.train.Saver(_learner(agent), max_to_keep=None)
        self._policy_graph = policy_graph(self._session)
        self._average_names = {name: mean.op.name for name, mean in agent.average.items()}
        self._meta: bytes | None = None

    def write(self, state: TrainerState) -> None:
        """Write checkpoint, frozen graph and what resuming needs; the counters come last.

        Raises:
            RunFailed: If something cannot be written; what was begun is removed.
        """
        try:
            self._write(state)
        except (tf.errors.OpError, OSError) as error:
            remove_unfinished(self._run)
            # An error of the graph begins with where the graph was built; the one before it is
            # the system's.
            cause = error.__context__ or error
            raise RunFailed(
                f"checkpoint {state.checkpoint.name} of run {self._run.name!r} cannot be written: "
                f"{first_line(cause)}"
            ) from error

    def _write(self, state: TrainerState) -> None:
        checkpoint = state.checkpoint
        model_dir = self._run.model_dir
        self._save(self._average, checkpoint.prefix(model_dir))
        write_atomically(Path(f"{checkpoint.prefix(model_dir)}.meta"), self._meta_graph())
        frozen = freeze(self._session, self._policy_graph, self._average_names)
        write_atomically(checkpoint.frozen_graph(model_dir), frozen)
        self._save(self._learner, self._run.path / "resume" / f"{state.number}.ckpt")
        write_state(self._run, state)

    def _save(self, saver: Any, prefix: Path) -> None:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        hidden = prefix.parent / f".{prefix.name}"
        saver.save(
            self._session,
            str(hidden),
            write_meta_graph=False,
            write_state=False,
        )
        # The index is what readers look for, so it moves last.
        for suffix in (".data-00000-of-00001", ".index"):
            os.replace(f"{hidden}{suffix}", f"{prefix}{suffix}")

    def _meta_graph(self) -> bytes:
        # The graph does not change, and writing it out takes as long as the weights.
        if self._meta is None:
            with self._session.graph.as_default():
                meta = self._weights.export_meta_graph()
                self._meta = meta.SerializeToString(deterministic=True)
        return self._meta


def policy_graph(session: Any) -> Any:
    """Return the part of an agent's graph that goes to the car, its weights still variables."""
    graph = tf.graph_util.extract_sub_graph(session.graph.as_graph_def(), [POLICY_NODE])
    for node in graph.node:
        node.device = ""  # the car has no GPU:0
    return graph


def freeze(session: Any, graph: Any, values_of: Mapping[str, str] | None = None) -> bytes:
    """Return a `policy_graph` with the session's weights as constants, as the car reads it.

    Args:
        session: Holds the weights.
        graph: The policy's part of its graph.
        values_of: Names of the variables to take a weight's value from instead.
    """
    values_of = values_of or {}
    frozen = tf.GraphDef()
    frozen.CopyFrom(graph)
    variables = [node for node in frozen.node if node.op == "VariableV2"]
    values = session.run([f"{values_of.get(node.name, node.name)}:0" for node in variables])
    # By hand: TensorFlow's converter leaves the weights in a ring of objects, some 23 MB a call
    # that stay until Python next looks for rings.
    for node, value in zip(variables, values, strict=True):
        node.op = "Const"
        node.attr.clear()
        node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    for node in frozen.node:
        node.attr.pop("_class", None)  # it ties an operation to its weight's device by name
    # Deterministic: the same weights give the same file, whichever process writes it.
    return bytes(frozen.SerializeToString(deterministic=True))


def restore_state(agent: LocalPPOAgent, run: Run, state: TrainerState) -> None:
    """Put the agent exactly where it was: weights, their average, optimizer and step counter.

    Raises:
        ConfigError: If a file is damaged or missing.
    """
    kept = read_checkpoint(state.checkpoint.prefix(run.model_dir))
    values = read_checkpoint(run.path / "resume" / f"{state.number}.ckpt")
    values |= {mean.op.name: kept[name] for name, mean in agent.average.items() if name in kept}
    missing = sorted({variable.op.name for variable in _variables(agent)} - values.keys())
    if missing:
        raise ConfigError(f"checkpoint {state.checkpoint.name} lacks {missing[0]}.")
    _assign(agent, values)


def restore_weights(agent: LocalPPOAgent, prefix: Path) -> list[str]:
    """Take the weights of a checkpoint made anywhere; the optimizer starts afresh.

    Args:
        agent: Gets the weights.
        prefix: Path of the checkpoint without suffix.

    Returns:
        Names of the agent's weights that the checkpoint lacks, which keep their first values.

    Raises:
        ConfigError: If the checkpoint is damaged, or is one of another network or action space.
    """
    values = read_checkpoint(prefix)
    weights = {v.op.name: v for v in agent.networks["main"].online_network.weights}
    common = {}
    for name, variable in weights.items():
        value = values.get(name.replace("/online/", "/global/"), values.get(name))
        if value is None:
            continue
        if tuple(variable.shape) != value.shape:
            what = "actions" if "policy_fc" in name else f"shape of {name.removeprefix(ONLINE)}"
            raise ConfigError(
                f"checkpoint {prefix.name} does not fit: its {what} is "
                f"{value.shape[-1] if what == 'actions' else value.shape}, this run's is "
                f"{variable.shape[-1] if what == 'actions' else tuple(variable.shape)}."
            )
        common[name] = value
    if not common:
        raise ConfigError(f"checkpoint {prefix.name} holds none of the network's weights.")
    _assign(agent, common)
    agent.follow(0.0)
    return sorted(weights.keys() - common.keys())


def read_checkpoint(prefix: Path) -> dict[str, np.ndarray]:
    """Return every tensor of a checkpoint by name.

    Raises:
        ConfigError: If it is missing or damaged.
    """
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    # IndexError: that is how TensorFlow tells of a file that was cut off.
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(f"checkpoint {prefix} cannot be read: {first_line(error)}") from None


def _assign(agent: LocalPPOAgent, values: dict[str, np.ndarray]) -> None:
    session = agent.networks["main"].online_network.sess
    for variable in _variables(agent):
        if variable.op.name in values:
            variable.load(values[variable.op.name], session)


def _learner(agent: LocalPPOAgent) -> list[Any]:
    """Return what learns: weights, optimizer, step counter."""
    averages = {mean.name for mean in agent.average.values()}
    return [variable for variable in _variables(agent) if variable.name not in averages]


def _variables(agent: LocalPPOAgent) -> list[Any]:
    """Return everything that changes while an agent learns: `_learner`'s and the average."""
    with agent.networks["main"].online_network.sess.graph.as_default():
        return list(tf.global_variables())


_POLICY_OPS = frozenset(
    "Add AddV2 AvgPool BiasAdd Cast Concat ConcatV2 Const Conv2D Div Elu Exp ExpandDims Fill "
    "FusedBatchNorm FusedBatchNormV3 GatherV2 GreaterEqual Identity LeakyRelu Log MatMul Max "
    "MaxPool Maximum Mean Min Minimum Mul Neg NoOp Pack Placeholder PlaceholderWithDefault Pow "
    "Prod RandomUniform Range RealDiv Relu Relu6 Reshape Rsqrt Select SelectV2 Selu Shape Sigmoid "
    "Slice Softmax Softplus Split SplitV Sqrt Square SquaredDifference Squeeze StopGradient "
    "StridedSlice Sub Sum Tanh Tile Transpose Unpack".split()
)
"""What a policy is made of. A graph from elsewhere could as well read and write files."""


def read_frozen_graph(path: Path) -> Any:
    """Return the definition of a frozen graph from anywhere; it is not run.

    Raises:
        ConfigError: If the file is none, or does anything but compute.
    """
    definition = tf.GraphDef()
    try:
        definition.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError has no public, stable home
        raise ConfigError(f"{path} is not a frozen graph: {error}") from None
    strange = sorted({node.op for node in definition.node} - _POLICY_OPS)
    if strange or definition.library.function:
        what = strange[0] if strange else "a function"
        raise ConfigError(f"{path} must only compute a policy, got the operation {what!r:.60}.")
    return definition


class FrozenPolicy:
    """A frozen graph as it goes to the car, ready to choose."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load the graph.

        Raises:
            ConfigError: If the file is no frozen policy.
        """
        definition = read_frozen_graph(path)
        graph = tf.Graph()
        try:
            with graph.as_default():
                tf.import_graph_def(definition, name="")
            output = graph.get_tensor_by_name(f"{POLICY_NODE}:0")
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{path} is not a frozen policy: {error.args[0]}") from None
        placeholders = [op for op in graph.get_operations() if op.type == "Placeholder"]
        if len(placeholders) != 1:
            raise ConfigError(f"{path} must have one camera input, got {len(placeholders)}.")
        config = tf.ConfigProto(
            intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1
        )
        self._session = tf.Session(graph=graph, config=config)
        self.num_actions = int(output.shape[-1])
        self._policy = self._session.make_callable(output, feed_list=[placeholders[0].outputs[0]])

    def probabilities(self, observations: np.ndarray) -> np.ndarray:
        """Return the probability of each action; see `local_trainer.rollout.Policy`."""
        return np.asarray(self._policy(observations.astype(np.float32)))

    def close(self) -> None:
        """Free the graph."""
        self._session.close()
