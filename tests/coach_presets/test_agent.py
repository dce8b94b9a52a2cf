"""The agent learns what unmodified Coach learns, from whole episodes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

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
    small_ppo,
    state_of,
    weights_of,
)

from coach_presets.agent import (
    ONLINE,
    LocalPPOAgent,
    UpdateSettings,
    coach_level,
    generalized_advantages,
    minibatch_size,
)
from coach_presets.preset import CAMERA, agent_parameters
from local_trainer.episodes import Episode
from local_trainer.errors import RunFailed
from local_trainer.rollout import pick_actions, training_exploration
from sim.steps import EpisodeStatus

POLICY_BIAS = f"{ONLINE}/network_1/ppo_head_0/policy_fc/bias"


@pytest.fixture(scope="module")
def built() -> Iterator[tuple[LocalPPOAgent, dict[str, np.ndarray]]]:
    """An agent with settings of `small_ppo`, and its first state."""
    with short_lived(new_agent()) as agent:
        yield agent, state_of(agent)


@pytest.fixture
def agent(built: tuple[LocalPPOAgent, dict[str, np.ndarray]]) -> LocalPPOAgent:
    """The agent as it was when it was built."""
    put_state(*built)
    built[0].learning_rate = small_ppo().learning_rate
    return built[0]


@pytest.fixture
def episodes(agent: LocalPPOAgent) -> list[Episode]:
    """20 transitions: two whole minibatches of 8 and a rest."""
    return [make_episode(agent, 13), make_episode(agent, 7, index=1)]


def changed_weights(agent: LocalPPOAgent, episodes: list[Episode]) -> dict[str, np.ndarray]:
    agent.train_on_episodes(episodes, SETTINGS)
    return weights_of(agent)


def are_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


# Networks.


def test_the_weights_are_those_of_the_deployed_stack(agent: LocalPPOAgent) -> None:
    tower = {
        "FRONT_FACING_CAMERA/Conv2d_0/kernel": (8, 8, 1, 32),
        "FRONT_FACING_CAMERA/Conv2d_0/bias": (32,),
        "FRONT_FACING_CAMERA/Conv2d_2/kernel": (4, 4, 32, 64),
        "FRONT_FACING_CAMERA/Conv2d_2/bias": (64,),
        "FRONT_FACING_CAMERA/Conv2d_4/kernel": (3, 3, 64, 64),
        "FRONT_FACING_CAMERA/Conv2d_4/bias": (64,),
        "middleware_fc_embedder/Dense_0/kernel": (11264, 512),
        "middleware_fc_embedder/Dense_0/bias": (512,),
        "gradients_from_head_0-0_rescalers": (),
    }
    expected = {f"{ONLINE}/network_{n}/{name}": tower[name] for n in (0, 1) for name in tower}
    expected |= {
        f"{ONLINE}/network_0/v_values_head_0/output/kernel": (512, 1),
        f"{ONLINE}/network_0/v_values_head_0/output/bias": (1,),
        f"{ONLINE}/network_1/ppo_head_0/policy_fc/kernel": (512, NUM_ACTIONS),
        f"{ONLINE}/network_1/ppo_head_0/policy_fc/bias": (NUM_ACTIONS,),
    }
    weights = weights_of(agent)
    assert {name: value.shape for name, value in weights.items()} == expected
    assert len(weights) == 22
    per_action = 512 + 1
    of_ten_actions = sum(value.size for value in weights.values()) + 5 * per_action
    assert of_ten_actions == 11_684_685


def test_the_seed_fixes_the_first_weights(
    built: tuple[LocalPPOAgent, dict[str, np.ndarray]],
) -> None:
    first = {name: built[1][name] for name in weights_of(built[0])}
    with short_lived(new_agent(seed=1)) as other:
        assert not are_equal(first, weights_of(other))
    with short_lived(new_agent(small_ppo(loss_type="huber"))) as same:
        assert are_equal(first, weights_of(same))


def test_probabilities_and_values_have_one_row_a_picture(agent: LocalPPOAgent) -> None:
    seen = pictures(3)
    probabilities = agent.probabilities(seen)
    assert probabilities.shape == (3, NUM_ACTIONS)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-6)
    assert agent.values(seen).shape == (3,)
    assert agent.values(seen[:0]).shape == (0,)


def test_values_of_many_pictures_are_those_of_each(agent: LocalPPOAgent) -> None:
    seen = pictures(150)  # more than one part
    np.testing.assert_allclose(agent.values(seen)[140:], agent.values(seen[140:]), atol=1e-5)


# One update, against unmodified Coach.


def stock_agent() -> Any:
    """Return Coach's own agent with its own head, as `coach_presets.bench` builds it."""
    from rl_coach.agents.clipped_ppo_agent import ClippedPPOAgent
    from rl_coach.architectures.head_parameters import PPOHeadParameters, VHeadParameters
    from rl_coach.architectures.tensorflow_components.general_network import (
        GeneralTensorFlowNetwork,
    )
    from rl_coach.base_parameters import TaskParameters

    tf.reset_default_graph()
    GeneralTensorFlowNetwork.variable_scopes_dict.clear()
    parameters = agent_parameters(small_ppo())
    parameters.network_wrappers["main"].heads_parameters = [VHeadParameters(), PPOHeadParameters()]
    parameters.task_parameters = TaskParameters(seed=0, use_cpu=True)
    parameters.name = "agent"
    stock = ClippedPPOAgent(parameters)
    coach_level(stock, NUM_ACTIONS, 0)
    stock.set_session(tf.Session())
    return stock


