"""A lab's folder: its files, on disk or as a record kept them, and what is wrong in them."""

from __future__ import annotations

import errno
import fnmatch
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

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

    def __init__(self, path: Path, kept: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._kept = kept

    def read(self, name: str) -> bytes:
        """The content of file *name*, a path inside the folder.

        Raises:
            OSError: it cannot be read.
        """
        if self._kept is None:
            return (self.path / name).read_bytes()
        if name not in self._kept:
            raise FileNotFoundError(errno.ENOENT, "the record does not hold this file", name)
        return self._kept[name].encode(errors="replace")

    def names(self, pattern: str) -> list[str]:
        """The names of the folder's files that match *pattern*, sorted."""
        if self._kept is not None:
            return sorted(name for name in self._kept if fnmatch.fnmatchcase(name, pattern))
        where, slash, form = pattern.rpartition("/")
        with suppress(OSError):  # no such folder: no such files
            return sorted(f"{where}{slash}{name}" for name in fnmatch.filter(os.listdir(self.path / where), form))
        return []
