"""One call of ``topology`` or ``replay``: experiments to jobs, to records, to verdicts, to paper."""

from __future__ import annotations

import os
import select
import shutil
import sys
from collections.abc import Iterable, Sequence

from netns_tw import parallel, verdict
from netns_tw.errors import EnvironmentLacks
from netns_tw.kernel import process
from netns_tw.model.experiment import Experiment
from netns_tw.model.labs import Lab
from netns_tw.model.record import Record
from netns_tw.parallel import Job, Watcher
from netns_tw.programs.choice import NO_CURL, NO_NGINX
from netns_tw.report import json, text
from netns_tw.report.progress import Progress
from netns_tw.report.run import Run


def replay(
    picked: Sequence[tuple[Lab, Experiment]],
    client: str | None,
    servers: str | None,
    at_once: int,
    is_quiet: bool,
    hold: bool,
) -> list[Run]:
    """Replay the *picked* experiments and judge them; what was inconclusive beside others is repeated once, alone.

    Raises:
        EnvironmentLacks: this machine cannot make sandboxes, or lacks nginx or curl that was asked for.
        KeyboardInterrupt: a signal came; nothing is left behind.
    """
    _check_programs(client, servers)
    versions = parallel.versions()
    jobs = [Job(lab.topology.with_nodes(one.nodes), one, client, servers, versions, hold) for lab, one in picked]
    runs = _judged(jobs, _records(jobs, at_once, is_quiet), 1)
    late = [number for number, one in enumerate(runs) if one.judgement.verdict == "inconclusive"]
    for number in late if len(jobs) > 1 else ():
        again = [jobs[number]]
        (runs[number],) = _judged(again, _records(again, 1, is_quiet), 2)
    return runs


def show(runs: Sequence[Run], exit_code: int, as_json: bool, is_quiet: bool, hold: bool) -> None:
    """Print judged runs; of a lab that was held, only what could not be shown while it was up."""
    if as_json:
        print(json.runs(runs, exit_code))
    elif not (hold and runs[0].record.is_complete):
        _print(runs, is_quiet)


def _check_programs(client: str | None, servers: str | None) -> None:
    """What was asked for by name and is missing stops the command before anything is made."""
    if servers == "nginx" and process.find_program("nginx") is None:
        raise EnvironmentLacks(f"{NO_NGINX}, or use --server h11")
    if client == "curl" and process.find_program("curl") is None:
        raise EnvironmentLacks(NO_CURL)


def _judged(jobs: Sequence[Job], records: Iterable[Record], attempts: int) -> list[Run]:
    return [
        Run(job.experiment, job.topology, record, verdict.judge(record, job.experiment, job.topology), attempts)
        for job, record in zip(jobs, records, strict=True)
    ]


def _records(jobs: Sequence[Job], at_once: int, is_quiet: bool) -> list[Record]:
    if any(job.hold for job in jobs):
        return parallel.run(jobs, at_once, _Holder())
    if is_quiet:
        return parallel.run(jobs, at_once, Watcher())
    with Progress() as progress:
        return parallel.run(jobs, at_once, progress)


class _Holder(Watcher):
    """Shows the run while its lab is still up, says how to look inside, and waits for Enter."""

    def held(self, job: Job, record: Record, init: int) -> None:
        (one,) = _judged([job], [record], 1)
        _print([one], is_quiet=False)
        # not the first on PATH: the nsenter package from PyPI installs a command of that name too
        nsenter = shutil.which("nsenter", path=os.defpath) or "/usr/bin/nsenter"
        enter = f"sudo {nsenter}" if os.geteuid() == 0 else f"{nsenter} -U --preserve-credentials"
        node = job.experiment.ports_of or job.experiment.steps[0].node
        inside = f"-t {init} -m -p --net=/proc/{init}/root/run/netns/{node}"
        command = f"{enter} {inside} ss -tan"
        print(f"The lab is up. Look inside from another terminal:\n  {command}\nEnter ends it.", file=sys.stderr)
        sys.stderr.flush()
        select.select([sys.stdin], [], [])


def _print(runs: Sequence[Run], is_quiet: bool) -> None:
    out = text.console(sys.stdout)
    if not is_quiet:
        for one in runs:
            out.print(text.run(one))
    if not is_quiet and len(runs) == 1:
        out.print(text.versions(runs))
    else:
        out.print(text.summary(runs))
