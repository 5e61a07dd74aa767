"""Who closed first and what became of the TIME_WAIT entries, where that is the story."""

from __future__ import annotations

from collections.abc import Iterator

from netns_tw.evidence.case import Case, Explanation, plural, total
from netns_tw.evidence.counting import ENTRIES, FIN_TIMEOUT, OVERFLOW
from netns_tw.evidence.traffic import TIME_WAIT
from netns_tw.model.budget import TIME_WAIT_MS
from netns_tw.model.lines import BEFORE
from netns_tw.model.ports import Bounds

FEW = 3
"""Openers that are told of one by one."""
KEPT_FROM = 2
"""Requests per connection from which connections are said to be kept alive."""


def acceptor_closed(case: Case) -> Iterator[Explanation]:
    """The acceptor closed first and the opener never did, so the opener loses no port."""
    many = _closed_for_many(case)
    for acceptor, openers in many.items():
        count = sum(one.by_acceptor.least for one in case.closes if one.acceptor == acceptor)
        text = (
            f"{acceptor} closed all {count} connections from {len(openers)} nodes first, and they none, so TIME_WAIT is"
            f" on the side of {acceptor} and costs them no port: a server's entries differ by the client's address and"
            " port, not its own"
        )
        proof = ", ".join(f"TW +{case.grew(one, 'TcpExtTW')} on {one}" for one in (*openers, acceptor))
        yield Explanation("acceptor-closed-first", text, proof)
    for (_, opener, acceptor), steps in case.flows.items():
        theirs, ours = total(one.by_acceptor for one in steps), total(one.by_opener for one in steps)
        if acceptor in many or not theirs.least or ours.most or not case.grew(acceptor, *ENTRIES):
            continue
        opened = sum(one.opened for one in steps)
        which = _connections(theirs, opened) if theirs.is_exact else f"at least {plural(theirs.least, 'connection')}"
        text = (
            f"{acceptor} closed {which} from {opener} first, and {opener} none, so TIME_WAIT is on the side of"
            f" {acceptor} and costs {opener} no port: a server's entries differ by the client's port, not its own"
        )
        yield Explanation("acceptor-closed-first", text, _proof(case, opener, acceptor))


def _closed_for_many(case: Case) -> dict[str, list[str]]:
    """Acceptors that closed every connection of more than FEW openers first, and these openers."""
    found: dict[str, list[str]] = {}
    for acceptor in sorted({one.acceptor for one in case.closes}):
        mine = [one for one in case.closes if one.acceptor == acceptor]
        is_all = all(one.by_acceptor == Bounds.exactly(one.opened) and not one.by_opener.most for one in mine)
        openers = sorted({one.opener for one in mine})
        if len(openers) > FEW and is_all and case.grew(acceptor, *ENTRIES):
            found[acceptor] = openers
    return found


def race(case: Case) -> Iterator[Explanation]:
    """Both ends close when the response is complete; who is first differs from connection to connection."""
    for (_, opener, acceptor), steps in case.flows.items():
        ours, theirs = total(one.by_opener for one in steps), total(one.by_acceptor for one in steps)
        both = total(one.simultaneous for one in steps)
        if not ours.least or not theirs.least:
            continue
        crossed = f", {both} of them at once from both ends" if both.least else ""
        unit = "time" if ours == Bounds.exactly(1) else "times"
        text = (
            f"who closed first differed from connection to connection: {opener} did {ours} {unit}, {acceptor}"
            f" {theirs}{crossed}; only a connection that {opener} closes first costs it a port"
        )
        yield Explanation("close-race", text, _proof(case, opener, acceptor))


