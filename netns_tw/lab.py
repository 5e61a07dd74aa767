"""Topology -> a running lab: namespaces, links, sysctls, programs. Runs as PID 1 of a sandbox.

The order is the kernel's: a namespace before its links, a link before the sysctls that carry its name, sysctls before
the first packet, addresses and routes before the programs that listen on them. Every act's undo is on one ExitStack
the moment the act succeeded; what the stack does not reach, the sandbox's end does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from netns_tw.errors import EnvironmentLacks
from netns_tw.kernel import netns, sysctl
from netns_tw.kernel.link import Rtnl
from netns_tw.measure.observer import Observer, wait_until_settled
from netns_tw.model.topology import Program, Topology
from netns_tw.node import RunningNode
from netns_tw.rules import RUN
from netns_tw.wiring import ALWAYS_SHOWN, add_links, by_time, read_sysctls, rtnl_by, set_up, write_sysctls

if TYPE_CHECKING:
    from netns_tw.kernel.capture import Capture, Count

CHILD_EHASH = "net.ipv4.tcp_child_ehash_entries"


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
        folder = f"{RUN}/{name}"
        os.makedirs(folder, exist_ok=True)
        observer = Observer(name)
        self._stack.callback(observer.close)
        return RunningNode(name, folder, observer)

    def _capture(self) -> None:
        """Begin to capture, before any program can send a packet."""
        if not self._files:
            return
        from netns_tw.kernel.capture import Capture
        from netns_tw.model import pcapng

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
        from netns_tw import serving

        serving.end(self.nodes)
        wait_until_settled([node.observer for node in self.nodes.values()])
        return {name: one.stop() for name, one in self._captures.items()}

    def _start(self) -> None:
        if self.programs:
            from netns_tw import serving  # what starts processes takes longer to load than a lab takes to build

            serving.start(self.nodes, self.programs, self._stack)


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


def kernel_release() -> str:
    """The kernel's name and release, ``Linux 6.18.44``."""
    name = os.uname()
    return f"{name.sysname} {name.release}"
