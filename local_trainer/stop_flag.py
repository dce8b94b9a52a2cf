"""A request to stop that a signal handler can make at any moment."""

from __future__ import annotations

import time

_LOOK_S = 0.1


class StopFlag:
    """Like `threading.Event`, without a lock.

    A handler runs between any two steps of the main thread, also while that holds an event's lock,
    and again while it runs already: with a lock, it would wait for itself.
    """

    def __init__(self) -> None:
        """Begin unset."""
        self._is_set = False

    def set(self) -> None:
        """Ask to stop."""
        self._is_set = True

    def is_set(self) -> bool:
        """Return whether somebody asked."""
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Wait until somebody asks, for so long at most; return whether somebody did."""
        deadline = time.monotonic() + seconds
        while not self._is_set and (left := deadline - time.monotonic()) > 0.0:
            time.sleep(min(left, _LOOK_S))  # between two looks
        return self._is_set
