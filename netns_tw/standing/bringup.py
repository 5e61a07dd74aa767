"""A lab that stays: brought up in a sandbox of its own, which then lives on without the command.

It takes five steps, each of which leaves all or nothing if the command dies:

1. the roster's place is taken: a folder, and a lock that the command holds;
2. the sandbox starts; its init inherits the lock, and dies with the command (PR_SET_PDEATHSIG);
3. the init builds the lab and tells what it has built;
4. the command writes the entry as up and says "stay"; the init would end if it heard nothing else;
5. the init says that it outlives its parent, and becomes the small program of kernel/init.py.

A command that dies after step 4 leaves a lab that is up, or an entry whose lock nobody holds.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from netns_tw import lab
from netns_tw.errors import EXIT_BROKEN, EnvironmentLacks, NetnsTwError, UsageError
from netns_tw.kernel import init, netns, process, sandbox
from netns_tw.kernel.inside import Proof
from netns_tw.kernel.publish import Published, publish, unpublish
from netns_tw.model.topology import Program, Topology
from netns_tw.programs import shells
from netns_tw.programs.choice import choose
from netns_tw.standing import answer
from netns_tw.standing.entry import ENDED, Entry, Place
from netns_tw.standing.roster import Roster
from netns_tw.wiring import rtnl_by

STAY = b"s"
INIT = Path(init.__file__)


@dataclass(frozen=True)
class Standing:
    """A lab that came up just now."""

    entry: Entry
    topology: Topology
    sysctls: dict[str, dict[str, str]]
    """Effective, as read back, by node."""
    programs: Mapping[str, Program]
    notes: list[str]
    """What differs from the file."""


@dataclass(frozen=True)
class How:
    """How a lab is to be brought up."""

    may_number: bool = False
    """It may be NAME-2 where NAME is taken."""
    is_published: bool = False
    """The nodes are named NAME-NODE under /run/netns too."""
    links: str = "netlink"
    """Who makes its links, one of rules.LINKS."""
    meanwhile: Callable[[], None] = lambda: None
    """Called while its programs start: what takes long to load and is needed when it is up."""


def bring_up(topology: Topology, entry: Entry, roster: Roster, how: How) -> Standing:
    """Bring *topology* up under the entry's name; return when every program listens.

    Raises:
        UsageError: the name is taken, or a program's configuration is wrong.
        EnvironmentLacks: this machine lacks something, or the roster cannot be written.
        KeyboardInterrupt: a signal came; nothing is left behind.
    """
    if how.is_published and os.geteuid() != 0:
        raise UsageError(
            "--named gives the nodes names under /run/netns, which only root may: use sudo, or leave it out"
        )
    import netns_tw.serving  # noqa: F401 - here and not after the fork: the lab may not see the folder it is in

    rtnl_by(how.links)  # so too
    programs, notes = choose(topology, entry.servers, process.find_program("nginx") is not None)
    place = None
    try:
        with roster.reserve(replace(entry, nodes=list(topology.nodes), text=topology.text), how.may_number) as place:
            built = _come_up(lab.RunningLab(topology, dict(programs), links=how.links), place, how)
        return Standing(place.entry, topology, built["sysctls"], programs, notes)
    except KeyboardInterrupt:
        if place:
            take_down(place.entry, roster)
        raise


def take_down(entry: Entry, roster: Roster) -> None:
    """Take a lab down that a signal met when it had just come up; harmless where it had not."""
    if entry.is_up:
        with sandbox.undisturbed():
            roster.down(entry.name)


def _come_up(planned: lab.RunningLab, place: Place, how: How) -> dict[str, Any]:
    """Steps 2 to 5; return what was built."""
    with ExitStack() as stack:
        made = _Made(planned, place, stack)
        how.meanwhile()
        built = made.wait_until_built()
        pids = {node: made.proof_of(pid) for node, pid in built["pids"].items()}
        place.write(replace(place.entry, programs=pids))
        if how.is_published:
            _publish(place, stack)
        with sandbox.undisturbed():
            place.write(replace(place.entry, is_up=True))
            stack.pop_all()  # from here on it is the lab's life, not ours
            made.let_go()
    return built


class _Made:
    """The sandbox on its way up, and the two pipes between its init and the command."""

    def __init__(self, planned: lab.RunningLab, place: Place, stack: ExitStack) -> None:
        self._report, report = os.pipe()
        orders, self._orders = os.pipe()
        stack.callback(os.close, self._report)
        stack.callback(os.close, self._orders)
        kept = (place.lock, place.folder)
        with sandbox.undisturbed():
            try:
                self._sandbox = sandbox.start(lambda: _inside(planned, place, orders, report), (*kept, orders, report))
                stack.callback(self._end)
            finally:
                os.close(orders)
                os.close(report)
        self._name = place.entry.name
        place.write(replace(place.entry, init=self._prove(self._sandbox.init)))

    def _prove(self, pid: int) -> Proof:
        try:
            return Proof.of(pid)
        except OSError:
            self.wait_until_built()  # it has ended already: its own words why, if it had any
            raise self._ended() from None

    def _ended(self) -> UsageError:
        return UsageError(f"lab {self._name} ended while it came up; was it taken down?")

    def _end(self) -> None:
        with sandbox.undisturbed():
            self._sandbox.kill()
            self._sandbox.wait()

    def wait_until_built(self) -> dict[str, Any]:
        """Return what the init tells: effective sysctls and the programs' pids, by node.

        Raises:
            NetnsTwError: why it could not be built; with its exit code.
        """
        try:
            found: dict[str, Any] = answer.hear(self._report)
        except EOFError:
            raise self._ended() from None
        return found

    def proof_of(self, pid: int) -> Proof:
        """The proof of a child of the init, by its pid in the lab.

        Raises:
            UsageError: it, or the lab, has ended.
        """
        init = str(self._sandbox.init)
        try:
            for child in Path("/proc", init, "task", init, "children").read_text().split():
                status = Path("/proc", child, "status").read_text()
                if any(line.split()[-1] == str(pid) for line in status.splitlines() if line.startswith("NSpid:")):
                    return Proof.of(int(child))
        except OSError:
            raise self._ended() from None
        raise UsageError(f"lab {self._name}: a program ended while the lab came up")

    def let_go(self) -> None:
        """Say "stay", and wait until the init outlives us."""
        with suppress(BrokenPipeError):  # taken down meanwhile
            os.write(self._orders, STAY)
        os.read(self._report, len(STAY))
        os.close(self._orders)
        os.close(self._report)


def _inside(planned: lab.RunningLab, place: Place, orders: int, report: int) -> int:
    """PID 1's main: build the lab, tell what was built, and stay if told so."""
    try:
        running = planned.__enter__()
        shells.write()
    except NetnsTwError as error:
        answer.tell_error(report, error)
        return error.exit_code
    pids = {one.name: one.process.pid for one in running.nodes.values() if one.process}
    answer.tell(report, {"sysctls": {one.name: one.sysctls for one in running.nodes.values()}, "pids": pids})
    if os.read(orders, 1) != STAY:
        return EXIT_BROKEN
    sandbox.outlive()
    with suppress(BrokenPipeError):  # the command was killed just now; it had written the entry as up
        os.write(report, STAY)
    return _become_init(place, [f"{pid}={running.nodes[node].folder}/{ENDED}" for node, pid in pids.items()])


