"""``scripts/bench``: measure figures, print a table, note them in the history; exit code 1 when one does not hold."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import netns_tw
from benchmarks import history, table
from benchmarks.figure import DOES_NOT, Figure, Result, measured
from benchmarks.interleave import ROOT, without_old_byte_code
from benchmarks.subjects import FIGURES
from netns_tw.errors import EXIT_FAIL, EXIT_PASS, EXIT_USAGE, near_match

EXIT_INTERRUPTED = 130
HISTORY = Path(__file__).resolve().parent / "history.jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (default: the process's own) and return its exit code."""
    given = _parser().parse_args(argv)
    known = {one.name: one for one in FIGURES}
    for name in given.figures:
        if name not in known:
            print(
                f"scripts/bench: no figure {name!r}{near_match(name, known)}\ntry: scripts/bench --list",
                file=sys.stderr,
            )
            return EXIT_USAGE
    picked = [known[name] for name in dict.fromkeys(given.figures)] or list(FIGURES)
    if given.list:
        width = max(len(one.name) for one in picked)
        for one in picked:
            print(f"{one.name:{width}}  {one.what}{f' / {one.against}' if one.against else ''}: {one.bound}")
        return EXIT_PASS
    if not Path(netns_tw.__file__).is_relative_to(ROOT):  # numbers of one checkout under the commit of another
        print(f"scripts/bench: {netns_tw.__file__} is not of this checkout; run scripts/bench", file=sys.stderr)
        return EXIT_USAGE
    try:
        earlier = history.read(given.history)
        history.append(given.history, ())  # now, not after ten minutes
    except (OSError, ValueError) as error:
        print(f"scripts/bench: --history {given.history}: {error}", file=sys.stderr)
        return EXIT_USAGE
    try:
        return _measure(picked, earlier, given)
    except KeyboardInterrupt:  # the sandbox of what was being measured is gone
        print("scripts/bench: interrupted; nothing is left behind, and nothing was noted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure netns_tw beside public tools and the kernel's own limit, in turn, on this machine.",
        epilog="exit codes: 0 none fails; 1 a figure does not hold; 2 usage; 130 interrupted",
        allow_abbrev=False,
    )
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="what to measure (default: all)")
    parser.add_argument("--runs", type=_positive, metavar="N", help="samples of each side (default: each figure's own)")
    parser.add_argument("--json", action="store_true", help="print JSON, with every sample (default: a table)")
    parser.add_argument(
        "--history",
        type=Path,
        default=HISTORY,
        metavar="FILE",
        help="where earlier runs stand and this one is added (default: %(default)s; /dev/null: none)",
    )
    parser.add_argument("--list", action="store_true", help="list the figures and their bounds, and measure nothing")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 up")
    return int(text)


def _measure(picked: Sequence[Figure], earlier: Sequence[history.Line], given: argparse.Namespace) -> int:
    where = history.circumstances(ROOT)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="netns_tw-bench-") as folder:
        without_old_byte_code(folder)
        for number, figure in enumerate(picked, 1):
            print(f"[{number}/{len(picked)}] {figure.name}: {figure.what}", file=sys.stderr, flush=True)
            results.append(measured(figure, given.runs))
    changes = {}
    for one in results:
        if (found := history.change(one, earlier, where)) is not None:
            changes[one.figure.name] = found
    print(table.as_json(results, changes, where) if given.json else table.table(results, changes))
    history.append(given.history, history.lines_of(results, where))
    return EXIT_FAIL if any(one.verdict == DOES_NOT for one in results) else EXIT_PASS
