"""What a sandbox has of its own: the namespaces, and the mounts in them.

An ordinary user gets a user namespace too, mapped to himself with ambient capabilities; a user mapped to root would
make nginx call chown(2) and setgroups(2), and fail.

The mount namespace is a copy of the caller's, and a copy of somebody's /run/netns/NAME would keep that namespace alive
after `ip netns del`. So mounts that go in the caller's namespace go here too (MS_SLAVE), and root lets go of the
namespaces under /run at once.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from netns_tw.kernel import libc

CAP_SYS_ADMIN = 21
NAMESPACES = libc.CLONE_NEWNS | libc.CLONE_NEWPID | libc.CLONE_NEWNET
LAB_FILES_MAX = "512m"
"""What a lab's logs and files may take of the machine's memory."""


def unshare() -> None:
    """Make the namespaces of a sandbox; its caller's next child is PID 1.

    Raises:
        OSError: the kernel refuses; see ``why_not``.
    """
    (libc.unshare if libc.has_capability(CAP_SYS_ADMIN) else unshare_with_user)(NAMESPACES)


def unshare_with_user(others: int = 0) -> None:
    """Make a user namespace, and *others* with it, map the caller to himself, and have its capabilities.

    Raises:
        OSError: the kernel refuses. AppArmor may refuse the map rather than the namespace.
    """
    uid, gid = os.getuid(), os.getgid()
    libc.unshare(libc.CLONE_NEWUSER | others)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "wb", 0) as file:
            file.write(text.encode())
    libc.raise_ambient_capabilities()


def mount() -> None:
    """In PID 1: give /proc, /sys and /run mounts of this sandbox's own.

    Raises:
        OSError: the kernel refuses.
    """
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


def why_not(complaint: str) -> str:
    """One message: what failed, which setting forbids it, and the way out."""
    from netns_tw.kernel import switches

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
