"""Reading the user's TOML: every problem of a file at once, each with its line, key path and near match.

A :class:`Table` hands out values by kind and notes what is wrong; it never stops at the first problem. Whoever reads
a table ends with :meth:`Table.end`, which makes every key that nobody asked for a problem.

What tomllib reads is not yet fit for this: it nests without limit and holds numbers of any length, and its line
numbers are gone. So values are looked over once before they are handed out, and ``locate`` finds the lines again.
"""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

from netns_tw.errors import near_match
from netns_tw.model.folder import FileProblems, Folder, Problem

FORMAT = 1
T = TypeVar("T")
MAX_DEPTH = 16
MAX_SHOWN = 60
_LOOKED_OVER = (dict, list, int)
"""What may nest too deep or be too large; the rest of a table's values need no look."""
_MISPLACED = "unknown key here: TOML takes it for a part of this table; write it above the first [table]"
_KINDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    list: "an array",
}


def shown(value: object) -> str:
    """*value* about as its file has it, shortened."""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value) if isinstance(value, datetime.date | datetime.time) else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def head(text: str) -> str:
    """The part of a TOML text before its first table, which holds all keys of the root.

    A cut that falls inside a string or an array, before a line of it that begins with '[', leaves what is no TOML.
    """
    table = re.search(r"^[ \t]*\[", text, re.MULTILINE)
    return text[: table.start()] if table else text


class Document:
    """A TOML file that was read, or its head alone, and the problems found in it so far."""

    def __init__(self, folder: Folder, name: str, is_whole: bool = True) -> None:
        self.path = folder.path_of(name)
        self._folder, self._name, self._is_whole = folder, name, is_whole
        self.text = ""
        self.problems: list[Problem] = []
        self._unknown: list[tuple[Table, str]] = []
        self._lines: dict[str, int] | None = {}
        self.root = Table(self, "", self._load())

    def _load(self) -> dict[str, Any]:
        data, text = b"", ""
        try:
            data = self._folder.read(self._name)
            self.text = text = data.decode().removeprefix("\ufeff").replace("\r\n", "\n")
            values = tomllib.loads(text if self._is_whole else head(text))
            self._lines = None  # until a problem asks
            self._look_over(values)
            return values
        except OSError as error:
            self.problem("", error.strerror or str(error))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            self.problems.append(Problem(self.path, line, "", "not UTF-8 text; save it as UTF-8"))
        except tomllib.TOMLDecodeError as error:
            self.problems.append(_not_toml(self.path, text, str(error)))
        except RecursionError:
            self.problem("", f"nested more than {MAX_DEPTH} deep")
        except ValueError:  # int() takes no more than 4300 digits
            self.problem("", "a number must fit into 64 bits")
        raise FileProblems(self.problems)

    def _look_over(self, values: dict[str, Any]) -> None:
        """Refuse what no reader should look at: nesting without end, numbers without end."""
        rest: list[tuple[str, Any, int]] = [("", values, 0)]
        while rest:
            path, value, depth = rest.pop()
            if depth > MAX_DEPTH:
                self.problem(path, f"nested more than {MAX_DEPTH} deep")
            elif isinstance(value, dict):
                rest += [
                    (f"{path}.{key}" if path else key, one, depth + 1)
                    for key, one in value.items()
                    if depth == MAX_DEPTH or isinstance(one, _LOOKED_OVER)
                ]
            elif isinstance(value, list):
                rest += [(f"{path}[{number}]", one, depth + 1) for number, one in enumerate(value)]
            elif type(value) is int and not -(2**63) <= value < 2**63:
                self.problem(path, "a number must fit into 64 bits")
        self.finish()

    def problem(self, path: str, message: str) -> None:
        """Note that something is wrong at the dotted key *path*."""
        self.problems.append(Problem(self.path, self._line(path), path, message))

    def _line(self, path: str) -> int:
        if self._lines is None:
            from netns_tw.model.locate import locate

            self._lines = locate(self.text)
        while path and path not in self._lines:
            path = path.rpartition(".")[0] if not path.endswith("]") else path.rpartition("[")[0]
        return self._lines.get(path, 0)

    def unknown(self, table: Table, key: str) -> None:
        """Note that nobody asked for *key* of *table*."""
        self._unknown.append((table, key))

    def finish(self) -> None:
        """Raise FileProblems if there are any."""
        for table, key in self._unknown:
            if self.root.misses(key) and table is not self.root:
                self.problems = [one for one in self.problems if one.path != key]  # "missing", which it is not
                table.problem(key, _MISPLACED)
            else:
                table.problem(key, f"unknown key{table.near(key)}")
        if self.problems:
            raise FileProblems(self.problems)


