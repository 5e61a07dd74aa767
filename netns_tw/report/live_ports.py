"""A node in the live view: what it holds towards each remote, its port budget as a bar, the ports next to be free.

A narrow range is drawn port by port, in order; of a wide one the bar shows the shares, and a share that is there at all
has a cell. Letters carry the meaning (LEGEND), colours only repeat it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from netns_tw.evidence.live import LiveLab
from netns_tw.evidence.live_node import Accepted, Opened, PortRange
from netns_tw.evidence.traffic import ESTABLISHED, TIME_WAIT

Piece = tuple[str, str]
"""Words, and the name of their style."""
Words = list[Piece]
"""One line."""

LEGEND = "T TIME_WAIT  E ESTABLISHED  o other  . free  x unusable"
COLOURS = {"T": "yellow", "E": "green", "o": "cyan", ".": "dim", "x": "dim"}
_LETTERS = {TIME_WAIT: "T", ESTABLISHED: "E"}
BAR_COLUMNS = 44
"""Of a window's columns, what a bar leaves for the words beside it."""
LISTENS = 4
"""Listening ports that are named."""
CELL = 11
"""Columns for a port and what is left to it."""
TAIL = 32
"""Columns for how many more there are."""


def node_lines(lab: LiveLab, name: str, now_ms: float, columns: int, most: int, rows: int) -> Iterator[Words]:
    """A node's sockets by remote, *most* of each kind; of each remote at most *rows* lines of ports."""
    one = lab.nodes[name]
    states = {**one.states, TIME_WAIT: one.time_wait}
    line: Words = [(f"{name:<10}  ", "bold"), (state_words(states) or "no connection", "")]
    if one.listening:
        line.append((f"   listens on {', '.join(map(str, sorted(one.listening)[:LISTENS]))}", "dim"))
    if one.is_stale and one.looked_ms is not None:
        line.append((f"   ports: {(now_ms - one.looked_ms) / 1000:.1f} s ago", "dim"))
    yield line
    remotes = [each.remote for each in one.opened]
    for each in one.opened[:most]:
        origin = f" from {each.local}" if remotes.count(each.remote) > 1 else ""
        yield _opened(lab, name, each, origin, now_ms, columns)
        yield from _ports(each, now_ms, columns, rows)
    for accepted in one.accepted[:most]:
        yield _accepted(accepted, now_ms)
    more = one.left_out + max(len(one.opened) - most, 0) + max(len(one.accepted) - most, 0)
    if more:
        yield [(f"  and {more:,} remotes more", "dim")]


def state_words(states: Mapping[str, int]) -> str:
    """``TIME_WAIT 11, ESTABLISHED 1``: most first."""
    ordered = sorted(states.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{_name(state)} {count:,}" for state, count in ordered if count)


def _name(state: str) -> str:
    return state.upper().replace("-", "_")


def _opened(lab: LiveLab, name: str, one: Opened, origin: str, now_ms: float, columns: int) -> Words:
    """A remote: the budget towards it as a bar, and what is free."""
    budget = lab.nodes[name].budget()
    line: Words = [(f"  to {one.remote}{origin}  ", "")]
    if budget is None:
        return [*line, (state_words(one.states), "")]
    most = max(min(columns - BAR_COLUMNS - len(line[0][0]), 40), 8)
    line += [("[", ""), *_bar(one, budget, most), ("] ", "")]
    free = budget.free(one)
    next_words = f", next in {seconds(one.nearest[0][0], now_ms)}" if one.nearest else ""
    whole = f"{budget.usable.most:,}"
    if free.most:
        line.append((f"{_thousands(str(free))} of {whole} ports free", "bold"))
    else:
        line.append((f"NO FREE PORT of {whole}", "bold red"))
    delay = lab.reuse_delay_ms(name, one.remote.address)
    if delay is not None:
        next_words = f", {one.older_than(delay, now_ms):,} reusable now"
    return [*line, (next_words, "")]


def _thousands(text: str) -> str:
    return " ".join(f"{int(word):,}" if word.isdecimal() else word for word in text.split())


def _bar(one: Opened, budget: PortRange, most: int) -> Words:
    """A letter for each port of a narrow range in order, else the shares of the whole."""
    width = budget.high - budget.low + 1
    if budget.is_narrow and width <= most:
        letters = "".join(_letter(port, one, budget) for port in range(budget.low, budget.high + 1))
        return [(letter, COLOURS[letter]) for letter in letters]
    whole = max(budget.usable.most, 1)
    waiting = one.states.get(TIME_WAIT, 0)
    taken = min(_share(one.held, whole, most), most)
    first = min(_share(min(waiting, one.held), whole, most), taken)
    parts = (("T", first), ("E", taken - first), (".", most - taken))
    return [(letter * count, COLOURS[letter]) for letter, count in parts if count]


def _share(count: int, whole: int, size: int) -> int:
    """How many of *size* cells *count* of *whole* make; at least one, if there is any."""
    return max(size * count // whole, 1) if count else 0


def _letter(port: int, one: Opened, budget: PortRange) -> str:
    state = one.cells.get(port)
    if state is None:
        return "x" if port in budget.never else "."
    return _LETTERS.get(state, "o")


def seconds(end_ms: float, now_ms: float) -> str:
    """What is left until a moment, ``48s``; 0s when the timer is over and the kernel has not come to it yet."""
    return f"{max(end_ms - now_ms, 0.0) / 1000:.0f}s"


def _ports(one: Opened, now_ms: float, columns: int, rows: int) -> Iterator[Words]:
    """Which ports are held: those in TIME_WAIT with what is left to them, the next to be free first; then open ones."""
    waiting = one.states.get(TIME_WAIT, 0)
    others = [(port, _LETTERS.get(state, "o")) for port, state in sorted(one.cells.items()) if state != TIME_WAIT]
    words = [f"{port} {seconds(end, now_ms)}" for end, port in one.nearest]
    words += [f"{port} {letter}" for port, letter in others]
    count = waiting + len(others)
    label = "    held: "
    in_row = max((columns - len(label)) // CELL, 1)
    size = in_row * rows
    if count > min(size, len(words)):  # the last cells tell how many more there are
        size = max(size - -(-TAIL // CELL), 1)
    shown = words[:size]
    for at in range(0, len(shown) if rows else 0, in_row):
        text = "".join(word.ljust(CELL) for word in shown[at : at + in_row])
        if at + in_row >= len(shown) and count > len(shown):
            last = f", the last {seconds(one.last_ends_ms, now_ms)}" if waiting else ""
            text += f"and {count - len(shown):,} more{last}"
        yield [(label if not at else " " * len(label), "dim"), (text.rstrip(), "")]


def _accepted(one: Accepted, now_ms: float) -> Words:
    left = ""
    if one.last_ends_ms:
        left = f", the first ends in {seconds(one.first_ends_ms, now_ms)}"
    return [(f"  from {one.remote} on port {one.port}  ", ""), (f"{state_words(one.states)}{left}", "")]
