"""The command line: words to a call, errors to one message and an exit code.

Standard output is data, standard error is talk. The commands themselves are in ``commands/``.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from typing import NoReturn

from netns_tw import __version__
from netns_tw.commands import Call, budget, labs, report, run
from netns_tw.commands.streams import hush
from netns_tw.errors import EXIT_ENVIRONMENT, EXIT_PASS, EXIT_USAGE, NetnsTwError, near_match

EXIT_CODES = """exit codes:
  0 pass   1 fail   2 usage or file error   3 the machine lacks something   4 broken instrument
  5 inconclusive (too slow for its own time limit, or a race went another way)   130 interrupted
"""


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


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(
        prog="netns_tw",
        description="TIME_WAIT and ephemeral ports, replayed on the kernel in front of you.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"netns_tw {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, help: str, example: str, call: Call) -> argparse.ArgumentParser:
        found: argparse.ArgumentParser = commands.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=f"example:\n  {example}\n\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        found.set_defaults(call=call)
        found.add_argument("--json", action="store_true", help="print JSON instead of text")
        return found

    for group in (run, labs, budget, report):
        group.declare(add)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (default: the process's own) and return its exit code.

    Raises:
        KeyboardInterrupt: a signal came; every sandbox is gone by then.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 still gets its answer
    given = parser().parse_args(argv)
    try:
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
