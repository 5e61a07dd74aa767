"""Labs that stay, for a person: one that came up just now, and the list of all."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from netns_tw.model.experiment import Experiment
from netns_tw.model.labs import Lab
from netns_tw.model.topology import Node, Programs, Topology
from netns_tw.programs.choice import describe
from netns_tw.report import diagram
from netns_tw.report.console import console, plain
from netns_tw.standing import visit
from netns_tw.standing.entry import Entry

if TYPE_CHECKING:
    from netns_tw.standing.bringup import Standing

IPV4 = "net.ipv4."
"""Left out of a sysctl's name; ``set`` takes it so too."""
COLUMNS = ("name", "lab", "age", "nodes", "state", "pids")


def show(standing: Standing, lab: Lab, called: str) -> None:
    """Print a lab that came up just now, and what to do with it; *called* is how the user calls this command."""
    out = console(sys.stdout)
    for part in _parts(standing, lab, called):
        out.print(part)


def _parts(standing: Standing, lab: Lab, called: str) -> list[RenderableType]:
    entry, topology = standing.entry, standing.topology
    claim = f", as {entry.claim} has it" if entry.claim else ""
    drawn = topology.with_nodes({name: Node(name, {}, Programs(one)) for name, one in standing.programs.items()})
    parts: list[RenderableType] = [
        Text.assemble((entry.name, "bold"), plain(f" is up: {topology.description}{claim}")),
        Text(""),
        *(Padding(plain(line), (0, 2)) for line in diagram.text(drawn)),
    ]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("node", "program", "listens at", "sysctls, as the kernel has them"):
        table.add_column(title)
    for node in topology.nodes:
        program = standing.programs.get(node)
        effective = standing.sysctls[node].items()
        sysctls = "\n".join(f"{name.removeprefix(IPV4)} = {value}" for name, value in effective)
        row = (node, describe(program) if program else "-", str(program.listen) if program else "-", sysctls)
        table.add_row(*map(plain, row))
    parts += [Text(""), table]
    parts += [plain(f"note: {note}", "yellow") for note in standing.notes]
    if entry.published:
        parts.append(plain("named outside too: " + ", ".join(one.path for one in entry.published)))
    parts.append(plain("Try next:", "bold"))
    parts += [_line(f"{called} {words}") for words in next_commands(standing, lab)]
    parts += [plain("And when you are done:"), _line(f"{called} down {entry.name}")]
    return parts


def _line(command: str) -> Text:
    """A command on a line of its own, however long, so that it can be pasted."""
    found = plain(f"  {command}")
    found.no_wrap, found.overflow = True, "ignore"
    return found


def next_commands(standing: Standing, lab: Lab) -> list[str]:
    """Three commands worth trying on a lab that is up, in this order, without the words that call us.

    A claim comes first: it wants a lab that nothing was done to yet, and leaves TIME_WAITs to look at.
    """
    name, claim = standing.entry.name, _fitting(standing, lab)
    if claim:
        node = claim.ports_of or claim.steps[0].node
        return [f"replay --in {name} {claim.claim_id}", f"watch {name}", f"exec {name} {node} -- ss -tan"]
    step = next((one.steps[0] for one in lab.experiments.values()), None)
    changed = next((node for node in standing.topology.nodes if standing.entry.sysctls.get(node)), None)
    node = changed or _between(standing.topology)
    first = f"{step.node} -- curl -si {shlex.quote(step.url)}" if step else f"{node} -- ip -br address"
    return [f"exec {name} {first}", f"watch {name}", f"shell {name} {node}"]


def _fitting(standing: Standing, lab: Lab) -> Experiment | None:
    """The quickest claim that is about the lab just as it came up."""
    if standing.entry.sysctls:
        return None
    if standing.entry.claim:
        return lab.experiments[standing.entry.claim]
    about = [one for one in lab.experiments.values() if not one.nodes]
    return min(about, key=lambda one: sum(step.requests * step.interval_ms for step in one.steps), default=None)


def _between(topology: Topology) -> str:
    """The node that has most links, such as the LB."""
    ends = [end.node for link in topology.links for end in link]
    return max(topology.nodes, key=ends.count)


def as_json(standing: Standing) -> dict[str, Any]:
    """The same for a program."""
    entry = standing.entry
    return {
        "name": entry.name,
        "lab": entry.lab,
        "claim": entry.claim,
        "init": entry.init.pid if entry.init else None,
        "nodes": {
            node: {
                "sysctls": standing.sysctls[node],
                "program": describe(standing.programs[node]) if node in standing.programs else None,
                "listen": str(standing.programs[node].listen) if node in standing.programs else None,
                "pid": entry.programs[node].pid if node in entry.programs else None,
                "addresses": [
                    str(one)
                    for link in standing.topology.links
                    for end in link
                    if end.node == node
                    for one in end.addresses
                ],
            }
            for node in entry.nodes
        },
        "notes": standing.notes,
        "published": [one.path for one in entry.published],
    }


def rows(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """A row for each lab of the roster."""
    return [
        {
            "name": one.name,
            "lab": f"{one.lab}/{one.claim}" if one.claim else one.lab,
            "age_s": round(one.age_s, 1),
            "nodes": one.nodes,
            "state": _state(one),
            "pids": {"init": one.init.pid if one.init else None, **{k: v.pid for k, v in one.programs.items()}},
        }
        for one in entries
    ]


def _state(entry: Entry) -> str:
    if not entry.is_up:
        return "coming up"
    ended = [f"program of {node} {how}" for node, how in visit.ended_programs(entry).items()]
    return ", ".join(["up", *ended])


def table(found: Sequence[dict[str, Any]]) -> None:
    """Print rows as a table."""
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in COLUMNS:
        drawn.add_column(title, no_wrap=title in ("name", "age"))
    for row in found:
        pids = " ".join(f"{name} {pid}" for name, pid in row["pids"].items() if pid is not None)
        cells = (row["name"], row["lab"], age(row["age_s"]), " ".join(row["nodes"]), row["state"], pids)
        drawn.add_row(*map(plain, cells))
    console(sys.stdout).print(drawn)


def age(seconds: float) -> str:
    """Seconds in the two largest units, ``3 min 5 s``."""
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    rest, words = int(seconds), []
    for size, unit in units:
        count, rest = divmod(rest, size)
        if count:
            words.append(f"{count} {unit}")
    return " ".join(words[:2]) or "0 s"
