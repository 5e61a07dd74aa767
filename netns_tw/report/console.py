"""What is drawn on for a person at a terminal: 100 columns wide, by rich.

Text that comes from a file or a record (names, log lines, messages) is never taken as markup, and its control
characters are shown.
"""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.text import Text

from netns_tw.report.escape import escaped

WIDTH = 100
STYLES = {
    "pass": "bold green",
    "fail": "bold red",
    "error": "bold red",
    "broken": "bold magenta",
    "inconclusive": "bold yellow",
    "skip": "cyan",
}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich's own would end the process with 1, the exit code of a claim that fails


def console(file: TextIO) -> Console:
    """A console on *file*: at most 100 columns, colour on a terminal only."""
    found = _Console(file=file, highlight=False, markup=False, emoji=False, soft_wrap=False)
    found.width = min(WIDTH, found.width) if found.is_terminal else WIDTH
    return found


def plain(words: str, style: str = "") -> Text:
    """Text of a file or a record, safe to print; every cell and line of a report is made by this."""
    return Text(escaped(words), style=style)
