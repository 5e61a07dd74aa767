"""Standard output: by which names a FILE means it, and what to do when its reader is gone."""

from __future__ import annotations

import os
import sys

STDOUT = ("-", "/dev/stdout")
"""As a FILE: standard output."""


def is_stdout(file: object) -> bool:
    """Whether the value of an option, where it is a FILE's path, means standard output."""
    return str(file) in STDOUT


def hush() -> None:
    """Send what is still in Python's buffer nowhere, so that its own exit does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
