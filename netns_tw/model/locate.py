"""Key paths to line numbers, which tomllib does not keep.

A line is a header or a key only where no multi-line string and no bracket is open, so strings and comments are blanked
first and brackets are counted. The text is TOML already; nothing is checked here.
"""

from __future__ import annotations

import re

_PART = r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|[\w-]+)"""
_PARTS = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_PARTS})\s*\]\]?\s*$")
_KEY = re.compile(rf"\s*({_PARTS})\s*=")
_STRING = re.compile(r"""\"{3}(?:\\.|[^\\])*?\"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|\#[^\n]*""", re.DOTALL)


def locate(text: str) -> dict[str, int]:
    """Map dotted key paths, ``links[1].addresses``, to their line numbers; keys inside inline tables have none."""
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    prefix = ""
    depth = 0
    for number, line in enumerate(_STRING.sub(_blanked, text).split("\n"), 1):
        if depth == 0 and (header := _HEADER.match(line)):
            parts = _parts(header[2])
            for length in range(1, len(parts)):
                lines.setdefault(_below_arrays(parts[:length], counts), number)
            prefix = _below_arrays(parts, counts)
            if header[1] == "[[":
                lines.setdefault(prefix, number)
                counts[prefix] = counts.get(prefix, -1) + 1
                prefix = f"{prefix}[{counts[prefix]}]"
            lines.setdefault(prefix, number)
        elif depth == 0 and (key := _KEY.match(line)):
            lines.setdefault(".".join(filter(None, (prefix, *_parts(key[1])))), number)
        depth += sum(map(line.count, "[{")) - sum(map(line.count, "]}"))
    return lines


def _blanked(string: re.Match[str]) -> str:
    """A string or comment without what looks like TOML; the lines stay as many."""
    if string[0].startswith("#"):
        return ""
    return '""' + "\n" * string[0].count("\n") if "\n" in string[0] else re.sub(r"[][{}]", "_", string[0])


def _parts(name: str) -> list[str]:
    return [one.strip("\"'") for one in re.findall(_PART, name)]


def _below_arrays(parts: list[str], counts: dict[str, int]) -> str:
    """``expect.responses`` is ``expect[2].responses`` below the third ``[[expect]]``."""
    path = ""
    for part in parts:
        path = f"{path}[{counts[path]}]" if path in counts else path
        path = f"{path}.{part}" if path else part
    return path
