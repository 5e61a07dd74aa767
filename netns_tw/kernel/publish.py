"""Names outside of a lab for the namespaces in it, so that ip-netns(8) finds them; root only.

A name is a file under /run/netns with the namespace mounted on it. Others make and remove such names too, so ours are
known by the namespace's cookie, and taken back only where that is still the one.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from netns_tw.kernel import libc
from netns_tw.kernel.netns import RUN_NETNS, THREAD_NETNS, there_and_back

SO_NETNS_COOKIE = 71
"""include/uapi/asm-generic/socket.h."""
_OUR_MODE = 0o400
"""Of a published name's file; ip-netns(8) makes its own with 0."""


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
    path = Path(RUN_NETNS, name)
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    announce(Published(str(path), os.fstat(fd).st_ino, _cookie(fd)))
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
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
    with there_and_back(partial(libc.setns, fd, libc.CLONE_NEWNET)):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                (found,) = struct.unpack("=Q", one.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))
                return int(found)
        except OSError:  # ENOPROTOOPT
            return 0


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
                _unmount(path.parent)
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
