"""How many connections each end of each flow closed first, from counters and sockets: bounds, as tight as they allow.

A node's entries into TIME_WAIT in a step are known exactly: ``TcpExtTW`` grows by one as a socket enters, also as an
orphan in FIN_WAIT2, which enters once; ``TcpExtTWKilled`` instead, where tcp_fin_timeout leaves such an orphan 4 s or
less (__inet_twsk_schedule); ``TcpExtTCPTimeWaitOverflow`` where tcp_max_tw_buckets forbade the entry. So of a node
that only opens to one peer, or only accepts from one, the count is exact. Where a node has several flows they share its
sum, and each flow's part has bounds:

* as opener: an entry is still there, or was replaced by the node's own connect(), which ``TcpExtTWRecycled`` counts,
  or has expired, or was ended by a RST;
* as acceptor: at most all connections that ended. What was there may be gone without a trace, because a new SYN
  replaces it and no counter says so;
* every connection that ended without a RST has an entry on at least one of its two ends;
* and what the other parts of a node's sum surely took is not left for this one.

The last two tighten one flow by another, so they are applied until nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from netns_tw.evidence.traffic import (
    ABORTS,
    CLOCK_MS,
    ESTABLISHED,
    OPEN,
    RECYCLED,
    TIME_WAIT,
    Flow,
    StepEvidence,
)
from netns_tw.model.budget import TIME_WAIT_MS
from netns_tw.model.ports import Bounds

OVERFLOW = "TcpExtTCPTimeWaitOverflow"
ENTRIES = ("TcpExtTW", "TcpExtTWKilled", OVERFLOW)
FIN_TIMEOUT = "net.ipv4.tcp_fin_timeout"
ROUNDS = 8
"""More than the nodes in a row of any lab that was thought of; fewer would leave bounds wider, never wrong."""
_Part = tuple[Flow, str]
"""One end of a flow."""


@dataclass(frozen=True)
class Ends:
    """How the connections of one flow ended."""

    opened: int
    by_opener: Bounds
    by_acceptor: Bounds
    simultaneous: Bounds
    reset: Bounds
    open: int


@dataclass(frozen=True)
class _Course:
    """What happened to one flow's connections, whoever closed them."""

    opened: int
    ended: Bounds
    """Those whose entries are in this step's counters; bounds, where a snapshot met some half closed."""
    open: int
    aborts: int
    """RSTs that programs or kernels of the two nodes sent, at most."""


def counted(evidence: StepEvidence) -> dict[Flow, Ends]:
    """Count every flow of a step."""
    courses = {flow: _course(evidence, flow) for flow in evidence.flows}
    parts: dict[_Part, Bounds] = {}
    for flow, course in courses.items():
        for node in (flow.opener, flow.acceptor):
            entries = evidence.grew(node, *ENTRIES)
            is_only = sum(node in (one.opener, one.acceptor) for one in courses) == 1
            if is_only and not _strays(evidence, node):  # whatever its sockets show, its counters are about this flow
                parts[flow, node] = Bounds.exactly(entries)
            else:
                seen = _by_opener(evidence, flow, course) if node == flow.opener else Bounds(0, course.ended.most)
                parts[flow, node] = Bounds(min(seen.least, entries), min(seen.most, entries))
    for _ in range(ROUNDS):
        before = dict(parts)
        for node in evidence.topology.nodes:
            _share(evidence, node, courses, parts)
        for flow, course in courses.items():
            _pair(flow, course, parts)
        if parts == before:
            break
    return {flow: _ends(flow, course, parts) for flow, course in courses.items()}


def _course(evidence: StepEvidence, flow: Flow) -> _Course:
    opened = evidence.opened(flow)
    rows = [
        [row for row in evidence.opener_rows(flow, snapshots[flow.opener]) if row[0] in OPEN and row[0] != "syn-sent"]
        for snapshots in (evidence.before, evidence.after)
    ]
    before, after = map(len, rows)
    half_before, half_after = (sum(row[0] != ESTABLISHED for row in each) for each in rows)
    ended = max(opened + before - after, 0)
    aborts = evidence.grew(flow.opener, *ABORTS) + evidence.grew(flow.acceptor, *ABORTS)
    return _Course(opened, Bounds(max(ended - half_before, 0), ended + half_after), after, aborts)


