"""Namespaces: each kind, the user namespace of an ordinary user, and the sandbox that is made of them.

A refusal is the kernel's, AppArmor's or seccomp's; the sysctls that forbid (kernel/switches.py) are read to name it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from netns_tw.doctor.need import EVERY_LAB, Check, more_rights
from netns_tw.errors import EnvironmentLacks
from netns_tw.kernel import libc, private, probe, sandbox, switches
from netns_tw.kernel.attempt import attempt

KINDS = (("mount", libc.CLONE_NEWNS), ("PID", libc.CLONE_NEWPID), ("network", libc.CLONE_NEWNET))


def checks() -> Iterator[Check]:
    """User namespaces, the other kinds, the sandbox."""
    power = probe.has_power()
    others = "any lab of a user who is not root; this call makes its namespaces as root"
    yield Check(
        "user namespaces",
        _make_user_namespace,
        others if power else EVERY_LAB,
        lambda _: _mend_by_switch(is_for_users=True),
        not power,
        lambda: _said_by_switches(is_for_users=True),
    )
    yield Check("namespaces", _make_namespaces, EVERY_LAB, lambda _: _mend_by_switch(), True, _said_by_switches)
    yield Check("sandbox", _make_sandbox, EVERY_LAB, lambda _: _mend_by_switch(), True, _said_of_a_sandbox)


def _make_user_namespace() -> str:
    """As an ordinary user: root's own are never refused, and prove nothing for others."""
    who = "by this user"
    if probe.has_power():
        with suppress(OSError):  # in a user namespace that has no such user
            probe.become_nobody()
            who = "as an ordinary user (nobody)"
    private.unshare_with_user()
    name, value = switches.APPARMOR.name, switches.APPARMOR.value
    return f"made {who}; " + ("this kernel has no AppArmor switch" if value is None else f"{name} = {value}")


def _make_namespaces() -> str:
    refused: dict[str, list[str]] = {}
    for name, kind in KINDS:
        try:
            attempt(partial(probe.make_namespace, kind))
        except EnvironmentLacks as error:
            refused.setdefault(re.sub(r"^unshare\(.*?\): ", "", str(error)), []).append(name)
    if refused:
        raise EnvironmentLacks("; ".join(f"{', '.join(names)}: {why}" for why, names in refused.items()))
    return "mount, PID and network namespace made, " + ("as root" if probe.has_power() else "with a user namespace")


def _make_sandbox() -> str:
    try:
        sandbox.start(lambda: 0).wait()
    except EnvironmentLacks as error:
        raise EnvironmentLacks(str(error).split("\n")[0].removeprefix("cannot make the lab's namespaces: ")) from error
    return "a process with all of them, and with /proc, /sys and /run of its own"


def _switches(is_for_users: bool) -> Iterator[switches.Switch]:
    """The switches that forbid namespaces here. *is_for_users*: user namespaces only."""
    power = probe.has_power()
    for one in switches.forbidding():
        is_of_users = "userns" in one.name or "user_namespaces" in one.name
        # who has the power needs no user namespace for the others
        if is_of_users is is_for_users or (is_of_users and not power):
            yield one


def _said_by_switches(is_for_users: bool = False) -> str:
    return "; ".join(f"{one.name} = {one.forbidding}: {one.meaning}" for one in _switches(is_for_users))


def _said_of_a_sandbox() -> str:
    """The switches; and what is mounted over parts of /proc, as containers do.

    Then no user namespace may have a /proc of its own, in which those parts would show (mount_too_revealing,
    fs/namespace.c). The folder of binfmt_misc is always empty, so it hides nothing.
    """
    covered = []
    if not probe.has_power():
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        points = [line.split()[4] for line in lines]
        covered = [one for one in points if one.startswith("/proc/") and one != "/proc/sys/fs/binfmt_misc"]
    more = f" and {len(covered) - 1} more" if len(covered) > 1 else ""
    said = f"parts of /proc are covered here, {covered[0]}{more}, as in a container" if covered else ""
    return "; ".join(filter(None, (_said_by_switches(), said)))


def _mend_by_switch(is_for_users: bool = False) -> str:
    mended = [f"{one.name}={one.allowing}" for one in _switches(is_for_users)]
    return f"sudo sysctl -w {' '.join(mended)}" if mended else more_rights()
