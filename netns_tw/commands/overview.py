"""The first page, ``netns_tw --help``: every command with one line, by what it is for; variables; exit codes.

argparse lists subcommands in one heap, so this page is composed here, with argparse's own formatter.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from netns_tw.commands import environment

GROUPS = {
    "replay and judge": {
        "topology": "replay every experiment of one lab",
        "replay": "replay any set of experiments side by side; all where none is named",
        "lesson": "walk a student through a lab: predict, replay, compare; with --check, grade the answers of a class",
    },
    "labs that stay": {
        "up": "bring a lab up that stays until down",
        "ls": "list the labs that are up",
        "exec": "run a command on a node of a lab that is up; its exit code is ours",
        "shell": "open a shell on a node; its prompt names lab and node",
        "set": "set sysctls of a lab that is up",
        "logs": "print what a node's program logged",
        "watch": "show a lab that is up live: ports, TIME_WAITs and the seconds they have left, requests of a replay",
        "down": "take labs down; nothing of them is left",
    },
    "look and compute; nothing is built, no root": {
        "list": "list the labs and their claims",
        "show": "show a lab's diagram, addresses, sysctls and claims",
        "validate": "check lab folders and files",
        "budget": "predict when a node that closes first runs out of local ports",
    },
    "reports from records, no root": {
        "report": "draw reports from records",
        "diff": "compare two records: two kernels, two configurations, two machines; exit 1 when verdicts differ",
    },
    "this machine": {
        "doctor": "say what this machine can and cannot do, and the command that mends it",
        "completion": "print the script that lets a shell complete commands, labs, claims and files",
        "help": "show a command's options and an example",
    },
}
"""All commands by what they are for, in the order of the page."""
HELPS = {name: help for group in GROUPS.values() for name, help in group.items()}
"""Each command with its one line."""
EXIT_CODES = """exit codes:
  0 pass   1 fail   2 usage or file error   3 the machine lacks something   4 broken instrument
  5 inconclusive (too slow for its own time limit, or a race went another way)   130 interrupted
"""
RULES_OF_VARIABLES = (
    "The command line wins over a variable; an empty variable counts as unset.\n"
    "Of an option without a value: 1, true or yes; or 0, false or no."
)


def first_page(parser: argparse.ArgumentParser) -> str:
    """The page of *parser*; it needs no command's own parser."""
    formatter = parser._get_formatter()
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    formatter.add_text(parser.description)
    formatter.start_section("commands")
    for title, helps in GROUPS.items():
        _section(formatter, title, helps)
    formatter.end_section()
    formatter.add_text("netns_tw COMMAND --help, or netns_tw help COMMAND, shows a command's options and an example.")
    formatter.start_section("options")
    formatter.add_arguments([one for one in parser._actions if one.option_strings])
    formatter.end_section()
    options = {environment.variable(name): shown for name, shown in environment.OPTIONS.items()}
    _section(formatter, "environment variables", {**options, **environment.OTHERS})
    formatter.add_text(RULES_OF_VARIABLES)
    formatter.add_text(EXIT_CODES)
    return formatter.format_help()


def _section(formatter: argparse.HelpFormatter, title: str, lines: Mapping[str, str]) -> None:
    formatter.start_section(title)
    formatter.add_arguments([argparse.Action([], name, metavar=name, help=text) for name, text in lines.items()])
    formatter.end_section()
