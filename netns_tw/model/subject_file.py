"""What an expectation, a premise or a measure of a claim's file counts: one subject, of one of six kinds."""

from __future__ import annotations

import errno
import ipaddress
import re
import warnings

from netns_tw.errors import near_match
from netns_tw.model.experiment import ConnectTime, Counter, Log, Responses, Sockets, Subject, Value
from netns_tw.model.reader import Table, shown
from netns_tw.model.topology import Topology
from netns_tw.model.topology_file import listen_at
from netns_tw.rules import TCP_STATES

SUBJECTS = ("responses", "sockets", "counter", "log", "connect_us", "value")
CALLS = ("socket", "setsockopt", "bind", "connect", "accept", "send", "recv")
"""What a client may name as the call that failed."""
ERRNOS = frozenset(errno.errorcode.values())


def subject_in(table: Table, lab: Topology) -> Subject | None:
    """Read the one subject in *table*; None where it is none."""
    given = [key for key in SUBJECTS if table.has(key)]
    if len(given) != 1:
        table.problem("", f"must have exactly one of {', '.join(SUBJECTS)}; it has {', '.join(given) or 'none'}")
    subject: Subject | None = None
    for key in given:
        if key == "value":
            subject = Value(table.text("value"))
        elif (inner := table.table(key)) is not None:
            subject = _READERS[key](inner, lab)
            inner.end()
    return subject


def _responses(table: Table, _lab: Topology) -> Subject:
    name = table.value("errno", str)
    if name is not None and name not in ERRNOS:
        table.problem("errno", f"no errno is called {name!r}{near_match(name, ERRNOS)}")
    return Responses(
        status=table.optional_number("status", 100, 599),
        ok=table.value("ok", bool),
        errno=name,
        call=table.choice("call", CALLS, "") or None,
        after_first_failure=table.value("after_first_failure", bool, False) or False,
    )


def _sockets(table: Table, lab: Topology) -> Subject:
    remote = table.value("remote", str)
    if remote is not None:
        try:
            remote = _remote(remote)
        except ValueError:
            table.problem("remote", f"must be ADDRESS or ADDRESS:PORT, not {shown(remote)}")
    node = table.choice("node", lab.nodes.keys())
    state = table.choice("state", TCP_STATES.values())
    return Sockets(node, state, remote, table.optional_number("local_port", 1, 65535))


def _remote(text: str) -> str:
    """An address or ``ADDRESS:PORT`` in the one spelling that is compared."""
    has_port = text.startswith("[") or text.count(":") == 1
    if has_port and not text.endswith("\n"):
        return str(listen_at(text))
    return str(ipaddress.ip_address(text))


def _counter(table: Table, lab: Topology) -> Subject:
    name = table.text("name")
    is_counter = name.startswith("Tcp") and "A" <= name[3:4] <= "Z" and name.replace("_", "").isalnum()
    if name and not is_counter:
        table.problem("name", f"must be nstat's name of a TCP counter, such as 'TcpExtTWRecycled', not {name!r}")
    return Counter(table.choice("node", lab.nodes.keys()), name)


def _log(table: Table, lab: Topology) -> Subject:
    pattern = table.text("pattern")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "possible nested set": what it means is not certain
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        table.problem("pattern", f"not a regular expression: {error}")
    return Log(table.choice("node", lab.nodes.keys()), pattern)


def _connect_us(table: Table, _lab: Topology) -> Subject:
    first, last = table.number("from", 0, 0, 100), table.number("to", 100, 0, 100)
    if first >= last:
        table.problem("from", "must be below to; both are per cent of the step's connections")
    return ConnectTime(first, last)


_READERS = {
    "responses": _responses,
    "sockets": _sockets,
    "counter": _counter,
    "log": _log,
    "connect_us": _connect_us,
}
