"""The first page, ``netns_tw --help``: every command with one line, by what it is for; variables; exit codes.

argparse lists subcommands in one heap, so this page is composed here, with argparse's own formatter.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping

from netns_tw.commands import environment

GROUPS = {
    "replay and judge": ("topology", "replay", "lesson"),
    "labs that stay": ("up", "ls", "exec", "shell", "set", "logs", "watch", "down"),
    "look and compute; nothing is built, no root": ("list", "show", "validate", "budget"),
    "reports from records, no root": ("report", "diff"),
    "this machine": ("doctor", "completion", "help"),
}
"""Commands by what they are for, in the order of the page; one that is not there yet is left out."""
EXIT_CODES = """exit codes:
  0 pass   1 fail   2 usage or file error   3 the machine lacks something   4 broken instrument
  5 inconclusive (too slow for its own time limit, or a race went another way)   130 interrupted
"""
RULES_OF_VARIABLES = (
    "The command line wins over a variable; an empty variable counts as unset.\n"
    "Of an option without a value: 1, true or yes; or 0, false or no."
)
_GROUP_OF_THE_REST = "more"


def first_page(parser: argparse.ArgumentParser, helps: Mapping[str, str], options: Iterable[argparse.Action]) -> str:
    """The page of *parser*: *helps* are its commands with their one line, *options* those of all commands."""
    formatter = parser._get_formatter()
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    formatter.add_text(parser.description)
    grouped = {name for names in GROUPS.values() for name in names}
    rest = {_GROUP_OF_THE_REST: tuple(name for name in helps if name not in grouped)}
    formatter.start_section("commands")
    for title, names in (GROUPS | rest).items():
        _section(formatter, title, {name: helps[name] for name in names if name in helps})
    formatter.end_section()
    formatter.add_text("netns_tw COMMAND --help, or netns_tw help COMMAND, shows a command's options and an example.")
    formatter.start_section("options")
    formatter.add_arguments([one for one in parser._actions if one.option_strings])
    formatter.end_section()
    _section(formatter, "environment variables", {**_of_options(options), **environment.OTHERS})
    formatter.add_text(RULES_OF_VARIABLES)
    formatter.add_text(EXIT_CODES)
    return formatter.format_help()


def _section(formatter: argparse.HelpFormatter, title: str, lines: Mapping[str, str]) -> None:
    formatter.start_section(title)
    formatter.add_arguments([argparse.Action([], name, metavar=name, help=text) for name, text in lines.items()])
    formatter.end_section()


def _of_options(options: Iterable[argparse.Action]) -> dict[str, str]:
    """Each variable with the option that it stands for; those that no command has are left out."""
    found: dict[str, str] = {}
    for one in options:
        name = environment.of_action(one)
        if name:
            values = "|".join(map(str, one.choices or ())) or one.metavar or ""
            value = "" if one.nargs == 0 else f" {values}"
            found.setdefault(name, f"{'/'.join(one.option_strings)}{value}")
    ordered = map(environment.variable, environment.OPTIONS)
    return {name: found[name] for name in ordered if name in found}
