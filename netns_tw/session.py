"""One call of ``topology`` or ``replay``: experiments to jobs, to records, to verdicts, to paper."""

from __future__ import annotations

import os
import re
import select
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from netns_tw import job, parallel, runs, verdict
from netns_tw.errors import EnvironmentLacks, UsageError
from netns_tw.job import Files, Inside, Job
from netns_tw.kernel import process
from netns_tw.model import labs
from netns_tw.model.experiment import Experiment
from netns_tw.model.labs import Lab
from netns_tw.model.record import Record
from netns_tw.parallel import Watcher
from netns_tw.programs.choice import NO_CURL, NO_NGINX
from netns_tw.report import json, text
from netns_tw.report.live_replay import LiveReplay
from netns_tw.report.progress import Progress
from netns_tw.report.run import Run
from netns_tw.rules import LINKS
from netns_tw.runs import RunFolder


@dataclass(frozen=True)
class Wishes:
    """What the command line asks of a call of ``topology`` or ``replay``."""

    client: str | None = None
    servers: str | None = None
    at_once: int = 1
    is_quiet: bool = False
    as_json: bool = False
    hold: bool = False
    out: Path | None = None
    """Where the records go; None: a folder of their own among the kept runs."""
    keep: int = runs.KEEP
    """How many runs are kept; 0: no records."""
    pcap: Path | None = None
    """Where captures of all links go."""
    watch: bool = False
    """Show each lab as it is while it is replayed."""
    inside: Inside | None = None
    """The lab that is up in which to replay."""
    links: str | None = None
    """Who makes the links."""


def replay(picked: Sequence[tuple[Lab, Experiment]], wishes: Wishes) -> list[Run]:
    """Replay the *picked* experiments and judge them; what was inconclusive beside others is repeated once, alone.

    Raises:
        EnvironmentLacks: this machine cannot make sandboxes, or lacks nginx or curl that was asked for.
        UsageError: the folder of ``--out`` has records of these experiments already.
        KeyboardInterrupt: a signal came; nothing is left behind.
    """
    _check_programs(wishes.client, wishes.servers)
    versions = job.versions()
    jobs = [
        Job(
            lab.topology.with_nodes(one.nodes),
            one,
            wishes.client,
            wishes.servers,
            versions,
            labs.files_of(lab.topology, one),
            wishes.hold,
            inside=wishes.inside,
            links=wishes.links or LINKS[0],
        )
        for lab, one in picked
    ]
    with ExitStack() as stack:
        keeper = _keeper(jobs, wishes, stack)
        found = _judged(jobs, _records(jobs, wishes, keeper), keeper)
        late = [number for number, one in enumerate(found) if one.judgement.verdict == "inconclusive"]
        for number in late if len(jobs) > 1 else ():
            again = [replace(jobs[number], attempt=2)]
            (found[number],) = _judged(again, _records(again, replace(wishes, at_once=1), keeper), keeper)
    if wishes.out is None and wishes.keep:
        runs.prune(wishes.keep)
    _say_where(found, wishes)
    return found


def _say_where(found: Sequence[Run], wishes: Wishes) -> None:
    """Where records and captures are, on standard error."""
    folders = {one.path.parent for one in found if one.path} | ({wishes.pcap} if wishes.pcap else set())
    with suppress(OSError):  # nobody listens
        for folder in sorted(folders if not wishes.is_quiet else ()):
            what = "captures" if folder == wishes.pcap and folder != wishes.out else "records"
            print(f"{what}: {folder}", file=sys.stderr, flush=True)