def stock_batch(episodes: list[Episode]) -> Any:
    """Return the episodes as Coach's batch, which here keeps its order."""
    from rl_coach.core_types import Batch, Transition

    class OrderedBatch(Batch):  # type: ignore[misc]
        def shuffle(self) -> None:
            pass

    transitions = []
    for episode in episodes:
        assert episode.observations is not None
        for step, picture in enumerate(episode.observations):
            transition = Transition(
                state={CAMERA: picture},
                action=int(episode.actions[step]),
                reward=float(episode.rewards[step]),
                next_state={CAMERA: picture},
                game_over=step == len(episode.actions) - 1,
                info={},
            )
            transition.n_step_discounted_rewards = 0.0
            transitions.append(transition)
    return OrderedBatch(transitions)


def test_an_epoch_equals_one_of_unmodified_coach(
    agent: LocalPPOAgent, episodes: list[Episode]
) -> None:
    before = weights_of(agent)
    batch = agent.prepare_batch(episodes, SETTINGS)
    measures = agent.train_epoch(batch, np.arange(20), 8).mean(axis=0)
    after = weights_of(agent)

    stock = stock_agent()
    online = stock.networks["main"].online_network
    for variable in online.weights:
        variable.load(before[variable.op.name], online.sess)
    stock.networks["main"].sync()
    transitions = stock_batch(episodes)
    stock.fill_advantages(transitions)
    np.testing.assert_allclose(batch.advantages, transitions.info("advantage"), atol=1e-5)
    np.testing.assert_allclose(batch.targets, transitions.info("gae_based_value_target"), atol=1e-4)
    value_loss, surrogate_loss = stock.train_network(transitions, 1)[:2]
    theirs = weights_of(stock)
    online.sess.close()

    assert measures[0] == pytest.approx(surrogate_loss, abs=1e-5)
    assert measures[1] == pytest.approx(value_loss, rel=1e-5)
    for name, value in after.items():
        np.testing.assert_allclose(value, theirs[name], atol=1e-5, err_msg=name)
    moved = max(np.abs(after[name] - before[name]).max() for name in after)
    assert moved > 1e-4  # ten times the tolerance and more


# What an update learns from.


