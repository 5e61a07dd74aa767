"""A count that is known exactly, or between two numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """From *least* to *most*, both included."""

    least: int
    most: int

    @classmethod
    def exactly(cls, number: int) -> Bounds:
        return cls(number, number)

    @property
    def is_exact(self) -> bool:
        return self.least == self.most

    def __str__(self) -> str:
        return str(self.least) if self.is_exact else f"{self.least} to {self.most}"

    def __add__(self, other: Bounds) -> Bounds:
        return Bounds(self.least + other.least, self.most + other.most)

    def __sub__(self, other: Bounds) -> Bounds:
        return Bounds(self.least - other.most, self.most - other.least)

    def at_least(self, floor: int) -> Bounds:
        """The same with both ends raised to *floor*."""
        return Bounds(max(self.least, floor), max(self.most, floor))
