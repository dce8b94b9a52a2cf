"""``local-trainer bench``: measure the simulator, the update and a whole training here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from local_trainer.cli.console import facts, print_json, stdout
from local_trainer.cli.options import RunsDir
from local_trainer.runs import DEFAULT_RUNS_DIR

app = typer.Typer(
    help="Measure the simulator, the PPO update and a whole training on this machine.",
    no_args_is_help=True,
)

_Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


@app.command("sim")
def sim(as_json: _Json = False) -> None:
    """Measure simulator steps a second: 64 cars, with and without a Python reward, and one car."""
    from local_trainer.bench.sim import run

    _show(run(), as_json)


@app.command("ppo")
def ppo(
    rounds: Annotated[int, typer.Option(help="How often each variant takes its turn.")] = 3,
    as_json: _Json = False,
) -> None:
    """Measure our PPO update against unmodified Coach's and against plain TensorFlow."""
    from local_trainer.bench.ppo import run

    _show(run(rounds=rounds), as_json)


@app.command("train")
def train(
    seeds: Annotated[int, typer.Option(help="How many trainings, one seed each.")] = 3,
    minutes: Annotated[float, typer.Option(help="Minutes of each.")] = 5.0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of each. May be repeated."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Measure seconds from the command's start to the first lap and to steady laps, and memory."""
    from local_trainer.bench.train import run

    _show(run(seeds=seeds, minutes=minutes, settings=settings or ()), as_json)


@app.command("redis")
def redis(
    rounds: Annotated[int, typer.Option(help="How often each side takes its turn.")] = 5,
    as_json: _Json = False,
) -> None:
    """Measure how fast episodes go through Redis, against pickled ones over pub/sub."""
    from local_trainer.bench.redis import run

    _show(run(rounds=rounds), as_json)


@app.command("gazebo")
def gazebo(as_json: _Json = False) -> None:
    """Measure Gazebo in the container stack: its speed, its start, whether it repeats itself."""
    from local_trainer.bench.gazebo import run

    _show(run(), as_json)


@app.command("scale")
def scale(
    rollouts: Annotated[
        int, typer.Option(help="Rollouts to measure with each number of workers.")
    ] = 3,
    as_json: _Json = False,
) -> None:
    """Measure how rollouts grow with 1, 2 and 4 workers, and what a transition costs whom."""
    from local_trainer.bench.scale import run

    _show(run(rollouts=rollouts), as_json)


@app.command("packing")
def packing(
    episodes: Annotated[int, typer.Option(help="Training episodes of each model.")] = 200,
    rounds: Annotated[int, typer.Option(help="How often each side takes its turn.")] = 2,
    as_json: _Json = False,
) -> None:
    """Measure two trainings that share this machine against one after the other."""
    from local_trainer.bench.packing import run

    _show(run(episodes=episodes, rounds=rounds), as_json)


@app.command("parity")
def parity(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the report, the figures and the table.")
    ] = Path("parity"),
    host: Annotated[
        str | None,
        typer.Option("--host", help="A Gazebo container that runs; one is started if left out."),
    ] = None,
    run_name: Annotated[
        str | None, typer.Option("--run", help="A run whose best model drives laps in Gazebo.")
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    fit: Annotated[
        bool, typer.Option("--fit", help="Also fit the embedded car to Gazebo's turns.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Measure how far the embedded simulator and Gazebo agree; write a report with pictures."""
    from local_trainer.bench.parity import run

    _show(run(out, host, run_name, runs_dir, fit), as_json)


@app.command("replay")
def replay(
    run_name: Annotated[
        str | None, typer.Option("--run", help="A recorded run; one is driven if left out.")
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    as_json: _Json = False,
) -> None:
    """Measure how fast recorded steps are judged again, and how many rewards are the same."""
    from local_trainer.bench.replay import run

    _show(run(run_name, runs_dir), as_json)


def _show(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(figures)
        return
    stdout().print(facts([(name, _text(value)) for name, value in figures.items()]))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return "–" if value is None else str(value)
