"""A figure: one number of ours beside one of another program, and the bound that their ratio must keep.

Absolute times depend on the machine and on who else is using it; the ratio of two medians whose samples were taken in
turn depends on them much less. So the ratio is what is judged, and the medians stand beside it. A bound that is
absolute by nature (milliseconds that a person waits, bytes, losses) has nothing beside it and judges the number itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

HOLDS, DOES_NOT, NOT_MEASURED = "holds", "does not", "not measured"


class NotMeasured(Exception):
    """A figure cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Bound:
    """What a value must keep to."""

    number: float
    is_most: bool

    def admits(self, value: float) -> bool:
        """Whether *value* keeps to it."""
        return value <= self.number if self.is_most else value >= self.number

    def __str__(self) -> str:
        return f"{'at most' if self.is_most else 'at least'} {self.number:.4g}"


def at_most(number: float) -> Bound:
    """The bound of what is better when it is less, such as a time."""
    return Bound(number, is_most=True)


def at_least(number: float) -> Bound:
    """The bound of what is better when it is more, such as a rate."""
    return Bound(number, is_most=False)


@dataclass(frozen=True)
class Samples:
    """What was measured, ours and theirs in turn."""

    ours: Sequence[float]
    theirs: Sequence[float] = ()
    lacks: str = ""
    """Why one side was not measured."""
    wrong: str = ""
    """Why the figure does not hold whatever its numbers are."""
    bound: Bound | None = None
    """A bound that only the runs themselves could tell."""
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure that can be measured."""

    name: str
    what: str
    bound: Bound
    unit: str
    measure: Callable[[int], Samples]
    """Takes the number of runs."""
    against: str = ""
    """What it is compared with; empty: the bound is for the number itself."""
    runs: int = 7


@dataclass(frozen=True)
class Result:
    """A figure as it was found."""

    figure: Figure
    samples: Samples
    verdict: str
    reason: str = ""
    """Why it was not measured, or does not hold whatever its numbers are."""

    @property
    def bound(self) -> Bound:
        return self.samples.bound or self.figure.bound

    @property
    def ours(self) -> float | None:
        return median(self.samples.ours) if self.samples.ours else None

    @property
    def theirs(self) -> float | None:
        return median(self.samples.theirs) if self.samples.theirs else None

    @property
    def value(self) -> float | None:
        """What is judged: ours / theirs, or ours where nothing stands beside it."""
        if not self.figure.against:
            return self.ours
        return self.ours / self.theirs if self.ours is not None and self.theirs else None


def judge(figure: Figure, samples: Samples) -> Result:
    """Hold the samples against the figure's bound."""
    found = Result(figure, samples, DOES_NOT, samples.lacks or samples.wrong)
    value = found.value
    if samples.wrong:
        verdict = DOES_NOT
    elif value is None:
        verdict = NOT_MEASURED
    else:
        verdict = HOLDS if found.bound.admits(value) else DOES_NOT
    return Result(figure, samples, verdict, found.reason)


def measured(figure: Figure, runs: int | None) -> Result:
    """Measure it; what cannot be measured here is said, and what breaks does not hold."""
    try:
        return judge(figure, figure.measure(runs or figure.runs))
    except NotMeasured as error:
        return Result(figure, Samples(()), NOT_MEASURED, str(error))
    except Exception as error:  # a figure that breaks must not take the others with it, nor be green
        words = str(error).strip().splitlines()
        return Result(figure, Samples(()), DOES_NOT, f"{type(error).__name__}: {words[-1] if words else ''}")
