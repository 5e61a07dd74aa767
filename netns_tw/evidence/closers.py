"""Who closed first, per step and link: from TIME_WAIT entries and counters of both ends, or exactly, from a capture.

The active closer, who sends the first FIN, ends in TIME_WAIT (RFC 9293, section 3.6); where both FINs cross, both
ends do (CLOSING). So with a and b the entries into TIME_WAIT of a flow's two ends

    a + b = connections that ended with FIN + simultaneous closes

Entries are counted, not only seen; evidence/counting.py says how, and what is left open where one node has several
flows, such as an LB with one counter for both its sides.
"""

from __future__ import annotations

from dataclasses import dataclass

from netns_tw.evidence.counting import Ends, counted
from netns_tw.evidence.traffic import OPEN, Flow, StepEvidence
from netns_tw.model.lines import BEFORE, Captured, Close
from netns_tw.model.ports import Bounds
from netns_tw.model.record import Record
from netns_tw.model.topology import Topology


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
    """How the connections of each flow of *step* ended; a captured link's exactly. Empty if the step is not whole.

    Empty too where an opener has more sockets than are listed: which of them are whose cannot be told.
    """
    try:
        evidence = StepEvidence(record, topology, step)
        course = counted(evidence)
    except KeyError:
        return []
    found = []
    for flow, ends in course.items():
        one = Closes(
            step, flow.name, flow.opener, flow.acceptor, ends.opened, ends.by_opener, ends.by_acceptor,
            ends.simultaneous, ends.reset, ends.open, _proof(evidence, ends, flow),
        )  # fmt: skip
        capture = next((each for each in record.captured if each.link == flow.name and not each.dropped), None)
        found.append(_captured(record, topology, capture, one) if capture else one)
    return [one for one in found if one.opened or one.open or one.by_opener.most or one.by_acceptor.most]


def _proof(evidence: StepEvidence, ends: Ends, flow: Flow) -> str:
    words = []
    for node in (flow.opener, flow.acceptor):
        for short in ("TW", "TWKilled", "TWRecycled", "TCPTimeWaitOverflow"):
            number = evidence.grew(node, f"TcpExt{short}")
            if number or short == "TW":
                words.append(f"{short} +{number} on {node}")
    return ", ".join(words)


def _captured(record: Record, topology: Topology, capture: Captured, of: Closes) -> Closes:
    """The same flow by its capture: the connections whose SYN lies in the step, and those that it found open."""
    last = max(of.step - 1, BEFORE)
    begin, end = (record.snapshots[number, of.opener].at_ms for number in (last, of.step))
    mine = [
        one for one in capture.closes
        if one[4] < end
        and topology.owner_of(one[2]) == of.acceptor
        and topology.owner_of(one[0]) in (of.opener, None)  # None: a router put an address of its own
    ]  # fmt: skip
    was_open = _open(record, last, of.opener, mine, begin)
    is_open = _open(record, of.step, of.opener, mine, end)
    found = [one for one in mine if one[4] >= begin or one in was_open]
    hows = [one[5] for one in found if one not in is_open]
    both = Bounds.exactly(hows.count("simultaneous"))
    tally = {how: Bounds.exactly(hows.count(how)) for how in ("opener", "acceptor", "reset")}
    return Closes(
        of.step, of.link, of.opener, of.acceptor, sum(one[4] >= begin and one[5] != "unopened" for one in found),
        tally["opener"] + both, tally["acceptor"] + both, both, tally["reset"], len(is_open) + hows.count("open"),
        f"the order of FINs in a capture of {capture.packets} packets, none dropped; {of.proof}", "capture",
    )  # fmt: skip


def _open(record: Record, step: int, opener: str, found: list[Close], end: float) -> set[Close]:
    """The captured connections that were open after *step*: of each open socket's 4-tuple the last one before *end*."""
    rows = record.snapshots[step, opener].sockets
    tuples = {row[1:5] for row in rows if row[0] in OPEN}
    return set({one[:4]: one for one in found if one[4] < end and one[:4] in tuples}.values())
