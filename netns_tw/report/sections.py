"""What stands in one experiment's section of the page: plain values, drawings and tables, ready for the template.

A record may hold as little as a header, or a trouble alone. What is missing is empty or None here; the template says
so in words.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from netns_tw.errors import UsageError
from netns_tw.evidence.case import Case, Explanation
from netns_tw.evidence.closers import Closes
from netns_tw.evidence.explain import explain
from netns_tw.evidence.prediction import predictions
from netns_tw.evidence.timeline import timeline
from netns_tw.model import labs
from netns_tw.model.lines import Header
from netns_tw.report import curves, diagram, nodemap, portmap
from netns_tw.report.charts import Chart
from netns_tw.report.portmap import Map
from netns_tw.report.run import Run
from netns_tw.report.svg import Drawing
from netns_tw.report.timeaxis import Span, TimeAxis
from netns_tw.scope import Finding
from netns_tw.verdict import outcome_words

CUT_SHORT = "the record is cut short"


@dataclass(frozen=True)
class StepRow:
    """A line of the table of steps."""

    name: str
    asked: str
    reference: str
    predicted: str
    here: str
    took: str


@dataclass(frozen=True)
class Settings:
    """The effective sysctls of all nodes: a line each, a column for each node."""

    nodes: list[str]
    rows: list[tuple[str, list[tuple[str, bool]]]]
    """A sysctl's name, and for each node its value and whether the lab's files set it."""


@dataclass(frozen=True)
class Section:
    """All of one experiment."""

    anchor: str
    name: str
    """Its path; of a later run of the same experiment also which one it is."""
    run: Run
    summary: str
    """What was seen, or why nothing was, in one line."""
    notes: list[str]
    diagram: Drawing
    steps: list[StepRow]
    findings: list[Finding]
    evidence: list[str]
    """Log lines that were counted."""
    explanations: list[Explanation]
    why: str
    try_next: str
    closes: list[tuple[str, Closes]]
    """The step's name, and how the connections of one flow ended."""
    charts: list[Chart]
    quiet: list[str]
    """Nodes that never had a TIME_WAIT."""
    maps: list[Map]
    programs: list[tuple[str, str, str]]
    settings: Settings
    facts: list[tuple[str, str]]
    files: dict[str, str]
    command: str
    is_own_lab: bool
    """Whether the lab or the claim does not come with this netns_tw, so that the command needs its folder's path."""


def section(run: Run, number: int, time: int = 1) -> Section:
    """Gather what the page says about *run*, its *number* on the page; *time* counts the runs of its experiment."""
    record, experiment, anchor = run.record, run.experiment, f"experiment-{number}"
    case = run.case
    found = timeline(case)
    spans = [Span(*one) for one in found.steps]
    axis = TimeAxis(found.began_ms, found.ended_ms, spans, found.exhausted_ms)
    words = {name: ran.words for name, ran in record.built.programs.items()} if record.built else {}
    roles = {name: words.get(name) or diagram.role(node) for name, node in run.topology.nodes.items()}
    clients = {step.node for step in experiment.steps}
    maps = [one for one in case.port_maps if any(one.ports.values())]
    return Section(
        anchor=anchor,
        name=experiment.path if time == 1 else f"{experiment.path} ({time})",
        run=run,
        summary=_summary(run),
        notes=_notes(run),
        diagram=nodemap.draw(f"{anchor}-lab", run.topology, clients, roles),
        steps=_steps(case),
        findings=run.judgement.findings,
        evidence=list(dict.fromkeys(line for one in run.judgement.findings for line in one.evidence)),
        explanations=explain(case) if record.built else [],
        why=" ".join(experiment.why.split()),
        try_next=" ".join(experiment.try_next.split()),
        closes=_closes(case),
        charts=curves.draw(anchor, case, found, axis),
        quiet=[one.node for one in found.nodes if one.total and not curves.has_waited(one)],
        maps=[portmap.port_map(f"{anchor}-map-{index}", one, axis) for index, one in enumerate(maps)],
        programs=[(name, ran.words, ran.listen) for name, ran in record.built.programs.items()] if record.built else [],
        settings=_settings(run),
        facts=_facts(run),
        files=record.header.files if record.header else {},
        command=command(run),
        is_own_lab=not _is_shipped(run),
    )


def _summary(run: Run) -> str:
    seen = "; ".join(outcome_words(run.record.outcomes(number)) for number in range(len(run.experiment.steps)))
    return run.judgement.reason.split("\n")[0] or seen.strip("; ") or "nothing was seen"


