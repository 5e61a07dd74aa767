"""The lab's first process as an init: nothing in a lab outlives it, and nothing but SIGKILL ends it.

When PID 1 of a PID namespace dies the kernel kills every process in there, whatever it ignores and whoever its parent
is (zap_pid_ns_processes); until then PID 1 is the parent of every orphan and waits for each. A signal that has no
handler in PID 1 is no signal to it (SIGNAL_UNKILLABLE, kernel/signal.c), from inside or outside; only SIGKILL and
SIGSTOP from outside are.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest
from world import World, alone, kill, mounts

from netns_tw.kernel import libc
from netns_tw.standing.entry import Entry
from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns

DEADLINE_S = 10.0
HOSTILE = """
trap '' TERM HUP INT
sleep 600 &
(sleep 600 &)
(trap '' TERM; setsid sh -c 'sleep 600 & sleep 600' &)
setsid setsid sleep 600 >/dev/null 2>&1 &
nohup sleep 600 >/dev/null 2>&1 &
"""
"""A child, an orphan, daemons of sessions of their own, one that ignores SIGTERM: seven sleeps."""


def sleeps(world: World) -> int:
    return sum(one.words.startswith("sleep 600") for one in world.processes().values())


def init_of(entry: Entry) -> int:
    assert entry.init
    return entry.init.pid


@pytest.mark.parametrize("end", ["down", "kill"])
def test_whatever_forks_and_ignores_signals_is_gone(tmp_path: Path, end: str) -> None:
    """Background children of a shell that `exec` ran live on in the lab, and end with it, by down or by a crash."""

    def body(world: World) -> None:
        entry = world.up("x")
        for node in entry.nodes:
            world.good("exec", "x", node, "--", "sh", "-c", HOSTILE)
        wait_until(lambda: sleeps(world) == 6 * len(entry.nodes), "they run", DEADLINE_S)
        shell = world.start("exec", "x", "client", "--", "sh", "-c", "trap '' TERM HUP INT; sleep 600; sleep 600")
        wait_until(lambda: sleeps(world) == 6 * len(entry.nodes) + 1, "the shell runs", DEADLINE_S)
        os.kill(shell.pid, signal.SIGTERM)
        if end == "down":
            world.down("x")
        else:
            kill(init_of(entry))
        assert shell.end().code == 128 + signal.SIGKILL
        world.settle()
        assert world.listed() == {}
        world.assert_empty()

    alone(tmp_path, body)


def test_a_stopped_exec_does_not_keep_the_lab(tmp_path: Path) -> None:
    """Ctrl-Z, then down from another terminal: who is stopped waits for no child, and the lab ends all the same."""

    def body(world: World) -> None:
        world.up("x")
        command = world.start("exec", "x", "client", "--", "sleep", "600", lead=True)
        wait_until(lambda: sleeps(world) == 1, "the program runs", DEADLINE_S)
        for signum, state in ((signal.SIGTSTP, "T"), (signal.SIGCONT, "S"), (signal.SIGTSTP, "T")):
            os.killpg(command.pid, signum)
            wait_until(lambda now=state: world.processes()[command.pid].state == now, f"it is {state}", DEADLINE_S)  # type: ignore[misc]
        world.down("x")
        assert not sleeps(world)
        os.kill(command.pid, signal.SIGCONT)
        assert command.end().code == 128 + signal.SIGKILL
        world.assert_empty()

    alone(tmp_path, body)


def test_a_fork_storm_is_gone_after_down(tmp_path: Path) -> None:
    """Two processes that replace themselves all the time cannot outrun the kernel, which gives out no more pids."""
    storm = "import os,time\nos.fork()\nend=time.time()+60\nwhile time.time()<end:\n if os.fork(): os._exit(0)\n"

    def body(world: World) -> None:
        entry = world.up("x")
        world.good("exec", "x", "client", "--", "python3", "-c", storm)
        first = {one.pid for one in world.below(init_of(entry))}
        wait_until(lambda: {one.pid for one in world.below(init_of(entry))} - first, "it runs", DEADLINE_S)
        world.down("x")
        world.assert_empty()

    alone(tmp_path, body)


def test_a_full_log_is_gone_after_down(tmp_path: Path) -> None:
    """The disk of the lab is full, for which it is made small first: ls, exec, a program's end and down still work."""
    fill = "mount -o remount,size=2m /run && cat /dev/zero >>/run/netns_tw/server/log"

    def body(world: World) -> None:
        entry = world.up("x")
        done = world.run("exec", "x", "server", "--", "sh", "-c", fill)
        assert done.code == 1 and "No space left" in done.talk
        world.assert_whole("x")
        kill(entry.programs["server"].pid)
        wait_until(lambda: "ended" in world.listed()["x"]["state"], "its end is noted", DEADLINE_S)
        assert world.listed()["x"]["state"].startswith("up, program of server ended")
        world.down("x")
        world.assert_empty()

    alone(tmp_path, body)


