"""An act tried in a child that is gone afterwards, so that it may crash or hang.

Theory. A version number, a capability or a switch says what may work; only the act itself says what works: AppArmor,
seccomp, a container's masked /proc and a user namespace's limits all answer at the call. The acts are in probe.py.

The child has a session of its own, without a terminal. What the act makes ends with it: its namespaces and sockets
are the child's alone, a program that it started is in its process group, which is killed, and a sandbox in it is tied
to it by PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from netns_tw.errors import EnvironmentLacks, NetnsTwError
from netns_tw.kernel import libc, sandbox
from netns_tw.wait import DeadlineMissed, wait_until

DEADLINE_S = 10.0
KILLED_DEADLINE_S = 1.0
ANSWER_ENDS = b"\n"
"""An answer is a line. The pipe's end is not waited for: a process that the act has started may hold it open."""


class NotTried(EnvironmentLacks):
    """The act could not even begin, since something else is missing that it stands on."""


def attempt(act: Callable[[], Any], deadline_s: float | None = None) -> Any:
    """Carry out *act* in a child and return what it returns, which must be plain JSON.

    The caller must have one thread only. *deadline_s* is DEADLINE_S where it is None.

    Raises:
        NotTried: something is missing that the act stands on.
        EnvironmentLacks: it failed, crashed, or gave no answer in time; the text says which, in one line.
    """
    limit = DEADLINE_S if deadline_s is None else deadline_s
    read, write = os.pipe()
    parent = os.getpid()
    with sandbox.undisturbed():
        pid = os.fork()
        if pid == 0:
            _be_child(act, write, parent)
    try:
        os.close(write)
        return _heard(_read(read, limit))
    finally:
        os.close(read)
        _end(pid)


def in_sandbox(act: Callable[[], Any]) -> Any:
    """Carry out *act* as PID 1 of a new sandbox and return what it returns; for use inside ``attempt``.

    Raises:
        NotTried: no sandbox can be made.
        EnvironmentLacks: the act failed or crashed.
    """
    read, write = os.pipe()

    def main() -> int:
        _answer(act, write)
        return 0

    try:
        made = sandbox.start(main, keep=(write,))
    except EnvironmentLacks as error:
        raise NotTried("not tried: there is no sandbox to try it in") from error
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read()
    made.wait()
    return _heard(text)


def _be_child(act: Callable[[], Any], write: int, parent: int) -> NoReturn:
    try:
        os.setsid()
        libc.set_parent_death_signal(signal.SIGKILL)
        for signum in sandbox.OUR_SIGNALS:
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, sandbox.OUR_SIGNALS)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(null, standard)
        if os.getppid() == parent:  # else it died before it could be tied to us
            _answer(act, write)
    finally:
        os._exit(0)


def _answer(act: Callable[[], Any], write: int) -> None:
    """Write what *act* returns, or in one line why it does not."""
    try:
        text = json.dumps(["done", act()])
    except NotTried as error:
        text = json.dumps(["untried", str(error)])
    except ImportError as error:
        text = json.dumps(["untried", f"not tried: it needs the Python package {error.name}"])
    except NetnsTwError as error:
        text = json.dumps(["lacks", str(error).split("\n")[0]])
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "")
        text = json.dumps(["lacks", f"{error.strerror or error} ({name})" if name else str(error)])
    except BaseException as error:
        text = json.dumps(["lacks", f"the check itself failed: {type(error).__name__}: {error}".split("\n")[0]])
    with suppress(BrokenPipeError), os.fdopen(write, "wb") as pipe:
        pipe.write(text.encode() + ANSWER_ENDS)


def _read(fd: int, limit_s: float) -> bytes:
    end = time.monotonic() + limit_s
    parts: list[bytes] = []
    while select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
        part = os.read(fd, 1 << 16)
        parts.append(part)
        if not part or part.endswith(ANSWER_ENDS):
            return b"".join(parts)
    raise EnvironmentLacks(f"no answer within {limit_s:g} s")


def _heard(text: bytes) -> Any:
    if not text:
        raise EnvironmentLacks("the check ended without an answer")
    word, value = json.loads(text)
    if word == "done":
        return value
    raise (NotTried if word == "untried" else EnvironmentLacks)(value)


def _end(pid: int) -> None:
    """Kill the child, which is not yet waited for, and its group; one that hangs in the kernel is left to init."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    with suppress(DeadlineMissed):
        wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0], "the child is gone", KILLED_DEADLINE_S)
