"""The port budget in words: for a tired engineer, and as JSON.

rich takes a while to import and JSON needs none of it, so it is imported where a table is drawn.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from errno import errorcode
from typing import TYPE_CHECKING, Any

from netns_tw.model.budget import Budget, PortChoice
from netns_tw.model.ports import MAX_PORT, Bounds

if TYPE_CHECKING:
    from rich.console import RenderableType

FORMAT = 1
FIRST_UNPRIVILEGED_PORT = 1024
CHOICES = {
    PortChoice.CONNECT: "connect() chooses the port",
    PortChoice.BIND: "bind() takes the port",
    PortChoice.BIND_NO_PORT: "connect() chooses the port after bind()",
}


def _number(value: Bounds | int) -> str:
    """A whole number or its bounds, thousands apart."""
    if isinstance(value, int):
        return f"{value:,}"
    if value.is_exact:
        return f"{value.least:,}"
    return f"{value.least:,} {'or' if value.most - value.least == 1 else 'to'} {value.most:,}"


def _rounded(value: float, is_up: bool = False) -> str:
    """A finite number from 0 up in three digits, rounded down, or up: to the safe side."""
    if value == 0:
        return "0"
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    digits = round(value / step, 6)  # 333.9999999 is 334: a float's dust must not cost a digit
    whole = (math.ceil(digits) if is_up else math.floor(digits)) * step
    return f"{whole:,.0f}" if whole >= 100 else f"{whole:.3g}"


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def _rate(rate: float) -> str:
    return f"{rate:,.15g}/s"


def _seconds(found: float) -> str:
    return f"{found:.2g}" if found < 10 else f"{found:,.0f}"


def _ports_range(ends: tuple[int, int]) -> str:
    return f"{ends[0]}-{ends[1]}"


def notes(found: Budget) -> list[str]:
    """One sentence for each number that is not what its range suggests, or not exact, and why."""
    return [*_about_ports(found), *_about_life(found)]


def _about_ports(found: Budget) -> list[str]:
    low, high = found.searched
    width = high - low + 1
    is_bind = found.choice is PortChoice.BIND
    call = "bind()" if is_bind else "connect()"
    lines = []
    if found.range_option and not {*found.range_option} <= {low, high}:
        outside = (low, high) == (found.low, found.high)
        narrowed = "so it narrows nothing" if outside else f"so {low}-{high} is searched"
        given = f"{_ports_range(found.range_option)} is not all inside {found.low}-{found.high}"
        lines.append(f"IP_LOCAL_PORT_RANGE {given}: an end outside does not count, {narrowed}.")
    if width % 2 and width > 1 and (is_bind or not found.range_option):
        if width == 3:
            lines.append(f"{call} rounds the width 3 down to even and never tries the last port, {high}.")
        elif not found.ports.is_exact:
            again = "; a second try may find it" if is_bind else ""
            chance = f"by the kernel's chance {low} or {high} may stay hidden{again}. An even width is exact."
            lines.append(f"{call} rounds the width {width} down to even: {chance}")
    if is_bind and found.destinations > 1:
        count = _plural(found.destinations, "destination")
        cure = "IP_BIND_ADDRESS_NO_PORT would leave it to connect()"
        lines.append(f"bind() takes a port for every destination, so {count} carry no more than one; {cure}.")
    return lines


def _about_life(found: Budget) -> list[str]:
    low_ms, high_ms = found.life_ms
    longer = "how long a connection is open comes on top"
    lines = []
    if found.reuses:
        old = f"more than {low_ms:,.0f} ms old, at the latest when it is {high_ms:,.0f} ms old"
        lines.append(f"connect() takes over a TIME_WAIT that is {old}; {longer}.")
    else:
        steps = "by the steps of the kernel's timer wheel, 2.05 s at HZ=250 and 5.12 s at HZ=100"
        lines.append(f"A TIME_WAIT lasts {low_ms / 1000:.1f} to {high_ms / 1000:.1f} s, {steps}; {longer}.")
    if found.tw_reuse and not found.reuses:
        lines.append(f"tcp_tw_reuse={found.tw_reuse} adds nothing: {_why_no_reuse(found)}.")
    if found.is_capped_at(found.capacity.most):
        beyond = "what is closed beyond it skips TIME_WAIT, and a late peer is reset"
        lines.append(f"tcp_max_tw_buckets={found.max_tw_buckets} is below the capacity: {beyond}.")
    return lines


def _why_no_reuse(found: Budget) -> str:
    if not found.has_timestamps:
        return "it needs timestamps on both ends"
    if found.choice is PortChoice.BIND:
        return "it acts in connect(), and here bind() takes the port"
    return "2, the default, is for loopback addresses only"


def sentences(found: Budget, rate: float | None) -> list[str]:
    """What to expect at *rate* connections per second, and what would carry it."""
    call, name = found.failure
    text = os.strerror({word: code for code, word in errorcode.items()}[name])
    fails = f"{call}() fails with {name} ({text})"
    is_any = math.isinf(found.safe_rate)
    safe = "Safe: any rate, as far as TIME_WAIT goes." if is_any else f"Safe: up to {_rounded(found.safe_rate)}/s."
    better = replace(found, tw_reuse=1)
    if better.reuses and not found.reuses and not is_any:
        safe += f" With tcp_tw_reuse=1 and a delay of {found.delay_ms:,} ms: up to {_rounded(better.safe_rate)}/s."
    if rate is None:
        return [f"When no port is left, {fails}.", safe]
    earliest, latest = found.exhaustion(rate)
    if earliest is None:
        return [f"At {_rate(rate)} the ports never run out.", safe]
    when = _when(earliest, latest)
    if latest is None:
        return [f"At {_rate(rate)} the ports last {when}, by the length of a TIME_WAIT; then {fails}.", safe]
    goes_on = f"and about {_rounded(found.exhausting_rate)}/s get through"
    return [f"At {_rate(rate)} the ports last {when}; then {fails}, {goes_on}.", safe, _cure(found, rate)]


def _when(earliest: float | None, latest: float | None) -> str:
    """Two bounds of a time as one text."""
    if earliest is None:
        return "for ever"
    first = _seconds(earliest)
    if latest is None:
        return f"{first} s or for ever"
    return f"{first} s" if first == _seconds(latest) else f"{first} to {_seconds(latest)} s"


def _cure(found: Budget, rate: float) -> str:
    """What would carry *rate* in the same way."""
    needed = found.ports_for(rate)
    most = MAX_PORT - FIRST_UNPRIVILEGED_PORT + 1
    pair = "source" if found.choice is PortChoice.BIND else "source and destination"
    if needed <= most:
        each = f" for each {pair}" if found.pairs > 1 else ""
        return f"{_rate(rate)} without end takes {needed:,} usable ports{each}, or connections that are kept alive."
    pairs = _plural(math.ceil(found.pairs * needed / most), f"{pair} pair" if " " in pair else pair)
    return f"{_rate(rate)} without end takes {pairs} with {most:,} ports each, or connections that are kept alive."


def rows(found: Budget, rate: float | None) -> list[tuple[str, str]]:
    """The table: what, and how much of it."""
    low, high = found.searched
    life = f"{found.life_ms[0]:,.0f} ms of tcp_tw_reuse_delay" if found.reuses else "60 s of TIME_WAIT"
    lines = [
        ("usable ports", f"{_number(found.ports)} of the {high - low + 1:,} in {low}-{high}"),
        ("capacity", f"{_number(found.capacity)} connections in {life}"),
    ]
    if found.requests_per_connection > 1:
        each = f"{found.requests_per_connection:,} a connection"
        lines.append(("requests", f"{_number(found.capacity_requests)} in that time, {each}"))
    safe, exhausting = found.safe_rate, found.exhausting_rate
    lines += [
        ("never runs out up to", "any rate" if math.isinf(safe) else f"{_rounded(safe)}/s"),
        ("surely runs out from", "no rate" if math.isinf(exhausting) else f"{_rounded(exhausting, is_up=True)}/s"),
    ]
    if rate is not None:
        lines.append((f"lasts at {_rate(rate)}", _when(*found.exhaustion(rate))))
    lines.append(("then fails", f"{found.failure.call}(): {found.failure.errno}"))
    return lines


def _title(found: Budget, node: str | None) -> str:
    ends = f"{_plural(found.sources, 'source')}, {_plural(found.destinations, 'destination')}"
    return f"{node or 'port budget'}: {ends}, this side closes first, {CHOICES[found.choice]}"


def as_text(found: Budget, rate: float | None, node: str | None) -> RenderableType:
    """A small table and a few sentences."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from netns_tw.report.console import plain

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(style="bold")
    for what, how_much in rows(found, rate):
        table.add_row(plain(what), plain(how_much))
    said = [plain(line) for line in sentences(found, rate)]
    why = [plain(f"note: {line}", "dim") for line in notes(found)]
    return Group(plain(_title(found, node), "bold"), table, *said, Text(""), *why)


