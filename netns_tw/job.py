"""One experiment to replay: with what, and how that is done in its sandbox."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from netns_tw.errors import EnvironmentLacks, NetnsTwError, Skip
from netns_tw.kernel import process
from netns_tw.model.experiment import Experiment
from netns_tw.model.record import Built, Header, Line, Ran, Trouble
from netns_tw.model.topology import HttpProxy, HttpServer, Program, Topology

Emit = Callable[[Line], None]
TIGHT_MS = 2_000
BUSY_REQUESTS = 200
BUSY_INTERVAL_MS = 50


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


def carry_out(job: Job, emit: Emit) -> None:
    """Build the job's lab, replay its experiment and emit the record's lines; as PID 1 of a sandbox.

    What stops it is a line of the record too.
    """
    from netns_tw import lab
    from netns_tw.programs.choice import choose
    from netns_tw.replay import now_ms

    zero_ms = now_ms()
    began = datetime.now(UTC).isoformat(timespec="milliseconds")
    where = (job.topology.name, job.experiment.claim_id, lab.kernel_release(), job.versions, job.files)
    emit(Header(*where, job.client, job.servers, began, os.cpu_count() or 1, job.attempt))
    try:
        programs, notes = choose(job.topology, job.servers, process.find_program("nginx") is not None)
        _replay(job, dict(programs), notes, emit, zero_ms)
    except Skip as error:
        emit(Trouble(error.exit_code, str(error), skip=True))
    except NetnsTwError as error:
        emit(Trouble(error.exit_code, str(error)))


def _replay(job: Job, programs: dict[str, Program], notes: list[str], emit: Emit, zero_ms: float) -> None:
    from netns_tw import lab
    from netns_tw.programs.choice import NO_CURL
    from netns_tw.replay import Choices, Replay, now_ms

    curl = process.find_program("curl")
    client = job.client
    if curl is None and "curl" in {client or step.client for step in job.experiment.steps}:
        raise EnvironmentLacks(NO_CURL)
    with lab.RunningLab(job.topology, programs) as running:
        sysctls = {name: node.sysctls for name, node in running.nodes.items()}
        ran = {name: _ran(program, job.versions.get("nginx", "")) for name, program in programs.items()}
        emit(Built(round(now_ms() - zero_ms, 3), sysctls, ran, notes))
        Replay(running, job.experiment, Choices(client, curl or "curl"), emit, zero_ms).run()
        if job.hold:
            signal.pause()


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