def test_advantages_by_hand() -> None:
    advantages = generalized_advantages(
        np.array([1.0, 2.0, 4.0]), np.array([10.0, 20.0, 30.0]), 0.0, 0.5, 0.5
    )
    # Deltas: 1 + 10 - 10 = 1; 2 + 15 - 20 = -3; 4 + 0 - 30 = -26; weight 0.25 a step.
    np.testing.assert_allclose(advantages, [1 - 0.75 - 1.625, -3 - 6.5, -26])


def test_with_lambda_one_an_advantage_is_the_return_less_the_value() -> None:
    rewards, values = np.array([1.0, 2.0, 4.0]), np.array([7.0, -3.0, 5.0])
    advantages = generalized_advantages(rewards, values, 8.0, 0.5, 1.0)
    returns = np.array([1 + 1 + 1 + 1, 2 + 2 + 2, 4 + 4.0])
    np.testing.assert_allclose(advantages + values, returns)


def test_only_an_episode_that_was_cut_off_has_a_future(agent: LocalPPOAgent) -> None:
    over = make_episode(agent, 8)
    cut = make_episode(agent, 8, status=EpisodeStatus.TIME_UP)
    assert cut.final_observation is not None
    value = float(agent.values(cut.final_observation[None])[0])
    with_future = replace(SETTINGS, bootstrap_time_up=True)
    targets = {
        name: agent.prepare_batch([episode], settings).targets[-1]
        for name, episode, settings in (
            ("over", over, with_future),
            ("cut", cut, with_future),
            ("cut, as the service", cut, SETTINGS),
        )
    }
    assert targets["over"] == pytest.approx(over.rewards[-1], abs=1e-4)
    assert targets["cut, as the service"] == pytest.approx(cut.rewards[-1], abs=1e-4)
    assert targets["cut"] == pytest.approx(cut.rewards[-1] + 0.99 * value, abs=1e-4)


def test_advantages_are_standardised_over_all_episodes(
    agent: LocalPPOAgent, episodes: list[Episode]
) -> None:
    batch = agent.prepare_batch(episodes, SETTINGS)
    assert batch.advantages.mean() == pytest.approx(0.0, abs=1e-6)
    assert batch.advantages.std() == pytest.approx(1.0, abs=1e-5)
    assert len(batch.actions) == len(batch.pictures) == len(batch.targets) == 20


def test_equal_rewards_and_one_step_do_no_harm(agent: LocalPPOAgent) -> None:
    update = agent.train_on_episodes([make_episode(agent, 1)], SETTINGS)
    assert update.transitions == 1
    assert math.isfinite(update.policy_loss) and math.isfinite(update.explained_variance)


@pytest.mark.parametrize(
    ("transitions", "size"), [(1000, 64), (65, 64), (64, 64), (63, 32), (32, 32), (3, 2), (1, 1)]
)
def test_the_minibatch_shrinks_when_there_is_too_little_data(transitions: int, size: int) -> None:
    assert minibatch_size(transitions, 64) == size


def test_the_last_partial_minibatch_is_left_out(
    agent: LocalPPOAgent, episodes: list[Episode]
) -> None:
    assert agent.train_on_episodes(episodes, SETTINGS).transitions == 16


def test_max_transitions_limits_what_is_learnt_from(
    agent: LocalPPOAgent, episodes: list[Episode]
) -> None:
    calls: list[None] = []
    update = agent.train_on_episodes(
        episodes, replace(SETTINGS, max_transitions=12), lambda: calls.append(None)
    )
    assert update.transitions == 8 and len(calls) == 1
    whole = agent.train_on_episodes(episodes, replace(SETTINGS, max_transitions=3))
    assert whole.transitions == 8  # never less than a minibatch


def test_seed_and_iteration_fix_the_order(agent: LocalPPOAgent, episodes: list[Episode]) -> None:
    first = state_of(agent)

    def after(settings: UpdateSettings) -> dict[str, np.ndarray]:
        put_state(agent, first)
        agent.train_on_episodes(episodes, settings)
        return weights_of(agent)

    once = after(SETTINGS)
    assert are_equal(once, after(SETTINGS))
    assert not are_equal(once, after(replace(SETTINGS, seed=1)))
    assert not are_equal(once, after(replace(SETTINGS, iteration=1)))