def test_orphans_are_waited_for(tmp_path: Path) -> None:
    """A hundred children that lost their parents and end: no zombie stays, with programs in the lab and without."""
    twice = "import os\nfor _ in range(100):\n if os.fork() == 0:\n  os.fork()\n  os._exit(0)\n"
    twice += "for _ in range(100): os.wait()"

    def body(world: World) -> None:
        entry = world.up("x")
        for left in (1, 0):
            world.good("exec", "x", "client", "--", "python3", "-c", twice)
            wait_until(lambda n=left: len(world.below(init_of(entry))) == n, "all are waited for", DEADLINE_S)  # type: ignore[misc]
            kill(entry.programs["server"].pid)
            wait_until(lambda: not world.below(init_of(entry)), "the program has ended", DEADLINE_S)
        world.down("x")
        world.assert_empty()

    alone(tmp_path, body)


def test_only_sigkill_ends_it(tmp_path: Path) -> None:
    """Signals from outside and from inside, also SIGKILL from inside, change nothing."""
    ending = ("TERM", "INT", "HUP", "QUIT", "USR1", "ALRM", "PIPE")

    def body(world: World) -> None:
        entry = world.up("x")
        for name in ending:
            os.kill(init_of(entry), getattr(signal, f"SIG{name}"))
        for name in (*ending, "KILL", "STOP"):
            world.good("exec", "x", "client", "--", "sh", "-c", f"kill -{name} 1")
        status = Path(f"/proc/{init_of(entry)}/status").read_text()
        caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
        assert not caught & 0xFFFF, "it would run Python's own handler, such as that of SIGINT"
        world.assert_whole("x")
        kill(init_of(entry))
        world.settle()
        assert world.listed() == {}
        world.assert_empty()

    alone(tmp_path, body)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_programs_end_is_noted(tmp_path: Path, signum: int) -> None:
    def body(world: World) -> None:
        entry = world.up("x")
        os.kill(entry.programs["server"].pid, signum)
        state = f"up, program of server ended with status -{signum:d}"
        wait_until(lambda: world.listed()["x"]["state"] == state, state, DEADLINE_S)
        world.good("exec", "x", "server", "--", "true")
        world.down("x")
        world.assert_empty()

    alone(tmp_path, body)


def test_a_lab_survives_its_terminal(tmp_path: Path) -> None:
    """The session that ran `up` is hung up: its leader dies, and the lab lives on."""

    def body(world: World) -> None:
        ready, told = os.pipe()
        leader, terminal = pty.fork()
        if leader == 0:
            code = world.start("up", "direct", "--name", "x").end().code
            os.write(told, bytes([code]))
            signal.pause()
        assert os.read(ready, 1) == b"\0"
        sessions = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3] for pid in world.processes()}
        assert str(leader) in sessions and len(sessions) == 3, "the leader's, the lab's, the program's"
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(leader, 0)[1]) == -signal.SIGHUP
        world.assert_whole("x")
        world.down("x")
        world.assert_empty()

    alone(tmp_path, body)


