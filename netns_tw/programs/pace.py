"""When the next request is made: at a pace, or at once. What is ready to be told is told before a wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

Flush = Callable[[], None]


def nothing() -> None:
    """Flush nothing."""


class Pace:
    """Hands out request numbers, each not before its time; shared by all workers.

    Number i comes no sooner than i intervals after number 0. A late one does not delay those after it, but what has
    been missed is not made up for by a burst either.
    """

    def __init__(self, requests: int, interval_ms: float, flush: Flush = nothing) -> None:
        """*flush* is called before a wait."""
        self._interval_s = interval_ms / 1000
        self._flush = flush
        self._next = iter(range(requests))
        self._lock = threading.Lock()
        self._due = -float("inf")

    def __iter__(self) -> Iterator[int]:
        if not self._interval_s:
            yield from self._next
        while True:
            with self._lock:
                index = next(self._next, None)
                if index is None:
                    return
                now = time.monotonic()
                self._due = max(self._due + self._interval_s, now - self._interval_s if index else now)
                due = self._due
            if due > now:
                self._flush()
                time.sleep(max(0.0, due - time.monotonic()))
            yield index
