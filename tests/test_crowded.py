"""A node with more sockets than are listed: counted by kind, held against every row, and against blind eyes."""

from __future__ import annotations

import os
import socket
from collections import Counter as Tally
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import in_sandbox
from test_kernel import LEFT, LEFT6, RIGHT, RIGHT6, build_pair, closed_by_client, connect, listen

from netns_tw.errors import InstrumentBroken
from netns_tw.kernel import netns, sockdiag, sysctl
from netns_tw.kernel.sockdiag import Kind, SockDiag, TcpSocket
from netns_tw.lab import RunningLab
from netns_tw.measure import canary, cost, observer
from netns_tw.measure.observer import Observer
from netns_tw.model import labs
from netns_tw.programs import bare
from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns


def by_hand(rows: list[TcpSocket]) -> dict[Kind, int]:
    """The tally of rows that were listed one by one."""
    listening = {row.local_port for row in rows if row.state == "listening"}
    return dict(
        Tally(
            Kind(row.state, row.local_port, row.remote, 0)
            if row.local_port in listening
            else Kind(row.state, 0, row.remote, row.remote_port)
            for row in rows
        )
    )


def mixed() -> list[socket.socket]:
    """Sockets in many states on both nodes, IPv4 and IPv6, at two ports; return those that must stay open."""
    kept = []
    for address in (RIGHT, RIGHT6):
        for port in (80, 81):
            listener = listen(address, port)
            for number in range(5):
                closed_by_client(listener, address, port)
                client = connect(address, port)
                server, _ = listener.accept()
                if number < 2:
                    client.shutdown(socket.SHUT_WR)
                kept += [client, server]
            kept.append(listener)
    return kept


def test_a_tally_is_what_the_rows_add_up_to() -> None:
    """Each kind as often as the rows have it, on both ends, whichever states are asked for."""

    def inside() -> list[object]:
        build_pair()
        kept = mixed()
        wait_until(
            lambda: not any(row.state == "fin-wait-1" for row in SockDiag("left").dump()), "the FINs are there", 5
        )
        wrong: list[object] = []
        for name in ("left", "right"):
            reader = SockDiag(name)
            rows = reader.dump()
            if reader.tally() != by_hand(rows) or len(rows) < 24:
                wrong.append((name, reader.tally(), by_hand(rows)))
            some = 1 << 6 | 1 << 1
            listed = [row for row in rows if row.state in ("time-wait", "established")]
            expected = {
                kind: count for kind, count in by_hand(rows).items() if kind.state in ("time-wait", "established")
            }
            if reader.tally(some) != expected or len(reader.dump(some)) != len(listed):
                wrong.append((name, reader.tally(some), expected))
            if [row.local_port for row in reader.dump(local_port=80)] != [80] * sum(
                row.local_port == 80 for row in rows
            ):
                wrong.append((name, "by port"))
        for one in kept:
            one.close()
        return wrong

    assert in_sandbox(inside) == []


def fill(count: int, first_port: int = 2000) -> socket.socket:
    """Make *count* TIME_WAITs on node right; return what listens there."""
    listener = listen(RIGHT)
    batches: list[bare.Batch] = []
    with netns.enter("left"):
        plan = bare.Plan(os.dup(listener.fileno()), count, source_ports=range(first_port, first_port + count))
        bare.run(plan, batches.append)
    assert sum(one.ok for one in batches) == count
    return listener


def test_whole_buffers_of_one_kind_of_two_and_of_mixed_sizes() -> None:
    """Thousands of TIME_WAITs fill many buffers; some established sockets, with attributes, stand between them."""

    def inside() -> tuple[object, ...]:
        build_pair()
        listener = fill(3000)
        between = [end for _ in range(20) for end in (connect(RIGHT), listener.accept()[0])]
        reader = SockDiag("right")
        found = reader.tally(), by_hand(reader.dump())
        listener.close()
        between.append(listen(RIGHT, 81))
        late = reader.tally(), by_hand(reader.dump())
        sockdiag.MOST_KINDS = 100
        folded = reader.tally()
        for one in between:
            one.close()
        return *found, *late, folded

    tally, hand, late, late_hand, folded = in_sandbox(inside)
    assert Kind("listening", 81, "0.0.0.0", 0) in folded  # type: ignore[operator]
    assert tally == hand and tally[Kind("time-wait", 80, LEFT, 0)] == 3000  # type: ignore[index]
    assert late == late_hand and len(late) == 3021  # type: ignore[arg-type]
    assert folded[Kind("time-wait", 0, LEFT, 0)] == 3000 and len(folded) == 3  # type: ignore[index, arg-type]


