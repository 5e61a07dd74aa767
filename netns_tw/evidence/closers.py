"""Who closed first, per step and link: from TIME_WAIT entries and counters of both ends, or exactly, from a capture.

The active closer, who sends the first FIN, ends in TIME_WAIT (RFC 9293, section 3.6); where both FINs cross, both
ends do (CLOSING). So with a and b the entries into TIME_WAIT of a flow's two ends

    a + b = connections that ended with FIN + simultaneous closes

Entries are counted, not only seen. ``TcpExtTW`` grows by one as a socket enters (tcp_time_wait, also for an orphan in
FIN_WAIT2, which enters once), ``TcpExtTCPTimeWaitOverflow`` where tcp_max_tw_buckets forbade the entry. A node that
only opens, or only accepts from one peer, thus has its count exactly. A node with both roles (an LB) has one counter
for both; but of its outgoing side every entry is either still there, or was replaced by its own connect(), which
``TcpExtTWRecycled`` counts, or has expired. What its own side does not explain, the accepting side did, whose entries
may be gone without a trace: a new SYN replaces them and no counter says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netns_tw.evidence.traffic import ABORTS, OPEN, Flow, StepEvidence
from netns_tw.model.ports import Bounds
from netns_tw.model.record import Captured, Record
from netns_tw.model.topology import Topology

_ENTRIES = ("TcpExtTW", "TcpExtTCPTimeWaitOverflow")
_TIME_WAIT = frozenset(("time-wait",))


@dataclass(frozen=True)
class Closes:
    """How the connections of one flow ended in one step."""

    step: int
    link: str
    """``lb:eth1 -- backend:eth0``."""
    opener: str
    acceptor: str
    opened: int
    by_opener: Bounds
    """Closed first by the opener; simultaneous closes count here and there."""
    by_acceptor: Bounds
    simultaneous: Bounds
    reset: Bounds
    """Ended without a FIN of both sides."""
    open: int
    """Not ended yet when the step was over."""
    proof: str
    """The counters that say so, in words."""
    source: str = "counters"
    """``counters`` or ``capture``."""

    @property
    def is_exact(self) -> bool:
        return all(one.is_exact for one in (self.by_opener, self.by_acceptor, self.simultaneous, self.reset))


def closes(record: Record, topology: Topology, step: int) -> list[Closes]:
    """How the connections of each flow of *step* ended; a captured link's exactly. Empty if the step is not whole."""
    try:
        evidence = StepEvidence(record, topology, step)
    except KeyError:
        return []
    flows = evidence.flows()
    found = []
    for flow in flows:
        capture = next((one for one in record.captured if one.link == flow.name and not one.dropped), None)
        counted = _counted(evidence, flows, flow, step)
        found.append(_captured(record, capture, counted) if capture else counted)
    return found


def _counted(evidence: StepEvidence, flows: Sequence[Flow], flow: Flow, step: int) -> Closes:
    opener, acceptor = flow.opener, flow.acceptor
    opened = _opened(evidence, flows, flow)
    ended, still_open = _ended(evidence, flow, opened)
    by_opener = _by_opener(evidence, flows, flow)
    by_acceptor = _by_acceptor(evidence, flows, flow, ended, by_opener)
    aborts = evidence.grew(opener, *ABORTS) + evidence.grew(acceptor, *ABORTS)
    surplus = by_opener + by_acceptor - Bounds.exactly(ended)
    both = surplus.not_below(0)
    reset = (Bounds.exactly(0) - surplus).not_below(0)
    if aborts:  # a reset and a simultaneous close hide each other in the sum
        both = Bounds(both.least, min(both.most + aborts, ended))
        reset = Bounds(reset.least, min(reset.most + aborts, ended))
    return Closes(
        step, flow.name, opener, acceptor, opened, by_opener, by_acceptor, both, reset, still_open,
        _proof(evidence, opener, acceptor),
    )  # fmt: skip


def _opened(evidence: StepEvidence, flows: Sequence[Flow], flow: Flow) -> int:
    """Connections that were opened: by the opener's count, or the acceptor's where the opener has several peers."""
    opened = evidence.grew(flow.opener, "TcpActiveOpens") - evidence.grew(flow.opener, "TcpAttemptFails")
    if sum(one.opener == flow.opener for one in flows) == 1:
        return max(opened, 0)
    return min(max(opened, 0), evidence.grew(flow.acceptor, "TcpPassiveOpens"))


