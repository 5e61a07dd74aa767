"""The live view on a real terminal: what is drawn there, and that it is given back as it was, whatever happens."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pyte
import pytest
from conftest import ROOT, lab_processes, netns_tw
from evidence_records import rows

from netns_tw import parallel
from netns_tw.job import Job
from netns_tw.model import labs
from netns_tw.model.lines import Built, Dump, Header, Line, Response, Trouble, to_json
from netns_tw.parallel import Watcher
from netns_tw.wait import wait_until

SERVER = "198.18.0.1:80"
WATCH = """
import signal, sys
from netns_tw.model import labs
from netns_tw.report.live import watch
signal.signal(signal.SIGTERM, signal.default_int_handler)
topology = labs.read_lab(labs.folder_of("direct")).topology
try:
    found = watch(topology, sys.argv[2], int(sys.argv[1]))
    print("came back", found.message if found else "")
except KeyboardInterrupt:
    print("interrupted")
"""
COLOUR = re.compile(rb"\x1b\[[\d;]*3[1-7]m")
LEFT, CURSOR = b"\x1b[?1049l", b"\x1b[?25h"


class Terminal:
    """A pseudo terminal with a program on it, and what that has drawn."""

    def __init__(self, argv: list[str], columns: int, lines: int, keep: tuple[int, ...], **environ: str) -> None:
        self.ours, theirs = os.openpty()
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.ours)
        self.raw = b""
        given = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.child = subprocess.Popen(
            argv, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, pass_fds=keep, start_new_session=True,
            env={**given, "TERM": "xterm-256color", **environ}, preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(theirs)

    def resize(self, columns: int, lines: int) -> None:
        """Change the window; the kernel sends SIGWINCH."""
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def read(self) -> bool:
        """Take in what was drawn meanwhile; False when the program has closed the terminal."""
        while select.select([self.ours], [], [], 0)[0]:
            try:
                data = os.read(self.ours, 1 << 16)
            except OSError:
                return False
            self.raw += data
            self._stream.feed(data)
        return True

    def wait_for(self, words: str) -> list[str]:
        """Wait until *words* (a regular expression) are on the screen; return its lines."""

        def is_there() -> bool:
            self.read()
            return re.search(words, "\n".join(self.screen.display)) is not None

        try:
            wait_until(is_there, f"{words} on the screen", 15)
        except TimeoutError as error:
            raise AssertionError("\n".join([str(error), *self.screen.display])) from error
        return [line.rstrip() for line in self.screen.display]

    def seconds_of(self, port: int) -> int:
        """The seconds that are shown as left to *port*."""
        found = re.search(rf"{port} (\d+)s", "\n".join(self.screen.display))
        assert found
        return int(found[1])

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.ours, keys)

    def end(self) -> int:
        """Wait until the program is over; return its exit status."""
        wait_until(lambda: not self.read() or self.child.poll() is not None, "the program is over", 20)
        code = self.child.wait(timeout=20)
        with suppress(OSError):
            self.read()
        return code

    @property
    def is_given_back(self) -> bool:
        """Whether the normal screen, the cursor and the terminal's settings are as they were."""
        after = self.raw.rpartition(b"\x1b[?1049h")[2]
        return LEFT in after and CURSOR in after and termios.tcgetattr(self.ours) == self.before


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def terminal(
    *argv: str, columns: int = 80, lines: int = 24, keep: tuple[int, ...] = (), environ: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """A program on a terminal of its own; it is ended with the block."""
    found = Terminal([*argv], columns, lines, keep, **(environ or {}))
    try:
        yield found
    finally:
        found.child.kill()
        found.child.wait()
        os.close(found.ours)


class Pipe:
    """Our end of the pipe that a watch reads."""

    def __init__(self) -> None:
        self.theirs, self.ours = os.pipe()

    def tell(self, *lines: Line) -> None:
        """Send lines of a record."""
        for line in lines:
            os.write(self.ours, to_json(line) + b"\n")

    def close(self, *lines: Line) -> None:
        """Send the last lines and end."""
        if self.ours >= 0:
            self.tell(*lines)
            os.close(self.ours)
        self.ours = -1


@contextmanager
def watched(title: str = "direct", **options: Any) -> Iterator[tuple[Terminal, Pipe]]:
    """``watch`` on a terminal, with a lab that has two TIME_WAITs."""
    pipe = Pipe()
    argv = [sys.executable, "-c", WATCH, str(pipe.theirs), title]
    with terminal(*argv, keep=(pipe.theirs,), **options) as found:
        os.close(pipe.theirs)
        sockets = rows("time-wait", (1024, 1030), SERVER, left_ms=30_000)
        pipe.tell(Built(0.0, {}, {}), Dump(10.0, "client", sockets))
        try:
            found.wait_for("held: 1024")
            yield found, pipe
        finally:
            pipe.close()


def test_what_comes_is_drawn_and_seconds_go_on() -> None:
    """Ports and their seconds; these fall although nothing comes; a new line shows at once; a resize too."""
    with watched(environ={"COLUMNS": "50", "LINES": "9"}) as (screen, pipe):  # what a shell exported long ago
        shown = screen.wait_for("held: 1024 2[0-9]s")
        assert shown[0].startswith("direct  ") and shown[0].endswith(" s")
        assert shown[1] == "a client with eleven local ports, and a server"
        assert any(line.startswith(f"  to {SERVER}  [T.....T....] 8 or 9 of 11 ports free") for line in shown)
        assert shown[23].endswith("q: leave")
        first = screen.seconds_of(1024)
        wait_until(lambda: screen.read() and screen.seconds_of(1024) < first, "a second less", 5)
        pipe.tell(Response(0, 0, 20.0, 1.5, None, "EADDRNOTAVAIL", "connect", None))
        screen.wait_for(r"EADDRNOTAVAIL from connect\(\), 1.5 ms")
        for columns, lines in ((120, 40), (40, 8)):
            screen.resize(columns, lines)
            shown = screen.wait_for("direct  .* s *\n")
            wait_until(
                lambda: screen.read() and screen.screen.display[-1].startswith("T TIME_WAIT"), "the keys are last", 5
            )
            assert len(screen.screen.display[0].rstrip()) == columns
        screen.press(b"q")
        assert (screen.end(), screen.is_given_back) == (0, True)
        assert COLOUR.search(screen.raw) and screen.raw.endswith(b"came back \r\n")


ENDS: dict[str, tuple[Callable[[Terminal, Pipe], object], int, str]] = {
    "Ctrl-C": (lambda screen, pipe: screen.press(b"\x03"), 0, "interrupted"),
    "SIGTERM": (lambda screen, pipe: screen.child.send_signal(signal.SIGTERM), 0, "interrupted"),
    "the lab breaks": (lambda screen, pipe: pipe.close(Trouble(4, "it broke")), 0, "came back it broke"),
    "no record": (lambda screen, pipe: os.write(pipe.ours, b"{}\n"), 1, "no line of a record"),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_terminal_is_given_back(how: str) -> None:
    """Normal screen, cursor and settings are as before, and what is said afterwards stands on the normal screen."""
    act, code, words = ENDS[how]
    with watched() as (screen, pipe):
        assert termios.tcgetattr(screen.ours) != screen.before
        act(screen, pipe)
        assert screen.end() == code
        assert screen.is_given_back
        assert words in screen.raw.rpartition(LEFT)[2].decode()


def test_ctrl_z_gives_the_terminal_back_until_fg() -> None:
    """A shell with job control gets its terminal; after ``fg`` the view is drawn anew, and ends as ever."""
    pipe = Pipe()
    script = '"$@"; echo STOPPED; read word; fg >/dev/null; echo OVER'
    argv = ["bash", "-mc", script, "bash", sys.executable, "-c", WATCH, str(pipe.theirs), "direct"]
    with terminal(*argv, keep=(pipe.theirs,)) as screen:
        pipe.tell(Dump(10.0, "client", rows("time-wait", (1024,), SERVER)))
        screen.wait_for("held: 1024")
        screen.press(b"\x1a")
        wait_until(lambda: screen.read() and screen.raw.endswith(b"STOPPED\r\n"), "the shell goes on", 10)
        assert screen.is_given_back
        screen.press(b"word\n")
        wait_until(lambda: screen.read() and not screen.is_given_back, "the view is back", 10)
        wait_until(lambda: screen.read() and b"held" in screen.raw.rpartition(b"\x1b[?1049h")[2], "it is drawn", 10)
        screen.press(b"q")
        assert (screen.end(), screen.is_given_back) == (0, True)
        assert screen.raw.endswith(b"OVER\r\n")


def test_a_terminal_obeys_no_text_of_the_lab_and_no_color() -> None:
    """What files and records hold is shown, its control characters escaped; colours go where NO_COLOR is set."""
    with watched(title="evil\x1b]0;gone\x07", environ={"NO_COLOR": "1"}) as (screen, pipe):
        pipe.tell(Trouble(1, "bad\x1b[2Jend"))
        shown = screen.wait_for("stopped: ")
        assert shown[0].startswith("evil\\x1b]0;gone\\x07")
        assert any("stopped: bad\\x1b[2Jend" in line for line in shown)
        assert b"\x1b]0;" not in screen.raw and COLOUR.search(screen.raw) is None


def test_a_terminal_that_can_do_nothing_gets_lines() -> None:
    pipe = Pipe()
    argv = [sys.executable, "-c", WATCH, str(pipe.theirs), "direct"]
    with terminal(*argv, keep=(pipe.theirs,), environ={"TERM": "dumb"}) as screen:
        screen.wait_for("watch direct")
        assert b"\x1b" not in screen.raw and termios.tcgetattr(screen.ours) == screen.before
    pipe.close()


def test_elsewhere_come_plain_lines_at_once() -> None:
    """One per change of results, one per node and second, flushed as they are written."""
    pipe = Pipe()
    argv = [sys.executable, "-c", WATCH, str(pipe.theirs), "direct"]
    with subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=(pipe.theirs,),
        env={**os.environ, "FORCE_COLOR": "1", "PYTHONUNBUFFERED": ""},
    ) as child:  # fmt: skip
        assert child.stdout is not None
        fd, told = child.stdout.fileno(), b""

        def lines(count: int) -> list[str]:
            nonlocal told
            while select.select([fd], [], [], 0)[0] and (data := os.read(fd, 4096)):
                told += data
            return told.decode().splitlines() if told.count(b"\n") >= count else []

        try:
            assert wait_until(lambda: lines(1), "the title", 10) == [
                "watch direct a client with eleven local ports, and a server"
            ]
            pipe.tell(Header("direct", "claim", "Linux", {}, {}), Built(0.0, {}, {}))
            pipe.tell(Dump(10.0, "client", rows("time-wait", (1024,), SERVER, left_ms=30_000)))
            pipe.tell(Response(0, 0, 20.0, 1.5, 200, None, None, 1024))
            _, result, client, server = wait_until(lambda: lines(4), "a result and two nodes", 10)[:4]
        finally:
            pipe.close()
            os.close(pipe.theirs)
        assert re.fullmatch(r"t=\d\.\ds step=1 index=0 result=200 count=1 ms=1\.5 last-port=1024 \.\.\.", result)
        left = r"t=\d\.\ds node=client time-wait=1 to=198\.18\.0\.1:80 free=9\|10/10\|11 left=1024:(\d+)s"
        found = re.fullmatch(left, client)
        assert found and 20 <= int(found[1]) <= 30
        assert re.fullmatch(r"t=\d\.\ds node=server time-wait=0", server)
        assert child.wait(timeout=10) == 0
        lines(0)
        assert b"\x1b" not in told


QUICK = ("topology", "direct", "--only", "connect-is-what-fails")
WAITS = ("topology", "direct", "--only", "reuse-waits-for-its-delay")


@pytest.mark.netns
def test_a_replay_is_watched_on_a_terminal() -> None:
    """Claim, step and ports while it runs; its end stays until a key; then the ordinary report."""
    with terminal(sys.executable, "-m", "netns_tw", *QUICK, "--watch") as screen:
        shown = screen.wait_for("any key: go on")
        assert shown[0].startswith("direct/connect-is-what-fails  ") and "experiment 1 of 1, over" in shown[0]
        assert shown[1].startswith("What the client sees is connect() failing with EADDRNOTAVAIL")
        assert any(re.match(r"step 1 of 1: back to back  \[#+\] 20/20 requests, (9|10) failed", line) for line in shown)
        assert any(re.search(r"EADDRNOTAVAIL from connect\(\) x (9|10)", line) for line in shown)
        assert any(re.match(rf"  to {SERVER}  \[\.?T+\.?\] (NO FREE|0 or 1 of)", line) for line in shown)
        screen.press(b" ")
        assert (screen.end(), screen.is_given_back) == (0, True)
        report = screen.raw.rpartition(LEFT)[2].decode()
        assert "PASS" in report and "EADDRNOTAVAIL" in report
    assert lab_processes() == {}


@pytest.mark.netns
@pytest.mark.parametrize(
    ("key", "code", "words"), [(b"q", 0, r"(?s)\d requests, \d failed.*PASS"), (b"\x03", 130, "interrupted")]
)
def test_a_replay_goes_on_without_its_view_but_not_after_ctrl_c(key: bytes, code: int, words: str) -> None:
    with terminal(sys.executable, "-m", "netns_tw", *WAITS, "--watch") as screen:
        screen.wait_for("held: ")
        screen.press(key)
        assert (screen.end(), screen.is_given_back) == (code, True)
        assert re.search(words, screen.raw.rpartition(LEFT)[2].decode())
    assert lab_processes() == {}


@pytest.mark.netns
def test_a_watcher_is_called_while_nothing_comes() -> None:
    """A view's seconds go on: between two responses of a job that come a second apart."""

    class Counting(Watcher):
        ticks = most = 0

        def line(self, job: Job, line: Line) -> None:
            self.ticks, self.most = 0, max(self.most, self.ticks)

        def wait_s(self) -> float:
            return 0.002

        def tick(self) -> None:
            self.ticks += 1

    lab = labs.read_lab(labs.folder_of("direct"))
    counting = Counting()
    claim = lab.experiments["no-reuse-at-one-second-pace"]
    steps = (replace(claim.steps[0], requests=2),)
    (record,) = parallel.run([Job(lab.topology, replace(claim, steps=steps))], 1, counting)
    assert record.is_complete
    assert counting.most >= 3


@pytest.mark.netns
def test_a_replay_is_watched_in_a_pipe() -> None:
    """Plain lines, then the report; the exit code is the verdict's."""
    done = netns_tw(*QUICK, "--watch", stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].startswith("watch direct/connect-is-what-fails experiment 1 of 1 What the client sees")
    told = [line for line in lines if line.startswith("t=")]
    assert any(re.search(r"result=EADDRNOTAVAIL call=connect count=(9|10) ", line) for line in told)
    assert any(re.search(r"node=client time-wait=1[01] to=198\.18\.0\.1:80 free=0", line) for line in told)
    assert "PASS" in done.stdout


@pytest.mark.parametrize("option", ["--ktap", "-q"])
def test_one_standard_output_is_for_one_thing(option: str) -> None:
    done = netns_tw(*QUICK, "--watch", option)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--watch draws on standard output" in done.stderr and "Traceback" not in done.stderr
