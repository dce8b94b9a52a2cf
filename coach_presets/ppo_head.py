"""The policy head: Coach's, with probabilities kept away from zero.

A probability that underflows to 0 turns the likelihood ratio, the entropy and the KL
divergence into NaN. The floor sits behind the node that is exported (``policy``), so a frozen
model gives the plain softmax.
"""

from __future__ import annotations

from typing import Any

from coach_presets.compat import tf

from rl_coach.architectures.head_parameters import PPOHeadParameters
from rl_coach.architectures.tensorflow_components.heads.ppo_head import PPOHead

PROBABILITY_FLOOR = 1e-8


class FlooredPPOHead(PPOHead):
    """Coach's PPO head over a floored softmax. Names in the graph stay those of Coach."""

    def _build_discrete_net(self, input_layer: Any, action_space: Any) -> None:
        num_actions = len(action_space.actions)
        self.actions = tf.placeholder(tf.int32, [None], name="actions")
        self.old_policy_mean = tf.placeholder(tf.float32, [None, num_actions], "old_policy_mean")
        self.old_policy_std = tf.placeholder(tf.float32, [None, num_actions], "old_policy_std")
        self.input = [self.actions, self.old_policy_mean]

        logits = self.dense_layer(num_actions)(input_layer, name="policy_fc")
        softmax = tf.nn.softmax(logits, name="policy")
        self.policy_mean = tf.maximum(softmax, PROBABILITY_FLOOR)

        categorical = tf.distributions.Categorical
        self.policy_distribution = categorical(probs=self.policy_mean)
        self.old_policy_distribution = categorical(probs=self.old_policy_mean)
        self.output = self.policy_mean


class FlooredPPOHeadParameters(PPOHeadParameters):
    """Parameters of `FlooredPPOHead`; Coach finds the class by this path."""

    @property
    def path(self) -> str:
        """Return where Coach imports the head from."""
        return "coach_presets.ppo_head:FlooredPPOHead"
