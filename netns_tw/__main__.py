"""``python -m netns_tw``: the command, and what a signal or a strange parent does to it.

Handlers are set before anything is imported that Python has not loaded to get here, so that the first milliseconds are
no exception. What a parent may have passed on is put right: a SIGCHLD that is ignored would hide the end of a sandbox,
and a standard stream that is closed would let a pipe take its number. A signal that was ignored on purpose (nohup)
stays ignored.
"""
# PYTHON_ARGCOMPLETE_OK: argcomplete's completion of any `python -m ...` may ask this module (commands/completion.py)

import _signal as signal  # type: ignore[import-not-found]  # built in; what signal adds, enums, takes 5 ms to import
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes as long
    from typing import NoReturn

EXIT_BUG = 4
EXIT_INTERRUPTED = 130
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _put_right() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))


def main() -> int:
    """Run the command line; SIGINT, SIGTERM and SIGHUP end it with exit code 130, and leave nothing behind."""
    for signum in ENDING:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, signal.default_int_handler)
    try:
        _put_right()
        from netns_tw import cli

        code = cli.main()
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except Exception:  # a bug of ours: never the exit code of a verdict on a claim
        import traceback

        traceback.print_exc()
        code = EXIT_BUG
    for signum in ENDING:  # the result stands; Python's own way out is not to be interrupted
        signal.signal(signum, signal.SIG_IGN)
    if code == EXIT_INTERRUPTED:
        print("netns_tw: interrupted; nothing is left behind", file=sys.stderr)
    return code


def run() -> "NoReturn":
    """Run the command line, then exit at once: what was loaded is the kernel's to free.

    Python's own way out visits each object first, a tenth of the time of a command that answers at once. Besides,
    CPython remembers a KeyboardInterrupt that passed through exec() of a string, as dataclasses do it, even one that
    was caught, and ends by SIGINT instead (unhandled_keyboard_interrupt, Python/pythonrun.c).
    """
    code = main()
    from contextlib import suppress  # loaded by now

    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it, or it is closed
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
