"""Labs that stay, as a user has them: a folder of their own, commands as they are typed, and a terminal to type at."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from conftest import ROOT, lab_processes, netns_tw

from netns_tw import cli
from netns_tw.standing.roster import Roster
from netns_tw.wait import wait_until

COMMAND = (sys.executable, "-m", "netns_tw")
DEADLINE_S = 20.0


@contextmanager
def labs_in(folder: Path) -> Iterator[Path]:
    """Keep the roster of this process and its children in a new folder under *folder*; all its labs go at the end."""
    found = folder / "labs"
    found.mkdir(mode=0o700)
    before = os.environ.get("NETNS_TW_LABS")
    os.environ["NETNS_TW_LABS"] = str(found)
    try:
        yield found
    finally:
        roster = Roster(found)
        for one in roster.entries():
            roster.down(one.name)
        os.environ.pop("NETNS_TW_LABS")
        if before is not None:
            os.environ["NETNS_TW_LABS"] = before
    assert left(found) == []


def left(folder: Path) -> list[str]:
    """The labs that a roster's folder holds, dead or alive."""
    return sorted(one.name for one in folder.iterdir() if not one.name.startswith("."))


def up(*words: str, **options: Any) -> dict[str, Any]:
    """Bring a lab up; return what ``up --json`` prints."""
    done = netns_tw("up", *words, "--json", **options)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def within(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which saves its start; not exec and shell, which end their process."""
    out, talk = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(talk):
        try:
            code = cli.main(words)
        except SystemExit as error:
            code = int(error.code or 0)
    return subprocess.CompletedProcess(words, code, out.getvalue(), talk.getvalue())


def refused(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The one message of a command that refused: exit code *code*, nothing on standard output, no traceback."""
    assert (done.returncode, done.stdout) == (code, ""), done.stdout + done.stderr
    assert done.stderr.startswith("netns_tw") and done.stderr.count("netns_tw: ") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start the command with pipes; the caller waits for it."""
    for name in ("stdin", "stdout", "stderr"):
        options.setdefault(name, subprocess.PIPE)
    return subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, **options)


def running(words: str) -> list[int]:
    """The processes in labs of this test run whose command line holds *words*."""
    return [pid for pid, line in lab_processes().items() if words in line]


def read_until(child: subprocess.Popen[bytes], words: bytes) -> bytes:
    """Read from the child's standard output until *words* have come; return all of it."""
    assert child.stdout
    fd, found, end = child.stdout.fileno(), b"", time.monotonic() + DEADLINE_S
    while words not in found:
        is_there = select.select([fd], [], [], max(end - time.monotonic(), 0))[0]
        assert is_there and time.monotonic() < end, f"no {words!r} in {found!r}"
        data = os.read(fd, 1 << 16)
        assert data, f"the end, and no {words!r} in {found!r}"
        found += data
    return found


def stop_reading(child: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """Close our end of the child's standard output; its exit code and what it then says."""
    assert child.stdout and child.stderr
    child.stdout.close()
    talk = child.stderr.read()
    return child.wait(20), talk


class Terminal:
    """A pseudo terminal with a program on it, and what that has written so far."""

    def __init__(self, argv: list[str], environ: dict[str, str]) -> None:
        """Start *argv* with *environ* added to the environment."""
        self.ours, theirs = os.openpty()
        self.resize(24, 80)
        self.before = termios.tcgetattr(self.ours)
        self.text = ""
        self._at = 0
        self.child = subprocess.Popen(
            argv, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**os.environ, "TERM": "xterm", **environ}, preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(theirs)

    def resize(self, lines: int, columns: int) -> None:
        """Change the window; the kernel sends SIGWINCH to the foreground."""
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self.ours, keys.encode())

    def expect(self, words: str) -> str:
        """Wait until *words* (a regular expression) come after what was expected last; return all up to them."""

        def find() -> re.Match[str] | None:
            self._read()
            return re.compile(words).search(self.text, self._at)

        try:
            found = wait_until(find, f"{words} on the terminal", DEADLINE_S)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.text[self._at :]!r}") from error
        begin, self._at = self._at, found.end()
        return self.text[begin : found.end()]

    def end(self) -> int:
        """Wait until the program is over; return its exit status."""

        def is_over() -> bool:
            self._read()
            return self.child.poll() is not None

        wait_until(is_over, "the program is over", DEADLINE_S)
        self._read()
        return self.child.wait()

    def foreground(self) -> int:
        """The process group that the terminal's keys reach."""
        return os.tcgetpgrp(self.ours)

    def _read(self) -> None:
        with suppress(OSError):  # nobody has the terminal open any more
            while select.select([self.ours], [], [], 0)[0]:
                self.text += os.read(self.ours, 1 << 16).decode(errors="replace")


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def terminal(*argv: str, **environ: str) -> Iterator[Terminal]:
    """A program on a terminal of its own; it is ended with the block."""
    found = Terminal([*argv], environ)
    try:
        yield found
    finally:
        found.child.kill()
        found.child.wait()
        os.close(found.ours)
