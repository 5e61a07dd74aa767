"""experiments/CLAIM.toml -> Experiment: what a claim's file may say, checked against its lab."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Sequence

from netns_tw.errors import near_match
from netns_tw.model import expression
from netns_tw.model.experiment import (
    COMPARISONS,
    ConnectTime,
    Expectation,
    Experiment,
    Step,
    Subject,
    Value,
)
from netns_tw.model.folder import Folder, stem
from netns_tw.model.reader import Document, Table, shown
from netns_tw.model.settings import is_port_range
from netns_tw.model.subject_file import ERRNOS, subject_in
from netns_tw.model.topology import PORT_RANGE, Node, Topology, destination
from netns_tw.model.topology_file import ANY_NODE, MAX_INT, listen_at, listener_problems, read_node
from netns_tw.rules import BARE, CLIENTS, CLOSERS

MAX_REQUESTS = 1_000_000
STEP_VALUES = ("requests", "ok", "failed", "elapsed_ms")
PORT_VALUES = ("usable_ports", "usable_ports_min", "usable_ports_max")


def read_experiment(folder: Folder, name: str, lab: Topology) -> Experiment:
    """Read one experiment file of *lab*.

    Raises:
        FileProblems: all that is wrong in it.
    """
    claim_id = stem(name)
    document = Document(folder, name)
    root = document.root
    root.check_format()
    if not claim_id.isprintable():
        root.problem("", "the file's name is the claim's, and must be printable")
    nodes = {}
    for name, table in root.tables("nodes"):
        if name not in lab.nodes:
            root.problem(f"nodes.{name}", f"lab {lab.name} has no node {name!r}{near_match(name, lab.nodes)}")
        nodes[name] = read_node(name, table, folder)
    changed = lab.with_nodes({name: node for name, node in nodes.items() if name in lab.nodes})
    for name in nodes:
        for where, problem in listener_problems(changed, changed.nodes[name]) if name in lab.nodes else ():
            root.problem(where, problem)
    steps = tuple(_step(table, changed) for table in root.each("steps"))
    _check_steps(root, steps)
    measures = {name: _measure(name, table, changed) for name, table in root.tables("measures")}
    ports_of = root.choice("ports_of", lab.nodes.keys(), "") or None
    found = Experiment(
        lab=lab.name,
        claim_id=claim_id,
        claim=root.text("claim"),
        source=root.text("source"),
        steps=steps,
        expectations=tuple(_expectation(table, changed) for table in root.each("expect")),
        why=root.text("why").strip(),
        within_ms=root.optional_number("within_ms", 1, MAX_INT),
        ports_of=ports_of or _only_node_with_a_range(changed),
        nodes=nodes,
        measures={name: subject for name, subject in measures.items() if subject},
        premises=tuple(_expectation(table, changed) for table in root.each("premise")),
        text=document.text,
        try_next=root.text("try", "").strip(),
    )
    root.end()
    if not found.expectations:
        root.problem("expect", "missing; an experiment expects at least one thing, [[expect]]")
    _check_expectations(root, "expect", found.expectations, found, changed)
    _check_expectations(root, "premise", found.premises, found, changed)
    document.finish()
    return found


def _only_node_with_a_range(lab: Topology) -> str | None:
    having = [name for name, node in lab.nodes.items() if PORT_RANGE in node.sysctls]
    return having[0] if len(having) == 1 else None


def _step(table: Table, lab: Topology) -> Step:
    step = Step(
        name=table.text("name"),
        url=table.text("url"),
        node=table.choice("node", lab.nodes.keys(), "client"),
        client=table.choice("client", (*CLIENTS, BARE), "h11"),
        requests=table.number("requests", 1, 1, MAX_REQUESTS),
        interval_ms=table.value("interval_ms", float, 0.0) or 0.0,
        http=table.choice("http", ("1.0", "1.1"), "1.1"),
        concurrency=table.number("concurrency", 1, 1, 256),
        keep_alive=table.value("keep_alive", bool, False) or False,
        source_ports=_ports(table),
        closes=table.choice("closes", CLOSERS, CLOSERS[0]),
        port_range=_range(table, "port_range"),
        timeout_ms=table.number("timeout_ms", 10_000, 1, MAX_INT),
        within_ms=table.optional_number("within_ms", 1, MAX_INT),
        reference=table.text("reference", ""),
    )
    if step.node not in lab.nodes and not table.has("node"):
        table.problem("node", f"lab {lab.name} has no node {step.node!r}; say which node requests")
    if not 0 <= step.interval_ms <= MAX_INT:
        table.problem("interval_ms", f"must be from 0 to {MAX_INT}, not {shown(step.interval_ms)}")
    if _is_url(table, step.url, lab) and step.client == BARE:
        _check_other_end(table, step, lab)
    _check_bare(table, step, lab)
    table.end()
    return step


def _ports(table: Table) -> tuple[int, ...]:
    found = _range(table, "source_ports")
    return tuple(range(found[0], found[1] + 1)) if found else ()


def _range(table: Table, key: str) -> tuple[int, int] | None:
    text = table.value(key, str)
    if text is None:
        return None
    first, dash, last = text.partition("-")
    if not is_port_range(first, last if dash else None):
        table.problem(key, f"must be 'FIRST-LAST', such as '1024-1034', not {shown(text)}")
        return None
    return int(first), int(last or first)


def _check_bare(table: Table, step: Step, lab: Topology) -> None:
    """A bare connection carries no HTTP; and what only it has means nothing to a request."""
    if step.client == BARE:
        if step.port_range and step.node in lab.nodes:
            _check_port_range(table, step.port_range, lab.nodes[step.node])
        for key in ("http", "keep_alive", "concurrency", "interval_ms"):
            if table.has(key):
                table.problem(key, "means nothing to client = 'bare', which makes one connection after the other")
    else:
        for key in ("closes", "port_range"):
            if table.has(key):
                table.problem(key, f"is for client = '{BARE}' alone")


def _check_other_end(table: Table, step: Step, lab: Topology) -> None:
    """The other end of a bare connection is its own: no program of the lab may listen there."""
    to = destination(step.url)
    owner = lab.owner_of(to.address)
    programs = lab.nodes[owner].programs if owner else None
    for one in (programs.default, programs.h11, programs.nginx) if programs else ():
        if one and one.listen.port == to.port and one.listen.address in (to.address, *ANY_NODE):
            table.problem("url", f"node {owner} has a program on port {to.port}; a bare connection needs its own")
            return


def _check_port_range(table: Table, ports: tuple[int, int], node: Node) -> None:
    """An end of IP_LOCAL_PORT_RANGE outside of the sysctl's range is ignored (inet_sk_get_local_port_range)."""
    try:
        low, high = node.port_range
    except ValueError:
        return  # the sysctl is wrong, and said to be so where it stands
    if not low <= ports[0] <= ports[1] <= high:
        text = (
            f"must lie inside of node {node.name}'s ip_local_port_range, {low}-{high}: the kernel ignores what is not"
        )
        table.problem("port_range", text)