def as_json(found: Budget, rate: float | None, node: str | None) -> str:
    """The same as JSON; null stands for "never" and for a rate without bound."""
    earliest, latest = found.exhaustion(rate) if rate is not None else (None, None)
    answer: dict[str, Any] = {
        "format": FORMAT,
        "node": node,
        "range": [found.low, found.high],
        "searched": list(found.searched),
        "taken": sorted(port for port in found.taken if found.low <= port <= found.high),
        "sources": found.sources,
        "destinations": found.destinations,
        "port_choice": found.choice.value,
        "tw_reuse": found.tw_reuse,
        "tw_reuse_acts": found.reuses,
        "delay_ms": found.delay_ms,
        "timestamps": found.has_timestamps,
        "usable_ports": _bounds(found.ports),
        "capacity": _bounds(found.capacity),
        "capacity_requests": _bounds(found.capacity_requests),
        "life_ms": dict(zip(("least", "most"), found.life_ms, strict=True)),
        "safe_rate": _finite(found.safe_rate),
        "exhausting_rate": _finite(found.exhausting_rate),
        "rate": rate,
        "exhaustion_s": {"earliest": earliest, "latest": latest},
        "fails": {"call": found.failure.call, "errno": found.failure.errno},
        "notes": notes(found),
    }
    return json.dumps(answer, indent=2)


def _bounds(found: Bounds) -> dict[str, int]:
    return {"least": found.least, "most": found.most}


def _finite(rate: float) -> float | None:
    return None if math.isinf(rate) else rate
