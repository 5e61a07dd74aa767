"""All packets of one interface into one file, by a process of its own, complete from begin to end.

*From the start.* The ring (packets.py) takes packets from bind(2) on, in the constructor; then the process is forked.

*Until the end.* See ``Capture.stop``: a capture that was stopped has every packet of before, or says how many it has
not.

*In between.* The file holds whole blocks after every write. So a capture that is killed, SIGKILL included, leaves
all but its last milliseconds readable; without statistics at its end it is known to be incomplete.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import NamedTuple, Protocol

from netns_tw.errors import EnvironmentLacks, InstrumentBroken
from netns_tw.kernel import libc, netns
from netns_tw.kernel.packets import PacketRing, wait_until_delivered
from netns_tw.wait import DeadlineMissed, wait_until

WRITE_OCTETS = 1 << 16
ANSWER_OCTETS = 1 << 12
DRAINED_DEADLINE_S = 10.0
STOP_DEADLINE_S = 30.0


class Form(Protocol):
    """How a capture is written: the blocks of a file. The module model/pcapng.py is one."""

    def header(self, name: str, description: str, hardware: str, system: str) -> bytes:
        """The start of the file."""

    def packet(self, at_ns: int, data: memoryview, length: int, is_outgoing: bool) -> bytes:
        """One packet: its time, what was captured of its *length* octets, its direction."""

    def statistics(self, began_ns: int, ended_ns: int, received: int, dropped: int) -> bytes:
        """The end of the file; *dropped* of the *received* packets are not in it."""


class Count(NamedTuple):
    """How many packets are in the file, and how many are missing for want of room."""

    written: int
    dropped: int


class Capture:
    """A running capture of one interface; leave the ``with`` block and its process is gone."""

    def __init__(self, netns_name: str, interface: str, description: str, fd: int, form: Form) -> None:
        """Begin: every packet that passes *interface* from now on goes to file descriptor *fd*.

        The descriptor stays the caller's, who may close it. The caller must have one thread only: it is forked.

        Raises:
            EnvironmentLacks: no such interface, no packet sockets, no memory for the ring, no room in the file.
        """
        self.name = f"{netns_name}:{interface}"
        began_ns = time.time_ns()
        try:
            with ExitStack() as undo:
                with netns.enter(netns_name):
                    ring = PacketRing(interface)
                undo.callback(ring.close)
                kernel = os.uname()
                system = f"{kernel.sysname} {kernel.release}"
                _write(fd, form.header(self.name, description, kernel.machine, system))
                self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                undo.callback(theirs.close)
                given_up = undo.enter_context(ExitStack())
                given_up.callback(self._control.close)
                self._pid = _fork(
                    lambda: _record(ring, theirs, fd, form, began_ns), (fd, theirs.fileno(), ring.fileno())
                )
                given_up.pop_all()
        except OSError as error:
            raise EnvironmentLacks(f"capture of {self.name}: {error.strerror}") from error

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def stop(self) -> Count:
        """End the capture: all that was sent over the link before this call is in the file, then its statistics. Once.

        "Sent" means that the sender's interface had it. What the captured interface itself sends is in the ring before
        the sending system call returns, as a veth has no queue. What it receives may still wait for a CPU, so the
        process waits until that is delivered, has the kernel shut the ring, and reads all that the kernel has counted.

        Raises:
            EnvironmentLacks: the file could not be written (no space).
            InstrumentBroken: the capture's process is gone, or did not come to an end within 30 s.
        """
        self._control.settimeout(STOP_DEADLINE_S)
        with suppress(BrokenPipeError):  # it is gone
            self._control.send(b"stop")
        try:
            answer = self._control.recv(ANSWER_OCTETS).decode()
        except OSError:
            answer = ""
        self.close()
        word, _, rest = answer.partition(" ")
        if word == "done":
            written, dropped = map(int, rest.split())
            return Count(written, dropped)
        if word == "lacks":
            raise EnvironmentLacks(f"capture of {self.name}: {rest}")
        raise InstrumentBroken(f"capture of {self.name}: {rest or 'its process ended too early'}")

    def close(self) -> None:
        """End the process at once, unless ``stop`` did; the file then holds what was written. Harmless when over."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
        self._control.close()


def _fork(child: Callable[[], None], keep: tuple[int, ...]) -> int:
    """Run *child* in a process that dies with this one and holds none of its files but 0, 1, 2 and *keep*."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        libc.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(status)
        os.setsid()  # a signal from the terminal is not for it
        for fd in (int(name) for name in os.listdir("/proc/self/fd")):
            if fd > 2 and fd not in keep:
                with suppress(OSError):
                    os.close(fd)
        child()
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _record(ring: PacketRing, control: socket.socket, fd: int, form: Form, began_ns: int) -> None:
    """The capture's process: copy until told to stop, bring it to an end, and answer with the counts or the trouble."""
    try:
        written = _copy_until_told(ring, control, fd, form)
        wait_until_delivered()
        received, dropped = ring.shut()

        def is_drained() -> bool:
            nonlocal written
            written += _copy(ring, fd, form)
            return written >= received - dropped

        wait_until(is_drained, f"all of the {received - dropped} packets handed over", DRAINED_DEADLINE_S)
        _write(fd, form.statistics(began_ns, time.time_ns(), received, dropped))
        answer = f"done {written} {dropped}"
    except DeadlineMissed as error:
        answer = f"broken {error}"
    except OSError as error:
        answer = f"lacks {error.strerror}"
    control.send(answer.encode())
    control.recv(1)  # the other side ends this process when it has read that, or dies itself


def _copy_until_told(ring: PacketRing, control: socket.socket, fd: int, form: Form) -> int:
    """Copy until a word or the end of the other side comes on *control*; return how many packets were written."""
    poll = select.poll()
    poll.register(ring, select.POLLIN)
    poll.register(control, select.POLLIN)
    written = 0
    while True:
        ready = dict(poll.poll())
        written += _copy(ring, fd, form)
        if control.fileno() in ready:
            control.recv(ANSWER_OCTETS)
            return written
        if ready[ring.fileno()] & select.POLLERR:
            ring.clear_error()


def _copy(ring: PacketRing, fd: int, form: Form) -> int:
    """Write the packets that were handed over; return how many."""
    blocks: list[bytes] = []
    count = size = 0
    for seen in ring.packets():
        block = form.packet(*seen)
        blocks.append(block)
        count += 1
        size += len(block)
        if size >= WRITE_OCTETS:
            _write(fd, b"".join(blocks))
            blocks, size = [], 0
    _write(fd, b"".join(blocks))
    return count


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
