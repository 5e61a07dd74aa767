"""The roster: which labs are up on this machine, for this user. A folder a lab; the kernel says which are alive.

Theory. A file that says "lab x is up, its first process is 4711" is wrong the moment that process dies. What cannot be
wrong is a lock (flock(2)): each lab's folder has a file that its first process holds locked, and the kernel gives the
lock back when the last holder is gone, by whatever death. So a lab is alive if and only if its lock is held; what is
not held is the rest of a crash or a reboot, and the next command removes it. Who may be signalled is another question,
answered by kernel/inside.py: a pid with its start time and the boot's id. That proof is also the second witness where
somebody removed the lock's file: a lab whose first process lives is never forgotten.

While a lab comes up, the command holds the lock together with the lab's first process; when the command dies too early
both are gone. Making, finishing and removing an entry are short, and happen under one lock for the whole folder.

The folder is the user's own and closed to others: /run/netns_tw for root, netns_tw in $XDG_RUNTIME_DIR for others, in
/tmp with the user's number where there is none. What lies in a folder that no lab ever came up in is not ours: there,
nothing is made but by `up`, and nothing is removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from netns_tw.errors import EnvironmentLacks, NetnsTwError, UsageError, near_match
from netns_tw.programs import shells
from netns_tw.rules import NAME_RULE, is_name
from netns_tw.standing.entry import VARIABLE, Entry, Place, cannot_write, is_alive, make_lock, read, remove
from netns_tw.wait import DeadlineMissed, wait_until

MOST_COPIES = 1000
DOWN_DEADLINE_S = 15.0
DOOR = ".netns_tw.lock"


def folder() -> Path:
    """The folder of all labs that are up; it need not exist.

    Raises:
        UsageError: this is inside a lab, whose processes have other numbers outside.
    """
    if os.path.isdir(shells.FOLDER):  # False too where another user's folder may not be looked into
        raise UsageError("this is inside a lab: leave its shell first; labs are reached from outside")
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    if os.geteuid() == 0:
        return Path("/run/netns_tw")
    # cron and su leave the variable out; pam_systemd(8) says where it would point
    for runtime in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{os.geteuid()}"):
        if runtime.startswith("/") and os.path.isdir(runtime) and os.stat(runtime).st_uid == os.geteuid():
            return Path(runtime, "netns_tw")
    return Path(f"/tmp/netns_tw-{os.geteuid()}")


def check_name(name: str) -> str:
    """Return *name* if a lab that is up may be called so.

    Raises:
        UsageError: it may not.
    """
    if not is_name(name):
        shown = ascii(name if len(name) <= 40 else f"{name[:40]}...")
        raise UsageError(f"a lab cannot be called {shown}: a name is {NAME_RULE}")
    return name


class Roster:
    """The labs in one folder."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or folder()

    @contextmanager
    def reserve(self, entry: Entry, may_number: bool) -> Iterator[Place]:
        """Take the entry's name, or where it *may_number* the first that is free of NAME, NAME-2, NAME-3, ...

        When the block ends and the lab is not up, the name is free again.

        Raises:
            UsageError: the name is taken, or no name.
            EnvironmentLacks: the folder cannot be written.
        """
        check_name(entry.name)
        with ExitStack() as stack:
            with self._door(make=True):
                self._sweep()
                name = self._free_name(entry.name) if may_number else entry.name
                path = self.path / name
                self._make(path)
                lock = make_lock(path)
                stack.callback(os.close, lock)
                undo = stack.enter_context(ExitStack())  # before the lock is let go, and with it the name
                undo.callback(self._remove, name)
                there = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, there)
                place = Place(path, replace(entry, name=name, began=time.time()), lock, there)
                place.write(place.entry)
            try:
                yield place
            finally:
                if place.entry.is_up:
                    undo.pop_all()

    def _free_name(self, name: str) -> str:
        numbered = (f"{name[:28]}-{number}" for number in range(2, MOST_COPIES))
        return next((one for one in (name, *numbered) if not (self.path / one).exists()), name)

    def _make(self, path: Path) -> None:
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            name = path.name
            if not is_alive(path):
                raise UsageError(f"{path}: is in the way and is no lab's: remove it or choose another --name") from None
            raise UsageError(
                f"a lab called {name} is up already: choose another --name, or netns_tw down {name}"
            ) from None
        except OSError as error:
            raise EnvironmentLacks(cannot_write(path, error)) from error

    def entries(self) -> list[Entry]:
        """All labs that are alive, the oldest first; what is left of others is removed on the way.

        An entry that is damaged or cannot be removed is named on standard error, and is no obstacle to the others.

        Raises:
            UsageError: the folder is not the user's alone.
        """
        found, troubles = self._all()
        for trouble in troubles.values():
            _say(trouble)
        return found

    def find(self, name: str) -> Entry:
        """The lab called *name*.

        Raises:
            UsageError: there is none that is up; with the near match. Or its entry is damaged.
        """
        found, troubles = self._all()
        if isinstance(troubles.get(name), UsageError):
            raise troubles[name]
        entries = {one.name: one for one in found}
        if name not in entries:
            there = f"; there are {', '.join(entries)}" if entries else "; none is: netns_tw up LAB"
            raise UsageError(f"no lab called {name!a} is up{near_match(name, entries) or there}")
        if not entries[name].is_up:
            raise UsageError(f"lab {name} is still coming up")
        return entries[name]

    def down(self, name: str) -> bool:
        """Take a lab down, also one that is coming up; return once all of it is gone. False where there was none.

        An entry that cannot be removed, as on a read-only disk, is named on standard error; its lab is gone.

        Raises:
            UsageError: its entry is damaged.
            EnvironmentLacks: it cannot be ended.
        """
        check_name(name)
        was_there = False
        trouble: NetnsTwError | None = None

        def look() -> Entry | None:
            nonlocal was_there, trouble
            alive, troubles = self._all()
            found, trouble = {one.name: one for one in alive}.get(name), troubles.get(name)
            if isinstance(trouble, UsageError):
                raise trouble
            was_there = was_there or found is not None
            return found

        def is_gone() -> bool:
            found = look()
            if found is None:
                return True
            if found.init is None:  # the command has not started it yet
                return False
            found.init.kill()  # and wait for it; what is left to do is to remove the entry
            return look() is None

        try:
            wait_until(is_gone, f"lab {name} is gone", DOWN_DEADLINE_S)
        except DeadlineMissed:
            raise EnvironmentLacks(
                f"lab {name} is still there after {DOWN_DEADLINE_S:g} s: the command that brings it up has not started"
                " it; is that stopped? end it, or let it go on"
            ) from None
        if trouble:
            _say(trouble)
        return was_there

    def all_names(self) -> list[str]:
        """The names of all labs that are alive, of those with a damaged entry too, the oldest first.

        Raises:
            UsageError: the folder is not the user's alone.
        """
        found, troubles = self._all()
        damaged = [name for name, trouble in troubles.items() if isinstance(trouble, UsageError)]
        for name in troubles.keys() - damaged:
            _say(troubles[name])
        return [*(one.name for one in found), *damaged]

    def _all(self) -> tuple[list[Entry], dict[str, NetnsTwError]]:
        """``_sweep``; nothing where no lab ever came up."""
        with self._door() as is_there:
            return self._sweep() if is_there else ([], {})

    def _remove(self, name: str) -> None:
        with self._door(), suppress(EnvironmentLacks):  # the next command tries again, and says so
            remove(self.path / name)

    def _sweep(self) -> tuple[list[Entry], dict[str, NetnsTwError]]:
        """Remove what is dead; return what is alive, the oldest first, and by name what else is there.

        That is an entry which is damaged (UsageError) or cannot be removed. Only under the folder's lock.
        """
        found: list[Entry] = []
        troubles: dict[str, NetnsTwError] = {}
        try:
            with os.scandir(self.path) as there:  # a link would lead to what is not ours
                names = [one.name for one in there if is_name(one.name) and one.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return found, troubles
        for name in names:
            try:
                if is_alive(self.path / name):
                    found.append(read(self.path / name))
                else:
                    remove(self.path / name)
            except NetnsTwError as error:
                troubles[name] = error
        return sorted(found, key=lambda one: (one.began, one.name)), troubles

    @contextmanager
    def _door(self, make: bool = False) -> Iterator[bool]:
        """Be alone in the folder. False where no lab ever came up: there is no folder, or no door in it."""
        with ExitStack() as stack:
            try:
                if make:
                    with suppress(FileExistsError):  # what is no folder is refused below
                        self.path.mkdir(mode=0o700, parents=True)
                self.check_owner()
                lock = self._open_door(make)
                stack.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX)
            except FileNotFoundError as error:
                if make:
                    raise EnvironmentLacks(cannot_write(self.path, error)) from error
                yield False
                return
            except OSError as error:
                raise EnvironmentLacks(cannot_write(self.path, error)) from error
            yield True

    def _open_door(self, make: bool) -> int:
        """Open the folder's lock; make it where that is asked for and nothing else lies there.

        Raises:
            UsageError: the folder is of other things.
            OSError: it is not there, or cannot be made.
        """
        path = self.path / DOOR
        for flags in (os.O_RDWR, os.O_RDONLY):  # read-only: a lock needs no right to write
            with suppress(OSError):
                return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        if not make:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        has_others = any(is_name(one.name) for one in self.path.iterdir())
        if has_others and not path.exists():  # looked for last: another first command may have been quicker
            raise UsageError(f"{self.path}: holds other things; labs need a folder of their own: {VARIABLE}=DIR")
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def check_owner(self) -> None:
        """Refuse a folder that others can write to.

        Raises:
            UsageError: it is not the user's alone.
            FileNotFoundError: it is not there.
        """
        found = os.lstat(self.path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise UsageError(
                f"{self.path}: must be a folder that is yours and that nobody else may write to (chmod 700); or name"
                f" another one: {VARIABLE}=DIR"
            )


def _say(trouble: NetnsTwError) -> None:
    with suppress(OSError):  # nobody listens
        sys.stderr.write(f"netns_tw: {trouble}\n")