def _not_toml(path: str, text: str, error: str) -> Problem:
    found = re.search(r" \(at line (\d+), (column \d+)\)", error)
    line = int(found[1]) if found else text.count("\n") + 1 if "end of document" in error else 0
    message = error.replace(found[0], f", {found[2]}") if found else error
    message = re.sub(r"\('(.*?)',?\)", lambda names: names[1].replace("', '", "."), message)
    return Problem(path, line, "", f"not TOML: {message}")


class Table:
    """One table of a document; each value is asked for once, by kind."""

    def __init__(self, document: Document, path: str, values: dict[str, Any]) -> None:
        self._document = document
        self.path = path
        self._values = values
        self._asked: set[str] = set()

    def problem(self, key: str, message: str) -> None:
        """Note a problem with *key* of this table (with the table itself where it is empty)."""
        self._document.problem(self._at(key), message)

    def _at(self, key: str) -> str:
        return ".".join(filter(None, (self.path, key)))

    def end(self) -> None:
        """Every key that was not asked for is unknown."""
        for key in self._values:
            if key not in self._asked:
                self._document.unknown(self, key)

    def has(self, key: str) -> bool:
        """Whether *key* is there; from then on it is a known one."""
        self._asked.add(key)
        return key in self._values

    def misses(self, key: str) -> bool:
        """Whether *key* is known here and absent."""
        return key in self._asked and key not in self._values

    def near(self, key: str) -> str:
        """The near match of an unknown *key*."""
        return near_match(key, self._asked)

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
        if type(found) is kind and not (isinstance(found, float) and not math.isfinite(found)):
            return found
        self.problem(key, f"must be {_KINDS[kind]}, not {shown(found)}")
        return default

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string; required where there is no *default*."""
        found = self.value(key, str, default, required=default is None)
        if found == "" and default is None:
            self.problem(key, "must not be empty")
        return found or ""

    def number(self, key: str, default: int, least: int, most: int) -> int:
        """Return a whole number from *least* to *most*."""
        found = self.optional_number(key, least, most)
        return default if found is None else found

    def optional_number(self, key: str, least: int, most: int) -> int | None:
        """Return a whole number from *least* to *most*, or None where there is none."""
        found = self.value(key, int)
        if found is not None and not least <= found <= most:
            self.problem(key, f"must be from {least} to {most}, not {found}")
        return found

    def expression(self, key: str) -> str:
        """Return a string or a whole number as text; empty where there is none."""
        self._asked.add(key)
        found = self._values.get(key, "")
        if type(found) in (str, int):
            return str(found)
        self.problem(key, f"must be a whole number or an expression in a string, not {shown(found)}")
        return ""

    def choice(self, key: str, allowed: Collection[str], default: str | None = None) -> str:
        """Return one of the *allowed* words."""
        if default is None and not self.has(key):
            self.problem(key, f"missing; it must be one of {', '.join(sorted(allowed))}")
            return ""
        found = self.value(key, str, default)
        if found is not None and found not in allowed and key in self._values:
            words = ", ".join(sorted(allowed))
            self.problem(key, f"{shown(found)} is not one of {words}{near_match(found, allowed)}")
        return found or ""

    def parsed(self, key: str, parse: Callable[[str], T], what: str) -> T | None:
        """Return a required string as *parse* reads it; its ValueError becomes "must be *what*"."""
        found = self.value(key, str, required=True)
        if found is None:
            return None
        try:
            return parse(found)
        except ValueError:
            self.problem(key, f"must be {what}, not {shown(found)}")
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
            self.problem(key, f"must be an array, each item {_KINDS[kind]}, not {shown(found)}")
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
