"""Coach's clipped PPO agent with a fast update for rollouts that arrive as arrays.

What is learned is Coach's: its networks, heads, losses and Adam. What differs is how a
minibatch travels. Stock Coach fetches every gradient to Python and feeds it back, asks the
target network for the old policy in every minibatch, and runs on one thread. Here one session
call computes the gradients and applies them, and the old policy is what acted.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from coach_presets.compat import tf

import numpy as np
from rl_coach.agents.clipped_ppo_agent import (
    ClippedPPOAgent,
    ClippedPPOAgentParameters,
)
from rl_coach.base_parameters import TaskParameters
from rl_coach.level_manager import LevelManager
from rl_coach.logger import screen
from rl_coach.spaces import (
    DiscreteActionSpace,
    ImageObservationSpace,
    RewardSpace,
    SpacesDefinition,
    StateSpace,
)

from coach_presets.preset import CAMERA
from local_trainer.episodes import Episode
from local_trainer.errors import RunFailed
from local_trainer.progress import UpdateEvent
from sim.simulator import CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX
from sim.steps import EpisodeStatus

ONLINE = "main_level/agent/main/online"
POLICY_NODE = f"{ONLINE}/network_1/ppo_head_0/policy"
INPUT_NODE = f"{ONLINE}/network_0/{CAMERA}/{CAMERA}"
_NUM_NETWORKS = 2
"""One for the policy and one for the value."""

_VALUE_BATCH = 128


_MEASURES = ("surrogate loss", "value loss", "entropy", "KL divergence", "clip fraction")


_KL_SAMPLE = 256
_TOO_FAR = 4.0
"""Times ``max_kl``: an update that ends further from the policy that acted is taken back."""

_KL = 3
_RATE_FACTOR = 1.2
_LEAST_KL = 1e-6
"""Below this the KL divergence is rounding: the policy has not moved yet."""


class _NotFinite(Exception):
    """Raised when a measure of a minibatch is not a finite number."""

    def __init__(self, values: list[float]) -> None:
        super().__init__(values)
        self.values = values


class LocalPPOAgent(ClippedPPOAgent):
    """Clipped PPO whose update takes whole episodes as arrays (`train_on_episodes`)."""

    def __init__(self, parameters: ClippedPPOAgentParameters, parent: Any = None) -> None:
        """Take Coach's parameters; the learning rate becomes something a step can be given."""
        super().__init__(parameters, parent)
        network = parameters.network_wrappers["main"]
        self.learning_rate = float(network.learning_rate)
        """Of the next gradient step; moves if the update is given a ``target_kl``."""
        self._learning_rate = tf.placeholder(tf.float32, (), name="learning_rate")
        network.learning_rate = lambda: self._learning_rate
        self.epoch_log: list[dict[str, float]] = []
        """What each epoch came to since the caller last cleared it, under the log's names."""

    def set_session(self, sess: Any) -> None:
        """Build what the fast update needs, then let Coach initialise everything."""
        network = self.networks["main"].online_network
        head = network.output_heads[1]
        gradients = network.tensor_gradients
        if network.network_parameters.clip_gradients:
            gradients = network.clipped_grads
        with tf.name_scope("fast_update"):
            # All gradients before any weight moves: the backward pass reads the weights where
            # they lie, and without this Adam changes upper layers under it.
            gradients = tf.tuple(gradients)
            self._apply = network.optimizer.apply_gradients(
                zip(gradients, network.weights, strict=True), global_step=network.global_step
            )
            clip = self.ap.algorithm.clip_likelihood_ratio_using_epsilon
            outside = tf.abs(head.likelihood_ratio - 1.0) > clip * head.clip_param_rescaler
            self._clip_fraction = tf.reduce_mean(tf.cast(outside, tf.float32))
            self._make_average(network.weights)
            momenta = [network.optimizer.get_slot(weight, "m") for weight in network.weights]
            self._stand_still = tf.group(*(tf.assign(m, tf.zeros_like(m)) for m in momenta))
        # The optimizer's slots were made after Coach's own initialiser.
        network.init_op = tf.group(tf.global_variables_initializer(), network.init_op)
        super().set_session(sess)
        self._fetches = [
            self._apply,
            network.losses[1],
            network.losses[0],
            head.entropy,
            head.kl_divergence,
            self._clip_fraction,
        ]
        state = network.inputs[CAMERA]
        self._policy = sess.make_callable(
            sess.graph.get_tensor_by_name(f"{POLICY_NODE}:0"), feed_list=[state]
        )
        self._value = sess.make_callable(network.outputs[0], feed_list=[state])
        self._feeds = [
            self._learning_rate,
            state,
            network.inputs["output_1_0"],
            network.inputs["output_1_1"],
            network.inputs["output_1_2"],
            *network.targets,
            *network.importance_weights,
        ]
        self._update = sess.make_callable(self._fetches, feed_list=self._feeds)

    def _make_average(self, weights: list[Any]) -> None:
        """Build the second copy of the weights that follows the first from update to update."""
        self.average = {
            weight.op.name: tf.Variable(
                tf.zeros_like(weight.initialized_value()),
                trainable=False,
                collections=[tf.GraphKeys.GLOBAL_VARIABLES],
                name=f"average/{weight.op.name}",
            )
            for weight in weights
        }
        """Mean weights over the last updates, by the name of the weight. This is the policy that is
        evaluated and kept: one update may lose a lap that the mean of several still drives."""
        self._keep = tf.placeholder(tf.float32, (), name="keep")
        pairs = [(self.average[weight.op.name], weight) for weight in weights]
        self._follow = tf.group(
            *(tf.assign(mean, self._keep * mean + (1.0 - self._keep) * now) for mean, now in pairs)
        )
        self._take_average = tf.group(*(tf.assign(now, mean) for mean, now in pairs))

    def follow(self, keep: float) -> None:
        """Move the average towards the weights.

        Args:
            keep: How much of the average stays, in [0, 1); 0 makes it equal to the weights.
        """
        self._session.run(self._follow, {self._keep: keep})

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Act with the average weights for a while; afterwards all is as it was."""
        now = self._weights()
        self._session.run(self._take_average)
        try:
            yield
        finally:
            self._put_weights(now)

    def _weights(self) -> list[np.ndarray]:
        values: list[np.ndarray] = self._session.run(self.networks["main"].online_network.weights)
        return values

    def _put_weights(self, values: list[np.ndarray]) -> None:
        weights = self.networks["main"].online_network.weights
        for weight, value in zip(weights, values, strict=True):
            weight.load(value, self._session)

    @property
    def _session(self) -> Any:
        return self.networks["main"].online_network.sess

    def probabilities(self, observations: np.ndarray) -> np.ndarray:
        """Return what the policy gives for each action.

        Args:
            observations: Pictures, shape (n, 120, 160, 1), uint8.

        Returns:
            Probabilities before the head's floor, shape (n, num_actions), float32.
        """
        return np.asarray(self._policy(observations.astype(np.float32)))

    def values(self, observations: np.ndarray) -> np.ndarray:
        """Return the value function's estimates, shape (n,), float32."""

        def part(first: int) -> np.ndarray:
            pictures = observations[first : first + _VALUE_BATCH]
            # Of a few sizes only: oneDNN compiles for each new one, and keeps what it made.
            size = 1 << (len(pictures) - 1).bit_length()
            filled = np.zeros((size, *pictures.shape[1:]), np.float32)
            filled[: len(pictures)] = pictures
            return np.asarray(self._value(filled)[: len(pictures), 0])

        firsts = range(0, len(observations), _VALUE_BATCH)
        # Two at a time: the session runs one network on half of its threads.
        with ThreadPoolExecutor(_NUM_NETWORKS, "values") as threads:
            return np.concatenate([np.zeros(0, np.float32), *threads.map(part, firsts)])

    def train_on_episodes(
        self,
        episodes: list[Episode],
        settings: UpdateSettings,
        before_minibatch: Callable[[], None] = lambda: None,
    ) -> UpdateEvent:
        """Improve the policy once from finished episodes.

        Args:
            episodes: What the present policy played, with pictures and probabilities.
            settings: What Coach's parameters do not hold.
            before_minibatch: Called before each gradient step; may raise to give the update up.

        Returns:
            The losses and other measures of the last epoch.

        Raises:
            RunFailed: If a loss is not a finite number; names which one and when.
        """
        started = time.monotonic()
        batch = self.prepare_batch(episodes, settings)
        size = minibatch_size(len(batch.actions), self.ap.network_wrappers["main"].batch_size)
        generator = np.random.Generator(np.random.Philox(key=[settings.seed, settings.iteration]))
        order = np.arange(len(batch.actions))
        if settings.max_transitions is not None and len(order) > settings.max_transitions:
            order = generator.choice(order, max(settings.max_transitions, size), replace=False)
        before = self._weights()
        for epoch in range(self.ap.algorithm.optimization_epochs):
            generator.shuffle(order)
            try:
                measures = self.train_epoch(batch, order, size, settings, before_minibatch)
            except _NotFinite as error:
                raise RunFailed(self._diverged(error, batch, settings.iteration, epoch)) from None
            mean = measures.mean(axis=0)
            self._log_epoch(mean, epoch)
            if len(measures) < len(order) // size:
                break
        self._check_weights(batch, settings.iteration, epoch)
        is_taken_back = self._take_back_if_too_far(before, batch, order[:_KL_SAMPLE], settings)
        self.follow(settings.averaging)
        for _ in batch.actions:  # a preset's clipping may shrink with every action chosen
            self.ap.algorithm.clipping_decay_schedule.step()
        self.training_iteration += 1
        return UpdateEvent(
            iteration=settings.iteration,
            transitions=len(order) // size * size,
            epochs=epoch + 1,
            policy_loss=float(mean[0]),
            value_loss=float(mean[1]),
            entropy=float(mean[2]),
            kl_divergence=float(mean[3]),
            clip_fraction=float(mean[4]),
            explained_variance=batch.explained_variance,
            learning_rate=self.learning_rate,
            is_taken_back=is_taken_back,
            seconds=time.monotonic() - started,
        )

    def train_epoch(
        self,
        batch: UpdateBatch,
        order: np.ndarray,
        size: int,
        settings: UpdateSettings | None = None,
        before_minibatch: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """Make one gradient step for each whole minibatch; a last partial one is left out.

        Args:
            batch: The transitions.
            order: Indices of those to learn from, in their order.
            size: Transitions in a minibatch.
            settings: Says when to end early and how the learning rate moves; None: neither.
            before_minibatch: Called before each gradient step.

        Returns:
            Surrogate loss, value loss, entropy, KL divergence and clip fraction of each
            minibatch before its step, shape (steps, 5).
        """
        measures = []
        for start in range(0, len(order) - size + 1, size):
            before_minibatch()
            measures.append(self._minibatch(batch, order[start : start + size]))
            if settings is not None and self._is_too_far(measures[-1][_KL], settings):
                break
        return np.array(measures)

    def _is_too_far(self, kl: float, settings: UpdateSettings) -> bool:
        """Fit the learning rate to how far the policy has moved; say whether to end here."""
        if settings.target_kl is not None:
            if kl > 2.0 * settings.target_kl:
                self.learning_rate /= _RATE_FACTOR
            elif _LEAST_KL < kl < 0.5 * settings.target_kl:
                self.learning_rate *= _RATE_FACTOR
            low, high = settings.learning_rate_range
            self.learning_rate = min(max(self.learning_rate, low), high)
        return settings.max_kl is not None and kl > settings.max_kl

    def _take_back_if_too_far(
        self,
        before: list[np.ndarray],
        batch: UpdateBatch,
        sample: np.ndarray,
        settings: UpdateSettings,
    ) -> bool:
        """Undo an update after which the policy hardly resembles the one that acted.

        A policy that has become sure of itself has tiny gradients; then one surprise moves Adam a
        long way, past what the clip and an early end can hold, and a policy that does the same
        everywhere learns nothing that would bring it back.
        """
        if settings.max_kl is None:
            return False
        old, new = batch.old_policy[sample], self.probabilities(batch.pictures[sample])
        kl = float(np.sum(old * np.log(old / np.maximum(new, 1e-8)), axis=1).mean())
        if kl <= _TOO_FAR * settings.max_kl:
            return False
        self._put_weights(before)
        self._session.run(self._stand_still)
        if settings.target_kl is not None:
            self.learning_rate = max(self.learning_rate / 2.0, settings.learning_rate_range[0])
        return True

    def prepare_batch(self, episodes: list[Episode], settings: UpdateSettings) -> UpdateBatch:
        """Return the episodes' transitions with advantages and value targets."""
        algorithm = self.ap.algorithm
        pictures = np.concatenate([episode.observations for episode in episodes])
        values = self.values(pictures)
        ends = [self._value_after(e) if settings.bootstrap_time_up else 0.0 for e in episodes]
        advantages, targets = [], []
        start = 0
        for episode, end_value in zip(episodes, ends, strict=True):
            count = len(episode.actions)
            one = generalized_advantages(
                episode.rewards,
                values[start : start + count],
                end_value,
                algorithm.discount,
                algorithm.gae_lambda,
            )
            advantages.append(one)
            targets.append(one + values[start : start + count])
            start += count
        advantage = np.concatenate(advantages)
        target = np.concatenate(targets)
        variance = float(np.var(target))
        return UpdateBatch(
            pictures=pictures,
            actions=np.concatenate([e.actions for e in episodes]).astype(np.int32),
            old_policy=np.maximum(np.concatenate([e.probabilities for e in episodes]), 1e-8),
            advantages=((advantage - advantage.mean()) / (advantage.std() + 1e-8)).astype("f4"),
            targets=target.astype(np.float32),
            explained_variance=(
                1.0 - float(np.var(target - values)) / variance if variance > 0 else 0.0
            ),
        )

    def _value_after(self, episode: Episode) -> float:
        """Return the estimated future of an episode that was cut off, 0 for one that ended."""
        if episode.status is not EpisodeStatus.TIME_UP or episode.final_observation is None:
            return 0.0
        return float(self.values(episode.final_observation[None])[0])

    def _minibatch(self, batch: UpdateBatch, chosen: np.ndarray) -> list[float]:
        ones = np.ones(1, np.float32)
        _, *result = self._update(
            self.learning_rate,
            batch.pictures[chosen].astype(np.float32),
            batch.actions[chosen],
            batch.old_policy[chosen],
            self.ap.algorithm.clipping_decay_schedule.current_value,
            batch.targets[chosen][:, None],
            batch.advantages[chosen],
            ones[:, None],
            ones,
        )
        if not all(math.isfinite(value) for value in result):
            raise _NotFinite(result)
        return [float(value) for value in result]

    def _check_weights(self, batch: UpdateBatch, iteration: int, epoch: int) -> None:
        """Refuse weights that the very last step has spoilt: no loss was computed after it."""
        sample = batch.pictures[:1]
        outputs = np.concatenate([self.probabilities(sample)[0], self.values(sample)])
        if not np.isfinite(outputs).all():
            bad = _NotFinite([float("nan")] * len(_MEASURES))
            raise RunFailed(self._diverged(bad, batch, iteration, epoch))

    def _diverged(self, error: _NotFinite, batch: UpdateBatch, iteration: int, epoch: int) -> str:
        bad = ", ".join(
            f"{name} is {value}"
            for name, value in zip(_MEASURES, error.values, strict=True)
            if not math.isfinite(value)
        )
        return (
            f"Training diverged in iteration {iteration}, epoch {epoch}: {bad}. Lower "
            f"ppo.learning_rate (now {self.learning_rate:g}) or the "
            f"reward's size (largest value target {np.abs(batch.targets).max():.3g})."
        )

    def _log_epoch(self, mean: np.ndarray, epoch: int) -> None:
        self.epoch_log.append(
            {
                "Surrogate loss": float(mean[0]),
                "KL divergence": float(mean[3]),
                "Entropy": float(mean[2]),
                "training epoch": epoch,
                "learning_rate": self.learning_rate,
            }
        )


@dataclass(frozen=True)
class UpdateSettings:
    """What one update needs beyond Coach's parameters."""

    iteration: int
    seed: int
    max_transitions: int | None = None
    """Most transitions to learn from; a random choice if there are more."""
    bootstrap_time_up: bool = True
    max_kl: float | None = None
    """The update ends early once the policy has moved this far from the one that acted."""
    target_kl: float | None = None
    """How far an update should move the policy; the learning rate follows. None: it stays."""
    learning_rate_range: tuple[float, float] = (1e-4, 2e-3)
    averaging: float = 0.0
    """How much of the average weights stays after this update (`LocalPPOAgent.follow`)."""


@dataclass(frozen=True)
class UpdateBatch:
    """Transitions of an update."""

    pictures: np.ndarray  # (T, 120, 160, 1) uint8
    actions: np.ndarray  # (T,) int32
    old_policy: np.ndarray  # (T, num_actions) float32
    advantages: np.ndarray  # (T,) float32, mean 0, deviation 1
    targets: np.ndarray  # (T,) float32
    explained_variance: float


def generalized_advantages(
    rewards: np.ndarray, values: np.ndarray, end_value: float, discount: float, gae_lambda: float
) -> np.ndarray:
    """Return the generalised advantage estimates of one episode.

    Args:
        rewards: Shape (T,), float64.
        values: The value function's estimates before each action, shape (T,).
        end_value: Its estimate after the last one; 0.0 if the episode is over.
        discount: Weight of the next step's reward.
        gae_lambda: 0 trusts the value function, 1 the returns.

    Returns:
        Shape (T,), float64.
    """
    following = np.append(values[1:], end_value)
    deltas = rewards + discount * following - values
    advantages = np.empty(len(deltas))
    running = 0.0
    for step in range(len(deltas) - 1, -1, -1):
        running = deltas[step] + discount * gae_lambda * running
        advantages[step] = running
    return advantages


def minibatch_size(transitions: int, batch_size: int) -> int:
    """Return the minibatch size, lowered as the service does when there is too little data."""
    if transitions > batch_size:
        return batch_size
    return 2 ** int(math.floor(math.log2(max(transitions, 1))))


@dataclass(frozen=True)
class SessionSettings:
    """How the network runs on this machine."""

    threads: int
    use_bf16: bool
    use_gpu: bool


def build_agent(
    parameters: ClippedPPOAgentParameters,
    num_actions: int,
    default_action: int,
    seed: int,
    session: SessionSettings,
) -> LocalPPOAgent:
    """Return an agent with its graph built and its weights drawn from the seed.

    There is no Coach environment behind it: `local_trainer.rollout` plays many cars at once and
    hands over finished episodes.
    """
    tf.reset_default_graph()
    _forget_scopes()
    screen.set_use_colors(False)
    # The old policy is what acted, so no second copy of the networks is needed.
    parameters.network_wrappers["main"].create_target_network = False
    parameters.task_parameters = TaskParameters(seed=seed, use_cpu=not session.use_gpu)
    parameters.name = "agent"
    agent = _silently(lambda: LocalPPOAgent(parameters))
    coach_level(agent, num_actions, default_action)
    agent.set_session(tf.Session(config=_session_config(session)))
    _ready_first_weights(agent)
    agent.follow(0.0)
    return agent


_FIRST_LAYER_GAIN = 3.0
_HEAD_GAIN = 0.1


def _ready_first_weights(agent: LocalPPOAgent) -> None:
    """Make fresh weights ready to learn from camera pictures; the network stays the same.

    A camera picture is mostly even light: under Coach's initial weights every filter answers to
    brightness first, all units move together, and a learning rate that is quick for edges throws
    the policy over. So each filter of the first layer begins blind to even light (its weights sum
    to 0) and stronger by as much as it loses; and the heads begin small, so that the policy starts
    even and the value near 0.
    """
    network = agent.networks["main"].online_network
    values = dict(zip(network.weights, network.sess.run(network.weights), strict=True))
    for variable, value in values.items():
        name = variable.op.name
        if name.endswith("Conv2d_0/kernel"):
            value = _FIRST_LAYER_GAIN * (value - value.mean(axis=(0, 1, 2), keepdims=True))
        elif name.endswith(("policy_fc/kernel", "v_values_head_0/output/kernel")):
            value = _HEAD_GAIN * value
        else:
            continue
        variable.load(value, network.sess)


def coach_level(agent: ClippedPPOAgent, num_actions: int, default_action: int) -> LevelManager:
    """Return the level that gives an agent its spaces and its networks; it has no environment."""
    return LevelManager(
        name="main_level",
        agents=agent,
        environment=None,
        spaces_definition=_spaces(num_actions, default_action),
    )


def _spaces(num_actions: int, default_action: int) -> SpacesDefinition:
    picture = ImageObservationSpace(
        np.array([CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX, 1]), high=255, channels_axis=-1
    )
    return SpacesDefinition(
        state=StateSpace({CAMERA: picture}),
        goal=None,
        action=DiscreteActionSpace(num_actions, default_action=default_action),
        reward=RewardSpace(1),
    )


def _session_config(session: SessionSettings) -> Any:
    config = tf.ConfigProto(
        allow_soft_placement=True,
        # The two networks are independent, and half of the threads each is quicker than all of
        # them for one operation after the other: two threads, bf16, 38 against 43 ms a minibatch.
        intra_op_parallelism_threads=math.ceil(session.threads / _NUM_NETWORKS),
        inter_op_parallelism_threads=min(session.threads, _NUM_NETWORKS),
    )
    config.gpu_options.allow_growth = True
    if session.use_bf16:
        on = config.graph_options.rewrite_options.ON
        config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = on
    return config


def _forget_scopes() -> None:
    """Let Coach build its networks anew: it remembers variable scopes across graphs."""
    from rl_coach.architectures.tensorflow_components.general_network import (
        GeneralTensorFlowNetwork,
    )

    GeneralTensorFlowNetwork.variable_scopes_dict.clear()


def _silently(make: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return make()
