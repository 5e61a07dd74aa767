"""report, diff: records read and drawn, wherever they were made. No root.

Other commands offer the same outputs: ``add_outputs`` declares them, ``check_outputs`` refuses at once what could not
be written later, ``write_reports`` writes them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from netns_tw import runs
from netns_tw.commands import Add, environment
from netns_tw.commands.streams import STDOUT, hush, is_stdout
from netns_tw.errors import EXIT_FAIL, EXIT_PASS, EXIT_USAGE, UsageError

if TYPE_CHECKING:
    from netns_tw.report.run import Run


def declare(add: Add) -> None:
    """Add the commands."""
    report = add("report", "python -m netns_tw report records/ --junit report.xml", _report)
    report.add_argument(
        "records",
        nargs="*",
        type=Path,
        metavar="RECORD",
        help="a record's file, or a folder of them (default: the last run that was kept)",
    )
    add_outputs(report)
    diff = add("diff", "python -m netns_tw diff before/ after/", _diff)
    for name in ("A", "B"):
        diff.add_argument(name.lower(), type=Path, metavar=name, help="a record's file, or a folder of them")


def add_outputs(command: argparse.ArgumentParser) -> None:
    """Declare the reports that *command* can write."""
    command.add_argument("--ktap", action="store_true", help="print KTAP 1 instead of text (default: text)")
    for name, what in (("junit", "JUnit XML"), ("html", "one HTML page")):
        command.add_argument(
            f"--{name}",
            type=Path,
            metavar="FILE",
            help=f"write {what} to FILE; '-': print it instead of text (default: none)",
        )


def check_outputs(given: argparse.Namespace) -> bool:
    """Return whether standard output is left for text, given the options of ``add_outputs`` and ``--json``.

    Raises:
        UsageError: two outputs want to be printed, or a FILE cannot be made where it is named.
    """
    files = {"junit": given.junit, "html": given.html}
    printed = [environment.said(given, name) for name in ("json", "ktap") if getattr(given, name)]
    printed += [environment.said(given, name, path) for name, path in files.items() if is_stdout(path)]
    if len(printed) > 1:
        wants = "both print" if len(printed) == 2 else "all print"
        raise UsageError(f"{' and '.join(printed)} {wants} to standard output; write one of them to a file")
    for name, path in files.items():
        if path and not is_stdout(path) and (problem := _why_not(path)):
            raise UsageError(f"{environment.said(given, name, path)}: {problem}")
    return not printed


def write_reports(found: Sequence[Run], junit: Path | None, html: Path | None, ktap: bool) -> None:
    """Write the reports that were asked for; ``-`` and KTAP go to standard output.

    Raises:
        UsageError: some could not be written; the others were.
    """
    makers: list[tuple[Path, Callable[[Sequence[Run]], bytes]]] = []
    if junit:
        makers.append((junit, _junit))
    if html:
        makers.append((html, _html))
    if ktap:
        makers.append((Path(STDOUT[0]), _ktap))
    problems = []
    for path, make in makers:
        data = make(found)
        try:
            if is_stdout(path):
                sys.stdout.flush()
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
            else:
                _write(path, data)
        except BrokenPipeError:  # the reader of standard output has seen enough
            hush()
        except OSError as error:
            problems.append(f"{path}: this report cannot be written: {error.strerror}")
    if problems:
        raise UsageError("\n".join(problems))


def _junit(found: Sequence[Run]) -> bytes:
    from netns_tw.report import junit

    return junit.document(found)


def _html(found: Sequence[Run]) -> bytes:
    from netns_tw.report import html

    return html.page(found).encode(errors="backslashreplace")


def _ktap(found: Sequence[Run]) -> bytes:
    from netns_tw.report import ktap

    return ktap.document(found).encode(errors="backslashreplace")


def _is_special(path: Path) -> bool:
    """Whether *path* is there and no regular file: a device, a pipe of the shell."""
    return path.exists() and not path.is_file()


def _why_not(path: Path) -> str:
    """Why no file can be made at *path*; empty where it can."""
    if path.is_dir():
        return "is a folder"
    folder = os.path.dirname(os.path.realpath(path))
    is_good = _is_special(path) or os.access(folder, os.W_OK | os.X_OK)
    return "" if is_good else f"the folder {folder} is not there, or cannot be written to"


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: beside its place, then into it. What is no regular file is written to.

    A link is followed: the file that it means is replaced, not the link. Under sudo the file is the caller's own.
    """
    if _is_special(path):
        with open(path, "wb", opener=lambda name, flags: os.open(name, flags & ~os.O_CREAT)) as file:
            file.write(data)
        return
    import secrets

    path = Path(os.path.realpath(path))
    beside = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")
    try:
        with runs.as_caller(lambda: open(beside, "xb")) as file:  # its mode is by the umask
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        runs.as_caller(lambda: os.replace(beside, path))
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _report(given: argparse.Namespace) -> int:
    from netns_tw import verdict
    from netns_tw.report import saved

    is_text = check_outputs(given)
    found, problems = saved.load_all(given.records or [runs.latest()])
    code = verdict.exit_code([one.judgement for one in found])
    _complain(problems)
    code = EXIT_USAGE if problems else code
    try:
        _print(found, code, given.json, is_text)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough; the files are still to be written
        hush()
    if found:
        write_reports(found, given.junit, given.html, given.ktap)
    return code


def _complain(problems: Sequence[str]) -> None:
    for one in problems:
        print(f"netns_tw: {one}", file=sys.stderr)


def _print(found: Sequence[Run], code: int, as_json: bool, is_text: bool) -> None:
    if as_json:
        from netns_tw.report import json

        print(json.runs(found, code))
    elif is_text and found:
        from netns_tw.report import text

        text.show(found)


def _diff(given: argparse.Namespace) -> int:
    from netns_tw.report import diff, saved

    (left, wrong_left), (right, wrong_right) = saved.load_all([given.a]), saved.load_all([given.b])
    problems = [*wrong_left, *wrong_right]
    _complain(problems)
    pairs = diff.pair(left, right)
    if not pairs.both:
        if problems:
            return EXIT_USAGE
        raise UsageError(f"{given.a} and {given.b} have no experiment in common")
    found = [diff.compare(*both) for both in pairs.both]
    code = EXIT_USAGE if problems else EXIT_FAIL if any(one.is_verdict_other for one in found) else EXIT_PASS
    try:
        if given.json:
            print(diff.as_json(found, pairs, code))
        else:
            from netns_tw.report.console import console

            console(sys.stdout).print(diff.as_text(found, pairs))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough; the code stands
        hush()
    return code
