"""Weights of models made elsewhere, as this project's networks take them.

They come as a checkpoint of the deployed stack or of the 2019 original, or as the constants of a
frozen policy. Only tensors are read: of a graph from elsewhere, nothing but plain arithmetic runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coach_presets.compat import tf

import numpy as np

from coach_presets.agent import ONLINE, LocalPPOAgent
from coach_presets.checkpoints import FrozenPolicy, read_checkpoint
from coach_presets.preset import CAMERA
from local_trainer.errors import ConfigError, first_line

_AGENT = "main_level/agent/"
_OTHER_ALGORITHM = re.compile(rf"{_AGENT}(policy|q|v)/")
_NETWORK = re.compile(rf"{_AGENT}main/(online|global)/(network_\d+)/(.+)")
_NOT_SENSORS = ("middleware_", "ppo_head_", "v_values_head_", "gradients_from_head_")
_WEIGHTS = ("/kernel", "/bias", "_rescalers")
_CONTINUOUS = ("policy_mean", "policy_log_std", "policy_std")
_NUM_PROBES = 8
# Two summation orders of the same float32 products differ by less.
_SAME_POLICY = 1e-4

_HARMLESS_OPS = frozenset(
    "Placeholder PlaceholderWithDefault Const Identity StopGradient NoOp Conv2D BiasAdd Add AddV2 "
    "Sub Mul RealDiv Div MatMul Relu Softmax Reshape Shape StridedSlice Slice Pack Unpack Prod "
    "Cast Squeeze ExpandDims ConcatV2 Transpose Fill Maximum Minimum Flatten _FusedConv2D "
    "_FusedMatMul".split()
)
"""What a policy's graph may be made of. TensorFlow knows operations that write files."""


@dataclass(frozen=True)
class Weights:
    """Tensors under this project's names, and what in them it has no place for."""

    values: dict[str, np.ndarray]
    unsupported: tuple[str, ...]


def checkpoint_weights(prefix: Path) -> Weights:
    """Return the weights of a checkpoint.

    Args:
        prefix: Path without suffix.

    Raises:
        ConfigError: If it is missing or damaged.
    """
    return _renamed(read_checkpoint(prefix))


def frozen_weights(path: Path, agent: LocalPPOAgent) -> Weights:
    """Return the policy's weights out of a frozen graph's constants.

    They are found by their names; in a graph that was renamed by an optimiser, by their shapes and
    order.

    Args:
        path: A ``model.pb``.
        agent: Whose policy network's shapes they must have.

    Raises:
        ConfigError: If the file is no graph, or the weights are not in it.
    """
    graph = read_graph(path)
    constants = {
        node.name: tf.make_ndarray(node.attr["value"].tensor)
        for node in graph.node
        if node.op == "Const"
    }
    named = _renamed(constants)
    policy = {n: v for n, v in _variables(agent).items() if "/network_1/" in n and v.shape.rank}
    if named.unsupported or policy.keys() <= named.values.keys():
        return named
    return Weights(_by_shape(path, list(constants.values()), policy), ())


def read_graph(path: Path) -> Any:
    """Return a frozen graph's definition after checking that it only computes.

    Raises:
        ConfigError: If the file is none, or the graph holds an operation that a policy has no use
            for.
    """
    graph = tf.GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError has no public, stable home
        raise ConfigError(f"{path.name} is not a frozen graph: {error}") from None
    strange = sorted({node.op for node in graph.node} - _HARMLESS_OPS)
    if strange or graph.library.function:
        what = ", ".join(strange) or "functions"
        raise ConfigError(f"{path.name} must hold a policy's operations only, got {what}.")
    return graph


def unsupported_parts(agent: LocalPPOAgent, weights: Weights) -> list[str]:
    """Return, part by part, why weights do not go into an agent; empty if they do."""
    if weights.unsupported:
        return list(weights.unsupported)
    parts = []
    variables = _variables(agent)
    head = f"{ONLINE}/network_1/ppo_head_0/policy_fc/bias"
    found = weights.values.get(head)
    if found is not None and found.shape != tuple(variables[head].shape):
        parts.append(
            f"the weights choose among {found.shape[-1]} actions, model_metadata.json has "
            f"{int(variables[head].shape[-1])}"
        )
    embedder = f"{ONLINE}/network_1/{CAMERA}/"
    ours = {n: tuple(v.shape) for n, v in variables.items() if n.startswith(embedder)}
    theirs = {n: v.shape for n, v in weights.values.items() if n.startswith(embedder)}
    if theirs and ours != theirs:
        kernels = [shape for name, shape in sorted(theirs.items()) if name.endswith("/kernel")]
        layers = ", ".join("×".join(map(str, shape)) for shape in kernels)
        parts.append(
            "a network other than DEEP_CONVOLUTIONAL_NETWORK_SHALLOW (its camera layers are "
            f"{layers})"
        )
    middleware = "/network_1/middleware_fc_embedder/"
    rest = {n: tuple(v.shape) for n, v in variables.items() if middleware in n}
    given = {n: v.shape for n, v in weights.values.items() if middleware in n}
    if not parts and given and rest != given:
        parts.append("a network whose dense layers are not one of 512")
    if not parts and head not in weights.values:
        parts.append("weights without a policy of clipped PPO")
    return parts