def _notes(run: Run) -> list[str]:
    notes = list(run.record.built.notes) if run.record.built else []
    if run.attempts > 1:
        notes.append("repeated alone, because beside other experiments it was too slow")
    if run.record.trouble is None and not run.record.is_complete and run.judgement.reason != CUT_SHORT:
        notes.append(CUT_SHORT)
    if run.record.built and not run.record.samples and run.record.is_complete:
        notes.append("the record holds no samples: what happened between two steps' ends is not known")
    return notes


def _steps(case: Case) -> list[StepRow]:
    record = case.record
    client = record.header.client if record.header else None
    predicted = predictions(case) if record.built else []
    rows = []
    for number, step in enumerate(case.experiment.steps):
        theory = predicted[number] if number < len(predicted) else None
        asked = [f"{step.requests:,} x HTTP/{step.http} from {step.node} by {client or step.client}"]
        asked = [step.bare] if step.bare else asked
        asked += [f"{step.interval_ms:g} ms apart"] if step.interval_ms else []
        asked += [f"{step.concurrency:,} at once"] if step.concurrency > 1 else []
        asked += ["kept alive"] if step.keep_alive else []
        took = _duration(record.span_ms(number, number)) if number in record.steps else ""
        rows.append(
            StepRow(
                step.name,
                ", ".join(asked),
                step.reference,
                f"{theory.words} succeed" if theory else "",
                outcome_words(record.outcomes(number)),
                took,
            )
        )
    return rows


def _duration(ms: float) -> str:
    return f"{ms / 1000:,.2f} s" if ms >= 1000 else f"{ms:.0f} ms"


def _closes(case: Case) -> list[tuple[str, Closes]]:
    steps = case.experiment.steps
    return [(steps[one.step].name, one) for one in case.closes if 0 <= one.step < len(steps)]


def _settings(run: Run) -> Settings:
    built = run.record.built
    if built is None:
        return Settings([], [])
    nodes = list(built.sysctls)
    names = list(dict.fromkeys(name for sysctls in built.sysctls.values() for name in sysctls))
    ours = {name: node.sysctls for name, node in run.topology.nodes.items()}
    rows = [
        (name, [(built.sysctls[node].get(name, ""), name in ours.get(node, ())) for node in nodes]) for name in names
    ]
    return Settings(nodes, rows)


def _facts(run: Run) -> list[tuple[str, str]]:
    """What it ran on, and how it was looked at."""
    header, end = run.record.header, run.record.end
    facts = [*_origin(header)] if header else []
    if end is not None:
        looks = f"{end.samples:,} samples, at most {end.longest_gap_ms:,.0f} ms apart"
        facts.append(("Sampling", f"{looks}, {end.sampling_ms:,.0f} ms of CPU time in {end.at_ms / 1000:,.2f} s"))
    seen = {(one.node, one.when) for one in run.record.canaries}
    if seen:
        told = f"{len(seen)} times a known TIME_WAIT was made, seen by every instrument, and gone again"
        facts.append(("Instrument test", told))
    for one in run.record.captured:
        facts.append(("Capture", f"{one.link}: {one.packets:,} packets, {one.dropped:,} dropped"))
    if run.path is not None:
        facts.append(("Record", str(run.path)))
    return facts


def _origin(header: Header) -> list[tuple[str, str]]:
    facts = [
        ("Kernel", header.kernel),
        ("Versions", ", ".join(f"{name} {word}" for name, word in header.versions.items())),
    ]
    facts += [("Began", header.began)] if header.began else []
    facts += [("Cores", f"{header.cores:,}")] if header.cores else []
    facts += [("Client", header.client)] if header.client else []
    facts += [("Servers", header.servers)] if header.servers else []
    return facts


def _is_shipped(run: Run) -> bool:
    """Whether lab and claim come with netns_tw, word by word; a name alone may be another lab's too."""
    try:
        folder = Path(labs.shipped_folder(), run.experiment.lab) if run.experiment.lab in labs.shipped_names() else None
    except UsageError:  # an installation without labs
        folder = None
    if folder is None:
        return False
    claims = {path.stem: path for path in folder.glob(f"{labs.EXPERIMENTS}/*.toml")}
    claim = claims.get(run.experiment.claim_id)
    if claim is None:
        return False
    kept = {folder / "topology.toml": run.topology.text, claim: run.experiment.text}
    return all(path.read_bytes().decode(errors="replace") == text for path, text in kept.items())


def command(run: Run) -> str:
    """The command that replays *run*."""
    header, experiment = run.record.header, run.experiment
    words = ["sudo", "python", "-m", "netns_tw", "topology", experiment.lab, "--only", experiment.claim_id]
    if header and header.client:
        words += ["--client", header.client]
    if header and header.servers:
        words += ["--server", header.servers]
    return shlex.join(words)