def _become_init(place: Place, noted: list[str]) -> NoReturn:
    """Let go of all that was the command's, and be the lab's init; the programs stay its children."""
    os.chdir("/")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nowhere, fd)
    for fd in (place.lock, place.folder):
        os.set_inheritable(fd, True)
    for signum in sandbox.OUR_SIGNALS:  # else Python would end by SIGINT, which an init can do without
        signal.signal(signum, signal.SIG_IGN)
    os.execv(sys.executable, [sys.executable, "-I", "-S", str(INIT), place.entry.name, str(place.folder), *noted])


def _publish(place: Place, stack: ExitStack) -> None:
    """Name the nodes under /run/netns; each is in the entry before it is there."""
    assert place.entry.init is not None
    for node in place.entry.nodes:
        fd = os.open(f"/proc/{place.entry.init.pid}/root{netns.RUN_NETNS}/{node}", os.O_RDONLY | os.O_CLOEXEC)

        def announce(one: Published) -> None:
            stack.callback(unpublish, one)
            place.write(replace(place.entry, published=[*place.entry.published, one]))

        try:
            publish(fd, f"{place.entry.name}-{node}", announce)
        except OSError as error:
            raise EnvironmentLacks(f"cannot name node {node} outside of the lab: {error}") from error
        finally:
            os.close(fd)
