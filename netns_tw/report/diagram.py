"""A lab's picture in text, and as Mermaid."""

from __future__ import annotations

from netns_tw.model.topology import Endpoint, HttpProxy, HttpServer, Nginx, Node, Topology


def chain(topology: Topology) -> list[str] | None:
    """Order the nodes from end to end if the lab is a chain (each node has at most two links), else None."""
    beside: dict[str, list[str]] = {name: [] for name in topology.nodes}
    for link in topology.links:
        beside[link.left.node].append(link.right.node)
        beside[link.right.node].append(link.left.node)
    if any(len(others) > 2 for others in beside.values()):
        return None
    starts = [name for name, others in beside.items() if len(others) == 1]
    if not starts:
        return None
    order = [starts[0]]
    while following := [name for name in beside[order[-1]] if name not in order]:
        order.append(following[0])
    return order if len(order) == len(topology.nodes) else None


def role(node: Node) -> str:
    """What runs on a node, in brackets."""
    program = node.programs.default if node.programs else None
    if isinstance(program, Nginx):
        return "nginx"
    if isinstance(program, HttpServer):
        return f"http-server, {program.close}"
    return "http-proxy" if isinstance(program, HttpProxy) else ""


def _addresses(end: Endpoint) -> str:
    return ", ".join(map(str, end.addresses))


def text(topology: Topology) -> list[str]:
    """The lab as lines of text: a chain on one line where it is one, then each link with its addresses."""
    lines = []
    order = chain(topology)
    if order:
        labels = []
        for name in order:
            what = role(topology.nodes[name])
            labels.append(f"{name} ({what})" if what else name)
        lines.append(" ──── ".join(labels))
    for link in topology.links:
        left = f"{link.left} {_addresses(link.left)}"
        lines.append(f"{left} ──── {link.right} {_addresses(link.right)}")
    return lines


def mermaid(topology: Topology) -> str:
    """The lab as a Mermaid flowchart."""
    lines = ["flowchart LR"]
    numbers = {name: f"n{number}" for number, name in enumerate(topology.nodes)}
    for name, node in topology.nodes.items():
        what = role(node)
        lines.append(f'    {numbers[name]}["{name}{"<br/>" + what if what else ""}"]')
    for link in topology.links:
        label = f"{_addresses(link.left)} / {_addresses(link.right)}"
        lines.append(f'    {numbers[link.left.node]} ---|"{label}"| {numbers[link.right.node]}')
    return "\n".join(lines)
