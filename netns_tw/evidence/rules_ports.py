"""Why requests found no port, and why tcp_tw_reuse did or did not help."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator

from netns_tw.evidence.case import REUSE, TIMESTAMPS, Case, Explanation, plural
from netns_tw.evidence.refused import ERRNOS, Refused
from netns_tw.model.topology import DEFAULT_PORT_RANGE, PORT_RANGE

OPEN_STATES = ("established", "close-wait")
RECYCLED = "TcpExtTWRecycled"


def out_of_ports(case: Case) -> Iterator[Explanation]:
    """Every usable port was in TIME_WAIT, and who closed first."""
    for (node, remote, outcome), found in _grouped(case).items():
        held = found[0].held
        waiting = sum(state == "time-wait" for state in held.values())
        entered = case.grew(node, "TcpExtTW")
        if not waiting or not entered:
            continue
        count = sum(one.count for one in found)
        if outcome in ERRNOS:
            name, what = "client-out-of-ports", f"got {outcome} from {_call(case, outcome)}(), before any packet left"
        else:
            name, what = "lb-out-of-ports", f"got {outcome}"
        text = (
            f"{plural(count, 'request')} {what}: {_ports(case, node, held)} towards {remote},"
            f" {_states(held)}, closed first by {node}"
        )
        yield Explanation(name, text, _proof_of_closing(case, node, remote))


def held_by_open_connections(case: Case) -> Iterator[Explanation]:
    """The ports are held by connections that are open, not by TIME_WAIT."""
    for (node, remote, outcome), found in _grouped(case).items():
        held = [state for one in found for state in one.held.values()]
        is_open = [state for state in held if state in OPEN_STATES]
        if not held or len(is_open) < len(held):
            continue
        count = sum(one.count for one in found)
        snapshot = case.count(node, "established") + case.count(node, "close-wait")
        text = (
            f"{plural(count, 'request')} got {outcome} although no port was in TIME_WAIT:"
            f" {_ports(case, node, found[0].held)} towards {remote}, all by connections that {node} keeps open"
        )
        proof = f"{found[0].words} at {found[0].from_ms:.0f} ms; {snapshot} still open at the end"
        yield Explanation("ports-held-by-open-connections", text, proof)


def reuse(case: Case) -> Iterator[Explanation]:
    """What tcp_tw_reuse did on each node that opened connections, and why it did no more."""
    refused = {one.node for one in case.refusals}
    for node in sorted({one.opener for one in case.closes}):
        value = case.sysctl(node, REUSE)
        acceptors = sorted({one.acceptor for one in case.closes if one.opener == node})
        recycled, entered = case.grew(node, RECYCLED), case.grew(node, "TcpExtTW")
        proof = f"TWRecycled +{recycled} on {node}"
        without = [one for one in (node, *acceptors) if case.sysctl(one, TIMESTAMPS) == 0]
        if value == 1 and without and node in refused and not recycled:
            yield Explanation("reuse-needs-timestamps", _needs_timestamps(node, without), proof)
        elif value == 1 and recycled:
            yield Explanation(*_reused(case, node, recycled, node in refused), f"{proof}, TW +{entered}")
        elif value == 1 and node in refused:
            yield Explanation("reuse-too-young", _too_young(case, node), proof)
        elif value == 2 and node in refused:
            text = (
                f"tcp_tw_reuse = 2, the default of Linux since 4.19, is for loopback addresses only:"
                f" it never applies between {node} and {', '.join(acceptors)}"
            )
            yield Explanation("reuse-for-loopback-only", text, proof)
        elif value == 0 and node in refused and any(case.sysctl(one, REUSE) == 1 for one in acceptors):
            text = (
                f"tcp_tw_reuse = 1 on {', '.join(acceptors)} does nothing here: it is the opener's setting,"
                f" and on {node}, which opens, it is 0"
            )
            yield Explanation("reuse-on-the-wrong-side", text, proof)


def _needs_timestamps(node: str, without: list[str]) -> str:
    names = " and ".join(without)
    return (
        f"tcp_tw_reuse = 1 on {node} reused nothing: it needs TCP timestamps on both ends, and tcp_timestamps = 0"
        f" on {names}"
    )


def _reused(case: Case, node: str, recycled: int, is_refused: bool) -> tuple[str, str]:
    taken = f"{node} took a TIME_WAIT over {plural(recycled, 'time')}"
    delay = f"tcp_tw_reuse lets connect() have a port back {case.delay_ms(node)} ms after its last connection"
    if is_refused:
        return "reuse-has-a-rate", f"{taken}, and still ran out: {delay}, so each port carries one connection per delay"
    return "reuse-was-enough", f"{taken} and never ran out: {delay}, and the requests came no faster than that"


def _too_young(case: Case, node: str) -> str:
    took = max((one.to_ms for one in case.refusals if one.node == node), default=0.0)
    first = min((one.at_ms for one in case.record.responses), default=0.0)
    return (
        f"tcp_tw_reuse = 1 on {node} reused nothing: a TIME_WAIT must be older than tcp_tw_reuse_delay,"
        f" {case.delay_ms(node)} ms, and the last refused request came {took - first:.0f} ms after the first request"
    )


def hidden_port(case: Case) -> Iterator[Explanation]:
    """An odd range hides one of its ports from connect()."""
    for (node, remote, _), found in _grouped(case).items():
        low, high = _range(case, node)
        width = high - low + 1
        free = [port for port in range(low, high + 1) if port not in found[-1].held] if width < 4096 else []
        if width > 3 and width % 2 and len(free) == 1 and found[-1].outcome in ERRNOS:
            text = (
                f"port {free[0]} of {low}-{high} stayed free and was not found: connect() searches an even number"
                f" of ports, so of {width} it may miss one (__inet_hash_connect)"
            )
            yield Explanation("odd-range-hides-a-port", text, f"{len(found[-1].held)} of {width} held towards {remote}")


def _grouped(case: Case) -> dict[tuple[str, str, str], list[Refused]]:
    found: dict[tuple[str, str, str], list[Refused]] = {}
    for one in case.refusals:
        found.setdefault((one.node, one.remote, one.outcome), []).append(one)
    return found


def _range(case: Case, node: str) -> tuple[int, int]:
    low, high = (int(word) for word in case.topology.nodes[node].sysctls.get(PORT_RANGE, DEFAULT_PORT_RANGE).split())
    return low, high


def _ports(case: Case, node: str, held: dict[int, str]) -> str:
    """``both usable ports of lb (1024, 1025; 1026 is lost to the kernel's even-width rule) were held``."""
    low, high = _range(case, node)
    number = len(held)
    which = (
        "the only usable port" if number == 1 else "both usable ports" if number == 2 else f"all {number} usable ports"
    )
    names = ", ".join(map(str, sorted(held))) if number <= 4 else f"{low}-{high}"
    lost = f"; {high} is lost to the kernel's even-width rule" if high - low == 2 and high not in held else ""
    return f"{which} of {node} ({names}{lost}) {'was' if number == 1 else 'were'} held"


def _states(held: dict[int, str]) -> str:
    tally = Tally(held.values())
    if len(tally) == 1:
        return f"{'all ' if len(held) > 1 else ''}in {_state(next(iter(tally)))}"
    return ", ".join(f"{count} in {_state(state)}" for state, count in tally.most_common())


def _state(word: str) -> str:
    return "TIME_WAIT" if word == "time-wait" else word


def _call(case: Case, outcome: str) -> str:
    calls = {one.call for one in case.record.responses if one.errno == outcome and one.call}
    return calls.pop() if len(calls) == 1 else "connect"


def _proof_of_closing(case: Case, node: str, remote: str) -> str:
    """The closers of the flow: how many entered TIME_WAIT on each side, and what the LB logged."""
    acceptor = case.acceptor_of(node, remote)
    mine = [one for one in case.closes if one.opener == node and one.acceptor == acceptor]
    least = sum(one.by_opener.least for one in mine)
    most = sum(one.by_opener.most for one in mine)
    theirs = sum(one.by_acceptor.least for one in mine)
    words = [
        f"TIME_WAIT entered {least if least == most else f'{least} to {most}'} times on {node}, {theirs} on {acceptor}"
    ]
    words += [f"TW +{case.grew(node, 'TcpExtTW')} on {node}, +{case.grew(acceptor, 'TcpExtTW')} on {acceptor}"]
    logged = case.log(node, "(99: ")
    if logged:
        words.append(f"{plural(logged, 'line')} with errno 99 in its log")
    return "; ".join(words)


RULES = (out_of_ports, held_by_open_connections, reuse, hidden_port)
