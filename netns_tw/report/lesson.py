"""A lesson on a plain terminal: what an experiment will do, without its result; then what came of it.

Until a student has answered, nothing that is drawn here may hold the answer. Claims, their names, the names of steps,
what the source saw and why it is so are all kept back; comments in a program's file are, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from netns_tw.grade import NEAR, NO, NONE, YES, Outcome, mark
from netns_tw.model.experiment import Experiment, Step
from netns_tw.model.labs import Lab
from netns_tw.model.topology import HttpProxy, HttpServer, Nginx, Program
from netns_tw.report import diagram
from netns_tw.report.console import STYLES, plain
from netns_tw.report.run import Run
from netns_tw.verdict import outcome_words

CLOSES = {
    "server-first": "the body of a response ends with the connection, so it closes first",
    "client-first": "after a response it waits until the other side has closed",
    "race": "closes as soon as it has answered, whether or not the other side has",
    "reset": "resets the connection after each response",
    "keep-alive": "leaves the connection open after a response",
}
"""What a close style means, for someone who has not read programs/server.py."""
MARKS = {YES: ("right", "bold green"), NEAR: ("near", "bold yellow"), NO: ("wrong", "bold red"), NONE: ("-", "")}
_PLACES = re.compile(r"^\s*%%\w+%%\s*$|#[^\n]*|^\s*events\s*\{[^}]*\}\s*$", re.MULTILINE)
"""Of an nginx.conf: comments, and what only makes it run here."""


def opening(lab: Lab, count: int) -> RenderableType:
    """The lab's diagram, and what is asked of the student."""
    asked = "Say how many requests of each step will succeed, then see what your kernel does."
    counts = "A request succeeds when any HTTP response comes but a 5xx; a 404 is a good answer."
    return Group(
        Text(""),
        plain(f"{lab.name}: {lab.topology.description}", "bold"),
        Text(""),
        *(Padding(plain(line), (0, 2)) for line in diagram.text(lab.topology)),
        Text(""),
        plain(f"{count} experiment{'' if count == 1 else 's'}. {asked}"),
        plain(f"{counts} Enter alone skips a question, Ctrl-C ends the lesson."),
    )


def situation(
    where: str, lab: Lab, one: Experiment, programs: Mapping[str, Program], configs: set[str]
) -> RenderableType:
    """What the nodes are and what the steps will do; an nginx.conf is shown once, *configs* remembers which was."""
    nodes = Table.grid(padding=(0, 2))
    nodes.add_column(style="bold", no_wrap=True)
    nodes.add_column()
    texts = []
    for name, node in lab.topology.with_nodes(one.nodes).nodes.items():
        changed = one.nodes[name].sysctls if name in one.nodes else {}
        lines = [words(programs[name])] if name in programs else []
        lines += [f"{key} = {value}{' (for this experiment)' if key in changed else ''}"
                  for key, value in node.sysctls.items()]  # fmt: skip
        nodes.add_row(plain(name), plain("\n".join(lines) or "no program, the kernel's own sysctls"))
        program = programs.get(name)
        if isinstance(program, Nginx) and (text := config(program)) not in configs:
            configs.add(text)
            texts.append(Padding(plain(f"{program.config}:\n{text}", "dim"), (1, 0, 0, 4)))
    steps = Table.grid(padding=(0, 2))
    steps.add_column(style="bold", no_wrap=True)
    steps.add_column()
    for number, step in enumerate(one.steps, 1):
        after = "right after that, " if number > 1 else ""
        steps.add_row(f"step {number}", plain(f"{after}{asks(step)}"))
    title = Rule(Text(where, "bold"), align="left", style="dim")
    return Group(Text(""), title, Text(""), Padding(nodes, (0, 2)), *texts, Text(""), Padding(steps, (0, 2)), Text(""))


def words(program: Program) -> str:
    """A program, and how it deals with connections."""
    if isinstance(program, Nginx):
        tokens = "".join(f", {name} = {value}" for name, value in program.tokens.items())
        return f"nginx on {program.listen} ({program.config}{tokens})"
    if isinstance(program, HttpServer):
        limit = f", for {program.max_requests} requests" if program.max_requests else ""
        return f"http-server on {program.listen}: {CLOSES[program.close]}{limit}"
    assert isinstance(program, HttpProxy)
    each = f"keeps up to {program.keepalive} connections, each for {program.keepalive_requests} requests"
    return f"http-proxy on {program.listen}, to {program.upstream}: " + (
        each if program.keepalive else "a connection for each request"
    )


