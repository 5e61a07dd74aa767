"""One run, judged: what every report draws from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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

    @property
    def attempts(self) -> int:
        """2 when a first run beside others was inconclusive and it was repeated alone."""
        return self.record.header.attempt if self.record.header else 1
