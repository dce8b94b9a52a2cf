"""Our preset runs under Coach's own graph manager, and a user's preset is taken as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from coach_presets.ppo_head import FlooredPPOHeadParameters
from coach_presets.preset import CAMERA, agent_parameters, load_preset, merge_preset
from local_trainer.config import PpoConfig
from local_trainer.errors import ConfigError

USER_PRESET = """
from rl_coach.agents.clipped_ppo_agent import ClippedPPOAgentParameters
from rl_coach.environments.gym_environment import GymVectorEnvironment
from rl_coach.graph_managers.basic_rl_graph_manager import BasicRLGraphManager
from rl_coach.graph_managers.graph_manager import ScheduleParameters
import preset_hyperparams

agent_params = ClippedPPOAgentParameters()
agent_params.network_wrappers["main"].learning_rate = preset_hyperparams.learning_rate
agent_params.algorithm.optimization_epochs = 7
agent_params.algorithm.beta_entropy = 0.2
graph_manager = BasicRLGraphManager(
    agent_params=agent_params,
    env_params=GymVectorEnvironment(level="sim.gym_env:DeepRacerEnv"),
    schedule_params=ScheduleParameters(),
)
"""


def preset_file(folder: Path, text: str) -> Path:
    (folder / "preset_hyperparams.py").write_text("learning_rate=0.0125\n")
    path = folder / "preset.py"
    path.write_text(text)
    return path


def test_every_setting_reaches_coach() -> None:
    ppo = PpoConfig(
        learning_rate=0.01,
        batch_size=7,
        optimizer_epsilon=0.02,
        optimization_epochs=3,
        discount_factor=0.5,
        beta_entropy=0.03,
        gae_lambda=0.4,
        clip=0.1,
        episodes_between_training=11,
        loss_type="huber",
    )
    agent = agent_parameters(ppo)
    network, algorithm = agent.network_wrappers["main"], agent.algorithm
    assert (network.learning_rate, network.batch_size) == (0.01, 7)
    assert (network.optimizer_epsilon, network.replace_mse_with_huber_loss) == (0.02, True)
    assert (algorithm.optimization_epochs, algorithm.discount) == (3, 0.5)
    assert (algorithm.beta_entropy, algorithm.gae_lambda) == (0.03, 0.4)
    assert algorithm.clip_likelihood_ratio_using_epsilon == 0.1
    assert algorithm.num_consecutive_playing_steps.num_steps == 11
    assert not agent_parameters(PpoConfig()).network_wrappers["main"].replace_mse_with_huber_loss


def test_a_user_s_preset_keeps_its_settings_and_gets_our_head(tmp_path: Path) -> None:
    agent = merge_preset(load_preset(preset_file(tmp_path, USER_PRESET)))
    network = agent.network_wrappers["main"]
    assert network.learning_rate == 0.0125
    assert (agent.algorithm.optimization_epochs, agent.algorithm.beta_entropy) == (7, 0.2)
    assert list(network.input_embedders_parameters) == [CAMERA]
    assert isinstance(network.heads_parameters[1], FlooredPPOHeadParameters)
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise ValueError('two\\nlines')\n", "ValueError: two"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
        ("graph = None\n", "must define graph_manager, a Coach graph manager"),
        ("graph_manager = 'no manager'\n", "must define graph_manager, a Coach graph manager"),
        (
            "from types import SimpleNamespace\n"
            "from rl_coach.agents.dqn_agent import DQNAgentParameters\n"
            "graph_manager = SimpleNamespace(agent_params=DQNAgentParameters())\n",
            "must be clipped PPO (ClippedPPOAgentParameters), got DQNAgentParameters",
        ),
    ],
    ids=["syntax", "import", "raises", "exits", "nothing", "text", "another agent"],
)
def test_a_preset_that_cannot_be_used_is_told_in_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = preset_file(tmp_path, text)
    with pytest.raises(ConfigError) as failure:
        load_preset(path)
    assert message in str(failure.value) and str(path) in str(failure.value)
    assert "\n" not in str(failure.value)
    assert str(tmp_path) not in sys.path


def test_two_cameras_are_refused() -> None:
    agent = agent_parameters(PpoConfig())
    embedders = agent.network_wrappers["main"].input_embedders_parameters
    embedders["LEFT_CAMERA"] = embedders[CAMERA]
    with pytest.raises(ConfigError, match="one camera input is supported, got 2 inputs"):
        merge_preset(agent)


COACH_ACTS = """
from coach_presets.preset import graph_manager
from local_trainer.config import PpoConfig
from rl_coach.base_parameters import TaskParameters
from rl_coach.core_types import EnvironmentSteps, RunPhase

manager = graph_manager(PpoConfig())
manager.create_graph(TaskParameters(experiment_path=".", use_cpu=True))
manager.phase = RunPhase.TRAIN
manager.reset_internal_state(force_environment_reset=True)
manager.act(EnvironmentSteps(12))
agent = manager.level_managers[0].agents["agent"]
print("steps", agent.total_steps_counter, "episode", agent.current_episode_steps_counter)
"""


@pytest.mark.slow
def test_coach_s_own_graph_manager_runs_our_preset(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COACH_ACTS],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "steps 12" in done.stdout
