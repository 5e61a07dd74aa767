"""A sample that begins when the last one's namespaces are gone.

The kernel destroys namespaces after the call that dropped them, one batch after the other in one work queue
(cleanup_net, net/core/net_namespace.c), and holds RTNL meanwhile: a lab that is built at once would be measured beside
the end of the one before. A namespace of our own that is dropped now is destroyed after all of those; that it is, is
seen by the other end of its veth pair.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial

from benchmarks.inside import T, inside
from netns_tw.kernel import libc, netns
from netns_tw.kernel.link import FIRST_INDEX, Rtnl
from netns_tw.kernel.netlink import Refused
from netns_tw.wait import wait_until

DEADLINE_S = 30.0
HERE, THERE = "quiet-here", "quiet-there"


def inside_quiet(function: Callable[[], T]) -> T:
    """``inside``, begun when all namespaces that were dropped before are gone."""
    return inside(partial(_after_the_others, function))


def _after_the_others(function: Callable[[], T]) -> T:
    netns.add(HERE)
    netns.add(THERE)
    with Rtnl(HERE) as here:
        with Rtnl(THERE) as there:
            here.add_veth("eth0", FIRST_INDEX, there, "eth0")
        libc.detach(f"{netns.RUN_NETNS}/{THERE}")
        os.unlink(f"{netns.RUN_NETNS}/{THERE}")
        wait_until(lambda: _is_gone(here), "the namespaces of before are gone", DEADLINE_S, pause_s=0.001)
    return function()


def _is_gone(here: Rtnl) -> bool:
    try:
        here._is_up(FIRST_INDEX)
    except Refused as error:
        if error.errno != errno.ENODEV:
            raise
        return True
    return False
