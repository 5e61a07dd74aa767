"""The one polling loop: a condition and a deadline, never a bare sleep.

A sleep that is long enough on this machine is too short on a loaded one and too long on all others. Each wait names
its condition, so a missed deadline says what never happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

FIRST_PAUSE_S = 0.0005
LONGEST_PAUSE_S = 0.02


class DeadlineMissed(TimeoutError):
    """A condition did not become true in time; the text names the condition and the seconds waited."""


def wait_until(condition: Callable[[], T | None], what: str, deadline_s: float, pause_s: float = LONGEST_PAUSE_S) -> T:
    """Call *condition* until it returns something true and return that.

    The pause between calls doubles from 0.5 ms up to *pause_s*. The condition is tried once more after the deadline
    has passed, so a process that was not scheduled for a while does not fail for it.

    Raises:
        DeadlineMissed: *condition* was still false after *deadline_s* seconds.
    """
    end = time.monotonic() + deadline_s
    pause = FIRST_PAUSE_S
    while True:
        late = time.monotonic() >= end
        result = condition()
        if result:
            return result
        if late:
            raise DeadlineMissed(f"{what}: not within {deadline_s:g} s")
        time.sleep(pause)
        pause = min(pause * 2, pause_s)
