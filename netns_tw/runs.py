"""Where records are kept: a folder for each run of the command, a file for each experiment, the last few runs.

``$NETNS_TW_RUNS``, else ``netns_tw/runs`` in the user's state folder (XDG_STATE_HOME, XDG Base Directory
Specification). Under sudo it is the folder of the user who called it, and he owns what is written, so that he can read
it later without root: files are made with his uid, never chowned, so no link of his can lead root's writes elsewhere.

A run's folder is locked (flock(2)) while it is written to; the kernel gives the lock back whatever happens. Only
unlocked folders with a name of ours that hold nothing but records are ever removed.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from netns_tw.errors import UsageError

T = TypeVar("T")
VARIABLE = "NETNS_TW_RUNS"
KEEP = 20
"""Runs that are kept unless ``--keep`` says otherwise."""
SUFFIX = ".jsonl"
_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-\d+")


def root() -> Path:
    """The folder of all runs; it need not exist."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    caller = _caller()
    if caller is not None:
        return Path(caller.pw_dir, ".local/state/netns_tw/runs")
    state = os.environ.get("XDG_STATE_HOME", "")
    return Path(state if state.startswith("/") else Path.home() / ".local/state", "netns_tw/runs")


def _caller() -> pwd.struct_passwd | None:
    """The user who called sudo; None where nobody did."""
    uid = os.environ.get("SUDO_UID", "")
    if os.geteuid() != 0 or not uid.isdigit() or uid == "0":
        return None
    try:
        return pwd.getpwuid(int(uid))
    except KeyError:
        return None


@contextmanager
def _being_the_caller() -> Iterator[None]:
    """Be the user who called sudo, for the files made in the block."""
    caller = _caller()
    if caller is None:
        yield
        return
    with ExitStack() as undo:
        undo.callback(os.setegid, os.getegid())
        os.setegid(caller.pw_gid)
        undo.callback(os.seteuid, os.geteuid())
        os.seteuid(caller.pw_uid)
        yield


def as_caller(make: Callable[[], T]) -> T:
    """Call *make*, which makes a file, as the user who called sudo; as root only where he may not.

    Raises:
        OSError: nobody may.
    """
    try:
        with _being_the_caller():
            return make()
    except PermissionError:
        return make()


class RunFolder:
    """The folder of one run of the command; a context manager that holds its lock.

    Raises:
        UsageError: on entry, where it cannot be made or written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()

    def __enter__(self) -> RunFolder:
        try:
            as_caller(lambda: self.path.mkdir(parents=True, exist_ok=True))
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_SH)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot write there: {error.strerror}") from error
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        with suppress(OSError):  # a run without a single record leaves nothing
            self.path.rmdir()

    def open(self, path: Path) -> int:
        """Make the file of one record and return its fd, for reading and appending.

        Raises:
            UsageError: it cannot be made.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return as_caller(lambda: os.open(path, flags, 0o644))
        except OSError as error:
            raise UsageError(f"{path}: cannot be made: {error.strerror}") from error


def new_run() -> RunFolder:
    """A folder for a run that begins now, in the folder of all runs."""
    return RunFolder(root() / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{os.getpid()}")


def all_runs() -> list[Path]:
    """The folders of all runs that are kept, the oldest first."""
    try:
        return sorted(path for path in root().iterdir() if _NAME.fullmatch(path.name) and path.is_dir())
    except OSError:
        return []


def prune(keep: int) -> None:
    """Remove all runs but the last *keep*; one that is still written to, or that holds anything else, stays."""
    with _being_the_caller():
        for path in all_runs()[: -keep or None]:
            _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError), ExitStack() as stack:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with os.scandir(fd) as entries:
            found = [(one.name, one.is_file(follow_symlinks=False)) for one in entries]
        if all(is_file and name.endswith(SUFFIX) for name, is_file in found):
            for name, _ in found:
                os.unlink(name, dir_fd=fd)
            path.rmdir()


def records(path: Path) -> list[Path]:
    """The records that *path* means: itself, or those in its folder, sorted.

    Raises:
        UsageError: there is no record.
    """
    try:
        if not path.is_dir():
            path.stat()
            return [path]
        found = sorted(one for one in path.iterdir() if one.name.endswith(SUFFIX))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if not found:
        raise UsageError(f"{path}: holds no record (*{SUFFIX})")
    return found


def latest() -> Path:
    """The folder of the last run that is kept.

    Raises:
        UsageError: there is none.
    """
    found = all_runs()
    if not found:
        raise UsageError(f"no run is kept in {root()}; name a record, or make one: netns_tw topology LAB")
    return found[-1]
