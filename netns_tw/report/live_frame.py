"""The live view's picture: a lab as it is now, as lines of text for a window of so many columns and lines. Pure.

A person looks for three things: is there a free port, who holds the others, for how long. So each node's remotes come
first, the tightest first, with the budget as a bar and under it the ports that are next to be free. Letters carry the
meaning, colours only repeat it; all that is drawn is ASCII, so that any terminal shows it. What a small window has no
room for is cut from the bottom of each list, which then says how much more there is.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from netns_tw.evidence.live import LiveLab
from netns_tw.evidence.live_requests import Same
from netns_tw.report.live_ports import LEGEND, Words, node_lines

LEAST = 2
"""Lines that the head leaves for the rest."""
GLOSSARY = {
    "TcpExtTWRecycled": "TIME_WAITs taken over",
    "TcpExtTCPTimeWaitOverflow": "TIME_WAITs refused: full",
    "TcpExtTW": "entered TIME_WAIT",
    "TcpActiveOpens": "connections opened",
    "TcpPassiveOpens": "connections accepted",
    "TcpRetransSegs": "segments sent again",
}
"""What the counters that matter here count; these come first."""


@dataclass(frozen=True)
class Head:
    """What stands above and below the picture."""

    title: str
    where: str = ""
    """At the right of the title, such as ``experiment 1 of 6``."""
    claim: str = ""
    keys: str = "q: leave"


@dataclass(frozen=True)
class _Room:
    """How many lines each list may have at most."""

    remotes: int
    """Of each node."""
    ports: int
    """Of each remote."""
    requests: int
    counters: int
    log: int
    gaps: bool = False


ROOMS = (
    _Room(8, 8, 12, 16, 6, True),
    _Room(6, 6, 8, 10, 4, True),
    _Room(5, 4, 6, 8, 4, True),
    _Room(4, 3, 6, 6, 3, True),
    _Room(4, 2, 5, 5, 2),
    _Room(3, 2, 4, 3, 2),
    _Room(3, 1, 3, 3, 2),
    _Room(2, 1, 3, 2, 0),
    _Room(2, 1, 2, 1, 0),
    _Room(1, 1, 2, 1, 0),
    _Room(1, 0, 2, 0, 0),
)
"""The roomiest first; the first that fits is taken."""


def frame(lab: LiveLab, head: Head, now_ms: float, columns: int, lines: int) -> list[Words]:
    """Return the picture at the moment *now_ms* of the record, at most *lines* long; what is wider is to be cropped."""
    top = _head(lab, head, now_ms, columns)
    foot: list[Words] = [[("-" * columns, "dim")], [(f"{LEGEND}   ", "dim"), (head.keys, "bold")]]
    top = top[: max(lines - len(foot) - LEAST, 1)]
    room = max(lines - len(top) - len(foot), 1)
    body: list[Words] = []
    for one in ROOMS:
        nodes, others = _body(lab, now_ms, columns, one)
        body = [*nodes, *others]
        if len(body) <= room:
            break
    else:
        others = others[: room // 3]
        more = f"  and {len(nodes) - (room - len(others)) + 1} lines more: make the window higher"
        body = [*nodes[: room - len(others) - 1], [(more, "bold")], *others]
    blank: list[Words] = [[] for _ in range(room - len(body))]
    return [*top, *body, *blank, *foot][:lines]


def _head(lab: LiveLab, head: Head, now_ms: float, columns: int) -> list[Words]:
    over = ", over" if lab.is_over else ""
    right = f"{head.where}{over}   {now_ms / 1000:.0f} s".strip(" ,")
    title = head.title[: max(columns - len(right) - 2, 8)]
    found: list[Words] = [[(title.ljust(columns - len(right)), "bold"), (right, "")]]
    found += [[(text, "")] for text in textwrap.wrap(head.claim, columns, max_lines=2, placeholder=" ...")]
    requests = lab.requests
    if lab.trouble:
        found.append([(f"stopped: {lab.trouble.message}", "bold red")])
    elif not lab.is_built:
        found.append([("the lab is being built", "dim")])
    elif requests.steps:
        step = requests.steps[requests.step]
        done, size = requests.done.get(requests.step, 0), max((columns - 60) // 2, 10)
        share = min(size * done // step.requests, size) if step.requests else size
        line: Words = [
            (f"step {requests.step + 1} of {len(requests.steps)}: {step.name[:20]}  ", ""),
            (f"[{'#' * share}{'.' * (size - share)}] ", ""),
            (f"{requests.count:,}/{requests.total:,} requests", "bold"),
        ]
        if requests.failed:
            line.append((f", {requests.failed:,} failed", "bold red"))
        found.append(line)
    return [*found, [("-" * columns, "dim")]]


def _body(lab: LiveLab, now_ms: float, columns: int, room: _Room) -> tuple[list[Words], list[Words]]:
    """The nodes, and what else there is."""
    gap: list[Words] = [[]] if room.gaps else []
    nodes: list[Words] = []
    for name in lab.nodes:
        nodes += [*node_lines(lab, name, now_ms, columns, room.remotes, room.ports), *gap]
    others: list[Words] = []
    for section in (_requests(lab, room.requests), _counters(lab, now_ms, room.counters), _log(lab, columns, room.log)):
        lines = list(section)
        others += [*lines, *gap] if lines else []
    return nodes, others


def _requests(lab: LiveLab, rows: int) -> Iterator[Words]:
    found = lab.requests
    if not found.rows or not rows:
        return
    words = tally_words(found.tallies.get(found.step, {})) or "-"
    yield [("requests  ", "bold"), (f"  this step: {words}", "")]
    for one in list(found.rows)[-rows:]:
        yield [("  ", ""), (result_words(one, found.steps), "" if one.is_ok else "red")]


def tally_words(tally: Mapping[str, int]) -> str:
    """``200 x 2, 502 x 530``."""
    return ", ".join(f"{outcome} x {count:,}" for outcome, count in sorted(tally.items()))


def result_words(one: Same, steps: Sequence[object] = ()) -> str:
    """``#2-#531  502 x 530, 0.4-1.0 ms, last port 33024``; the step's number before it where there are several."""
    step = f"step {one.step + 1} " if len(steps) > 1 else ""
    index = f"#{one.first}" if one.count == 1 else f"#{one.first}-#{one.last}"
    what = one.outcome + (f" from {one.call}()" if one.call else "") + (f" x {one.count:,}" if one.count > 1 else "")
    took = f"{one.least_ms:.1f}"
    if one.most_ms - one.least_ms >= 0.1:
        took += f"-{one.most_ms:.1f}"
    last = "last " if one.count > 1 else ""
    port = f", {last}port {one.last_port}" if one.last_port else ""
    return f"{step}{index:<12} {what}, {took} ms{port}"


