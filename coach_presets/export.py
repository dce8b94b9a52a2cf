"""Models tried out before they go elsewhere: rebuilt, restored, compared on pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from coach_presets.compat import tf

import numpy as np
from rl_coach.architectures.layers import Conv2d, Dense

from coach_presets.agent import ONLINE, LocalPPOAgent, SessionSettings, build_agent
from coach_presets.checkpoints import FrozenPolicy, freeze, policy_graph, read_frozen_graph
from coach_presets.preset import CAMERA, agent_parameters, load_preset, merge_preset
from local_trainer.config import PpoConfig
from local_trainer.errors import ConfigError, one_line
from local_trainer.export.probe import FrozenFacts, ProbeAnswer, ProbeRequest
from local_trainer.machine import num_cpus
from local_trainer.recorded_pictures import NUM_PICTURES, read_pictures
from local_trainer.runs import write_atomically
from sim.embedded import EmbeddedSimulator
from sim.simulator import EpisodeStart
from sim.track import Track
from sim.track_files import load_route, load_track

# What the deployed stack builds for a front camera: (embedder, middleware); kernels by
# [filters, size, stride], padding valid, a ReLU after each layer.
NETWORKS: dict[str, tuple[list[Any], list[Any]]] = {
    "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW": (
        [Conv2d(32, 8, 4), Conv2d(64, 4, 2), Conv2d(64, 3, 1)],
        [Dense(512)],
    ),
    "DEEP_CONVOLUTIONAL_NETWORK": (
        [Conv2d(32, 5, 2), Conv2d(32, 3, 1), Conv2d(64, 3, 2), Conv2d(64, 3, 1), Dense(64)],
        [Dense(512)],
    ),
    "DEEP_CONVOLUTIONAL_NETWORK_DEEP": (
        [
            *(Conv2d(32, 8, 4), Conv2d(32, 4, 2), Conv2d(64, 4, 2), Conv2d(64, 3, 1)),
            *(Dense(512), Dense(512)),
        ],
        [Dense(256), Dense(128)],
    ),
}


def answer_all(requests: Sequence[ProbeRequest]) -> list[ProbeAnswer]:
    """Return what was found for each request; a bad model is an answer, not an error."""
    answers = []
    for request in requests:
        answer = ProbeAnswer()
        if request.pictures is not None:
            pictures = read_pictures(Path(request.pictures))
        else:
            pictures = _drawn(request.route, request.surface)
        live = None
        if request.prefix is not None:
            agent = _untrained(request.num_actions, _network_name(request), request.preset)
            try:
                answer = _restore(agent, request)
                live = agent.probabilities(pictures)
                _save(agent, request)
            except ConfigError as error:
                answer = replace(answer, weights_problem=str(error))
        if request.frozen is not None or (live is not None and request.save_frozen is not None):
            answer = _look_at_frozen(Path(request.frozen or str(request.save_frozen)), answer)
        answers.append(_compare(answer, request, live, pictures))
    return answers


# Last and best checkpoint of a model share it; building it takes longer than all the rest.
@lru_cache(maxsize=2)
def _untrained(num_actions: int, network: str, preset: str | None) -> LocalPPOAgent:
    """Return an agent with the network that the metadata (or the preset) name."""
    if preset is not None:
        parameters = merge_preset(load_preset(Path(preset)))
    else:
        parameters = agent_parameters(PpoConfig())
        embedder, middleware = NETWORKS[network]
        main = parameters.network_wrappers["main"]
        main.input_embedders_parameters[CAMERA].scheme = embedder
        main.middleware_parameters.scheme = middleware
    # In fp32 on the processor, as the car computes.
    session = SessionSettings(threads=num_cpus(), use_bf16=False, use_gpu=False)
    return build_agent(parameters, num_actions, 0, 0, session)


def _network_name(request: ProbeRequest) -> str:
    # The first generation's camera always goes through the shallow embedder.
    is_first = request.sensor == "observation"
    return "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW" if is_first else request.network


def _restore(agent: LocalPPOAgent, request: ProbeRequest) -> ProbeAnswer:
    """Put a checkpoint's weights into an agent; strict, as the service is.

    Raises:
        ConfigError: If the checkpoint cannot be read or lacks a weight, or one has another shape.
    """
    prefix = Path(str(request.prefix))
    weights = {v.op.name: v for v in agent.networks["main"].online_network.weights}
    with _readable(prefix):
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        names = {name: _name_in_checkpoint(name, request.sensor) for name in weights}
        for name, variable in weights.items():
            _check_shape(prefix.name, names[name], tuple(variable.shape.as_list()), shapes)
        values = {name: reader.get_tensor(names[name]) for name in weights}
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise ConfigError(f"{names[name]} of {prefix.name} holds numbers that are not finite.")
        weights[name].load(value, _session(agent))
    others = sorted(set(shapes) - set(names.values()))
    return ProbeAnswer(num_weights=len(weights), other_variables=others)


def _name_in_checkpoint(name: str, sensor: str) -> str:
    return name.replace(f"/{CAMERA}/", f"/{sensor}/")


def _check_shape(
    checkpoint: str, name: str, expected: tuple[int, ...], shapes: dict[str, list[int]]
) -> None:
    short = name.removeprefix(ONLINE + "/")
    if name not in shapes:
        raise ConfigError(f"{checkpoint} lacks {short}, which the network of the metadata has.")
    got = tuple(shapes[name])
    if got != expected:
        raise ConfigError(
            f"{short} of {checkpoint} must have the shape {expected} that follows from the "
            f"metadata, got {got}."
        )


@contextmanager
def _readable(prefix: Path) -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    # IndexError: that is how TensorFlow tells of a file that was cut off.
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(f"{prefix.name} cannot be read: {one_line(error, 200)}") from None


def _save(agent: LocalPPOAgent, request: ProbeRequest) -> None:
    session = _session(agent)
    if request.save_weights is not None:
        with session.graph.as_default():
            saver = tf.train.Saver(agent.networks["main"].online_network.weights, max_to_keep=None)
        saver.save(session, request.save_weights, write_state=False)
    if request.save_frozen is not None:
        write_atomically(Path(request.save_frozen), freeze(session, policy_graph(session)))


def _look_at_frozen(path: Path, answer: ProbeAnswer) -> ProbeAnswer:
    try:
        definition = read_frozen_graph(path)
    except (ConfigError, OSError) as error:
        return replace(answer, frozen_problem=str(error).replace(str(path), path.name))
    inputs = [node for node in definition.node if node.op == "Placeholder"]
    if len(inputs) != 1:
        problem = f"{path.name} must have one camera input, got {len(inputs)}."
        return replace(answer, frozen_problem=problem)
    shape = inputs[0].attr["shape"].shape
    facts = FrozenFacts(
        input_name=inputs[0].name,
        input_shape=[dimension.size for dimension in shape.dim],
        input_type=tf.as_dtype(inputs[0].attr["dtype"].type).name,
        num_actions=0,
        devices=sorted({node.device for node in definition.node} - {""}),
    )
    return replace(answer, frozen=facts)


def _compare(
    answer: ProbeAnswer, request: ProbeRequest, live: np.ndarray | None, pictures: np.ndarray
) -> ProbeAnswer:
    """Run pictures through the frozen graph and hold them against the live policy's."""
    given = live
    # One that names a device is refused for it, and could not run here.
    if answer.frozen is not None and not answer.frozen.devices:
        path = Path(request.frozen or str(request.save_frozen))
        try:
            policy = FrozenPolicy(path, num_cpus())
            try:
                given = policy.probabilities(pictures)
                facts = replace(answer.frozen, num_actions=policy.num_actions)
            finally:
                policy.close()
        except (ConfigError, tf.errors.OpError, ValueError) as error:
            text = str(error).replace(str(path), path.name)
            return replace(answer, frozen_problem=one_line(text, 300))
        answer = replace(answer, frozen=facts)
        if live is not None and given.shape == live.shape:
            answer = replace(answer, difference=float(np.abs(given - live).max()))
    if given is None:
        return answer
    error_of_sum = float(np.abs(given.sum(axis=1) - 1.0).max())
    return replace(
        answer,
        num_pictures=len(pictures),
        probability_sum_error=error_of_sum if math.isfinite(error_of_sum) else math.nan,
    )


@lru_cache(maxsize=4)
def _drawn(route: str | None, surface: str) -> np.ndarray:
    """Return what the camera sees around a track, shape (NUM_PICTURES, 120, 160, 1), uint8."""
    if route is None:
        return render(load_track("reinvent_base"), NUM_PICTURES)
    return render(load_route(Path(route), "track", surface), NUM_PICTURES)


def render(track: Track, count: int) -> np.ndarray:
    """Return pictures from places all around a track, on and beside the centre line.

    Returns:
        Shape (count, 120, 160, 1), uint8; the same each time.
    """
    simulator = EmbeddedSimulator(track, count)
    offset_m = 0.25 * float(np.min(track.widths_m))
    starts = [
        EpisodeStart(
            episode=number,
            fraction=number / count,
            lateral_offset_m=offset_m * (number % 3 - 1),
            yaw_offset_rad=0.2 * (number % 5 - 2),
        )
        for number in range(count)
    ]
    simulator.reset(np.arange(count), starts)
    pictures = simulator.observations.copy()
    simulator.close()
    return pictures


def _session(agent: LocalPPOAgent) -> Any:
    return agent.networks["main"].online_network.sess
