"""Labs as their files have them, for a person."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from netns_tw.model.labs import Lab
from netns_tw.model.topology import Topology
from netns_tw.report import diagram
from netns_tw.report.console import plain


def labs(found: Sequence[Lab]) -> RenderableType:
    """The labs and their claims."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("experiment", no_wrap=True)
    table.add_column("claim", ratio=1)
    for lab in found:
        table.add_row(plain(lab.name, "bold"), plain(lab.topology.description, "bold"))
        for experiment in lab.experiments.values():
            table.add_row(plain(f"  {experiment.path}"), plain(experiment.claim))
    return table


def topology(lab: Lab) -> RenderableType:
    """A lab's diagram, its nodes' sysctls and port budgets, its claims."""
    found: Topology = lab.topology
    parts: list[RenderableType] = [plain(f"{found.name}: {found.description}", "bold"), Text("")]
    parts += [Padding(plain(line), (0, 2)) for line in diagram.text(found)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("node", "program", "sysctls", "ports per destination"):
        table.add_column(title)
    for name, node in found.nodes.items():
        sysctls = "\n".join(f"{key} = {value}" for key, value in node.sysctls.items())
        table.add_row(name, plain(diagram.role(node) or "-"), plain(sysctls or "-"), str(found.usable_ports(name)))
    if found.ehash_entries:
        parts.append(plain(f"each node has an established hash of its own, {found.ehash_entries} buckets"))
    parts += [Text(""), table, labs([lab])]
    return Group(*parts)
