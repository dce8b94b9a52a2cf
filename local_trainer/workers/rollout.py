"""A rollout worker: takes orders for episodes from Redis, plays them and delivers.

``python -m local_trainer.workers.rollout --run URL [--index N]``. The run's files come from a
folder or from ``s3://bucket/prefix``; REDIS_URL and REDIS_PASSWORD say where the trainer is met.
SIGTERM hands back what is not played yet and ends the worker.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING
from uuid import uuid4

from local_trainer.config import RunConfig
from local_trainer.errors import LocalTrainerError, NotFound, one_line
from local_trainer.lease import SimulatorLease, addresses
from local_trainer.mirror import RunMirror, is_print, is_setup, patiently
from local_trainer.reward import RewardFunction
from local_trainer.rollout import Interrupted, Rollout, play_together
from local_trainer.runs import Run
from local_trainer.stop_flag import StopFlag
from local_trainer.store import is_s3_url, open_store
from local_trainer.transport import HEARTBEAT_S, RedisTransport, TakenOrder, TransportError
from local_trainer.workers.setup import (
    RunParts,
    load_run_parts,
    open_reward,
    open_simulator,
    open_transport,
    show_health,
)

if TYPE_CHECKING:
    from coach_presets.checkpoints import FrozenPolicy

logger = logging.getLogger(__name__)

_WAIT_S = 1.0
_STUCK_S = 60.0
"""A worker that has made no step for this long stops saying that it plays."""

_QUIET_S = 4.0
"""A step that takes longer than this is worth a line about what is waited for."""

_FILES_LIMIT_S = 60.0


class RolloutWorker:
    """Plays what a run's trainer orders, until it is told to stop."""

    def __init__(
        self,
        parts: RunParts,
        transport: RedisTransport,
        index: int | None,
        shown_as: str,
        idle_limit_s: float = math.inf,
    ) -> None:
        """Prepare; simulator and reward process start with `work`.

        Args:
            parts: The run.
            transport: Where orders come from.
            index: Which worker of this machine; names the reward function's log. None if nobody
                counts them: the log has the worker's own name then.
            shown_as: How the user calls the run's folder, for messages.
            idle_limit_s: It ends by itself after so long without an order.
        """
        number = "" if index is None else f"{index}-"
        self.name = f"{socket.gethostname()}-{number}{uuid4().hex[:8]}"
        self._parts = parts
        self._transport = transport
        self._index = index
        self._shown_as = shown_as
        self._most = orders_at_once(parts.config)
        self._held: list[TakenOrder] = []
        self._stop = StopFlag()
        self._idle_limit_s = idle_limit_s
        self._played = time.monotonic()
        self._stepped = time.monotonic()
        self._loading = ""
        """What is being loaded, while it is."""
        self._loading_since = 0.0
        self._policy: tuple[str, FrozenPolicy] | None = None
        self._rollouts: list[Rollout] = []
        self._rewards: list[RewardFunction] = []
        self._lease: SimulatorLease | None = None
        if parts.config.simulator.backend == "gazebo":
            names = os.environ.get("GAZEBO_HOST", "gazebo")
            self._lease = SimulatorLease(transport, self.name, lambda: addresses(names))

    def request_stop(self) -> None:
        """Ask the worker to end as soon as it can."""
        self._stop.set()

    def work(self) -> None:
        """Play until told to stop.

        Raises:
            TransportError: If Redis cannot be reached.
        """
        heart = Thread(target=self._beat, name="heartbeat", daemon=True)
        heart.start()
        try:
            while not self._stop.is_set():
                self._work_once()
        except Interrupted:
            pass
        finally:
            self._stop.set()
            self._close()

    def _work_once(self) -> None:
        if self._lease is not None and not self._lease.is_held:
            self._drop_rollout()
        try:
            is_open = self._open_rollouts()
        except (LocalTrainerError, RuntimeError, ValueError) as error:
            self._refuse(error)
            return
        if not is_open:
            return
        self._take(self._most)
        if not self._held:
            return
        self._stepped = time.monotonic()
        try:
            self._play()
        except Interrupted:
            self._give_back()
        except ConnectionError as error:
            logger.warning("gives the simulator up: %s", error)
            self._give_back()
            self._drop_rollout(is_dead=True)
        except TransportError:
            raise
        except Exception as error:  # the user's code, or ours: the one who trains must see it
            self._fail(error)
        finally:
            self._held = []
            self._played = time.monotonic()

    def _take(self, most: int) -> None:
        """Take orders; without any for too long, whoever would send them is taken to be gone."""
        self._held = self._transport.take(self.name, _WAIT_S, most)
        if not self._held and time.monotonic() - self._played > self._idle_limit_s:
            logger.warning("ends: no order for %.0f s", self._idle_limit_s)
            self._stop.set()

    def _play(self) -> None:
        def kind(taken: TakenOrder) -> tuple[str, str, int, str, bool]:
            order = taken.order
            return (
                order.policy,
                order.phase,
                order.iteration,
                repr(order.exploration),
                order.keeps_pictures,
            )

        for _, group in groupby(sorted(self._held, key=kind), key=kind):
            orders = {taken.order.start.episode: taken for taken in group}
            first = next(iter(orders.values())).order
            policy = self._policy_of(first.policy)
            if policy is None:
                self._stop.wait(0.5)  # another policy acts by now, or this one is published again
                continue
            for episode in play_together(
                self._rollouts,
                policy,
                [taken.order.start for taken in orders.values()],
                first.phase,
                first.iteration,
                first.exploration,
                first.keeps_pictures,
                self._should_stop,
            ):
                if self._lease is not None and not self._lease.renew():
                    raise Interrupted  # somebody else may have driven the simulator meanwhile
                taken = orders[episode.index]
                self._transport.deliver(taken, episode, self._stop.is_set)
                self._held = [other for other in self._held if other is not taken]
        self._give_back()

    def _should_stop(self) -> bool:
        self._stepped = time.monotonic()
        has_lost_simulator = self._lease is not None and not self._lease.is_held
        return self._stop.is_set() or has_lost_simulator

    def _policy_of(self, name: str) -> FrozenPolicy | None:
        """Return the policy of an order; None if it is not the published one."""
        if self._policy is not None and self._policy[0] == name:
            return self._policy[1]
        graph = self._transport.policy(name)
        if graph is None:
            return None
        self._say_loading("policy to load")
        from coach_presets.checkpoints import FrozenPolicy

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "policy.pb"
            path.write_bytes(graph)
            policy = FrozenPolicy(path, self._parts.threads)
        if self._policy is not None:
            self._policy[1].close()
        self._policy = name, policy
        self._loading = ""
        self._stepped = time.monotonic()
        return policy

    # What a worker holds.

    def _open_rollouts(self) -> bool:
        """Open simulator and reward of each track; return False if a simulator does not answer."""
        if self._rollouts:
            return True
        tracks = self._parts.all_tracks
        if not self._rewards:
            self._rewards = [
                open_reward(self._parts, self._log_of(number, len(tracks)), track)
                for number, track in enumerate(tracks)
            ]
        host = None if self._lease is None else self._lease.claim(self._stop.is_set)
        self._say_loading("simulator to load the track")
        try:
            simulators = [open_simulator(self._parts, self._most, host, track) for track in tracks]
        except ConnectionError as error:
            logger.warning("gives the simulator up: %s", error)
            self._drop_rollout(is_dead=True)
            return False
        finally:
            self._loading = ""
        self._played = time.monotonic()  # a free simulator may have been waited for
        logger.info("plays for run %s%s", self._parts.run.name, f" in {host}" if host else "")
        # In the order of the tracks: an episode's number says who plays it.
        self._rollouts = [
            Rollout(simulator, self._parts.actions, reward, self._parts.config.seed)
            for simulator, reward in zip(simulators, self._rewards, strict=True)
        ]
        return True

    def _log_of(self, track: int, num_tracks: int) -> int | str:
        """Return what names the log of a track's reward function."""
        if self._index is not None:
            return self._index * num_tracks + track
        return f"{self.name}-{track}" if num_tracks > 1 else self.name

    def _drop_rollout(self, is_dead: bool = False) -> None:
        rollouts, self._rollouts = self._rollouts, []
        for rollout in rollouts:
            rollout.simulator.close()
        if self._lease is not None:
            self._lease.give_up(is_dead)

    def _give_back(self) -> None:
        held, self._held = self._held, []
        self._transport.give_back(self.name, held)

    def _refuse(self, error: Exception) -> None:
        """Tell the trainer that this worker cannot play at all."""
        if isinstance(error, TransportError):
            raise error
        while not self._stop.is_set():
            self._take(1)
            if self._held:
                self._fail(error)
                return

    def _fail(self, error: Exception) -> None:
        """Send why an episode cannot be played, in one line."""
        message = str(error)
        if not isinstance(error, LocalTrainerError):
            traceback.print_exception(error)
            message = f"{type(error).__name__}: {error}"
        message = one_line(message).replace(str(self._parts.run.path), self._shown_as)
        logger.error("%s", message)
        failed, *rest = self._held
        self._transport.fail(failed, message, getattr(error, "exit_status", 1))
        self._held = rest
        self._give_back()
        self._close_rewards()
        self._drop_rollout()

    def _beat(self) -> None:
        """Say that the orders are being played, and renew the lease."""
        show_health()
        while not self._stop.wait(HEARTBEAT_S):
            show_health()
            self._say_what_takes_long()
            try:
                if self._lease is not None:
                    self._lease.renew()
                if time.monotonic() - self._stepped < _STUCK_S:
                    self._transport.keep(self.name, list(self._held))
            except TransportError as error:
                logger.warning("%s", error)

    def _say_loading(self, what: str) -> None:
        self._loading_since = time.monotonic()
        self._loading = what

    def _say_what_takes_long(self) -> None:
        now = time.monotonic()
        loading = self._loading
        if loading and now - self._loading_since > _QUIET_S:
            logger.warning("waits for the %s: %.0f s so far", loading, now - self._loading_since)
        elif self._held and not loading and now - self._stepped > _QUIET_S:
            logger.warning(
                "waits for the simulator or the reward function: no step for %.0f s",
                now - self._stepped,
            )

    def _close(self) -> None:
        try:
            self._drop_rollout()
        finally:
            self._close_rewards()

    def _close_rewards(self) -> None:
        rewards, self._rewards = self._rewards, []
        for reward in rewards:
            reward.close()


