"""Progress on standard error: on a terminal a line per running experiment, in a pipe a plain line per event.

rich's own refresh thread is not used: the command must have one thread only while it forks sandboxes.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from netns_tw.job import Job
from netns_tw.model.lines import Batch, Line, Response
from netns_tw.model.record import Record
from netns_tw.parallel import Watcher

REFRESH_S = 0.1


class Progress(Watcher):
    """Tells a person what runs and how far it is; a context manager."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
        self._counts: dict[int, tuple[str, list[int]]] = {}
        """By the job's identity: two labs may have one name."""
        # nothing is redirected: a sandbox forked meanwhile would print its last words into a copy of this display
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._is_live = self._console.is_terminal
        self._drawn_at = 0.0

    def __enter__(self) -> Progress:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._is_live:
            self._live.stop()

    def started(self, job: Job, done: int = 0, failed: int = 0) -> None:
        """A job runs; of its requests *done* are through already, *failed* of them without a good answer."""
        total = sum(step.requests for step in job.experiment.steps)
        self._counts[id(job)] = (job.experiment.path, [done, failed, total])
        if not self._is_live:
            self._say(f"running  {job.experiment.path}")
        self._draw(at_once=True)

    def line(self, job: Job, line: Line) -> None:
        if isinstance(line, Response | Batch):
            _, count = self._counts[id(job)]
            done, ok = (line.count, line.ok) if isinstance(line, Batch) else (1, line.ok)
            count[0] += done
            count[1] += done - ok
            self._draw()

    def ended(self, job: Job, record: Record) -> None:
        path, (done, failed, total) = self._counts.pop(id(job))
        if not self._is_live:
            text = f"{done}/{total} requests, {failed} without a good answer"
            self._say(f"finished {path}: {text}")
        self._draw(at_once=True)

    def _say(self, text: str) -> None:
        with suppress(OSError):  # nobody listens any more; that is no reason to end the experiments
            print(text, file=sys.stderr, flush=True)

    def _draw(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if not self._is_live or not (at_once or now - self._drawn_at >= REFRESH_S):
            return
        self._drawn_at = now
        lines = [
            Text(f"  {path:<48} {done:>5}/{total} requests, {failed} failed")
            for path, (done, failed, total) in self._counts.values()
        ]
        self._live.update(Group(*lines), refresh=True)
