"""What a live view shows: a lab, its head, and what time it is there.

A record's clock begins at a zero that is its own, and its lines come a little after what they tell of: so the zero is
the earliest that any line allows.
"""

from __future__ import annotations

import time

from netns_tw.evidence.live import LiveLab, moment_of
from netns_tw.model.lines import Line
from netns_tw.report.escape import escaped
from netns_tw.report.live_frame import Head

FASTEST_S = 0.2
"""Between two pictures, or two looks at what has changed."""


class Subject:
    """What a view shows: a lab, its head, and what time it is there."""

    def __init__(self, lab: LiveLab, head: Head) -> None:
        """Begin with nothing known of *lab*."""
        self.lab, self.head = lab, head
        self.version = 0
        """Grows with every line."""
        self._zero_ms: float | None = None
        self._last_ms = 0.0

    def add(self, line: Line) -> None:
        """Take in a line that came now."""
        self.version += 1
        moment = moment_of(line)
        if moment is not None:
            zero = time.monotonic() * 1000 - moment
            self._zero_ms = zero if self._zero_ms is None else min(self._zero_ms, zero)
            self._last_ms = max(self._last_ms, moment)
        self.lab.add(line)

    def now_ms(self) -> float:
        """The time in the record; it stands still when that is over."""
        if self._zero_ms is None or self.lab.is_over:
            return self._last_ms
        return time.monotonic() * 1000 - self._zero_ms


def plain(text: str) -> str:
    """Text on one line that no terminal obeys."""
    return text if text.isprintable() else escaped(text.replace("\n", " "))
