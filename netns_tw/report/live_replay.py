"""The live view while experiments are replayed, one at a time.

``q`` closes the view alone: the replay goes on, and how far it is is told on standard error, as without the view. What
an experiment came to stays on the screen for a moment, since many are over in less than one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType

from netns_tw.evidence.live import LiveLab
from netns_tw.job import Job
from netns_tw.model.lines import Line
from netns_tw.model.record import Record
from netns_tw.parallel import Watcher
from netns_tw.report.live import View, open_view
from netns_tw.report.live_frame import Head
from netns_tw.report.live_subject import Subject
from netns_tw.report.progress import Progress

LOOK_S = 2.0
"""How long the end of an experiment stays on the screen."""


class LiveReplay(Watcher):
    """Shows each lab that is replayed; a context manager."""

    def __init__(self, total: int) -> None:
        """Expect *total* experiments."""
        self._total, self._number = total, 0
        self._stack = ExitStack()
        self._view: View = open_view(sys.stdout)
        self._job: Job | None = None
        self._subject: Subject | None = None
        self._after: Watcher | None = None
        """Who is told of all that comes when the view is closed."""

    def __enter__(self) -> LiveReplay:
        self._stack.enter_context(self._view)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)

    def started(self, job: Job) -> None:
        self._number += 1
        if self._after:
            self._after.started(job)
            return
        lab = LiveLab(job.topology, job.experiment.steps)
        again = "repeated alone, " if job.attempt > 1 else ""
        head = Head(
            job.experiment.path,
            f"{again}experiment {self._number} of {self._total}",
            job.experiment.claim,
            "q: close  Ctrl-C: stop",
        )
        self._job, self._subject = job, (subject := Subject(lab, head))
        self._try(lambda view: view.show(subject))

    def line(self, job: Job, line: Line) -> None:
        if self._after:
            self._after.line(job, line)
        elif self._subject:
            self._subject.add(line)

    def ended(self, job: Job, record: Record) -> None:
        if self._after:
            self._after.ended(job, record)
            return
        if self._subject:
            self._subject.head = replace(self._subject.head, keys="any key: go on")
        self._try(lambda view: view.hold(LOOK_S))
        self._try(lambda view: view.finish())
        self._job = None

    def wait_s(self) -> float | None:
        return self._after.wait_s() if self._after else self._view.wait_s()

    def tick(self) -> None:
        self._try(lambda view: view.tick())

    def _try(self, call: Callable[[View], object]) -> None:
        """Do something with the view, if that is still open."""
        if self._after:
            return
        try:
            call(self._view)
        except OSError:  # nobody reads it any more; that is no reason to end the experiments
            self._after = Watcher()
        if self._view.is_left:
            self._close()

    def _close(self) -> None:
        """The view is closed: go on with plain progress."""
        progress = Progress()
        self._after = self._stack.enter_context(progress)
        if self._job and self._subject:
            requests = self._subject.lab.requests
            progress.started(self._job, requests.count, requests.failed)
