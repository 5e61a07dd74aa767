"""SIGKILL of any of our processes, at any moment of any command: the next command finds a whole lab, or nothing.

A moment is a part of the command's usual length, drawn from a seeded source, or a point that is seen from outside: the
entry is there, a process below the command is, the entry names the init, the entry says up. At that moment one of the
processes that came of the command, or the lab's first process, is killed. A program of the lab is not ours in this
sense: the lab goes on without it, and ls says so.
"""

from __future__ import annotations

import json
import os
import random
import select
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from world import DEADLINE_S, Command, World, alone, kill

from netns_tw.kernel.init import __file__ as INIT

pytestmark = pytest.mark.netns

CLAIM = "no-reuse-back-to-back"


@dataclass(frozen=True)
class Scene:
    """A command that is killed, and the one that tells how long it usually takes."""

    words: tuple[str, ...]
    is_in: bool
    """Whether it needs a lab that is up."""
    measured: tuple[str, ...] = ()
    moments: int = 8
    points: bool = False
    """Whether it is also killed at the points that are seen from outside."""


SCENES = {
    "up": Scene(("up", "direct", "--name", "x"), False, moments=6, points=True),
    "up --named": Scene(("up", "direct", "--name", "x", "--named"), False, moments=4, points=True),
    "exec": Scene(("exec", "x", "client", "--", "sleep", "600"), True, ("exec", "x", "client", "--", "true"), 8),
    "replay --in": Scene(("replay", "--in", "x", CLAIM, "-q"), True, moments=8),
    "replay": Scene(("replay", f"direct/{CLAIM}", "-q"), False, moments=8),
    "down": Scene(("down", "x"), True, moments=8),
}


def entry(world: World) -> dict[str, Any]:
    """What the entry of lab x says at this moment; empty before it is there."""
    with suppress(OSError):
        found: dict[str, Any] = json.loads((world.labs / "x" / "lab.json").read_text())
        return found
    return {}


POINTS: dict[str, Callable[[World, Command], object]] = {
    "the folder is there": lambda world, _: (world.labs / "x").exists(),
    "a process below it is there": lambda world, command: world.below(command.pid),
    "the entry names the init": lambda world, _: entry(world).get("init"),
    "the entry says up": lambda world, _: entry(world).get("is_up"),
}


def usual_length_s(world: World, scene: Scene) -> float:
    """Seconds that the command takes here and now."""
    if scene.is_in:
        world.up("x")
    began = time.monotonic()
    world.good(*(scene.measured or scene.words))
    took = time.monotonic() - began
    world.down("x")
    return took


def victims(world: World, command: Command) -> dict[str, int]:
    """Our processes by what they are: the command, what came of it, and the first process of the lab."""
    every = world.processes()
    found = {"command": command.pid}
    for number, one in enumerate(world.below(command.pid)):
        if "http-server" not in one.words and one.state != "Z":
            found[f"below {number}"] = one.pid
    inits = [one.pid for one in every.values() if INIT in one.words and one.parent == 1]
    return found | ({"init": inits[0]} if inits else {})


def wait_for(command: Command, seconds: float) -> None:
    """Let the command run so long, or to its end."""
    fd = os.pidfd_open(command.pid)
    select.select([fd], [], [], seconds)
    os.close(fd)


def one_try(
    world: World, scene: Scene, wait: Callable[[Command], None], source: random.Random, told: list[str]
) -> None:
    """Run the command, kill one of ours when *wait* is over, and look at what the next command finds."""
    if scene.is_in:
        world.up("x")
    command = world.start(*scene.words)
    wait(command)
    if not command.has_ended():
        victim, pid = source.choice(sorted(victims(world, command).items()))
        told.append(f"killed {victim}")
        kill(pid)
    done = command.end()
    told.append(f"{done}")
    assert "Traceback" not in done.talk
    assert done.code in {-9, 0, 1, 2, 3, 4, 5, 137}
    world.settle()
    listed = world.listed()
    told.append(f"listed {listed}")
    for name, one in listed.items():
        assert one["state"] == "up"
        world.assert_whole(name)
        world.down(name)
    world.assert_empty()


def until(world: World, point: str) -> Callable[[Command], None]:
    """Wait for a point that is seen from outside, as closely as can be."""

    def wait(command: Command) -> None:
        end = time.monotonic() + DEADLINE_S
        while not (POINTS[point](world, command) or command.has_ended() or time.monotonic() > end):
            pass

    return wait


def kill_at_moments(folder: Path, name: str, seed: int, moments: int) -> None:
    scene = SCENES[name]

    def body(world: World) -> None:
        source = random.Random(f"{name} {seed}")
        length = usual_length_s(world, scene)
        waits: dict[str, Callable[[Command], None]] = {}
        for number in range(moments):
            seconds = source.uniform(0, length)
            waits[f"{number}: {seconds * 1000:.1f} of {length * 1000:.1f} ms"] = lambda one, s=seconds: wait_for(one, s)  # type: ignore[misc]
        if scene.points:
            waits |= {point: until(world, point) for point in POINTS}
        for moment, wait in waits.items():
            told = [f"{name}, seed {seed}, {moment}"]
            try:
                one_try(world, scene, wait, source, told)
            except BaseException as error:
                error.add_note("; ".join(told))
                raise

    alone(folder, body)


@pytest.mark.parametrize("name", SCENES)
def test_kill_9_at_50_random_moments(tmp_path: Path, name: str) -> None:
    """50 in all: what ls lists afterwards is whole and goes down; nothing else is left, by the kernel's count too."""
    kill_at_moments(tmp_path, name, 1, SCENES[name].moments)


@pytest.mark.stress
@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("seed", range(2, 11))
def test_kill_9_at_500_random_moments(tmp_path: Path, name: str, seed: int) -> None:
    kill_at_moments(tmp_path, name, seed, SCENES[name].moments)


def test_there_are_50_moments() -> None:
    assert sum(one.moments + len(POINTS) * one.points for one in SCENES.values()) == 50
