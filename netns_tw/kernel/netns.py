"""Named network namespaces: make one, enter one. The only module that imports ``nsenter``.

A namespace is kept alive by a bind mount of its /proc/thread-self/ns/net on /run/netns/NAME, as ip-netns(8) does;
/run is private to the sandbox. Enter one from the main thread only, to open a socket or a file or to start a process:
these keep the namespace they were made in, so no caller has to stay inside.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nsenter import Namespace

from netns_tw.kernel import libc

RUN_NETNS = Path("/run/netns")
THREAD_NETNS = "/proc/thread-self/ns/net"


class _ThreadNamespace(Namespace):  # type: ignore[misc]
    """nsenter 0.2 comes back to /proc/self/ns/net, the *main* thread's namespace; this one to the thread's own."""

    def _nsfd(self, pid: object, ns_type: str) -> Path:
        return Path("/proc", "thread-self" if pid == "self" else str(pid), "ns", ns_type)


def add(name: str) -> None:
    """Make the network namespace /run/netns/*name*, born with the kernel's default sysctls.

    Raises:
        FileExistsError: the name is taken.
        OSError: the kernel made no namespace (ENOSPC: user.max_net_namespaces is reached).
    """
    handle = RUN_NETNS / name
    handle.touch(exist_ok=False)
    home = os.open(THREAD_NETNS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.unshare(libc.CLONE_NEWNET)
        try:
            libc.mount(THREAD_NETNS, str(handle), "", libc.MS_BIND)
        finally:
            libc.setns(home, libc.CLONE_NEWNET)
    except BaseException:
        handle.unlink()
        raise
    finally:
        os.close(home)


@contextmanager
def enter(name: str) -> Iterator[None]:
    """Be inside namespace *name* for the length of the block. Main thread only; never yield or await in it.

    Raises:
        FileNotFoundError: there is no such namespace.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("namespaces are entered from the main thread only")
    with _ThreadNamespace(str(RUN_NETNS / name), "net"):
        yield


def open_fd(name: str) -> int:
    """Return a new file descriptor of namespace *name*, for netlink attributes such as IFLA_NET_NS_FD."""
    return os.open(RUN_NETNS / name, os.O_RDONLY | os.O_CLOEXEC)
