"""One HTML page about a run that needs nothing else: pictures and video are inside it.

The page asks nothing of the network, so it works offline and can be mailed. Whatever a user
wrote (names, reward code, configuration) is shown as text, never as markup.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from local_trainer.actions import load_action_space
from local_trainer.metrics import Entry
from local_trainer.plots import read_evaluation
from local_trainer.runs import Run, RunStatus, write_atomically

MAX_VIDEO_BYTES = 8_000_000
"""A larger video is named instead of embedded: many mail servers refuse more."""

VIDEO_NAME = "evaluation.mp4"

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


def video_file(run: Run) -> Path:
    """Return where the video of an evaluation lap lies."""
    return run.plots_dir / VIDEO_NAME


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
    title = escape(run.name)
    sections = [
        _header(status),
        _cards(status, laps),
        _section("The lap", _video(run, pictures)),
        _section("Evaluation", _evaluation_table(laps)),
        *(_section(heading, _picture(pictures / f"{name}.png", heading, text))
          for name, heading, text in _PICTURES),
        _section("Action space", _action_table(run)),
        _section("Hyperparameters", _hyperparameters(run)),
        _section("Reward function", _code(run.reward_file)),
        _section("Configuration", _code(run.config_file)),
        _section("How to go on", _next_steps(run)),
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; media-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _header(status: RunStatus) -> str:
    state = escape(status.status)
    reason = f"<p class=reason>{escape(status.reason)}</p>" if status.reason else ""
    best = (
        f"<p>Best checkpoint <b>{escape(status.best_checkpoint)}</b></p>"
        if status.best_checkpoint
        else ""
    )
    job = f" · job {escape(status.job_name)}" if status.job_name != status.run else ""
    return (
        f'<header><h1>{escape(status.run)} <span class="state {state}">{state}</span></h1>'
        f"<p>Track <b>{escape(status.track)}</b>{job} · begun {escape(status.created)}</p>"
        f"{best}{reason}</header>"
    )


def _cards(status: RunStatus, laps: Sequence[Entry]) -> str:
    times_s = [_seconds(lap) for lap in laps if _is_complete(lap)]
    cards = [
        ("Best lap", f"{min(times_s):.2f} s" if times_s else "–"),
        ("Laps completed", f"{len(times_s)} of {len(laps)}" if laps else "–"),
        ("Off the track", str(sum(int(lap["off_track_count"]) for lap in laps)) if laps else "–"),
        ("Trained for", f"{status.minutes:.1f} min"),
        ("Episodes", f"{status.episodes:,}"),
        ("Steps", f"{status.steps:,}"),
    ]
    return "<div class=cards>" + "".join(
        f"<div><span>{escape(name)}</span><strong>{escape(value)}</strong></div>"
        for name, value in cards
    ) + "</div>"  # fmt: skip


def _video(run: Run, pictures: Path) -> str:
    path = pictures / VIDEO_NAME
    if not path.exists():
        return ""
    if path.stat().st_size > MAX_VIDEO_BYTES:
        return f"<p>The video is too large for this page: <code>{escape(str(path))}</code></p>"
    return (
        '<video controls autoplay muted loop playsinline src="'
        f'{_data_uri(path, "video/mp4")}"></video>'
        "<p>Left: what the policy saw, with measured speed (bar), commanded speed (mark) and "
        "steering. Right: the car on the track.</p>"
    )


def _evaluation_table(laps: Sequence[Entry]) -> str:
    if not laps:
        return ""
    rows = [
        (
            str(lap["trial"]),
            f"{lap['completion_percentage']} %",
            f"{_seconds(lap):.2f}",
            str(lap["episode_status"]),
            str(lap["off_track_count"]),
            str(lap["crash_count"]),
            str(lap["reset_count"]),
        )
        for lap in laps
    ]
    return _table(
        ("Trial", "Completion", "Time (s)", "End", "Off track", "Crashes", "Resets"), rows
    )


def _picture(path: Path, heading: str, text: str) -> str:
    if not path.exists():
        return ""
    return (
        f'<p>{escape(text)}</p><div class=scroll><img class="{path.stem}" '
        f'alt="{escape(heading)}" src="{_data_uri(path, "image/png")}"></div>'
    )


def _action_table(run: Run) -> str:
    if not run.metadata_file.exists():
        return ""
    space = load_action_space(run.metadata_file)
    rows = [
        (
            str(index),
            f"{action.steering_deg:+g}" if action.steering_deg else "0",
            f"{action.speed_mps:g}",
        )
        for index, action in enumerate(space.actions)
    ]
    sensors = escape(", ".join(space.sensors))
    return f"<p>Sensor {sensors}, network {escape(space.network)}</p>" + _table(
        ("Action", "Steering (°, left positive)", "Speed (m/s)"), rows
    )


def _hyperparameters(run: Run) -> str:
    if not run.hyperparameters_file.exists():
        return ""
    values = json.loads(run.hyperparameters_file.read_text(encoding="utf-8"))
    return _table(("Name", "Value"), [(name, str(value)) for name, value in values.items()])


def _code(path: Path) -> str:
    if not path.exists():
        return ""
    return f"<pre><code>{escape(path.read_text(encoding='utf-8'))}</code></pre>"


def _next_steps(run: Run) -> str:
    name = escape(run.name)
    steps = [
        ("Train on where it stopped", f"local-trainer train --resume {name}"),
        ("Begin a new run with its weights", f"local-trainer train --from {name}"),
        ("Drive evaluation laps again", f"local-trainer evaluate {name}"),
        ("Judge it from all around the track", f"local-trainer evaluate {name} --robust"),
        ("Draw this page again", f"local-trainer plot {name}"),
    ]
    rows = "".join(f"<dt>{text}</dt><dd><code>{command}</code></dd>" for text, command in steps)
    return (
        f"<dl>{rows}</dl><p>Everything lies in <code>{escape(str(run.path))}</code>: the model in "
        "<code>model/</code>, every step driven in <code>training-simtrace/</code> (CSV), the "
        "log in <code>logs/training.log</code>.</p>"
    )


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{content}</section>" if content else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f"<div class=scroll><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _data_uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _is_complete(lap: Entry) -> bool:
    return lap["episode_status"] == "Lap complete"


def _seconds(lap: Entry) -> float:
    return int(lap["elapsed_time_in_milliseconds"]) / 1000.0


_STYLE = """
:root { color-scheme: light; --ink: #1e293b; --muted: #64748b; --line: #e2e8f0; }
* { box-sizing: border-box; }
body { margin: 0; background: #f1f5f9; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 1.6rem; margin: 8px 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0 0 10px; }
header p { margin: 2px 0; color: var(--muted); }
header b { color: var(--ink); }
.state { font-size: .8rem; font-weight: 600; padding: 3px 10px; border-radius: 99px;
  background: #e2e8f0; vertical-align: middle; white-space: nowrap; }
.state.finished { background: #dcfce7; color: #166534; }
.state.failed { background: #fee2e2; color: #991b1b; }
.state.running { background: #dbeafe; color: #1e40af; }
.state.stopped, .state.interrupted { background: #fef3c7; color: #92400e; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 10px;
  margin: 18px 0; }
.cards div { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 10px 14px; }
.cards span { display: block; font-size: .8rem; color: var(--muted); }
.cards strong { font-size: 1.15rem; overflow-wrap: anywhere; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 16px; margin: 14px 0; }
section p { margin: 6px 0 10px; color: var(--muted); }
img, video { display: block; max-width: 100%; height: auto; border-radius: 6px; }
video { width: 100%; background: #0f172a; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { font-size: .8rem; color: var(--muted); font-weight: 600; }
pre { margin: 0; overflow-x: auto; background: #f8fafc; border: 1px solid var(--line);
  border-radius: 6px; padding: 12px; font-size: .85rem; line-height: 1.45; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
dl { margin: 0; } dt { color: var(--muted); font-size: .9rem; }
dd { margin: 2px 0 12px; overflow-x: auto; }
dd code { background: #f8fafc; border: 1px solid var(--line); border-radius: 6px;
  padding: 4px 8px; display: inline-block; white-space: nowrap; }
@media (max-width: 700px) { img.training { max-width: none; width: 760px; } }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""
