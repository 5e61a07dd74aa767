"""up, ls, down: labs that stay."""

from __future__ import annotations

import argparse
import json
import os
import sys

from netns_tw.commands import Add
from netns_tw.commands.called import called
from netns_tw.commands.run import MADE_BY
from netns_tw.errors import EXIT_PASS, NetnsTwError, UsageError
from netns_tw.model import labs
from netns_tw.rules import LINKS, SERVERS


def declare(add: Add) -> None:
    """Add the commands."""
    up = add("up", "sudo python -m netns_tw up lb3ports", _up)
    up.add_argument(
        "lab", metavar="LAB[/CLAIM]", help="a lab's name or path; with a claim: the lab as that claim changes it"
    )
    up.add_argument(
        "--name", metavar="NAME", help="what to call it (default: the lab's name, with -2, -3, ... where that is taken)"
    )
    up.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.SYSCTL=VALUE",
        help="set a sysctl before the first packet, as lb.net.ipv4.tcp_tw_reuse=1; may be repeated (default: as the"
        " file says)",
    )
    up.add_argument("--server", choices=SERVERS, help="all servers built-in, or all nginx (default: as the file says)")
    up.add_argument("--links", choices=LINKS, help=MADE_BY)
    up.add_argument(
        "--named", action="store_true", help="name the nodes /run/netns/NAME-NODE too, for ip netns exec; as root only"
    )
    add("ls", "sudo python -m netns_tw ls", _ls)
    down = add("down", "sudo python -m netns_tw down lb3ports", _down)
    down.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="labs as ls lists them; one that is gone is no error (default: none; give --all)",
    )
    down.add_argument("--all", action="store_true", help="all labs of this user")


def _up(given: argparse.Namespace) -> int:
    if given.name is not None:
        from netns_tw.standing.roster import check_name

        check_name(given.name)
    from netns_tw.model import settings

    lab, claim = labs.find_one(given.lab)
    topology = lab.topology.with_nodes(claim.nodes if claim else {})
    sysctls = settings.by_node(settings.parse(word, topology.nodes) for word in given.set)
    topology = settings.apply(topology, sysctls)
    from netns_tw.standing.bringup import How, bring_up, take_down
    from netns_tw.standing.entry import Entry
    from netns_tw.standing.roster import Roster

    entry = Entry(
        name=given.name or lab.name,
        lab=lab.name,
        folder=os.path.realpath(topology.folder),
        claim=claim.claim_id if claim else "",
        servers=given.server,
        sysctls=sysctls,
    )
    roster, call_again = Roster(), called()
    how = How(
        may_number=given.name is None, is_published=given.named, links=given.links or LINKS[0], meanwhile=_load_report
    )
    standing = bring_up(topology, entry, roster, how)
    from netns_tw.report import standing as paper

    try:
        if given.json:
            print(json.dumps(paper.as_json(standing), indent=2))
        else:
            paper.show(standing, lab, call_again)
        sys.stdout.flush()
    except KeyboardInterrupt:
        take_down(standing.entry, roster)
        raise
    return EXIT_PASS


def _load_report() -> None:
    """Load what prints; by the end of ``up`` nothing is loaded any more, since a signal then would leave the lab up."""
    import netns_tw.report.standing  # noqa: F401


def _ls(given: argparse.Namespace) -> int:
    from netns_tw.report import standing as paper
    from netns_tw.standing.roster import Roster

    rows = paper.rows(Roster().entries())
    if given.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        paper.table(rows)
    else:
        print(f"no lab is up; bring one up: {called()} up LAB", file=sys.stderr)
    return EXIT_PASS


def _down(given: argparse.Namespace) -> int:
    from netns_tw.standing.roster import Roster

    roster = Roster()
    if bool(given.names) == given.all:
        raise UsageError("which lab? name some, or --all of yours: netns_tw down NAME...; see: netns_tw ls")
    found: dict[str, str] = {}
    troubles: list[NetnsTwError] = []
    for name in dict.fromkeys(roster.all_names() if given.all else given.names):
        try:
            found[name] = "down" if roster.down(name) else "was not up"
        except NetnsTwError as error:  # the others go down all the same
            troubles.append(error)
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        for name, outcome in found.items():
            print(f"{name}: {outcome}")
    for one in troubles[:-1]:
        print(f"netns_tw: {one}", file=sys.stderr)
    if troubles:
        raise troubles[-1]
    if not found:
        print("no lab is up", file=sys.stderr)
    return EXIT_PASS
