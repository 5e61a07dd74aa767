"""lesson: a guided walk through a lab for one student, and the grading of a class.

The walk is a conversation on standard input and output; grading prints a table, CSV or JSON, and says on standard error
what could not be graded.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from netns_tw.commands import Add
from netns_tw.commands.run import AT_ONCE
from netns_tw.commands.streams import hush
from netns_tw.errors import EXIT_PASS, EXIT_USAGE, UsageError
from netns_tw.model import labs

if TYPE_CHECKING:
    from netns_tw.grade import Outcome, Row
    from netns_tw.model.answers import Answers
    from netns_tw.model.experiment import Experiment
    from netns_tw.model.labs import Lab
    from netns_tw.report.run import Run

FORMAT = 1
MAX_SHOWN = 20
"""Problems of one file that are shown; the rest is counted."""


def declare(add: Add) -> None:
    """Add the command."""
    command = add("lesson", "python -m netns_tw lesson direct --answers ann.toml", _lesson)
    command.add_argument("lab", metavar="LAB", help="a lab's name, or the path of your own")
    command.add_argument("--only", metavar="CLAIM", help="this claim alone (default: all of the lab)")
    walk = command.add_argument_group("a walk")
    written = "write the predictions to FILE, as they are made (default: nowhere)"
    walk.add_argument("--answers", type=Path, metavar="FILE", help=written)
    walk.add_argument("--name", metavar="NAME", help="the student's name in FILE (default: the login)")
    walk.add_argument("--predict-only", action="store_true", help="ask only, replay nothing: homework (no root)")
    check = command.add_argument_group("grading")
    what = "grade these answer files, and all *.toml in these folders, to CSV on standard output (default: walk)"
    check.add_argument("--check", nargs="+", type=Path, metavar="ANSWERS", help=what)
    records = "grade against the records in DIR, no root (default: replay the lab once)"
    check.add_argument("--records", type=Path, metavar="DIR", help=records)
    check.add_argument("--summary", action="store_true", help="a row for each student instead of each step")


def _lesson(given: argparse.Namespace) -> int:
    _check_options(given)
    lab = labs.read_lab(labs.folder_of(given.lab))
    if not lab.experiments:
        raise UsageError("there is no experiment to replay: a lab's are its files experiments/*.toml")
    only = [labs.pick(lab, given.only)] if given.only else []
    if given.check:
        return _grade(given, lab, only)
    from netns_tw import lesson, verdict

    sheet = lesson.Sheet(given.answers, lab.name, _name(given.name)) if given.answers else None
    found = lesson.lesson(lab, only or lesson.in_order(lab), sheet, replays=not given.predict_only)
    return verdict.exit_code([one.judgement for one in found])


def _check_options(given: argparse.Namespace) -> None:
    """Refuse options that contradict each other."""
    if "json" in getattr(given, "variables", {}) and not given.check:
        given.json = False  # a job's variable, and nothing here to print as JSON
    walking = {"--answers": given.answers, "--name": given.name, "--predict-only": given.predict_only}
    grading = {"--records": given.records, "--summary": given.summary, "--json": given.json}
    other = [name for name, value in (walking if given.check else grading).items() if value]
    if other:
        whose = "a walk" if given.check else "grading, with --check ANSWERS"
        raise UsageError(f"{other[0]} is for {whose}")
    for name in ("--name", "--predict-only"):
        if walking[name] and not given.answers:
            raise UsageError(f"{name} needs --answers FILE, where the predictions are written")


def _name(given: str | None) -> str:
    """The student's name: as given, else the login; under sudo that of the user who called it."""
    if given is None:
        caller = os.environ.get("SUDO_USER", "") if os.geteuid() == 0 else ""
        try:
            given = caller or pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            given = f"uid {os.getuid()}"
    from netns_tw.model import answers

    problem = answers.problem_of_name(given)
    if problem:
        raise UsageError(f"--name {problem}")
    return given.strip()


