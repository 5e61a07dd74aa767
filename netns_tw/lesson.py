"""A lesson: a student predicts, the kernel answers, and both stand side by side.

Whoever has said a number first, reads the reason differently. So each experiment goes: its situation without its
result, a question for each step, the replay, the comparison (grade.py has the rule), why, and one thing to try next.

It is a conversation of plain lines, so it works in any terminal and through a pipe. The end of the input is no error:
what was asked so far is still replayed, and the lesson ends. Experiments come in the order of how much they differ from
the lab as it is, so that each adds little to what was understood before.
"""

from __future__ import annotations

import os
import re
import select
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netns_tw import grade, runs, session
from netns_tw.errors import Skip, UsageError
from netns_tw.kernel import process, sandbox
from netns_tw.model import answers
from netns_tw.model.experiment import Experiment
from netns_tw.model.labs import Lab
from netns_tw.model.topology import Program, Topology
from netns_tw.programs.choice import choose
from netns_tw.report import lesson as drawn
from netns_tw.report.console import console
from netns_tw.report.escape import escaped
from netns_tw.report.run import Run

LOOK_S = 0.1
"""How late a signal may be seen at a question."""
READ_BYTES = 4096
SLOW_MS = 2_000
"""A replay that takes longer is announced with its time."""


def in_order(lab: Lab) -> list[Experiment]:
    """The lab's experiments, the easiest first: by how much they change, how many steps and how long they are."""

    def changes(one: Experiment) -> int:
        return sum(len(node.sysctls) + bool(node.programs) + bool(node.routes) for node in one.nodes.values())

    return sorted(lab.experiments.values(), key=lambda one: (changes(one), len(one.steps), one.least_ms, one.claim_id))


class Sheet:
    """The answer file as it is written; a context manager. One that holds no answer is taken away again.

    Raises:
        UsageError: on entry, where the file cannot be made, or is there already.
    """

    def __init__(self, path: Path, lab: str, student: str) -> None:
        self.path = path
        self._head = answers.head_text(lab, student)
        self._claims: set[str] = set()
        self._fd = -1

    def __enter__(self) -> Sheet:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            self._fd = runs.as_caller(lambda: os.open(self.path, flags, 0o644))
        except FileExistsError as error:
            raise UsageError(f"--answers {self.path}: is there already; name another file, or remove it") from error
        except OSError as error:
            raise UsageError(f"--answers {self.path}: cannot be made: {error.strerror}") from error
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):
            if not self._claims and self._is_ours():
                runs.as_caller(self.path.unlink)
        os.close(self._fd)

    def _is_ours(self) -> bool:
        """Whether the file at the path is the regular one that was made here; root must not remove any other."""
        made = os.fstat(self._fd)
        return stat.S_ISREG(made.st_mode) and os.path.samestat(made, os.lstat(self.path))

    @property
    def has_answers(self) -> bool:
        return bool(self._claims)

    def add(self, claim: str, step: str, succeed: int) -> None:
        """Write one prediction down, with one write(2).

        Raises:
            UsageError: it cannot be written, such as on a full disk.
        """
        head = "" if self._claims else self._head
        head += "" if claim in self._claims else answers.claim_text(claim)
        data = (head + answers.step_text(step, succeed)).encode()
        self._claims.add(claim)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise UsageError(f"--answers {self.path}: cannot be written: {error.strerror}") from error


class InputEnded(Exception):
    """Standard input has ended: nobody is there to ask."""