def _ended(evidence: StepEvidence, flow: Flow, opened: int) -> tuple[int, int]:
    """How many connections ended in this step, and how many are still open."""
    there = flow.addresses(flow.acceptor)
    before, after = (
        len(evidence.rows(one[flow.opener], there, None, OPEN)) for one in (evidence.before, evidence.after)
    )
    return max(opened + before - after, 0), after


def _by_opener(evidence: StepEvidence, flows: Sequence[Flow], flow: Flow) -> Bounds:
    node = flow.opener
    entries = evidence.grew(node, *_ENTRIES)
    peers = sum(one.opener == node for one in flows)
    if peers == 1 and not any(one.acceptor == node for one in flows):
        return Bounds.exactly(entries)
    there = flow.addresses(flow.acceptor)
    before, after = (evidence.rows(one[node], there, None, _TIME_WAIT) for one in (evidence.before, evidence.after))
    recycled = evidence.grew(node, "TcpExtTWRecycled")
    overflow = evidence.grew(node, "TcpExtTCPTimeWaitOverflow")
    lasted = evidence.lasted_ms(node)
    expired = sum(row[5] <= lasted for row in before)
    seen = len(after) - len(before)
    unsure = overflow + (expired if peers == 1 else expired + recycled)
    if lasted >= 60_000:  # some may have come and gone
        unsure = entries
    least = max(seen + (recycled if peers == 1 else 0), 0)
    return Bounds(min(least, entries), min(least + unsure, entries))


def _by_acceptor(evidence: StepEvidence, flows: Sequence[Flow], flow: Flow, ended: int, by_opener: Bounds) -> Bounds:
    node = flow.acceptor
    total = Bounds.exactly(evidence.grew(node, *_ENTRIES))
    for one in flows:
        if one.opener == node:
            total = total - _by_opener(evidence, flows, one)
    total = total.not_below(0)
    others = [one for one in flows if one.acceptor == node and one != flow]
    if not others:
        return total
    least = max(ended - by_opener.most - evidence.grew(flow.opener, *ABORTS), 0)
    taken = sum(_least_by_acceptor(evidence, flows, one) for one in others)
    return Bounds(min(least, total.most), max(min(total.most - taken, ended), min(least, total.most)))


def _least_by_acceptor(evidence: StepEvidence, flows: Sequence[Flow], flow: Flow) -> int:
    ended, _ = _ended(evidence, flow, _opened(evidence, flows, flow))
    most = _by_opener(evidence, flows, flow).most
    return max(ended - most - evidence.grew(flow.opener, *ABORTS), 0)


def _proof(evidence: StepEvidence, opener: str, acceptor: str) -> str:
    words = []
    for node in (opener, acceptor):
        for short in ("TW", "TWRecycled", "TCPTimeWaitOverflow"):
            number = evidence.grew(node, f"TcpExt{short}")
            if number or short == "TW":
                words.append(f"{short} +{number} on {node}")
    return ", ".join(words)


def _captured(record: Record, capture: Captured, counted: Closes) -> Closes:
    """The same flow by its capture: the connections whose SYN lies in the step."""
    begin = record.steps[counted.step].began_ms if counted.step else float("-inf")
    following = record.steps.get(counted.step + 1)
    end = following.began_ms if following else float("inf")
    hows = [how for *_, at, how in capture.closes if begin <= at < end]
    both = hows.count("both")
    tally = {how: Bounds.exactly(hows.count(how)) for how in ("opener", "acceptor", "reset")}
    return Closes(
        counted.step, counted.link, counted.opener, counted.acceptor, len(hows) - hows.count("refused"),
        tally["opener"] + Bounds.exactly(both), tally["acceptor"] + Bounds.exactly(both), Bounds.exactly(both),
        tally["reset"], hows.count("open"),
        f"the order of FINs in a capture of {capture.packets} packets, none dropped; {counted.proof}", "capture",
    )  # fmt: skip
