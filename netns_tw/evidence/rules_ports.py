"""Why requests found no port, and why tcp_tw_reuse did or did not help."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence

from netns_tw.evidence.case import Case, Explanation, plural, total
from netns_tw.evidence.counting import ENTRIES
from netns_tw.evidence.portmap import PortMap
from netns_tw.evidence.refused import ERRNOS, Refused
from netns_tw.evidence.traffic import ESTABLISHED, RECYCLED, TIME_WAIT
from netns_tw.model.topology import TIMESTAMPS, TW_REUSE

KEPT_OPEN = (ESTABLISHED, "close-wait")
FEW = 4
"""Ports that are named one by one."""


def out_of_ports(case: Case) -> Iterator[Explanation]:
    """Every usable port was held, some in TIME_WAIT, and who closed first."""
    for (node, remote, outcome), found in _grouped(case, _has_waiting).items():
        ports = case.port_map(node, remote)
        if ports is None or not case.grew(node, *ENTRIES):
            continue
        name, what = "lb-out-of-ports", f"got {outcome}"
        if outcome in ERRNOS:
            name, what = "client-out-of-ports", f"got {outcome} from {_call(case, outcome)}(), before any packet left"
        text = (
            f"{plural(_count(found), 'request')} {what}: {_at_first(found)}{_ports(ports, found[0].held)}"
            f" towards {remote}, {_states(found[0].held, node)}"
        )
        yield Explanation(name, text, _proof_of_closing(case, node, remote))


def asked_port_held(case: Case) -> Iterator[Explanation]:
    """The client asked for a port of its own choice, which was still held."""
    for (node, remote, outcome), found in _grouped(case, _has_waiting, is_asked=True).items():
        if case.grew(node, *ENTRIES):
            text = (
                f"{plural(_count(found), 'request')} got {outcome} from {_call(case, outcome)}(), before any packet"
                f" left: the local port that was asked for was held towards {remote}, in TIME_WAIT, closed first by"
                f" {node}"
            )
            yield Explanation("asked-port-held", text, _proof_of_closing(case, node, remote))


def held_by_open_connections(case: Case) -> Iterator[Explanation]:
    """The ports are held by connections that are open, not by TIME_WAIT."""
    for (node, remote, outcome), found in _grouped(case, _is_kept_open).items():
        ports = case.port_map(node, remote)
        if ports is None:
            continue
        text = (
            f"{plural(_count(found), 'request')} got {outcome} although no port was in TIME_WAIT: {_at_first(found)}"
            f"{_ports(ports, found[0].held)} towards {remote}, all by open connections"
        )
        address, _, port = remote.rpartition(":")
        there = (address.strip("[]"), int(port))
        still = sum(row[3:5] == there for row in case.rows(node, case.last_step, *KEPT_OPEN))
        proof = f"{found[0].words} on {node} at {found[0].from_ms:.0f} ms; {still} still open at the end"
        yield Explanation("ports-held-by-open-connections", text, proof)


def reuse(case: Case) -> Iterator[Explanation]:
    """What tcp_tw_reuse did on each node that opened connections, and why it did no more."""
    openers = {one.node for one in case.refusals} | {one.opener for one in case.closes}
    for node in sorted(openers - {step.node for step in case.experiment.steps if step.source_ports}):
        value, recycled = case.sysctl(node, TW_REUSE), case.grew(node, RECYCLED)
        waiting = [one for one in case.refusals if one.node == node and _has_waiting(one)]
        proof = f"TWRecycled +{recycled} on {node}"
        if value == 1 and recycled:
            is_refused = any(one.node == node for one in case.refusals)
            entered = case.grew(node, "TcpExtTW")
            yield Explanation(*_reused(case, node, recycled, is_refused), f"{proof}, TW +{entered}")
        elif waiting and not recycled:
            acceptors = sorted({case.acceptor_of(node, one.remote) for one in waiting} - {""})
            if told := _reused_nothing(case, node, value, acceptors, waiting):
                yield Explanation(*told, f"{proof}, {waiting[-1].words} at {waiting[-1].to_ms:.0f} ms")


def _reused(case: Case, node: str, recycled: int, is_refused: bool) -> tuple[str, str]:
    taken = f"{node} took a TIME_WAIT over {plural(recycled, 'time')}"
    delay = f"tcp_tw_reuse lets connect() have a port back {case.delay_ms(node)} ms after its TIME_WAIT began"
    if is_refused:
        return "reuse-has-a-rate", f"{taken}, and still ran out of ports: {delay}, no sooner"
    return "reuse-was-enough", f"{taken} and never ran out of ports: {delay}, and here that was soon enough"


def _reused_nothing(
    case: Case, node: str, value: int | None, acceptors: list[str], waiting: Sequence[Refused]
) -> tuple[str, str] | None:
    """Name and text of what kept tcp_tw_reuse from taking over a TIME_WAIT that stood in the way."""
    without = [one for one in (node, *acceptors) if case.sysctl(one, TIMESTAMPS) == 0]
    names, nothing = " and ".join(acceptors), f"on {node} tcp_tw_reuse = 1 reused nothing"
    if value == 1 and without:
        text = f"{nothing}: it needs TCP timestamps on both ends, and tcp_timestamps = 0 on {' and '.join(without)}"
        return "reuse-needs-timestamps", text
    if value == 1:
        last, delay = max(waiting, key=lambda one: one.to_ms), case.delay_ms(node)
        oldest = _oldest_ms(case.port_map(node, last.remote), last.to_ms)
        text = (
            f"{nothing}: a TIME_WAIT must be older than tcp_tw_reuse_delay, {delay} ms, and at the last refused"
            f" request the oldest was {oldest:.0f} ms old"
        )
        return ("reuse-too-young", text) if 0 < oldest < delay else None
    if value == 2 and names:
        text = (
            f"on {node} tcp_tw_reuse = 2, the default since Linux 4.19, is for loopback addresses only: it never"
            f" applies between {node} and {names}"
        )
        return "reuse-for-loopback-only", text
    if value == 0 and names and all(case.sysctl(one, TW_REUSE) == 1 for one in acceptors):
        text = (
            f"on {names} tcp_tw_reuse = 1 does nothing here: it is the opener's setting, and on {node}, which opens,"
            " it is 0"
        )
        return "reuse-on-the-wrong-side", text
    return None


def _oldest_ms(ports: PortMap | None, at_ms: float) -> float:
    held = ports.busy(at_ms).values() if ports else ()
    return max((at_ms - one.from_ms for one in held if one.state == TIME_WAIT), default=0.0)


def hidden_port(case: Case) -> Iterator[Explanation]:
    """An odd range hides one of its ends from connect()."""
    for (node, remote, outcome), found in _grouped(case, lambda one: bool(one.held)).items():
        ports, held = case.port_map(node, remote), found[-1].held
        if ports is None or outcome != "EADDRNOTAVAIL" or len(held) != ports.usable - 1:
            continue
        free = [port for port in (ports.low, ports.high) if ports.is_usable(port) and port not in held]
        if len(free) == 1 and ports.usable_least < ports.usable:
            low, high = ports.low, ports.high
            text = (
                f"port {free[0]} of {low}-{high} stayed free and was not found: connect() searches an even number"
                f" of ports, so of {high - low + 1} it may miss one (__inet_hash_connect)"
            )
            yield Explanation("odd-range-hides-a-port", text, f"{len(held)} of {ports.usable} held towards {remote}")


def _grouped(
    case: Case, is_wanted: Callable[[Refused], bool], is_asked: bool = False
) -> dict[tuple[str, str, str], list[Refused]]:
    found: dict[tuple[str, str, str], list[Refused]] = {}
    for one in case.refusals:
        if is_wanted(one) and (one.asked is not None) == is_asked:
            found.setdefault((one.node, one.remote, one.outcome), []).append(one)
    return found


def _has_waiting(one: Refused) -> bool:
    return TIME_WAIT in one.held.values()


def _is_kept_open(one: Refused) -> bool:
    return bool(one.held) and set(one.held.values()) <= set(KEPT_OPEN)


def _count(found: Sequence[Refused]) -> int:
    return sum(one.count for one in found)


def _at_first(found: Sequence[Refused]) -> str:
    """Words for a state of ports that was another one at later requests."""
    return "" if all(one.held == found[0].held for one in found) else "at the first of them "


def _ports(ports: PortMap, held: dict[int, str]) -> str:
    """``both usable ports of lb (1024, 1025; 1026 is lost to the kernel's even-width rule) were held``."""
    low, high, number = ports.low, ports.high, len(held)
    if number < ports.usable_least:  # the others were held too, but by what was not seen
        which = f"at least {number} of the {ports.usable} usable ports of {ports.node}"
    elif number == 1:
        which = f"the only usable port of {ports.node}"
    else:
        which = f"{'both' if number == 2 else f'all {number}'} usable ports of {ports.node}"
    names = ", ".join(map(str, sorted(held))) if number <= FEW else f"{low}-{high}"
    lost = f"; {high} is lost to the kernel's even-width rule" if high - low == 2 and high not in held else ""
    return f"{which} ({names}{lost}) {'was' if number == 1 else 'were'} held"


def _states(held: dict[int, str], node: str) -> str:
    tally = Tally(held.values())
    words = [
        f"{count} in TIME_WAIT, closed first by {node}" if state == TIME_WAIT else f"{count} {state}"
        for state, count in tally.most_common()
    ]
    if len(words) == 1:
        return f"{'all ' if len(held) > 1 else ''}in TIME_WAIT, closed first by {node}"
    return " and ".join(words)


def _call(case: Case, outcome: str) -> str:
    calls = {one.call for one in case.record.responses if one.errno == outcome and one.call}
    return calls.pop() if len(calls) == 1 else "connect"


def _proof_of_closing(case: Case, node: str, remote: str) -> str:
    """The closers of the flow: how many entered TIME_WAIT on each side, and what the LB logged."""
    acceptor = case.acceptor_of(node, remote)
    mine = [one for one in case.closes if one.opener == node and one.acceptor == acceptor]
    words = []
    if mine:
        ours, theirs = total(one.by_opener for one in mine), total(one.by_acceptor for one in mine)
        words = [f"{node} closed {ours} first, {acceptor} {theirs}"]
    words += [f"TW +{case.grew(one, 'TcpExtTW')} on {one}" for one in (node, acceptor) if one]
    logged = case.log(node, "(99: ")
    if logged:
        words.append(f"{plural(logged, 'line')} with errno 99 in its log")
    return "; ".join(words)


RULES = (out_of_ports, asked_port_held, held_by_open_connections, reuse, hidden_port)
