"""An ordinary user replays too, by a user namespace; where that is forbidden, one message names the setting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")]

NOBODY = 65534


def is_open_to_all(folder: Path) -> bool:
    return bool(folder.stat().st_mode & 0o001)


def closed_folders() -> dict[Path, set[str]]:
    """Folders on the way to the interpreter and to the checkout that nobody may enter, and what is needed in each."""
    found: dict[Path, set[str]] = {}
    for path in {ROOT, Path(sys.executable), Path(sys.executable).resolve(), Path(sys.prefix)}:
        parts = path.parts
        for depth in range(2, len(parts)):
            folder = Path(*parts[:depth])
            if not is_open_to_all(folder):
                found.setdefault(folder, set()).add(parts[depth])
                break
    return found


def opened() -> str:
    """Shell lines that, in a private mount namespace, put a passable folder before each closed one."""
    lines = []
    for folder, names in closed_folders().items():
        lines.append(f"saved=$(mktemp -d); mount --bind {folder} $saved; mount -t tmpfs -o mode=755 none {folder}")
        lines += [f"mkdir {folder}/{name}; mount --bind $saved/{name} {folder}/{name}" for name in sorted(names)]
        lines.append("umount $saved; rmdir $saved")
    return "; ".join(lines)


def as_nobody(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run netns_tw as user nobody, without any capability."""
    drop = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --inh-caps=-all --bounding-set=-all"
    script = f'{opened() or ":"}; {before or ":"}; exec {drop} "$@"'
    argv = ["unshare", "-m", "sh", "-ec", script, "sh", sys.executable, "-m", "netns_tw", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)


def test_an_ordinary_user_replays_with_real_nginx() -> None:
    done = as_nobody("topology", "lb3ports", "--only", "keepalive-requests-is-a-budget", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    (one,) = json.loads(done.stdout)["experiments"]
    assert one["steps"][0]["seen"] == "200 x 200, 300 x 502"
    assert one["programs"]["lb"].startswith("nginx")


def test_where_user_namespaces_are_forbidden_the_setting_and_the_way_out_are_named() -> None:
    """user.max_user_namespaces is per user namespace, so a test may set it to 0 in one of its own."""
    argv = ["unshare", "-U", "-r", "-m", "sh", "-ec"]
    script = 'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --inh-caps=-all --bounding-set=-sys_admin "$@"'
    command = [sys.executable, "-m", "netns_tw", "topology", "lb3ports"]
    done = subprocess.run(
        [*argv, script, "sh", *command], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    assert done.returncode == 3
    assert "user.max_user_namespaces = 0" in done.stderr
    assert "sudo sysctl -w user.max_user_namespaces=10000" in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
