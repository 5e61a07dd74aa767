"""Topology -> a running lab: namespaces, links, sysctls, programs. Runs as PID 1 of a sandbox.

The order is the kernel's: a namespace before its links, a link before the sysctls that carry its name, sysctls before
the first packet, addresses and routes before the programs that listen on them. Every act's undo is on one ExitStack
the moment the act succeeded; what the stack does not reach, the sandbox's end does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from netns_tw.errors import EnvironmentLacks, UsageError
from netns_tw.kernel import netns, process, sysctl
from netns_tw.kernel.capture import Capture, Count
from netns_tw.kernel.link import Rtnl
from netns_tw.measure.observer import Observer, wait_until_settled
from netns_tw.model import pcapng
from netns_tw.model.topology import HttpProxy, HttpServer, Nginx, Program, Topology
from netns_tw.programs import nginx
from netns_tw.programs.choice import NO_NGINX
from netns_tw.rules import RUN
from netns_tw.wait import DeadlineMissed, wait_until
from netns_tw.wiring import ALWAYS_SHOWN, add_links, by_time, read_sysctls, rtnl_by, set_up, write_sysctls

PROGRAMS = Path(__file__).resolve().parent / "programs" / "__main__.py"
LISTEN_DEADLINE_S = 10.0
CHILD_EHASH = "net.ipv4.tcp_child_ehash_entries"


@dataclass
class RunningNode:
    """A node that is up: its folder, its effective sysctls, its observer, its program."""

    name: str
    folder: Path
    observer: Observer
    sysctls: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    _log_at: int = 0

    @property
    def log(self) -> Path:
        """What the node's program wrote."""
        return self.folder / "log"

    def new_log_lines(self) -> list[str]:
        """Return the whole lines that the program logged since the last call."""
        if not self.log.exists():
            return []
        with open(self.log, "rb") as log:
            log.seek(self._log_at)
            whole, newline, _ = log.read().rpartition(b"\n")
        self._log_at += len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines()


class RunningLab:
    """A lab that is up. Leave the ``with`` block and its programs end."""

    def __init__(
        self,
        topology: Topology,
        programs: dict[str, Program],
        captures: Mapping[str, int] | None = None,
        links: str = "netlink",
    ) -> None:
        """Describe it.

        *captures* are open files by the name of the link whose packets they take, *links* is one of rules.LINKS.
        """
        self.topology = topology
        self.programs = programs
        self.nodes: dict[str, RunningNode] = {}
        self._files = captures or {}
        self._captures: dict[str, Capture] = {}
        self._links = links
        self._stack = ExitStack()

    def __enter__(self) -> RunningLab:
        try:
            self._build()
            self._capture()
            self._start()
        except OSError as error:  # a limit of this machine, such as user.max_net_namespaces
            self._stack.close()
            raise EnvironmentLacks(f"the lab cannot be built here: {error}") from error
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def leave_to_the_sandbox(self) -> None:
        """Undo nothing when the block is left: the sandbox is about to end, and takes all of it along at once."""
        self._stack.pop_all()

    def _build(self) -> None:
        rtnl_of = rtnl_by(self._links)
        with ExitStack() as sockets:
            rtnl: dict[str, Rtnl] = {}
            if self.topology.ehash_entries:  # each namespace that is made from here on has a table of its own
                sysctl.write_here("the lab", CHILD_EHASH, str(self.topology.ehash_entries))
            late: dict[str, dict[str, str]] = {}
            for name, node in self.topology.nodes.items():
                with netns.new(name):
                    rtnl[name] = sockets.enter_context(rtnl_of(name))
                    one = self.nodes[name] = self._node(name)
                    early, late[name] = by_time(node.sysctls)
                    one.sysctls = write_sysctls(name, early)
            ends = add_links(self.topology, rtnl)
            for name, sysctls in late.items():
                if sysctls:
                    self.nodes[name].sysctls |= write_sysctls(name, sysctls)
            set_up(self.topology, rtnl, ends)

    def _node(self, name: str) -> RunningNode:
        folder = Path(RUN, name)
        folder.mkdir(parents=True, exist_ok=True)
        observer = Observer(name)
        self._stack.callback(observer.close)
        return RunningNode(name, folder, observer)

    def _capture(self) -> None:
        """Begin to capture, before any program can send a packet."""
        for link in self.topology.links:
            if link.name in self._files:
                one = Capture(link.left.node, link.left.interface, link.name, self._files[link.name], pcapng)
                self._stack.callback(one.close)
                self._captures[link.name] = one

    def stop_captures(self) -> dict[str, Count]:
        """End all programs, wait for their last packets, end all captures; return the packets of each link.

        Raises:
            EnvironmentLacks: a capture's file could not be written.
            InstrumentBroken: a capture's process is gone.
        """
        if not self._captures:
            return {}
        for node in self.nodes.values():
            if node.process:
                process.end(node.process)
        wait_until_settled([node.observer for node in self.nodes.values()])
        return {name: one.stop() for name, one in self._captures.items()}

    def _start(self) -> None:
        """Start all programs, then wait until each listens; a port that is taken is a dead program with its log."""
        for name, program in self.programs.items():
            node = self.nodes[name]
            try:
                node.process = process.spawn(name, _argv(program, node.folder), node.log, node.folder)
            except OSError as error:
                raise EnvironmentLacks(f"node {name}: cannot start {error.filename}: {error.strerror}") from error
            self._stack.callback(process.end, node.process)
        for name, program in self.programs.items():
            _wait_until_listening(self.nodes[name], program)


