"""Expressions of expectations: whole numbers, names, ``+ - * //`` and parentheses; nothing else.

``502s`` reads as "the number of responses with status 502"; Python has no such name, so it is rewritten to
``status_502`` before Python's own parser is asked.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping

_STATUS = re.compile(r"\b([1-5][0-9]{2})s\b")
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}
STATUS_PREFIX = "status_"
MAX_CHARACTERS = 200


def _parse(text: str) -> ast.expr:
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"longer than {MAX_CHARACTERS} characters")
    try:
        return ast.parse(_STATUS.sub(rf"{STATUS_PREFIX}\1", text.strip()), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError("not an expression of names, whole numbers and + - * //") from error


def names(text: str) -> set[str]:
    """Return the names an expression uses, ``status_502`` for ``502s``.

    Raises:
        ValueError: it is no expression, or holds something that is not allowed.
    """
    return _names(_parse(text))


def _names(tree: ast.expr) -> set[str]:
    if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATORS:
        return _names(tree.left) | _names(tree.right)
    if isinstance(tree, ast.Name):
        return {tree.id}
    if isinstance(tree, ast.Constant) and type(tree.value) is int:
        return set()
    raise ValueError(f"{ast.unparse(tree)!r} is not allowed; names, whole numbers and + - * // are")


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


def _evaluate(tree: ast.expr, values: Mapping[str, int]) -> int:
    if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATORS:
        return int(_OPERATORS[type(tree.op)](_evaluate(tree.left, values), _evaluate(tree.right, values)))
    if isinstance(tree, ast.Name):
        return values[tree.id]
    if isinstance(tree, ast.Constant) and type(tree.value) is int:
        return tree.value
    raise ValueError(f"{ast.unparse(tree)!r} is not allowed")
