"""Whenever the command is ended, by whatever signal, nothing of it is left."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, lab_processes

from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns

ARGUMENTS = ("replay", "lb3ports", "direct/no-reuse-back-to-back", "-q")
LONGEST_S = 1.6
"""By then programs run and requests are under way; the whole would take 20 s."""
MOMENTS = 10


def end_after(seconds: float, signum: int, again: bool = False) -> tuple[int, str]:
    """Start the command, signal it *seconds* after it has its handlers; return its exit code and standard error."""
    argv = [sys.executable, "-m", "netns_tw", *ARGUMENTS]
    child = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: catches(child.pid, signal.SIGHUP), "the command has its handlers", 10, 0.001)
    time.sleep(seconds)  # the moment itself is what is tried here
    child.send_signal(signum)
    if again:
        child.send_signal(signum)
    _, talk = child.communicate(timeout=30)
    return child.returncode, talk


def catches(pid: int, signum: int) -> bool:
    """Whether a process has a handler for *signum*; of SIGHUP Python itself has none, and the command sets it last."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return bool(mask >> (signum - 1) & 1)


def moments(seed: int) -> list[float]:
    """Random moments, the same in every run."""
    source = random.Random(seed)
    return [source.uniform(0, LONGEST_S) for _ in range(MOMENTS)]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_130_with_nothing_left(signum: int) -> None:
    """At five moments, some with a second signal right behind: exit 130, one line, and all is gone on return."""
    for number, seconds in enumerate(moments(signum)[::2]):
        code, talk = end_after(seconds, signum, again=number % 3 == 0)
        assert (code, lab_processes()) == (130, {}), (seconds, talk)
        assert talk == "netns_tw: interrupted; nothing is left behind\n"


def test_kill_9_at_random_moments_leaves_nothing() -> None:
    """No process is left; that no namespace, mount or link is either, the end of the whole suite proves."""
    for seconds in moments(9):
        code, _ = end_after(seconds, signal.SIGKILL)
        assert code == -signal.SIGKILL
        wait_until(lambda: not lab_processes(), f"all gone after kill -9 at {seconds:.3f} s", 5)


def test_an_interrupt_at_the_terminal_reaches_the_command_only(tmp_path: Path) -> None:
    """Ctrl-C goes to the whole foreground process group; the sandboxes are in sessions of their own."""
    argv = [sys.executable, "-m", "netns_tw", *ARGUMENTS]
    child = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: len(lab_processes()) > 4, "labs run", 10)
    sessions = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3] for pid in lab_processes()}
    assert str(child.pid) not in sessions
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert (child.returncode, lab_processes()) == (130, {})


def shell(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command from a shell *script*, as its ``"$@"``."""
    argv = ["sh", "-c", script, "sh", sys.executable, "-m", "netns_tw", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


QUICK = ("replay", "direct/no-reuse-back-to-back", "direct/connect-is-what-fails")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("trap '' CHLD; exec \"$@\"", id="SIGCHLD ignored"),
        pytest.param('exec "$@" <&-', id="no standard input"),
        pytest.param('exec "$@" <&- >&- 2>&-', id="no standard streams at all"),
        pytest.param('exec "$@" 2>/dev/full', id="nobody can be told how far it is"),
    ],
)
def test_a_strange_parent_changes_nothing(script: str) -> None:
    """What a daemon or a CI agent may pass on neither hangs the command nor changes its exit code."""
    done = shell(script, *QUICK)
    assert (done.returncode, lab_processes()) == (0, {}), done.stderr


def test_a_reader_that_has_seen_enough_does_not_change_the_verdict(tmp_path: Path) -> None:
    """``| head -1``: the exit code is the verdict's, not the pipe's."""
    code = tmp_path / "code"
    done = shell(f'{{ "$@"; echo $? >{code}; }} | true', *QUICK)
    assert code.read_text() == "0\n"
    assert "Traceback" not in done.stderr


def test_output_that_cannot_be_written_is_said_in_one_line() -> None:
    done = shell('exec "$@" >/dev/full', "list")
    assert done.returncode == 3
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr


def test_what_was_ignored_on_purpose_stays_ignored() -> None:
    """Under nohup a hangup does not end the command."""
    argv = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", sys.executable, "-m", "netns_tw", *QUICK]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        wait_until(lambda: len(lab_processes()) > 2, "labs run", 10)
        child.send_signal(signal.SIGHUP)
        assert child.wait(timeout=30) == 0
