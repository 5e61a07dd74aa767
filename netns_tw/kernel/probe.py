"""What a lab needs of the kernel, each as one act on namespaces, sockets and processes of our own.

An act returns when it has worked. Each is to be carried out by attempt.py, in a child: it cleans up nothing and may
leave its process in other namespaces or as another user. What takes long to import is imported by the act that needs
it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence

from netns_tw.errors import EnvironmentLacks, NetnsTwError
from netns_tw.kernel import libc, private

NOBODY = 65534
"""The uid and gid that stand for no user (/proc/sys/kernel/overflowuid)."""
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
SOCK_DESTROY, NLM_F_REQUEST_ACK, NLMSG_ERROR = 21, 0x1 | 0x4, 2
"""include/uapi/linux/sock_diag.h and netlink.h."""
ANY_COOKIE = b"\xff" * 8
SOCKET_DEADLINE_S = 2.0


def has_power() -> bool:
    """Whether the caller makes namespaces by his own right (CAP_SYS_ADMIN), without a user namespace."""
    return libc.has_capability(private.CAP_SYS_ADMIN)


def make_namespace(kind: int) -> None:
    """Make a namespace of *kind* (a CLONE_NEW* flag) as the sandbox does: by right, or with a user namespace.

    Raises:
        OSError: the kernel refuses; with the call.
    """
    if has_power():
        libc.unshare(kind)
    else:
        private.unshare_with_user(kind)


def become_nobody() -> None:
    """Be an ordinary user from now on, as after a login: the kernel lets a process that changed its user not write its
    own /proc/self/uid_map until it is "dumpable" again (prctl(2)).

    Raises:
        OSError: the caller may not, or there is no such user in his user namespace.
    """
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    libc.set_dumpable()


def make_links(nodes: Iterable[str], links: Sequence[tuple[str, str, str, str]]) -> None:
    """Make named namespaces and veth pairs (node, interface, node, interface), and wait until each end is up.

    For use inside a sandbox.

    Raises:
        EnvironmentLacks: this kernel has no veth, or it is not permitted.
    """
    from netns_tw.kernel import netns
    from netns_tw.kernel.link import FIRST_INDEX, Rtnl

    for node in nodes:
        netns.add(node)
    rtnl = {node: Rtnl(node) for node in nodes}
    ends = []
    for number, (node, name, peer, peer_name) in enumerate(links):
        index = FIRST_INDEX + 2 * number
        there = rtnl[node].add_veth(name, index, rtnl[peer], peer_name)
        ends += [(rtnl[node], index, name), (rtnl[peer], there, peer_name)]
    for one, index, name in ends:
        one.set_up(index, name)
    for one, index, name in ends:
        one.wait_until_up(index, name)


def see_a_socket() -> None:
    """Listen in a namespace of its own and find that socket by sock_diag. For use inside a sandbox.

    Raises:
        EnvironmentLacks: it is not shown.
        InstrumentBroken: the kernel refuses the dump.
    """
    from netns_tw.kernel import netns
    from netns_tw.kernel.sockdiag import SockDiag

    netns.add("probe")
    reader = SockDiag("probe")
    with netns.enter("probe"), socket.create_server(("0.0.0.0", 0)) as listener:
        if not reader.is_listening(listener.getsockname()[1]):
            raise EnvironmentLacks("sock_diag does not show a socket that is there")


def try_sysctls(wanted: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Write each sysctl's values in a namespace, its own value where none is given; return what went wrong, by name.

    For use inside a sandbox. An empty text is good.
    """
    from netns_tw.kernel import netns, sysctl

    netns.add("probe")
    found = {}
    for name, values in wanted.items():
        try:
            for value in list(values) or [sysctl.read("probe", name) or "0"]:
                sysctl.write("probe", name, value)
            found[name] = ""
        except NetnsTwError as error:
            found[name] = str(error).removeprefix("node probe: ").removeprefix(f"{name}: ")
    return found


def end_by_pidfd() -> None:
    """End a process of our own through a pidfd, which no other process can have taken over (pidfd_open(2), Linux 5.3).

    Raises:
        OSError: the kernel has none.
    """
    pid = os.fork()
    if pid == 0:
        libc.set_parent_death_signal(signal.SIGKILL)
        signal.pause()
        os._exit(0)
    signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL)
    os.waitpid(pid, 0)


def destroy_a_time_wait() -> None:
    """Make a TIME_WAIT on the loopback interface and take it away by SOCK_DESTROY. For use inside a sandbox.

    Raises:
        OSError: the kernel refuses: EOPNOTSUPP without CONFIG_INET_DIAG_DESTROY, or where it does that to no TIME_WAIT.
        EnvironmentLacks: it says yes, and the TIME_WAIT is still there.
    """
    with socket.create_server(("0.0.0.0", 0)) as listener, socket.socket() as opener:
        fcntl.ioctl(listener, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
        opener.settimeout(SOCKET_DEADLINE_S)
        opener.connect(("127.0.0.1", listener.getsockname()[1]))
        local, remote = opener.getsockname(), opener.getpeername()
        accepted, _ = listener.accept()
        opener.shutdown(socket.SHUT_WR)
        accepted.recv(1)
        accepted.close()
        opener.recv(1)  # the FIN that turns it into a TIME_WAIT (tcp_fin)
    _destroy(local, remote)
    with socket.socket() as again:
        try:
            again.bind(local)  # refused with EADDRINUSE as long as the TIME_WAIT holds its port
        except OSError as error:
            raise EnvironmentLacks("the kernel says that it is done, but the TIME_WAIT is still there") from error


def _destroy(local: tuple[str, int], remote: tuple[str, int]) -> None:
    """Ask for the end of the socket of this 4-tuple: a struct inet_diag_req_v2 (include/uapi/linux/inet_diag.h)."""
    ports = struct.pack(">HH", local[1], remote[1])
    addresses = b"".join(socket.inet_aton(one[0]).ljust(16, b"\0") for one in (local, remote))
    body = struct.pack("=BBxxI", socket.AF_INET, socket.IPPROTO_TCP, 0xFFFFFFFF) + ports + addresses
    body += struct.pack("=I", 0) + ANY_COOKIE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as diag:  # NETLINK_SOCK_DIAG
        diag.settimeout(SOCKET_DEADLINE_S)
        diag.send(struct.pack("=IHHII", 16 + len(body), SOCK_DESTROY, NLM_F_REQUEST_ACK, 1, 0) + body)
        kind, code = struct.unpack_from("=4xH10xi", diag.recv(1 << 12))
    if kind != NLMSG_ERROR or code:
        raise OSError(-code, f"SOCK_DESTROY: {os.strerror(-code)}")