def replaced(case: Case) -> Iterator[Explanation]:
    """Entries on the acceptor that a new SYN of the same 4-tuple replaced."""
    lasted = max((one.at_ms for one in case.record.snapshots.values()), default=0.0)
    for acceptor in sorted({one.acceptor for one in case.closes}):
        openers = {one.opener for one in case.closes if one.acceptor == acceptor}
        is_short = case.topology.nodes[acceptor].sysctls.get(FIN_TIMEOUT, "60") != "60"
        if any(one.opener == acceptor for one in case.closes) or lasted >= TIME_WAIT_MS or is_short:
            continue
        before = {row[1:5] for row in case.rows(acceptor, BEFORE, TIME_WAIT, "fin-wait-2")}
        left = [row for row in case.rows(acceptor, case.last_step, TIME_WAIT, "fin-wait-2") if row[1:5] not in before]
        entered, there = case.grew(acceptor, "TcpExtTW"), len(left)
        snapshot = case.record.snapshots.get((case.last_step, acceptor))
        if snapshot and snapshot.kinds:  # more than are listed
            there = case.count(acceptor, case.last_step, TIME_WAIT, "fin-wait-2") - len(before)
        by_rst = sum(case.grew(one, "TcpOutRsts") for one in openers)  # a RST ends an entry too
        if 0 < entered - there - by_rst <= case.grew(acceptor, "TcpPassiveOpens"):
            rest = f"only {there} {'is' if there == 1 else 'are'}" if there else "none is"
            text = (
                f"of {entered} TIME_WAIT entries on {acceptor} {rest} left, and none was 60 s old: a new SYN"
                f" from the same client port replaces the old entry (RFC 6191, tcp_timewait_state_process)"
            )
            proof = f"TW +{entered} on {acceptor}, {plural(there, 'socket')} in TIME_WAIT"
            yield Explanation("syn-replaced-time-wait", text, proof)


def buckets(case: Case) -> Iterator[Explanation]:
    """tcp_max_tw_buckets cut TIME_WAIT short."""
    for node in case.topology.nodes:
        over = case.grew(node, OVERFLOW)
        if over > 0:
            limit = case.sysctl(node, "net.ipv4.tcp_max_tw_buckets")
            was = "" if limit is None else f" = {limit}"
            text = (
                f"{plural(over, 'connection')} that {node} closed first got no TIME_WAIT: tcp_max_tw_buckets{was}"
                f" was reached; a late packet of theirs is answered with RST, so raise the limit rather than lower it"
            )
            yield Explanation("buckets-full", text, f"TCPTimeWaitOverflow +{over} on {node}")


def kept_alive(case: Case) -> Iterator[Explanation]:
    """Few connections carried many requests; and where each was closed by its opener, that is a budget too."""
    refused = {one.node for one in case.refusals}
    for (_, opener, acceptor), steps in case.flows.items():
        ok = case.ok_over(opener)
        opened = sum(one.opened for one in steps)
        if not opened or ok < opened * KEPT_FROM or case.grew(opener, "TcpActiveOpens") != opened:
            continue
        only = f"{plural(ok, 'request')} succeeded while {opener} opened {plural(opened, 'connection')} to {acceptor}"
        if opener in refused and total(one.by_opener for one in steps) == Bounds.exactly(opened):
            text = (
                f"{only}, and closed {_connections(Bounds.exactly(opened), opened)} itself: so keep-alive was a budget,"
                f" of ports times requests per connection"
            )
            yield Explanation("keepalive-is-a-budget", text, _proof(case, opener, acceptor))
        else:
            text = f"{only}: a connection that is kept open costs one port, however many requests it carries"
            accepted = case.grew(acceptor, "TcpPassiveOpens")
            proof = f"ActiveOpens +{opened} on {opener}, PassiveOpens +{accepted} on {acceptor}"
            yield Explanation("kept-alive", text, proof)


def resets(case: Case) -> Iterator[Explanation]:
    """Connections that ended by RST leave no TIME_WAIT anywhere."""
    for (_, opener, acceptor), steps in case.flows.items():
        count = sum(one.reset.least for one in steps)
        sent = {node: case.grew(node, "TcpOutRsts") for node in (opener, acceptor)}
        if count and any(sent.values()):
            text = (
                f"{plural(count, 'connection')} between {opener} and {acceptor} ended by RST:"
                f" no TIME_WAIT on either side, and what was not read yet is lost"
            )
            proof = ", ".join(f"OutRsts +{number} on {node}" for node, number in sent.items() if number)
            yield Explanation("reset", text, f"{proof}; {_proof(case, opener, acceptor)}")


def _connections(closed: Bounds, opened: int) -> str:
    if closed != Bounds.exactly(opened):
        return f"{closed} of {opened} connections" if closed.most < opened else f"{closed} connections"
    return "the only connection" if opened == 1 else "both connections" if opened == 2 else f"all {opened} connections"


def _proof(case: Case, opener: str, acceptor: str) -> str:
    words = []
    for node in (opener, acceptor):
        for short in ("TW", "TWKilled", "TWRecycled", "TCPTimeWaitOverflow"):
            number = case.grew(node, f"TcpExt{short}")
            if number or short == "TW":
                words.append(f"{short} +{number} on {node}")
    return ", ".join(words)


RULES = (acceptor_closed, race, replaced, buckets, kept_alive, resets)
