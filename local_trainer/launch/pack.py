"""Several trainings or evaluations at once: a process of its own packs them on the machine.

Whoever starts a pack shares a folder with that process (`local_trainer.workers.pack`), which alone
talks to Ray. So a notebook's end takes no training with it, just as with one model.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from local_trainer.errors import ConfigError, last_line
from local_trainer.launch.ray_cluster import has_ray
from local_trainer.launch.trials import Resources
from local_trainer.runs import Run, write_atomically

Kind = Literal["training", "evaluation"]
State = Literal["waiting", "running", "finished", "stopped", "failed"]

ENDS: Mapping[str, int] = {"finished": 0, "stopped": -signal.SIGINT, "failed": 1}
"""Exit status by how a job ended, as a process of its own would have ended."""

_LOOK_S = 0.2
_STOP_LIMIT_S = 30.0
_PREFIX = ".pack-"


@dataclass(frozen=True)
class Standing:
    """Where a job of a pack stands."""

    state: State
    reason: str = ""
    """One line: why it ended."""


@dataclass(frozen=True)
class Order:
    """What a pack's process is to do."""

    kind: Kind
    runs: tuple[str, ...]
    """The runs' folders."""
    trials: tuple[int, ...]
    """Laps of each evaluation."""
    resources: Resources
    address: str | None
    """A Ray cluster; None for this machine alone."""
    parent: int
    """Process that shows the states; while it lives, it tidies away."""


class PackFolder:
    """What the two processes share."""

    def __init__(self, path: Path) -> None:
        """Take the folder; it exists."""
        self.path = path

    def write_order(self, order: Order) -> None:
        """Say what is to be done."""
        write_atomically(self.path / "order.json", json.dumps(asdict(order), indent=2))

    def read_order(self) -> Order:
        """Return what is to be done."""
        data = json.loads((self.path / "order.json").read_text(encoding="utf-8"))
        data["resources"] = Resources(**data["resources"])
        data["runs"], data["trials"] = tuple(data["runs"]), tuple(data["trials"])
        return Order(**data)

    def write_standings(self, standings: Mapping[str, Standing]) -> None:
        """Say where every job stands, by the run's name."""
        plain = {name: asdict(standing) for name, standing in standings.items()}
        write_atomically(self.path / "standings.json", json.dumps(plain, indent=2))

    def read_standings(self) -> dict[str, Standing]:
        """Return where every job stands; nothing before the process has begun."""
        try:
            data = json.loads((self.path / "standings.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return {name: Standing(**values) for name, values in data.items()}

    def ask_to_stop(self, name: str) -> None:
        """Ask for a job's end."""
        write_atomically(self.path / "stop" / name, b"")

    def asked_to_stop(self) -> set[str]:
        """Return the jobs whose end was asked for."""
        folder = self.path / "stop"
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


class Pack:
    """A pack from the side of the one who started it."""

    def __init__(self, folder: PackFolder, process: subprocess.Popen[bytes]) -> None:
        """Take folder and process; use `start_pack`."""
        self._folder = folder
        self._process = process
        self._last: dict[str, Standing] | None = None
        """After the end."""
        self._missing = Standing("waiting")
        """Of a job that the process never spoke of."""
        atexit.register(self._tidy)

    def standing(self, name: str) -> Standing:
        """Return where a job stands."""
        if self._last is None:
            status = self._process.poll()
            found = self._folder.read_standings()
            if status is None:
                return found.get(name, self._missing)
            self._last = {run: _at_end(standing, status) for run, standing in found.items()}
            self._missing = Standing("failed", self._why(status))
            self._folder.remove()
        return self._last.get(name, self._missing)

    def ask_to_stop(self, name: str) -> None:
        """Ask for a job's end; returns at once."""
        if self._last is None and self._process.poll() is None:
            self._folder.ask_to_stop(name)

    def _why(self, status: int) -> str:
        """Return the last line that the process wrote."""
        log = self._folder.path / "pack.log"
        try:
            said = log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            said = ""
        return last_line(said) or _ended(status)

    def _tidy(self) -> None:
        """Leave nothing behind that is over; the process tidies up itself otherwise."""
        if self._last is not None:
            return
        standings = self._folder.read_standings().values()
        if standings and all(standing.state in ENDS for standing in standings):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_LIMIT_S)
        if self._process.poll() is not None:
            self._folder.remove()


class PackedJob:
    """One job of a pack; looks like the process that it would be if it ran alone."""

    def __init__(self, pack: Pack, run: Run) -> None:
        """Take the pack and the run the job is for."""
        self._pack = pack
        self._run = run

    @property
    def standing(self) -> Standing:
        """Return where it stands."""
        return self._pack.standing(self._run.name)

    def poll(self) -> int | None:
        """Return the exit status, None while it waits or runs."""
        return ENDS.get(self.standing.state)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status.

        Raises:
            subprocess.TimeoutExpired: If it takes longer than ``timeout``, s.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(self._run.name, timeout or 0.0)
            time.sleep(_LOOK_S)
        return status

    def terminate(self) -> None:
        """Ask for its end; a job that waits is never begun."""
        self._pack.ask_to_stop(self._run.name)

    def kill(self) -> None:
        """End its process at once if that is on this machine; the other jobs go on.

        Of a job on another machine it asks for the end: the run is held here by the process that
        keeps the files of all.
        """
        pid = self._run.holder()
        if pid is not None and _is_worker(pid):
            os.kill(pid, signal.SIGKILL)
        else:
            self.terminate()


def start_pack(
    kind: Kind,
    runs: list[Run],
    resources: Resources,
    trials: list[int] | None = None,
    address: str | None = None,
) -> dict[str, PackedJob]:
    """Start a pack and return at once.

    Args:
        kind: What is done with each run.
        runs: Runs that nobody works on; all in one folder.
        resources: What each job declares.
        trials: Laps of each evaluation.
        address: A Ray cluster; None for this machine alone.

    Returns:
        A job by each run's name.
    """
    order = Order(
        kind=kind,
        runs=tuple(str(run.path.resolve()) for run in runs),
        trials=tuple(trials or ()),
        resources=resources,
        address=address,
        parent=os.getpid(),
    )
    folder = PackFolder(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=runs[0].path.parent)))
    folder.write_order(order)
    command = [sys.executable, "-m", "local_trainer.workers.pack", "--folder", str(folder.path)]
    with (folder.path / "pack.log").open("ab") as output:
        # A session of its own, as for one training: Ctrl-C reaches the one who watches.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    pack = Pack(folder, process)
    return {run.name: PackedJob(pack, run) for run in runs}


def check_ray() -> None:
    """Check that several models at once can be run here.

    Raises:
        ConfigError: If Ray is not installed; says how to get it.
    """
    if not has_ray():
        raise ConfigError("Several models at once needs Ray: run make setup-ray.")


def _is_worker(pid: int) -> bool:
    """Return whether a process is one of our workers, and works on one run alone."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it has ended
        return False
    return any(argument.startswith(b"local_trainer.workers.") for argument in arguments)


def _at_end(standing: Standing, status: int) -> Standing:
    """Return where a job stands after its pack has ended."""
    if standing.state in ENDS:
        return standing
    return Standing("failed", _ended(status))


def _ended(status: int) -> str:
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return f"the process that packs the jobs ended with {how}"
