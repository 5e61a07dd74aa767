"""Into a lab that is up, from outside: proven to be the one that was meant, entered, or ended.

A pid alone proves nothing: it may belong to another process by now. A pid with its start time (proc_pid_stat(5), field
22, ticks since boot) and the boot's id is one process for ever. So that nothing changes between proof and deed, the
process is held first, by its /proc/PID folder to enter or by a pidfd to signal, and proven second.

To enter is to join the init's user, PID, mount and network namespace (setns(2)); the PID namespace takes only children
in, so whoever enters forks. A program of the user's is made a child in the lab's own PID namespace, beside the lab's
programs. A visit of our own becomes PID 1 of a PID namespace below it: whatever it starts dies with it.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from netns_tw.errors import EnvironmentLacks, UsageError
from netns_tw.kernel import libc, sandbox
from netns_tw.kernel.sandbox import Sandbox

START_TIME_FIELD = 22
DIE_DEADLINE_S = 10.0
_KINDS = (
    ("user", libc.CLONE_NEWUSER),
    ("pid", libc.CLONE_NEWPID),
    ("mnt", libc.CLONE_NEWNS),
    ("net", libc.CLONE_NEWNET),
)


class Gone(UsageError):
    """The lab's first process is not there any more."""


@dataclass(frozen=True)
class Proof:
    """One process of this machine since it was switched on, whatever becomes of its pid."""

    pid: int
    start_ticks: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Proof:
        """The proof of a process that is surely the one meant, such as a child that is not yet waited for.

        Raises:
            OSError: there is none.
        """
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return cls(pid, _start_ticks(Path("/proc", str(pid), "stat").read_bytes()), boot)

    def hold(self) -> int:
        """Return a new fd of the process's /proc folder, which stands for this process alone.

        Raises:
            Gone: it has ended.
        """
        try:
            fd = os.open(f"/proc/{self.pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            raise Gone(f"process {self.pid} has ended") from None
        if not self._is(fd):
            os.close(fd)
            raise Gone(f"process {self.pid} has ended")
        return fd

    def _is(self, folder: int) -> bool:
        try:
            stat = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
            try:
                found = os.read(stat, 4096)
            finally:
                os.close(stat)
        except OSError:
            return False
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return _start_ticks(found) == self.start_ticks != -1 and boot == self.boot

    @property
    def is_alive(self) -> bool:
        """Whether the process is there and has not ended."""
        try:
            os.close(self.hold())
        except Gone:
            return False
        return True

    def kill(self) -> None:
        """End the process by SIGKILL and wait until it and, where it is an init, all below it is gone.

        Harmless when it has ended already.

        Raises:
            EnvironmentLacks: this kernel has no pidfd (Linux 5.3), or the process does not die within 10 s.
        """
        try:
            held = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        except OSError as error:
            raise EnvironmentLacks(f"cannot end a lab: pidfd_open: {error.strerror} (it needs Linux 5.3)") from error
        try:
            if self.is_alive:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(held, signal.SIGKILL)
                if not select.select([held], [], [], DIE_DEADLINE_S)[0]:
                    raise EnvironmentLacks(f"process {self.pid} is not gone {DIE_DEADLINE_S:g} s after SIGKILL")
        finally:
            os.close(held)


def _start_ticks(stat: bytes) -> int:
    """The start time in a line of /proc/PID/stat; a process that ended and was not waited for yet has none, -1."""
    after_name = stat[stat.rindex(b")") + 1 :].split()  # from field 3 on; the name may hold blanks
    return -1 if after_name[0] in b"ZX" else int(after_name[START_TIME_FIELD - 3])


@contextmanager
def doors(proof: Proof) -> Iterator[list[tuple[int, int]]]:
    """The namespaces of a lab's init that are not the caller's own: an fd and its CLONE_NEW* flag, in setns order.

    Raises:
        Gone: the init has ended.
        UsageError: the lab is another user's.
    """
    with ExitStack() as stack:
        folder = proof.hold()
        stack.callback(os.close, folder)
        found = []
        for name, kind in _KINDS:
            try:
                fd = os.open(f"ns/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
            except PermissionError:
                raise UsageError("this lab is another user's; only that user and root may enter it") from None
            except OSError:
                raise Gone(f"process {proof.pid} has ended") from None
            stack.callback(os.close, fd)
            if os.fstat(fd).st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:  # setns(2) refuses one's own user ns
                found.append((fd, kind))
        yield found


def join(found: Sequence[tuple[int, int]]) -> None:
    """Enter; the caller has one thread only, and its next child is in the PID namespace."""
    for fd, kind in found:
        libc.setns(fd, kind)
        if kind == libc.CLONE_NEWUSER:
            libc.raise_ambient_capabilities()


def visit(proof: Proof, main: Callable[[], int], keep: tuple[int, ...] = ()) -> Sandbox:
    """Run *main* inside a lab that is up, and return at once; whatever it starts ends with it, and it with the caller.

    Raises:
        Gone: the lab has ended.
        UsageError: it is another user's.
        EnvironmentLacks: the kernel lets nobody in.
    """

    with doors(proof) as found:
        return sandbox.start(lambda: _below(main), (*keep, *(fd for fd, _ in found)), lambda: join(found))


def _below(main: Callable[[], int]) -> int:
    """Run *main* as PID 1 of a PID namespace below the lab's; unshare(2) wants to be asked from inside the lab's."""
    libc.unshare(libc.CLONE_NEWPID)
    alive_read, alive_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(alive_write)
        sandbox.die_with_parent(alive_read)
        os._exit(sandbox.status_of(main))
    _, status = os.waitpid(child, 0)
    return exit_code(status)


def exit_code(status: int) -> int:
    """A wait status as a shell tells it: 128 + N for signal N."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
