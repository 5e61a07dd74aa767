"""The command line: words to a call, errors to one message and an exit code.

Standard output is data, standard error is talk. What takes long to import (pyroute2, rich) is imported inside the
command that needs it, so that ``--help``, ``list`` and ``validate`` answer at once.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from netns_tw import __version__
from netns_tw.errors import EXIT_ENVIRONMENT, EXIT_PASS, EXIT_USAGE, NetnsTwError, UsageError, near_match
from netns_tw.model import labs
from netns_tw.model.experiment import CLIENTS, SERVERS, Experiment
from netns_tw.model.reader import FileProblems, Problem

EXIT_CODES = """exit codes:
  0 pass   1 fail   2 usage or file error   3 the machine lacks something   4 broken instrument
  5 inconclusive (too slow for its own time limit)   130 interrupted
"""
AT_ONCE = 12


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

    def add(name: str, help: str, example: str, call: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
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

    topology = add(
        "topology", "replay every experiment of one lab", "sudo python -m netns_tw topology lb3ports", _topology
    )
    topology.add_argument(
        "lab", nargs="?", metavar="LAB", help="a lab's name, or the path of your own; none: list labs"
    )
    topology.add_argument("--only", metavar="CLAIM", help="replay this claim alone")
    topology.add_argument("--hold", action="store_true", help="with --only: keep the lab up afterwards, until Enter")
    replay = add(
        "replay",
        "replay any set of experiments side by side; all where none is named",
        "sudo python -m netns_tw replay direct lb3ports/lb-exhausts-its-ports",
        _replay,
    )
    replay.add_argument("names", nargs="*", metavar="LAB[/CLAIM]", help="labs or single claims")
    for one in (topology, replay):
        _add_options_of_a_run(one)
    add("list", "list the labs and their claims", "python -m netns_tw list", _list)
    show = add("show", "show a lab's diagram, addresses, sysctls and claims", "python -m netns_tw show lb3ports", _show)
    show.add_argument("lab", metavar="LAB", help="a lab's name, or the path of your own")
    show.add_argument("--mermaid", action="store_true", help="print the diagram as a Mermaid flowchart")
    validate = add("validate", "check lab folders and files", "python -m netns_tw validate ./mylab", _validate)
    validate.add_argument("paths", nargs="+", metavar="PATH", help="a lab's folder or name")
    return top


def _add_options_of_a_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--client", choices=CLIENTS, help="the client of every step (default: as the file says, h11)")
    command.add_argument(
        "--server", choices=SERVERS, help="all servers built-in, or all nginx (default: as the file says)"
    )
    command.add_argument("-j", type=_positive, default=AT_ONCE, metavar="N", help=f"experiments at once ({AT_ONCE})")
    command.add_argument("-q", "--quiet", action="store_true", help="the summary only, no progress")


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 up")
    return int(text)


def _all_labs() -> list[labs.Lab]:
    return [labs.read_lab(labs.folder_of(name)) for name in labs.shipped_names()]


def _list(given: argparse.Namespace) -> int:
    found = _all_labs()
    if given.json:
        from netns_tw.report import json

        print(json.labs(found))
    else:
        for lab in found:
            print(f"{lab.name}: {lab.topology.description}")
            width = max((len(one.path) for one in lab.experiments.values()), default=0)
            for one in lab.experiments.values():
                print(f"  {one.path:<{width}}  {one.claim}")
    return EXIT_PASS


def _show(given: argparse.Namespace) -> int:
    lab = labs.read_lab(labs.folder_of(given.lab))
    if given.mermaid:
        from netns_tw.report import diagram

        print(diagram.mermaid(lab.topology))
    elif given.json:
        from netns_tw.report import json

        print(json.topology(lab.topology))
    else:
        from netns_tw.report import text

        text.console(sys.stdout).print(text.topology(lab))
    return EXIT_PASS


def _validate(given: argparse.Namespace) -> int:
    problems: list[Problem] = []
    good: list[labs.Lab] = []
    for path in given.paths:
        try:
            # a folder is meant as a path even where its name holds no '/'
            good.append(labs.read_lab(Path(path) if labs.is_lab(Path(path)) else labs.folder_of(path)))
        except FileProblems as error:
            problems += error.problems
        except UsageError as error:
            problems.append(Problem(path, 0, "", str(error)))
    if given.json:
        import json

        found = [{"file": one.file, "line": one.line, "path": one.path, "message": one.message} for one in problems]
        print(json.dumps(found, indent=2))
    else:
        for lab in good:
            print(f"{lab.topology.folder}: ok, {len(lab.experiments)} experiments")
    if problems and not given.json:
        raise FileProblems(problems)
    return EXIT_USAGE if problems else EXIT_PASS


def _topology(given: argparse.Namespace) -> int:
    if given.lab is None:
        if given.only or given.hold:
            raise UsageError("which lab? name one: netns_tw topology LAB")
        return _list(given)
    if given.hold and (not given.only or given.json):
        raise UsageError(
            "--hold keeps one experiment's lab up and shows text: name it with --only CLAIM, without --json"
        )
    lab = labs.read_lab(labs.folder_of(given.lab))
    picked = [labs.pick(lab, given.only)] if given.only else list(lab.experiments.values())
    return _run(given, [(lab, one) for one in picked], hold=given.hold)


def _replay(given: argparse.Namespace) -> int:
    return _run(given, list(labs.find(given.names)), hold=False)


def _run(given: argparse.Namespace, picked: list[tuple[labs.Lab, Experiment]], hold: bool) -> int:
    if not picked:
        raise UsageError("there is no experiment to replay: a lab's are its files experiments/*.toml")
    from netns_tw import session, verdict

    runs = session.replay(picked, given.client, given.server, given.j, given.quiet or given.json, hold)
    code = verdict.exit_code([one.judgement for one in runs])
    try:
        session.show(runs, code, given.json, given.quiet, hold)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough; the verdict stands
        _hush()
    return code


def _hush() -> None:
    """Send what is still in Python's buffer nowhere, so that its own exit does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        _hush()
        return EXIT_PASS
    except OSError as error:  # such as a full disk under standard output
        print(f"netns_tw: {error}", file=sys.stderr)
        _hush()
        return EXIT_ENVIRONMENT
