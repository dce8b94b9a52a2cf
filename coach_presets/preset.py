"""Our Coach preset: clipped PPO as the deployed stack runs it, every setting top to bottom.

`agent_parameters` is what the trainer uses. A preset file of the user's own replaces it: any
Python file that leaves a ``graph_manager`` (a `BasicRLGraphManager`) behind, as Coach's own
presets do; `load_preset` takes the agent's parameters out of it.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from coach_presets.compat import tf  # noqa: F401

from rl_coach.agents.clipped_ppo_agent import (
    ClippedPPOAgentParameters,
    ClippedPPOAlgorithmParameters,
    ClippedPPONetworkParameters,
)
from rl_coach.agents.policy_optimization_agent import PolicyGradientRescaler
from rl_coach.architectures.embedder_parameters import InputEmbedderParameters
from rl_coach.architectures.head_parameters import VHeadParameters
from rl_coach.architectures.layers import Conv2d, Dense
from rl_coach.architectures.middleware_parameters import FCMiddlewareParameters
from rl_coach.core_types import EnvironmentEpisodes
from rl_coach.exploration_policies.categorical import CategoricalParameters
from rl_coach.filters.filter import NoInputFilter, NoOutputFilter
from rl_coach.memories.episodic.episodic_experience_replay import EpisodicExperienceReplayParameters
from rl_coach.schedules import ConstantSchedule
from rl_coach.spaces import DiscreteActionSpace

from coach_presets.ppo_head import FlooredPPOHeadParameters
from local_trainer.config import PpoConfig
from local_trainer.errors import ConfigError, one_line

CAMERA = "FRONT_FACING_CAMERA"


def network_parameters(ppo: PpoConfig) -> ClippedPPONetworkParameters:
    """Return the networks and their optimizer: one network for the value, one for the policy."""
    network = ClippedPPONetworkParameters()
    # DEEP_CONVOLUTIONAL_NETWORK_SHALLOW: [filters, kernel, stride], padding valid, ReLU.
    network.input_embedders_parameters = {
        CAMERA: InputEmbedderParameters(
            scheme=[Conv2d(32, 8, 4), Conv2d(64, 4, 2), Conv2d(64, 3, 1)],
            activation_function="relu",
            input_rescaling={"image": 255.0, "vector": 1.0, "tensor": 1.0},
            batchnorm=False,
            dropout_rate=0.0,
        )
    }
    network.middleware_parameters = FCMiddlewareParameters(
        scheme=[Dense(512)], activation_function="relu", batchnorm=False, dropout_rate=0.0
    )
    network.heads_parameters = [VHeadParameters(), FlooredPPOHeadParameters()]
    network.use_separate_networks_per_head = True
    network.replace_mse_with_huber_loss = ppo.loss_type == "huber"
    network.batch_size = ppo.batch_size
    network.optimizer_type = "Adam"
    network.learning_rate = ppo.learning_rate
    network.learning_rate_decay_rate = 0
    network.adam_optimizer_beta1 = 0.9
    network.adam_optimizer_beta2 = 0.999
    network.optimizer_epsilon = ppo.optimizer_epsilon
    network.clip_gradients = None
    network.l2_regularization = 0
    network.create_target_network = True
    network.async_training = False
    network.shared_optimizer = True
    return network


def algorithm_parameters(ppo: PpoConfig) -> ClippedPPOAlgorithmParameters:
    """Return how PPO learns."""
    algorithm = ClippedPPOAlgorithmParameters()
    algorithm.discount = ppo.discount_factor
    algorithm.gae_lambda = ppo.gae_lambda
    algorithm.policy_gradient_rescaler = PolicyGradientRescaler.GAE
    algorithm.estimate_state_value_using_gae = True
    algorithm.clip_likelihood_ratio_using_epsilon = ppo.clip
    algorithm.clipping_decay_schedule = ConstantSchedule(1)
    algorithm.beta_entropy = ppo.beta_entropy
    algorithm.use_kl_regularization = False
    algorithm.optimization_epochs = ppo.optimization_epochs
    algorithm.num_consecutive_playing_steps = EnvironmentEpisodes(ppo.episodes_between_training)
    algorithm.num_consecutive_training_steps = 1
    algorithm.act_for_full_episodes = True
    algorithm.distributed_coach_synchronization_type = None
    return algorithm


def agent_parameters(ppo: PpoConfig) -> ClippedPPOAgentParameters:
    """Return Coach's parameters of the agent for our settings."""
    agent = ClippedPPOAgentParameters()
    agent.algorithm = algorithm_parameters(ppo)
    agent.network_wrappers = {"main": network_parameters(ppo)}
    agent.memory = EpisodicExperienceReplayParameters()
    agent.exploration = {DiscreteActionSpace: CategoricalParameters()}
    # The simulator gives what the network takes: one grey channel, 0-255.
    agent.input_filter = NoInputFilter()
    agent.output_filter = NoOutputFilter()
    return agent


