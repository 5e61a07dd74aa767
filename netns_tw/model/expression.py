"""Expressions of expectations: whole numbers, names, ``+ - * //`` and parentheses; nothing else.

``502s`` reads as "the number of responses with status 502"; Python has no such name, so it is rewritten to
``status_502`` before Python's own parser is asked. Of ``ast`` only its nodes are imported, from
where it has them itself: what it adds to them takes 2 ms, and is needed for a message alone.
"""

from __future__ import annotations

import operator
import re
from _ast import Add, BinOp, Constant, Expression, FloorDiv, Mult, Name, PyCF_ONLY_AST, Sub, expr
from collections.abc import Mapping

from netns_tw.rules import is_number

_OPERATORS = {Add: operator.add, Sub: operator.sub, Mult: operator.mul, FloorDiv: operator.floordiv}
STATUS_PREFIX = "status_"
MAX_CHARACTERS = 200


def _parse(text: str) -> expr:
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"longer than {MAX_CHARACTERS} characters")
    try:
        python = re.sub(r"\b([1-5][0-9]{2})s\b", rf"{STATUS_PREFIX}\1", text.strip())
        tree = compile(python, "<expression>", "eval", PyCF_ONLY_AST, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError("not an expression of names, whole numbers and + - * //") from error
    assert isinstance(tree, Expression)
    return tree.body


def names(text: str) -> set[str]:
    """Return the names an expression uses, ``status_502`` for ``502s``.

    Raises:
        ValueError: it is no expression, or holds something that is not allowed.
    """
    return _names(_parse(text))


def is_status(name: str) -> bool:
    """Whether *name* is ``status_502`` or the like: what :func:`names` makes of ``502s``."""
    code = name.removeprefix(STATUS_PREFIX)
    return code != name and len(code) == 3 and is_number(code) and code[0] in "12345"


def _names(tree: expr) -> set[str]:
    if isinstance(tree, BinOp) and type(tree.op) in _OPERATORS:
        return _names(tree.left) | _names(tree.right)
    if isinstance(tree, Name):
        return {tree.id}
    if isinstance(tree, Constant) and type(tree.value) is int:
        return set()
    raise ValueError(f"{_source(tree)!r} is not allowed; names, whole numbers and + - * // are")


def _source(tree: expr) -> str:
    from ast import unparse

    return unparse(tree)


def evaluate(text: str, values: Mapping[str, int]) -> int:
    """Return the value of an expression.

    Raises:
        ValueError: it is no expression, or divides by zero.
        KeyError: a name is not in *values*.
    """
    try:
        return _evaluate(_parse(text), values)
    except ZeroDivisionError as error:
        raise ValueError("division by zero") from error


def _evaluate(tree: expr, values: Mapping[str, int]) -> int:
    if isinstance(tree, BinOp) and type(tree.op) in _OPERATORS:
        return int(_OPERATORS[type(tree.op)](_evaluate(tree.left, values), _evaluate(tree.right, values)))
    if isinstance(tree, Name):
        return values[tree.id]
    if isinstance(tree, Constant) and type(tree.value) is int:
        return tree.value
    raise ValueError(f"{_source(tree)!r} is not allowed")
