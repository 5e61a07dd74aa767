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
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from netns_tw.errors import EnvironmentLacks, NetnsTwError, Skip
from netns_tw.kernel import process, sandbox
from netns_tw.model.experiment import Experiment
from netns_tw.model.record import End, Header, Line, Record, Trouble, from_json, to_json
from netns_tw.model.topology import Topology

TIGHT_MS = 2_000
BUSY_REQUESTS = 200
BUSY_INTERVAL_MS = 50
READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Job:
    """One experiment to replay, and with what."""

    topology: Topology
    experiment: Experiment
    client: str | None = None
    servers: str | None = None
    versions: dict[str, str] = field(default_factory=dict, hash=False)
    hold: bool = False

    @property
    def is_tight(self) -> bool:
        """Whether some part of it must fit into less than two seconds."""
        limits = [self.experiment.within_ms, *(step.within_ms for step in self.experiment.steps)]
        return any(limit is not None and limit < TIGHT_MS for limit in limits)

    @property
    def is_busy(self) -> bool:
        """Whether it keeps about a core busy."""
        return any(
            step.requests >= BUSY_REQUESTS and step.interval_ms < BUSY_INTERVAL_MS for step in self.experiment.steps
        )


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


class _Running:
    """A job in its sandbox, and what has come of its record."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.record = Record()
        self._rest = b""
        read, write = os.pipe()
        self.fd = read
        try:
            self.sandbox = sandbox.start(lambda: _inside(job, write), keep=(write,))
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)

    def read(self) -> list[Line] | None:
        """Return the lines that have come; None at the end of the pipe."""
        data = os.read(self.fd, READ_BYTES)
        if not data:
            return None
        *whole, self._rest = (self._rest + data).split(b"\n")
        lines = [from_json(text.decode()) for text in whole]
        for line in lines:
            self.record.add(line)
        return lines

    def close(self) -> None:
        """End the sandbox, wait until all of it is gone, and say so in the record if it ended too early."""
        self.sandbox.kill()
        status = self.sandbox.wait()
        os.close(self.fd)
        if not self.record.is_complete and self.record.trouble is None:
            self.record.add(Trouble(4, f"the lab's first process ended too early, with status {status}"))


def run(jobs: Sequence[Job], at_once: int, watcher: Watcher) -> list[Record]:
    """Run all *jobs*, at most *at_once* together; return their records in the order of the jobs.

    Raises:
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came; every sandbox is gone by then.
        EnvironmentLacks: no sandbox can be made here.
    """
    _load_what_labs_need()
    records: dict[int, Record] = {}
    order = sorted(range(len(jobs)), key=lambda number: -jobs[number].experiment.least_ms)
    alone = [number for number in order if jobs[number].is_tight]
    together = [number for number in order if not jobs[number].is_tight]
    for number in alone:
        _run_batch(jobs, [number], 1, watcher, records)
    _run_batch(jobs, together, at_once, watcher, records)
    return [records[number] for number in range(len(jobs))]


def _load_what_labs_need() -> None:
    """Import once, here, what every sandbox would import after its fork; pyroute2 alone takes 0.3 s."""
    import netns_tw.lab
    import netns_tw.replay  # noqa: F401


def _run_batch(
    jobs: Sequence[Job], waiting: list[int], at_once: int, watcher: Watcher, records: dict[int, Record]
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
                        running[number] = _Running(jobs[number])
                        selector.register(running[number].fd, selectors.EVENT_READ, number)
                    watcher.started(jobs[number])
                for key, _ in selector.select():
                    one = running[key.data]
                    if not _advance(one, watcher):
                        with sandbox.undisturbed():
                            selector.unregister(one.fd)
                            one.close()
                            records[key.data] = running.pop(key.data).record
                        watcher.ended(one.job, one.record)
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


def _inside(job: Job, fd: int) -> int:
    """PID 1's main: build the lab, replay, write the record's lines to *fd*."""
    from netns_tw.programs.choice import choose

    def emit(line: Line) -> None:
        data = to_json(line).encode() + b"\n"
        while data:
            data = data[os.write(fd, data) :]

    try:
        programs, notes = choose(job.topology, job.servers, process.find_program("nginx") is not None)
        _replay(job, dict(programs), notes, emit)
    except Skip as error:
        emit(Trouble(error.exit_code, str(error), skip=True))
    except NetnsTwError as error:
        emit(Trouble(error.exit_code, str(error)))
    return 0


def _replay(job: Job, programs: dict, notes: list[str], emit: Callable[[Line], None]) -> None:  # type: ignore[type-arg]
    from netns_tw import lab, replay
    from netns_tw.programs.choice import NO_CURL, describe

    curl = process.find_program("curl")
    client = job.client
    if curl is None and "curl" in {client or step.client for step in job.experiment.steps}:
        raise EnvironmentLacks(NO_CURL)
    running = lab.RunningLab(job.topology, programs)
    with running:
        sysctls = {name: node.sysctls for name, node in running.nodes.items()}
        what = {name: describe(program) for name, program in programs.items()}
        release = lab.kernel_release()
        emit(Header(job.topology.name, job.experiment.claim_id, release, job.versions, sysctls, what, notes))
        replay.replay(running, job.experiment, replay.Choices(client, curl or "curl"), emit)
        if job.hold:
            signal.pause()


def versions() -> dict[str, str]:
    """The versions of what may take part, by name; those that are not installed are missing."""
    import subprocess
    from importlib import metadata

    import netns_tw
    from netns_tw.programs import nginx

    found = {
        "netns_tw": netns_tw.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "h11": metadata.version("h11"),
    }
    if path := process.find_program("nginx"):
        found["nginx"] = nginx.version(path)
    if path := process.find_program("curl"):
        text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        found["curl"] = (text.split()[1:] or [""])[0]
    return found
