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
from keyword import iskeyword

from netns_tw.rules import is_number

_OPERATORS = {Add: operator.add, Sub: operator.sub, Mult: operator.mul, FloorDiv: operator.floordiv}
STATUS_PREFIX = "status_"
MAX_CHARACTERS = 200
_SIGNS = ("+", "-", "*", "//")


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
    found = _plain_names(text)
    return _names(_parse(text)) if found is None else found


def _plain_names(text: str) -> set[str] | None:
    """The names of an expression that is words and signs in turn, as most are; None where Python's parser must say."""
    words = text.split(" ")
    if len(text) > MAX_CHARACTERS or len(words) % 2 == 0 or any(one not in _SIGNS for one in words[1::2]):
        return None
    found = set()
    for one in words[::2]:
        if _counts_responses(one):
            found.add(f"{STATUS_PREFIX}{one[:3]}")
        elif one.isascii() and one.isidentifier() and not iskeyword(one):
            found.add(one)
        elif not is_number(one) or one != str(int(one)):
            return None
    return found


def is_status(name: str) -> bool:
    """Whether *name* is ``status_502`` or the like: what :func:`names` makes of ``502s``."""
    return name.startswith(STATUS_PREFIX) and _counts_responses(f"{name.removeprefix(STATUS_PREFIX)}s")


def _counts_responses(word: str) -> bool:
    """Whether *word* means the responses with a status, as ``502s`` does."""
    return len(word) == 4 and is_number(word[:3]) and word[0] in "12345" and word[3] == "s"


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
