"""All figures, subject by subject."""

from __future__ import annotations

from benchmarks import bringup, observation, programs, replaying, scale, start, teardown
from benchmarks.figure import Figure

SUBJECTS = (
    start,
    bringup,
    teardown,
    programs,
    observation,
    replaying,
    scale,
)
FIGURES: tuple[Figure, ...] = tuple(one for subject in SUBJECTS for one in subject.FIGURES)
