"""The results on paper: a table for people, JSON for programs. The ratio comes first, absolute numbers beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from benchmarks.figure import Result
from benchmarks.history import Change

HEAD = ("figure", "verdict", "value", "bound", "ours", "theirs", "change", "what, and what it is compared with")
NUMBERS = {2, 4, 5, 6}
"""The columns that are set to the right."""
Changes = Mapping[str, Change]


def table(results: Sequence[Result], changes: Changes) -> str:
    """The table of *results*; *changes* since earlier runs, by figure."""
    rows = [HEAD, *(_row(one, changes.get(one.figure.name)) for one in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    lines = []
    for row in rows:
        cells = [
            word.rjust(width) if column in NUMBERS else word.ljust(width)
            for column, (word, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


def _row(one: Result, change: Change | None) -> tuple[str, ...]:
    figure = one.figure
    what = f"{figure.what} / {figure.against}" if figure.against else figure.what
    what += "".join(f"; {text}" for text in (one.reason, one.samples.note) if text)
    ratio = "" if one.value is None else number(one.value) if figure.against else quantity(one.value, figure.unit)
    bound = f"{one.bound}" + ("" if figure.against else f" {figure.unit}")
    ours, theirs = ("" if found is None else quantity(found, figure.unit) for found in (one.ours, one.theirs))
    return figure.name, one.verdict, ratio, bound, ours, theirs, str(change or ""), what


def quantity(value: float, unit: str) -> str:
    """A number with its unit."""
    return f"{number(value)} {unit}"


def number(value: float) -> str:
    """Three figures of a number, and no more than it has before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def as_json(results: Sequence[Result], changes: Changes, where: Mapping[str, object]) -> str:
    """All that was found, with every sample."""
    return json.dumps({"where": dict(where), "figures": [_plain(one, changes) for one in results]}, indent=2)


def _plain(one: Result, changes: Changes) -> dict[str, object]:
    change = changes.get(one.figure.name)
    return {
        "name": one.figure.name,
        "what": one.figure.what,
        "against": one.figure.against,
        "unit": one.figure.unit,
        "bound": {"at_most" if one.bound.is_most else "at_least": one.bound.number},
        "verdict": one.verdict,
        "reason": one.reason,
        "note": one.samples.note,
        "value": one.value,
        "ours": one.ours,
        "theirs": one.theirs,
        "samples": {"ours": list(one.samples.ours), "theirs": list(one.samples.theirs)},
        "change": change.share if change else None,
        "is_worse": bool(change and change.is_worse),
    }
