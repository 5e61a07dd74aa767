"""One run, judged: what every report draws from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from netns_tw.evidence.case import Case
from netns_tw.model.experiment import Experiment
from netns_tw.model.record import Record
from netns_tw.model.topology import Topology
from netns_tw.verdict import Judgement


@dataclass(frozen=True)
class Run:
    """An experiment, the lab as it changes it, the record of its run and the judgement on it."""

    experiment: Experiment
    topology: Topology
    record: Record
    judgement: Judgement
    path: Path | None = None
    """Where the record is kept."""

    @cached_property
    def case(self) -> Case:
        """The run as explanations look at it, worked out once."""
        return Case(self.record, self.experiment, self.topology)

    @property
    def attempts(self) -> int:
        """2 when a first run beside others was inconclusive and it was repeated alone."""
        return self.record.header.attempt if self.record.header else 1
