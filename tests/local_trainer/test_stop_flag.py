"""A stop flag can be set from a signal handler at any moment."""

import subprocess
import sys
import time

from local_trainer.stop_flag import StopFlag

MANY_SIGNALS = """
import os, signal
from threading import Thread
from local_trainer.stop_flag import StopFlag

flags = [StopFlag()]
signal.signal(signal.SIGTERM, lambda *_: flags[0].set())
main = os.getpid()
sender = Thread(target=lambda: [os.kill(main, signal.SIGTERM) for _ in range(20_000)])
sender.start()
while sender.is_alive():
    flags[0] = StopFlag()
    flags[0].wait(0.001)
    flags[0].set()
print("went on")
"""


def test_it_is_set_once_somebody_asked() -> None:
    flag = StopFlag()
    assert not flag.is_set()
    flag.set()
    assert flag.is_set()
    assert flag.wait(60.0)


def test_waiting_ends_after_its_time() -> None:
    began = time.monotonic()
    assert not StopFlag().wait(0.05)
    assert 0.05 <= time.monotonic() - began < 5.0


def test_a_storm_of_signals_does_not_hold_it_up() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MANY_SIGNALS], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "went on\n", done.stderr
