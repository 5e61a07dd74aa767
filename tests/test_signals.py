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
MOMENTS = 20


def end_after(seconds: float, signum: int, again: bool = False) -> tuple[int, str]:
    """Start the command, signal it after *seconds*; return its exit code and standard error."""
    argv = [sys.executable, "-m", "netns_tw", *ARGUMENTS]
    child = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)  # the moment itself is what is tried here
    child.send_signal(signum)
    if again:
        child.send_signal(signum)
    _, talk = child.communicate(timeout=30)
    return child.returncode, talk


def moments(seed: int) -> list[float]:
    """Random moments, the same in every run."""
    source = random.Random(seed)
    return [source.uniform(0.1, LONGEST_S) for _ in range(MOMENTS)]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_130_with_nothing_left(signum: int) -> None:
    """At seven moments, some with a second signal right behind: exit 130, one line, and all is gone on return."""
    for number, seconds in enumerate(moments(signum)[::3]):
        code, talk = end_after(seconds, signum, again=number % 3 == 0)
        assert (code, lab_processes()) == (130, {}), (seconds, talk)
        assert talk == "netns_tw: interrupted; nothing is left behind\n"


def test_kill_9_at_20_random_moments_leaves_nothing() -> None:
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
