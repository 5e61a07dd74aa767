"""A lab's sandbox: one process tree that the kernel itself takes down.

Theory. A lab must never touch the host and must leave nothing, even after SIGKILL. Both follow from namespaces
(namespaces(7)) if the lab's first process is PID 1 of its own PID namespace:

* when PID 1 dies, by whatever signal, the kernel kills every process in there (zap_pid_ns_processes) before its
  parent can reap it; with the last process go the mount and network namespaces, their veth pairs and sockets;
* /run, /proc and /sys are private mounts, so /run/netns/client inside is nobody else's, and the "root" network
  namespace inside is itself new and empty.

Two processes are forked per sandbox. The *keeper* unshares the namespaces and stays in the old PID namespace (a
process cannot change its own); its child is PID 1, the *init*. Then the keeper ends: it would only take memory, and
its end time from every lab's. The command adopts the init (PR_SET_CHILD_SUBREAPER), tells it so, and only then the init
asks to be killed when its parent ends (PR_SET_PDEATHSIG); until it is told, it ends when the command's end of a pipe is
gone. So killing the command kills the rest at any moment.

The keeper of a visit, which joins the namespaces of a lab that is up, stays. The lab's own init cannot die before the
visitor was waited for (zap_pid_ns_processes), and a command that Ctrl-Z has stopped waits for nobody; the keeper has a
session of its own.

A lab that is to stay leaves its command in one step: its init says that it will outlive its parent.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple, NoReturn

from netns_tw.errors import EXIT_BROKEN, EnvironmentLacks
from netns_tw.kernel import libc, private

KEEPER_WAITS_FOR = {signal.SIGCHLD, signal.SIGTERM}
GO = b"g"
"""From the parent that an init is to die with."""
OUR_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class Sandbox(NamedTuple):
    """A started sandbox; pids as the caller sees them."""

    child: int
    """The caller's own: the init, or a visit's keeper."""
    init: int

    def kill(self) -> None:
        """End all that lives in the sandbox, by SIGKILL to its init. Harmless when it is over already.

        A visit's keeper is asked to do it: it alone reaps that init. So whom we signal here nobody has reaped, and no
        pid can have been given to another process meanwhile.
        """
        os.kill(self.child, signal.SIGKILL if self.child == self.init else signal.SIGTERM)

    def wait(self) -> int:
        """Wait until every process of the sandbox is gone; return the init's exit status, -N for signal N."""
        _, status = os.waitpid(self.child, 0)
        code = os.waitstatus_to_exitcode(status)
        return 128 - code if code > 128 else code


def die_with_parent(alive: int) -> None:
    """In a child: be killed when the parent ends. *alive* is a pipe whose other end the parent alone has open."""
    libc.set_parent_death_signal(signal.SIGKILL)
    if select.select([alive], [], [], 0)[0]:  # it ended before the line above
        os._exit(EXIT_BROKEN)


def outlive() -> None:
    """In a sandbox's init: do not die with the command that started it, which may end without it from now on."""
    libc.set_parent_death_signal(0)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back SIGINT, SIGTERM and SIGHUP for a few milliseconds: what begins in the block is also finished in it."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, OUR_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def start(main: Callable[[], int], keep: tuple[int, ...] = (), join: Callable[[], None] | None = None) -> Sandbox:
    """Run *main* as PID 1 of a new sandbox and return at once.

    *main* returns the exit status. Of the caller's file descriptors only 0, 1, 2 and those in *keep* stay open.
    *join* puts the keeper into namespaces that are there already, instead of new ones with mounts of their own.
    The caller must have one thread only: what other threads hold locked at the fork stays locked in the child.

    Raises:
        EnvironmentLacks: this machine lets the caller make no namespaces; the text names the setting.
    """
    heard, report = os.pipe()
    alive, ours = os.pipe()
    parent = os.getpid()
    with undisturbed(), ExitStack() as stack:
        stack.callback(os.close, heard)
        our_end = stack.enter_context(ExitStack())
        our_end.callback(os.close, ours)
        with _adopting():
            keeper = _fork((report, alive))
            if keeper == 0:
                _keep(main, report, alive, keep, parent, join)
            is_adopted = join is None and os.waitpid(keeper, 0)[1] == 0
        if is_adopted:
            with suppress(BrokenPipeError):  # it is dead
                os.write(ours, GO)
        else:  # an init that is there all the same, since somebody killed its keeper, hears of it and ends
            our_end.close()
        told = dict(line.split(" ", 1) for line in _read_all(heard).splitlines())
    child = keeper if join else int(told.get("init", 0))
    if "init" in told and "error" not in told:
        return Sandbox(child, int(told["init"]))
    if child:
        os.waitpid(child, 0)
    complaint = told.get("error", "the sandbox died at its start")
    raise EnvironmentLacks(f"cannot enter the lab: {complaint}" if join else private.why_not(complaint))


