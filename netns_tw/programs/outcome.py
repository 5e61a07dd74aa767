"""What became of a request, and how it is told: one JSON line each, on standard output.

A write(2) per line would cost a request about as much as its connect(2): the reader is woken for each. So lines are
gathered for up to a twentieth of a second, and whoever is about to wait, be it for a peer or for its time, calls
``flush`` first. A client that is killed by SIGKILL has said all but its last tenth of a second; one that ends in any
other way has said all.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, dataclass

FLUSH_S = 0.05
MAX_WAITING = 500
BUFFER_BYTES = 512 * 1024
"""More than so many lines have, so that a write is never cut by an interrupt."""


@dataclass(slots=True)
class Outcome:
    """What happened to one request. ``at_ms`` is CLOCK_MONOTONIC, the same clock in every namespace."""

    index: int
    at_ms: float
    took_ms: float
    status: int | None
    errno: str | None
    """The errno's name, or a word for what no errno names (``closed-early``, ``not-http``)."""
    call: str | None
    """The call that failed: socket, bind, connect, send, recv."""
    local_port: int | None
    """The connection's, or the one that was asked for; None where the kernel found none."""
    message: str | None = None


GOOD = (
    b'{"index": %d, "at_ms": %a, "took_ms": %a, "status": %d, '
    b'"errno": null, "call": null, "local_port": %d, "message": null}\n'
)


def line(one: Outcome) -> bytes:
    """Return an outcome as one JSON line."""
    if one.errno is one.call is one.message is None and one.status is not None and one.local_port is not None:
        # json.dumps() would take ten times as long
        return GOOD % (one.index, one.at_ms, one.took_ms, one.status, one.local_port)
    return json.dumps(asdict(one)).encode() + b"\n"


class Lines:
    """Outcomes as lines on a file descriptor; may be used from several threads."""

    def __init__(self, fd: int) -> None:
        self._file = os.fdopen(fd, "wb", BUFFER_BYTES, closefd=False)
        self._waiting: list[Outcome] = []
        self._flush_at = 0.0
        self._lock = threading.Lock()

    def add(self, outcome: Outcome) -> None:
        """Write an outcome, soon."""
        self._waiting.append(outcome)
        if time.monotonic() >= self._flush_at or len(self._waiting) >= MAX_WAITING:
            self.flush()

    def add_now(self, outcome: Outcome) -> None:
        """Write an outcome, now."""
        self._waiting.append(outcome)
        self.flush()

    def flush(self) -> None:
        """Write what was added, now. An interrupt loses nothing and repeats nothing."""
        with self._lock:
            outcomes, self._waiting = self._waiting, []
            try:
                text = b"".join(map(line, outcomes))
            except BaseException:
                self._waiting = outcomes + self._waiting
                raise
            self._file.write(text)
            self._file.flush()
            self._flush_at = time.monotonic() + FLUSH_S