def graph_manager(ppo: PpoConfig) -> Any:
    """Return the preset as Coach's own command runs it, on the environment `DeepRacer-v0`."""
    from rl_coach.base_parameters import VisualizationParameters
    from rl_coach.core_types import EnvironmentSteps, TrainingSteps
    from rl_coach.environments.gym_environment import GymVectorEnvironment
    from rl_coach.graph_managers.basic_rl_graph_manager import BasicRLGraphManager
    from rl_coach.graph_managers.graph_manager import ScheduleParameters

    schedule = ScheduleParameters()
    schedule.improve_steps = TrainingSteps(ppo.term_cond_max_episodes)
    schedule.steps_between_evaluation_periods = EnvironmentEpisodes(40)
    schedule.evaluation_steps = EnvironmentEpisodes(5)
    schedule.heatup_steps = EnvironmentSteps(0)

    environment = GymVectorEnvironment(level="sim.gym_env:DeepRacerEnv")
    environment.additional_simulator_parameters = {"camera_name": CAMERA}
    environment.default_input_filter = NoInputFilter
    environment.default_output_filter = NoOutputFilter
    return BasicRLGraphManager(
        agent_params=agent_parameters(ppo),
        env_params=environment,
        schedule_params=schedule,
        vis_params=VisualizationParameters(),
    )


def load_preset(path: Path) -> ClippedPPOAgentParameters:
    """Return the agent's parameters of a preset file of the user's own.

    The file may import ``preset_hyperparams`` (``key = value`` lines) from its own folder, as
    the original's presets do.

    Raises:
        ConfigError: If the file fails, or leaves no clipped PPO ``graph_manager`` behind.
    """
    sys.path.insert(0, str(path.parent))
    try:
        names = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        what = one_line(f"{type(error).__name__}: {error}")
        raise ConfigError(f"preset {path}: {what}") from error
    finally:
        sys.path.remove(str(path.parent))
    manager = names.get("graph_manager")
    parameters = getattr(manager, "agent_params", None)
    if parameters is None:
        raise ConfigError(f"preset {path} must define graph_manager, a Coach graph manager.")
    if not isinstance(parameters, ClippedPPOAgentParameters):
        raise ConfigError(
            f"preset {path}: the agent must be clipped PPO (ClippedPPOAgentParameters), "
            f"got {type(parameters).__name__}."
        )
    return parameters


def merge_preset(preset: ClippedPPOAgentParameters) -> ClippedPPOAgentParameters:
    """Make a user's preset fit what is deployed: the camera's name, our head, no filters.

    Everything else (learning rate, epochs, layers, entropy, schedules) stays the user's.
    """
    network = preset.network_wrappers["main"]
    embedders = list(network.input_embedders_parameters.values())
    if len(embedders) != 1:
        raise ConfigError(f"preset: one camera input is supported, got {len(embedders)} inputs.")
    network.input_embedders_parameters = {CAMERA: embedders[0]}
    network.heads_parameters = [VHeadParameters(), FlooredPPOHeadParameters()]
    network.use_separate_networks_per_head = True
    preset.input_filter = NoInputFilter()
    preset.output_filter = NoOutputFilter()
    return preset
