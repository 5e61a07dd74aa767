"""A lab's sandbox: one process tree that the kernel itself takes down.

Theory. A lab must never touch the host and must leave nothing, even after SIGKILL. Both follow from namespaces
(namespaces(7)) if the lab's first process is PID 1 of its own PID namespace:

* when PID 1 dies, by whatever signal, the kernel kills every process in there (zap_pid_ns_processes) before its
  parent can reap it; with the last process go the mount and network namespaces, their veth pairs and sockets;
* /run, /proc and /sys are private mounts, so /run/netns/client inside is nobody else's, and the "root" network
  namespace inside is itself new and empty.

Two processes are forked per sandbox. The *keeper* unshares the namespaces and stays in the old PID namespace (a
process cannot change its own); its child is PID 1, the *init*. The chain "command, keeper, init" is tied by
PR_SET_PDEATHSIG, so killing the command kills the rest. An ordinary user gets a user namespace too, mapped to
himself with ambient capabilities; a user mapped to root would make nginx call chown(2) and setgroups(2), and fail.

A lab that is to stay leaves this chain in two steps that may each be the last: its init says it will outlive its
parent, then the command releases the keeper. Whatever dies in between, the init has either both or neither.

The mount namespace is a copy of the caller's, and a copy of somebody's /run/netns/NAME would keep that namespace alive
after `ip netns del`. So mounts that go in the caller's namespace go here too (MS_SLAVE), and root lets go of the
namespaces under /run at once.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from netns_tw.errors import EXIT_BROKEN, EnvironmentLacks
from netns_tw.kernel import libc, switches

CAP_SYS_ADMIN = 21
NAMESPACES = libc.CLONE_NEWNS | libc.CLONE_NEWPID | libc.CLONE_NEWNET
KEEPER_WAITS_FOR = {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1}
LAB_FILES_MAX = "512m"
"""What a lab's logs and files may take of the machine's memory."""
OUR_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@dataclass(frozen=True)
class Sandbox:
    """A started sandbox: the keeper's and the init's pid, both as the caller sees them."""

    keeper: int
    init: int

    def kill(self) -> None:
        """End all that lives in the sandbox, by SIGKILL to its init. Harmless when it is over already.

        The keeper is asked to do it: it alone reaps the init, and we alone reap the keeper, so no pid that is
        signalled here can have been given to another process meanwhile.
        """
        os.kill(self.keeper, signal.SIGTERM)

    def wait(self) -> int:
        """Wait until every process of the sandbox is gone; return the init's exit status, -N for signal N."""
        _, status = os.waitpid(self.keeper, 0)
        code = os.waitstatus_to_exitcode(status)
        return 128 - code if code > 128 else code

    def release(self) -> None:
        """Let the init live on without the caller; only after it called ``outlive``."""
        os.kill(self.keeper, signal.SIGUSR1)
        os.waitpid(self.keeper, 0)


def die_with_parent(alive: int) -> None:
    """In a child: be killed when the parent ends. *alive* is a pipe whose other end the parent alone has open."""
    libc.set_parent_death_signal(signal.SIGKILL)
    if select.select([alive], [], [], 0)[0]:  # it ended before the line above
        os._exit(EXIT_BROKEN)


def outlive() -> None:
    """In a sandbox's init: do not die with the command that started it. It may be released from now on."""
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
    report_read, report_write = os.pipe()
    parent = os.getpid()
    with undisturbed():
        try:
            keeper = os.fork()
        except OSError as error:
            os.close(report_read)
            os.close(report_write)
            raise EnvironmentLacks(f"cannot start a process: {error.strerror} (see ulimit -u)") from error
        if keeper == 0:
            _keep(main, report_write, (*keep, report_write), parent, join)
        os.close(report_write)
        report = _read_all(report_read)
        os.close(report_read)
    word, _, rest = report.partition(" ")
    if word == "init":
        return Sandbox(keeper, int(rest))
    os.waitpid(keeper, 0)
    complaint = rest or "the sandbox died at its start"
    raise EnvironmentLacks(f"cannot enter the lab: {complaint}" if join else _why_not(complaint))


def _read_all(fd: int) -> str:
    parts = []
    while part := os.read(fd, 4096):
        parts.append(part)
    return b"".join(parts).decode()


