"""The whole command: everything replayed side by side, and the memory that one lab's replay takes.

All experiments of the source document are replayed by one command. None can be shorter than its own paces and waits, so
the longest of them, replayed alone by the same command, is what all of them together are held against. Which one that
is, the first replay of all tells.

Memory is what is resident at most of any one process of the command (VmHWM), as the kernel has kept it: the command,
the keeper and the first process of the sandbox, the lab's programs and clients. Pages that are shared with the parent
count in full.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure, NotMeasured, Samples, at_most
from benchmarks.inside import inside
from benchmarks.interleave import ROOT, interleaved, program

COMMAND = (sys.executable, "-P", "-m", "netns_tw")
REPLAY = (*COMMAND, "replay", "--keep", "0", "--json")
SOURCE = ("direct", "crowd", "lb3ports")
"""The labs of the source's experiments."""
ONE_LAB = ("lb3ports/lb-exhausts-its-ports",)
LOOK_S = 0.01


def _replayed(*names: str) -> tuple[float, list[dict[str, object]]]:
    """How many seconds the command takes, and what it found."""
    began = time.monotonic()
    done = subprocess.run([*REPLAY, *names], capture_output=True, text=True, cwd=ROOT, check=False, timeout=300)
    took_s = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(f"replay {' '.join(names)} ended with status {done.returncode}: {done.stderr[-300:]}")
    return took_s, json.loads(done.stdout)["experiments"]


def _longest() -> str:
    """The experiment whose steps take the longest."""
    _, found = inside(lambda: _replayed(*SOURCE))

    def took(one: dict[str, object]) -> float:
        steps = one["steps"]
        assert isinstance(steps, list)
        return sum(float(step["took_ms"] or 0) for step in steps)  # None: it was skipped

    one = max(found, key=took)
    return f"{one['lab']}/{one['claim']}"


def _all_beside_the_longest(runs: int) -> Samples:
    for name, package in (("nginx", "nginx-light"), ("curl", "curl")):
        program(name, package)
    longest = _longest()
    found = interleaved(
        lambda: inside(lambda: _replayed(*SOURCE)[0]), lambda: inside(lambda: _replayed(longest)[0]), runs, warm=False
    )
    return Samples(found.ours, found.theirs, note=f"the longest is {longest}")


def _processes() -> Iterator[tuple[str, float]]:
    """What each process but our own is, and the most that was resident of it, in MB; all are the command's here."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != "1":
            try:
                words = (entry / "cmdline").read_text().split("\0")
                status = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines())
            except OSError:
                continue  # it has ended
            if "VmHWM" in status:
                yield (
                    _role(words, status["PPid"].strip(), len(status["NSpid"].split())),
                    int(status["VmHWM"].split()[0]) / 1024,
                )


def _role(words: list[str], parent: str, depth: int) -> str:
    """What a process is: a program by its name; the command and what it forks by where they stand."""
    if "netns_tw" in words:
        return "the command" if parent == "1" else "the sandbox's keeper" if depth == 1 else "the lab's first process"
    known = ("http-server", "http-proxy", "h11", "nginx")
    return next((name for name in known if any(word.startswith(name) for word in words)), Path(words[0]).name)


def _peaks() -> dict[str, float]:
    """Replay one lab's experiment; the most that was resident of each kind of process."""
    peaks: dict[str, float] = {}
    with subprocess.Popen([*REPLAY, *ONE_LAB], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        while True:
            for role, size in _processes():
                peaks[role] = max(size, peaks.get(role, 0.0))
            try:
                code = child.wait(LOOK_S)
                break
            except subprocess.TimeoutExpired:
                continue
        if code:
            raise RuntimeError(f"the replay ended with status {code}")
    return peaks


def _memory(runs: int) -> Samples:
    found = [inside(_peaks) for _ in range(runs)]
    if not all(found):
        raise NotMeasured("/proc tells nothing of the command's memory")
    most = max(found, key=lambda one: max(one.values()))
    sizes = ", ".join(f"{role} {size:.0f}" for role, size in sorted(most.items(), key=lambda one: -one[1]))
    return Samples([max(most.values())], note=f"MB: {sizes}")


FIGURES = (
    Figure(
        "replay-all",
        "`replay` of all source experiments, the whole command",
        at_most(1.15),
        "s",
        _all_beside_the_longest,
        "the longest of them alone",
        3,
    ),
    Figure("memory", "largest process of the command with one lab, resident", at_most(60), "MB", _memory, runs=3),
)
