"""``local-trainer stack``: the containers of the Gazebo simulator, Redis and MinIO."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from local_trainer.cli.console import NOTHING, print_json, stdout, table

app = typer.Typer(
    help="Start, stop and look at the containers: Gazebo, Redis, MinIO.", no_args_is_help=True
)


@app.command()
def up(
    simulators: Annotated[
        int, typer.Option("--simulators", min=0, help="Gazebo containers; 0 starts none.")
    ] = 1,
    build: Annotated[bool, typer.Option("--build", help="Build the images anew first.")] = False,
) -> None:
    """Start the stack and wait until it is healthy; makes passwords in .env the first time."""
    from local_trainer.launch import compose

    compose.up(simulators, build)
    _show()


@app.command()
def down(
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Remove what Redis and MinIO hold, too.")
    ] = False,
) -> None:
    """Stop the stack. What Redis and MinIO hold stays."""
    from local_trainer.launch import compose

    compose.down(volumes)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Show the containers; exit status 1 if the stack is down or one of them is not healthy."""
    from local_trainer.launch import compose

    found = compose.containers()
    if as_json:
        print_json([asdict(container) for container in found])
    else:
        _show()
    return 0 if found and all(container.is_up for container in found) else 1


@app.command()
def logs(
    services: Annotated[
        list[str] | None, typer.Argument(help="gazebo, redis, minio … Default: all.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
) -> None:
    """Show what the containers have logged."""
    from local_trainer.launch import compose

    compose.logs(services or (), follow)


@app.command()
def build() -> None:
    """Build the images; minutes the first time, seconds after that."""
    from local_trainer.launch import compose

    compose.build()


def _show() -> None:
    from local_trainer.launch import compose

    found = compose.containers()
    if not found:
        stdout().print("The stack is down; local-trainer stack up starts it.")
        return
    rows = [
        (container.name, container.state, container.health or NOTHING, container.ports or NOTHING)
        for container in found
    ]
    stdout().print(table(("container", "state", "health", "address"), rows))
