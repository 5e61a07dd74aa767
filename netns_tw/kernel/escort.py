"""A program of the user's on a node of a lab that is up: with his terminal, his pipes and his signals.

Three processes. The caller stays outside and in the foreground: the shell that started it sees an ordinary command,
which stops with Ctrl-Z and has an exit code. The *guide* enters the lab and waits for the program. The program is in
the lab's PID namespace and in the caller's process group, so the terminal reaches it as it would anywhere.

The guide is there because a lab's init cannot die before everything in its PID namespace was waited for, also by a
parent outside (zap_pid_ns_processes): a caller that is stopped must not be that parent, so the guide is in a group of
its own. Each dies with the one before it (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

from netns_tw.errors import EXIT_ENVIRONMENT
from netns_tw.kernel import libc, netns, sandbox
from netns_tw.kernel.inside import Proof, doors, exit_code, join

EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND = 126, 127
"""As sh(1) has it."""
PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
_SI_KERNEL = 0x80


def run(proof: Proof, node: str, argv: list[str], environment: Mapping[str, str], is_shell: bool = False) -> int:
    """Run a program of the user's on *node* with the caller's own standard streams and terminal; return its exit code.

    128 + N for signal N, 126 where it cannot be executed, 127 where it is not found, as in sh(1). Signals that are sent
    to the caller are passed on; those of the terminal reach both. They stay blocked: the caller must end with this.
    A shell gets the terminal for a process group of its own: that of the caller has no number in the PID namespace, so
    a shell could not give the terminal back to it at its end (tcsetpgrp(3) of 0), and dash says so.

    Raises:
        Gone, UsageError, EnvironmentLacks: as ``visit``.
    """
    folder = _where_we_are()
    alive_read, alive_write = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, {*PASSED_ON, signal.SIGCHLD})
    had_terminal = _has_terminal()
    with doors(proof) as found:
        guide = os.fork()
        if guide == 0:
            os.close(alive_write)
            _guide(found, node, folder, argv, environment, alive_read, is_shell and had_terminal)
    os.close(alive_read)
    code = _escort(guide)
    if had_terminal:  # a shell made itself the foreground, and cannot name us in its PID namespace to undo it
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        with suppress(OSError):
            os.tcsetpgrp(0, os.getpgrp())
    return code


def _guide(
    found: Sequence[tuple[int, int]],
    node: str,
    folder: str,
    argv: list[str],
    environment: Mapping[str, str],
    alive: int,
    leads: bool,
) -> NoReturn:
    """Enter, start the program and wait for it."""
    code = EXIT_ENVIRONMENT
    try:
        sandbox.die_with_parent(alive)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})  # for the moment before it is in a group of its own
        join(found)
        libc.set_parent_death_signal(signal.SIGKILL)  # forgotten when the user namespace changed
        alive_read, alive_write = os.pipe()
        child = os.fork()  # ENOMEM: the PID namespace's init is dead
        if child == 0:
            os.close(alive_write)
            _become(node, folder, argv, environment, alive_read, leads)
        os.setpgid(0, 0)
        code = _escort(child)
    except OSError as error:
        os.write(2, f"netns_tw: cannot enter the lab: {error.strerror}\n".encode())
    finally:
        os._exit(code)


def _where_we_are() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return "/"


def _has_terminal() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _become(
    node: str, folder: str, argv: list[str], environment: Mapping[str, str], alive: int, leads: bool
) -> NoReturn:
    """In the child: the node's network, a /sys that shows it, the caller's folder, and the program."""
    code = EXIT_NOT_EXECUTABLE
    try:
        sandbox.die_with_parent(alive)
        home = netns.open_fd(node)
        libc.setns(home, libc.CLONE_NEWNET)
        libc.unshare(libc.CLONE_NEWNS)
        libc.mount("none", "/", "", libc.MS_REC | libc.MS_SLAVE)
        libc.mount("sysfs", "/sys", "sysfs", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC)
        try:
            os.chdir(folder)
        except OSError:  # it lies where the lab has files of its own
            os.chdir("/")
        if leads:
            _lead()
        kept = {one for one in PASSED_ON if signal.getsignal(one) is signal.SIG_IGN}  # as nohup(1) wants it
        for signum in {*PASSED_ON, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ} - kept:  # Python ignores two
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.execvpe(argv[0], argv, environment)
    except OSError as error:
        code = EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else code
        os.write(2, f"netns_tw: {argv[0]}: {error.strerror}\n".encode(errors="backslashreplace"))
    finally:
        os._exit(code)


def _lead() -> None:
    """Be the leader of the terminal's foreground process group."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)


def _escort(child: int) -> int:
    """Wait for the child, pass on what others send us; what the terminal sends it has got itself."""
    while True:
        told = signal.sigwaitinfo({*PASSED_ON, signal.SIGCHLD})
        if told.si_signo != signal.SIGCHLD:
            if told.si_code != _SI_KERNEL:
                with suppress(ProcessLookupError):
                    os.kill(child, told.si_signo)
            continue
        gone, status = os.waitpid(child, os.WNOHANG)
        if gone:
            return exit_code(status)
