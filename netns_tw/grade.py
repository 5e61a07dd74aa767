"""Grading: a prediction held against what the port budget predicted and against what happened. Pure.

The rule, which stands here only. A step has r requests, o of them succeeded, and n was predicted:

    yes    n is o
    yes    n and o are both inside the bounds that the budget names, and these are closed: which of "10 or 11" it is,
           is the kernel's chance, and nobody can know more
    near   how many succeed is a race: the budget's bounds are open ("at least 2"), or it predicts nothing; n is inside
           them, and it was predicted as it came whether all succeed, some or none
    no     any other n
    (none) no prediction was made, or there is nothing to hold it against

What happened stands above the budget: where o is outside of its bounds, n must be o. Of a race nobody can know the
number, so a number that the budget allows is not wrong; but "all of them" and "none" are answers of another kind, and
are right or wrong. Bounds are open where they end at r and leave more than one connection to chance. A run that is
neither pass nor fail grades nobody: where it was too slow, or broken, its numbers may mean something else.

Tables go to spreadsheets, which take a text that begins with = + - @ or a tab for a formula and carry it out: such a
text gets a ' before it (OWASP, CSV Injection). Names come from strangers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from netns_tw.evidence.case import Case
from netns_tw.evidence.prediction import Prediction, predictions
from netns_tw.model.answers import Answers
from netns_tw.model.experiment import Experiment
from netns_tw.verdict import Judgement

YES, NEAR, NO, NONE = "yes", "near", "no", ""
GRADED = ("pass", "fail")
"""The verdicts of runs whose numbers count."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class Outcome:
    """What a prediction of one step is held against."""

    requests: int
    observed: int | None
    """How many succeeded; None: the run grades nobody."""
    budget: Prediction | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """How many can succeed, by the port budget; all there are where it says nothing."""
        return (self.budget.least, self.budget.most) if self.budget else (0, self.requests)

    @property
    def is_race(self) -> bool:
        """Whether the bounds leave the number open."""
        least, most = self.bounds
        return self.budget is None or (most == self.requests and most - least > 1)

    @property
    def words(self) -> str:
        """What the budget predicted, ``10 or 11``; empty where it predicts nothing."""
        return self.budget.words if self.budget else ""


def outcomes(case: Case, judgement: Judgement) -> list[Outcome]:
    """What each step of a judged run grades by."""
    budgets = predictions(case)
    found = []
    for number, step in enumerate(case.experiment.steps):
        succeeded = case.record.ok(number)
        is_graded = judgement.verdict in GRADED and number in case.record.steps
        found.append(Outcome(step.requests, succeeded if is_graded else None, budgets[number]))
    return found


def mark(predicted: int | None, outcome: Outcome) -> str:
    """YES, NEAR, NO or NONE, by the rule above."""
    observed, (least, most) = outcome.observed, outcome.bounds
    if predicted is None or observed is None:
        return NONE
    if predicted == observed:
        return YES
    if not (least <= predicted <= most and least <= observed <= most):
        return NO
    if not outcome.is_race:
        return YES
    some = range(1, outcome.requests)
    return NEAR if predicted in some and observed in some else NO


class Row(NamedTuple):
    """One student, one step."""

    student: str
    lab: str
    claim: str
    step: str
    prediction: int | None
    budget: str
    observed: int | None
    right: str


class Total(NamedTuple):
    """One student: of all steps that could be graded, how many were answered, right and near."""

    student: str
    lab: str
    steps: int
    answered: int
    right: int
    near: int


ROW_TITLES = ("student", "lab", "claim", "step", "prediction", "predicted by the budget", "observed", "right")
TOTAL_TITLES = Total._fields


def rows(found: Answers, experiments: Iterable[Experiment], known: Mapping[str, Sequence[Outcome]]) -> list[Row]:
    """A student's rows: a step each, of *experiments*; *known* holds the outcomes of a claim's steps."""
    table = []
    for one in experiments:
        predicted = found.predictions.get(one.claim_id, {})
        held = known.get(one.claim_id) or [Outcome(step.requests, None) for step in one.steps]
        for step, outcome in zip(one.steps, held, strict=True):
            said = predicted.get(step.name)
            words = (found.student, found.lab, one.claim_id, step.name, said, outcome.words, outcome.observed)
            table.append(Row(*words, mark(said, outcome)))
    return table


def total(found: Answers, table: Iterable[Row]) -> Total:
    """The summary of one student's rows."""
    graded = [row for row in table if row.observed is not None]
    marks = [row.right for row in graded]
    return Total(found.student, found.lab, len(graded), sum(map(bool, marks)), marks.count(YES), marks.count(NEAR))


def as_csv(titles: Sequence[str], table: Iterable[Sequence[str | int | None]]) -> str:
    """A table as CSV (RFC 4180, but lines end as elsewhere here), safe to open in a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows([_safe(cell) if isinstance(cell, str) else cell for cell in row] for row in table)
    return out.getvalue()


def _safe(text: str) -> str:
    """*text* as no spreadsheet carries it out; what is not printable is shown, else it may end a line."""
    shown = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    return f"'{shown}" if text.startswith(FORMULA) else shown
