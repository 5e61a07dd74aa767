"""Labs that stay, of an ordinary user: every command works, and nobody meets another's labs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, lab_processes, netns_tw
from standing import COMMAND, labs_in, left, read_until, refused, running, up
from test_rootless import NOBODY, opened

pytestmark = pytest.mark.netns

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
REUSE = "net.ipv4.tcp_tw_reuse"


@pytest.fixture(autouse=True)
def labs(tmp_path: Path) -> Iterator[Path]:
    """A roster of the test's own; what it brings up is taken down."""
    with labs_in(tmp_path) as folder:
        yield folder


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of an ordinary user's, who has no other place named for his labs."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, NOBODY, NOBODY)
        monkeypatch.delenv("NETNS_TW_LABS")
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        yield Path(name)
        for folder in Path(name).glob("netns_tw*"):
            if left(folder):  # a test has failed
                monkeypatch.setenv("NETNS_TW_LABS", str(folder))
                as_nobody("down", "--all")
        monkeypatch.undo()


def argv_of_nobody(*arguments: str, tmp: Path | None = None) -> list[str]:
    """The argv of a command of user nobody, without any capability; *tmp* stands in for /tmp."""
    drop = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --inh-caps=-all --bounding-set=-all"
    script = f'{opened() or ":"}; {instead_of_tmp(tmp) if tmp else ":"}; exec {drop} "$@"'
    return ["unshare", "-m", "sh", "-ec", script, "sh", *COMMAND, *arguments]


def instead_of_tmp(folder: Path) -> str:
    """A line of shell that puts *folder* in the place of /tmp; the checkout stays where it is, also there."""
    lines = [f"mount --rbind {folder} /tmp"]
    if ROOT.is_relative_to("/tmp"):
        place = folder / ROOT.relative_to("/tmp")
        lines.insert(0, f"mkdir -p {place}; mount --bind {ROOT} {place}")
    return "; ".join(lines)


def as_nobody(*arguments: str, tmp: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command as user nobody."""
    argv = argv_of_nobody(*arguments, tmp=tmp)
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)


RAW = """
import socket
socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)).bind(("eth0", 0))
print("raw")
"""


@is_root
def test_an_ordinary_user_lives_in_labs_too(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command works without root, packets can be captured, and the state is in his runtime directory."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(nobody))
    done = as_nobody("up", "lb3ports", "--set", "lb.tcp_tw_reuse=0", "--json")
    assert done.returncode == 0, done.stderr
    program = json.loads(done.stdout)["nodes"]["lb"]["program"]
    folder = nobody / "netns_tw"
    assert left(folder) == ["lb3ports"] and folder.stat().st_uid == NOBODY and folder.stat().st_mode & 0o777 == 0o700
    assert as_nobody("exec", "lb3ports", "client", "--", sys.executable, "-c", RAW).stdout == "raw\n"
    assert as_nobody("exec", "lb3ports", "lb", "--", "id", "-u").stdout == f"{NOBODY}\n"
    done = as_nobody("set", "lb3ports", "lb.tcp_tw_reuse=1", "lb.tcp_tw_reuse=0")
    assert done.stdout.splitlines()[-1] == f"lb: {REUSE} = 0  (before: 1)", done.stderr
    with subprocess.Popen(argv_of_nobody("watch", "lb3ports"), cwd=ROOT, stdout=subprocess.PIPE) as watch:
        read_until(watch, b"node=client")
        done = as_nobody("replay", "--in", "lb3ports", "the-log-names-errno-99", "-q", "--keep", "0")
        assert done.returncode == 0, done.stdout + done.stderr
        read_until(watch, b"result=502")
        logged = as_nobody("logs", "lb3ports", "lb").stdout
        assert ("(99: Cannot assign requested address)" in logged) == program.startswith("nginx")
        assert "lb3ports" in as_nobody("ls").stdout
        assert as_nobody("down", "lb3ports").stdout == "lb3ports: down\n"
        assert watch.wait(20) == 0
    assert (left(folder), lab_processes()) == ([], {})


@is_root
def test_without_a_runtime_directory_state_is_in_tmp_and_no_other_s(nobody: Path, labs: Path) -> None:
    """/tmp/netns_tw-UID, closed to others. Nobody sees or ends another user's labs, root by mistake neither."""
    assert as_nobody("up", "direct", tmp=nobody).returncode == 0
    folder = nobody / f"netns_tw-{NOBODY}"
    assert left(folder) == ["direct"] and folder.stat().st_mode & 0o777 == 0o700
    assert json.loads(netns_tw("ls", "--json", env={**os.environ, "NETNS_TW_LABS": str(labs)}).stdout) == []
    done = netns_tw("down", "--all", env={**os.environ, "NETNS_TW_LABS": str(folder)})
    assert "must be a folder that is yours" in refused(done)
    init = running("kernel/init.py direct")
    assert len(init) == 1
    assert as_nobody("down", "--all", tmp=nobody).stdout == "direct: down\n"
    assert lab_processes() == {}


@is_root
def test_another_user_s_folder_is_refused(labs: Path) -> None:
    """Whatever is asked for, and also where that user could look into it."""
    up("direct")
    for words in (["ls"], ["down", "--all"], ["exec", "direct", "client", "true"], ["up", "direct"]):
        done = as_nobody(*words)
        assert done.returncode in (2, 3) and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert left(labs) == ["direct"]


@is_root
def test_names_outside_are_root_s_to_give(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(nobody))
    message = refused(as_nobody("up", "direct", "--named"))
    assert "--named gives the nodes names under /run/netns, which only root may" in message
    assert not (nobody / "netns_tw").exists() or left(nobody / "netns_tw") == []
