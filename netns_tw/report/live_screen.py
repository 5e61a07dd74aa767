"""The live view as a full screen on a terminal, which is given back as it was, whatever happens.

It draws when something changed, and each second, because the seconds that are left go on; at most five times a second,
and never for more than SHARE of a core. The keyboard is read byte by byte and unseen while the screen is up; Ctrl-C
stays the signal that it is, and Ctrl-Z gives the terminal back until the command goes on.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
from contextlib import suppress
from typing import IO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.style import Style

from netns_tw.kernel.sandbox import undisturbed
from netns_tw.report.live_frame import frame
from netns_tw.report.live_ports import Words
from netns_tw.report.live_subject import FASTEST_S, Subject, plain

SLOWEST_S = 1.0
SHARE = 0.03
"""Of one core's time, for drawing."""
SMALLEST = (20, 5)
"""Columns and lines that are drawn for, however small the window is."""


class _Picture:
    """Lines of words for rich, cropped to the window."""

    def __init__(self, lines: list[Words], columns: int) -> None:
        self._lines, self._columns = lines, columns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._lines:
            left = self._columns
            for text, style in line:
                words = plain(text).encode(console.encoding, "backslashreplace").decode(console.encoding)
                if cell_len(words) > left:
                    words = set_cell_size(words, max(left - 3, 0)) + "..."[:left]
                left -= cell_len(words)
                yield Segment(words, Style.parse(style) if style else None)
            yield Segment.line()


class _Keyboard:
    """The terminal that keys come from; without one no key ever comes."""

    def __init__(self) -> None:
        self._saved: list[object] | None = None
        self.fd: int | None = None

    def open(self) -> None:
        """Let keys come at once and unseen; Ctrl-C and Ctrl-Z stay what they are."""
        with suppress(OSError, ValueError, termios.error):
            fd = sys.stdin.fileno()
            if not is_ours(fd):
                return
            self._saved = termios.tcgetattr(fd)
            mode = termios.tcgetattr(fd)
            mode[3] &= ~(termios.ICANON | termios.ECHO)
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
            termios.tcsetattr(fd, termios.TCSANOW, mode)
            self.fd = fd

    def close(self) -> None:
        """Put the terminal back as it was; keys that nobody read are gone."""
        if self._saved is not None and self.fd is not None:
            with suppress(termios.error):
                termios.tcflush(self.fd, termios.TCIFLUSH)
                termios.tcsetattr(self.fd, termios.TCSANOW, self._saved)  # type: ignore[arg-type]
        self._saved, self.fd = None, None

    def keys(self) -> bytes:
        """The keys that were pressed; does not wait."""
        if self.fd is None or not select.select([self.fd], [], [], 0)[0]:
            return b""
        try:
            found = os.read(self.fd, 1024)
        except OSError:
            found = b""
        if not found:  # the terminal is gone
            self.fd = None
        return found


def is_ours(fd: int) -> bool:
    """Whether *fd* is a terminal, and this command is not in its background."""
    if not os.isatty(fd):
        return False
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # it controls no session, so it has no background either
        return True


class Screen:
    """A full screen on a terminal; a context manager, which leaves the terminal as it was."""

    def __init__(self, out: IO[str]) -> None:
        """Draw on *out*, a terminal."""
        self.is_left = False
        """Whether ``q`` was pressed; nothing is drawn from then on."""
        self._out = out
        self._keyboard = _Keyboard()
        self._console = Console(
            file=out, force_terminal=True, force_interactive=True, highlight=False, markup=False, emoji=False
        )
        self._live: Live | None = None
        self._subject: Subject | None = None
        self._drawn: object = None
        self._due_s = 0.0
        self._old_handler: object = None
        self._is_stopping = False

    def __enter__(self) -> Screen:
        with undisturbed():
            self._enter()
        return self

    def __exit__(self, *exc: object) -> None:
        with undisturbed():
            self._leave()

    def _enter(self) -> None:
        try:
            if signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN:
                self._old_handler = signal.signal(signal.SIGTSTP, self._on_stop)
            self._keyboard.open()
            # a Live of its own each time: one that was stopped would not start on a clean screen
            self._live = Live(
                console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        """Give the terminal back; harmless when that is done."""
        live, self._live = self._live, None
        with suppress(termios.error, OSError, ValueError):
            termios.tcflow(self._out.fileno(), termios.TCOON)  # after a Ctrl-S nothing could be written
        try:
            if live is not None:
                live.stop()
                self._out.flush()
        except (OSError, ValueError):  # the terminal is gone, or its file is closed
            pass
        finally:
            self._keyboard.close()
            if self._old_handler is not None:
                signal.signal(signal.SIGTSTP, self._old_handler)  # type: ignore[arg-type]
                self._old_handler = None

    def _on_stop(self, signum: int, stack: object) -> None:
        self._is_stopping = True

    def _suspend(self) -> None:
        """Ctrl-Z: give the terminal back, stop, and take it again when a shell lets this command go on."""
        self._is_stopping = False
        with undisturbed():
            self._leave()
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, before)
        with undisturbed():
            self._enter()
        self._drawn = None

    def show(self, subject: Subject) -> None:
        """Show another lab from now on."""
        self._subject, self._drawn, self._due_s = subject, None, 0.0
        self.tick()

    def hold(self, seconds: float) -> None:
        """Leave the picture as it is for some seconds, or until a key is pressed."""
        end = time.monotonic() + seconds
        while self._live is not None and (left := end - time.monotonic()) > 0 and not self.tick():
            keyboard = [self._keyboard.fd] if self._keyboard.fd is not None else []
            select.select(keyboard, [], [], min(left, FASTEST_S))

    def finish(self) -> None:
        """What there is to tell is on the screen."""

    def wait_s(self) -> float:
        """Seconds until ``tick`` is to be called at the latest."""
        return FASTEST_S

    def tick(self) -> bytes:
        """Look at the keyboard and the window; draw if that is due. Return the keys that were pressed."""
        if self._live is None or self._subject is None:
            return b""
        if self._is_stopping:
            self._suspend()
        keys = self._keyboard.keys()
        if b"q" in keys.lower():
            self.is_left = True
            self.__exit__()
        elif (now := time.monotonic()) >= self._due_s:
            self._draw_if_changed(now)
        return keys

    def _draw_if_changed(self, now: float) -> None:
        subject = self._subject
        assert subject is not None and self._live is not None
        record_ms = subject.now_ms()
        size = self._size()
        state = (subject.version, int(record_ms // 1000), size)
        if state == self._drawn or not select.select([], [self._out], [], 0)[1]:  # a terminal that is stopped
            return
        began = time.thread_time()
        subject.lab.mark(record_ms)
        columns, lines = size
        self._console.size = size
        picture = frame(subject.lab, subject.head, record_ms, columns, lines)
        self._live.update(_Picture(picture, columns), refresh=True)
        self._drawn = state
        cost = (time.thread_time() - began) / SHARE
        self._due_s = now + min(max(cost, FASTEST_S), SLOWEST_S)

    def _size(self) -> tuple[int, int]:
        try:
            columns, lines = os.get_terminal_size(self._out.fileno())
        except OSError:
            columns, lines = 0, 0
        columns, lines = (columns, lines) if columns and lines else (80, 24)
        return max(columns, SMALLEST[0]), max(lines, SMALLEST[1])