def config(program: Nginx) -> str:
    """What an nginx.conf says of connections: its comments left out, its tokens filled in."""
    text = _PLACES.sub("", program.config_text)
    for name, value in program.tokens.items():
        text = text.replace(f"%%{name}%%", value)
    text = text.replace("%%LISTEN%%", str(program.listen))
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip() and "%%" not in line)


def asks(step: Step) -> str:
    """What a step will do, in one line."""
    parts = [f"{step.requests} requests" if step.requests != 1 else "one request"]
    parts[0] += f" with HTTP/{step.http} from {step.node} to {step.url}"
    parts.append(f"one every {step.interval_ms:g} ms" if step.interval_ms else "back to back")
    if step.concurrency > 1:
        parts.append(f"{step.concurrency} at once")
    parts.append("over one connection as long as it is open" if step.keep_alive else "each over a new connection")
    parts = [f"{step.bare}, one after the other"] if step.bare else parts
    if step.source_ports:
        parts.append(f"from the ports {step.source_ports[0]}-{step.source_ports[-1]} in turn")
    return ", ".join(parts)


def result(run: Run, answers: Mapping[str, int], held: Sequence[Outcome]) -> RenderableType:
    """Prediction, budget and result of each step; then the claim with its verdict, why, and what to try next."""
    one, verdict = run.experiment, run.judgement.verdict
    parts: list[RenderableType] = [Text("")]
    notes = run.record.built.notes if run.record.built else ()
    parts += [plain(f"note: {note}", "yellow") for note in notes]
    if run.record.steps:
        parts.append(_steps(run, answers, held))
    if answers and all(outcome.observed is None for outcome in held):
        parts.append(plain("No prediction is graded: this run says nothing on the claim.", "yellow"))
    claim = Text.assemble((verdict.upper(), STYLES[verdict]), f"  {one.path}: ", style="bold")
    parts += [claim.append_text(plain(one.claim)), Text("")]
    labelled = [(verdict, run.judgement.reason), ("why", one.why), ("try", one.try_next)]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="bold", width=max(4, len(verdict) if run.judgement.reason else 0))
    grid.add_column()
    for label, text in labelled:
        if text:
            grid.add_row(label, plain(" ".join(text.split())))
    return Group(*parts, grid)


def _steps(run: Run, answers: Mapping[str, int], held: Sequence[Outcome]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("step", ratio=2)
    for title in ("you said", "port budget", "succeeded"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("here", ratio=3)
    table.add_column("", no_wrap=True)
    for number, (step, outcome) in enumerate(zip(run.experiment.steps, held, strict=True), 1):
        said = answers.get(step.name)
        seen = run.record.outcomes(number - 1)
        succeeded = f"{run.record.ok(number - 1)} of {step.requests}"
        word, style = MARKS[mark(said, outcome)]
        table.add_row(
            plain(f"{number}: {step.name}"),
            "-" if said is None else f"{said}",
            plain(outcome.words or "-"),
            succeeded if seen else "-",
            plain(outcome_words(seen) or "-"),
            Text(word, style),
        )
    return table


def closing(marks: Sequence[str], unanswered: int, not_asked: int) -> RenderableType:
    """``Right: 7 of 9.``; *marks* of all steps that were answered and could be graded."""
    near = marks.count(NEAR)
    text = f"Right: {marks.count(YES)} of {len(marks)} predictions"
    text += f", and {near} near: a race that nobody can know" if near else ""
    lines = [plain(f"{text}.", "bold")]
    if unanswered:
        lines.append(plain(f"Not answered, or not graded: {unanswered} step{'' if unanswered == 1 else 's'}."))
    if not_asked:
        lines.append(plain(f"The input ended; not asked: {not_asked} experiment{'' if not_asked == 1 else 's'}."))
    return Group(Text(""), Rule(style="dim"), *lines)
