"""topology, replay: experiments replayed on labs of their own, and judged."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from netns_tw import runs
from netns_tw.commands import Add
from netns_tw.commands.labs import list_labs
from netns_tw.commands.report import add_outputs, check_outputs, write_reports
from netns_tw.commands.streams import hush
from netns_tw.errors import UsageError
from netns_tw.model import labs
from netns_tw.rules import CLIENTS, LINKS, SERVERS

if TYPE_CHECKING:
    from netns_tw.job import Inside
    from netns_tw.model.experiment import Experiment

AT_ONCE = 12
MADE_BY = "who makes the veth pairs: our own rtnetlink requests, or pyroute2, which is slower (default: netlink)"


def declare(add: Add) -> None:
    """Add the commands."""
    topology = add("topology", "sudo python -m netns_tw topology lb3ports", _topology)
    topology.add_argument(
        "lab", nargs="?", metavar="LAB", help="a lab's name, or the path of your own (default: list the labs)"
    )
    topology.add_argument("--only", metavar="CLAIM", help="replay this claim alone (default: all of the lab)")
    topology.add_argument("--hold", action="store_true", help="with --only: keep the lab up afterwards, until Enter")
    replay = add("replay", "sudo python -m netns_tw replay direct lb3ports/lb-exhausts-its-ports", _replay)
    replay.add_argument("names", nargs="*", metavar="LAB[/CLAIM]", help="labs or single claims (default: all)")
    replay.add_argument(
        "--in",
        dest="inside",
        metavar="NAME",
        help="replay one claim's steps in a lab that is up, as ls lists it (default: build a lab for each)",
    )
    for one in (topology, replay):
        _add_options_of_a_run(one)
        add_outputs(one)


def _add_options_of_a_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--client", choices=CLIENTS, help="the client of every step (default: as the file says, h11)")
    command.add_argument(
        "--server", choices=SERVERS, help="all servers built-in, or all nginx (default: as the file says)"
    )
    command.add_argument("--links", choices=LINKS, help=MADE_BY)
    command.add_argument(
        "-j", "--jobs", type=_positive, default=AT_ONCE, metavar="N", help=f"experiments at once (default: {AT_ONCE})"
    )
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="keep the records in DIR (default: a folder among the kept runs)"
    )
    command.add_argument(
        "--keep",
        type=_count,
        metavar="N",
        help=f"how many runs' records are kept, 0 for none (default: {runs.KEEP})",
    )
    command.add_argument(
        "--pcap",
        type=Path,
        metavar="DIR",
        help="capture every link, all its packets, into a pcapng file in DIR (default: none)",
    )
    command.add_argument(
        "--watch",
        action="store_true",
        help="show ports, TIME_WAITs and requests live, one experiment at a time (as -j 1); then the report",
    )
    command.add_argument("-q", "--quiet", action="store_true", help="the summary only, no progress")


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 up")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 up")
    return int(text)


def _topology(given: argparse.Namespace) -> int:
    if given.lab is None:
        if given.only or given.hold or given.watch:
            raise UsageError("which lab? name one: netns_tw topology LAB")
        return list_labs(given)
    if given.hold and (not given.only or given.json):
        raise UsageError(
            "--hold keeps one experiment's lab up and shows text: name it with --only CLAIM, without --json"
        )
    if given.hold and given.pcap:
        raise UsageError("a capture ends with its lab, and --hold keeps it up: use --hold or --pcap")
    lab = labs.read_lab(labs.folder_of(given.lab))
    picked = [labs.pick(lab, given.only)] if given.only else list(lab.experiments.values())
    return _run(given, [(lab, one) for one in picked], hold=given.hold)


def _replay(given: argparse.Namespace) -> int:
    if given.inside is not None:
        return _replay_inside(given)
    return _run(given, list(labs.find(given.names)), hold=False)


def _replay_inside(given: argparse.Namespace) -> int:
    if len(given.names) != 1:
        raise UsageError("which claim? name one: netns_tw replay --in NAME CLAIM")
    if any(getattr(given, one) and one not in given.variables for one in ("server", "links", "pcap")):
        raise UsageError("with --in the lab is there already: leave out --server, --links and --pcap")
    given.server = given.links = given.pcap = None  # a job's variables: they stand back
    from netns_tw.standing import visit
    from netns_tw.standing.roster import Roster

    entry = Roster().find(given.inside)
    lab, topology = visit.lab_of(entry)
    experiment = labs.pick(lab, given.names[0].removeprefix(f"{lab.name}/"))
    return _run(given, [(lab, experiment)], hold=False, inside=visit.stage_for(entry, lab, topology, experiment))


def _run(
    given: argparse.Namespace, picked: list[tuple[labs.Lab, Experiment]], hold: bool, inside: Inside | None = None
) -> int:
    if not picked:
        raise UsageError("there is no experiment to replay: a lab's are its files experiments/*.toml")
    is_text = check_outputs(given)
    if given.watch and (hold or given.quiet or not is_text):
        raise UsageError(
            "--watch draws on standard output while an experiment runs: leave out --hold, -q and what prints there,"
            " such as --json (a lab that stays: netns_tw up LAB, then netns_tw watch NAME)"
        )
    if hold and not is_text:
        raise UsageError("--hold shows text while the lab is up; write other reports later: netns_tw report")
    from netns_tw import session, verdict

    keep = runs.KEEP if given.keep is None else given.keep
    wishes = session.Wishes(
        given.client,
        given.server,
        given.jobs,
        given.quiet,
        not is_text,
        hold,
        given.out,
        keep,
        given.pcap,
        given.watch,
        inside,
        given.links,
    )
    found = session.replay(picked, wishes)
    code = verdict.exit_code([one.judgement for one in found])
    try:
        if is_text or given.json:
            session.show(found, code, wishes)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough; the verdict stands
        hush()
    write_reports(found, given.junit, given.html, given.ktap)
    return code
