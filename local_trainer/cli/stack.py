"""``local-trainer stack``: the containers of the Gazebo simulator, Redis and MinIO."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from local_trainer.cli.confirm import confirm
from local_trainer.cli.console import NOTHING, print_json, stdout, table
from local_trainer.cli.options import AsJson

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

    with compose.changing(_say_others_first):
        compose.up(simulators, build)
    _show()


@app.command()
def down(
    volumes: Annotated[
        bool,
        typer.Option("--volumes", help="Remove what Redis and MinIO hold, too; asks first."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop the stack. What Redis and MinIO hold stays."""
    from local_trainer.errors import RunFailed
    from local_trainer.launch import cleanup, compose

    _refuse_while_used()
    found = cleanup.stack_volumes() if volumes else []
    if found:
        named = ", ".join(f"{volume.name} ({volume.size})" for volume in found)
        confirm(f"Remove the stack's containers and the volumes {named}?", yes)
    with compose.changing(_say_others_first):
        _refuse_while_used()  # whoever was waited for may have started one
        if volumes:
            cleanup.remove_ended_containers()  # they would keep a volume in use
        compose.down(volumes)
    left = {volume.name for volume in cleanup.stack_volumes()} if volumes else set()
    for volume in found:
        if volume.name not in left:
            print(f"Removed {volume.name} ({volume.size})")
    if left:
        raise RunFailed(f"Still in use and not removed: {', '.join(sorted(left))}.")


@app.command()
def status(
    as_json: AsJson = False,
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
def view(
    port: Annotated[
        int, typer.Option(help="Port on this machine; 0 takes any that is free.", min=0, max=65535)
    ] = 8088,
) -> None:
    """Show what the cars in the simulators see, as a page on this machine, until Ctrl-C."""
    from local_trainer.launch import compose
    from local_trainer.launch.stack_view import serve

    server = serve(compose.simulators, port)
    found = compose.simulators()
    names = ", ".join(simulator.name for simulator in found)
    print(f"http://127.0.0.1:{server.server_port}/ shows {names or 'no simulator: none runs yet'}")
    print("Ctrl-C ends it; nothing in the stack changes.", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


@app.command()
def build() -> None:
    """Build the images; minutes the first time, seconds after that."""
    from local_trainer.launch import compose

    compose.build()


def _refuse_while_used() -> None:
    from local_trainer.errors import ConfigError
    from local_trainer.launch import cleanup

    training = cleanup.containers_of_runs()
    if training:
        raise ConfigError(
            f"A run is at work in the stack ({', '.join(training)}); stop it first: Ctrl-C where "
            f"it is watched, or docker stop {' '.join(training)}. Nothing was stopped or removed."
        )


def _say_others_first() -> None:
    print("Waiting for another command that starts or ends parts of the stack.", file=sys.stderr)


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
