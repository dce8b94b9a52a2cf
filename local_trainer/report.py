"""One HTML page about a run that needs nothing else: pictures and video are inside it.

How a page looks is in `local_trainer.page`; here is what it tells of a run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from local_trainer.actions import load_action_space
from local_trainer.metrics import Entry
from local_trainer.page import Badge, Page, Tone, data_uri
from local_trainer.plots import of_track, read_evaluation
from local_trainer.run_files import load_run_tracks
from local_trainer.runs import Run, RunStatus, write_atomically

MAX_VIDEO_BYTES = 8_000_000
"""A larger video is named instead of embedded: many mail servers refuse more."""

VIDEO_NAME = "evaluation.mp4"

_TONES: dict[str, Tone] = {
    "finished": "good",
    "failed": "bad",
    "running": "info",
    "stopped": "warn",
    "interrupted": "warn",
}
_TRAINING_WIDTH_PX = 760
"""The widest plot: on a phone it scrolls instead of shrinking."""

_PICTURES = (
    ("path", "The path, coloured by speed", "Where the car drove, and how fast."),
    (
        "training",
        "Training",
        "Reward and completion should rise, lap times fall. Entropy falls as the policy "
        "makes up its mind; near zero it has stopped trying new things. A large KL divergence "
        "means that an update changed the policy a lot.",
    ),
    ("actions", "Actions", "What the policy chose. An action never chosen can be left out."),
    (
        "off_tracks",
        "Off the track",
        "Where training episodes ended beside the road. A dark spot is a place that the reward "
        "or the action space makes hard.",
    ),
    ("evaluation", "Evaluation laps", "Each lap of the evaluation."),
)


def video_file(run: Run, track: int = 0) -> Path:
    """Return where the video of an evaluation lap lies, for each of several tracks one."""
    return run.plots_dir / _video_name(track)


def _video_name(track: int) -> str:
    name = Path(VIDEO_NAME)
    return of_track(name.stem, track) + name.suffix


def write_report(run: Run, folder: Path | None = None) -> Path:
    """Write the page of a run from its files; whatever is missing is left out.

    Args:
        run: The run, with its plots (`plots.write_plots`).
        folder: Where the plots and the video lie and where the page goes. When left out the
            page is the run's ``report.html``.

    Returns:
        The page.
    """
    page = run.report_file if folder is None else folder / "report.html"
    write_atomically(page, report_html(run, folder or run.plots_dir))
    return page


def report_html(run: Run, pictures: Path) -> str:
    """Return the page; ``pictures`` is the folder of the plots and the video."""
    status = run.read_status()
    laps = read_evaluation(run)
    page = _begin(status)
    page.cards(_cards(status, laps))
    is_one = not run.tracks_file.exists()
    tracks = [status.track] if is_one else [track.name for track in load_run_tracks(run)]
    _add_videos(page.section("The lap"), pictures, tracks)
    _add_evaluation(page.section("Evaluation"), laps)
    for name, heading, text in _PICTURES:
        page.section(heading)
        wide = _TRAINING_WIDTH_PX if name == "training" else None
        for number, track in enumerate(tracks):
            if (path := pictures / f"{of_track(name, number)}.png").exists():
                alt = heading if len(tracks) == 1 else f"{heading}, {track}"
                page.picture(path, "" if number else text, alt=alt, min_width_px=wide)
    _add_actions(page.section("Action space"), run)
    _add_hyperparameters(page.section("Hyperparameters"), run)
    _add_file(page.section("Reward function"), run.reward_file)
    _add_file(page.section("Configuration"), run.config_file)
    _add_next_steps(page.section("How to go on"), run)
    return page.html()


def _begin(status: RunStatus) -> Page:
    job = f" · job {status.job_name}" if status.job_name != status.run else ""
    best = f"Best checkpoint {status.best_checkpoint}" if status.best_checkpoint else ""
    return Page(
        status.run,
        (f"Track {status.track}{job} · begun {status.created}", best, status.reason),
        Badge(status.status, _TONES.get(status.status, "plain")),
    )


def _cards(status: RunStatus, laps: Sequence[Entry]) -> list[tuple[str, str]]:
    times_s = [_seconds(lap) for lap in laps if _is_complete(lap)]
    return [
        ("Best lap", f"{min(times_s):.2f} s" if times_s else "–"),
        ("Laps completed", f"{len(times_s)} of {len(laps)}" if laps else "–"),
        ("Off the track", str(sum(int(lap["off_track_count"]) for lap in laps)) if laps else "–"),
        ("Trained for", f"{status.minutes:.1f} min"),
        ("Episodes", f"{status.episodes:,}"),
        ("Steps", f"{status.steps:,}"),
    ]


def _add_videos(page: Page, pictures: Path, tracks: Sequence[str]) -> None:
    for number, track in enumerate(tracks):
        path = pictures / _video_name(number)
        if not path.exists():
            continue
        if len(tracks) > 1:
            page.text(f"On {track}:")
        if path.stat().st_size > MAX_VIDEO_BYTES:
            page.text("The video is too large for this page:").code(str(path))
            continue
        source = data_uri(path, "video/mp4")
        page.markup(f'<video controls autoplay muted loop playsinline src="{source}"></video>')
    page.text(
        "Left: what the policy saw, with measured speed (bar), commanded speed (mark) and "
        "steering. Right: the car on the track."
    )


def _add_evaluation(page: Page, laps: Sequence[Entry]) -> None:
    has_tracks = any("track" in lap for lap in laps)
    rows = [
        (
            str(lap["trial"]),
            *([str(lap.get("track", ""))] if has_tracks else []),
            f"{lap['completion_percentage']} %",
            f"{_seconds(lap):.2f}",
            str(lap["episode_status"]),
            str(lap["off_track_count"]),
            str(lap["crash_count"]),
            str(lap["reset_count"]),
        )
        for lap in laps
    ]
    track = ["Track"] if has_tracks else []
    headings = ("Completion", "Time (s)", "End", "Off track", "Crashes", "Resets")
    page.table(("Trial", *track, *headings), rows)


def _add_actions(page: Page, run: Run) -> None:
    if not run.metadata_file.exists():
        return
    space = load_action_space(run.metadata_file)
    rows = [
        (
            str(index),
            f"{action.steering_deg:+g}" if action.steering_deg else "0",
            f"{action.speed_mps:g}",
        )
        for index, action in enumerate(space.actions)
    ]
    page.text(f"Sensor {', '.join(space.sensors)}, network {space.network}")
    page.table(("Action", "Steering (°, left positive)", "Speed (m/s)"), rows)


def _add_hyperparameters(page: Page, run: Run) -> None:
    if not run.hyperparameters_file.exists():
        return
    values = json.loads(run.hyperparameters_file.read_text(encoding="utf-8"))
    page.table(("Name", "Value"), [(name, str(value)) for name, value in values.items()])


def _add_file(page: Page, path: Path) -> None:
    if path.exists():
        page.code(path.read_text(encoding="utf-8"))


def _add_next_steps(page: Page, run: Run) -> None:
    name = run.name
    page.commands(
        [
            ("Train on where it stopped", f"local-trainer train --resume {name}"),
            ("Begin a new run with its weights", f"local-trainer train --from {name}"),
            ("Drive evaluation laps again", f"local-trainer evaluate {name}"),
            ("Judge it from all around the track", f"local-trainer evaluate {name} --robust"),
            ("Draw this page again", f"local-trainer plot {name}"),
        ]
    )
    page.text(
        f"Everything lies in {run.path}: the model in model/, every step driven in "
        "training-simtrace/ (CSV), the log in logs/training.log."
    )


def _is_complete(lap: Entry) -> bool:
    return lap["episode_status"] == "Lap complete"


def _seconds(lap: Entry) -> float:
    return int(lap["elapsed_time_in_milliseconds"]) / 1000.0
