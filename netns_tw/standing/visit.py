"""What is done in a lab that is up: a sysctl set, a log read, its state asked for, a program of the user's run.

What needs this project's own code inside is a visit (kernel/inside.py): a child that enters, answers through a pipe and
ends. Nothing of it stays in the lab.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from netns_tw.errors import EnvironmentLacks, NetnsTwError, UsageError, near_match
from netns_tw.kernel import escort, inside, process, sandbox, sysctl
from netns_tw.kernel.inside import Gone, Proof
from netns_tw.model import labs, settings
from netns_tw.model.experiment import Experiment
from netns_tw.model.labs import Lab
from netns_tw.model.settings import Setting
from netns_tw.model.topology import Program, Topology
from netns_tw.programs import shells
from netns_tw.programs.choice import choose, describe
from netns_tw.rules import RUN
from netns_tw.standing import answer
from netns_tw.standing.entry import ENDED, Entry
from netns_tw.wait import wait_until

if TYPE_CHECKING:
    from netns_tw.job import Inside

LOG_BYTES = 1 << 16
FOLLOW_PAUSE_S = 0.1


def first_process(entry: Entry) -> Proof:
    """The proof of a lab's first process.

    Raises:
        UsageError: the lab is still coming up.
    """
    if entry.init is None:
        raise UsageError(f"lab {entry.name} is still coming up")
    return entry.init


def check_node(entry: Entry, node: str) -> str:
    """Return *node* if the lab has it.

    Raises:
        UsageError: it has not; with the near match.
    """
    if node not in entry.nodes:
        there = near_match(node, entry.nodes) or f"; there are {', '.join(entry.nodes)}"
        raise UsageError(f"lab {entry.name} has no node {node!a}{there}")
    return node


def ask(entry: Entry, question: Callable[[], Any]) -> Any:
    """Call *question* inside the lab and return its answer, which must be made of what JSON knows.

    Raises:
        NetnsTwError: what *question* raised, with its exit code; or the lab is gone.
    """
    read, write = os.pipe()

    def main() -> int:
        try:
            answer.tell(write, question())
        except NetnsTwError as error:
            answer.tell_error(write, error)
        except OSError as error:  # somebody has taken a piece of the lab away
            answer.tell_error(write, EnvironmentLacks(f"lab {entry.name} is not whole any more: {error}"))
        return 0

    with ExitStack() as stack, sandbox.undisturbed():
        stack.callback(os.close, read)
        try:
            visit = inside.visit(first_process(entry), main, (write,))
        finally:
            os.close(write)
        stack.callback(visit.wait)
        try:
            return answer.hear(read)
        except EOFError:
            raise Gone(f"lab {entry.name} ended meanwhile") from None


def set_sysctls(entry: Entry, wanted: list[Setting]) -> list[tuple[Setting, str | None]]:
    """Write sysctls of a lab that is up, all or none; return each with the value it had.

    Raises:
        UsageError: the kernel refuses one.
        EnvironmentLacks: this kernel lacks one.
    """

    def write() -> list[str | None]:
        before: list[str | None] = []
        try:
            for one in wanted:
                before.append(sysctl.read(one.node, one.name))
                sysctl.write(one.node, one.name, one.value or "\n")  # to write nothing would change nothing
        except NetnsTwError:  # the kernel may have taken another value than was asked for
            for one, value in reversed([*zip(wanted, before, strict=False)]):
                with suppress(NetnsTwError):
                    sysctl.write(one.node, one.name, value or "\n")
            raise
        return before

    return list(zip(wanted, ask(entry, write), strict=True))


def stage_for(entry: Entry, lab: Lab, topology: Topology, experiment: Experiment) -> Inside:
    """The lab as a place to replay *experiment*, and in what it is not the lab that the claim is about.

    *topology* is what came up. Sysctls are compared later, with what the kernel has then.

    Raises:
        Skip: the claim needs a program that the lab's set of programs lacks.
    """
    from netns_tw.job import Inside

    running = _programs(entry, topology)
    wanted = _programs(entry, lab.topology.with_nodes(experiment.nodes))
    differs = [
        f"{node} runs {_words(running.get(node))}, the claim's is {_words(wanted.get(node))}"
        for node in topology.nodes
        if running.get(node) != wanted.get(node)
    ]
    differs += [f"the program of {node} {how}" for node, how in ended_programs(entry).items()]
    return Inside(entry.name, first_process(entry), running, tuple(differs))


def _programs(entry: Entry, topology: Topology) -> Mapping[str, Program]:
    """What runs on the nodes of *topology* with the lab's set of programs."""
    return choose(topology, entry.servers, process.find_program("nginx") is not None)[0]


