"""A user's environment and Coach preset are what a training really uses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from local_trainer.checkpoints import choose_checkpoint
from local_trainer.engine import DeepRacerEngine
from local_trainer.errors import RunFailed
from local_trainer.progress import UpdateEvent, read_events
from local_trainer.runs import Run
from local_trainer.step_files import newest_evaluation_steps, read_steps

NUM_EPISODES = 12

# Darkens what is seen, says that the road is 0.5 m wide, and counts its calls beside itself.
ENVIRONMENT = """
import json
from pathlib import Path

from sim.gym_env import DeepRacerEnv

counts = {"resets": 0, "steps": 0}
# The file is loaded once a worker.
COUNTS = Path(__file__).with_name(f"counts-{id(counts)}.json")


class DeepRacerRacetrackEnv(DeepRacerEnv):
    def reset(self):
        counts["resets"] += 1
        return super().reset() // 2

    def step(self, action):
        picture, reward, done, info = super().step(action)
        counts["steps"] += 1
        info["track_width"] = 0.5
        if done:
            COUNTS.write_text(json.dumps(counts))
        return picture // 2, reward, done, info
"""

# As such files look: its numbers come from the generated file, its network is its own.
PRESET = """
from preset_hyperparams import batch_size, beta_entropy, discount, learning_rate
from rl_coach.agents.clipped_ppo_agent import ClippedPPOAgentParameters
from rl_coach.architectures.embedder_parameters import InputEmbedderParameters
from rl_coach.architectures.layers import Conv2d, Dense
from rl_coach.architectures.middleware_parameters import FCMiddlewareParameters
from rl_coach.environments.gym_environment import GymVectorEnvironment
from rl_coach.graph_managers.basic_rl_graph_manager import BasicRLGraphManager
from rl_coach.graph_managers.graph_manager import ScheduleParameters

agent_params = ClippedPPOAgentParameters()
network = agent_params.network_wrappers["main"]
network.learning_rate = learning_rate / 2
network.batch_size = batch_size
network.input_embedders_parameters = {
    "observation": InputEmbedderParameters(
        scheme=[Conv2d(8, 8, 8), Conv2d(16, 4, 2)], activation_function="relu"
    )
}
network.middleware_parameters = FCMiddlewareParameters(
    scheme=[Dense(24)], activation_function="relu"
)
agent_params.algorithm.discount = discount
agent_params.algorithm.beta_entropy = beta_entropy
agent_params.algorithm.optimization_epochs = 2

graph_manager = BasicRLGraphManager(
    agent_params=agent_params,
    env_params=GymVectorEnvironment(level="RoboMaker-DeepRacer-v0"),
    schedule_params=ScheduleParameters(),
)
"""

# Rewards what only the user's environment says.
REWARD = """
def reward_function(params):
    return 2.0 if params["track_width"] == 0.5 else 1.0
"""


def engine(tmp_path: Path, environment: str) -> DeepRacerEngine:
    files = {"racetrack_env": environment, "presets": PRESET, "reward_policy": REWARD}
    for name, code in files.items():
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    return DeepRacerEngine(
        {
            "job_name": "own-files",
            "track_name": "Oval_track",
            "runs_dir": str(tmp_path / "runs"),
            "instance_pool_count": 2,
            "batch_size": 32,
            "learning_rate": 0.002,
            "evaluation_trials": 2,
            **{name: str(tmp_path / f"{name}.py") for name in files},
            "overrides": {
                "stop.episodes": NUM_EPISODES,
                "ppo.episodes_between_training": NUM_EPISODES // 2,
                "episodes.max_steps": 40,
                "evaluation.max_steps": 40,
                "simulator.num_cars": 4,
            },
        }
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = engine(tmp_path_factory.mktemp("own"), ENVIRONMENT)
    run = made.start_training_testing_process()
    made.wait_for_training()
    return run


@pytest.mark.slow
def test_the_users_environment_played_every_episode(trained: Run) -> None:
    episodes = [
        episode
        for iteration in range(2)
        for episode in read_steps(trained.steps_file("training", iteration))
    ]
    assert [episode.index for episode in episodes] == list(range(NUM_EPISODES))
    for episode in episodes:
        assert (episode.steps["track_width"] == 0.5).all()
        assert (episode.rewards == 2.0).all()
        assert len(episode.steps) <= 40
    laps = [
        lap for number in range(2) for lap in read_steps(trained.steps_file("evaluation", number))
    ]
    final = newest_evaluation_steps(trained)
    assert final is not None
    played = [*episodes, *laps, *read_steps(final)]
    files = trained.environment_file.parent.glob("counts-*.json")
    counts = [json.loads(file.read_text("utf-8")) for file in files]
    assert len(counts) == 2
    # Each of the two workers tried the environment for one step at first.
    assert sum(count["resets"] for count in counts) == len(played) + 2
    assert sum(count["steps"] for count in counts) == sum(len(e.steps) for e in played) + 2


@pytest.mark.slow
def test_the_users_preset_made_the_network_and_the_updates(trained: Run) -> None:
    from coach_presets.checkpoints import FrozenPolicy, read_checkpoint

    updates = [e for e in read_events(trained.progress_file) if isinstance(e, UpdateEvent)]
    assert [update.epochs for update in updates] == [2, 2]
    assert {update.learning_rate for update in updates} == {0.001}  # half the parameter
    checkpoint = choose_checkpoint(trained.model_dir)
    shapes = {
        value.shape for value in read_checkpoint(checkpoint.prefix(trained.model_dir)).values()
    }
    assert {(8, 8, 1, 8), (4, 4, 8, 16), (24, 10)} <= shapes
    assert (8, 8, 1, 32) not in shapes
    policy = FrozenPolicy(checkpoint.frozen_graph(trained.model_dir), threads=1)
    probabilities = policy.probabilities(np.zeros((3, 120, 160, 1), np.uint8))
    policy.close()
    assert probabilities.shape == (3, 10)
    assert probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
def test_an_environment_that_cannot_be_used_ends_the_training_with_one_line(
    tmp_path: Path,
) -> None:
    made = engine(tmp_path, "import rospy\n")
    made.start_training_testing_process()
    with pytest.raises(RunFailed, match=r"racetrack_env\.py:1: ModuleNotFoundError: .*'rospy'"):
        made.wait_for_training()
