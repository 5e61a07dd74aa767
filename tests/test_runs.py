"""Where records are kept: a folder per run, the last few of them, nothing that is not ours touched."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, netns_tw

from netns_tw import runs
from netns_tw.errors import UsageError
from netns_tw.model.lines import End, Header, from_json


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs of this test's own; nobody called sudo."""
    folder = tmp_path / "runs"
    monkeypatch.setenv(runs.VARIABLE, str(folder))
    monkeypatch.delenv("SUDO_UID", raising=False)
    return folder


def make_run(home: Path, number: int) -> Path:
    """A finished run with one record."""
    path = home / f"2026010{number}T000000.000000Z-1"
    path.mkdir(parents=True)
    (path / "a--b.jsonl").write_text("{}\n")
    return path


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"NETNS_TW_RUNS": "/somewhere"}, "/somewhere"),
        ({"XDG_STATE_HOME": "/state", "HOME": "/home/x"}, "/state/netns_tw/runs"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/home/x"}, "/home/x/.local/state/netns_tw/runs"),
        ({"HOME": "/home/x"}, "/home/x/.local/state/netns_tw/runs"),
        ({"HOME": "/root", "SUDO_UID": "0"}, "/root/.local/state/netns_tw/runs"),
        ({"HOME": "/root", "SUDO_UID": "no number"}, "/root/.local/state/netns_tw/runs"),
        ({"HOME": "/root", "SUDO_UID": "4000000000"}, "/root/.local/state/netns_tw/runs"),
    ],
)
def test_where(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable, else XDG's state folder if it is absolute, else its default; a sudo by nobody we know is none."""
    for name in ("NETNS_TW_RUNS", "XDG_STATE_HOME", "SUDO_UID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(runs.root()) == expected


def test_prune_keeps_the_last_and_what_is_not_ours(home: Path) -> None:
    """The oldest go; one that is being written to, one with other files, links and other names stay."""
    made = [make_run(home, number) for number in range(1, 8)]
    (made[1] / "notes.txt").write_text("mine")
    other = home / "my-run"
    other.mkdir()
    (home / "20250101T000000.000000Z-1").symlink_to(other)
    (other / "x.jsonl").write_text("")
    fd = os.open(made[2], os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        runs.prune(2)
        assert [path.exists() for path in made] == [False, True, True, False, False, True, True]
        assert (other / "x.jsonl").exists()
    finally:
        os.close(fd)
    runs.prune(2)
    assert [path.exists() for path in made] == [False, True, False, False, False, True, True]


def test_a_folder_with_a_folder_in_it_is_not_ours(home: Path) -> None:
    """A link or a folder that is called like a record is no record."""
    path = make_run(home, 1)
    (path / "c.jsonl").symlink_to("/etc/passwd")
    last = make_run(home, 2)
    runs.prune(1)
    assert path.is_dir() and (path / "a--b.jsonl").exists() and last.is_dir()


def test_latest_and_records(home: Path) -> None:
    """The newest run; its records in order; clear words where there are none."""
    with pytest.raises(UsageError, match="no run is kept in"):
        runs.latest()
    make_run(home, 1)
    newest = make_run(home, 2)
    (newest / "a--a.jsonl").write_text("")
    assert runs.latest() == newest
    assert [one.name for one in runs.records(newest)] == ["a--a.jsonl", "a--b.jsonl"]
    assert runs.records(newest / "a--a.jsonl") == [newest / "a--a.jsonl"]
    empty = home / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match=r"holds no record \(\*\.jsonl\)"):
        runs.records(empty)
    with pytest.raises(UsageError, match="No such file"):
        runs.records(home / "nowhere")


def test_a_run_without_a_record_leaves_nothing(home: Path) -> None:
    """An empty folder goes; a record stays, for its owner to write and all to read, and is never overwritten."""
    with runs.new_run() as run:
        assert run.path.is_dir()
    assert not run.path.exists()
    with runs.new_run() as run:
        path = run.path / "x.jsonl"
        os.close(run.open(path))
        assert stat.S_IMODE(path.stat().st_mode) & 0o755 == path.stat().st_mode & 0o777
        with pytest.raises(UsageError, match="File exists"):
            run.open(path)
    assert path.exists()


@pytest.mark.netns
def test_records_on_disk_are_whole_and_in_the_users_hands(tmp_path: Path) -> None:
    """--out: a record per experiment, header first, end last; a second run there is refused before anything is made."""
    out = tmp_path / "out"
    argv = ("topology", "direct", "--only", "connect-is-what-fails", "--out", str(out))
    done = netns_tw(*argv, "--json")
    assert done.returncode == 0, done.stderr
    (path,) = out.iterdir()
    assert path.name == "direct--connect-is-what-fails.jsonl"
    assert json.loads(done.stdout)["experiments"][0]["record"] == str(path)
    lines = [from_json(line) for line in path.read_bytes().splitlines()]
    assert isinstance(lines[0], Header) and isinstance(lines[-1], End)
    assert (
        lines[0].files["topology.toml"].startswith("# The source's two") or "direct" in lines[0].files["topology.toml"]
    )
    before = path.read_bytes()
    again = netns_tw(*argv)
    assert again.returncode == 2
    assert f"{path}: is there already" in again.stderr
    assert path.read_bytes() == before


@pytest.mark.netns
def test_retention(tmp_path: Path) -> None:
    """Each run has a folder of its own, the last --keep of them stay, --keep 0 writes nothing; the path is printed."""
    environment = {**os.environ, runs.VARIABLE: str(tmp_path / "runs")}
    argv = ("topology", "direct", "--only", "connect-is-what-fails", "--keep", "2")
    folders = []
    for _ in range(3):
        done = netns_tw(*argv, env=environment)
        assert done.returncode == 0
        folders.append(next(line for line in done.stderr.splitlines() if line.startswith("records: "))[9:])
    assert [Path(one).is_dir() for one in folders] == [False, True, True]
    done = netns_tw(*argv[:-1], "0", env=environment)
    assert done.returncode == 0 and "records:" not in done.stderr
    assert [Path(one).is_dir() for one in folders] == [False, True, True]


@pytest.mark.netns
def test_under_sudo_the_record_is_the_callers(tmp_path: Path) -> None:
    """With SUDO_UID set, as sudo does, the folder and the record belong to that user, and no link leads elsewhere."""
    if os.geteuid() != 0:
        pytest.skip("needs root, as sudo gives it")
    nobody = 65534
    folder = tmp_path / "runs"
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(0o755)
    folder.mkdir()
    os.chown(folder, nobody, nobody)
    environment = {**os.environ, runs.VARIABLE: str(folder), "SUDO_UID": str(nobody), "SUDO_GID": str(nobody)}
    argv = ("topology", "direct", "--only", "connect-is-what-fails")
    done = netns_tw(*argv, env=environment)
    assert done.returncode == 0, done.stderr
    (run,) = folder.iterdir()
    (record,) = run.iterdir()
    assert (run.stat().st_uid, record.stat().st_uid) == (nobody, nobody)
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    done = netns_tw(*argv, "--out", str(secret / "records"), env=environment)
    assert done.returncode == 0, done.stderr  # root may, where the caller may not
    assert {path.stat().st_uid for path in secret.rglob("*")} == {0}


@pytest.mark.netns
@pytest.mark.parametrize("moment", [0.05, 0.6])
def test_a_kill_loses_at_most_the_line_being_written(tmp_path: Path, moment: float) -> None:
    """SIGKILL to the command, at any moment: every line of the record but perhaps the last is whole."""
    out = tmp_path / "out"
    argv = [
        sys.executable,
        "-m",
        "netns_tw",
        "topology",
        "lb3ports",
        "--only",
        "lb-exhausts-its-ports",
        "--out",
        str(out),
    ]
    child = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = out / "lb3ports--lb-exhausts-its-ports.jsonl"
    try:
        wanted = int(moment * 2000)
        while child.poll() is None and not (path.exists() and path.read_bytes().count(b'"kind":"response"') >= wanted):
            pass
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
    *whole, rest = path.read_bytes().split(b"\n")
    assert len(whole) > wanted
    for line in whole:
        from_json(line)
    assert len(rest) < 1 << 16


@pytest.mark.netns
def test_a_full_disk_loses_the_record_and_not_the_run(tmp_path: Path) -> None:
    """ENOSPC: the experiments go on, the verdict stands, and one line says which record is cut short."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk in a mount namespace of its own")
    out = tmp_path / "small"
    out.mkdir()
    script = f"mount -t tmpfs -o size=8k none {out} && exec {sys.executable} -m netns_tw topology direct --out {out}/r"
    argv = ["unshare", "-m", "sh", "-c", f"{script} --only no-reuse-back-to-back"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "PASS" in done.stdout
    assert "record of direct/no-reuse-back-to-back is cut short: No space left on device" in done.stderr
