"""What can go wrong, sorted by whose move is next.

Every error that reaches the user has one exit code, so that a CI job can tell a wrong file (2) from a machine that
lacks something (3) and from an instrument that cannot be believed (4). An exception that is not one of these is a bug
of ours and shows its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable

EXIT_PASS = 0
EXIT_FAIL = 1
EXIT_USAGE = 2
EXIT_ENVIRONMENT = 3
EXIT_BROKEN = 4
EXIT_INCONCLUSIVE = 5


class NetnsTwError(Exception):
    """Base of all errors meant for the user; its text is complete and needs no traceback."""

    exit_code = EXIT_FAIL


class UsageError(NetnsTwError):
    """The user's words, a lab file or a program's configuration are wrong; the user can mend it."""

    exit_code = EXIT_USAGE


class EnvironmentLacks(NetnsTwError):
    """This machine or kernel cannot do what was asked; the text names what to install or set."""

    exit_code = EXIT_ENVIRONMENT


class Skip(EnvironmentLacks):
    """One experiment needs something that is not there; it is skipped with this reason, and no other is disturbed."""


class InstrumentBroken(NetnsTwError):
    """What was observed cannot be believed, so no verdict may rest on it."""

    exit_code = EXIT_BROKEN


def near_match(word: str, allowed: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the allowed word nearest to *word*, or an empty string."""
    import difflib  # 1 ms, where most calls of the command have nothing to mend

    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