def orders_at_once(config: RunConfig) -> int:
    """Return how many episodes a worker plays at the same time: its share of the cars.

    Not more than its share of an evaluation's laps either if they take as long as in Gazebo:
    otherwise one worker would drive them all while the others wait.
    """
    cars = config.simulator.num_cars
    if config.simulator.backend == "gazebo":
        cars = min(cars, config.evaluation.trials)
    return max(1, math.ceil(cars / config.workers))


@contextmanager
def run_files(location: str) -> Iterator[Run]:
    """Yield a run with the files that were there before its training, from wherever it lies.

    What the reward function prints goes back to where they come from.

    Raises:
        NotFound: If there is no run.
        StoreError: If the store does not answer.
    """
    if not is_s3_url(location):
        yield Run(Path(location))
        return
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / location.rstrip("/").rpartition("/")[2])
        mirror = RunMirror(open_store(location), run.path)
        deadline = time.monotonic() + _FILES_LIMIT_S
        while True:
            try:
                patiently(lambda: mirror.pull(is_setup))
                break
            except NotFound:
                if time.monotonic() > deadline:
                    raise
                logger.warning("waits for the run's files at %s", location)
                time.sleep(_WAIT_S)  # between two looks
        with suppress(NotFound):
            mirror.pull(is_print)  # of a start before this one; more is appended
        # What changes here from now on is what the reward function prints.
        with mirror.pushing(HEARTBEAT_S):
            yield run


