"""list, show: labs read, none built. No root."""

from __future__ import annotations

import argparse
import os
import sys

from netns_tw.commands import Add
from netns_tw.errors import EXIT_PASS
from netns_tw.model import labs


def declare(add: Add) -> None:
    """Add the commands."""
    add("list", "python -m netns_tw list", list_labs)
    show = add("show", "python -m netns_tw show lb3ports", _show)
    show.add_argument("lab", metavar="LAB", help="a lab's name, or the path of your own")
    show.add_argument("--mermaid", action="store_true", help="print the diagram as a Mermaid flowchart")


def list_labs(given: argparse.Namespace) -> int:
    """Print every lab that comes with netns_tw, and its claims."""
    shipped = labs.shipped_folder()
    folders = [os.path.join(shipped, name) for name in labs.shipped_names()]
    if given.json:
        from netns_tw.report import json

        print(json.labs([labs.read_lab(folder) for folder in folders]))
        return EXIT_PASS
    for lab in [labs.read_contents(folder) for folder in folders]:
        print(f"{lab.name}: {lab.description}")
        width = max(map(len, lab.claims), default=0)
        for path, claim in lab.claims.items():
            print(f"  {path:<{width}}  {claim}")
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
        from netns_tw.report.console import console
        from netns_tw.report.lab import topology

        console(sys.stdout).print(topology(lab))
    return EXIT_PASS
