"""The stage of a lab that is up: one replay at a time, and what it comes to, for those who watch.

A second replay beside the first would be counted by both. So the first takes a lock (flock(2)), which the kernel gives
back when it ends, however that is. What it emits of requests is copied to a file among the lab's own, from which a
lookout reads (lookout.py); the next replay makes a new one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress

from netns_tw.errors import UsageError
from netns_tw.model.lines import Batch, Header, Line, Response, StepEnd, to_json
from netns_tw.rules import RUN

LOCK = f"{RUN}/.replay.lock"
SHOWN = f"{RUN}/.replay"


def take(name: str) -> None:
    """Take the stage of lab *name* until this process ends.

    Raises:
        UsageError: another replay has it.
    """
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"lab {name} is in use by another replay; let it end, or bring up another copy") from None


def shown(emit: Callable[[Line], None]) -> Callable[[Line], None]:
    """*emit*, with what a watcher wants to see copied to SHOWN."""
    with suppress(FileNotFoundError):
        os.unlink(SHOWN)  # a new file, so that who reads the old one sees that this is another
    files = [os.open(SHOWN, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)]

    def both(line: Line) -> None:
        if isinstance(line, Header | Response | Batch | StepEnd):
            try:
                for file in files:
                    os.write(file, to_json(line) + b"\n")
            except OSError:  # the lab's files are full: nobody watches the rest
                files.clear()
        emit(line)

    return both