def test_an_update_that_is_given_up_raises_what_the_caller_raised(
    agent: LocalPPOAgent, episodes: list[Episode]
) -> None:
    class Enough(Exception):
        pass

    def stop() -> None:
        raise Enough

    with pytest.raises(Enough):
        agent.train_on_episodes(episodes, SETTINGS, stop)


def test_an_update_makes_good_actions_likelier(agent: LocalPPOAgent) -> None:
    seen = np.repeat(pictures(1), 40, axis=0)
    actions = np.arange(40) % NUM_ACTIONS
    before = agent.probabilities(seen[:1])[0]
    episode = replace(
        make_episode(agent, 40),
        actions=actions.astype(np.int32),
        rewards=np.where(actions == 2, 1.0, 0.0),
        observations=seen,
        probabilities=agent.probabilities(seen),
    )
    for iteration in range(3):
        agent.train_on_episodes([episode], replace(SETTINGS, iteration=iteration))
    assert agent.probabilities(seen[:1])[0][2] > before[2] + 0.02


# When it goes wrong.


def test_an_update_that_moves_the_policy_too_far_is_taken_back(
    agent: LocalPPOAgent, episodes: list[Episode]
) -> None:
    before = state_of(agent)
    agent.learning_rate = 0.03
    settings = replace(SETTINGS, max_kl=1e-3, target_kl=1e-3, learning_rate_range=(0.001, 0.05))
    assert not agent.train_on_episodes(episodes, replace(settings, max_kl=None)).is_taken_back
    moved = weights_of(agent)
    put_state(agent, before)
    agent.learning_rate = 0.03

    update = agent.train_on_episodes(episodes, settings)
    assert update.is_taken_back and update.learning_rate < 0.03
    weights = weights_of(agent)
    assert are_equal(weights, {name: before[name] for name in weights})
    assert not are_equal(weights, moved)
    # The average follows the weights that stayed, and Adam no longer pushes the way it did.
    averages = {mean.op.name: weight for weight, mean in agent.average.items()}
    after = state_of(agent)
    assert all(np.array_equal(after[mean], weights[name]) for mean, name in averages.items())
    momenta = [value for name, value in after.items() if name.endswith("/Adam")]
    assert momenta and not any(value.any() for value in momenta)


def test_probabilities_that_underflow_give_finite_losses(
    agent: LocalPPOAgent, episodes: list[Episode]
) -> None:
    bias = np.zeros(NUM_ACTIONS, np.float32)
    bias[0] = 1000.0
    put_state(agent, {POLICY_BIAS: bias})
    seen = pictures(20)
    # What is exported is the softmax before the floor.
    exported = agent.probabilities(seen)
    assert (exported[:, 1:] == 0.0).all() and exported[:, 0] == pytest.approx(1.0)
    episode = replace(make_episode(agent, 20), actions=np.full(20, 3, np.int32), observations=seen)
    update = agent.train_on_episodes([episode], SETTINGS)
    for name in ("policy_loss", "value_loss", "entropy", "kl_divergence", "clip_fraction"):
        assert math.isfinite(getattr(update, name)), name
    assert np.isfinite(agent.probabilities(seen)).all()


def test_a_reward_that_is_no_number_is_named(agent: LocalPPOAgent) -> None:
    rewards = np.ones(16)
    rewards[3] = math.nan
    with pytest.raises(RunFailed) as failure:
        agent.train_on_episodes([make_episode(agent, 16, rewards=rewards)], SETTINGS)
    text = str(failure.value)
    assert "iteration 0, epoch 0" in text and "value loss is nan" in text
    assert "ppo.learning_rate (now 0.001)" in text and "\n" not in text


def test_a_weight_that_is_no_number_is_named(agent: LocalPPOAgent, episodes: list[Episode]) -> None:
    put_state(agent, {POLICY_BIAS: np.full(NUM_ACTIONS, np.nan, np.float32)})
    with pytest.raises(RunFailed, match="surrogate loss is nan, entropy is nan"):
        agent.train_on_episodes(episodes, replace(SETTINGS, iteration=7))


