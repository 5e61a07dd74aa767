"""The C reference, limit.c: compiled once a run into a temporary folder, called inside a sandbox."""

from __future__ import annotations

import atexit
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from benchmarks.figure import NotMeasured
from benchmarks.interleave import output_of
from netns_tw.kernel import process

SOURCE = Path(__file__).resolve().parent / "limit.c"
FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror")


@cache
def compiled() -> str:
    """The path of the compiled program; call it before a sandbox, so that it is made once.

    Raises:
        NotMeasured: there is no C compiler, or it lacks the kernel's headers.
    """
    folder = tempfile.TemporaryDirectory(prefix="netns_tw-limit-")
    atexit.register(folder.cleanup)
    return compile_into(Path(folder.name))


def compile_into(folder: Path) -> str:
    """Compile it into *folder* and return its path.

    Raises:
        NotMeasured: there is no C compiler, or it lacks the kernel's headers.
    """
    compiler = process.find_program("cc") or process.find_program("gcc")
    if compiler is None:
        raise NotMeasured("no C compiler: sudo apt-get install gcc libc6-dev")
    path = str(folder / "limit")
    done = subprocess.run([compiler, *FLAGS, "-o", path, SOURCE], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotMeasured(f"limit.c does not compile: {(done.stderr.splitlines() or ['?'])[0]}")
    return path


def limit(*words: str) -> dict[str, float]:
    """Call it in the namespaces of the caller; return the numbers that it prints, by name."""
    lines = output_of([compiled(), *words]).splitlines()
    return {name: float(value) for name, _, value in (line.partition(" ") for line in lines)}
