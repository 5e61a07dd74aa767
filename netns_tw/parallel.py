"""Experiments side by side, each in a sandbox of its own; their records arrive by pipe, line by line.

The command stays single-threaded: a fork copies locks as they are, and a thread that draws progress would be caught
holding some. So one loop waits for all pipes at once and calls back what came.

What runs together is chosen so that nobody's clock is disturbed: an experiment that must fit into less than two
seconds runs before the others, alone; of those that keep a core busy there are never more than cores; those that mostly
sleep run all at once.
"""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable, Sequence
from contextlib import suppress

from netns_tw.job import Files, Job, carry_out
from netns_tw.kernel import inside, process, sandbox
from netns_tw.kernel.sandbox import Sandbox
from netns_tw.model.lines import End, Line, Trouble, from_json, to_json
from netns_tw.model.record import Record

READ_BYTES = 1 << 16


class Watcher:
    """What the caller wants to hear; each method may be left as it is."""

    def started(self, job: Job) -> None:
        """The job's sandbox was started."""

    def line(self, job: Job, line: Line) -> None:
        """A line of the job's record came."""

    def held(self, job: Job, record: Record, init: int) -> None:
        """A job with ``hold`` is through; its lab stays up, with PID 1 *init*, until this returns."""

    def ended(self, job: Job, record: Record) -> None:
        """The job is through, its sandbox gone."""

    def wait_s(self) -> float | None:
        """Seconds until ``tick`` is to be called at the latest; None: whenever something comes."""
        return None

    def tick(self) -> None:
        """All that has come was told, or ``wait_s`` is over."""


class _Running:
    """A job in its sandbox, and what has come of its record."""

    def __init__(self, job: Job, files: Files) -> None:
        self.job = job
        self.record = Record()
        self._files = files
        self._rest = b""
        read, write = os.pipe()
        self.fd = read
        try:
            self.sandbox = _start(job, lambda: _inside(job, write, files), (write, *files.all))
        except BaseException:
            os.close(read)
            files.close()
            raise
        finally:
            os.close(write)

    def read(self) -> list[Line] | None:
        """Return the lines that have come; None at the end of the pipe."""
        data = os.read(self.fd, READ_BYTES)
        if not data:
            return None
        *whole, self._rest = (self._rest + data).split(b"\n")
        lines = [from_json(text) for text in whole]
        for line in lines:
            self.record.add(line)
        return lines

    def close(self) -> None:
        """End the sandbox, wait until all of it is gone, and say so in the record if it ended too early."""
        self.sandbox.kill()
        status = self.sandbox.wait()
        os.close(self.fd)
        if not self.record.is_complete and self.record.trouble is None:
            trouble = Trouble(4, f"the lab's first process ended too early, with status {status}")
            self.record.add(trouble)
            if self._files.record is not None:
                _append_after_whole_lines(self._files.record, to_json(trouble) + b"\n")
        self._files.close()


def _start(job: Job, main: Callable[[], int], keep: tuple[int, ...]) -> Sandbox:
    """A sandbox of the job's own, or a visit to the lab that it is to be replayed in."""
    return inside.visit(job.inside.init, main, keep) if job.inside else sandbox.start(main, keep)


def _append_after_whole_lines(file: int, line: bytes) -> None:
    """Append to a record whose writer was killed; what it had written of a line is taken away first."""
    with suppress(OSError):  # a full disk: the record stays cut short
        tail_at = max(0, os.fstat(file).st_size - READ_BYTES)
        tail = os.pread(file, READ_BYTES, tail_at)
        os.ftruncate(file, tail_at + tail.rfind(b"\n") + 1)
        os.write(file, line)


def _inside(job: Job, pipe: int, files: Files) -> int:
    """PID 1's main: carry the job out; each line goes to the record's file first, then to the command."""
    records = [] if files.record is None else [files.record]

    def emit(line: Line) -> None:
        data = to_json(line) + b"\n"
        try:
            for file in records:
                process.write_whole(file, data)
        except OSError as error:
            records.clear()
            os.write(2, f"netns_tw: the record of {job.experiment.path} is cut short: {error.strerror}\n".encode())
        process.write_whole(pipe, data)

    carry_out(job, emit, files.captures)
    return 0


Open = Callable[[Job], Files]
"""Opens what a job writes to."""


def run(jobs: Sequence[Job], at_once: int, watcher: Watcher, open_files: Open = lambda job: Files()) -> list[Record]:
    """Run all *jobs*, at most *at_once* together; return their records in the order of the jobs.

    Raises:
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came; every sandbox is gone by then.
        EnvironmentLacks: no sandbox can be made here.
    """
    _load_what_labs_need(jobs)
    records: dict[int, Record] = {}
    order = sorted(range(len(jobs)), key=lambda number: -jobs[number].experiment.least_ms)
    alone = [number for number in order if jobs[number].is_tight]
    together = [number for number in order if not jobs[number].is_tight]
    for number in alone:
        _run_batch(jobs, [number], 1, watcher, records, open_files)
    _run_batch(jobs, together, at_once, watcher, records, open_files)
    return [records[number] for number in range(len(jobs))]


def _load_what_labs_need(jobs: Sequence[Job]) -> None:
    """Import once, here, what every sandbox would import after its fork, from folders that it may not see."""
    import netns_tw.kernel.capture
    import netns_tw.lab
    import netns_tw.replay
    import netns_tw.standing.stage
    import netns_tw.wiring

    for links in {one.links for one in jobs}:
        netns_tw.wiring.rtnl_by(links)


def _run_batch(
    jobs: Sequence[Job],
    waiting: list[int],
    at_once: int,
    watcher: Watcher,
    records: dict[int, Record],
    open_files: Open,
) -> None:
    waiting = list(waiting)
    running: dict[int, _Running] = {}
    cores = os.cpu_count() or 1
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while (number := _next(jobs, waiting, running, at_once, cores)) is not None:
                    waiting.remove(number)
                    with sandbox.undisturbed():
                        running[number] = _Running(jobs[number], open_files(jobs[number]))
                        selector.register(running[number].fd, selectors.EVENT_READ, number)
                    watcher.started(jobs[number])
                for key, _ in selector.select(watcher.wait_s()):
                    one = running[key.data]
                    if not _advance(one, watcher):
                        with sandbox.undisturbed():
                            selector.unregister(one.fd)
                            one.close()
                            records[key.data] = running.pop(key.data).record
                        watcher.ended(one.job, one.record)
                watcher.tick()
        finally:
            _end_all(list(running.values()))


def _next(
    jobs: Sequence[Job], waiting: list[int], running: dict[int, _Running], at_once: int, cores: int
) -> int | None:
    """The next job that may start now, or None."""
    if len(running) >= at_once:
        return None
    busy = sum(one.job.is_busy for one in running.values())
    return next((number for number in waiting if busy < cores or not jobs[number].is_busy), None)


def _advance(one: _Running, watcher: Watcher) -> bool:
    """Take in what came from *one*; False when it is over."""
    lines = one.read()
    for line in lines or ():
        watcher.line(one.job, line)
        if isinstance(line, End) and one.job.hold:
            watcher.held(one.job, one.record, one.sandbox.init)
            return False
    return lines is not None


def _end_all(running: list[_Running]) -> None:
    """End all that still runs; a second signal cannot stop this."""
    with sandbox.undisturbed():
        for one in running:
            one.sandbox.kill()
        for one in running:
            one.close()