# Every hyperparameter of the service does what it says.

CHANGES: list[dict[str, Any]] = [
    {"learning_rate": 1e-4},
    {"batch_size": 16},
    {"optimization_epochs": 2},
    {"beta_entropy": 0.5},
    {"discount_factor": 0.5},
    {"loss_type": "huber"},
    {"gae_lambda": 0.5},
    {"clip": 0.001},
    {"optimizer_epsilon": 1e-2},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_hyperparameter_changes_the_update(
    agent: LocalPPOAgent, episodes: list[Episode], change: dict[str, Any]
) -> None:
    first = state_of(agent)
    # More epochs for the clip, which does nothing as long as the policy is the old one.
    usual = changed_weights(agent, episodes)
    with short_lived(new_agent(small_ppo(**change))) as other:
        put_state(other, first)
        assert not are_equal(changed_weights(other, episodes), usual)


def test_huber_and_mean_squared_error_by_hand(
    agent: LocalPPOAgent, episodes: list[Episode]
) -> None:
    batch = agent.prepare_batch(episodes, SETTINGS)
    order = np.arange(8)
    error = np.abs(agent.values(batch.pictures[:8]) - batch.targets[:8])
    squared = agent.train_epoch(batch, order, 8)[0, 1]
    assert squared == pytest.approx(np.mean(error**2), rel=1e-4)
    with short_lived(new_agent(small_ppo(loss_type="huber"))) as other:
        huber = other.train_epoch(batch, order, 8)[0, 1]
    by_hand = np.where(error < 1.0, 0.5 * error**2, error - 0.5)
    assert huber == pytest.approx(by_hand.mean(), rel=1e-4)


def test_exploration_follows_its_three_hyperparameters() -> None:
    assert training_exploration(small_ppo(), 0).kind == "categorical"
    greedy = small_ppo(exploration_type="e-greedy", e_greedy_value=0.2, epsilon_steps=100)
    shares = [training_exploration(greedy, steps).epsilon for steps in (0, 50, 100, 1000)]
    assert shares == pytest.approx([1.0, 0.6, 0.2, 0.2])
    longer = small_ppo(exploration_type="e-greedy", e_greedy_value=0.2, epsilon_steps=200)
    assert training_exploration(longer, 50).epsilon == pytest.approx(0.8)


def test_categorical_picks_as_often_as_the_policy_says_and_e_greedy_by_share() -> None:
    chances = np.random.default_rng(0).random((20_000, 4))
    policy = np.tile(np.array([0.5, 0.3, 0.2], np.float32), (20_000, 1))
    exploration = training_exploration(small_ppo(), 0)
    shares = np.bincount(pick_actions(policy, chances, exploration)) / 20_000
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.015)
    greedy = small_ppo(exploration_type="e-greedy", e_greedy_value=0.3, epsilon_steps=1)
    shares = np.bincount(pick_actions(policy, chances, training_exploration(greedy, 1))) / 20_000
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.015)


def test_a_closed_agent_leaves_the_others_alone(agent: LocalPPOAgent) -> None:
    with short_lived(new_agent()):
        pass
    assert np.isfinite(agent.probabilities(pictures(1))).all()
    assert session_of(agent).graph is not tf.get_default_graph()


def test_the_average_follows_the_weights_and_acts_for_a_while(agent: LocalPPOAgent) -> None:
    first = weights_of(agent)
    agent.follow(0.0)
    put_state(agent, {name: value + 1.0 for name, value in first.items()})
    agent.follow(0.75)  # a quarter of the way: + 0.25
    with agent.averaged():
        assert are_close(weights_of(agent), {n: v + 0.25 for n, v in first.items()})
    assert are_close(weights_of(agent), {n: v + 1.0 for n, v in first.items()})


def are_close(some: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> bool:
    return all(np.allclose(some[name], others[name], rtol=0, atol=1e-6) for name in others)
