"""A record's file -> a run that can be drawn: read line by line, held against its own lab, judged again.

A record may come from anywhere, so nothing in it is believed but what happened: it holds no verdict, that follows from
its lines and the lab's files that it carries. Every line must fit to that lab and to the lines before it; what draws a
run later need not ask again.

It is written as it happens, each line with one write(2), so a kill leaves at most one unfinished line, the last. Such
a line is left out and the record is *cut short*: no verdict, but all before it is shown. A wrong line anywhere else is
no trace of a kill, and the file no record.

The lab's files bring regular expressions along, which may take for ever on the record's log lines. Python's `re` looks
for signals while it matches, so a timer of the process's own CPU time ends it; a slow or busy machine does not.
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from netns_tw import runs, verdict
from netns_tw.errors import UsageError
from netns_tw.model import labs
from netns_tw.model.experiment import Experiment
from netns_tw.model.folder import FileProblems
from netns_tw.model.lines import (
    BEFORE,
    FORMAT,
    Batch,
    Built,
    Captured,
    Header,
    Line,
    Response,
    Snapshot,
    StepEnd,
    Trouble,
    from_json,
)
from netns_tw.model.record import Record, format_of
from netns_tw.model.topology import Topology
from netns_tw.report.escape import escaped
from netns_tw.report.run import Run

MAX_LINE_BYTES = 64 << 20
"""A node's snapshot with a million sockets, or 250,000 lines of nginx's log, is about as long."""
CPU_S = 10.0
CPU_S_PER_BYTE = 1e-6
"""A record may take this much CPU time to be judged: a thousand times what a real one does."""
AGAIN_S = 0.2
MAX_SHOWN = 300
MAX_PROBLEMS = 20
_MIB = 1 << 20


def load(path: Path) -> Run:
    """Read the record *path* and judge it; in the main thread, for its timer.

    Raises:
        UsageError: it is no record, is written in another format, or does not fit to the lab that it carries.
    """
    with _opened(path) as file:
        limit_s = CPU_S + _size(path, file) * CPU_S_PER_BYTE
        lines = _lines(path, file)
        header = _header(path, next(lines, (1, b"", False))[1])
        with _in_time(path, limit_s):
            experiment, topology = _lab(path, header)
        record = _record(path, header, lines, _Checks(experiment, topology))
    with _in_time(path, limit_s):
        judgement = verdict.judge(record, experiment, topology)
    return Run(experiment, topology, record, judgement, path)


def load_all(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Read records, and folders of records, in order; return the runs, and why the others could not be read.

    A file counts once. An experiment that was repeated, in a folder, counts with its last attempt.
    """
    found: dict[str, Run] = {}
    problems = []
    for path in paths:
        try:
            files = runs.records(path)
        except UsageError as error:
            problems.append(_one_line(str(error)))
            continue
        for file in files:
            try:
                if (known := os.path.realpath(file)) not in found:
                    found[known] = load(file)
            except UsageError as error:
                problems.append(str(error))
    return _last_attempts(list(found.values())), problems


def _last_attempts(found: list[Run]) -> list[Run]:
    last: dict[object, int] = {}
    keys = []
    for one in found:
        files = tuple(sorted(one.record.header.files.items())) if one.record.header else ()
        folder = os.path.dirname(os.path.realpath(one.path or ""))
        keys.append((folder, one.experiment.path, files))
        last[keys[-1]] = max(last.get(keys[-1], 0), one.attempts)
    return [one for one, key in zip(found, keys, strict=True) if one.attempts == last[key]]


def _one_line(text: str) -> str:
    """*text* for a message: shortened, printable."""
    line = escaped(text.replace("\n", " "))
    return line if len(line) <= MAX_SHOWN else f"{line[: MAX_SHOWN - 3]}..."


def _wrong(path: Path, number: int, message: str) -> UsageError:
    where = f"{path}:{number}" if number else str(path)
    return UsageError(f"{_one_line(where)}: {_one_line(message)}")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file *path*, if it is a regular one; opening a FIFO would wait for its writer."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)) as file:
            yield file
    except OSError as error:
        raise _wrong(path, 0, error.strerror or str(error)) from error


def _size(path: Path, file: BinaryIO) -> int:
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise _wrong(path, 0, "a record is a regular file, and this is none")
    return found.st_size


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, bytes, bool]]:
    """Yield the number of each line, its text, and whether another one follows."""
    number, text = 1, file.readline(MAX_LINE_BYTES + 1)
    while text:
        if len(text) > MAX_LINE_BYTES:
            raise _wrong(path, number, f"longer than {MAX_LINE_BYTES // _MIB} MiB: no line of a record")
        following = file.readline(MAX_LINE_BYTES + 1)
        yield number, text, bool(following)
        number, text = number + 1, following


def _header(path: Path, text: bytes) -> Header:
    if not text:
        raise _wrong(path, 0, "empty: the run ended before it wrote a line")
    number = format_of(text)
    if number is not None and number != FORMAT:
        by = " by a newer netns_tw" if number > FORMAT else ""
        raise _wrong(path, 0, f"written in format {_one_line(str(number))}{by}; this one reads format {FORMAT}")
    if not text.endswith(b"\n") and text.startswith(b'{"kind":"header"'):
        raise _wrong(path, 0, "cut short within its first line; there is nothing to report")
    try:
        line = from_json(text)
    except ValueError as error:
        raise _wrong(path, 1, f"not a record: {error}") from error
    if not isinstance(line, Header) or not text.endswith(b"\n"):
        raise _wrong(path, 1, "not a record: its first line is no header")
    return line