def test_a_lab_is_not_in_the_process_group_of_its_command(tmp_path: Path) -> None:
    def body(world: World) -> None:
        command = world.start("up", "direct", "--name", "x", lead=True)
        assert command.end().code == 0
        with pytest.raises(ProcessLookupError):  # nobody is left in it, so whoever kills it kills nothing of ours
            os.killpg(command.pid, signal.SIGKILL)
        world.assert_whole("x")
        world.down("x")
        world.assert_empty()

    alone(tmp_path, body)


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout


def as_ip_has_it(world: World) -> None:
    """/run/netns is a mount of its own from the first `ip netns add` on, and stays one."""
    ip("netns", "add", "first")
    ip("netns", "del", "first")
    world.mounts = mounts()


def names() -> list[str]:
    return sorted(os.listdir("/run/netns"))


@pytest.mark.parametrize("end", ["down", "kill"])
@pytest.mark.parametrize("first", ["ip", "a lab"])
def test_names_outside_are_those_of_the_lab_and_go_with_it(tmp_path: Path, end: str, first: str) -> None:
    """`ip netns exec NAME-NODE` works; down, or the next command after a crash, removes exactly the lab's names.

    Also where ip's own first name comes later and copies ours below a mount.
    """

    def body(world: World) -> None:
        if first == "ip":
            as_ip_has_it(world)
        entry = world.up("x", "--named")
        ip("netns", "add", "x-other")
        Path("/run/netns/x-file").touch(0o400)
        world.up("y", "--named")
        ours = ["x-client", "x-server", "y-client", "y-server"]
        assert names() == sorted([*ours, "x-file", "x-other"])
        assert "198.18.0.2/24" in ip("netns", "exec", "x-client", "ip", "-br", "addr")
        if end == "down":
            world.down("x")
        else:
            kill(init_of(entry))
            world.settle()
            assert list(world.listed()) == ["y"]
        assert names() == ["x-file", "x-other", "y-client", "y-server"]
        world.assert_whole("y")
        world.down("y")
        ip("netns", "del", "x-other")
        os.unlink("/run/netns/x-file")
        if first == "a lab":
            libc.detach("/run/netns")  # what ip left
        world.assert_empty()

    alone(tmp_path, body)


def test_a_name_that_is_taken_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Exit 3, one line; a file, a namespace and a link that leads nowhere are there as before, and no lab is."""

    def body(world: World) -> None:
        as_ip_has_it(world)
        path = Path("/run/netns/x-server")
        for make in (
            lambda: path.write_text("mine"),
            lambda: ip("netns", "add", path.name),
            lambda: path.symlink_to("no"),
        ):
            make()
            before = os.lstat(path).st_ino
            done = world.run("up", "direct", "--name", "x", "--named")
            assert done.code == 3 and done.talk.count("\n") == 1 and "File exists" in done.talk
            assert os.lstat(path).st_ino == before and names() == [path.name]
            assert world.listed() == {}
            if path.exists() and path.stat().st_dev == os.stat("/proc/self/ns/net").st_dev:
                ip("netns", "del", path.name)
            else:
                path.unlink()
        world.assert_empty()

    alone(tmp_path, body)


def test_a_name_that_is_somebody_elses_by_now_is_left_alone(tmp_path: Path) -> None:
    def body(world: World) -> None:
        as_ip_has_it(world)
        world.up("x", "--named")
        ip("netns", "del", "x-client")
        ip("netns", "add", "x-client")
        ip("netns", "del", "x-server")
        Path("/run/netns/x-server").write_text("mine")
        before = os.stat("/run/netns/x-client")
        world.down("x")
        assert names() == ["x-client", "x-server"]
        assert os.stat("/run/netns/x-client").st_ino == before.st_ino
        assert Path("/run/netns/x-server").read_text() == "mine"
        ip("netns", "del", "x-client")
        os.unlink("/run/netns/x-server")
        world.assert_empty()

    alone(tmp_path, body)
