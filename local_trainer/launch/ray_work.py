"""A trial's work at its place, on any machine of the cluster: its folder and its processes.

The trainer is a process of its own; what it writes is followed, and it is asked to end, not killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from local_trainer.config import RunConfig, load_config
from local_trainer.environment import without_secrets
from local_trainer.errors import RunFailed
from local_trainer.history import read_history
from local_trainer.launch.ray_desk import ANSWER_S, DeskStore
from local_trainer.launch.trials import ENDED, STOPPED, STOPPED_EARLY
from local_trainer.mirror import RunMirror
from local_trainer.progress import EvaluationEvent, follow_events
from local_trainer.runs import Run
from local_trainer.sweep.scores import FAILED, Metric, best_score, budget_percent

_ray: Any = ray
"""Ray with its calls as they are: what `ray.remote` makes of a class has no types."""

_LOOK_S = 1.0
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


class Work:
    """A trial's processes and folder, from when it gets its place to its end."""

    def __init__(
        self, order: Mapping[str, Any], reason_to_stop: Callable[[], str | None], desk: Any
    ) -> None:
        """Take what to do; nothing is started yet.

        Args:
            order: The trial, as `local_trainer.launch.ray_tune.Feed` gives it out.
            reason_to_stop: Asked about once a second; None to go on.
            desk: Actor of `local_trainer.launch.ray_desk.Desk`.
        """
        self._order = order
        self._reason_to_stop = reason_to_stop
        self._desk = desk
        self._metric: Metric = order["metric"]
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._reason: str | None = None
        self._run: Run | None = None
        self._config: RunConfig | None = None
        self._place = _ray.util.get_node_ip_address()
        self._offset = 0
        self._evaluations: list[EvaluationEvent] = []

    def next_result(self) -> dict[str, Any]:
        """Return what the next evaluation found, or how the trial ended."""
        if self._process is None and self._run is None:
            reason = self._reason_to_stop()
            if reason == STOPPED:  # it never began: that costs nothing later
                return {**self.standing(), "done": True, "state": "waiting", "reason": reason}
            self._reason = reason
            self._begin()
            return self.standing() if reason is None else self._end(0)
        if self._process is None:  # trained before; only the final laps were missing
            return self._end(0)
        while True:
            is_running = still_runs(self._process, _LOOK_S)
            found = self._new_evaluations()
            if not is_running:
                return self._end(self._process.returncode)
            if found:
                return self.standing()
            if self._reason is None and (reason := self._reason_to_stop()):
                self._reason = reason
                self._process.send_signal(signal.SIGINT)

    def standing(self) -> dict[str, Any]:
        """Return what Tune is told."""
        known = {
            "run": self._order["run"],
            "place": self._place,
            "state": "running",
            "reason": "",
            "done": False,
            "score": best_score(self._metric, self._evaluations),
            "budget_percent": 0.0,
        }
        if known["score"] is None:
            known["score"] = FAILED
        has_folder = self._run is not None and self._run.status_file.exists()
        if has_folder and self._run is not None and self._config is not None:
            known["budget_percent"] = budget_percent(self._config.stop, self._run.read_status())
        return known

    def close(self) -> None:
        """End everything at once; what was saved stays."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._stack.close()

    def _begin(self) -> None:
        self._run = self._stack.enter_context(self._folder())
        self._config = load_config(self._run.config_file)
        self._evaluations = list(read_history(self._run).evaluations)
        _, self._offset = follow_events(self._run.progress_file)
        if self._reason is None and not _is_trained(self._run):
            self._process = start_worker(self._run, "trainer", [], self._config)

    @contextmanager
    def _folder(self) -> Iterator[Run]:
        """Yield the run's folder: itself on the machine that asked, a mirrored copy elsewhere."""
        name = self._order["run"]
        if ray.get_runtime_context().get_node_id() == self._order["home"]:
            # It may come back from a machine that was lost while the desk held the run for it.
            _ray.get(self._desk.release.remote(name), timeout=ANSWER_S)
            yield Run(Path(self._order["folder"]))
            return
        folder, ticket = Path(tempfile.mkdtemp(prefix="local-trainer-")), 0
        try:
            ticket = int(_ray.get(self._desk.hold.remote(name), timeout=ANSWER_S))
            self._fetch_pretrained(folder)
            mirror = RunMirror(DeskStore(self._desk, name, ticket), folder / name)
            mirror.pull()
            with mirror.pushing(_LOOK_S):
                yield Run(folder / name)
        finally:
            if ticket:
                self._desk.let_go.remote(name, ticket)
            shutil.rmtree(folder, ignore_errors=True)

    def _fetch_pretrained(self, folder: Path) -> None:
        source = self._order["pretrained"]
        if source is not None:
            mirror = RunMirror(DeskStore(self._desk, source), folder / source)
            mirror.pull(lambda key: key.startswith("model/") or key == "status.json")

    def _new_evaluations(self) -> bool:
        assert self._run is not None
        events, self._offset = follow_events(self._run.progress_file, self._offset)
        found = [event for event in events if isinstance(event, EvaluationEvent)]
        self._evaluations += found
        return bool(found)

    def _end(self, status: int) -> dict[str, Any]:
        """Return the last result, after the final laps."""
        run = self._run
        assert run is not None
        if status and self._reason is None:
            raise RunFailed(why_it_failed(run, status))
        reached = run.read_status()
        state, reason = reached.status, reached.reason
        if self._reason is not None and state != "finished":
            state, reason = "stopped", self._reason
            run.write_status(replace(reached, status=state, reason=reason))
        is_whole = reason == STOPPED or reached.iteration == 0 or self._drive_final_laps(run)
        if not is_whole:  # what is missing is driven when the sweep goes on
            state, reason = "stopped", STOPPED
        result = {**self.standing(), "done": True, "state": state, "reason": reason}
        self._stack.close()  # elsewhere, the last files go back, and the folder is gone
        return result

    def _drive_final_laps(self, run: Run) -> bool:
        """Drive them; return whether they are there, False if everybody was to stop before."""
        trials = self._order["final_trials"]
        if not trials:
            return True
        is_stopping = False
        with tempfile.TemporaryDirectory() as folder:
            like = Path(folder)
            (like / "config.yaml").write_text(self._order["like"], encoding="utf-8")
            arguments = ["--like", folder, "--trials", str(trials), "--checkpoint", "best"]
            assert self._config is not None
            self._process = start_worker(run, "comparison", arguments, self._config)
            while still_runs(self._process, _LOOK_S):
                if self._reason_to_stop() == STOPPED:
                    is_stopping = True
                    self._process.kill()
        if self._process.returncode and not is_stopping:
            raise RunFailed(why_it_failed(run, self._process.returncode))
        return self._process.returncode == 0


