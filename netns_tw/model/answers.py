"""A student's answers to a lesson: a small TOML file, written by the lesson or by hand, and handed in.

    format  = 1
    lab     = "direct"
    student = "ann"

    [predictions.no-reuse-back-to-back]     # a claim of the lab
    "back to back"  = 11                    # a step, and how many of its requests will succeed
    "again at once" = 0

It is written line by line as the answers come, each with one write(2): however the lesson ends, no answer that was
given is lost, and what is there can be read. Whoever reads it has many of them, from people who may have mistyped, or
worse: so a file is opened without following a link or waiting for a FIFO's writer, is small, and one that is wrong
says all that is wrong in it (reader.py).
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from netns_tw.errors import near_match
from netns_tw.model.experiment import Experiment
from netns_tw.model.folder import Folder
from netns_tw.model.labs import Lab
from netns_tw.model.reader import FORMAT, Document, Table, shown

SUFFIX = ".toml"
MAX_BYTES = 32 << 10
"""The answers to a hundred experiments are about 10 KiB."""
MAX_LINE = 2_000
"""Bytes of a line. A key of ten thousand parts would keep a reader of TOML busy for minutes (locate.py)."""
MAX_NAME = 100
"""Characters of a student's name."""
MAX_PROBLEMS = 20
"""What is noted of one file's predictions; a file that is wrong throughout is no answer file."""
_HEAD = "# How many of the requests of each step will succeed? One table for each claim, one line for each step."
_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Answers:
    """What one student predicted of one lab."""

    file: Path
    student: str
    lab: str
    predictions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By claim and step: how many requests succeed."""


def problem_of_name(name: str) -> str:
    """What is wrong with a student's *name*; empty if nothing is."""
    if not name.strip():
        return "must not be empty"
    if len(name) > MAX_NAME:
        return f"must have at most {MAX_NAME} characters, not {len(name)}"
    return "" if name.isprintable() else f"must be printable, on one line, not {shown(name)}"


def head_text(lab: str, student: str) -> str:
    """The first lines of an answer file."""
    return f"{_HEAD}\nformat  = {FORMAT}\nlab     = {_string(lab)}\nstudent = {_string(student)}\n"


def claim_text(claim: str) -> str:
    """The lines that open a claim's table."""
    return f"\n[predictions.{_key(claim)}]\n"


def step_text(step: str, succeed: int) -> str:
    """The line of one prediction."""
    return f"{_key(step)} = {succeed}\n"


def _key(text: str) -> str:
    return text if _BARE.fullmatch(text) else _string(text)


def _string(text: str) -> str:
    """*text* as a basic string of TOML: JSON's escapes are TOML's, but that TOML takes no bare DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class _HandedIn(Folder):
    """A folder whose files come from anybody: only small regular ones are read."""

    def read(self, name: str) -> bytes:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            fd = os.open(os.path.join(self.path, name), flags)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(errno.ELOOP, "a symbolic link; an answer file is a file itself") from error
            raise
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise OSError(errno.EFBIG, f"larger than {MAX_BYTES >> 10} KiB: not an answer file")
        if max(map(len, data.splitlines()), default=0) > MAX_LINE:
            raise OSError(errno.EFBIG, f"a line is longer than {MAX_LINE} bytes: not an answer file")
        return data


def find_answers(paths: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """Return the answer files that *paths* mean, each once, and what else lay there, a message each.

    A folder means all files ``*.toml`` in it and below it, in order; what is hidden is passed over.
    """
    found: dict[str, Path] = {}
    problems: list[str] = []
    rest = list(reversed(list(paths)))
    named = set(rest)
    while rest:
        path = rest.pop()
        try:
            is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
            inside = sorted(path.iterdir()) if is_folder else []
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            continue
        if is_folder:
            visible = [one for one in inside if not one.name.startswith(".")]
            rest += reversed(visible)
            if not visible and path in named:
                problems.append(f"{path}: holds no answer file (*{SUFFIX})")
        elif path in named or path.name.endswith(SUFFIX):
            found.setdefault(os.path.join(os.path.realpath(path.parent), path.name), path)
        else:
            problems.append(f"{path}: not graded; the name of an answer file ends in {SUFFIX}")
    return list(found.values()), list(dict.fromkeys(problems))


def read_answers(path: Path, lab: Lab) -> Answers:
    """Read the answer file *path*, which is about *lab*.

    Raises:
        FileProblems: all that is wrong in it, of the predictions the first 20.
    """
    document = Document(_HandedIn(path.parent), path.name)
    root = document.root
    root.check_format()
    name, student = root.text("lab"), root.text("student")
    if student and (problem := problem_of_name(student)):
        root.problem("student", problem)
    if not name or name == lab.name:
        predictions = _predictions(document, lab)
        root.end()
    else:
        predictions = {}
        root.problem("lab", f"predictions of lab {shown(name)}; graded is lab {lab.name}")
    document.finish()
    return Answers(path, student.strip(), name, predictions)


def _predictions(document: Document, lab: Lab) -> dict[str, dict[str, int]]:
    root, before = document.root, len(document.problems)
    if not root.has("predictions"):
        root.problem("predictions", "missing; a table for each claim, [predictions.CLAIM]")
    found: dict[str, dict[str, int]] = {}
    for claim, table in root.tables("predictions"):
        if claim in lab.experiments:
            found[claim] = _steps(table, lab.experiments[claim])
        else:
            table.problem("", f"lab {lab.name} has no claim {shown(claim)}{near_match(claim, lab.experiments)}")
        if len(document.problems) - before >= MAX_PROBLEMS:
            break
    return found


def _steps(table: Table, experiment: Experiment) -> dict[str, int]:
    """A claim's predictions by step."""
    requests = {step.name: step.requests for step in experiment.steps}
    found: dict[str, int] = {}
    wrong = 0
    for step, value in table.items():
        if step not in requests:
            steps = ", ".join(map(shown, requests))
            table.problem(step, f"no step is called {shown(step)}{near_match(step, requests)}; there are {steps}")
        elif type(value) is not int or not 0 <= value <= requests[step]:
            table.problem(step, f"must be a whole number from 0 to {requests[step]}, not {shown(value)}")
        else:
            found[step] = value
            continue
        wrong += 1
        if wrong >= MAX_PROBLEMS:
            break
    return found
