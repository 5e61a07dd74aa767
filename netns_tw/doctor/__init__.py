"""What this machine can and cannot do: each need tried for real, with what then cannot run and what mends it.

Three states. *ok*: it was tried and works. *missing*: the main job, ``topology lb3ports``, cannot run without it.
*limited*: the main job runs, something less does not; or it could not be tried because of another need that is missing.
So the main job can run if nothing is missing.

Each check is an act in a child of its own (kernel/attempt.py); one that crashes or hangs is a line like any other.
Switches and kernel versions are read only to explain a refusal that has happened.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from netns_tw import runs
from netns_tw.doctor import instruments, namespaces, programs, sysctls
from netns_tw.doctor.need import MAIN_LAB, MISSING, Check, Need
from netns_tw.errors import EXIT_ENVIRONMENT, EXIT_PASS
from netns_tw.model import labs
from netns_tw.standing.entry import VARIABLE
from netns_tw.standing.roster import Roster

MEND_LABS = f"export {VARIABLE}=$(mktemp -d)"
MEND_RECORDS = f"export {runs.VARIABLE}=$(mktemp -d)"


def examine() -> Iterator[Need]:
    """Try every need of this machine, one after the other, and yield each as it is known. It takes about a second.

    The caller must have one thread only. Nothing is changed, and nothing is left behind.

    Raises:
        UsageError: this installation's own labs are missing or cannot be read.
    """
    found = [labs.read_lab(labs.folder_of(name)) for name in labs.shipped_names()]
    main = next(lab.topology for lab in found if lab.name == MAIN_LAB)
    yield from (one.carry_out() for one in namespaces.checks())
    yield from (one.carry_out() for one in instruments.needed(main))
    yield from sysctls.needs(found)
    yield programs.packages()
    yield from (one.carry_out() for one in instruments.not_needed())
    yield from (one.carry_out() for one in programs.checks(found))
    yield Check("records", _write_record, "report, diff: no record is kept", lambda _: MEND_RECORDS).carry_out()
    yield Check("labs that stay", _write_lab, "up", lambda _: MEND_LABS).carry_out()


def exit_code(needs: Sequence[Need]) -> int:
    """0 when the main job can run, 3 when it cannot."""
    return EXIT_ENVIRONMENT if any(one.state == MISSING for one in needs) else EXIT_PASS


def _write_record() -> str:
    root = runs.root()
    runs.as_caller(lambda: _write_unseen(root))
    return f"can be written to {root}"


def _write_lab() -> str:
    there = Roster()
    with suppress(FileNotFoundError):
        there.check_owner()
    _write_unseen(there.path)
    return f"can be kept in {there.path}"


def _write_unseen(root: Path) -> None:
    """Write a block to a file without a name in *root*, or where that folder would be made."""
    folder = next(one for one in (root, *root.absolute().parents) if one.exists())
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(4096))
