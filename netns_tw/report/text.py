"""Runs for a person at a terminal, 100 columns wide, drawn with rich.

Text that comes from a record (log lines, messages) is never taken as markup, and its control characters are shown.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from netns_tw.evidence.case import Explanation
from netns_tw.evidence.cost import by_parts, connect_curve, costs
from netns_tw.evidence.explain import explain
from netns_tw.evidence.prediction import predictions
from netns_tw.report.console import STYLES, console, plain
from netns_tw.report.escape import escaped
from netns_tw.report.run import Run
from netns_tw.scope import Finding
from netns_tw.verdict import outcome_words


def show(found: Sequence[Run], is_quiet: bool = False) -> None:
    """Print runs, and of several a summary; *is_quiet*: the summary alone."""
    out = console(sys.stdout)
    for one in () if is_quiet else found:
        out.print(run(one))
    out.print(summary(found) if is_quiet or len(found) > 1 else plain(versions(found)))


def run(one: Run) -> RenderableType:
    """Everything about one run."""
    verdict = one.judgement.verdict
    parts: list[RenderableType] = [
        Rule(
            Text.assemble((f"{escaped(one.experiment.path)}  ", "bold"), (verdict.upper(), STYLES[verdict])),
            align="left",
            style="dim",
        ),
        plain(one.experiment.claim),
    ]
    if one.judgement.reason:
        parts.append(plain(f"{verdict}: {one.judgement.reason}", STYLES[verdict]))
    if one.attempts > 1:
        parts.append(Text("note: repeated alone, because beside other experiments it was too slow", style="yellow"))
    for note in one.record.built.notes if one.record.built else ():
        parts.append(plain(f"note: {note}", "yellow"))
    if one.record.steps:
        parts.append(_steps(one))
    if one.judgement.findings:
        parts.append(_findings(one.judgement.findings))
    if one.case.closes:
        parts.append(_closes(one))
    parts += [_costs(one)] if one.record.batches else []
    parts += [_explanation(found) for found in explain(one.case)]
    log = next((line for finding in one.judgement.findings for line in finding.evidence), "")
    words = [
        (label, " ".join(text.split()))
        for label, text in (("why", one.experiment.why), ("try", one.experiment.try_next))
    ]
    labelled = [("log", log), *words, ("on", _settings(one))]
    parts += [_labelled(label, value) for label, value in labelled if value]
    return Group(*parts, Text(""))


def _explanation(one: Explanation) -> RenderableType:
    """A sentence, and behind an arrow what proves it."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="bold", width=4)
    grid.add_column()
    text = plain(f"{one.text}.")
    text.append(f"  [{escaped(one.proof)}]", style="dim")
    grid.add_row("so", text)
    return grid


def _closes(one: Run) -> RenderableType:
    """Who closed first, per step and link, where anything was opened or closed."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("step", ratio=3)
    table.add_column("connections", ratio=4)
    table.add_column("closed first by", ratio=5)
    table.add_column("open", justify="right", no_wrap=True)
    for found in one.case.closes:
        opened = f"{found.opened} from {found.opener} to {found.acceptor}"
        words = [f"{found.opener} {found.by_opener}", f"{found.acceptor} {found.by_acceptor}"]
        if found.simultaneous.most:
            words.append(f"both at once {found.simultaneous}")
        if found.reset.most:
            words.append(f"reset {found.reset}")
        name = one.experiment.steps[found.step].name
        table.add_row(plain(name), plain(opened), plain(", ".join(words)), str(found.open))
    return table


def _costs(one: Run) -> RenderableType:
    """What connect() took in each tenth of a step, and what the sockets cost after it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("step", ratio=2)
    table.add_column("connect(), median us, by tenth of the step", ratio=5)
    for title in ("TIME_WAIT", "slab bytes", "count", "by kind"):
        table.add_column(title, justify="right", no_wrap=True)
    found = {each.step: each for each in costs(one.record, one.experiment)}
    for number, step in enumerate(one.experiment.steps):
        parts = by_parts(connect_curve(one.record, number))
        if not any(parts):
            continue
        words = " ".join("-" if us is None else f"{us:.0f}" for us in parts)
        cells = ("-", "-", "-", "-")
        if cost := found.get(step.name):
            each = "-" if cost.slab_bytes is None else f"{cost.slab_bytes}"
            cells = (f"{cost.time_wait}", each, f"{cost.count_us:.1f} us", f"{cost.tally_ms:.0f} ms")
        table.add_row(plain(step.name), plain(words), *cells)
    return table


