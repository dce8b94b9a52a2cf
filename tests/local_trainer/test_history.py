from local_trainer.history import sort_events
from local_trainer.progress import EndEvent, EpisodeEvent, EvaluationEvent, UpdateEvent


def episode(
    iteration: int, number: int, phase: str = "training", reward: float = 0.0
) -> EpisodeEvent:
    return EpisodeEvent(iteration, number, phase, "off_track", 10.0, reward, 5, 0.3, 0)


def update(iteration: int, entropy: float = 2.0) -> UpdateEvent:
    return UpdateEvent(iteration, 100, 4, 0.0, 0.0, entropy, 0.0, 0.0, 0.0, 3e-4, 1.0)


def evaluation(iteration: int, is_best: bool = False) -> EvaluationEvent:
    return EvaluationEvent(iteration, f"{iteration}_Step-1.ckpt", 5, 0, 10.0, None, None, is_best)


def test_events_are_sorted_by_kind() -> None:
    end = EndEvent("finished", "")
    history = sort_events(
        [episode(0, 1), episode(0, 0), update(0), episode(0, 0, "evaluation"), evaluation(0), end]
    )
    assert [e.episode for e in history.training] == [0, 1]
    assert [e.phase for e in history.trials] == ["evaluation"]
    assert len(history.updates) == len(history.evaluations) == 1
    assert history.end == end


def test_nothing_reported_gives_empty_lists() -> None:
    history = sort_events([])
    assert not (history.training or history.trials or history.updates or history.evaluations)
    assert history.end is None and history.best_evaluation is None


def test_the_first_attempt_at_a_repeated_iteration_is_left_out() -> None:
    first = [episode(0, 0), update(0), evaluation(0)]
    lost = [episode(1, 1, reward=1.0), update(1), evaluation(1), episode(2, 2)]
    again = [episode(1, 1, reward=2.0), update(1, entropy=1.5)]
    history = sort_events([*first, *lost, EndEvent("stopped", ""), *again])
    assert [(e.iteration, e.reward) for e in history.training] == [(0, 0.0), (1, 2.0)]
    assert [(u.iteration, u.entropy) for u in history.updates] == [(0, 2.0), (1, 1.5)]
    assert [e.iteration for e in history.evaluations] == [0]
    assert history.end is None  # it runs again


def test_the_second_try_at_the_iteration_under_way_counts() -> None:
    history = sort_events([episode(0, 0), episode(1, 1, reward=1.0), episode(1, 1, reward=2.0)])
    assert [e.reward for e in history.training] == [0.0, 2.0]


def test_the_best_evaluation_is_the_last_that_was_best() -> None:
    history = sort_events([evaluation(0, True), evaluation(1, True), evaluation(2)])
    assert history.best_evaluation is not None
    assert history.best_evaluation.iteration == 1


def test_an_iteration_s_place_among_the_episodes() -> None:
    history = sort_events([episode(0, 0), episode(0, 1), episode(1, 2)])
    assert [history.episodes_before(i) for i in (0, 1)] == [2, 3]