def start_worker(
    run: Run, worker: str, arguments: list[str], config: RunConfig
) -> subprocess.Popen[bytes]:
    """Start a worker of a run that ends with this process, however that ends."""
    log = run.path / "logs" / f"{worker}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = str(config.threads or 1)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def leash() -> None:
        prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", f"local_trainer.workers.{worker}", "--run", str(run.path)]
            + arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=without_secrets() | dict.fromkeys(names, threads),
            start_new_session=True,
            preexec_fn=leash,
        )


def _is_trained(run: Run) -> bool:
    """Return whether a run's training has ended for good; one the user stopped goes on."""
    status = run.read_status()
    has_ended = status.status == "stopped" and status.reason in (STOPPED_EARLY, ENDED)
    return status.status == "finished" or has_ended


def still_runs(process: subprocess.Popen[bytes], wait_s: float) -> bool:
    """Wait for a process to end, at most so long; return whether it has not."""
    try:
        process.wait(wait_s)
    except subprocess.TimeoutExpired:
        return True
    return False


def why_it_failed(run: Run, status: int) -> str:
    """Return the line that a worker left, or what is known of its end."""
    try:
        return str(json.loads(run.failure_file.read_text(encoding="utf-8"))["message"])
    except (OSError, ValueError, KeyError):
        how = f"signal {-status}" if status < 0 else f"status {status}"
        hint = " (killed from outside, or out of memory)" if status == -signal.SIGKILL else ""
        return f"its process ended with {how}{hint}; see {run.name}/logs"