def _lab(path: Path, header: Header) -> tuple[Experiment, Topology]:
    """The experiment that *header* names, and the lab as it changes it, from the files that it carries."""
    try:
        lab = labs.kept_lab(header.files, path)
    except FileProblems as error:
        first = [str(one)[:MAX_SHOWN] for one in error.problems[:MAX_PROBLEMS]]
        more = len(error.problems) - len(first)
        raise UsageError("\n".join([*first, f"... and {more} more"] if more else first)) from error
    if lab.name != header.lab:
        raise _wrong(path, 1, f"a run of lab {header.lab!r}, but with the files of lab {lab.name!r}")
    if header.claim_id not in lab.experiments:
        raise _wrong(path, 1, f"a run of claim {header.claim_id!r}, whose file it does not hold")
    experiment = lab.experiments[header.claim_id]
    return experiment, lab.topology.with_nodes(experiment.nodes)


def _record(path: Path, header: Header, lines: Iterator[tuple[int, bytes, bool]], checks: _Checks) -> Record:
    record = Record(header)
    for number, text, has_more in lines:
        try:
            line = from_json(text) if text.endswith(b"\n") else None
        except ValueError as error:
            if has_more:
                raise _wrong(path, number, f"not a line of a record: {error}") from error
            line = None
        if line is None:
            record.end = None  # cut short, whatever it said before
            break
        if problem := checks.problem(record, line):
            raise _wrong(path, number, problem)
        record.add(line)
    return record


class _Checks:
    """Whether a line fits to its record's lab and to the lines before it."""

    def __init__(self, experiment: Experiment, topology: Topology) -> None:
        self._steps = experiment.steps
        self._nodes = topology.nodes.keys()
        self._links = {link.name for link in topology.links}
        self._answered = [bytearray(step.requests) for step in experiment.steps]
        """By step and request, whether its response has come."""

    def problem(self, record: Record, line: Line) -> str:
        """What is wrong with *line*, the next of *record*; empty if nothing is."""
        if isinstance(line, Header):
            return "a second header"
        if record.trouble or (record.end and not isinstance(line, Trouble)):
            return "a line after the end of its record"
        if isinstance(line, Trouble):
            return ""
        if isinstance(line, Built):
            return "a second line of kind built" if record.built else self._built(line)
        if not record.built:
            return "comes before the line of kind built"
        if isinstance(line, Response | Batch):
            return self._response(record, line)
        if isinstance(line, Snapshot | StepEnd):
            return self._snapshot(record, line) if isinstance(line, Snapshot) else self._step_end(record, line)
        if isinstance(line, Captured):
            return "" if line.link in self._links else f"the lab has no link {line.link!r}"
        return self._node(getattr(line, "node", None))

    def _node(self, name: str | None) -> str:
        return "" if name is None or name in self._nodes else f"the lab has no node {name!r}"

    def _step(self, number: int, least: int = 0) -> str:
        return "" if least <= number < len(self._steps) else f"the experiment has no step number {number}"

    def _built(self, line: Built) -> str:
        for name in (*line.sysctls, *line.programs):
            if problem := self._node(name):
                return problem
        missing = [name for name in self._nodes if name not in line.sysctls]
        return f"no sysctls of node {missing[0]}" if missing else ""

    def _response(self, record: Record, line: Response | Batch) -> str:
        if problem := self._step(line.step):
            return problem
        answered, count = self._answered[line.step], line.count if isinstance(line, Batch) else 1
        if line.index + count > len(answered):
            return f"step {self._steps[line.step].name!r} has no request number {line.index + count - 1}"
        if any(answered[line.index : line.index + count]) or line.step in record.steps:
            return f"a second response to request number {line.index}, or one after its step"
        if isinstance(line, Batch) and line.ok + sum(failure[2] for failure in line.failed) != count:
            return "a batch whose connections do not add up"
        if line.took_ms < 0 or (isinstance(line, Response) and line.status is None and line.errno is None):
            return "a response that took less than no time, or has neither status nor errno"
        answered[line.index : line.index + count] = b"\1" * count
        return ""

    def _snapshot(self, record: Record, line: Snapshot) -> str:
        if (line.step, line.node) in record.snapshots:
            return f"a second snapshot of node {line.node!r} after step number {line.step}"
        return self._step(line.step, BEFORE) or self._node(line.node)

    def _step_end(self, record: Record, line: StepEnd) -> str:
        if problem := self._step(line.step):
            return problem
        step, answered = self._steps[line.step], self._answered[line.step]
        if line.step in record.steps:
            return f"a second end of step {step.name!r}"
        if line.name != step.name or line.ended_ms < line.began_ms:
            return f"the end of step {step.name!r} with another name, or before it began"
        if not all(answered):
            return f"step {step.name!r} ends after {sum(answered)} of its {step.requests} responses"
        return ""


class _TooLong(BaseException):
    """The timer has run down; no handler of the code that is timed may take it for one of its own errors."""


@contextmanager
def _in_time(path: Path, limit_s: float) -> Iterator[None]:
    """End what takes more than *limit_s* of CPU time, and say so."""

    def stop(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, limit_s, AGAIN_S)  # again: what is raised in a destructor is lost
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except _TooLong:
        why = "its files or a regular expression in them are not meant to be read"
        raise _wrong(path, 0, f"not judged within {limit_s:.0f} s of CPU time: {why}") from None
    finally:
        signal.signal(signal.SIGVTALRM, before)