class VisitedLab(RunningLab):
    """A lab that is up already, seen from a visit: its programs are not ours to start or to end."""

    def __enter__(self) -> VisitedLab:
        try:
            for name, described in self.topology.nodes.items():
                node = self.nodes[name] = self._node(name)
                node.sysctls = read_sysctls(name, (*described.sysctls, *ALWAYS_SHOWN))
                node.new_log_lines()  # what was logged before is not of this experiment
        except OSError as error:  # somebody has taken a piece of it away
            self._stack.close()
            raise EnvironmentLacks(f"the lab is not whole any more: {error}") from error
        return self


def built_in(*arguments: str) -> list[str]:
    """The argv of a built-in program: by its path and with -P, so that no folder is put before the standard library."""
    return [sys.executable, "-P", str(PROGRAMS), *arguments]


def _argv(program: Program, folder: Path) -> list[str]:
    """The argv of a node's program; nginx's configuration is written to *folder* first."""
    listen = ["--listen", str(program.listen)]
    if isinstance(program, HttpServer):
        how = ["--close", program.close, "--status", str(program.status), "--body", program.body]
        limits = ["--max-requests", str(program.max_requests), "--idle-timeout-ms", str(program.idle_timeout_ms)]
        return built_in("http-server", *listen, *how, *limits)
    if isinstance(program, HttpProxy):
        kept = ["--keepalive", str(program.keepalive), "--keepalive-requests", str(program.keepalive_requests)]
        return built_in("http-proxy", *listen, "--upstream", str(program.upstream), *kept)
    path = process.find_program("nginx")
    if path is None:
        raise EnvironmentLacks(NO_NGINX)
    (folder / "nginx.conf").write_text(nginx.render(program, path), encoding="utf-8")
    return nginx.command(path, folder)


def _wait_until_listening(node: RunningNode, program: Program) -> None:
    """Wait for the program's LISTEN socket or its death, whichever comes first; no connection is made."""
    what = "nginx" if isinstance(program, Nginx) else "the built-in program"
    where = f"node {node.name}: {what} for {program.listen}"
    child = node.process
    assert child is not None

    def listens_or_died() -> bool:
        return child.poll() is not None or node.observer.sockets.is_listening(
            program.listen.port, program.listen.address
        )

    try:
        wait_until(listens_or_died, where, LISTEN_DEADLINE_S, pause_s=0.005)
    except DeadlineMissed as error:
        raise UsageError(f"{error}; its log ends:\n{_quoted(node.log)}") from error
    if child.poll() is not None:
        raise UsageError(f"{where} ended with status {child.returncode}; its log ends:\n{_quoted(node.log)}")


def _quoted(log: Path) -> str:
    text = process.tail(log) or "(empty)"
    return "\n".join(f"  | {line}" for line in text.splitlines())


def kernel_release() -> str:
    """The kernel's name and release, ``Linux 6.18.44``."""
    name = os.uname()
    return f"{name.sysname} {name.release}"
