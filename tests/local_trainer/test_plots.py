from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from driven import ACTIONS, METADATA, drive, evaluate_run, oval, write_run
from matplotlib.collections import LineCollection
from PIL import Image

from local_trainer.actions import parse_action_space
from local_trainer.history import History, read_history
from local_trainer.metrics import Entry, TrainingMetrics
from local_trainer.plots import (
    action_labels,
    evaluation_episodes,
    evaluation_table,
    live_runs_plot,
    live_training_plot,
    off_track_places,
    plot_actions,
    plot_evaluation,
    plot_evaluations,
    plot_history,
    plot_off_tracks,
    plot_path,
    plot_runs,
    plot_training,
    png,
    read_evaluation,
    run_look,
    write_plots,
)
from local_trainer.runs import Run
from sim.steps import EpisodeStatus

PLOTS = ["actions.png", "evaluation.png", "off_tracks.png", "path.png", "training.png"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run that was not evaluated on its own."""
    return write_run(tmp_path_factory.mktemp("plots") / "run", oval(), 3, 4)


def test_all_plots_are_written_as_pictures(run: Run, tmp_path: Path) -> None:
    paths = write_plots(run, tmp_path)
    assert sorted(path.name for path in paths) == PLOTS
    assert sorted(path.name for path in tmp_path.iterdir()) == PLOTS
    for path in paths:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(maxcolors=10**6)) > 20


def test_a_run_that_has_just_begun_can_be_plotted(run: Run, tmp_path: Path) -> None:
    young = Run(tmp_path / "young")
    young.path.mkdir()
    young.metadata_file.write_bytes(run.metadata_file.read_bytes())
    young.route_file.write_bytes(run.route_file.read_bytes())
    assert sorted(path.name for path in write_plots(young)) == PLOTS
    assert evaluation_table(young) == []


def test_every_axis_of_the_training_curves_is_labelled(run: Run) -> None:
    figure = plot_training(run)
    assert len(figure.axes) == 8
    for axes in figure.axes:
        assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title(loc="left")


def test_the_training_curves_show_what_was_reported(run: Run) -> None:
    history = read_history(run)
    reward, completion = plot_history(history).axes[:2]
    dots, means = reward.lines[0], reward.lines[1]
    assert dots.get_xdata().tolist() == list(range(1, 13))
    assert dots.get_ydata().tolist() == [event.reward for event in history.training]
    first = [event.reward for event in history.training if event.iteration == 0]
    assert means.get_ydata()[0] == pytest.approx(np.mean(first))
    assert means.get_xdata().tolist() == [4, 8, 12]
    trials = completion.lines[2]
    assert trials.get_xdata().tolist() == [4, 8, 12]
    last = [event.progress_percent for event in history.trials if event.iteration == 2]
    assert trials.get_ydata()[-1] == pytest.approx(np.mean(last))


def test_several_runs_give_one_curve_each(run: Run, tmp_path: Path) -> None:
    figure = plot_runs({"one": run, "two": run, "young": Run(tmp_path)})
    for axes in figure.axes:
        assert [line.get_label() for line in axes.lines] == ["one", "two", "young"]
        assert [len(line.get_xdata()) for line in axes.lines] == [3, 3, 0]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two", "young"]
    assert len(plot_runs({}).axes[0].texts) == 1


def test_many_runs_are_told_apart_without_colour() -> None:
    looks = [tuple(run_look(number).values()) for number in range(28)]
    assert len(set(looks)) == 28
    assert len({(marker, line) for _, marker, line in looks}) == 28


def lap(percent: int, milliseconds: int) -> Entry:
    status = "Lap complete" if percent == 100 else "Off track"
    return {
        "completion_percentage": percent,
        "elapsed_time_in_milliseconds": milliseconds,
        "episode_status": status,
    }


def test_models_evaluations_stand_side_by_side() -> None:
    figure = plot_evaluations({"a": [lap(100, 9000), lap(40, 3000)], "b": [lap(20, 1000)]})
    completion, elapsed = figure.axes
    assert [line.get_xdata().tolist() for line in completion.lines] == [[100, 40], [20]]
    assert [line.get_xdata().tolist() for line in elapsed.lines] == [[9.0]]  # whole laps alone
    labels = [label.get_text() for label in completion.get_yticklabels()]
    assert labels == ["a\n1 of 2 laps whole", "b\n0 of 1 laps whole"]
    none = plot_evaluations({"b": [lap(20, 1000)]})
    assert none.axes[1].texts[0].get_text() == "no whole lap"


def test_the_last_live_picture_of_several_runs_stays_in_the_file(run: Run, tmp_path: Path) -> None:
    looks: list[int] = []

    def is_done() -> bool:
        looks.append(1)
        return len(looks) == 3

    file = tmp_path / "runs.png"
    live_runs_plot(lambda: {f"one {len(looks)}": run}, file, is_done, refresh_s=0.0)
    assert len(looks) == 3 and file.read_bytes().startswith(b"\x89PNG")


def test_nothing_reported_gives_empty_panels() -> None:
    figure = plot_history(History())
    assert [axes.texts[0].get_text() for axes in figure.axes].count("nothing yet") == 7
    assert png(figure).startswith(b"\x89PNG")


def test_the_path_is_coloured_by_speed_with_a_colour_bar() -> None:
    track = oval()
    episode = drive(track)
    figure = plot_path([episode], track)
    axes, bar = figure.axes
    (lines,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    assert np.array_equal(lines.get_array(), episode.steps["actual_speed"][1:])
    assert bar.get_ylabel() == "Speed (m/s)"


def test_no_line_is_drawn_where_the_car_was_put_back() -> None:
    track = oval()
    episode = drive(track)
    steps = episode.steps.copy()
    steps["status"][49], steps["reset_count"][49:] = EpisodeStatus.OFF_TRACK, 1
    axes = plot_path([replace(episode, steps=steps)], track).axes[0]
    (lines,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    assert len(lines.get_array()) == len(steps) - 2
    ends = [segment[1].tolist() for segment in lines.get_segments()]
    assert [steps["x"][49], steps["y"][49]] in ends  # driven up to the mishap
    assert [steps["x"][50], steps["y"][50]] not in ends


def test_actions_are_labelled_by_steering_and_speed() -> None:
    labels = action_labels(parse_action_space(METADATA))
    assert labels[0] == "-30° 1.0 m/s"
    assert labels[5] == "0° 2.0 m/s"
    assert labels[7] == "+15° 2.0 m/s"


def test_the_shares_of_the_actions_add_up_to_100_percent() -> None:
    figure = plot_actions({"laps": [drive(oval())], "none": []}, parse_action_space(METADATA))
    (axes,) = figure.axes
    (bars,) = axes.containers
    assert len(bars) == len(ACTIONS)
    assert sum(bar.get_width() for bar in bars) == pytest.approx(100.0)


def test_off_track_places_count_resets_and_ends() -> None:
    track = oval()
    lost = drive(track, noise_deg=30.0)
    assert lost.status is EpisodeStatus.OFF_TRACK
    assert off_track_places(lost).tolist() == [[lost.steps["x"][-1], lost.steps["y"][-1]]]
    lap = drive(track, noise_deg=2.0)
    assert off_track_places(lap).shape == (0, 2)
    figure = plot_off_tracks(iter([lost, lap]), track)
    assert figure.axes[0].get_title(loc="left").endswith("1 times in 2 episodes")
    figure = plot_off_tracks([lap], track)
    assert figure.axes[0].get_title(loc="left").endswith("nowhere in 1 episodes")


def test_a_run_without_an_evaluation_of_its_own_shows_the_best_checkpoint_s(run: Run) -> None:
    best = read_history(run).best_evaluation
    assert best is not None
    laps = evaluation_episodes(run)
    assert {lap.iteration for lap in laps} == {best.iteration}
    assert [row["trial"] for row in evaluation_table(run)] == [1, 2]


def test_the_newest_evaluation_is_shown(tmp_path: Path) -> None:
    track = oval()
    run = write_run(tmp_path / "run", track, 1, 2)
    laps = evaluate_run(run, track, laps=3, stamp="20260102030405")
    assert evaluation_table(run) == [
        {
            "trial": k + 1,
            "completion_percentage": int(lap.progress),
            "elapsed_time": round(lap.duration_s * 1000) / 1000,
        }
        for k, lap in enumerate(laps)
    ]
    assert len(evaluation_episodes(run)) == 3
    figure = plot_evaluation(read_evaluation(run))
    bars = figure.axes[1].containers[0]
    assert [bar.get_height() for bar in bars] == [
        row["elapsed_time"] for row in evaluation_table(run)
    ]


def test_the_live_plot_is_redrawn_until_the_run_is_done(run: Run, tmp_path: Path) -> None:
    answers = iter([False, False, True])
    file = tmp_path / "live.png"
    live_training_plot(run, lambda: next(answers), refresh_s=0.0, file=file)
    assert next(answers, None) is None
    assert file.read_bytes() == png(plot_training(run))


def test_the_live_plot_waits_for_a_run_that_has_not_begun(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    metrics = TrainingMetrics(run)  # reads, writes nothing
    assert metrics.training_episodes == 0
    live_training_plot(run, lambda: True, refresh_s=0.0, file=tmp_path / "live.png")
    assert (tmp_path / "live.png").exists()
