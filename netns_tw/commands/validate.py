"""validate: the files of labs checked, none built. No root."""

from __future__ import annotations

import argparse

from netns_tw.commands import Add
from netns_tw.errors import EXIT_PASS, EXIT_USAGE, UsageError
from netns_tw.model import labs
from netns_tw.model.folder import FileProblems, Problem


def declare(add: Add) -> None:
    """Add the command."""
    command = add("validate", "python -m netns_tw validate ./mylab", _validate)
    command.add_argument("paths", nargs="+", metavar="PATH", help="a lab's folder or name")


def _validate(given: argparse.Namespace) -> int:
    problems: list[Problem] = []
    good: list[labs.Lab] = []
    for path in given.paths:
        try:
            # a folder is meant as a path even where its name holds no '/'
            good.append(labs.read_lab(path if labs.is_lab(path) else labs.folder_of(path)))
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
