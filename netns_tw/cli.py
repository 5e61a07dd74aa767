"""The command line: words to a call, errors to one message and an exit code.

Standard output is data, standard error is talk. The commands themselves are in ``commands/``. An option is never
abbreviated: ``--cli`` in a CI job would mean another option on the day that one is added.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from netns_tw import __version__
from netns_tw.commands import (
    Add,
    Call,
    budget,
    completion,
    doctor,
    environment,
    inside,
    labs,
    lesson,
    overview,
    report,
    run,
    stay,
)
from netns_tw.commands.overview import EXIT_CODES
from netns_tw.commands.streams import hush
from netns_tw.errors import EXIT_ENVIRONMENT, EXIT_PASS, EXIT_USAGE, NetnsTwError, near_match


class _Parser(argparse.ArgumentParser):
    """argparse with a near match for a mistyped command, and one line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        words = [word for word in message.split("'") if word]
        if "invalid choice" in message and len(words) > 1:
            named = message.split(":")[0].removeprefix("argument ")
            known = {"/".join(one.option_strings) or one.metavar: one.choices or () for one in self._actions}
            allowed = [str(one) for one in known.get(named, ())]
            message = message.split(" (choose", 1)[0] + near_match(words[1], allowed)
        print(f"{self.prog}: {message}\ntry: {self.prog} --help", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Refuse *words* that nothing took, with the option that is nearest to the first wrong one."""
        wrong = next((word.split("=")[0] for word in words if word.startswith("-")), "")
        options = [option for action in self._actions for option in action.option_strings]
        near = near_match(wrong, options) if wrong else ""
        self.error(f"unrecognized arguments: {' '.join(words)}{near}")


class _Top(_Parser):
    """The parser of all commands; its help is the first page."""

    commands: argparse._SubParsersAction[_Parser]

    def format_help(self) -> str:
        helps = {one.dest: one.help or "" for one in self.commands._choices_actions}
        parsers = self.commands.choices.values()
        return overview.first_page(self, helps, (action for one in parsers for action in one._actions))


def parser() -> _Top:
    """The whole command line."""
    top = _Top(
        prog="netns_tw",
        description="TIME_WAIT and ephemeral ports, replayed on the kernel in front of you.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"netns_tw {__version__}", help="show the version and exit")
    top.commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, help: str, example: str, call: Call, *, json: bool = True) -> argparse.ArgumentParser:
        found = top.commands.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=f"example:\n  {example}\n\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        found.set_defaults(call=call)
        if json:
            found.add_argument("--json", action="store_true", help="print JSON instead of text (default: text)")
        return found

    for group in (run, stay, inside, labs, lesson, budget, report, doctor, completion):
        group.declare(add)
    _declare_help(add, top)
    for one in top.commands.choices.values():
        environment.attach(one._actions)
    return top


def _declare_help(add: Add, top: _Top) -> None:
    command = add(
        "help", "show a command's options and an example", "python -m netns_tw help topology", _help, json=False
    )
    about = "whose help to show (default: the list of all commands)"
    command.add_argument("about", nargs="?", choices=list(top.commands.choices), metavar="COMMAND", help=about)
    command.set_defaults(top=top)


def _help(given: argparse.Namespace) -> int:
    top: _Top = given.top
    print((top.commands.choices[given.about] if given.about else top).format_help(), end="")
    return EXIT_PASS


def parse(argv: Sequence[str] | None, environ: Mapping[str, str]) -> argparse.Namespace:
    """What the words of *argv* (default: the process's own) and the variables of *environ* ask for.

    Raises:
        SystemExit: help was asked for, or the words are wrong; it is said.
        UsageError: variables have bad values.
    """
    top = parser()
    given, strange = top.parse_known_args(argv)
    if strange:
        top.commands.choices[given.command].refuse(strange)
    environment.fill(given, environ)
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (default: the process's own) and return its exit code.

    Raises:
        KeyboardInterrupt: a signal came; every sandbox is gone by then.
    """
    if completion.is_asked(os.environ):
        completion.answer(parser())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 still gets its answer
    try:
        given = parse(argv, os.environ)
        for line in environment.warnings(os.environ):
            print(f"netns_tw: {line}", file=sys.stderr)
        code: int = given.call(given)
        sys.stdout.flush()
        return code
    except NetnsTwError as error:
        print(f"netns_tw: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        hush()
        return EXIT_PASS
    except OSError as error:  # such as a full disk under standard output
        print(f"netns_tw: {error}", file=sys.stderr)
        hush()
        return EXIT_ENVIRONMENT
