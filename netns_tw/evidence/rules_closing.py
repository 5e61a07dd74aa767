"""Who closed first and what became of the TIME_WAIT entries, where that is the story."""

from __future__ import annotations

from collections.abc import Iterator

from netns_tw.evidence.case import Case, Explanation, plural
from netns_tw.evidence.traffic import TIME_WAIT_MS

KEPT_FROM = 2
"""Requests per connection from which connections are said to be kept alive."""


def acceptor_closed(case: Case) -> Iterator[Explanation]:
    """The acceptor closed everything first, so the opener loses no port."""
    for (_, opener, acceptor), steps in case.flows.items():
        theirs, ours = sum(one.by_acceptor.least for one in steps), sum(one.by_opener.most for one in steps)
        if theirs and not ours and case.grew(acceptor, "TcpExtTW", "TcpExtTCPTimeWaitOverflow"):
            text = (
                f"{acceptor} closed {_all(theirs, 'connection')} from {opener} first, so TIME_WAIT stands on {acceptor}"
                f" and costs {opener} no port: a server's entries differ by the client's port, not its own"
            )
            yield Explanation("acceptor-closed-first", text, _proof(case, opener, acceptor))


def race(case: Case) -> Iterator[Explanation]:
    """Both ends close when the response is complete; who is first differs from connection to connection."""
    for (_, opener, acceptor), steps in case.flows.items():
        ours, theirs = sum(one.by_opener.least for one in steps), sum(one.by_acceptor.least for one in steps)
        both = sum(one.simultaneous.least for one in steps)
        if not ours or not theirs:
            continue
        crossed = f", {both} of them at once from both ends" if both else ""
        text = (
            f"who closes first is a race: {opener} did {plural(ours, 'time')}, {acceptor} {theirs}{crossed};"
            f" only the first kind costs {opener} a port"
        )
        yield Explanation("close-race", text, _proof(case, opener, acceptor))


def replaced(case: Case) -> Iterator[Explanation]:
    """Entries on the acceptor that a new SYN of the same 4-tuple replaced."""
    lasted = max((one.at_ms for one in case.record.snapshots.values()), default=0.0)
    for acceptor in sorted({one.acceptor for one in case.closes}):
        if any(one.opener == acceptor for one in case.closes) or lasted >= TIME_WAIT_MS:
            continue
        entered = case.grew(acceptor, "TcpExtTW")
        there = case.count(acceptor, "time-wait") + case.count(acceptor, "fin-wait-2")
        if entered > there:
            left = f"only {there} {'is' if there == 1 else 'are'}" if there else "none is"
            text = (
                f"of {entered} TIME_WAIT entries on {acceptor} {left} left, and none was 60 s old: a new SYN"
                f" from the same client port replaces the old entry (RFC 6191, tcp_timewait_state_process)"
            )
            yield Explanation(
                "syn-replaced-time-wait", text, f"TW +{entered} on {acceptor}, {there} sockets in TIME_WAIT"
            )


def buckets(case: Case) -> Iterator[Explanation]:
    """tcp_max_tw_buckets cut TIME_WAIT short."""
    for node in case.topology.nodes:
        over = case.grew(node, "TcpExtTCPTimeWaitOverflow")
        if over:
            limit = case.sysctl(node, "net.ipv4.tcp_max_tw_buckets")
            text = (
                f"{plural(over, 'connection')} that {node} closed first got no TIME_WAIT: tcp_max_tw_buckets = {limit}"
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
        if opener in refused and ok % opened == 0 and sum(one.by_opener.least for one in steps) == opened:
            text = (
                f"{opener} closed each of its {plural(opened, 'connection')} to {acceptor} itself after"
                f" {ok // opened} requests, so keep-alive was a budget: ports times requests per connection"
            )
            yield Explanation("keepalive-is-a-budget", text, f"{ok} successes; {_proof(case, opener, acceptor)}")
        else:
            text = (
                f"{plural(ok, 'request')} went over {plural(opened, 'connection')} from {opener} to {acceptor}:"
                f" connections that are kept open cost a port each, not one per request"
            )
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
            yield Explanation("reset", text, proof)


def _all(number: int, noun: str) -> str:
    return f"the {noun}" if number == 1 else f"all {number} {noun}s"


def _proof(case: Case, opener: str, acceptor: str) -> str:
    words = []
    for node in (opener, acceptor):
        for short in ("TW", "TWRecycled", "TCPTimeWaitOverflow"):
            number = case.grew(node, f"TcpExt{short}")
            if number or short == "TW":
                words.append(f"{short} +{number} on {node}")
    return ", ".join(words)


RULES = (acceptor_closed, race, replaced, buckets, kept_alive, resets)