def work(
    location: str,
    index: int | None,
    shown_as: str,
    idle_limit_s: float,
    on_start: Callable[[RolloutWorker], None],
) -> None:
    """Play for a run until told to stop.

    Args:
        location: The run's folder, or where in a bucket it lies.
        index: Which worker of this machine; None if nobody counts them.
        shown_as: How the user calls the run's folder, for messages.
        idle_limit_s: It ends by itself after so long without an order.
        on_start: Is given the worker before it plays.

    Raises:
        LocalTrainerError: If the run's files cannot be read, or Redis not be reached.
    """
    with ExitStack() as stack:
        run = stack.enter_context(run_files(location))
        parts = load_run_parts(run)
        threads = max(1, parts.threads // parts.config.workers)
        parts = replace(parts, threads=threads)
        transport = open_transport(run.name)
        worker = RolloutWorker(parts, transport, index, shown_as.rstrip("/"), idle_limit_s)
        on_start(worker)
        worker.work()


def main(arguments: list[str] | None = None) -> int:
    """Run the worker's command line."""
    parser = argparse.ArgumentParser(prog="python -m local_trainer.workers.rollout")
    parser.add_argument("--run", required=True, help="the run's folder, or s3://bucket/prefix")
    parser.add_argument("--index", type=int, help="which worker of this machine")
    parser.add_argument("--shown-as", help="the run's folder in messages; default: --run")
    parser.add_argument(
        "--idle-limit-s", type=float, default=math.inf, help="end after so long without an order"
    )
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    def on_start(worker: RolloutWorker) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: worker.request_stop())

    # Before there is something to hand back, a request to stop ends the process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        shown_as = parsed.shown_as or parsed.run
        work(parsed.run, parsed.index, shown_as, parsed.idle_limit_s, on_start)
    except LocalTrainerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