def _keep(
    main: Callable[[], int], report: int, keep: tuple[int, ...], parent: int, join: Callable[[], None] | None
) -> NoReturn:
    """The keeper: make or join the namespaces, fork the init, report, and end as the init ends."""
    status = EXIT_BROKEN
    try:
        _forget_the_parent(keep)
        libc.set_parent_death_signal(signal.SIGKILL)
        (join or _unshare)()
        libc.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(status)
        alive_read, alive_write = os.pipe()
        ready_read, ready_write = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, KEEPER_WAITS_FOR)
        init = os.fork()
        if init == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, KEEPER_WAITS_FOR)
            os.close(alive_write)
            os.close(ready_read)
            os.close(report)
            _be_init(main, alive_read, ready_write, _mount_private if join is None else None)
        os.close(ready_write)
        complaint = _read_all(ready_read)
        os.write(report, f"error {complaint}".encode() if complaint else f"init {init}".encode())
        os.close(report)
        gone = 0
        while not gone:  # a SIGCHLD may also say that the init was stopped
            told = signal.sigwait(KEEPER_WAITS_FOR)
            if told == signal.SIGUSR1:
                os._exit(0)
            if told == signal.SIGTERM:
                os.kill(init, signal.SIGKILL)
            gone, raw = os.waitpid(init, os.WNOHANG)
        status = os.waitstatus_to_exitcode(raw)
    except OSError as error:
        with suppress(OSError):
            os.write(report, f"error {error.strerror}".encode())
    finally:
        os._exit(status if status >= 0 else 128 - status)


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


def _unshare() -> None:
    (libc.unshare if libc.has_capability(CAP_SYS_ADMIN) else unshare_with_user)(NAMESPACES)


def unshare_with_user(others: int = 0) -> None:
    """Make a user namespace, and *others* with it, map the caller to himself, and have its capabilities.

    Raises:
        OSError: the kernel refuses. AppArmor may refuse the map rather than the namespace.
    """
    uid, gid = os.getuid(), os.getgid()
    libc.unshare(libc.CLONE_NEWUSER | others)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        Path("/proc/self", name).write_bytes(text.encode())
    libc.raise_ambient_capabilities()


def _be_init(main: Callable[[], int], alive: int, ready: int, mount: Callable[[], None] | None) -> NoReturn:
    """PID 1: its mounts, then *main*. An empty write to *ready* means it is set up, any text is the complaint."""
    status = EXIT_BROKEN
    try:
        die_with_parent(alive)
        try:
            if mount:
                mount()
        except OSError as error:
            os.write(ready, (error.strerror or str(error)).encode())
            os._exit(status)
        os.close(ready)
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
        traceback.print_exc()
        sys.stderr.flush()
    return EXIT_BROKEN


def _mount_private() -> None:
    libc.mount("none", "/", "", libc.MS_REC | libc.MS_SLAVE)
    _let_go_of_namespaces()
    careful = libc.MS_NOSUID | libc.MS_NODEV
    libc.mount("proc", "/proc", "proc", careful | libc.MS_NOEXEC)
    libc.mount("sysfs", "/sys", "sysfs", careful | libc.MS_NOEXEC)
    libc.mount("tmpfs", "/run", "tmpfs", careful, f"mode=0755,size={LAB_FILES_MAX}")
    os.mkdir("/run/netns", 0o755)


def _let_go_of_namespaces() -> None:
    """Unmount the copies of namespaces under /run, which /run's tmpfs would hide and keep.

    In a user namespace the kernel has locked them (MNT_LOCKED); there they go when their owner unmounts them.
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        lines = [line.split() for line in mounts]
    for words in lines:
        if words[4].startswith("/run/") and words[words.index("-") + 1] == "nsfs":
            with suppress(OSError):
                libc.detach(words[4])


def _why_not(complaint: str) -> str:
    """One message: what failed, which setting forbids it, and the way out."""
    lines = [f"cannot make the lab's namespaces: {complaint}"]
    lines += [
        f"  {one.name} = {one.forbidding}: {one.meaning}; to allow it: sudo sysctl -w {one.name}={one.allowing}"
        for one in switches.forbidding()
    ]
    if os.geteuid() != 0:
        lines.append(f"  or run it as root: sudo {sys.executable} -P -m netns_tw ...")
    elif len(lines) == 1:
        lines.append("  this looks like a container: it needs CAP_SYS_ADMIN and an unmasked /proc (--privileged)")
    return "\n".join(lines)