def _is_url(table: Table, url: str, lab: Topology) -> bool:
    """Whether *url* is one that leads somewhere, as far as it is known; else a problem is noted."""
    if not url:
        return False
    found = re.fullmatch(r"http://([^/?#@]+)(?:[/?][!-~]*)?", url)
    try:
        if found is None or "#" in url:
            raise ValueError(url)
        host = found[1]
        listen = listen_at(f"{host}:80" if ":" not in host or host.endswith("]") else host)
    except ValueError:
        table.problem("url", f"must be http://ADDRESS[:PORT]/..., the address a number, not {shown(url)}")
        return False
    if lab.owner_of(listen.address) is None:
        table.problem("url", f"no node of lab {lab.name} has the address {listen.address}")
    return True


def _check_steps(root: Table, steps: tuple[Step, ...]) -> None:
    if not steps:
        root.problem("steps", "missing; an experiment has at least one step, [[steps]]")
    for number, step in enumerate(steps):
        if step.name in [one.name for one in steps[:number]]:
            root.problem(f"steps[{number}].name", f"{step.name!r} is the name of an earlier step")


def _measure(name: str, table: Table, lab: Topology) -> Subject | None:
    """Read a measure: a subject that expressions call by its name."""
    taken = (*STEP_VALUES, *PORT_VALUES)
    is_name = name.isascii() and name.isidentifier() and name.islower() and not name.startswith("_")
    if not is_name or keyword.iskeyword(name) or name in taken or name.startswith(expression.STATUS_PREFIX):
        rule = "is of a-z, 0-9 and '_', the first a letter"
        table.problem("", f"a measure's name {rule}, and none of {', '.join(taken)}")
    subject = subject_in(table, lab)
    table.end()
    if isinstance(subject, Value):
        table.problem("value", "a measure must count something; an expression goes into an expectation")
    return subject


def _expectation(table: Table, lab: Topology) -> Expectation:
    subject = subject_in(table, lab)
    comparisons = {key: text for key in COMPARISONS if (text := table.expression(key))}
    if not comparisons:
        table.problem("", f"must have one of {', '.join(COMPARISONS)}")
    found = Expectation(table.text("name"), subject or Value("0"), comparisons, table.value("step", str))
    table.end()
    return found


def _check_expectations(
    root: Table, kind: str, expectations: Sequence[Expectation], found: Experiment, lab: Topology
) -> None:
    steps = [step.name for step in found.steps]
    known = {*STEP_VALUES, *PORT_VALUES, *found.measures}
    bare = [step.name for step in found.steps if step.client == BARE]
    for number, one in enumerate(expectations):
        where = f"{kind}[{number}]"
        if isinstance(one.subject, ConnectTime) and (not bare if one.step is None else one.step not in bare):
            root.problem(f"{where}.connect_us", f"is measured in steps with client = '{BARE}' alone")
        if one.step is not None and one.step not in steps:
            root.problem(f"{where}.step", f"no step is called {one.step!r}{near_match(one.step, steps)}")
        for key, text in one.comparisons.items():
            _check_expression(root, f"{where}.{key}", text, known, found, lab)
        if isinstance(one.subject, Value):
            _check_expression(root, f"{where}.value", one.subject.expression, known, found, lab)


def _check_expression(
    root: Table, where: str, text: str, known: Collection[str], found: Experiment, lab: Topology
) -> None:
    try:
        used = expression.names(text)
    except ValueError as error:
        root.problem(where, f"{shown(text)}: {error}")
        return
    for name in sorted(used):
        if name in PORT_VALUES:
            _check_port_value(root, where, name, found, lab)
        elif name not in known and name not in ERRNOS and not expression.is_status(name):
            root.problem(where, f"{shown(text)}: no quantity is called {name!r}{near_match(name, known)}")


def _check_port_value(root: Table, where: str, name: str, found: Experiment, lab: Topology) -> None:
    if found.ports_of is None or found.ports_of not in lab.nodes:
        root.problem(where, f"{name}: of which node? say ports_of = 'NODE', one of {', '.join(lab.nodes)}")
        return
    try:
        ports = lab.usable_ports(found.ports_of)
    except ValueError:
        return  # the range is wrong, and said to be so where it stands
    if name == "usable_ports" and not ports.is_exact:
        root.problem(
            where, f"usable_ports is {ports} here, by the kernel's chance; use usable_ports_min and usable_ports_max"
        )
