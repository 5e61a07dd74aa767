"""doctor tells what is there and what is not, found out by taking it away for real: state, way out, exit code."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from conftest import ROOT, lab_processes
from test_rootless import NOBODY, opened

from netns_tw.commands import doctor as command
from netns_tw.doctor import programs
from netns_tw.doctor.need import Check
from netns_tw.errors import EnvironmentLacks
from netns_tw.kernel import attempt
from netns_tw.kernel.process import find_program
from netns_tw.model import labs
from netns_tw.wait import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="needs root to take things away")]

Needs = dict[str, dict[str, str]]
DOCTOR = (sys.executable, "-m", "netns_tw", "doctor")
NO_CAPABILITY = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
AS_NOBODY = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", *NO_CAPABILITY[1:])
CHROOT = 'd=$(mktemp -d); mount --rbind / $d; exec chroot $d sh -ec \'cd "$0"; exec "$@"\' "$PWD" "$@"'
"""The kernel makes no user namespace for a process in a chroot (create_user_ns): a refusal that no switch explains."""
APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"
APPARMOR_IS_ON = f"mount -t tmpfs none /proc/sys/kernel; echo 1 > /proc/sys/{APPARMOR.replace('.', '/')}"
"""A file in place of AppArmor's own; the refusal that it explains is a chroot's."""
UNTRIED = "not tried: there is no sandbox to try it in"
SUDO = f"sudo {sys.executable} -P -m netns_tw topology lb3ports; in a container: docker run --privileged IMAGE"

REFUSE = """
import ctypes, os, platform, struct, sys
# argv: which system call fails, with which errno, then the command; a seccomp filter (seccomp(2)) of BPF instructions
step = lambda code, jump_true, jump_false, value: struct.pack("HBBI", code, jump_true, jump_false, value)
load, equal, answer = (lambda at: step(0x20, 0, 0, at)), 0x15, 0x06
refuse, allow = step(answer, 0, 0, 0x50000 | int(sys.argv[2])), step(answer, 0, 0, 0x7FFF0000)
if sys.argv[1] == "pidfd_open":
    code = [load(0), step(equal, 0, 1, 434), refuse, allow]
else:  # socket(AF_NETLINK, ..., NETLINK_SOCK_DIAG)
    number = {"x86_64": 41, "aarch64": 198}[platform.machine()]
    code = [load(0), step(equal, 0, 5, number), load(16), step(equal, 0, 3, 16), load(32), step(equal, 0, 1, 4)]
    code += [refuse, allow]
