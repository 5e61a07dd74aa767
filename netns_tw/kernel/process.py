"""Processes inside a namespace: started there, known by pid, ended with their whole group.

A child inherits the namespace its parent is in at the fork, so starting one is "enter, Popen, leave". Each gets a
session of its own: a signal to its group reaches its workers too. What may be left is killed with the sandbox's PID 1.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence

from netns_tw.kernel import netns
from netns_tw.wait import DeadlineMissed, wait_until

SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
LOG_TAIL_LINES = 12
TERM_DEADLINE_S = 2.0


def find_program(name: str) -> str | None:
    """Return the path of program *name*: from PATH, then from the system's own folders, which sudo and users miss."""
    import shutil  # not for those who only start and end processes

    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(SYSTEM_PATH))


def spawn(
    netns_name: str,
    argv: Sequence[str],
    log: str | os.PathLike[str],
    cwd: str | None = None,
    stdout: int | None = None,
    inherited: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start *argv* in a namespace with no standard input; its output goes to *log* (stdout elsewhere if given).

    The file descriptors *inherited* stay open in it, by their numbers.

    Raises:
        OSError: the program cannot be started.
    """
    with open(log, "ab") as sink, netns.enter(netns_name):
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=sink if stdout is None else stdout,
            stderr=sink,
            cwd=cwd,
            pass_fds=inherited,
            start_new_session=True,
        )


def write_whole(fd: int, data: bytes) -> None:
    """Write all of *data*, however little write(2) takes at once.

    Raises:
        OSError: the kernel refuses; BrokenPipeError where nobody reads.
    """
    while data:
        data = data[os.write(fd, data) :]


def end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its group: SIGTERM, then SIGKILL after 2 s. Harmless when it is over already."""
    _signal_group(process, signal.SIGTERM)
    try:
        wait_until(lambda: process.poll() is not None, "program ended", TERM_DEADLINE_S)
    except DeadlineMissed:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], signum: int) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signum)


def tail(log: str | os.PathLike[str], lines: int = LOG_TAIL_LINES) -> str:
    """Return the last *lines* lines of a log, for an error message."""
    if not os.path.exists(log):
        return ""
    with open(log, encoding="utf-8", errors="replace") as file:
        return "\n".join(file.read().splitlines()[-lines:])
