"""What earlier runs found, a line of JSON a run and figure; and what has got worse since.

A figure is compared with the median of its last runs, so that one bad day is neither a regression nor hides one. Ratios
are compared whatever machine they are from; a number that has nothing beside it only with those of a machine with the
same kernel and as many cores.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import netns_tw
from benchmarks.figure import Result

LAST = 10
"""How many earlier runs are looked at."""
WORSE = 0.25
"""The share by which a figure must be worse to be marked."""
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """What became of a value since earlier runs, as a share of what it was; None: it was zero."""

    share: float | None
    is_worse: bool

    def __str__(self) -> str:
        shown = "from 0" if self.share is None else f"{self.share * 100:+.0f} %"
        return f"{shown} WORSE" if self.is_worse else shown


def circumstances(root: Path) -> dict[str, object]:
    """Where and when this run takes place, and of what."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "netns_tw": netns_tw.__version__,
        "commit": _commit(root),
        "kernel": plain_release(platform.release()),
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
    }


def plain_release(release: str) -> str:
    """A kernel's release without what its builder added, ``6.18.44``."""
    found = re.match(r"\d+(\.\d+)*", release)
    return found[0] if found else release


def _commit(root: Path) -> str:
    """The commit that is checked out, with ``+`` where its files were changed; empty outside of a clone."""
    git = ["git", "-c", f"safe.directory={root}", "-C", str(root)]  # under sudo it is another user's
    try:
        found = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "netns_tw"], capture_output=True, check=False)
    except OSError:
        return ""
    return found.stdout.strip() + ("+" if changed.returncode == 1 else "")


def lines_of(results: Sequence[Result], where: Mapping[str, object]) -> list[dict[str, object]]:
    """The lines of a run: the figures that have a value."""
    return [
        {
            **where,
            "figure": one.figure.name,
            "runs": len(one.samples.ours),
            "verdict": one.verdict,
            "value": one.value,
            "ours": one.ours,
            "theirs": one.theirs,
            "unit": one.figure.unit,
        }
        for one in results
        if one.value is not None
    ]


def read(path: Path) -> list[Line]:
    """The lines of a history; none where there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def append(path: Path, lines: Sequence[Line]) -> None:
    """Add the lines of a run."""
    with open(path, "a", encoding="utf-8") as history:
        history.writelines(json.dumps(line) + "\n" for line in lines)


def change(result: Result, earlier: Sequence[Line], where: Mapping[str, object]) -> Change | None:
    """What became of a figure since the last of the *earlier* runs; None where there is nothing to compare."""
    values = [line["value"] for line in earlier if _is_comparable(line, result, where)][-LAST:]
    if not values or result.value is None:
        return None
    before, now = median(values), result.value
    if before == 0:
        return Change(None if now else 0.0, is_worse=bool(now) and result.bound.is_most)
    share = now / before - 1
    # of what is better when it is more, 25 % worse is what takes 25 % longer
    loss = share if result.bound.is_most else before / now - 1 if now else float("inf")
    return Change(share, is_worse=loss > WORSE)


def _is_comparable(line: Line, result: Result, where: Mapping[str, object]) -> bool:
    if line["figure"] != result.figure.name:
        return False
    return bool(result.figure.against) or all(line[key] == where[key] for key in ("kernel", "cores"))