def _words(program: Program | None) -> str:
    return describe(program) if program else "no program"


def lab_of(entry: Entry) -> tuple[Lab, Topology]:
    """The lab's folder read again, and the topology that came up from it.

    Raises:
        UsageError: its topology has changed since, or the folder is gone.
        FileProblems: its files have problems now.
    """
    lab = labs.read_lab(Path(entry.folder))
    if lab.topology.text != entry.text:
        raise UsageError(
            f"{entry.folder}: its topology file has changed since lab {entry.name} came up;"
            f" first: netns_tw down {entry.name}, then up again"
        )
    overlay = labs.pick(lab, entry.claim).nodes if entry.claim else {}
    return lab, settings.apply(lab.topology.with_nodes(overlay), entry.sysctls)


@contextmanager
def lookout(entry: Entry, topology: Topology) -> Iterator[int]:
    """A lookout in the lab (lookout.py), for the length of the block; yields the fd that its lines come out of.

    Raises:
        UsageError: the lab is gone, or another user's.
    """
    from netns_tw.model.lines import Trouble, to_json
    from netns_tw.standing.lookout import Lookout

    programs = _programs(entry, topology)
    read, write = os.pipe()

    def emit(line: bytes) -> None:
        process.write_whole(write, line)

    def main() -> int:
        try:
            Lookout(topology, programs, emit).look()
        except NetnsTwError as error:
            emit(to_json(Trouble(error.exit_code, str(error))) + b"\n")
        except BrokenPipeError:
            pass
        return 0

    with ExitStack() as stack:
        stack.callback(os.close, read)
        with sandbox.undisturbed():
            try:
                visit = inside.visit(first_process(entry), main, (write,))
                stack.callback(visit.wait)
                stack.callback(visit.kill)
            finally:
                os.close(write)
        yield read


def ended_programs(entry: Entry) -> dict[str, str]:
    """The nodes whose program has ended, with its exit status in words."""
    found = {}
    for node, program in entry.programs.items():
        if not program.is_alive:
            try:
                status = _open(entry, node, ENDED)
            except (OSError, Gone):
                found[node] = "ended"
            else:
                with open(status, encoding="utf-8") as file:
                    found[node] = f"ended with status {file.read().strip()}"
    return found


def _open(entry: Entry, node: str, name: str) -> int:
    """Open a file of a node's folder, as the lab sees it."""
    folder = first_process(entry).hold()
    try:
        return os.open(f"root{RUN}/{node}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)


def log(entry: Entry, node: str, follow: bool) -> Iterator[bytes]:
    """Yield what the node's program has logged; with *follow* also what it logs from now on, until the lab is gone.

    Raises:
        UsageError: the node runs no program.
    """
    check_node(entry, node)
    if node not in entry.programs:
        running = ", ".join(entry.programs) or "none"
        raise UsageError(f"node {node} runs no program and has no log; those that have one: {running}")
    init = first_process(entry)
    fd = _open(entry, node, "log")
    try:
        while True:
            was_alive = init.is_alive
            while data := os.read(fd, LOG_BYTES):
                yield data
            if not (follow and was_alive):
                return
            wait_until(lambda: _has_more(fd) or not init.is_alive, "a log line", float("inf"), FOLLOW_PAUSE_S)
    finally:
        os.close(fd)


def _has_more(fd: int) -> bool:
    return os.fstat(fd).st_size > os.lseek(fd, 0, os.SEEK_CUR)


def run_shell(entry: Entry, node: str) -> int:
    """Run the user's own shell on *node*; else as ``run``."""
    argv, variables = shells.command(os.environ.get("SHELL", ""), entry.name, node)
    return run(entry, node, argv, variables, is_shell=True)


def run(
    entry: Entry,
    node: str,
    argv: list[str],
    variables: Mapping[str, str] = MappingProxyType({}),
    is_shell: bool = False,
) -> int:
    """Run a program on *node* with the caller's terminal; return its exit code. The caller must end with it.

    Raises:
        UsageError: there is no such node, or the lab is gone.
    """
    check_node(entry, node)
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path += [one for one in process.SYSTEM_PATH if one not in path]  # ss, ip and tcpdump lie where users do not look
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(path),
        **variables,
        shells.LAB: entry.name,
        shells.NODE: node,
    }
    return escort.run(first_process(entry), node, argv, environment, is_shell)
