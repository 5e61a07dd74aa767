"""Expressions: whole numbers, names, + - * // and parentheses; nothing else."""

from __future__ import annotations

import pytest

from netns_tw.model import expression

VALUES = {"ok": 11, "requests": 20, "elapsed_ms": 2999, "status_502": 951, "status_200": 49}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("  ok ", 11),
        ("requests - ok", 9),
        ("502s", 951),
        ("200s + 502s", 1000),
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("elapsed_ms // 1000", 2),
        ("ok * (1 + elapsed_ms // 1000)", 33),
        ("10 - 4 - 3", 3),
        ("0 - 7 // 2", -3),
    ],
)
def test_value(text: str, value: int) -> None:
    """Precedence is that of arithmetic; // rounds down; ``502s`` is the number of responses with status 502."""
    assert expression.evaluate(text, VALUES) == value


def test_names() -> None:
    """The names that an expression uses are known before it is evaluated."""
    assert expression.names("usable_ports * (1 + 502s) - 3") == {"usable_ports", "status_502"}
    assert expression.names("42") == set()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ok +",
        "ok / 2",
        "ok ** 2",
        "ok % 2",
        "-ok",
        "ok == 1",
        "1.5",
        "True",
        "'a'",
        "ok()",
        "__import__('os')",
        "ok.real",
        "ok[0]",
        "lambda: 1",
        "[1]",
        "a if b else c",
        "x := 1",
        "600s",
        "1; 2",
        "a\0b",
        "(" * 150 + "1" + ")" * 150,
        "1+" * 150 + "1",
    ],
)
def test_refused(text: str) -> None:
    """Whatever else Python could evaluate is a ValueError, both when names are asked for and when evaluated."""
    with pytest.raises(ValueError, match=r"allowed|not an expression|characters"):
        expression.names(text)
    with pytest.raises(ValueError, match=r"allowed|not an expression|characters"):
        expression.evaluate(text, VALUES)


def test_division_by_zero_is_a_value_error() -> None:
    """What an expression is divided by may be 0 in one run; that is said, not a traceback."""
    with pytest.raises(ValueError, match="division by zero"):
        expression.evaluate("ok // (20 - requests)", VALUES)


def test_an_unknown_name_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="failed"):
        expression.evaluate("failed", VALUES)