@dataclass
class Lesson:
    """One student's way through some experiments of one lab."""

    lab: Lab
    draw: Callable[[Any], None]
    """Prints what report/lesson.py made."""
    sheet: Sheet | None = None
    records: Path | None = None
    """Where the records of all replays go; None: nowhere."""
    replays: bool = True
    marks: list[str] = field(default_factory=list)
    ungraded: int = 0
    _configs: set[str] = field(default_factory=set)

    def walk(self, experiments: Sequence[Experiment]) -> list[Run]:
        """Ask, replay and compare, experiment by experiment; return the runs.

        Raises:
            EnvironmentLacks: this machine cannot make sandboxes.
            KeyboardInterrupt: a signal came; the answers given are in the sheet.
        """
        self.draw(drawn.opening(self.lab, len(experiments)))
        found: list[Run] = []
        not_asked = 0
        for number, one in enumerate(experiments, 1):
            given: dict[str, int] = {}
            where = f"experiment {number} of {len(experiments)}"
            self.draw(drawn.situation(where, self.lab, one, self._programs(one), self._configs))
            is_over = not self._ask(one, given)
            if is_over and not given:
                not_asked = len(experiments) - number + 1
                break
            if self.replays:
                found.append(self._replay(one))
                self._compare(found[-1], given)
            if is_over:
                not_asked = len(experiments) - number
                break
        if self.replays:
            self.draw(drawn.closing(self.marks, self.ungraded, not_asked))
        return found

    def _programs(self, one: Experiment) -> Mapping[str, Program]:
        """What will run on each node; for a replay elsewhere, what the files say."""
        changed: Topology = self.lab.topology.with_nodes(one.nodes)
        if self.replays:
            with suppress(Skip):  # its own replay says why
                return choose(changed, None, process.find_program("nginx") is not None)[0]
        return {name: node.programs.default for name, node in changed.nodes.items() if node.programs}

    def _ask(self, one: Experiment, given: dict[str, int]) -> bool:
        """Ask for a prediction of each step, into *given*; False where the input ended."""
        for number, step in enumerate(one.steps, 1):
            name = f"Step {number}: how" if len(one.steps) > 1 else "How"
            try:
                predicted = ask(f"{name} many of the {step.requests} requests succeed? ", step.requests)
            except InputEnded:
                return False
            if predicted is not None:
                given[step.name] = predicted
                if self.sheet:
                    self.sheet.add(one.claim_id, step.name, predicted)
        return True

    def _replay(self, one: Experiment) -> Run:
        about = f", about {one.least_ms / 1000:.0f} s" if one.least_ms > SLOW_MS else ""
        say(f"\nReplaying{about} ...\n")
        wishes = session.Wishes(is_quiet=True, out=self.records, keep=0)
        (found,) = session.replay([(self.lab, one)], wishes)
        return found

    def _compare(self, run: Run, given: Mapping[str, int]) -> None:
        held = grade.outcomes(run.case, run.judgement)
        marks = [grade.mark(given.get(step.name), one) for step, one in zip(run.experiment.steps, held, strict=True)]
        self.marks += filter(None, marks)
        self.ungraded += marks.count(grade.NONE)
        self.draw(drawn.result(run, given, held))


def lesson(lab: Lab, experiments: Sequence[Experiment], sheet_of: Sheet | None, replays: bool) -> list[Run]:
    """Hold a lesson on standard input and output; its records are kept as one run.

    Raises:
        UsageError: the answer file cannot be written.
        EnvironmentLacks: this machine cannot make sandboxes.
        KeyboardInterrupt: a signal came; the answers given are in the file.
    """
    if replays:
        sandbox.start(lambda: 0).wait()  # a machine that cannot replay says so before it asks
    with ExitStack() as stack:
        sheet = stack.enter_context(sheet_of) if sheet_of else None
        records = _records(stack) if replays else None
        found = Lesson(lab, console(sys.stdout).print, sheet, records, replays).walk(experiments)
        if found and records:
            runs.prune(runs.KEEP)
            say(f"Records: {records}\n  a page of all of them: netns_tw report {records} --html lesson.html\n")
        if sheet and sheet.has_answers:
            say(f"Answers: {sheet.path}\n")
        return found


def _records(stack: ExitStack) -> Path | None:
    """A folder for the records of the lesson; none where it cannot be made."""
    try:
        return stack.enter_context(runs.new_run()).path
    except UsageError as error:
        sys.stderr.write(f"netns_tw: no record is kept: {error}\n")
        return None


def say(words: str) -> None:
    """Write *words* at once: a question has no line end, and what follows may fork."""
    sys.stdout.write(escaped(words))
    sys.stdout.flush()


def ask(question: str, most: int) -> int | None:
    """Ask until a whole number from 0 to *most* comes; None where Enter alone skips.

    Raises:
        InputEnded: standard input has ended.
    """
    while True:
        say(question)
        line = _line()
        if not line:
            say("\n")
            raise InputEnded
        word = line.strip().decode(errors="replace")
        if not sys.stdin.isatty():
            say(f"{word[:READ_BYTES]}\n")  # a terminal shows what is typed; who reads a pipe's output sees it here
        if not word:
            return None
        if re.fullmatch("[0-9]{1,9}", word) and int(word) <= most:
            return int(word)
        say(f"That is no whole number from 0 to {most}; Enter alone skips.\n")


def _line() -> bytes:
    """One line of standard input, with its end; empty at the end of the input. What is endless is read and dropped."""
    if sys.stdin.isatty():
        _wait_for_a_line()
    line = sys.stdin.buffer.readline(READ_BYTES)
    part = line
    while part and not part.endswith(b"\n") and len(part) == READ_BYTES:
        part = sys.stdin.buffer.readline(READ_BYTES)
    return line


def _wait_for_a_line() -> None:
    """Wait at a terminal, which hands out whole lines, and look up often.

    A signal that comes between Python's last look for one and read(2) does not interrupt that: Ctrl-C right behind a
    question would be heard after the next line only.
    """
    while not select.select([sys.stdin], [], [], LOOK_S)[0]:
        pass
