"""What a person waits for when nothing is built: ``--help``, ``list``, ``validate``, from start to end.

Beside them stands the same interpreter importing the two modules of its own library that any such command needs. So
the start of Python and its speed cancel out, and what is left is what netns_tw adds. Both start from byte code.
"""

from __future__ import annotations

import sys
from functools import partial

from benchmarks.figure import Figure, Samples, at_most
from benchmarks.interleave import command_ms, interleaved

BARE = (sys.executable, "-P", "-c", "import argparse, tomllib")
COMMAND = (sys.executable, "-P", "-m", "netns_tw")


def _beside_a_bare_start(words: tuple[str, ...], runs: int) -> Samples:
    return interleaved(lambda: command_ms((*COMMAND, *words)), lambda: command_ms(BARE), runs)


FIGURES = tuple(
    Figure(
        name=f"start-{words[0].strip('-')}",
        what=f"`{' '.join(words)}`, from start to end",
        bound=at_most(1.5),
        unit="ms",
        measure=partial(_beside_a_bare_start, words),
        against="python -c 'import argparse, tomllib'",
        runs=15,
    )
    for words in (("--help",), ("list",), ("validate", "lb3ports"))
)
