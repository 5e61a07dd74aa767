"""Many labs at once, and many one after the other: each counts as if it were alone, and none leaves a trace."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from world import Command, World, alone, is_only, kill, make_lab

from netns_tw.kernel import libc, publish
from netns_tw.model import labs
from netns_tw.standing.bringup import How, bring_up
from netns_tw.standing.entry import Entry
from netns_tw.standing.roster import Roster
from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns

LABS, AT_ONCE, REPLAYED = 30, 8, 8
CLAIM = "no-reuse-back-to-back"
EVEN = "client.net.ipv4.ip_local_port_range=1024 1033"
"""Ten ports. Of an odd range connect() hides one from some clients, by a table that all namespaces share."""
CYCLES, WARM_UP = 200, 10
RSS_SLACK_KB = 2048
"""Two arenas of Python's allocator (obmalloc.c, ARENA_SIZE): it takes memory from the kernel in such pieces."""


def side_by_side(world: World, calls: Iterable[tuple[str, ...]]) -> list[str]:
    """Run commands, a few at a time; return what each printed, in their order."""
    every: list[Command] = []
    for words in calls:
        running = [one for one in every if not one.has_ended()]
        if len(running) >= AT_ONCE:
            wait_until(lambda those=running: any(one.has_ended() for one in those), "one of them ends", 60)  # type: ignore[misc]
        every.append(world.start(*words))
    ends = [one.end(60) for one in every]
    assert [one.talk for one in ends if one.code not in (0, 5)] == []
    return [one.out for one in ends]


def counts(out: str) -> list[Any]:
    """What a replay counted: per step what was seen, per expectation its number, TIME_WAITs among them."""
    (one,) = json.loads(out)["experiments"]
    steps = [(step["name"], step["ok"], step["seen"]) for step in one["steps"]]
    return [*steps, *((finding["name"], finding["actual"], finding["holds"]) for finding in one["findings"])]


def memory_kb(world: World) -> int:
    """The labs' processes' own share of the machine's memory (PSS)."""
    found = 0
    for pid in world.processes():
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        found += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return found


def test_30_labs_at_once_count_as_one_alone(tmp_path: Path) -> None:
    """All 30 are up at the same time; a claim's steps, replayed in eight of them at once, come to the same numbers."""

    def body(world: World) -> None:
        names = [f"lab-{number}" for number in range(LABS)]
        ups = [("up", "direct", "--name", name, "--set", EVEN) for name in names]
        side_by_side(world, [("up", "direct", "--name", "alone", "--set", EVEN)])
        replay = ("-q", "--json", CLAIM)
        (out,) = side_by_side(world, [("replay", "--in", "alone", *replay)])
        expected = counts(out)
        assert ("back to back", 10, "10 x 404, 10 x EADDRNOTAVAIL") in expected
        world.down("alone")
        side_by_side(world, ups)
        listed = world.listed()
        assert sorted(listed) == sorted(names) and {one["state"] for one in listed.values()} == {"up"}
        print(f"{LABS} labs: {memory_kb(world) / 1024:.0f} MiB (PSS)", file=sys.__stderr__)
        found = side_by_side(world, [("replay", "--in", name, *replay) for name in names[:: LABS // REPLAYED]])
        for one in found:
            assert counts(one) == expected
        world.good("down", "--all")
        world.assert_empty()

    alone(tmp_path, body)


def state() -> dict[str, Any]:
    """What may not grow in this process, by name."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "fds": sorted(str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.is_symlink()),
        "threads": status["Threads"].strip(),
        "blocks": sys.getallocatedblocks(),
        "rss_kb": int(status["VmRSS"].split()[0]),
    }


def up_and_down(world: World, folder: Path, times: int) -> None:
    """Bring the lab in *folder* up and take it down again, so often, in this process."""
    topology = labs.read_lab(folder).topology
    roster = Roster()
    for _ in range(times):
        entry = Entry(name="x", lab=topology.name, folder=str(folder))
        bring_up(topology, entry, roster, How())
        assert roster.down("x")
        assert not world.processes()  # and the lab's first process, a child of this one, is waited for


LINKED = """[nodes.a]
[nodes.b]
[[links]]
endpoints = ["a:eth0", "b:eth0"]
addresses = [["198.18.0.1/24"], ["198.18.0.2/24"]]
"""


def test_200_cycles_leave_nothing_behind(tmp_path: Path) -> None:
    """No fd, thread, process, file, mount or namespace more than before; not even one block of memory for each cycle.

    Every tenth lab has a veth pair. Resident memory may grow by what the allocator takes at once, whatever the number
    of cycles.
    """

    def body(world: World) -> None:
        bare, linked = make_lab(world.folder, "[nodes.n]\n"), make_lab(world.folder, LINKED, "linked")
        up_and_down(world, linked, 1)
        up_and_down(world, bare, WARM_UP)
        before = state()
        for _ in range(CYCLES // 10):
            up_and_down(world, bare, 9)
            up_and_down(world, linked, 1)
        after = state()
        assert (after["fds"], after["threads"]) == (before["fds"], before["threads"])
        assert after["blocks"] - before["blocks"] < CYCLES
        assert after["rss_kb"] - before["rss_kb"] < RSS_SLACK_KB
        world.assert_empty()

    alone(tmp_path, body)


@pytest.mark.parametrize("how", ["a process", "a file descriptor", "a mount"])
def test_the_count_of_namespaces_sees_one_that_is_left(tmp_path: Path, how: str) -> None:
    """The instrument is tried: whatever keeps one network namespace, there is one too many until it lets go."""

    def body(world: World) -> None:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            libc.unshare(libc.CLONE_NEWNET)
            os.write(write, b"x")
            os.execvp("sleep", ["sleep", "60"])
        os.read(read, 1)
        path, fd = Path("/run/netns/left"), -1
        if how != "a process":
            fd = os.open(f"/proc/{child}/ns/net", os.O_RDONLY)
            if how == "a mount":
                publish.publish(fd, "left", lambda _: None)
                os.close(fd)
            kill(child)
            os.waitpid(child, 0)
        assert is_only("mnt") and not is_only("net")
        if how == "a process":
            kill(child)
            os.waitpid(child, 0)
        elif how == "a mount":
            libc.detach(str(path))
            path.unlink()
        else:
            os.close(fd)
        world.assert_no_namespace()

    alone(tmp_path, body)
