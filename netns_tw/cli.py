"""The command line: words to a call, errors to one message and an exit code.

Standard output is data, standard error is talk. The commands themselves are in ``commands/``. An option is never
abbreviated: ``--cli`` in a CI job would mean another option on the day that one is added.

A command line begins with its command, and then no other command's words are declared: twenty commands take longer to
declare than most of them take to answer. The first page and the version need none of them (overview.py).
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NoReturn

from netns_tw import __version__
from netns_tw.commands import Add, Call, environment, overview
from netns_tw.commands.overview import EXIT_CODES, HELPS
from netns_tw.commands.streams import hush
from netns_tw.errors import EXIT_ENVIRONMENT, EXIT_PASS, EXIT_USAGE, NetnsTwError, near_match

MODULES = {
    "run": ("topology", "replay"),
    "stay": ("up", "ls", "down"),
    "inside": ("exec", "shell", "set", "logs", "watch"),
    "labs": ("list", "show"),
    "validate": ("validate",),
    "lesson": ("lesson",),
    "budget": ("budget",),
    "report": ("report", "diff"),
    "doctor": ("doctor",),
    "completion": ("completion",),
}
"""The modules of ``commands/``, and the commands that each declares; ``help`` is declared here."""
ANSWERED_AT_ONCE = ("-h", "--help", "--version")
"""As the first word: what is answered before a command is looked for, so that none need be declared."""
ASKS_FOR_COMPLETION = "_ARGCOMPLETE"
"""Set by a shell that asks what may come next on its line."""

argparse._ = str  # type: ignore[attr-defined]
"""argparse's words stay English, like ours, and as ``_Parser.error`` reads them. To look each of them up in a catalogue
of translations imports locale and takes 2 ms."""


class _Sketch(argparse.RawDescriptionHelpFormatter):
    """What add_argument() tries a metavar with. To fit a page to the terminal would import shutil, for no page."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=80)


class _Parser(argparse.ArgumentParser):
    """argparse with a near match for a mistyped command, and one line instead of the whole usage."""

    def format_help(self) -> str:
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        return super().format_help()

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
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        return overview.first_page(self)


def parser(command: str = "") -> _Top:
    """The command line: as much as *command* needs, nothing for one of ANSWERED_AT_ONCE, whole where it is empty."""
    top = _Top(
        prog="netns_tw",
        description="TIME_WAIT and ephemeral ports, replayed on the kernel in front of you.",
        formatter_class=_Sketch,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"netns_tw {__version__}", help="show the version and exit")
    top.commands = top.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Parser, prog=top.prog
    )

    def add(name: str, example: str, call: Call, *, json: bool = True) -> argparse.ArgumentParser:
        found = top.commands.add_parser(
            name,
            help=HELPS[name],
            description=f"{HELPS[name][0].upper()}{HELPS[name][1:]}.",
            epilog=f"example:\n  {example}\n\n{EXIT_CODES}",
            formatter_class=_Sketch,
            allow_abbrev=False,
        )
        found.set_defaults(call=call)
        if json:
            found.add_argument("--json", action="store_true", help="print JSON instead of text (default: text)")
        return found

    for module, declared in MODULES.items():
        if not command or command in declared:
            import_module(f"netns_tw.commands.{module}").declare(add)
    if not command:
        _declare_help(add, top)
    for one in top.commands.choices.values():
        environment.attach(one._actions)
    return top


def _declare_help(add: Add, top: _Top) -> None:
    command = add("help", "python -m netns_tw help topology", _help, json=False)
    about = "whose help to show (default: the list of all commands)"
    command.add_argument("about", nargs="?", choices=list(top.commands.choices), metavar="COMMAND", help=about)
    command.set_defaults(top=top)


def _help(given: argparse.Namespace) -> int:
    top: _Top = given.top
    print((top.commands.choices[given.about] if given.about else top).format_help(), end="")
    return EXIT_PASS


def _command_of(argv: Sequence[str]) -> str:
    """The first of *argv*, where no more need be declared than it asks for; empty where that takes all commands."""
    first = argv[0] if argv else ""
    return first if first in ANSWERED_AT_ONCE or (first in HELPS and first != "help") else ""


def parse(argv: Sequence[str] | None, environ: Mapping[str, str]) -> argparse.Namespace:
    """What the words of *argv* (default: the process's own) and the variables of *environ* ask for.

    Raises:
        SystemExit: help was asked for, or the words are wrong; it is said.
        UsageError: variables have bad values.
    """
    top = parser(_command_of(sys.argv[1:] if argv is None else argv))
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
    if ASKS_FOR_COMPLETION in os.environ:
        from netns_tw.commands import completion

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