def _counters(lab: LiveLab, now_ms: float, rows: int) -> Iterator[Words]:
    every = [(node, *moved) for node, one in lab.nodes.items() for moved in one.moved(now_ms)]
    ordered = sorted(every, key=lambda one: (one[1] not in GLOSSARY, -one[2]))
    if not ordered or not rows:
        return
    yield [(f"{'counters':<34}", "bold"), ("last second   in all", "")]
    for node, name, lately, in_all in ordered[:rows]:
        figures = f"  {node[:8]:<9}{name[:25]:<25}{f'+{lately:,}':>9}{f'+{in_all:,}':>9}"
        yield [(figures, ""), (f"  {GLOSSARY.get(name, '')}", "dim")]
    if len(ordered) > rows:
        yield [(f"  and {len(ordered) - rows} counters more", "dim")]


def _log(lab: LiveLab, columns: int, rows: int) -> list[Words]:
    """The last lines of the programs' logs, each on two lines at most."""
    found: list[Words] = []
    for node, text in reversed(lab.logged):
        wrapped: Iterable[str] = textwrap.wrap(f"log {node}: {text}", columns, max_lines=2, placeholder=" ...")
        lines: list[Words] = [[(one, "dim")] for one in wrapped]
        if len(found) + len(lines) > rows:
            break
        found = [*lines, *found]
    return found