def _labelled(label: str, text: str) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="bold", width=4)
    grid.add_column()
    grid.add_row(label, plain(text))
    return grid


def _steps(one: Run) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("step", ratio=1)
    table.add_column("the source (2018)", width=19)
    table.add_column("predicted ok", width=12)
    table.add_column("here", ratio=2, min_width=30, style="bold")
    table.add_column("took", justify="right", no_wrap=True)
    predicted = predictions(one.case)
    for number, step in enumerate(one.experiment.steps):
        end = one.record.steps.get(number)
        words = predicted[number].words if predicted[number] else "-"  # type: ignore[union-attr]
        seen = outcome_words(one.record.outcomes(number))
        took = f"{one.record.span_ms(number, number) / 1000:.2f} s" if end else "-"
        table.add_row(plain(step.name), plain(step.reference or "-"), plain(words), plain(seen), took)
    return table


def _findings(findings: Sequence[Finding]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("", no_wrap=True, width=4)
    table.add_column("expectation", ratio=5)
    table.add_column("expected", ratio=4)
    table.add_column("actual", justify="right", no_wrap=True)
    for one in findings:
        mark = Text("ok", style="green") if one.holds else Text("FAIL", style="bold red")
        name = plain(one.expectation.name)
        if one.expectation.step:
            name.append(f"  ({escaped(one.expectation.step)})", style="dim")
        table.add_row(mark, name, plain(one.expected), Text(str(one.actual)))
    return table


def _settings(one: Run) -> str:
    """A line per node: its program, the sysctls its files set, and on the node that matters the others' values."""
    built = one.record.built
    if built is None:
        return ""
    lines = []
    for node, sysctls in built.sysctls.items():
        ours = one.topology.nodes[node].sysctls
        short = {name: f"{name.removeprefix('net.ipv4.')}={value}" for name, value in sysctls.items()}
        parts = [
            built.programs[node].words if node in built.programs else "",
            " ".join(short[name] for name in sysctls if name in ours),
        ]
        if node == one.experiment.ports_of or (node == one.experiment.steps[0].node and not one.experiment.ports_of):
            parts.append("by default " + " ".join(short[name] for name in sysctls if name not in ours))
        text = "; ".join(part for part in parts if part)
        if text:
            lines.append(f"{node}: {text}")
    return "\n".join(lines)


def summary(runs: Sequence[Run]) -> RenderableType:
    """A line per run, and what it ran on."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("experiment", no_wrap=True)
    table.add_column("here", ratio=1)
    for one in runs:
        verdict = one.judgement.verdict
        seen = "; ".join(outcome_words(one.record.outcomes(number)) for number in range(len(one.experiment.steps)))
        text = one.judgement.reason.split("\n")[0] or seen
        table.add_row(Text(verdict, style=STYLES[verdict]), plain(one.experiment.path), plain(text))
    return Group(table, Text(counts(runs), style="bold"), plain(versions(runs), "dim"))


def counts(runs: Sequence[Run]) -> str:
    """``16 pass, 1 skip``, in the order of gravity."""
    verdicts = [one.judgement.verdict for one in runs]
    return ", ".join(f"{verdicts.count(name)} {name}" for name in STYLES if name in verdicts)


def versions(runs: Sequence[Run]) -> str:
    """Kernel and program versions of the first run that got so far."""
    for one in runs:
        if header := one.record.header:
            return ", ".join([header.kernel, *(f"{name} {number}" for name, number in header.versions.items())])
    return ""
