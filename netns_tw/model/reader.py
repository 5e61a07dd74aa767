"""Reading the user's TOML: every problem of a file at once, each with its line, key path and near match.

A :class:`Table` hands out values by kind and notes what is wrong; it never stops at the first problem. Whoever reads
a table ends with :meth:`Table.end`, which makes every key that nobody asked for a problem.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from netns_tw.errors import UsageError, near_match

FORMAT = 1
T = TypeVar("T")
_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?")
_KEY = re.compile(r"""^\s*((?:"[^"]*"|'[^']*'|[\w.-])+)\s*=""")
_KINDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a file, and where."""

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


class FileProblems(UsageError):
    """Everything that is wrong in the files read; its text has a line for each problem."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems, key=lambda one: (one.file, one.line, one.path))
        super().__init__("\n".join(map(str, self.problems)))


class Document:
    """A TOML file that was read, and the problems found in it so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self._lines: dict[str, int] = {}
        self.root = Table(self, "", self._load())

    def _load(self) -> dict[str, Any]:
        try:
            text = self.path.read_text(encoding="utf-8")
            self._lines = locate(text)
            return tomllib.loads(text)
        except (OSError, UnicodeDecodeError) as error:
            self.problem("", getattr(error, "strerror", None) or "not a UTF-8 text")
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            found = re.search(r" \(at line (\d+), (column \d+)\)", str(error))
            message = str(error).replace(found[0], f", {found[2]}") if found else str(error)
            line = int(found[1]) if found else 0
            self.problems.append(Problem(str(self.path), line, "", f"not TOML: {message}"))
        raise FileProblems(self.problems)

    def problem(self, path: str, message: str) -> None:
        """Note that something is wrong at the dotted key *path*."""
        self.problems.append(Problem(str(self.path), self._line(path), path, message))

    def _line(self, path: str) -> int:
        while path and path not in self._lines:
            path = path.rpartition(".")[0] if not path.endswith("]") else path.rpartition("[")[0]
        return self._lines.get(path, 0)

    def finish(self) -> None:
        """Raise FileProblems if there are any."""
        if self.problems:
            raise FileProblems(self.problems)


def locate(text: str) -> dict[str, int]:
    """Map dotted key paths, ``links[1].addresses``, to their line numbers; keys inside inline tables have none."""
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    prefix = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            prefix = header[2].replace('"', "").replace(" ", "")
            if header[1] == "[[":
                counts[prefix] = counts.get(prefix, -1) + 1
                prefix = f"{prefix}[{counts[prefix]}]"
            lines.setdefault(prefix, number)
        elif key := _KEY.match(line):
            name = key[1].replace('"', "").replace("'", "")
            lines.setdefault(f"{prefix}.{name}" if prefix else name, number)
    return lines


class Table:
    """One table of a document; each value is asked for once, by kind."""

    def __init__(self, document: Document, path: str, values: dict[str, Any]) -> None:
        self._document = document
        self.path = path
        self._values = values
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def problem(self, key: str, message: str) -> None:
        """Note a problem with *key* of this table (with the table itself where it is empty)."""
        self._document.problem(self._at(key), message)

    def _at(self, key: str) -> str:
        return ".".join(filter(None, (self.path, key)))

    def end(self) -> None:
        """Every key that was not asked for is unknown."""
        for key in self._values:
            if key not in self._asked:
                self.problem(key, f"unknown key{near_match(key, self._asked)}")

    def value(self, key: str, kind: type[T], default: T | None = None, required: bool = False) -> T | None:
        """Return the value of *key* if it is of *kind*, else note a problem and return *default*."""
        self._asked.add(key)
        if key not in self._values:
            if required:
                self.problem(key, f"missing; it must be {_KINDS[kind]}")
            return default
        found = self._values[key]
        if kind is float and type(found) is int:
            found = float(found)
        if type(found) is kind:
            return found
        self.problem(key, f"must be {_KINDS[kind]}, not {found!r}")
        return default

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string; required where there is no *default*."""
        return self.value(key, str, default, required=default is None) or ""

    def number(self, key: str, default: int | None, least: int, most: int) -> int:
        """Return a whole number from *least* to *most*; required where *default* is None."""
        found = self.value(key, int, default, required=default is None)
        if found is not None and not least <= found <= most:
            self.problem(key, f"must be from {least} to {most}, not {found}")
        return found if found is not None else least

    def expression(self, key: str) -> str:
        """Return a string or a whole number as text; empty where there is none."""
        self._asked.add(key)
        found = self._values.get(key, "")
        if type(found) in (str, int):
            return str(found)
        self.problem(key, f"must be a whole number or an expression in a string, not {found!r}")
        return ""

    def choice(self, key: str, allowed: Collection[str], default: str | None = None) -> str:
        """Return one of the *allowed* words."""
        found = self.text(key, default)
        if found not in allowed and key in self._values and isinstance(self._values[key], str):
            words = ", ".join(sorted(allowed))
            self.problem(key, f"{found!r} is not one of {words}{near_match(found, allowed)}")
        return found

    def parsed(self, key: str, parse: Callable[[str], T], what: str) -> T | None:
        """Return a required string as *parse* reads it; its ValueError becomes "must be *what*"."""
        found = self.value(key, str, required=True)
        if found is None:
            return None
        try:
            return parse(found)
        except ValueError:
            self.problem(key, f"must be {what}, not {found!r}")
            return None

    def table(self, key: str) -> Table | None:
        """Return a sub-table, or None where there is none."""
        found = self.value(key, dict)
        return None if found is None else Table(self._document, self._at(key), found)

    def tables(self, key: str) -> Iterator[tuple[str, Table]]:
        """Yield the sub-tables of table *key* by name."""
        outer = self.table(key)
        if outer is not None:
            for name in outer._values:
                inner = outer.table(name)
                if inner is not None:
                    yield name, inner

    def each(self, key: str) -> list[Table]:
        """Return the tables of array *key*."""
        self._asked.add(key)
        found = self._values.get(key, [])
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            self.problem(key, f"must be an array of tables, [[{self._at(key)}]]")
            return []
        return [Table(self._document, f"{self._at(key)}[{number}]", one) for number, one in enumerate(found)]

    def array(self, key: str, kind: type[T]) -> list[T]:
        """Return an array whose items are all of *kind*."""
        self._asked.add(key)
        found = self._values.get(key, [])
        if not isinstance(found, list) or not all(type(one) is kind for one in found):
            self.problem(key, f"must be an array, each item {_KINDS[kind]}, not {found!r}")
            return []
        return found

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield all key-value pairs, nested tables flattened to dotted keys, and take them as asked for."""
        yield from self._flat("", self._values)
        self._asked.update(self._values)

    def _flat(self, prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, found in values.items():
            name = f"{prefix}{key}"
            if isinstance(found, dict):
                yield from self._flat(f"{name}.", found)
            else:
                yield name, found

    def check_format(self) -> None:
        """Every file says which format it is written in."""
        found = self.value("format", int, required=True)
        if found is not None and found != FORMAT:
            self.problem("format", f"this version reads format {FORMAT}, not {found}")
