"""A sandbox is private, and nothing survives its PID 1."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, in_sandbox, lab_processes

from netns_tw.errors import EXIT_BROKEN, EnvironmentLacks
from netns_tw.kernel import libc, sandbox
from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns


def inode(kind: str) -> int:
    return os.stat(f"/proc/self/ns/{kind}").st_ino


def test_has_its_own_namespaces_and_is_pid_1() -> None:
    """PID, mount and network namespace are new; the first process is PID 1 of its own."""
    inside = in_sandbox(lambda: (os.getpid(), inode("net"), inode("mnt"), inode("pid")))
    assert inside[0] == 1
    assert not {inode("net"), inode("mnt"), inode("pid")} & set(inside[1:])


def test_run_proc_and_sys_are_private() -> None:
    """/run is empty but for netns, /proc shows the sandbox's processes only, /sys its interfaces only."""

    def look() -> tuple[list[str], list[str], list[str]]:
        processes = [name for name in os.listdir("/proc") if name.isdigit()]
        return os.listdir("/run"), processes, os.listdir("/sys/class/net")

    assert in_sandbox(look) == (["netns"], ["1"], ["lo"])


def open_files() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that listdir itself had open
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return found


def test_keeps_no_file_of_the_command_open() -> None:
    """A file of the command, such as another experiment's pipe, is closed inside."""
    read, write = os.pipe()
    try:
        pipe = os.readlink(f"/proc/self/fd/{read}")
        assert pipe in open_files()
        assert pipe not in in_sandbox(open_files)
    finally:
        os.close(read)
        os.close(write)


def test_exit_status_is_the_mains() -> None:
    assert sandbox.start(lambda: 7).wait() == 7


def test_kill_ends_every_process_and_wait_returns_after_the_last() -> None:
    """Whatever was started inside, in its own session and ignoring SIGTERM, is gone when wait() returns."""

    def main() -> int:
        for _ in range(5):
            subprocess.Popen(["sh", "-c", "trap '' TERM HUP; sleep 1000"], start_new_session=True)
        signal.pause()
        return 0

    made = sandbox.start(main)
    wait_until(lambda: len(lab_processes()) >= 11, "five shells and their sleeps", 5)
    made.kill()
    assert made.wait() == -signal.SIGKILL
    assert lab_processes() == {}


def _until_killed() -> int:
    signal.pause()
    return 0


def test_kill_after_the_end_is_harmless() -> None:
    made = sandbox.start(lambda: 0)
    time.sleep(0.05)  # over or not: both must do
    made.kill()
    assert made.wait() in (0, -signal.SIGKILL)


@pytest.mark.parametrize("is_reported", [False, True])
def test_a_keeper_that_is_killed_takes_its_init_along(is_reported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not it had time to say who the init is: that one never begins, and the command does not wait."""
    command, fork, exit_now = os.getpid(), os.fork, os._exit

    def fork_and_die() -> int:
        pid = fork()
        if pid and os.getpid() != command:
            os.kill(os.getpid(), signal.SIGKILL)
        return pid

    def die(code: int) -> None:
        if code == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        exit_now(code)

    if is_reported:
        monkeypatch.setattr(os, "_exit", die)
        assert sandbox.start(lambda: 0).wait() == EXIT_BROKEN
    else:
        monkeypatch.setattr(os, "fork", fork_and_die)
        with pytest.raises(EnvironmentLacks, match="the sandbox died at its start"):
            sandbox.start(lambda: 0)
        wait_until(lambda: os.waitpid(-1, os.WNOHANG)[0], "the init has ended", 5)  # it was adopted, and is nobody's
    assert lab_processes() == {}


PARENT = """
import signal, subprocess, sys
from netns_tw.kernel import sandbox
def main():
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    print("up", flush=True)
    signal.pause()
    return 0
sandbox.start(main)
signal.pause()
"""


def test_dies_with_its_parent() -> None:
    """SIGKILL of the command takes the whole sandbox with it."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.readline() == b"up\n"
        assert len(lab_processes()) == 2
        parent.kill()
        parent.wait()
    wait_until(lambda: not lab_processes(), "sandbox gone", 5)


def test_a_hundred_sandboxes_leave_nothing() -> None:
    """No file descriptor, process or mount grows with the number of sandboxes."""
    before = len(os.listdir("/proc/self/fd")), Path("/proc/self/mounts").read_text()
    for _ in range(100):
        assert sandbox.start(lambda: 0).wait() == 0
    assert (len(os.listdir("/proc/self/fd")), Path("/proc/self/mounts").read_text()) == before


def test_the_command_itself_adopts_the_init() -> None:
    """The keeper is gone, the init is the command's own child, and the command adopts no other orphan from then on."""
    was = libc.is_child_subreaper()
    made = sandbox.start(_until_killed)
    try:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        assert str(made.init) in children
        assert made.child == made.init
        assert list(lab_processes()) == [made.init]
        assert libc.is_child_subreaper() == was
    finally:
        made.kill()
        made.wait()
