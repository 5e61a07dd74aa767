"""Measuring two in turn, A B A B: what the machine does meanwhile meets both alike.

Each is called once before it counts, so that byte code, the page cache and the dynamic loader's work are there for
both. The clock is CLOCK_MONOTONIC, one for all processes and namespaces of a machine.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.figure import NotMeasured, Samples
from netns_tw.kernel import process

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 120.0


def interleaved(ours: Callable[[], float], theirs: Callable[[], float], runs: int, warm: bool = True) -> Samples:
    """Call both in turn, *runs* times; each returns its sample."""
    pairs = [(ours(), theirs()) for _ in range(runs + warm)][int(warm) :]
    return Samples([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def alone(ours: Callable[[], float], runs: int, warm: bool = True) -> Samples:
    """Call what nothing stands beside, *runs* times."""
    return Samples([ours() for _ in range(runs + warm)][int(warm) :])


def took_ms(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.monotonic()
    call()
    return (time.monotonic() - began) * 1000


def output_of(argv: Sequence[str]) -> str:
    """Run a command to its end and return what it prints.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False, timeout=DEADLINE_S)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(argv)} ended with status {done.returncode}: {(done.stderr or done.stdout)[-500:]}"
        )
    return done.stdout


def command_ms(argv: Sequence[str]) -> float:
    """How long a command takes, from its start to its end."""
    return took_ms(lambda: output_of(argv))


def program(name: str, package: str = "") -> str:
    """The path of an installed program.

    Raises:
        NotMeasured: it is not there.
    """
    path = process.find_program(name)
    if path is None:
        raise NotMeasured(f"{name} is not installed: sudo apt-get install {package or name}")
    return path


def without_old_byte_code(folder: str) -> None:
    """Have all children find their byte code in *folder*: fresh, and no file of root's among the user's own.

    Under sudo none is written beside the sources, so what was edited since would be compiled again at each start.
    """
    os.environ["PYTHONPYCACHEPREFIX"] = folder
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
