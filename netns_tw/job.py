"""One experiment to replay: with what, and how that is done in its sandbox."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from netns_tw.errors import EnvironmentLacks, NetnsTwError, Skip
from netns_tw.kernel import process
from netns_tw.kernel.inside import Proof
from netns_tw.model import closers, pcapng
from netns_tw.model.experiment import Experiment
from netns_tw.model.lines import Built, Captured, Close, Header, Line, Ran, Trouble
from netns_tw.model.topology import HttpProxy, HttpServer, Program, Topology
from netns_tw.rules import BARE

if TYPE_CHECKING:
    from netns_tw.lab import RunningLab

Emit = Callable[[Line], None]
TIGHT_MS = 2_000
BUSY_REQUESTS = 200
BUSY_INTERVAL_MS = 50


@dataclass(frozen=True)
class Inside:
    """A lab that is up, to replay an experiment in."""

    name: str
    init: Proof
    programs: Mapping[str, Program]
    """What runs on its nodes."""
    differs: tuple[str, ...] = ()
    """In what it is not the lab that the claim is about, as far as its files tell."""


@dataclass(frozen=True)
class Job:
    """One experiment to replay, and with what."""

    topology: Topology
    experiment: Experiment
    client: str | None = None
    servers: str | None = None
    versions: dict[str, str] = field(default_factory=dict, hash=False)
    files: dict[str, str] = field(default_factory=dict, hash=False)
    """The lab's files, for the record."""
    hold: bool = False
    attempt: int = 1
    inside: Inside | None = field(default=None, hash=False)
    """The lab that is up; None: one of its own is built."""
    links: str = "netlink"
    """Who makes the links of the lab, one of rules.LINKS."""

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


@dataclass(frozen=True)
class Files:
    """What a job writes to, opened by the command before the sandbox hides its folders; file descriptors."""

    record: int | None = None
    captures: dict[str, int] = field(default_factory=dict)
    """By the link's name."""

    @property
    def all(self) -> tuple[int, ...]:
        return (*(() if self.record is None else (self.record,)), *self.captures.values())

    def close(self) -> None:
        for fd in self.all:
            os.close(fd)


def carry_out(job: Job, emit: Emit, captures: Mapping[str, int]) -> None:
    """Build the job's lab, replay its experiment and emit the record's lines; as PID 1 of a sandbox, or as a visit.

    What stops it is a line of the record too.
    """
    from netns_tw import lab
    from netns_tw.programs.choice import NO_CURL
    from netns_tw.replay import Choices, Replay, now_ms
    from netns_tw.standing import stage

    zero_ms, zero_ns = now_ms(), time.time_ns()
    began = datetime.now(UTC).isoformat(timespec="milliseconds")
    where = (job.topology.name, job.experiment.claim_id, lab.kernel_release(), job.versions, job.files)
    inside = job.inside.name if job.inside else ""
    emit(Header(*where, job.client, job.servers, began, os.cpu_count() or 1, job.attempt, inside))
    try:
        curl = process.find_program("curl")
        if curl is None and "curl" in {
            job.client or step.client for step in job.experiment.steps if step.client != BARE
        }:
            raise EnvironmentLacks(NO_CURL)
        if job.inside:
            stage.take(job.inside.name)
            emit = stage.shown(emit)
        running, notes = _lab_of(job, captures)
        with running:
            emit(_built(job, running, notes, now_ms() - zero_ms))
            replay = Replay(running, job.experiment, Choices(job.client, curl or "curl"), emit, zero_ms)
            replay.run()
            for name, count in running.stop_captures().items():
                emit(_captured(name, captures[name], count.written, count.dropped, zero_ns))
            emit(replay.end())
            if job.hold:
                signal.pause()
            if job.inside is None:
                running.leave_to_the_sandbox()
    except Skip as error:
        emit(Trouble(error.exit_code, str(error), skip=True))
    except NetnsTwError as error:
        emit(Trouble(error.exit_code, str(error)))


def _lab_of(job: Job, captures: Mapping[str, int]) -> tuple[RunningLab, list[str]]:
    """The lab that is up, or one to be built; and what differs from its file."""
    from netns_tw import lab
    from netns_tw.programs.choice import choose

    if job.inside:
        return lab.VisitedLab(job.topology, dict(job.inside.programs)), []
    programs, notes = choose(job.topology, job.servers, process.find_program("nginx") is not None)
    return lab.RunningLab(job.topology, dict(programs), captures, job.links), notes


def _built(job: Job, running: RunningLab, notes: list[str], at_ms: float) -> Built:
    sysctls = {name: node.sysctls for name, node in running.nodes.items()}
    ran = {name: _ran(program, job.versions.get("nginx", "")) for name, program in running.programs.items()}
    differs = [*job.inside.differs, *_differing(job.topology, sysctls)] if job.inside else []
    return Built(round(at_ms, 3), sysctls, ran, notes, differs)


def _differing(topology: Topology, effective: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Which sysctls of a lab that is up are not as the claim has them."""
    return [
        f"{node.name}: {name} = {effective[node.name].get(name)}, the claim's is {value}"
        for node in topology.nodes.values()
        for name, value in node.sysctls.items()
        if effective[node.name].get(name) != value
    ]


def _captured(link: str, fd: int, packets: int, dropped: int, zero_ns: int) -> Captured:
    """Read a finished capture again: how each of its connections ended."""
    with open(os.dup(fd), "rb") as file:
        file.seek(0)
        found = closers.connections(pcapng.Reader(file))
    closes: list[Close] = [
        (*one.opener, *one.acceptor, round((one.first_syn_at - zero_ns) / 1e6, 3), one.end) for one in found
    ]
    return Captured(link, closes, packets, dropped)


def _ran(program: Program, version: str) -> Ran:
    from netns_tw.programs import nginx
    from netns_tw.programs.choice import describe

    words, listen = describe(program), str(program.listen)
    if isinstance(program, HttpServer):
        return Ran("http-server", words, listen, close=program.close, max_requests=program.max_requests)
    if isinstance(program, HttpProxy):
        return Ran("http-proxy", words, listen, "", 0, program.keepalive, program.keepalive_requests)
    return Ran("nginx", words, listen, "", 0, *nginx.kept(program, version))


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