def test_an_address_of_both_families_is_one_kind() -> None:
    """A dual-stack client's connection by ::ffff:a.b.c.d and a plain one to the same server add up."""

    def inside() -> tuple[int, list[int]]:
        build_pair()
        kept = [listen(RIGHT)]
        for address, family in ((RIGHT, socket.AF_INET), (f"::ffff:{RIGHT}", socket.AF_INET6)):
            with netns.enter("left"):
                one = socket.socket(family)
            one.connect((address, 80))
            kept += [one, kept[0].accept()[0]]
        reader = SockDiag("left")
        found = len(reader.dump()), list(reader.tally().values())
        for one in kept:
            one.close()
        return found

    assert in_sandbox(inside) == (2, [2])


def test_a_folded_tally_shows_the_canary_too() -> None:
    """A node whose listener is gone: thousands of kinds fold into one, and the instruments can still be tested."""

    def inside() -> list[str]:
        build_pair()
        observer.MOST_LISTED, sockdiag.MOST_KINDS = 500, 100
        fill(600).close()
        return [row.state for row in canary.check(Observer("right"))]

    assert in_sandbox(inside) == ["time-wait"] * 2


def test_a_crowded_node_is_read_and_its_instruments_are_tested() -> None:
    """No row, all kinds, both instruments agree; the canary is seen by the tally and the dump of its own port."""
    observer.MOST_LISTED = 500

    def inside() -> tuple[object, ...]:
        build_pair()
        listener = fill(600)
        eyes = Observer("right")
        before = eyes.read()
        rows = canary.check(eyes)
        after = eyes.read()
        seen = cost.measure(eyes)
        listener.close()
        return before[:2], before == after, before.kinds, [row.state for row in rows], eyes.is_settled(), seen[0]

    try:
        look, is_same, kinds, states, is_settled, counted = in_sandbox(inside)
    finally:
        observer.MOST_LISTED = 1 << 16
    assert (look, is_same, states, is_settled, counted) == (([], 600), True, ["time-wait"] * 2, True, 600)
    assert kinds == {Kind("listening", 80, "0.0.0.0", 0): 1, Kind("time-wait", 80, LEFT, 0): 600}


class Forgetful(SockDiag):
    """Its tally misses one TIME_WAIT of each kind."""

    def tally(self, states: int = 0xFFF) -> dict[Kind, int]:
        return {kind: count - (kind.state == "time-wait") for kind, count in super().tally(states).items()}


class Narrow(SockDiag):
    """Its tally shows what was there first, and nothing that comes."""

    first: dict[Kind, int] | None = None

    def tally(self, states: int = 0xFFF) -> dict[Kind, int]:
        self.first = self.first or super().tally(states)
        return self.first


def test_a_blind_tally_is_broken_never_believed() -> None:
    """One that counts too few disagrees with sockstat; one that is stuck does not show the canary."""

    def inside() -> list[str]:
        build_pair()
        observer.MOST_LISTED = 500
        observer.AGREE_DEADLINE_S = 0.2
        listener = fill(600)
        eyes = Observer("right")
        said = []
        eyes.sockets = Forgetful("right")
        with pytest.raises(InstrumentBroken) as caught:
            eyes.read()
        said.append(str(caught.value))
        eyes.sockets = Narrow("right")
        eyes.read()
        with pytest.raises(InstrumentBroken) as caught:
            canary.check(eyes)
        said.append(str(caught.value))
        listener.close()
        return said

    first, second = in_sandbox(inside)
    assert "they must agree" in first
    assert "sock_diag does not show a TIME_WAIT that is there" in second


@pytest.mark.parametrize("entries", [0, 4096])
def test_each_node_may_have_an_established_hash_of_its_own(entries: int) -> None:
    """Its size is read back, negative where it is shared (tcp_ehash_entries); half of it limits TIME_WAIT."""
    topology = replace(labs.read_lab(labs.folder_of("crowd")).topology, ehash_entries=entries)

    def inside() -> list[tuple[int, str | None]]:
        with RunningLab(topology, {}) as running:
            return [
                (int(sysctl.read(node, "net.ipv4.tcp_ehash_entries") or 0), sysctl.read(node, canary.LIMIT))
                for node in running.nodes
            ]

    found = in_sandbox(inside)
    if not Path("/proc/sys/net/ipv4/tcp_child_ehash_entries").exists():
        pytest.skip("Linux 6.1")
    assert len(found) == 3
    for size, limit in found:
        assert (size, limit) == (entries, f"{entries // 2}") if entries else size < 0


def test_sockets_of_one_own_hash_are_not_in_another_s_walk() -> None:
    """IPv6 addresses too: a node with a table of its own sees its sockets, and a neighbour sees none of them."""

    def inside() -> list[int]:
        Path("/proc/sys/net/ipv4/tcp_child_ehash_entries").write_text("1024")
        build_pair()
        with listen(RIGHT6) as listener:
            closed_by_client(listener, RIGHT6)
            return [sum(row.state == "time-wait" for row in SockDiag(name).dump()) for name in ("left", "right")]

    assert LEFT6 and in_sandbox(inside) == [1, 0]
