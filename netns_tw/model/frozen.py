"""Frozen dataclasses by another way, for what is read by commands that must answer at once.

``dataclasses`` takes 7 ms to import and 0.4 ms for each class, whose methods it writes and compiles: for a lab's files
as long as Python itself takes to start. Here the methods are written once, in a base, and look the fields up. Type
checkers see a dataclass all the same (PEP 681), and so do dataclasses.replace() and asdict().
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, dataclass_transform

if TYPE_CHECKING:
    from dataclasses import Field

_WHOLE_FILES = ("text", "config_text")
"""Fields that repr() leaves out."""


class _Fields:
    """What ``dataclasses`` knows a dataclass by; made when it is asked for."""

    def __init__(self) -> None:
        self._of: dict[type[Frozen], dict[str, Field[Any]]] = {}

    def __get__(self, one: Frozen | None, owner: type[Frozen]) -> dict[str, Field[Any]]:
        if owner not in self._of:
            from dataclasses import make_dataclass

            made: Any = make_dataclass(owner.__name__, owner._order, init=False, repr=False, eq=False)
            self._of[owner] = made.__dataclass_fields__
        return self._of[owner]


@dataclass_transform(frozen_default=True)
class Frozen:
    """Base of a class whose fields are its annotations, in order; what the class sets one to is its default.

    A default is shared by all objects, so one that could be changed is annotated as what cannot, a Mapping.
    """

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    else:
        __dataclass_fields__ = _Fields()
    _order: ClassVar[tuple[str, ...]] = ()
    _names: ClassVar[frozenset[str]] = frozenset()
    _defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        cls._order = tuple(cls.__annotations__)
        cls._names = frozenset(cls._order)
        cls._defaults = {name: vars(cls)[name] for name in cls._order if name in vars(cls)}

    def __init__(self, *given: Any, **named: Any) -> None:
        words = dict(zip(self._order, given, strict=False), **named) if given else named
        values = self.__dict__
        values.update(self._defaults)
        values.update(words)
        if len(words) != len(given) + len(named) or values.keys() != self._names:
            raise TypeError(f"{type(self).__name__} has the fields {', '.join(self._order)}")

    def but(self, **changed: Any) -> Self:
        """The same with some fields changed, as dataclasses.replace() has it."""
        return type(self)(**{**vars(self), **changed})

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {name}")

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self._order))

    def __repr__(self) -> str:
        shown = (f"{name}={vars(self)[name]!r}" for name in self._order if name not in _WHOLE_FILES)
        return f"{type(self).__qualname__}({', '.join(shown)})"
