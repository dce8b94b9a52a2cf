"""One side of ``bench ppo``: makes one update each time a line arrives on standard input.

``python -m coach_presets.bench SIDE TRANSITIONS THREADS``; SIDE is ``stock``
(unmodified Coach), ``ours_fp32``, ``ours_bf16`` or ``limit_fp32``/``limit_bf16`` (plain
TensorFlow with the data resident). Answers with the seconds the update took. All sides have the
same network, batch of 64, one epoch and Adam.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

NUM_ACTIONS = 10
BATCH_SIZE = 64


def _data(transitions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (transitions, 120, 160, 1), dtype=np.uint8)
    actions = random.integers(0, NUM_ACTIONS, transitions).astype(np.int32)
    return pictures, actions, random.standard_normal(transitions).astype(np.float32)


def _stock(transitions: int) -> Callable[[], Any]:
    from coach_presets.compat import tf

    from rl_coach.agents.clipped_ppo_agent import ClippedPPOAgent
    from rl_coach.architectures.head_parameters import PPOHeadParameters, VHeadParameters
    from rl_coach.base_parameters import TaskParameters
    from rl_coach.core_types import Batch, Transition
    from rl_coach.logger import screen

    from coach_presets.agent import coach_level
    from coach_presets.preset import CAMERA, agent_parameters
    from local_trainer.config import PpoConfig

    parameters = agent_parameters(PpoConfig(batch_size=BATCH_SIZE, learning_rate=1e-6))
    parameters.network_wrappers["main"].heads_parameters = [VHeadParameters(), PPOHeadParameters()]
    parameters.task_parameters = TaskParameters(seed=0, use_cpu=True)
    parameters.name = "agent"
    agent = ClippedPPOAgent(parameters)
    coach_level(agent, NUM_ACTIONS, 0)
    # What Coach's graph manager makes: one thread, hard-wired.
    config = tf.ConfigProto(
        allow_soft_placement=True, intra_op_parallelism_threads=1, inter_op_parallelism_threads=1
    )
    agent.set_session(tf.Session(config=config))
    agent.networks["main"].sync()
    screen.log_dict = lambda *arguments, **names: None
    pictures, actions, numbers = _data(transitions)
    batch = Batch(
        [
            Transition(
                state={CAMERA: picture},
                action=int(action),
                reward=0.0,
                next_state={CAMERA: picture},
                game_over=False,
                info={"advantage": float(number), "gae_based_value_target": float(number)},
            )
            for picture, action, number in zip(pictures, actions, numbers, strict=True)
        ]
    )
    for transition in batch.transitions:
        transition.n_step_discounted_rewards = 0.0
    return lambda: agent.train_network(batch, 1)


def _ours(transitions: int, threads: int, use_bf16: bool) -> Callable[[], Any]:
    from coach_presets.agent import SessionSettings, UpdateSettings, build_agent
    from coach_presets.preset import agent_parameters
    from local_trainer.config import PpoConfig
    from local_trainer.episodes import Episode
    from sim.simulator import EpisodeStart
    from sim.steps import STEP_DTYPE

    ppo = PpoConfig(batch_size=BATCH_SIZE, learning_rate=1e-6, optimization_epochs=1)
    session = SessionSettings(threads, use_bf16, use_gpu=False)
    agent = build_agent(agent_parameters(ppo), NUM_ACTIONS, 0, 0, session)
    pictures, actions, rewards = _data(transitions)
    episode = Episode(
        start=EpisodeStart(0),
        phase="training",
        iteration=0,
        steps=np.zeros(transitions, STEP_DTYPE),
        actions=actions,
        rewards=rewards.astype(np.float64),
        wall_clock=np.zeros(transitions),
        observations=pictures,
        probabilities=agent.probabilities(pictures),
    )
    batch = agent.prepare_batch([episode], UpdateSettings(0, 0))
    order = np.arange(transitions)
    return lambda: agent.train_epoch(batch, order, BATCH_SIZE)


def _limit(transitions: int, threads: int, use_bf16: bool) -> Callable[[], Any]:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if use_bf16:
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    value, policy = _PlainNetwork(tf, 1), _PlainNetwork(tf, NUM_ACTIONS)
    weights = [*value.weights, *policy.weights]
    slots = [(tf.Variable(tf.zeros_like(w)), tf.Variable(tf.zeros_like(w))) for w in weights]
    arrays = _data(transitions)
    pictures, actions, numbers = (tf.constant(array) for array in arrays)

    @tf.function
    def minibatch(chosen: Any) -> Any:
        picture = tf.cast(tf.gather(pictures, chosen), tf.float32) / 255.0
        taken = tf.one_hot(tf.gather(actions, chosen), NUM_ACTIONS)
        advantage = tf.gather(numbers, chosen)
        with tf.GradientTape() as tape:
            probability = tf.reduce_sum(tf.nn.softmax(policy(picture)) * taken, 1)
            ratio = probability / 0.1
            clipped = tf.clip_by_value(ratio, 0.8, 1.2)
            surrogate = tf.minimum(ratio * advantage, clipped * advantage)
            error = tf.square(value(picture)[:, 0] - advantage)
            loss = tf.reduce_mean(error) - tf.reduce_mean(surrogate)
        for weight, slot, gradient in zip(
            weights, slots, tape.gradient(loss, weights), strict=True
        ):
            tf.raw_ops.ResourceApplyAdam(
                var=weight.handle,
                m=slot[0].handle,
                v=slot[1].handle,
                beta1_power=0.9,
                beta2_power=0.999,
                lr=1e-6,
                beta1=0.9,
                beta2=0.999,
                epsilon=1e-5,
                grad=gradient,
            )
        return loss

    def epoch() -> None:
        order = tf.random.shuffle(tf.range(transitions))
        for start in range(0, transitions - BATCH_SIZE + 1, BATCH_SIZE):
            loss = minibatch(order[start : start + BATCH_SIZE])
        loss.numpy()

    return epoch


class _PlainNetwork:
    """The shallow network of `coach_presets.preset` without Coach."""

    _LAYERS = ((8, 4, 1, 32), (4, 2, 32, 64), (3, 1, 64, 64))  # kernel, stride, in, out

    def __init__(self, tf: Any, outputs: int) -> None:
        self._tf = tf
        shapes = [(k, k, i, o) for k, _, i, o in self._LAYERS] + [(11264, 512), (512, outputs)]
        self.weights = []
        for shape in shapes:
            self.weights += [tf.Variable(_glorot(tf, shape)), tf.Variable(tf.zeros(shape[-1]))]

    def __call__(self, x: Any) -> Any:
        tf, w = self._tf, self.weights
        for i, (_, stride, _, _) in enumerate(self._LAYERS):
            x = tf.nn.relu(tf.nn.conv2d(x, w[2 * i], stride, "VALID") + w[2 * i + 1])
        x = tf.nn.relu(tf.reshape(x, (-1, 11264)) @ w[6] + w[7])
        return x @ w[8] + w[9]


def _glorot(tf: Any, shape: tuple[int, ...]) -> Any:
    area = int(np.prod(shape[:-2]))
    limit = float(np.sqrt(6.0 / (area * (shape[-2] + shape[-1]))))
    return tf.random.uniform(shape, -limit, limit)


def main() -> None:
    """Serve one side until standard input ends."""
    side, transitions, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    if side == "stock":
        # With TensorFlow as it comes: compat's choice of oneDNN comes too late after this.
        importlib.import_module("tensorflow")
    else:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Coach prints; only figures may reach the reader
    kind, _, precision = side.partition("_")
    use_bf16 = precision == "bf16"
    if kind == "stock":
        update = _stock(transitions)
    elif kind == "ours":
        update = _ours(transitions, threads, use_bf16)
    else:
        update = _limit(transitions, threads, use_bf16)
    update()  # warm up
    answers.write("ready\n")
    for _ in sys.stdin:
        started = time.perf_counter()
        update()
        answers.write(f"{time.perf_counter() - started}\n")


if __name__ == "__main__":
    main()
