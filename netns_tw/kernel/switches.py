"""Sysctls of the machine that forbid namespaces. They are read only to explain a refusal, never to foretell one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Switch(NamedTuple):
    """A sysctl of the machine that forbids namespaces: at which value, which one allows them, and what it means."""

    name: str
    forbidding: str
    allowing: str
    meaning: str

    @property
    def value(self) -> str | None:
        """What it is now; None where this kernel has no such switch."""
        try:
            # bytes: nobody may be barred from Python's own folders, and so from a codec not yet imported
            return Path("/proc/sys", *self.name.split(".")).read_bytes().decode().strip()
        except OSError:
            return None


APPARMOR = Switch(
    "kernel.apparmor_restrict_unprivileged_userns", "1", "0", "AppArmor forbids user namespaces to ordinary programs"
)
SWITCHES = (
    APPARMOR,
    Switch("kernel.unprivileged_userns_clone", "0", "1", "this kernel forbids user namespaces to ordinary users"),
    Switch("user.max_user_namespaces", "0", "10000", "no user namespaces may be made"),
    Switch("user.max_net_namespaces", "0", "10000", "no network namespaces may be made"),
    Switch("user.max_pid_namespaces", "0", "10000", "no PID namespaces may be made"),
    Switch("user.max_mnt_namespaces", "0", "10000", "no mount namespaces may be made"),
)


def forbidding() -> list[Switch]:
    """The switches that forbid namespaces here and now."""
    return [one for one in SWITCHES if one.value == one.forbidding]
