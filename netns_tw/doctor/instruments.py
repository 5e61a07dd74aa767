"""What builds, observes and ends a lab: veth, sock_diag, pidfd, SOCK_DESTROY."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from netns_tw.doctor.need import EVERY_LAB, Check, more_rights
from netns_tw.kernel import probe
from netns_tw.kernel.attempt import in_sandbox
from netns_tw.model.topology import Topology

MEND_SOCK_DIAG = "sudo modprobe -a inet_diag tcp_diag"


def needed(main: Topology) -> Iterator[Check]:
    """What every lab needs; as many namespaces and veth pairs as lab *main* has."""
    links = [(left.node, left.interface, right.node, right.interface) for left, right in main.links]

    def make_links() -> str:
        in_sandbox(partial(probe.make_links, list(main.nodes), links))
        return f"{len(links)} pairs between {len(main.nodes)} namespaces made, and up"

    def see() -> str:
        in_sandbox(probe.see_a_socket)
        return "a listening socket made, and seen"

    def mend_veth(why: str) -> str:
        return "sudo modprobe veth" if "has no veth" in why else more_rights()

    yield Check("veth", make_links, EVERY_LAB, mend_veth, True)
    yield Check("sock_diag", see, EVERY_LAB, lambda _: MEND_SOCK_DIAG, True)


def not_needed() -> Iterator[Check]:
    """What no experiment needs."""

    def pidfd() -> str:
        probe.end_by_pidfd()
        return "a process ended with pidfd_open and pidfd_send_signal (Linux 5.3)"

    def destroy() -> str:
        in_sandbox(probe.destroy_a_time_wait)
        return "a TIME_WAIT of our own made, and ended; no experiment needs it"

    def mend_destroy(why: str) -> str:
        if "EOPNOTSUPP" in why:
            return "boot a kernel built with CONFIG_INET_DIAG_DESTROY=y"
        return more_rights() if "EPERM" in why else MEND_SOCK_DIAG

    yield Check("pidfd", pidfd, "down, and so labs that stay: up", lambda _: "boot Linux 5.3 or newer")
    yield Check("SOCK_DESTROY", destroy, "ss -K in a lab's shell; no experiment needs it", mend_destroy)
