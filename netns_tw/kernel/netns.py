"""Named network namespaces: make one, enter one. The only module that imports ``nsenter``.

A namespace is kept alive by a bind mount of its /proc/thread-self/ns/net on /run/netns/NAME, as ip-netns(8) does;
/run is private to the sandbox. Enter one from the main thread only, to open a socket or a file or to start a process:
these keep the namespace they were made in, so no caller has to stay inside.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nsenter import Namespace

from netns_tw.kernel import libc

RUN_NETNS = Path("/run/netns")
THREAD_NETNS = "/proc/thread-self/ns/net"
SO_NETNS_COOKIE = 71
"""include/uapi/asm-generic/socket.h."""
_OUR_MODE = 0o400
"""Of a published name's file; ip-netns(8) makes its own with 0."""


class _ThreadNamespace(Namespace):  # type: ignore[misc]
    """nsenter 0.2 comes back to /proc/self/ns/net, the *main* thread's namespace; this one to the thread's own."""

    def _nsfd(self, pid: object, ns_type: str) -> Path:
        return Path("/proc", "thread-self" if pid == "self" else str(pid), "ns", ns_type)


_inside = ""
"""The name of the namespace that the main thread has entered."""


@contextmanager
def enter(name: str) -> Iterator[None]:
    """Be inside namespace *name* for the length of the block; where that is so already, nothing is done.

    Main thread only; never yield or await in it.

    Raises:
        FileNotFoundError: there is no such namespace.
    """
    global _inside
    _check_thread()
    if name == _inside:
        yield
        return
    with _ThreadNamespace(str(RUN_NETNS / name), "net"):
        before, _inside = _inside, name
        try:
            yield
        finally:
            _inside = before


def _check_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("namespaces are entered from the main thread only")


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
    global _inside
    _check_thread()
    handle = f"{RUN_NETNS}/{name}"
    os.close(os.open(handle, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    home = os.open(THREAD_NETNS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            libc.unshare(libc.CLONE_NEWNET)
        except BaseException:
            os.unlink(handle)
            raise
        before, _inside = _inside, name
        try:
            _mount(handle)
            yield
        finally:
            _inside = before
            libc.setns(home, libc.CLONE_NEWNET)
    finally:
        os.close(home)


def _mount(handle: str) -> None:
    try:
        libc.mount(THREAD_NETNS, handle, "", libc.MS_BIND)
    except BaseException:
        os.unlink(handle)
        raise


def open_fd(name: str) -> int:
    """Return a new file descriptor of namespace *name*, for netlink attributes such as IFLA_NET_NS_FD."""
    return os.open(RUN_NETNS / name, os.O_RDONLY | os.O_CLOEXEC)


@dataclass(frozen=True)
class Published:
    """A namespace of a lab that was given a name outside of it: the file, and what proves the namespace."""

    path: str
    inode: int
    """Its number, which another may have when it is gone."""
    cookie: int = 0
    """Its SO_NETNS_COOKIE, which no other ever has until the machine is switched off; 0 before Linux 5.14."""


def publish(fd: int, name: str, announce: Callable[[Published], None]) -> None:
    """Give the namespace behind *fd* the name /run/netns/*name*, as `ip netns attach` does; root only.

    *announce* is called before anything is made, so that whatever happens later, what is ours is known.

    Raises:
        FileExistsError: the name is taken.
        OSError: the kernel refuses.
    """
    path = RUN_NETNS / name
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    announce(Published(str(path), os.fstat(fd).st_ino, _cookie(fd)))
    RUN_NETNS.mkdir(mode=0o755, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OUR_MODE))
    try:
        libc.mount(f"/proc/self/fd/{fd}", str(path), "", libc.MS_BIND)
    except BaseException:
        path.unlink()
        raise


def unpublish(one: Published) -> None:
    """Take back a name that ``publish`` gave; what is somebody else's by now stays. Harmless when it is gone.

    Raises:
        OSError: the kernel refuses.
    """
    path = Path(one.path)
    if not path.exists():
        return
    found = path.stat()
    is_mounted = _is_namespace(path) and _is_the_one(path, one)
    # never mounted, or no more
    is_bare = (found.st_uid, found.st_size, stat.S_IMODE(found.st_mode)) == (0, 0, _OUR_MODE)
    if is_mounted or is_bare:
        _remove_everywhere(path)


def _is_the_one(path: Path, one: Published) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return (os.fstat(fd).st_ino, _cookie(fd)) == (one.inode, one.cookie)
    finally:
        os.close(fd)


def _cookie(fd: int) -> int:
    """The cookie of the namespace behind *fd* (sock_net(sk)->net_cookie, net/core/sock.c)."""
    home = os.open(THREAD_NETNS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.setns(fd, libc.CLONE_NEWNET)
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                (found,) = struct.unpack("=Q", one.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))
                return int(found)
        except OSError:  # ENOPROTOOPT
            return 0
        finally:
            libc.setns(home, libc.CLONE_NEWNET)
    finally:
        os.close(home)


def _remove_everywhere(path: Path) -> None:
    """Unlink a file together with all mounts on it, in whatever mount namespace.

    A name may be mounted more than once: the first `ip netns add` of a machine binds /run/netns over itself
    (create_netns_dir, ip/ipnetns.c) and hides a copy below, and each mount namespace made since has copies. The kernel
    takes them all away when the file is unlinked from a mount namespace in which nothing is mounted on it
    (detach_mounts, fs/namespace.c); so that is where a child of ours goes to.

    Raises:
        OSError: the kernel refuses.
    """
    child = os.fork()
    if child == 0:
        code = errno.EIO
        try:
            libc.unshare(libc.CLONE_NEWNS)
            libc.mount("none", "/", "", libc.MS_REC | libc.MS_PRIVATE)
            _unmount(path)
            if not _unlinked(path):
                _unmount(RUN_NETNS)
                _unmount(path)
                os.unlink(path)
            code = 0
        except OSError as error:
            code = error.errno or code
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, f"{path}: {os.strerror(code)}")


def _unmount(path: Path) -> None:
    """Take every mount on *path* away."""
    with suppress(OSError):  # EINVAL: nothing is mounted there any more
        while True:
            libc.detach(str(path))


def _unlinked(path: Path) -> bool:
    try:
        os.unlink(path)
    except OSError:  # EBUSY: a mount that is hidden
        return False
    return True


def _is_namespace(path: Path) -> bool:
    """Whether a namespace is mounted there: they all live on one file system of the kernel's own."""
    return path.stat().st_dev == os.stat(THREAD_NETNS).st_dev