def _fork(childs: Sequence[int]) -> int:
    """Fork, and leave the file descriptors *childs* to the child alone."""
    is_child = False
    try:
        pid = os.fork()
        is_child = pid == 0
    except OSError as error:
        raise EnvironmentLacks(f"cannot start a process: {error.strerror} (see ulimit -u)") from error
    finally:
        if not is_child:
            for fd in childs:
                os.close(fd)
    return pid


@contextmanager
def _adopting() -> Iterator[None]:
    """Be the new parent of what a child of ours leaves behind at its end."""
    before = libc.is_child_subreaper()
    libc.set_child_subreaper(True)
    try:
        yield
    finally:
        libc.set_child_subreaper(before)


def _read_all(fd: int) -> str:
    parts = []
    while part := os.read(fd, 4096):
        parts.append(part)
    return b"".join(parts).decode()


def _keep(
    main: Callable[[], int],
    report: int,
    alive: int,
    keep: tuple[int, ...],
    parent: int,
    join: Callable[[], None] | None,
) -> NoReturn:
    """The keeper: make or join the namespaces, fork the init and report it; in a visit, end as that init ends."""
    status = EXIT_BROKEN
    try:
        _forget_the_parent((*keep, report, alive))
        libc.set_parent_death_signal(signal.SIGKILL)
        (join or private.unshare)()
        libc.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(status)
        if join is None:
            _fork_init(main, report, alive, private.mount)
            status = 0
        else:
            os.close(alive)  # the visitor is to die with us
            status = _wait_for_visitor(main, report)
    except OSError as error:
        with suppress(OSError):
            os.write(report, f"error {error.strerror}\n".encode())
    finally:
        os._exit(status if status >= 0 else 128 - status)


def _fork_init(main: Callable[[], int], report: int, alive: int, prepare: Callable[[], None]) -> int:
    """Fork the init and report its pid, from outside its PID namespace."""
    init = os.fork()
    if init == 0:
        _be_init(main, alive, report, prepare)
    os.write(report, f"init {init}\n".encode())
    return init


def _wait_for_visitor(main: Callable[[], int], report: int) -> int:
    """Start a visit's init, end it when we are told to, and return its exit status, -N for signal N."""
    alive, ours = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, KEEPER_WAITS_FOR)
    init = _fork_init(main, report, alive, lambda: os.close(ours))
    os.close(report)
    with suppress(BrokenPipeError):  # it is dead
        os.write(ours, GO)
    gone = 0
    while not gone:  # a SIGCHLD may also say that the init was stopped
        if signal.sigwait(KEEPER_WAITS_FOR) == signal.SIGTERM:
            os.kill(init, signal.SIGKILL)
        gone, raw = os.waitpid(init, os.WNOHANG)
    return os.waitstatus_to_exitcode(raw)


def _forget_the_parent(keep: tuple[int, ...]) -> None:
    """Drop what the fork copied: the terminal's signals, the command's handlers and its open files."""
    os.setsid()
    for signum in OUR_SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OUR_SIGNALS)
    for fd in (int(name) for name in os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in keep:
            with suppress(OSError):
                os.close(fd)


def _be_init(main: Callable[[], int], alive: int, report: int, prepare: Callable[[], None]) -> NoReturn:
    """PID 1: *prepare*, such as its mounts; then, once it has its parent for life, *main*.

    *report* is closed when all is set up; any text before is the complaint.
    """
    status = EXIT_BROKEN
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, KEEPER_WAITS_FOR)
        try:
            prepare()
        except OSError as error:
            os.write(report, f"error {error.strerror or error}\n".encode())
            os._exit(status)
        if os.read(alive, len(GO)) != GO:  # the parent is gone
            os._exit(status)
        die_with_parent(alive)
        os.close(report)
        status = status_of(main)
        _kill_the_others()
    finally:
        os._exit(status)


def _kill_the_others() -> None:
    """In PID 1: have all others in here die beside us. Our own end would kill them too, but only after ourselves."""
    if os.getpid() == 1:  # -1 is everybody in our PID namespace
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)


def status_of(main: Callable[[], int]) -> int:
    """Call *main*, which is all that its process does, and return its exit status; a bug of ours is shown."""
    try:
        return main()
    except BrokenPipeError:  # the command was killed; in a moment the kernel ends this too
        pass
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    return EXIT_BROKEN