class _Keeper:
    """Opens what each job writes to: its record, and a capture for each link."""

    def __init__(self, jobs: Sequence[Job], records: RunFolder | None, captures: RunFolder | None) -> None:
        self._records, self._captures = records, captures
        self._names: dict[int, str] = {}
        taken: dict[str, int] = {}
        for one in jobs:
            name = f"{one.experiment.lab}--{one.experiment.claim_id}"
            taken[name] = taken.get(name, 0) + 1  # two labs of one name
            self._names[id(one.experiment)] = name + (f"--lab{taken[name]}" if taken[name] > 1 else "")

    def _name(self, job: Job) -> str:
        return self._names[id(job.experiment)] + (f"--{job.attempt}" if job.attempt > 1 else "")

    def record(self, job: Job) -> Path | None:
        """Where the job's record is kept."""
        return self._records.path / f"{self._name(job)}{runs.SUFFIX}" if self._records else None

    def captures(self, job: Job) -> dict[str, Path]:
        """Where the packets of each link go, by its name."""
        if self._captures is None:
            return {}
        found = {}
        for link in job.topology.links:
            plain = re.sub(r"[^\w.-]", "_", "--".join(f"{end.node}-{end.interface}" for end in link))
            found[link.name] = self._captures.path / f"{self._name(job)}--{plain}.pcapng"
        return found

    def open(self, job: Job) -> Files:
        """Make the files; called as the job starts."""
        path, fds = self.record(job), {}
        record = self._records.open(path) if self._records and path else None
        for name, one in self.captures(job).items():
            assert self._captures is not None
            fds[name] = self._captures.open(one)
        return Files(record, fds)


def _keeper(jobs: Sequence[Job], wishes: Wishes, stack: ExitStack) -> _Keeper:
    captures = stack.enter_context(RunFolder(wishes.pcap)) if wishes.pcap else None
    records = None
    try:
        if wishes.out is not None:
            records = stack.enter_context(RunFolder(wishes.out))
        elif wishes.keep:
            records = stack.enter_context(runs.new_run())
    except UsageError as error:
        if wishes.out is not None:
            raise
        print(f"netns_tw: no record is kept: {error}", file=sys.stderr)
    keeper = _Keeper(jobs, records, captures)
    for one in jobs:
        for path in (keeper.record(one), *keeper.captures(one).values()):
            if path and path.exists():
                raise UsageError(f"{path}: is there already; choose another folder, or remove it")
    return keeper


def show(found: Sequence[Run], exit_code: int, wishes: Wishes) -> None:
    """Print judged runs; of a lab that was held, only what could not be shown while it was up."""
    if wishes.as_json:
        print(json.runs(found, exit_code))
    elif not (wishes.hold and found[0].record.is_complete):
        text.show(found, wishes.is_quiet)


def _check_programs(client: str | None, servers: str | None) -> None:
    """What was asked for by name and is missing stops the command before anything is made."""
    if servers == "nginx" and process.find_program("nginx") is None:
        raise EnvironmentLacks(f"{NO_NGINX}, or use --server h11")
    if client == "curl" and process.find_program("curl") is None:
        raise EnvironmentLacks(NO_CURL)


def _judged(jobs: Sequence[Job], records: Iterable[Record], keeper: _Keeper) -> list[Run]:
    return [
        Run(
            one.experiment,
            one.topology,
            record,
            verdict.judge(record, one.experiment, one.topology),
            keeper.record(one),
        )
        for one, record in zip(jobs, records, strict=True)
    ]


def _records(jobs: Sequence[Job], wishes: Wishes, keeper: _Keeper) -> list[Record]:
    if wishes.hold:
        return parallel.run(jobs, wishes.at_once, _Holder(keeper), keeper.open)
    if wishes.watch:
        with LiveReplay(len(jobs)) as live:
            return parallel.run(jobs, 1, live, keeper.open)
    if wishes.is_quiet or wishes.as_json:
        return parallel.run(jobs, wishes.at_once, Watcher(), keeper.open)
    with Progress() as progress:
        return parallel.run(jobs, wishes.at_once, progress, keeper.open)


class _Holder(Watcher):
    """Shows the run while its lab is still up, says how to look inside, and waits for Enter."""

    def __init__(self, keeper: _Keeper) -> None:
        self._keeper = keeper

    def held(self, job: Job, record: Record, init: int) -> None:
        (one,) = _judged([job], [record], self._keeper)
        text.show([one])
        # not the first on PATH: the nsenter package from PyPI installs a command of that name too
        nsenter = shutil.which("nsenter", path=os.defpath) or "/usr/bin/nsenter"
        enter = f"sudo {nsenter}" if os.geteuid() == 0 else f"{nsenter} -U --preserve-credentials"
        node = job.experiment.ports_of or job.experiment.steps[0].node
        inside = f"-t {init} -m -p --net=/proc/{init}/root/run/netns/{node}"
        command = f"{enter} {inside} ss -tan"
        print(f"The lab is up. Look inside from another terminal:\n  {command}\nEnter ends it.", file=sys.stderr)
        sys.stderr.flush()
        select.select([sys.stdin], [], [])
