"""A lab's folder: its files, on disk or as a record kept them, and what is wrong in them."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress

from netns_tw.errors import UsageError
from netns_tw.model.frozen import Frozen


class Problem(Frozen):
    """One thing that is wrong in a file, and where."""

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        text = f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"
        return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


class FileProblems(UsageError):
    """Everything that is wrong in the files read; its text has a line for each problem."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems, key=lambda one: (one.file, one.line, one.path))
        super().__init__("\n".join(map(str, self.problems)))


class Folder:
    """A lab's files: on disk, or as a record kept them."""

    def __init__(self, path: str | os.PathLike[str], kept: Mapping[str, str] | None = None) -> None:
        self.path = spelled(path)
        self._kept = kept

    def path_of(self, name: str) -> str:
        """The path of file *name*, for messages."""
        return spelled(os.path.join(self.path, name))

    def read(self, name: str) -> bytes:
        """The content of file *name*, a path inside the folder.

        Raises:
            OSError: it cannot be read.
        """
        if self._kept is None:
            with open(os.path.join(self.path, name), "rb") as file:
                return file.read()
        if name not in self._kept:
            raise FileNotFoundError(errno.ENOENT, "the record does not hold this file", name)
        return self._kept[name].encode(errors="replace")

    def names(self, start: str, ending: str) -> list[str]:
        """The names of files that begin with *start*, empty or a folder with its '/', and end with *ending*; sorted."""
        if self._kept is not None:
            return sorted(name for name in self._kept if name.startswith(start) and name.endswith(ending))
        with suppress(OSError):  # no such folder: no such files
            inside = os.listdir(os.path.join(self.path, start))
            return sorted(f"{start}{name}" for name in inside if name.endswith(ending))
        return []


def spelled(path: str | os.PathLike[str]) -> str:
    """*path* as pathlib spells it, which takes longer to import than all of a lab's files to read.

    What leads nowhere is left out: '.', a second '/', one at the end; but two at the beginning have a meaning (POSIX).
    """
    text = os.fspath(path)
    root = text[: len(text) - len(text.lstrip("/"))]
    parts = (part for part in text.split("/") if part not in ("", "."))
    return f"{root if len(root) == 2 else root[:1]}{'/'.join(parts)}" or "."


def stem(name: str) -> str:
    """What a file *name* that ends in ``.toml`` calls a claim: its last part, without the ending."""
    last = name.rpartition("/")[2]
    return last.removesuffix(".toml") or last
