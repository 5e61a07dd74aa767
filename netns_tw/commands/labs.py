"""list, show, validate: labs read, none built. No root."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from netns_tw.commands import Add
from netns_tw.errors import EXIT_PASS, EXIT_USAGE, UsageError
from netns_tw.model import labs


def declare(add: Add) -> None:
    """Add the commands."""
    add("list", "list the labs and their claims", "python -m netns_tw list", list_labs)
    show = add("show", "show a lab's diagram, addresses, sysctls and claims", "python -m netns_tw show lb3ports", _show)
    show.add_argument("lab", metavar="LAB", help="a lab's name, or the path of your own")
    show.add_argument("--mermaid", action="store_true", help="print the diagram as a Mermaid flowchart")
    validate = add("validate", "check lab folders and files", "python -m netns_tw validate ./mylab", _validate)
    validate.add_argument("paths", nargs="+", metavar="PATH", help="a lab's folder or name")


def list_labs(given: argparse.Namespace) -> int:
    """Print every lab that comes with netns_tw, and its claims."""
    found = [labs.read_lab(labs.folder_of(name)) for name in labs.shipped_names()]
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
    from netns_tw.model.folder import FileProblems, Problem

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
