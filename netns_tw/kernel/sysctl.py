"""Per-namespace sysctls under /proc/sys/net: written, then read back.

Inside a network namespace that is not the machine's first, /proc/sys/net shows only what belongs to the namespace
(net_ctl_header_lookup); a sysctl that is global is not there at all. So "absent" has three meanings, and the user is
told which: not per-namespace, not in this kernel, or misspelt.
"""

from __future__ import annotations

import errno
import os

from netns_tw.errors import Skip, UsageError, near_match
from netns_tw.kernel import netns
from netns_tw.rules import SYSCTL_KERNELS

VALUE_BYTES = 1 << 16
"""More than any value has; ip_local_reserved_ports is the longest."""


def path_of(name: str) -> str:
    """The file of sysctl *name*. Dots separate, as in sysctl(8); interface names with a dot are not supported."""
    return f"/proc/sys/{name.replace('.', '/')}"


def write(netns_name: str, name: str, value: str) -> str:
    """Write sysctl *name* in a namespace and return what the kernel then shows, blanks folded.

    Raises:
        Skip: this kernel lacks it; with the first or last kernel that has it, where known.
        UsageError: the kernel refuses the value (errno by name), or keeps another one.
    """
    with netns.enter(netns_name):
        return write_here(f"node {netns_name}", name, value)


def write_here(owner: str, name: str, value: str) -> str:
    """``write`` in the namespace that the caller is in, *owner*'s by the words of a message."""
    where = f"{owner}: {name}"
    if not os.path.isfile(path_of(name)):
        raise Skip(_why_missing(name))
    try:
        fd = os.open(path_of(name), os.O_RDWR)
        try:
            os.write(fd, value.encode())
            seen = _value(fd)
        finally:
            os.close(fd)
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, str(error.errno))
        hint = " (read-only in a namespace)" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else ""
        raise UsageError(f"{where} = {value!r}: refused by the kernel with {code}{hint}") from error
    if seen != _fold(value):
        raise UsageError(f"{where} = {value!r}: the kernel keeps {seen!r} instead")
    return seen


def read(netns_name: str, name: str) -> str | None:
    """Return sysctl *name* as seen in a namespace, blanks folded; None where this kernel lacks it."""
    with netns.enter(netns_name):
        try:
            fd = os.open(path_of(name), os.O_RDONLY)
        except OSError:
            return None
        try:
            return _value(fd)
        except OSError:
            return None
        finally:
            os.close(fd)


def _value(fd: int) -> str:
    return _fold(os.pread(fd, VALUE_BYTES, 0).decode("ascii"))


def _fold(value: str) -> str:
    return " ".join(value.split())


def _why_missing(name: str) -> str:
    kernel = os.uname().release
    if name in SYSCTL_KERNELS:
        return f"{name}: {SYSCTL_KERNELS[name]}; this is Linux {kernel}"
    beside = os.path.dirname(path_of(name))
    hint = near_match(name.rpartition(".")[2], os.listdir(beside)) if os.path.isdir(beside) else ""
    return f"{name}: not among the per-namespace sysctls of Linux {kernel}{hint}"
