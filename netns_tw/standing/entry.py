"""One lab of the roster on disk: a folder with a lock that its first process holds, and an entry that says what it is.

The entry is written whole or not at all (rename(2)), and only by the command that brings the lab up. The lock is taken
by that command, kept by the lab's first process, and given back by the kernel; see roster.py for what follows from it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from netns_tw.errors import EnvironmentLacks, UsageError
from netns_tw.kernel.inside import Proof
from netns_tw.kernel.publish import Published, unpublish

VARIABLE = "NETNS_TW_LABS"
LOCK = "lock"
ENDED = "ended"
"""In a node's folder, inside: the exit status of its program, once that has ended."""
_ENTRY, _NEW_ENTRY = "lab.json", "lab.json.new"


@dataclass(frozen=True)
class Entry:
    """A lab of the roster, as it was when it came up."""

    name: str
    lab: str
    """The lab's own name."""
    folder: str
    claim: str = ""
    """The claim whose lab it is, where it is not the lab's own."""
    servers: str | None = None
    """``--server``, if given."""
    sysctls: dict[str, dict[str, str]] = field(default_factory=dict)
    """What ``--set`` changed, by node."""
    text: str = field(default="", repr=False)
    """The topology file as it was read."""
    began: float = 0.0
    """Seconds of the wall clock."""
    init: Proof | None = None
    """The lab's first process; None for the moment before there is one."""
    is_up: bool = False
    """False while it comes up."""
    nodes: list[str] = field(default_factory=list)
    programs: dict[str, Proof] = field(default_factory=dict)
    """The first process of each node's program."""
    published: list[Published] = field(default_factory=list)

    @property
    def age_s(self) -> float:
        """Seconds since it came up."""
        return max(0.0, time.time() - self.began)


_KNOWN = {one.name for one in fields(Entry)}


class Place:
    """A name that is taken for a lab that comes up; its lock is held."""

    def __init__(self, path: Path, entry: Entry, lock: int, folder: int) -> None:
        self._path = path
        self.entry = entry
        self.lock, self.folder = lock, folder
        """The fds that the lab's first process keeps: what it holds locked, and where that lies."""

    def write(self, entry: Entry) -> None:
        """Put *entry* on disk, whole or not at all.

        Raises:
            EnvironmentLacks: it cannot be written.
        """
        new = self._path / _NEW_ENTRY
        try:
            new.write_text(json.dumps(asdict(entry)), encoding="utf-8")
            os.rename(new, self._path / _ENTRY)
        except OSError as error:
            raise EnvironmentLacks(cannot_write(self._path, error)) from error
        self.entry = entry


def make_lock(path: Path) -> int:
    """Make the lock of a lab's new folder and take it; return its fd.

    Raises:
        EnvironmentLacks: it cannot be made; the folder is removed.
    """
    try:
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        with suppress(EnvironmentLacks):
            remove(path)
        raise EnvironmentLacks(cannot_write(path, error)) from error
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def is_alive(path: Path) -> bool:
    """Whether a lab is alive: its lock is held or, where somebody removed that file, its first process proves it.

    Only under the roster's lock: to ask is to take the lab's lock for a moment.
    """
    if _is_held(path):
        return True
    try:
        init = read(path).init
    except UsageError:
        return False
    return init is not None and init.is_alive


def _is_held(path: Path) -> bool:
    try:
        fd = os.open(path / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:  # such as too many open files: no reason to take it for dead
        raise EnvironmentLacks(f"{path / LOCK}: cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def remove(path: Path) -> None:
    """Remove the folder of a lab that is dead. Files in it that are not ours stay, and the folder with them.

    Raises:
        EnvironmentLacks: it cannot be removed, as on a read-only disk.
    """
    with suppress(UsageError):
        for one in read(path).published:
            with suppress(OSError):
                unpublish(one)
    try:
        for name in (_ENTRY, _NEW_ENTRY, LOCK):
            (path / name).unlink(missing_ok=True)
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise EnvironmentLacks(f"{path}: cannot be removed: {error.strerror}; its lab is gone") from error


def read(path: Path) -> Entry:
    """Read a lab's entry.

    Raises:
        UsageError: it is damaged.
    """
    try:
        found = json.loads((path / _ENTRY).read_text(encoding="utf-8"))
        found["init"] = Proof(**found["init"]) if found["init"] else None
        found["programs"] = {node: Proof(**one) for node, one in found["programs"].items()}
        found["published"] = [Published(**one) for one in found["published"]]
        return Entry(**{key: one for key, one in found.items() if key in _KNOWN})  # a newer release may know more
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path / _ENTRY}: damaged ({error}); its lab's first process holds {path / LOCK}") from error


def cannot_write(path: Path, error: OSError) -> str:
    """The message where the roster's folder refuses."""
    return f"{path}: cannot be written: {error.strerror}; labs that are up are kept there, or in {VARIABLE}=DIR"
