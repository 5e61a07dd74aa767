"""The first process of a lab that stays: it reaps, and notes which node's program has ended.

As PID 1 it is the parent of every orphan in the lab, and must wait for each (pid_namespaces(7)); when it dies the
kernel kills the rest. It ends by itself when the lab's folder is removed, as logind removes a user's
runtime folder after the last logout (pam_systemd(8)): nobody could find the lab again.

Run by its path with `python -I -S`, so it takes the memory of a bare interpreter; the standard library only. Its
arguments are the lab's name, for ps(1), the fd of the lab's folder, and one PID=FILE for each program: FILE is made
when that process has ended, with its exit status in it, -N for signal N.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress

LOOK_S = 5.0
"""How often the lab's folder is looked at."""


def reap_forever(folder: int, programs: Mapping[int, str]) -> None:
    """Wait for every process that ends in this PID namespace; note the end of those in *programs*, a file by pid.

    Return when *folder*, an fd of the lab's folder, is removed.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while os.fstat(folder).st_nlink:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pid = 0
        if not pid:
            signal.sigtimedwait({signal.SIGCHLD}, LOOK_S)
            continue
        if pid in programs:
            try:
                with open(programs[pid], "x", encoding="utf-8") as ended:
                    ended.write(f"{os.waitstatus_to_exitcode(status)}\n")
            except OSError:  # its log has filled the disk: that it ended can be seen without the file
                with suppress(OSError):
                    os.unlink(programs[pid])


if __name__ == "__main__":
    pairs = (word.partition("=") for word in sys.argv[3:])
    reap_forever(int(sys.argv[2]), {int(pid): path for pid, _, path in pairs})
