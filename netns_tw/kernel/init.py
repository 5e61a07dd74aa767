"""The first process of a lab that stays: it reaps, and notes which node's program has ended.

As PID 1 it is the parent of every orphan in the lab, and must wait for each (pid_namespaces(7)); when it dies the
kernel kills the rest. Run by its path with `python -I -S`, so it takes the memory of a bare interpreter; the standard
library only. Its arguments are the lab's name, for ps(1), and one PID=FILE for each program: FILE is made when that
process has ended, with its exit status in it, -N for signal N.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import NoReturn


def reap_forever(programs: Mapping[int, str]) -> NoReturn:
    """Wait for every process that ends in this PID namespace; note the end of those in *programs*, a file by pid."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            signal.sigwait({signal.SIGCHLD})
            continue
        if pid in programs:
            try:
                with open(programs[pid], "x", encoding="ascii") as ended:
                    ended.write(f"{os.waitstatus_to_exitcode(status)}\n")
            except OSError:  # its log has filled the disk: that it ended can be seen without the file
                with suppress(OSError):
                    os.unlink(programs[pid])


if __name__ == "__main__":
    pairs = (word.partition("=") for word in sys.argv[2:])
    reap_forever({int(pid): path for pid, _, path in pairs})
