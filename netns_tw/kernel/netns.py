"""Named network namespaces: make one, enter one.

A namespace is kept alive by a bind mount of its /proc/thread-self/ns/net on /run/netns/NAME, as ip-netns(8) does;
/run is private to the sandbox. Enter one from the main thread only, to open a socket or a file or to start a process:
these keep the namespace they were made in, so no caller has to stay inside.

To enter is one setns(2) there and one back, written here because the ``nsenter`` package takes as long to load as a lab
takes to build, and 20 times as long to enter; kernel/reference.py enters by it.
"""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from netns_tw.kernel import libc

RUN_NETNS = "/run/netns"
THREAD_NETNS = "/proc/thread-self/ns/net"
"""A thread may be in another namespace than its process's first one, which /proc/self/ns/net is."""

_inside = ""
"""The name of the namespace that the main thread has entered."""


@contextmanager
def enter(name: str) -> Iterator[None]:
    """Be inside namespace *name* for the length of the block; where that is so already, nothing is done.

    Main thread only; never yield or await in it.

    Raises:
        FileNotFoundError: there is no such namespace.
    """
    check_thread()
    if name == _inside:
        yield
        return
    with there_and_back(partial(_join, name), name):
        yield


def check_thread() -> None:
    """Raise RuntimeError in any thread but the main one, whose id is the process's."""
    if _thread.get_native_id() != os.getpid():
        raise RuntimeError("namespaces are entered from the main thread only")


def _join(name: str) -> None:
    fd = open_fd(name)
    try:
        libc.setns(fd, libc.CLONE_NEWNET)
    finally:
        os.close(fd)


@contextmanager
def there_and_back(go: Callable[[], None], name: str = "") -> Iterator[None]:
    """Be in the namespace that *go* leads to, called *name* if it has one, and come home whatever happens.

    Raises:
        OSError: the kernel refuses.
    """
    global _inside
    home = os.open(THREAD_NETNS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        go()
        before, _inside = _inside, name
        try:
            yield
        finally:
            _inside = before
            libc.setns(home, libc.CLONE_NEWNET)
    finally:
        os.close(home)


def add(name: str) -> None:
    """Make the network namespace /run/netns/*name*, born with the kernel's default sysctls.

    Raises:
        FileExistsError: the name is taken.
        OSError: the kernel made no namespace (ENOSPC: user.max_net_namespaces is reached).
    """
    with new(name):
        pass


@contextmanager
def new(name: str) -> Iterator[None]:
    """``add`` a namespace and be inside it for the length of the block, as with ``enter``: who makes it is in it.

    Raises:
        FileExistsError, OSError: as ``add``.
    """
    check_thread()
    handle = f"{RUN_NETNS}/{name}"
    os.close(os.open(handle, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    with there_and_back(partial(_or_unlink, handle, libc.unshare, libc.CLONE_NEWNET), name):
        _or_unlink(handle, libc.mount, THREAD_NETNS, handle, "", libc.MS_BIND)
        yield


def _or_unlink(handle: str, act: Callable[..., None], *arguments: object) -> None:
    """Carry out *act*; where it fails, what keeps the name goes."""
    try:
        act(*arguments)
    except BaseException:
        os.unlink(handle)
        raise


def open_fd(name: str) -> int:
    """Return a new file descriptor of namespace *name*, for netlink attributes such as IFLA_NET_NS_FD."""
    return os.open(f"{RUN_NETNS}/{name}", os.O_RDONLY | os.O_CLOEXEC)
