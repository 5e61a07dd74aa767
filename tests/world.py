"""A world of its own for tests of labs that stay: what is in it is this test's, and what is left in it is seen.

Theory. A test of "nothing is left" must see everything and nothing else. So each runs as PID 1 of a sandbox: /proc
shows every process that came of it and no other, /run is its own, and who lost its parent becomes its child. It has a
user namespace of its own too, and the kernel counts the namespaces of each user namespace (struct ucounts,
user_namespaces(7)): with user.max_net_namespaces = 2 a second one can be made if and only if no third is alive,
whether a process, a mount or a file descriptor keeps it. That is the kernel's own word, not a guess from names.

The command is run in a fork of the test, through the same ``main`` as ``python -m netns_tw``, which saves the half
second of its imports.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import ROOT, in_sandbox

import netns_tw.__main__ as command
from netns_tw import parallel, rules, session  # noqa: F401  before any fork
from netns_tw.kernel import libc
from netns_tw.kernel.init import __file__ as INIT
from netns_tw.measure.observer import Observer
from netns_tw.programs.choice import choose
from netns_tw.report import standing as paper  # noqa: F401
from netns_tw.standing import bringup, entry, lookout, stage, visit  # noqa: F401
from netns_tw.standing.entry import Entry
from netns_tw.standing.roster import Roster
from netns_tw.wait import wait_until

DEADLINE_S = 20.0
COUNTED = {"net": libc.CLONE_NEWNET, "mnt": libc.CLONE_NEWNS}
"""Not PID namespaces: who looks at /proc/PID in its last moment keeps struct pid, and with it the namespace, in the
cache of names (proc_pid_make_inode). Whether a process lives in one is seen in /proc."""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    talk: str


class Command:
    """A command that runs."""

    def __init__(self, pid: int, out: Path, talk: Path) -> None:
        self.pid, self._out, self._talk = pid, out, talk
        self._code: int | None = None

    def has_ended(self) -> bool:
        """Whether it has; it is waited for then."""
        if self._code is None:
            gone, status = os.waitpid(self.pid, os.WNOHANG)
            if gone:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is not None

    def end(self, deadline_s: float = DEADLINE_S) -> Done:
        """Wait until it has ended."""
        wait_until(self.has_ended, f"the command ends that talks to {self._talk}", deadline_s, 0.002)
        assert self._code is not None
        return Done(self._code, self._out.read_text(), self._talk.read_text(errors="replace"))


@dataclass(frozen=True)
class Process:
    """A process of the world."""

    pid: int
    parent: int
    state: str
    words: str


class World:
    """Where one test lives; the labs' folder is not there yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.labs = folder / "labs"
        os.environ["NETNS_TW_LABS"] = str(self.labs)
        os.environ["NETNS_TW_RUNS"] = str(folder / "runs")
        self._commands: list[Command] = []
        self.mounts = mounts()

    def start(self, *words: str, lead: bool = False) -> Command:
        """Start a command; with *lead* it leads a process group of its own."""
        number = len(self._commands)
        out, talk = self.folder / f"out{number}", self.folder / f"talk{number}"
        for one in (out, talk):  # also for a command that is killed before it can
            one.touch()
        pid = os.fork()
        if pid == 0:
            if lead:
                os.setpgid(0, 0)
            _be_the_command(words, out, talk)
        self._commands.append(Command(pid, out, talk))
        return self._commands[-1]

    def run(self, *words: str) -> Done:
        """Run a command to its end; a traceback is a bug, whatever it was about."""
        done = self.start(*words).end()
        assert "Traceback" not in done.talk, done
        return done

    def good(self, *words: str) -> str:
        """Run a command that must succeed; return what it printed."""
        done = self.run(*words)
        assert done.code == 0, (words, done)
        return done.out

    def up(self, name: str, *words: str, lab: str = "direct") -> Entry:
        """Bring a lab up."""
        self.good("up", lab, "--name", name, *words)
        return Roster().find(name)

    def down(self, *names: str) -> None:
        """Take labs down."""
        self.good("down", *names)

    def listed(self) -> dict[str, dict[str, Any]]:
        """What `ls` lists, by name."""
        return {one["name"]: one for one in json.loads(self.good("ls", "--json"))}

    def processes(self) -> dict[int, Process]:
        """All that live but the test; those that ended as orphans are waited for first, as PID 1 does."""
        found = {}
        for pid in (int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"):
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
                words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
                found[pid] = Process(pid, int(fields[1]), fields[0], words)
        running = {one.pid for one in self._commands if not one.has_ended()}
        for one in [*found.values()]:
            if one.state == "Z" and one.parent == 1 and one.pid not in running:
                with suppress(ChildProcessError):  # a command, which has_ended has waited for
                    os.waitpid(one.pid, 0)
                del found[one.pid]
        return found

    def below(self, top: int) -> list[Process]:
        """The descendants of a process."""
        every = self.processes()
        found, parents = [], {top}
        while parents:
            children = [one for one in every.values() if one.parent in parents]
            found += children
            parents = {one.pid for one in children}
        return found

    def settle(self) -> None:
        """Wait until only labs that stay are left of what was killed: the kernel does that, no command of ours."""

        def only_labs_are_left() -> bool:
            every = self.processes()
            inits = [one.pid for one in every.values() if one.parent == 1 and INIT in one.words and one.state != "Z"]
            return len(every) == len(inits) + sum(len(self.below(pid)) for pid in inits)

        wait_until(only_labs_are_left, "the rest of what was killed is gone", DEADLINE_S, 0.005)

    def assert_whole(self, name: str) -> None:
        """A lab that is listed can be lived in: each node can be entered and every program listens."""
        found = Roster().find(name)
        for node in found.nodes:
            self.good("exec", name, node, "--", "true")
        _, topology = visit.lab_of(found)
        programs, _ = choose(topology, found.servers, False)

        def ask() -> list[str]:
            seen = {node: Observer(node).sockets for node in programs}
            return [n for n, one in programs.items() if not seen[n].is_listening(one.listen.port, one.listen.address)]

        assert visit.ask(found, ask) == [], f"{name}: nodes whose program does not listen"

    def assert_empty(self, files: frozenset[str] = frozenset({".netns_tw.lock"})) -> None:
        """No process, mount, link, named namespace or file is left; *files* are what may lie in the labs' folder."""
        wait_until(lambda: not self.processes(), "no process is left", DEADLINE_S, 0.005)
        assert mounts() == self.mounts
        assert os.listdir("/sys/class/net") == ["lo"]
        assert os.listdir("/run/netns") == []
        there = {one.name for one in self.labs.iterdir()} if self.labs.exists() else set()
        assert there <= files, there

    def assert_no_namespace(self) -> None:
        """By the kernel's own count, the world's are the only ones; it frees a network namespace a moment later."""
        for kind in COUNTED:
            wait_until(lambda kind=kind: is_only(kind), f"no {kind} namespace is left", DEADLINE_S)  # type: ignore[misc]


def _be_the_command(words: tuple[str, ...], out: Path, talk: Path) -> None:
    code = 70
    try:
        for number, (path, flags) in enumerate(((Path(os.devnull), 0), (out, os.O_CREAT), (talk, os.O_CREAT))):
            fd = os.open(path, os.O_RDWR | os.O_APPEND | flags, 0o600)
            os.dup2(fd, number)
            os.close(fd)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        sys.argv = ["netns_tw", *words]
        code = command.main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def mounts() -> list[str]:
    """The mounts that this process sees, without their changing numbers."""
    return [line.split(" ", 2)[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def is_only(kind: str) -> bool:
    """Whether the world has no namespace of this kind but its own."""
    Path(f"/proc/sys/user/max_{kind}_namespaces").write_text("2")  # the world's own, and one
    try:
        child = os.fork()
        if child == 0:
            try:
                libc.unshare(COUNTED[kind])
            except OSError:
                os._exit(1)
            os._exit(0)
        return os.waitpid(child, 0)[1] == 0
    finally:
        Path(f"/proc/sys/user/max_{kind}_namespaces").write_text("10000")


def alone(folder: Path, body: Callable[[World], None]) -> None:
    """Run *body* in a world of its own, and see that it leaves none of its namespaces."""

    def main() -> None:
        uid, gid = os.geteuid(), os.getegid()
        libc.set_dumpable()  # a test before this one may have been another user for a moment
        libc.unshare(libc.CLONE_NEWUSER | libc.CLONE_NEWNS | libc.CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        libc.mount("sysfs", "/sys", "sysfs", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC)
        os.chdir(ROOT)
        world = World(folder)
        body(world)
        world.assert_no_namespace()

    in_sandbox(main)


@contextmanager
def disk(world: World, data: str) -> Iterator[None]:
    """A small file system of its own for the labs' folder; *data* are its options, such as size=4k."""
    world.labs.mkdir(mode=0o700, exist_ok=True)
    libc.mount("tmpfs", str(world.labs), "tmpfs", 0, f"mode=0700,{data}")
    before, world.mounts = world.mounts, mounts()
    try:
        yield
    finally:
        libc.detach(str(world.labs))
        world.mounts = before


def make_lab(folder: Path, text: str, name: str = "bare") -> Path:
    """A lab's folder with this topology."""
    made = folder / name
    made.mkdir()
    (made / "topology.toml").write_text(f'format = 1\nname = "{name}"\ndescription = "for a test"\n{text}')
    return made


def kill(pid: int) -> None:
    """SIGKILL, and wait until it is dead: a signal is only sent. Harmless when it has ended."""
    with suppress(ProcessLookupError):
        held = os.pidfd_open(pid)
        signal.pidfd_send_signal(held, signal.SIGKILL)
        assert select.select([held], [], [], DEADLINE_S)[0]
        os.close(held)


def said(done: Done, code: int) -> str:
    """The one line of a command that was refused."""
    assert done.code == code, done
    assert done.talk.startswith("netns_tw: ") and done.talk.count("\n") == 1, done.talk
    return done.talk
