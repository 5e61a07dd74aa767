"""exec, shell, set, logs, watch: inside a lab that is up."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import suppress
from typing import NoReturn

from netns_tw.commands import Add
from netns_tw.errors import EXIT_PASS, UsageError

NAME = "a lab, as ls lists it"


def declare(add: Add) -> None:
    """Add the commands."""
    run = add(
        "exec",
        "sudo python -m netns_tw exec lb3ports client -- curl -si http://198.18.1.1/",
        _exec,
        json=False,
    )
    run.add_argument("name", metavar="NAME", help=NAME)
    run.add_argument("node", metavar="NODE", help="a node of that lab")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND...", help="the command and its arguments")
    shell = add("shell", "sudo python -m netns_tw shell lb3ports lb", _shell, json=False)
    shell.add_argument("name", metavar="NAME", help=NAME)
    shell.add_argument("node", metavar="NODE", help="a node of that lab")
    change = add("set", "sudo python -m netns_tw set lb3ports lb.net.ipv4.tcp_tw_reuse=1", _set)
    change.add_argument("name", metavar="NAME", help=NAME)
    change.add_argument(
        "settings",
        nargs="+",
        metavar="NODE.SYSCTL=VALUE",
        help="a sysctl of a node and its new value; net.ipv4. may be left out",
    )
    logs = add("logs", "sudo python -m netns_tw logs lb3ports lb -f", _logs, json=False)
    logs.add_argument("name", metavar="NAME", help=NAME)
    logs.add_argument("node", metavar="NODE", help="a node of that lab that runs a program")
    logs.add_argument(
        "-f", "--follow", action="store_true", help="go on with what comes, until the lab is gone or Ctrl-C"
    )
    watch = add("watch", "sudo python -m netns_tw watch lb3ports", _watch, json=False)
    watch.add_argument("name", metavar="NAME", help=NAME)


def _exec(given: argparse.Namespace) -> int:
    argv = given.argv[1:] if given.argv[:1] == ["--"] else given.argv
    if not argv or not argv[0]:
        raise UsageError("which command? netns_tw exec NAME NODE -- COMMAND...")
    return _run(given, argv)


def _shell(given: argparse.Namespace) -> int:
    return _run(given, None)


def _run(given: argparse.Namespace, argv: list[str] | None) -> NoReturn:
    """Run *argv*, or the user's shell; never return: this process is in the lab then, with its signals held back."""
    from netns_tw.standing import visit
    from netns_tw.standing.roster import Roster

    entry = Roster().find(given.name)
    os._exit(visit.run_shell(entry, given.node) if argv is None else visit.run(entry, given.node, argv))


def _set(given: argparse.Namespace) -> int:
    from netns_tw.model import settings
    from netns_tw.standing import visit
    from netns_tw.standing.roster import Roster

    entry = Roster().find(given.name)
    wanted = [settings.parse(word, entry.nodes) for word in given.settings]
    done = visit.set_sysctls(entry, wanted)
    if given.json:
        rows = [{"node": one.node, "sysctl": one.name, "before": before, "now": one.value} for one, before in done]
        print(json.dumps(rows, indent=2))
        return EXIT_PASS
    for one, before in done:
        print(f"{one.node}: {one.name} = {one.value}  (before: {before})")
    return EXIT_PASS


def _logs(given: argparse.Namespace) -> int:
    from netns_tw.standing import visit
    from netns_tw.standing.roster import Roster

    with suppress(KeyboardInterrupt):  # the way to leave it
        for data in visit.log(Roster().find(given.name), given.node, given.follow):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    return EXIT_PASS


def _watch(given: argparse.Namespace) -> int:
    from netns_tw.report import live
    from netns_tw.standing import visit
    from netns_tw.standing.roster import Roster

    entry = Roster().find(given.name)
    _, topology = visit.lab_of(entry)
    trouble = None
    with visit.lookout(entry, topology) as lines, suppress(KeyboardInterrupt):  # the way to leave it
        trouble = live.watch(topology, entry.name, lines)
    if trouble:
        print(f"netns_tw: {trouble.message}", file=sys.stderr)
    return trouble.exit_code if trouble else EXIT_PASS
