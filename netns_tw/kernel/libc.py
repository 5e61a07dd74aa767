"""The few system calls that Python 3.11 does not wrap: unshare(2), setns(2), mount(2), prctl(2), capset(2).

Each function raises OSError with the kernel's errno, and says in the error which call it was.
"""

from __future__ import annotations

import ctypes
import os
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE = 4096, 16384, 1 << 18, 1 << 19
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """Move the caller into new namespaces, unshare(2)."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, kind: int) -> None:
    """Join the namespace behind *fd*, which must be of type *kind* (a CLONE_NEW* flag), setns(2)."""
    _check(_libc.setns(fd, kind), f"setns({fd}, {kind:#x})")


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    encoded = [text.encode() for text in (source, target, fstype)]
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), data.encode()), f"mount {fstype or source} on {target}")


def detach(target: str) -> None:
    """Take a mount away at once, for new users, and for old ones when they are done, umount2(MNT_DETACH)."""
    _check(_libc.umount2(target.encode(errors="surrogateescape"), MNT_DETACH), f"umount {target}")


def set_parent_death_signal(signum: int) -> None:
    """Have the kernel send *signum* to the caller when the thread that made it ends, prctl(PR_SET_PDEATHSIG).

    The kernel forgets it when the caller's credentials change, so it is set after the last such change.
    """
    _check(_libc.prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def set_child_subreaper(is_one: bool) -> None:
    """Have the caller adopt all orphans below it, or no longer, prctl(PR_SET_CHILD_SUBREAPER)."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, int(is_one), 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def is_child_subreaper() -> bool:
    """Whether the caller adopts all orphans below it, prctl(PR_GET_CHILD_SUBREAPER)."""
    found = ctypes.c_int()
    _check(_libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0), "prctl(PR_GET_CHILD_SUBREAPER)")
    return bool(found.value)


def set_dumpable() -> None:
    """Own one's files in /proc/self again after a change of user, prctl(PR_SET_DUMPABLE)."""
    _check(_libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def raise_ambient_capabilities() -> None:
    """Make every permitted capability inheritable and ambient, so that programs started by exec keep them.

    Without this a process of an ordinary user in its own user namespace loses all of them at its first execve(2),
    see capabilities(7), "Ambient capability set".
    """
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    _check(_libc.capget(header, data), "capget")
    low = list(struct.unpack("6I", data.raw))
    low[2], low[5] = low[1], low[4]
    _check(_libc.capset(header, struct.pack("6I", *low)), "capset")
    permitted = low[1] | low[4] << 32
    for capability in range(64):
        if permitted >> capability & 1:
            _check(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0), f"ambient {capability}")


def has_capability(number: int) -> bool:
    """Whether the caller's effective set holds capability *number*, as /proc/self/status tells."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return False
