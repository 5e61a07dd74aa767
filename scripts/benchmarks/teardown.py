"""The end of a lab: what its user waits for, and when the kernel has really freed it.

The call ends the lab's first process and returns when all its processes are gone; namespaces and links the kernel
frees later, in a batch (cleanup_net). A lab that deleted them one by one would wait for each. How long that batch takes
is measured beside a C program that has as many namespaces and drops them all at once.

Freed is what the kernel no longer counts: in a user namespace with one network namespace that stays and a limit of two
(user.max_net_namespaces), unshare(2) succeeds when the last of the others is gone; the kernel counts it out after all
that it held. Both sides are measured in such a user namespace, by the same test.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from functools import partial
from pathlib import Path

from benchmarks import labs
from benchmarks.figure import Figure, Samples, at_most
from benchmarks.inside import inside
from benchmarks.interleave import alone, interleaved, took_ms
from benchmarks.limit import compiled, limit
from benchmarks.quiet import inside_quiet
from netns_tw.kernel import libc, private, sandbox
from netns_tw.kernel.sandbox import Sandbox
from netns_tw.lab import RunningLab
from netns_tw.model.labs import find_one
from netns_tw.model.topology import Program, Topology
from netns_tw.programs.choice import choose
from netns_tw.standing.bringup import INIT, How, bring_up
from netns_tw.standing.entry import Entry
from netns_tw.standing.roster import Roster
from netns_tw.wait import wait_until

NODES = 100
LAB = "lb3ports"
MAX_NET_NAMESPACES = Path("/proc/sys/user/max_net_namespaces")
UP_DEADLINE_S, FREED_DEADLINE_S = 10.0, 30.0


def _down_ms() -> float:
    lab, _ = find_one(LAB)
    roster = Roster(Path("/run/labs"))
    entry = Entry(LAB, LAB, lab.topology.folder, "", "h11", {})
    standing = bring_up(lab.topology, entry, roster, How())
    wait_until(lambda: _stands(standing.entry), "its first process waits", UP_DEADLINE_S)
    return took_ms(lambda: roster.down(LAB))


def _stands(entry: Entry) -> bool:
    """Whether the lab's first process is the small program by now that it becomes, and waits."""
    assert entry.init is not None
    words, stat = (Path(f"/proc/{entry.init.pid}/{name}").read_bytes() for name in ("cmdline", "stat"))
    return os.fsencode(INIT) in words and stat.rpartition(b")")[2].split()[0] == b"S"


def _standing(runs: int) -> Samples:
    return alone(lambda: inside_quiet(_down_ms), runs)


def _started(topology: Topology, programs: dict[str, Program]) -> Sandbox:
    """A sandbox in which the lab is up."""
    read, write = os.pipe()

    def main() -> int:
        with RunningLab(topology, programs):
            os.write(write, b"u")
            signal.pause()
        return 0

    made = sandbox.start(main, keep=(write,))
    os.close(write)
    is_up = os.read(read, 1)
    os.close(read)
    if not is_up:
        made.wait()
        raise RuntimeError("the lab did not come up")
    return made


def _end(made: Sandbox) -> None:
    made.kill()
    made.wait()


def _end_ms() -> float:
    lab, _ = find_one(LAB)
    programs, _ = choose(lab.topology, "h11", False)
    made = _started(lab.topology, dict(programs))
    return took_ms(lambda: _end(made))


def _ended(runs: int) -> Samples:
    return alone(lambda: inside_quiet(_end_ms), runs)


def _freed_ms(topology: Topology) -> float:
    private.unshare_with_user(libc.CLONE_NEWNET)
    made = _started(topology, {})
    MAX_NET_NAMESPACES.write_text("2")
    if _is_one_free():
        raise RuntimeError("the count of namespaces is not what it must be")
    began = time.monotonic()
    _end(made)
    wait_until(_is_one_free, "all namespaces are freed", FREED_DEADLINE_S, pause_s=0.0005)
    return (time.monotonic() - began) * 1000


def _dropped_in_c_ms(words: tuple[str, ...]) -> float:
    return limit("free", str(NODES), *words)["freed_us"] / 1000


def _is_one_free() -> bool:
    try:
        libc.unshare(libc.CLONE_NEWNET)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


def _freed(topology: Topology, words: tuple[str, ...], runs: int) -> Samples:
    compiled()
    return interleaved(
        lambda: inside(partial(_freed_ms, topology)), lambda: inside(partial(_dropped_in_c_ms, words)), runs
    )


FIGURES = (
    Figure("down", f"`down` of a standing lab ({LAB}), the call", at_most(5), "ms", _standing),
    Figure("end", f"the end of a lab ({LAB}), the call", at_most(5), "ms", _ended),
    Figure(
        "freed",
        f"from the end of a lab of {NODES} nodes until all are freed",
        at_most(1.5),
        "ms",
        partial(_freed, labs.nodes(NODES), ()),
        f"C, {NODES} namespaces dropped at once",
    ),
    Figure(
        "freed-star",
        f"the same of a star: {NODES - 1} clients, {NODES - 1} links, one server",
        at_most(1.5),
        "ms",
        partial(_freed, labs.star(NODES - 1), ("links",)),
        "C, the same star dropped at once",
    ),
)