def _by_opener(evidence: StepEvidence, flow: Flow, course: _Course) -> Bounds:
    """What the opener's own sockets and counters say, before its sum is shared."""
    node = flow.opener
    before, after = (evidence.opener_rows(flow, one[node]) for one in (evidence.before, evidence.after))
    waiting = [sum(row[0] == TIME_WAIT for row in rows) for rows in (before, after)]
    orphans = [sum(row[0] == "fin-wait-2" for row in rows) for rows in (before, after)]  # perhaps, and then counted
    recycled = evidence.grew(node, RECYCLED)
    is_alone = sum(one.opener == node for one in evidence.flows) == 1 and not _strays(evidence, node)
    least = waiting[1] - waiting[0] - orphans[0] + (recycled if is_alone else 0)
    lasted = evidence.lasted_ms(node) + CLOCK_MS
    if lasted >= _life_ms(evidence, node):  # some may have come and gone
        return Bounds(min(max(least, 0), course.ended.most), course.ended.most)
    expired = sum(row[0] == TIME_WAIT and row[5] <= lasted for row in before)
    ended_by_rst = evidence.grew(flow.acceptor, "TcpOutRsts")
    most = waiting[1] + orphans[1] - waiting[0] + recycled + expired + ended_by_rst + evidence.grew(node, OVERFLOW)
    least, most = max(least, 0), max(most, 0)
    return Bounds(min(least, course.ended.most), min(most, course.ended.most))


def _life_ms(evidence: StepEvidence, node: str) -> float:
    """The shortest time that an entry into TIME_WAIT stays: an orphan in FIN_WAIT2 may have less than 60 s."""
    text = evidence.topology.nodes[node].sysctls.get(FIN_TIMEOUT, "60")
    return min(int(text) * 1000, TIME_WAIT_MS) if text.isdecimal() else 0


def _strays(evidence: StepEvidence, node: str) -> int:
    """Connections that *node* opened outside all flows, over its loopback for instance, at most."""
    return max(evidence.opened_by(node) - sum(evidence.opened(one) for one in evidence.flows if one.opener == node), 0)


def _share(evidence: StepEvidence, node: str, courses: dict[Flow, _Course], parts: dict[_Part, Bounds]) -> None:
    """Tighten the parts of *node*: together they are its entries, but for those of its strays."""
    total = evidence.grew(node, *ENTRIES)
    mine = [(flow, node) for flow in courses if node in (flow.opener, flow.acceptor)]
    strays = 2 * _strays(evidence, node)  # it has both their ends
    for part in mine:
        others = [parts[one] for one in mine if one != part]
        least = total - strays - sum(one.most for one in others)
        most = total - sum(one.least for one in others)
        parts[part] = _tightened(parts[part], least, most)


def _pair(flow: Flow, course: _Course, parts: dict[_Part, Bounds]) -> None:
    """Tighten the two ends of a flow: a connection that ended without a RST has an entry on at least one of them."""
    for one, other in ((flow.opener, flow.acceptor), (flow.acceptor, flow.opener)):
        least = course.ended.least - course.aborts - parts[flow, other].most
        parts[flow, one] = _tightened(parts[flow, one], least, course.ended.most)


def _tightened(bounds: Bounds, least: int, most: int) -> Bounds:
    """Both bounds together; where they contradict each other the record is not to be trusted that far."""
    low, high = max(bounds.least, least, 0), min(bounds.most, max(most, 0))
    return Bounds(low, high) if low <= high else bounds


def _ends(flow: Flow, course: _Course, parts: dict[_Part, Bounds]) -> Ends:
    """A flow's four counts, by opener + by acceptor - simultaneous + reset = ended."""
    one, other, ended, aborts = parts[flow, flow.opener], parts[flow, flow.acceptor], course.ended, course.aborts
    both_least = max(one.least + other.least - ended.most, 0)
    both_most = max(min(one.most, other.most, one.most + other.most + aborts - ended.least), both_least)
    none_least = max(ended.least - one.most - other.most, 0)
    none_most = min(max(aborts, none_least), ended.most - max(one.least, other.least))
    none_most = max(min(none_most, ended.most - one.least - other.least + both_most), none_least)
    return Ends(course.opened, one, other, Bounds(both_least, both_most), Bounds(none_least, none_most), course.open)