def restore(agent: LocalPPOAgent, weights: Weights) -> list[str]:
    """Put weights into an agent as far as they go.

    Returns:
        Names of the agent's weights that are not among them and keep their first values.

    Raises:
        ConfigError: If one has another shape or is no finite number.
    """
    session = agent.networks["main"].online_network.sess
    variables = _variables(agent)
    lacking = sorted(variables.keys() - weights.values.keys())
    for name, variable in variables.items():
        if name in lacking:
            continue
        value = weights.values[name]
        if value.shape != tuple(variable.shape) or not np.isfinite(value).all():
            raise ConfigError(
                f"The weights {name.removeprefix(ONLINE)} must be finite numbers of shape "
                f"{tuple(variable.shape)}, got {value.shape}."
            )
        variable.load(value.astype(np.float32), session)
    agent.follow(0.0)
    return lacking


def policy_difference(agent: LocalPPOAgent, graph: Path) -> float:
    """Return how far an agent's policy is from a frozen one, at most, over pictures of noise.

    Raises:
        ConfigError: If the graph cannot be run, or chooses among another number of actions.
    """
    read_graph(graph)
    frozen = FrozenPolicy(graph, 1)
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (_NUM_PROBES, 120, 160, 1), dtype=np.uint8)
    try:
        theirs = frozen.probabilities(pictures)
    except (tf.errors.OpError, ValueError) as error:
        raise ConfigError(
            f"{graph.name} cannot be run on a camera picture: {first_line(error)}"
        ) from None
    finally:
        frozen.close()
    ours = agent.probabilities(pictures)
    if ours.shape != theirs.shape:
        raise ConfigError(
            f"{graph.name} chooses among {theirs.shape[-1]} actions, model_metadata.json has "
            f"{ours.shape[-1]}."
        )
    return float(np.abs(ours - theirs).max())


def is_same_policy(difference: float) -> bool:
    """Return whether two policies differ by no more than rounding."""
    return difference <= _SAME_POLICY


def _variables(agent: LocalPPOAgent) -> dict[str, Any]:
    return {v.op.name: v for v in agent.networks["main"].online_network.weights}


def _renamed(tensors: dict[str, np.ndarray]) -> Weights:
    """Return the networks' tensors under our names, and the parts we have no place for."""
    values: dict[str, np.ndarray] = {}
    unsupported: dict[str, None] = {}
    for name, value in tensors.items():
        if _OTHER_ALGORITHM.match(name):
            unsupported["networks of SAC (only clipped PPO)"] = None
        found = _NETWORK.match(name)
        if found is None:
            continue
        network, rest = found[2], found[3]
        part = rest.partition("/")[0]
        if any(word in rest for word in _CONTINUOUS):
            unsupported["a policy of continuous actions (only discrete)"] = None
        if not rest.endswith(_WEIGHTS):
            continue
        is_embedder = not part.startswith(_NOT_SENSORS)
        if is_embedder and part in ("observation", CAMERA):
            rest = CAMERA + rest.removeprefix(part)
        elif is_embedder:
            unsupported[f"the sensor {part} (only {CAMERA} and observation)"] = None
        # One that trains with others keeps a global copy, which is the one that learned.
        place = f"{ONLINE}/{network}/{rest}"
        if found[1] == "global" or place not in values:
            values[place] = value
    return Weights(values, tuple(unsupported))


def _by_shape(
    path: Path, constants: list[np.ndarray], policy: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Return the constants that have the policy's shapes, in the order they stand in the graph."""
    left = [value for value in constants if value.dtype == np.float32]
    values = {}
    for name, variable in policy.items():
        shape = tuple(variable.shape)
        place = next((i for i, value in enumerate(left) if value.shape == shape), None)
        if place is None:
            raise ConfigError(
                f"{path.name} holds no weights of the policy "
                f"{name.removeprefix(f'{ONLINE}/network_1/')}, shape {shape}: it is another "
                "network, has other actions than model_metadata.json, or was rewritten by an "
                "optimiser."
            )
        values[name] = left.pop(place)
    return values
