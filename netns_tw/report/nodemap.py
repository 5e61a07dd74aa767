"""A lab's picture: a box for each node with its program and addresses, a line for each link.

Laid out in columns by the distance from the nodes that send requests, so that requests run from left to right:
a chain is a row, a star has its leaves in one column.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from netns_tw.model.topology import Link, Topology
from netns_tw.report import svg
from netns_tw.report.svg import Drawing, cut, element, number

WIDEST, NARROWEST, GAP = 262.0, 120.0, 66.0
"""Of a box, and between two columns, in px."""
LETTER, NAME_LETTER = 11, 13
"""Sizes of the lines' font and of the names', as in the style sheet."""
LINE, HEAD, PAD = 15.0, 26.0, 10.0
BETWEEN = 20.0
"""Between two boxes of a column."""


def columns(topology: Topology, clients: Collection[str]) -> list[list[str]]:
    """The nodes by their distance from the *clients*; those that no link leads to stand in the first column."""
    beside: dict[str, list[str]] = {name: [] for name in topology.nodes}
    for link in topology.links:
        beside[link.left.node].append(link.right.node)
        beside[link.right.node].append(link.left.node)
    found = [[name for name in topology.nodes if name in clients] or list(topology.nodes)[:1]]
    seen = set(found[0])
    while following := dict.fromkeys(other for name in found[-1] for other in beside[name] if other not in seen):
        found.append(list(following))
        seen.update(following)
    found[0] += [name for name in topology.nodes if name not in seen]
    return found


@dataclass(frozen=True)
class _Box:
    """Where one node's box is, and what stands in it."""

    name: str
    lines: list[str]
    x: float
    y: float
    width: float
    height: float


def draw(identity: str, topology: Topology, clients: Collection[str], programs: Mapping[str, str]) -> Drawing:
    """Draw the lab; *clients* are the nodes that send requests, *programs* what runs on each node, in words."""
    order = columns(topology, clients)
    lines = {name: _lines(name, topology, programs.get(name, ""), name in clients) for name in topology.nodes}
    width = max(NARROWEST, min(WIDEST, (svg.WIDTH - 2 - GAP * (len(order) - 1)) / len(order)))
    height = HEAD + PAD + LINE * max((1, *map(len, lines.values()))) + 2
    most = max(map(len, order))
    boxes = {}
    for index, column in enumerate(order):
        above = (most - len(column)) * (height + BETWEEN) / 2
        for row, name in enumerate(column):
            y = 1 + above + row * (height + BETWEEN)
            boxes[name] = _Box(name, lines[name], 1 + index * (width + GAP), y, width, height)
    total = max(svg.WIDTH, 2 + width * len(order) + GAP * (len(order) - 1))
    title, told = f"The lab {topology.name}", _told(topology, programs)
    root = svg.picture(identity, title, told, 2 + most * (height + BETWEEN) - BETWEEN, total)
    taken: dict[tuple[str, bool], int] = {}
    for link in topology.links:
        _draw_link(root, link, boxes, taken)
    for box in boxes.values():
        _draw_box(root, box)
    return svg.finished(root)


def _lines(name: str, topology: Topology, program: str, is_client: bool) -> list[str]:
    """What stands in a node's box: what it does, and its interfaces with their addresses."""
    words = program or ("sends the requests" if is_client else "")
    lines = [words] if words else []
    for end in (end for link in topology.links for end in link if end.node == name):
        firsts = [f"{end.interface:<5}", *["     "] * len(end.addresses)]
        lines += [first + str(one) for first, one in zip(firsts, end.addresses or [""], strict=False)]
    return lines


def _draw_box(root: Element, box: _Box) -> None:
    group = element(root, "g", transform=f"translate({number(box.x)} {number(box.y)})", class_="node")
    element(group, "title", "\n".join([box.name, *box.lines]))
    element(group, "rect", x=0, y=0, width=box.width, height=box.height, rx=7)
    element(group, "path", d=f"M0 {number(HEAD)}h{number(box.width)}", class_="rule")
    room = box.width - 2 * PAD
    element(group, "text", cut(box.name, room * LETTER / NAME_LETTER), x=PAD, y=HEAD - 8, class_="node-name")
    for index, line in enumerate(box.lines):
        element(group, "text", cut(line, room), x=PAD, y=HEAD + PAD + 6 + LINE * index, class_="node-line")


def _draw_link(root: Element, link: Link, boxes: Mapping[str, _Box], taken: dict[tuple[str, bool], int]) -> None:
    """A line from box to box, with the interfaces' names at its ends; a bow beside the boxes of one column.

    *taken* counts the links that end at a box, on its right (True) or left: each ends below the one before.
    """
    left, right = sorted((link.left, link.right), key=lambda end: boxes[end.node].x)
    one, other = boxes[left.node], boxes[right.node]
    is_bow = one.x == other.x
    x, y = one.x + one.width, _end_of_link(one, True, taken)
    there = _end_of_link(other, is_bow, taken)
    room = GAP / 2 - 2
    bend = x + GAP * 0.8 if is_bow else (x + other.x) / 2
    end = x if is_bow else other.x
    path = f"M{number(x)} {number(y)}C" + " ".join(map(number, (bend, y, bend, there, end, there)))
    element(root, "path", d=path, class_="link")
    element(root, "text", cut(left.interface, room), x=x + 4, y=y - 4, class_="interface")
    if is_bow:
        element(root, "text", cut(right.interface, room), x=x + 4, y=there - 4, class_="interface")
    else:
        element(root, "text", cut(right.interface, room), x=end - 4, y=there - 4, class_="interface end")


def _end_of_link(box: _Box, is_right: bool, taken: dict[tuple[str, bool], int]) -> float:
    """The height at which the next link ends at a side of *box*."""
    index = taken.get((box.name, is_right), 0)
    taken[box.name, is_right] = index + 1
    return min(box.y + HEAD - 9 + index * LINE, box.y + box.height - 3)


def _told(topology: Topology, programs: Mapping[str, str]) -> str:
    nodes = ", ".join(f"{name} ({programs[name]})" if programs.get(name) else name for name in topology.nodes)
    links = "; ".join(
        " to ".join(f"{end} {', '.join(map(str, end.addresses))}".strip() for end in link) for link in topology.links
    )
    return f"Nodes: {nodes}. Links: {links}."
