"""Namespaces that are being destroyed while something is measured.

A namespace with a veth pair is taken down by the kernel's worker (cleanup_net), which holds RTNL meanwhile, and what
was put off until RTNL is free (linkwatch) waits. One chain in eight, built beside this by a program that does not ask
for its links' state, lost its first packet.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute

from netns_tw.kernel import libc

HEAD_START = 10


@contextmanager
def others_dying() -> Iterator[None]:
    """While the block lasts, a child makes one namespace after the other, and so drops the one before.

    It dies with the sandbox that it must be started in.
    """
    begun, say = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _make_for_ever(say)
        finally:
            os._exit(1)
    os.close(say)
    try:
        os.read(begun, 1)
        yield
    finally:
        os.close(begun)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _make_for_ever(say: int) -> None:
    made = 0
    while True:
        libc.unshare(libc.CLONE_NEWNET)
        with IPRoute() as here:
            here.link("add", ifname="left", kind="veth", peer="right")
        made += 1
        if made == HEAD_START:
            os.write(say, b"b")
