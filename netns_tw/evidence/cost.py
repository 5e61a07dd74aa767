"""What sockets cost: kernel memory each, the time to count them, the time that connect() takes as they grow in number.

The kernel tells its slabs of the whole machine alone, so bytes a socket are growth by growth, and are left out where
too few sockets grew to be seen among what else the machine does.
"""

from __future__ import annotations

from dataclasses import dataclass

from netns_tw.model.experiment import Experiment
from netns_tw.model.lines import BEFORE
from netns_tw.model.record import Record

ENOUGH = 50_000
"""Sockets from which bytes a socket are told."""
PARTS = 10
"""Of a step's connections, each with a figure of its own."""
Curve = list[tuple[float, float]]
"""(per cent of the step's connections, microseconds), a point for each batch."""


@dataclass(frozen=True)
class StepCost:
    """What the sockets cost on the node that had most in TIME_WAIT after a step."""

    step: str
    node: str
    time_wait: int
    slab_bytes: int | None
    """Of kernel memory for each socket in TIME_WAIT that was made since the start, on all nodes; None: too few."""
    count_us: float
    tally_ms: float


def costs(record: Record, experiment: Experiment) -> list[StepCost]:
    """The cost after each step; empty where none was measured."""
    found = []
    first = [one for one in record.costs if one.step == BEFORE]
    for number, step in enumerate(experiment.steps):
        now = [one for one in record.costs if one.step == number]
        if not now or not first:
            continue
        grew = sum(one.time_wait for one in now) - sum(one.time_wait for one in first)
        slab_kb = max(one.slab_kb for one in now) - min(one.slab_kb for one in first)
        most = max(now, key=lambda one: one.time_wait)
        each = slab_kb * 1024 // grew if grew >= ENOUGH and slab_kb > 0 else None
        found.append(StepCost(step.name, most.node, most.time_wait, each, most.count_us, most.tally_ms))
    return found


def connect_curve(record: Record, number: int) -> Curve:
    """The median of connect() in step *number*, batch by batch; batches without a connection left out."""
    batches = sorted(record.batches_of(number), key=lambda one: one.index)
    total = sum(one.count for one in batches)
    return [(round(one.index * 100 / total, 3), one.connect_us[0]) for one in batches if one.ok]


def by_parts(curve: Curve) -> list[float | None]:
    """A curve's value in the middle of each of PARTS parts of the step; None where it has none."""
    found: list[float | None] = []
    for part in range(PARTS):
        low, high = part * 100 / PARTS, (part + 1) * 100 / PARTS
        values = sorted(us for at, us in curve if low <= at < high)
        found.append(values[len(values) // 2] if values else None)
    return found
