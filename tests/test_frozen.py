"""Frozen is a frozen dataclass in all that this project does with one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any

import pytest

from netns_tw.model.experiment import Expectation, Sockets
from netns_tw.model.frozen import Frozen
from netns_tw.model.topology import Node, Topology


class Ours(Frozen):
    """Fields with and without a default, and a method."""

    name: str
    count: int = 1
    more: Mapping[str, int] = {}
    text: str = ""

    def twice(self) -> int:
        return 2 * self.count


@dataclass(frozen=True)
class Pythons:
    """The same by Python's own."""

    name: str
    count: int = 1
    more: Mapping[str, int] = field(default_factory=dict)
    text: str = field(repr=False, default="")


GIVEN: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("a",), {}),
    ((), {"name": "a"}),
    (("a", 2), {"text": "x"}),
    (("a", 2, {"x": 1}, "t"), {}),
    ((), {"text": "t", "name": "b", "more": {"y": 2}}),
]


@pytest.mark.parametrize(("given", "named"), GIVEN)
def test_it_is_made_as_a_dataclass_is(given: tuple[Any, ...], named: dict[str, Any]) -> None:
    """By position and by name, defaults filled in; shown, turned into a dict and replaced alike."""
    one, other = Ours(*given, **named), Pythons(*given, **named)
    assert vars(one) == vars(other)
    assert repr(one) == repr(other).replace("Pythons", "Ours")
    assert asdict(one) == asdict(other)
    assert vars(replace(one, count=7)) == vars(replace(other, count=7))
    assert one.but(count=7) == replace(one, count=7)
    assert one.twice() == 2 * other.count


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((), {}),
        (("a", 1, {}, "", 5), {}),
        (("a",), {"name": "b"}),
        (("a",), {"nam": "b"}),
        ((), {"count": 1, "nam": 2}),
    ],
)
def test_what_a_dataclass_refuses_it_refuses(given: tuple[Any, ...], named: dict[str, Any]) -> None:
    """A field that is missing, given twice or not there."""
    for kind in (Ours, Pythons):
        with pytest.raises(TypeError):
            kind(*given, **named)


def test_it_cannot_be_changed() -> None:
    one = Ours("a")
    with pytest.raises(AttributeError):
        one.count = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        one.other = 2
    with pytest.raises(AttributeError):
        del one.count
    assert one == Ours("a")


def test_equality_and_hash_are_of_class_and_fields() -> None:
    """Not of a base, not of another class with the same fields."""
    sockets = [Sockets("lb", "time-wait"), Sockets("lb", "time-wait", None), Sockets("lb", "closing")]
    assert sockets[0] == sockets[1] != sockets[2]
    assert len({*sockets}) == 2
    assert Ours("a") != Pythons("a")
    with pytest.raises(TypeError):
        hash(Ours("a"))


def test_it_goes_through_a_pipe_and_is_copied() -> None:
    """As records of sandboxes do."""
    one = Expectation("e", Sockets("lb", "time-wait"), {"equals": "2"})
    assert pickle.loads(pickle.dumps(one)) == one == copy.deepcopy(one)


def test_dataclasses_knows_it() -> None:
    """asdict() goes into what is nested, replace() makes the same class."""
    one = Expectation("e", Sockets("lb", "time-wait", local_port=80), {"equals": "2"})
    assert is_dataclass(one)
    assert [each.name for each in fields(one)] == ["name", "subject", "comparisons", "step"]
    subject = {"node": "lb", "state": "time-wait", "remote": None, "local_port": 80}
    assert asdict(one) == {"name": "e", "subject": subject, "comparisons": {"equals": "2"}, "step": None}
    assert type(replace(one, name="f")) is Expectation


def test_a_lab_as_an_experiment_changes_it_shares_no_default() -> None:
    """The one empty mapping of all nodes without sysctls stays empty."""
    node = Node("a")
    with_more = Topology("t", "", {"a": node}, (), folder=None).with_nodes({"a": Node("a", {"x": "1"})})  # type: ignore[arg-type]
    assert with_more.nodes["a"].sysctls == {"x": "1"}
    assert node.sysctls == Node("b").sysctls == {}
