"""Standard output: by which names a FILE means it, and what to do when its reader is gone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

STDOUT = (Path("-"), Path("/dev/stdout"))
"""As a FILE: standard output."""


def hush() -> None:
    """Send what is still in Python's buffer nowhere, so that its own exit does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
