"""The live view on standard output: a full screen on a terminal, plain lines elsewhere; and ``watch``, which shows what
comes out of a pipe.

There is no thread: the command forks sandboxes, and a fork copies locks as they are. Whoever waits for something else
asks a view how long it may wait (``wait_s``), and calls its ``tick``.
"""

from __future__ import annotations

import os
import select
import sys
import time
from typing import IO

from netns_tw.errors import InstrumentBroken
from netns_tw.evidence.live import LiveLab
from netns_tw.model.lines import Line, Trouble, from_json
from netns_tw.model.topology import Topology
from netns_tw.report.live_frame import Head
from netns_tw.report.live_lines import Changes, node_line
from netns_tw.report.live_screen import Screen, is_ours
from netns_tw.report.live_subject import FASTEST_S, Subject, plain

NODES_S = 1.0
"""Between two lines of a node."""
READ_BYTES = 1 << 16


class PlainLines:
    """The view without a terminal: lines, each flushed as it is written. A context manager.

    Raises:
        OSError: nobody reads them any more, or they cannot be written.
    """

    is_left = False

    def __init__(self, out: IO[str]) -> None:
        """Write to *out*."""
        self._out = out
        self._subject: Subject | None = None
        self._changes: Changes | None = None
        self._looked_s = self._nodes_s = 0.0

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(self, *exc: object) -> None:
        if exc[0] is None:
            self.finish()

    def show(self, subject: Subject) -> None:
        """Show another lab from now on."""
        self.finish()
        self._subject, self._changes = subject, Changes(subject.lab)
        self._nodes_s = time.monotonic() + NODES_S
        head = subject.head
        self._say(" ".join(word for word in ("watch", head.title, head.where, head.claim) if word))

    def finish(self) -> None:
        """Tell how it ended."""
        if self._subject is not None:
            self._tell(True, True)
        self._subject = None

    def wait_s(self) -> float:
        """Seconds until ``tick`` is to be called at the latest."""
        return FASTEST_S

    def tick(self) -> bytes:
        """Tell what is due. There is no keyboard, so no key."""
        now = time.monotonic()
        if self._subject is not None and now >= self._looked_s + FASTEST_S:
            self._looked_s = now
            is_due = now >= self._nodes_s
            self._tell(is_due, False)
            self._nodes_s = max(self._nodes_s + NODES_S, now) if is_due else self._nodes_s
        return b""

    def hold(self, seconds: float) -> None:
        """Nobody needs time to look at lines."""

    def _tell(self, with_nodes: bool, is_last: bool) -> None:
        assert self._subject is not None and self._changes is not None
        lab, now_ms = self._subject.lab, self._subject.now_ms()
        for line in self._changes.lines(now_ms, is_last):
            self._say(line)
        for name in lab.nodes if with_nodes and lab.is_built else ():
            self._say(node_line(lab, name, now_ms))

    def _say(self, line: str) -> None:
        print(plain(line), file=self._out, flush=True)


View = Screen | PlainLines


def open_view(out: IO[str]) -> View:
    """The view that fits *out*: a full screen where that is a terminal in whose foreground this command runs."""
    is_able = os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    return Screen(out) if is_able and is_ours(out.fileno()) else PlainLines(out)


def watch(topology: Topology, title: str, lines_fd: int) -> Trouble | None:
    """Show a lab on standard output from the lines of a record that come out of *lines_fd*, until that ends, or ``q``.

    *topology* should carry the effective sysctls; a Built line changes them later. Returns what stopped the lab, if a
    line said so.

    Raises:
        KeyboardInterrupt: a signal came; the terminal is as it was.
        InstrumentBroken: a line is none of a record.
        OSError: standard output is no terminal, and nobody reads it any more.
    """
    subject = Subject(LiveLab(topology), Head(title, claim=topology.description))
    reader = _Reader(lines_fd)
    with open_view(sys.stdout) as view:
        view.show(subject)
        while not view.is_left:
            if select.select([lines_fd], [], [], view.wait_s())[0]:
                lines = reader.read()
                if lines is None:
                    break
                for line in lines:
                    subject.add(line)
            view.tick()
    return subject.lab.trouble


class _Reader:
    """Whole lines out of a pipe. A line of 500,000 sockets comes in hundreds of pieces: they are joined once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pieces: list[bytes] = []

    def read(self) -> list[Line] | None:
        """The lines that have come; None at the end of the pipe. What is cut short there is no line."""
        data = os.read(self._fd, READ_BYTES)
        if not data:
            return None
        if b"\n" not in data:
            self._pieces.append(data)
            return []
        *whole, rest = b"".join([*self._pieces, data]).split(b"\n")
        self._pieces = [rest]
        try:
            return [from_json(text) for text in whole]
        except ValueError as error:
            raise InstrumentBroken(f"what the lab tells is no line of a record: {error}") from error