def _grade(given: argparse.Namespace, lab: Lab, only: Sequence[Experiment]) -> int:
    handed_in, problems = _read(given.check, lab)
    _say_twice(handed_in)
    answered = {claim for one in handed_in for claim in one.predictions}
    wanted = [one for one in only or lab.experiments.values() if one.claim_id in answered]
    code = EXIT_PASS
    runs: dict[str, Run] = {}
    if wanted and given.records:
        runs, wrong = _recorded(given.records, wanted)
        problems += wrong
    elif wanted:
        code, runs = _replayed(lab, wanted)
    known = _outcomes(wanted, runs)
    from netns_tw import grade

    table = [(one, grade.rows(one, wanted, known)) for one in handed_in]
    try:
        sys.stdout.write(_printed(table, given.summary, given.json))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough; the code stands
        hush()
    return EXIT_USAGE if problems else code


def _complain(problem: str) -> None:
    print(f"netns_tw: {problem}", file=sys.stderr)


def _read(paths: Sequence[Path], lab: Lab) -> tuple[list[Answers], int]:
    """Read all answer files that *paths* mean; complain of each that is wrong, and count these."""
    from netns_tw.model import answers
    from netns_tw.model.folder import FileProblems

    files, problems = answers.find_answers(paths)
    for one in problems:
        _complain(one)
    found, wrong = [], len(problems)
    for file in files:
        try:
            found.append(answers.read_answers(file, lab))
        except FileProblems as error:
            wrong += 1
            more = len(error.problems) - MAX_SHOWN
            _complain("\n".join(map(str, error.problems[:MAX_SHOWN])) + (f"\n... and {more} more" if more > 0 else ""))
    if not found and not wrong:
        _complain("there is no answer file")
    return found, wrong + (not found and not wrong)


def _say_twice(handed_in: Sequence[Answers]) -> None:
    """Say which students handed in more than one file; all are graded."""
    files: dict[str, list[str]] = {}
    for one in handed_in:
        files.setdefault(one.student, []).append(str(one.file))
    for student, names in files.items():
        if len(names) > 1:
            _complain(f"{len(names)} files by {student}, each graded for itself: {', '.join(names)}")


def _replayed(lab: Lab, wanted: Sequence[Experiment]) -> tuple[int, dict[str, Run]]:
    """Replay the *wanted* experiments once, for all students; with the exit code of their verdicts."""
    from netns_tw import session, verdict

    wishes = session.Wishes(at_once=AT_ONCE, is_quiet=not sys.stderr.isatty())
    found = session.replay([(lab, one) for one in wanted], wishes)
    return verdict.exit_code([one.judgement for one in found]), {one.experiment.claim_id: one for one in found}


def _recorded(folder: Path, wanted: Sequence[Experiment]) -> tuple[dict[str, Run], int]:
    """The run of each *wanted* experiment from the records in *folder*, the last where there are several."""
    from netns_tw.report import saved

    loaded, problems = saved.load_all([folder])
    found: dict[str, Run] = {}
    for one in wanted:
        fitting = [run for run in loaded if run.experiment.path == one.path]
        if not fitting:
            problems.append(f"{folder}: holds no record of {one.path}")
        elif [(step.name, step.requests) for step in fitting[-1].experiment.steps] != [
            (step.name, step.requests) for step in one.steps
        ]:
            problems.append(f"{fitting[-1].path}: the record of another version of {one.path}: its steps differ")
        else:
            found[one.claim_id] = fitting[-1]
    for problem in problems:
        _complain(problem)
    return found, len(problems)


def _outcomes(wanted: Sequence[Experiment], runs: Mapping[str, Run]) -> dict[str, list[Outcome]]:
    """What the steps of each claim grade by; say which claims grade nobody."""
    from netns_tw import grade

    found = {claim: grade.outcomes(run.case, run.judgement) for claim, run in runs.items()}
    for one in wanted:
        run = runs.get(one.claim_id)
        if run and run.judgement.verdict not in grade.GRADED:
            reason = run.judgement.reason.split("\n")[0]
            _complain(f"{one.path}: nobody is graded on it, {run.judgement.verdict}: {reason}")
    return found


def _printed(table: Sequence[tuple[Answers, list[Row]]], is_summary: bool, as_json: bool) -> str:
    from netns_tw import grade

    totals = [grade.total(one, rows) for one, rows in table]
    rows = [row for _, some in table for row in some]
    if as_json:
        found = {"students": [one._asdict() for one in totals]}
        if not is_summary:
            found["steps"] = [one._asdict() for one in rows]
        return json.dumps({"format": FORMAT, **found}, indent=2) + "\n"
    return grade.as_csv(grade.TOTAL_TITLES, totals) if is_summary else grade.as_csv(grade.ROW_TITLES, rows)
