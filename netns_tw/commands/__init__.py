"""Floor 6: one module a group of commands. Each declares its words to the command line and carries them out.

What takes long to import (pyroute2, rich) is imported inside the function that needs it; a command's module itself when
the command is called.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Protocol

Call = Callable[[argparse.Namespace], int]
"""Carries a command out: prints to standard output, returns the exit code."""


class Add(Protocol):
    """Makes a command's parser of its name, example and call; ``--json`` is there already unless it is off.

    What the command is for is said in overview.py, for the first page too.
    """

    def __call__(self, name: str, example: str, call: Call, *, json: bool = True) -> argparse.ArgumentParser: ...
