"""doctor: what this machine can and cannot do, a line a need. No root, no Python package, nothing changed.

Drawn without rich, which may be what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

from netns_tw.commands import Add
from netns_tw.report.escape import escaped

if TYPE_CHECKING:
    from netns_tw.doctor.need import Need

FORMAT = 1
WIDTH, LEAST_WIDTH = 100, 60
NAME_WIDTH, STATE_WIDTH = 33, 9
COLOURS = {"ok": "\x1b[32m", "limited": "\x1b[33m", "missing": "\x1b[1;31m"}


def declare(add: Add) -> None:
    """Add the command."""
    add("doctor", "python -m netns_tw doctor", _doctor)


def _doctor(given: argparse.Namespace) -> int:
    from netns_tw import doctor
    from netns_tw.doctor.need import MAIN_LAB, MISSING

    found: list[Need] = []
    width = max(LEAST_WIDTH, min(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)) if sys.stdout.isatty() else WIDTH
    is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if not given.json:
        print(f"{'need':<{NAME_WIDTH}}{'state':<{STATE_WIDTH}}found")
    for one in doctor.examine():
        found.append(one)
        if not given.json:
            print(_text(one, width, is_coloured), flush=True)
    code = doctor.exit_code(found)
    missing = ", ".join(one.name for one in found if one.state == MISSING)
    kernel = f"{os.uname().sysname} {os.uname().release}"
    job = f"topology {MAIN_LAB}"
    if given.json:
        needs = [asdict(one) for one in found]
        whole = {"format": FORMAT, "exit_code": code, "kernel": kernel, "main_job": job, "needs": needs}
        print(json.dumps(whole, indent=2))
    else:
        verdict = f"cannot run here, for want of: {missing}" if missing else "can run here"
        print(f"\n{kernel}: the main job, {job}, {verdict}.")
    return code


def _text(one: Need, width: int, is_coloured: bool) -> str:
    """One need: name, state and what was found in columns; what cannot run; the command, never broken, to be copied."""
    head = f"{one.name:<{NAME_WIDTH}}{one.state:<{STATE_WIDTH}}"
    lines = _wrapped(head, one.found, width)
    if is_coloured:
        coloured = f"{COLOURS[one.state]}{one.state}\x1b[0m" + " " * (STATE_WIDTH - len(one.state))
        lines[0] = f"{one.name:<{NAME_WIDTH}}{coloured}" + lines[0][NAME_WIDTH + STATE_WIDTH :]
    if one.cannot:
        lines += _wrapped("    cannot run:  ", one.cannot, width)
    if one.mend:
        lines.append(f"    to mend:     {escaped(one.mend)}")
    return "\n".join(lines)


def _wrapped(head: str, text: str, width: int) -> list[str]:
    indent = " " * len(head)
    return textwrap.wrap(
        escaped(text),
        width,
        initial_indent=head,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [head.rstrip()]
