"""The packets of one interface, both directions, as the kernel hands them over: a packet socket with a ring.

One end of a veth pair sees the whole link: what it sends as PACKET_OUTGOING (dev_queue_xmit_nit) and what it receives
(__netif_receive_skb_core), each before TCP on this side can answer it. So the ring's order is the order on this end.

The ring is memory shared with the kernel, PACKET_RX_RING with TPACKET_V3 (Documentation/networking/packet_mmap.rst):
128 blocks, 16 MiB. A small packet takes some 200 octets of it, and the kernel hands over a block when it is full or 20
to 40 ms after its first packet, so a reader that does not run for seconds loses nothing. A socket's ordinary queue is
bounded by net.core.rmem_max for all but root: half of a bulk transfer was lost in one. What finds no room is counted.

Packets are taken whole. One that is left to the interface to be cut (GSO) is longer than the link's MTU, and its
checksum is not computed yet. Times are CLOCK_REALTIME with ns, taken as the packet passes.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from netns_tw.wait import wait_until

ETH_P_ALL = 0x0003
ETH_P_NOBODY = 0x88B6
"""IEEE 802 local experimental ethertype 2: nothing here sends it."""
SOL_PACKET = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION = 5, 6, 10
TPACKET_V3 = 2
PACKET_OUTGOING = 4
TP_STATUS_KERNEL, TP_STATUS_USER = 0, 1

BLOCKS = 128
BLOCK_OCTETS = 1 << 17
"""Holds the longest IP packet, 64 KiB, whole."""
FRAME_OCTETS = 1 << 11
RETIRE_MS = 20
DELIVERED_DEADLINE_S = 10.0

_RING = struct.Struct("=7I")  # tpacket_req3
_BLOCK = struct.Struct("=8xIII")  # tpacket_block_desc: block_status, num_pkts, offset_to_first_pkt
_BLOCK_STATUS, _BLOCK_STATUS_AT = struct.Struct("=I"), 8
_PACKET = struct.Struct("=IIIII4xH32xB")  # tpacket3_hdr to tp_mac, then sll_pkttype of the sockaddr_ll behind it
_STATISTICS = struct.Struct("=III")  # tpacket_stats_v3
_BACKLOG_COLUMN = 11


class Seen(NamedTuple):
    """One packet: when, its octets (as many as were captured), its whole length, and whether the interface sent it."""

    at_ns: int
    data: memoryview
    length: int
    is_outgoing: bool


class PacketRing:
    """All that passes one interface of the caller's network namespace, from the construction on.

    Raises:
        OSError: no such interface, no packet sockets, no right to them (CAP_NET_RAW), no memory for the ring.
    """

    def __init__(self, interface: str) -> None:
        self._next = 0
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0: nothing comes before bind()
        try:
            frames = BLOCKS * BLOCK_OCTETS // FRAME_OCTETS
            ring = _RING.pack(BLOCK_OCTETS, BLOCKS, FRAME_OCTETS, frames, RETIRE_MS, 0, 0)
            self.socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
            self.socket.setsockopt(SOL_PACKET, PACKET_RX_RING, ring)
            self._memory = mmap.mmap(self.socket.fileno(), BLOCKS * BLOCK_OCTETS)
            self.socket.bind((interface, ETH_P_ALL))
        except BaseException:
            self.socket.close()
            raise

    def fileno(self) -> int:
        return self.socket.fileno()

    def clear_error(self) -> None:
        """Take note of an error, ENETDOWN when the interface was set down, so that poll(2) can wait again."""
        self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        self._memory.close()
        self.socket.close()

    def packets(self) -> Iterator[Seen]:
        """Yield what was handed over, of at most one round; a packet's data hold until the next one is asked for."""
        memory = memoryview(self._memory)
        for _ in range(BLOCKS):
            block = self._next * BLOCK_OCTETS
            status, count, first = _BLOCK.unpack_from(memory, block)
            if not status & TP_STATUS_USER:
                return
            at = block + first
            for _ in range(count):
                step, seconds, ns, captured, length, mac, kind = _PACKET.unpack_from(memory, at)
                data = memory[at + mac : at + mac + captured]
                yield Seen(seconds * 10**9 + ns, data, length, kind == PACKET_OUTGOING)
                at += step
            _BLOCK_STATUS.pack_into(self._memory, block + _BLOCK_STATUS_AT, TP_STATUS_KERNEL)
            self._next = (self._next + 1) % BLOCKS

    def shut(self) -> tuple[int, int]:
        """Let no packet in any more; return how many came in all and for how many there was no room.

        bind(2) to another protocol takes the socket off the interface's list and waits until no CPU is still about to
        deliver (packet_do_bind, synchronize_net); to lo, which is always there, as this interface may be gone. The
        first count includes the second one (packet_getsockopt).
        """
        self.socket.bind(("lo", ETH_P_NOBODY))
        received, dropped, _ = _STATISTICS.unpack(
            self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, _STATISTICS.size)
        )
        return received, dropped


def wait_until_delivered() -> None:
    """Wait until every packet that is on its way through a CPU now has come to its interface's rings.

    A veth's other end puts a packet on the backlog of a CPU (netif_rx), its own or by RPS another one, which a soft
    interrupt or ksoftirqd empties. Each backlog is empty once at least, then a grace period of RCU passes: what was
    taken from one before is delivered after it, for a delivery runs with soft interrupts off. Kernels before 5.10 do
    not show their backlogs; there this is the grace period alone.

    Raises:
        DeadlineMissed: some CPU's backlog was never seen empty within 10 s.
    """
    waiting = _backlogged()

    def is_through() -> bool:
        if waiting:
            waiting.intersection_update(_backlogged())
        return not waiting

    wait_until(is_through, "the CPUs' backlogs empty", DELIVERED_DEADLINE_S)
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()  # packet_release() waits in synchronize_net()


def _backlogged() -> set[int]:
    """The CPUs, by their line in /proc/net/softnet_stat, with packets on their backlog (softnet_backlog_len)."""
    with open("/proc/net/softnet_stat", encoding="utf-8") as lines:
        rows = [line.split() for line in lines]
    return {cpu for cpu, row in enumerate(rows) if len(row) > _BACKLOG_COLUMN and int(row[_BACKLOG_COLUMN], 16)}
