"""What went wrong for another reason than ports: packets lost, nobody there, an LB that hides the errno."""

from __future__ import annotations

from collections.abc import Iterator

from netns_tw.evidence.case import Case, Explanation, plural


def no_live_upstreams(case: Case) -> Iterator[Explanation]:
    """nginx took its own lack of ports for a fault of its upstreams."""
    for node in case.topology.nodes:
        lines, named = case.log(node, "no live upstreams"), case.log(node, "(99: ")
        if lines and named:
            text = (
                f"{node} answered {plural(lines, 'request')} without trying: it counts its own lack of ports as a"
                f" fault of its upstreams and marks them down (max_fails); max_fails=0 keeps errno 99 visible"
            )
            proof = f"{plural(lines, 'line')} 'no live upstreams' and {named} with errno 99 in the log of {node}"
            yield Explanation("no-live-upstreams", text, proof)


def retransmitted(case: Case) -> Iterator[Explanation]:
    """A SYN that had to be sent again costs a second, as a rule (after a RST out of TIME_WAIT it is sooner)."""
    for node in case.topology.nodes:
        count = case.grew(node, "TcpExtTCPSynRetrans")
        if count:
            slow = sum(one.took_ms >= 1000 for one in case.record.responses)
            text = (
                f"{node} had to send {plural(count, 'SYN')} again, which takes it a second as a rule:"
                f" {plural(slow, 'request')} took 1 s or longer, and that is not their normal speed"
            )
            yield Explanation("syn-retransmitted", text, f"TCPSynRetrans +{count} on {node}")


def backlog(case: Case) -> Iterator[Explanation]:
    """A listener's queue was full."""
    for node in case.topology.nodes:
        count = case.grew(node, "TcpExtListenOverflows")
        if count:
            text = (
                f"{node} had no room in a listener's queue {plural(count, 'time')} and dropped what came (somaxconn,"
                f" backlog); the client sends it again, a second later at the soonest"
            )
            yield Explanation("listener-full", text, f"ListenOverflows +{count} on {node}")


def stale_timestamps(case: Case) -> Iterator[Explanation]:
    """Packets that the acceptor's TIME_WAIT took for old duplicates, new SYNs as a rule."""
    for node in case.topology.nodes:
        count = case.grew(node, "TcpExtPAWSTimewait")
        if count:
            text = (
                f"{node} rejected {plural(count, 'packet')} for a timestamp older than that of its TIME_WAIT entry,"
                f" as happens to SYNs behind a NAT; the client sends them again (until it gives up, if tcp_rfc1337 = 1)"
            )
            yield Explanation("timestamp-went-back", text, f"PAWSTimewait +{count} on {node}")


def nobody_listens(case: Case) -> Iterator[Explanation]:
    """The address was there, the port was not."""
    for number, step in enumerate(case.experiment.steps):
        count = sum(one.errno == "ECONNREFUSED" for one in case.record.responses_of(number))
        fails = case.grew(step.node, "TcpAttemptFails")
        if count and fails:
            text = f"{plural(count, 'request')} of step {step.name!r} were refused: nothing listens at {step.url}"
            yield Explanation("nobody-listens", text, f"AttemptFails +{fails} on {step.node}")


RULES = (no_live_upstreams, retransmitted, backlog, stale_timestamps, nobody_listens)