text = ctypes.create_string_buffer(b"".join(code))
program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(text))
if ctypes.CDLL(None, use_errno=True).prctl(22, 2, program) != 0:  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    sys.exit(f"no seccomp: {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[3], sys.argv[3:])
"""
NO_PIDFD = (sys.executable, "-c", REFUSE, "pidfd_open", "38")
NO_SOCK_DIAG = (sys.executable, "-c", REFUSE, "socket", "93")


def mounts(*lines: str) -> tuple[str, ...]:
    """What runs a command after shell *lines* in a private mount namespace."""
    last = () if lines[-1].startswith("d=") else ('exec "$@"',)
    return ("unshare", "-m", "sh", "-ec", "; ".join([*lines, *last]), "sh")


def in_user_namespace(line: str) -> tuple[str, ...]:
    """What runs a command after a shell line in a user namespace with a root and limits of its own."""
    return ("unshare", "-U", "-r", "-m", "sh", "-ec", f'{line}; exec "$@"', "sh")


def examined(*before: str, **environ: str) -> tuple[int, Needs]:
    """Run doctor behind the command words *before*: its exit code and its needs by name."""
    done = subprocess.run(
        [*before, *DOCTOR, "--json"],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    whole = json.loads(done.stdout)
    assert whole["exit_code"] == done.returncode
    assert whole["main_job"] == "topology lb3ports"
    needs = {one["name"]: one for one in whole["needs"]}
    # the rule of the exit code, and that nobody is left without a way out
    assert done.returncode == (3 if any(one["state"] == "missing" for one in needs.values()) else 0)
    assert [
        name for name, one in needs.items() if one["state"] == "missing" and not (one["cannot"] and one["mend"])
    ] == []
    assert lab_processes() == {}
    return done.returncode, needs


def folder_of(package: str) -> Path:
    return next(path for entry in sys.path if (path := Path(entry, package)).is_dir())


def said(one: dict[str, str]) -> tuple[str, str]:
    return one["state"], one["mend"]


def states(needs: Needs, *names: str) -> list[str]:
    return [needs[name]["state"] for name in names]


NEEDED = ("namespaces", "sandbox", "veth", "sock_diag", "net.ipv4.ip_local_port_range", "Python packages")


def test_text_for_a_person_and_nothing_left_behind(runs_folder: Path) -> None:
    """A line a need in columns, within 100 columns, no colour in a pipe; pyroute2 is not imported by doctor itself.

    AppArmor's switch, where there is one, is in the line of the user namespaces.
    """
    kept = sorted(runs_folder.rglob("*"))
    argv = [*mounts(APPARMOR_IS_ON.replace("echo 1", "echo 0")), sys.executable, "-X", "importtime", *DOCTOR[1:]]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "netns_tw.doctor" in imported and "pyroute2" not in imported
    head, *lines = done.stdout.splitlines()
    assert [word.start() for word in re.finditer(r"\S+", head)] == [0, 33, 42]
    needs = [line for line in lines[:-2] if not line.startswith(" ")]
    assert [line for line in needs if not re.fullmatch(r".{32} (ok|limited|missing) +\S.*", line)] == []
    found = {line[:33].strip(): " ".join(line[42:].split()) for line in needs}
    assert set(NEEDED) < set(found)
    assert "\x1b" not in done.stdout and max(map(len, needs)) <= 100
    assert f"made as an ordinary user (nobody); {APPARMOR} = 0" in " ".join(done.stdout.split())
    assert lines[-1].endswith("the main job, topology lb3ports, can run here.")
    assert sorted(runs_folder.rglob("*")) == kept
    assert lab_processes() == {}


def test_an_ordinary_user_lacks_nothing() -> None:
    code, needs = examined(*mounts(opened() or ":"), *AS_NOBODY, NETNS_TW_RUNS=tempfile.gettempdir())
    assert code == 0
    assert states(needs, "user namespaces", *NEEDED, "pidfd", "SOCK_DESTROY", "records") == ["ok"] * 10
    assert needs["user namespaces"]["found"].startswith("made by this user")
    assert needs["namespaces"]["found"].endswith("with a user namespace")
    assert said(needs["net.ipv4.tcp_tw_recycle"]) == ("limited", "nothing does: only kernels before Linux 4.12 have it")
    assert needs["net.ipv4.tcp_tw_recycle"]["cannot"] == "direct/recycle-is-gone"
    assert "removed in Linux 4.12" in needs["net.ipv4.tcp_tw_recycle"]["found"]


def test_what_the_main_job_can_do_without_is_limited(tmp_path: Path) -> None:
    """No nginx, curl, pygal, pidfd, nor a place for records, and AppArmor's switch on: root runs the main job.

    Each line says what does not run.
    """
    hidden = [f"mount --bind /dev/null {path}" for name in ("nginx", "curl") if (path := find_program(name))]
    (tmp_path / "runs").touch()
    code, needs = examined(
        *mounts(*hidden, f"mount -t tmpfs none {folder_of('pygal')}", APPARMOR_IS_ON, CHROOT),
        *NO_PIDFD,
        NETNS_TW_RUNS=str(tmp_path / "runs"),
    )
    assert code == 0
    assert states(needs, *NEEDED[:-1]) == ["ok"] * 5
    assert said(needs["user namespaces"]) == ("limited", f"sudo sysctl -w {APPARMOR}=0")
    assert needs["user namespaces"]["cannot"].startswith("any lab of a user who is not root")
    assert said(needs["nginx"]) == ("limited", "sudo apt-get install nginx-light")
    assert needs["nginx"]["cannot"] == "--server nginx; the built-in programs run instead"
    assert said(needs["curl"]) == ("limited", "sudo apt-get install curl, or use --client h11")
    assert needs["Python packages"]["state"] == "limited"
    assert re.fullmatch(rf"{re.escape(sys.executable)} -m pip install '?pygal[^ ]*", needs["Python packages"]["mend"])
    assert needs["Python packages"]["cannot"] == "--html"
    assert said(needs["pidfd"]) == ("limited", "boot Linux 5.3 or newer")
    assert "ENOSYS" in needs["pidfd"]["found"] and needs["pidfd"]["cannot"].startswith("down")
    assert said(needs["records"]) == ("limited", "export NETNS_TW_RUNS=$(mktemp -d)")


def test_no_user_namespaces_and_no_capability() -> None:
    """user.max_user_namespaces is per user namespace, so a test may set it to 0 in one of its own."""
    code, needs = examined(*in_user_namespace("echo 0 > /proc/sys/user/max_user_namespaces"), *NO_CAPABILITY)
    assert code == 3
    for name in ("user namespaces", "namespaces", "sandbox"):
        assert said(needs[name]) == ("missing", "sudo sysctl -w user.max_user_namespaces=10000")
        assert needs[name]["cannot"] == "any lab: topology, replay, up"
        assert "user.max_user_namespaces = 0: no user namespaces may be made" in needs[name]["found"]
    for name in ("veth", "sock_diag", "net.ipv4.tcp_tw_reuse", "SOCK_DESTROY"):
        assert (needs[name]["state"], needs[name]["found"]) == ("limited", UNTRIED)
    assert states(needs, "pidfd", "ss", "records") == ["ok"] * 3


def test_no_network_namespaces() -> None:
    """Of several kinds the one that is refused is named, with its switch."""
    code, needs = examined(*in_user_namespace("echo 0 > /proc/sys/user/max_net_namespaces"))
    assert code == 3
    assert said(needs["namespaces"]) == ("missing", "sudo sysctl -w user.max_net_namespaces=10000")
    assert needs["namespaces"]["found"].endswith("so the answer is: network: No space left on device (ENOSPC)")
    assert said(needs["sandbox"]) == said(needs["namespaces"])
    assert needs["user namespaces"]["state"] == "ok"


def test_a_container_with_covered_proc() -> None:
    """Every kind of namespace can be made, but none with a /proc of its own."""
    code, needs = examined(*mounts(opened() or ":", "mount -t tmpfs none /proc/irq"), *AS_NOBODY)
    assert code == 3
    assert states(needs, "user namespaces", "namespaces", "veth") == ["ok", "ok", "limited"]
    assert said(needs["sandbox"]) == ("missing", SUDO)
    assert "parts of /proc are covered here, /proc/irq, as in a container" in needs["sandbox"]["found"]


def test_a_container_without_capabilities() -> None:
    """root in name only, and no user namespace either."""
    code, needs = examined(*mounts(CHROOT), *NO_CAPABILITY)
    assert code == 3
    assert said(needs["namespaces"]) == (
        "missing",
        "docker run --privileged IMAGE (if this is a container; it has too few rights)",
    )
    assert needs["namespaces"]["found"] == "mount, PID, network: Operation not permitted (EPERM)"


def test_a_container_without_cap_net_admin_and_sock_diag() -> None:
    """The sandbox is made, but no link in it; and no socket of a kernel without sock_diag is seen."""
    code, needs = examined("setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin", *NO_SOCK_DIAG)
    assert code == 3
    assert states(needs, "namespaces", "sandbox", "net.ipv4.tcp_tw_reuse") == ["ok"] * 3
    assert needs["veth"]["state"] == "missing" and "a lab needs CAP_NET_ADMIN" in needs["veth"]["found"]
    assert needs["veth"]["mend"].startswith("docker run --privileged IMAGE")
    assert said(needs["sock_diag"]) == ("missing", "sudo modprobe -a inet_diag tcp_diag")
    assert "EPROTONOSUPPORT" in needs["sock_diag"]["found"]
    assert needs["SOCK_DESTROY"]["state"] == "limited"


def test_apparmors_switch() -> None:
    """Ubuntu 24.04: an ordinary user can run no lab; the switch is named, and the line that turns it."""
    code, needs = examined(*mounts(opened() or ":", APPARMOR_IS_ON, CHROOT), *AS_NOBODY)
    assert code == 3
    assert states(needs, "namespaces", "sandbox") == ["missing", "missing"]
    one = needs["user namespaces"]
    assert said(one) == ("missing", f"sudo sysctl -w {APPARMOR}=0")
    assert one["cannot"] == "any lab: topology, replay, up"
    assert f"{APPARMOR} = 1: AppArmor forbids user namespaces to ordinary programs" in one["found"]


def test_a_sysctl_of_the_main_lab_and_a_package_missing(tmp_path: Path) -> None:
    """The main lab with a sysctl that this kernel lacks; pyroute2 not installed, which only --links needs."""
    shipped = labs.shipped_folder()
    shutil.copytree(shipped, tmp_path / "labs")
    topology = tmp_path / "labs" / "lb3ports" / "topology.toml"
    text = topology.read_text(encoding="utf-8")
    topology.write_text(text.replace("[nodes.lb.sysctls]\n", "[nodes.lb.sysctls]\nnet.ipv4.tcp_tw_recycle = 1\n"))
    code, needs = examined(
        *mounts(f"mount --bind {tmp_path}/labs {shipped}", f"mount -t tmpfs none {folder_of('pyroute2')}")
    )
    assert code == 3
    assert needs["net.ipv4.tcp_tw_recycle"]["state"] == "missing"
    assert needs["net.ipv4.tcp_tw_recycle"]["cannot"] == "direct/recycle-is-gone, lb3ports"
    assert said(needs["Python packages"])[0] == "limited"
    assert needs["Python packages"]["cannot"] == "--links pyroute2"
    assert f"{sys.executable} -m pip install 'pyroute2" in needs["Python packages"]["mend"]
    assert needs["Python packages"]["found"] == "pyroute2: not installed"
    assert needs["veth"]["state"] == "ok"


def test_packages_are_those_of_the_installation() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = config["options"]["install_requires"].split()
    assert {re.split(r"[<>=]", one)[0] for one in wanted} == set(programs.PACKAGES)


def crash() -> str:
    raise ValueError("a bug\nof two lines")


def die() -> NoReturn:
    os._exit(1)


def hang() -> str:
    signal.pause()
    return ""


@pytest.mark.parametrize(
    ("act", "found"),
    [
        (crash, "the check itself failed: ValueError: a bug"),
        (die, "the check ended without an answer"),
        (hang, "no answer within 0.2 s"),
        (lambda: attempt.in_sandbox(crash), "the check itself failed: ValueError: a bug"),
        (lambda: attempt.in_sandbox(die), "the check ended without an answer"),
        (lambda: attempt.in_sandbox(hang), "no answer within 0.2 s"),
    ],
)
def test_a_check_that_crashes_or_hangs_is_a_line(
    act: Callable[[], Any], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a need that a lab has it is "missing", and what the check had made is gone."""
    monkeypatch.setattr(attempt, "DEADLINE_S", 0.2)
    one = Check("it", act, "labs", lambda _: "mend it", is_needed=True).carry_out()
    assert (one.state, one.found, one.cannot, one.mend) == ("missing", found, "labs", "mend it")
    wait_until(lambda: not lab_processes(), "the sandbox is gone", 5)


def stuck_nginx(folder: Path) -> Path:
    """A program nginx that never answers, a wrapper that waits for its child; it makes the file that is returned."""
    (folder / "nginx").write_text(f"#!/bin/sh\nsleep 1000 & touch {folder}/stuck; wait\n")
    (folder / "nginx").chmod(0o755)
    return folder / "stuck"


def test_a_program_that_hangs_is_ended_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a line after the deadline, and both processes are gone."""
    is_stuck = stuck_nginx(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(attempt, "DEADLINE_S", 0.6)
    one = next(programs.checks([])).carry_out()
    assert (one.name, one.state, one.found) == ("nginx", "limited", "no answer within 0.6 s")
    assert is_stuck.exists()
    wait_until(lambda: not lab_processes(), "all is gone", 5)


def test_a_killed_doctor_leaves_nothing(tmp_path: Path) -> None:
    """Even in the middle of a check: what it had started is gone."""
    is_stuck = stuck_nginx(tmp_path)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        DOCTOR, cwd=ROOT, env={**os.environ, "PATH": path}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        wait_until(is_stuck.exists, "doctor asks nginx", 30)
        assert len(lab_processes()) >= 3
        process.kill()
    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: not lab_processes(), "all is gone", 5)


def test_an_answer_comes_back_whole() -> None:
    """More than a pipe holds, and at once: the child is not waited for longer than it works."""
    began = time.monotonic()
    assert attempt.attempt(lambda: "x" * 1_000_000) == "x" * 1_000_000
    assert time.monotonic() - began < attempt.DEADLINE_S
    with pytest.raises(EnvironmentLacks, match=r"^No such file or directory \(ENOENT\)$"):
        attempt.attempt(lambda: os.stat("/nowhere"))


@pytest.mark.parametrize(("width", "is_coloured"), [(100, False), (60, True)])
def test_a_line_fits_and_its_command_is_whole(width: int, is_coloured: bool) -> None:
    """Long text is wrapped under its column; a command is never broken; control characters are shown."""
    from netns_tw.doctor.need import Need

    mend = "sudo sysctl -w " + "x" * 100
    text = command._text(Need("a need", "limited", "a \x1b[2Jword " * 30, "labs " * 30, mend), width, is_coloured)
    assert "\x1b[2J" not in text and (("\x1b[33m" in text) == is_coloured)
    lines = re.sub(r"\x1b\[\d+m", "", text).splitlines()
    assert lines[-1] == f"    to mend:     {mend}"
    assert [line for line in lines[:-1] if len(line) > width] == []
    assert lines[0].startswith("a need" + " " * 27 + "limited  a ") and lines[1].startswith(" " * 42)
