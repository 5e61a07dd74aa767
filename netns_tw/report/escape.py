"""Text of a file or a record, made safe to show: what a terminal or a browser would obey is shown instead.

Not printable are the Unicode categories Other and Separator but the space (str.isprintable): control characters, the
bidirectional overrides that make text read as something else, and lone surrogates, which no encoding takes.
"""

from __future__ import annotations


def escaped(text: str) -> str:
    """*text* with its control characters shown instead of obeyed; a newline stays one."""
    return "".join(one if one.isprintable() or one == "\n" else repr(one)[1:-1] for one in text)
