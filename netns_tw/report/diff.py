"""Two runs of one claim, side by side: what differs in what was set and in what came out.

What differs in every run is left out: times, dates, process ids, the lines of a log. Counts of a race differ too, and
are shown, because they are what a reader looks for; only the verdict makes two runs *differ* (exit code 1).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table

from netns_tw.model.lines import BEFORE, Ran
from netns_tw.report.console import plain
from netns_tw.report.run import Run
from netns_tw.report.text import counts
from netns_tw.scope import Finding
from netns_tw.verdict import outcome_words

FORMAT = 1
COUNTERS = (
    "TcpExtTW",
    "TcpExtTWRecycled",
    "TcpExtTCPTimeWaitOverflow",
    "TcpActiveOpens",
    "TcpPassiveOpens",
    "TcpExtTCPTimeouts",
    "TcpRetransSegs",
)
"""Those that tell something about TIME_WAIT and ports; others grow with every packet."""
ABSENT, FILES = "-", "as the files say"
MAX_LINES = 5000
"""Of a file on both sides; difflib takes time that is quadratic in them."""


@dataclass(frozen=True)
class Change:
    """One thing that differs."""

    kind: str
    """What sort of thing, in the words of SETTINGS and OUTCOMES."""
    what: str
    left: str
    right: str


SETTINGS = ("experiment", "kernel", "versions", "cores", "client and server", "programs", "sysctls", "files")
OUTCOMES = ("verdict", "responses", "expectations", "who closed first", "counters")


@dataclass(frozen=True)
class Comparison:
    """Two runs, and all that differs."""

    left: Run
    right: Run
    outcome: list[Change]
    settings: list[Change]
    files: dict[str, list[str]]
    """Unified diffs, by the file's path in the lab's folder."""

    @property
    def is_verdict_other(self) -> bool:
        return self.left.judgement.verdict != self.right.judgement.verdict

    @property
    def same(self) -> list[str]:
        """The sorts of things that do not differ."""
        other = {one.kind for one in (*self.outcome, *self.settings)} | ({"files"} if self.files else set())
        return [kind for kind in (*OUTCOMES, *SETTINGS) if kind not in other]


@dataclass(frozen=True)
class Pairs:
    """The runs of two sides: those of the same claim together, and those that one side alone has."""

    both: list[tuple[Run, Run]]
    left: list[Run]
    right: list[Run]


def pair(left: Sequence[Run], right: Sequence[Run]) -> Pairs:
    """Match runs by lab and claim, in order; a single run on either side is matched with the other whatever it is."""
    if len(left) == len(right) == 1:
        return Pairs([(left[0], right[0])], [], [])
    rest: dict[str, list[Run]] = {}
    for one in right:
        rest.setdefault(one.experiment.path, []).append(one)
    both, alone = [], []
    for one in left:
        if others := rest.get(one.experiment.path):
            both.append((one, others.pop(0)))
        else:
            alone.append(one)
    return Pairs(both, alone, [one for others in rest.values() for one in others])


def compare(left: Run, right: Run) -> Comparison:
    """Find all that differs between two runs."""
    parts = (_verdicts, _responses, _findings, _closers, _counters)
    outcome = [change for part in parts for change in part(left, right)]
    return Comparison(left, right, outcome, list(_settings(left, right)), dict(_files(left, right)))


def _changes(kind: str, left: dict[str, str], right: dict[str, str]) -> Iterator[Change]:
    """What differs between two tables of words."""
    for what in dict.fromkeys([*left, *right]):
        if left.get(what) != right.get(what):
            yield Change(kind, what, left.get(what, ABSENT), right.get(what, ABSENT))


def _verdicts(left: Run, right: Run) -> Iterator[Change]:
    sides = [{"verdict": one.judgement.verdict, "reason": one.judgement.reason or ABSENT} for one in (left, right)]
    numberless = {re.sub(r"\d+", "", side["reason"]) for side in sides}
    if len(numberless) == 1:  # the same but for the ms it took
        sides = [{"verdict": side["verdict"]} for side in sides]
    return _changes("verdict", *sides)


def _responses(left: Run, right: Run) -> Iterator[Change]:
    sides = []
    for one in (left, right):
        steps = enumerate(one.experiment.steps)
        words = {f"step {step.name!r}": outcome_words(one.record.outcomes(place)) for place, step in steps}
        sides.append({name: seen for name, seen in words.items() if seen})
    return _changes("responses", *sides)


def _findings(left: Run, right: Run) -> Iterator[Change]:
    """Expectations that hold on one side and not on the other; none where one side has none at all."""
    sides: list[dict[tuple[str, str], Finding]] = []
    for run in (left, right):
        found = run.judgement.findings
        sides.append({(one.expectation.name, one.expectation.step or ""): one for one in found})
    for name in dict.fromkeys([*sides[0], *sides[1]]) if all(sides) else ():
        one, other = (side.get(name) for side in sides)
        if one is None or other is None or one.holds != other.holds:
            yield Change("expectations", name[0] + (f" ({name[1]})" if name[1] else ""), _held(one), _held(other))


def _held(finding: Finding | None) -> str:
    return f"{'ok' if finding.holds else 'FAIL'}, {finding.actual}" if finding else ABSENT


def _closers(left: Run, right: Run) -> Iterator[Change]:
    sides = []
    for one in (left, right):
        words = {}
        for each in one.case.closes:
            who = f"{each.opener} {each.by_opener}, {each.acceptor} {each.by_acceptor}, of {each.opened}"
            words[f"step {one.experiment.steps[each.step].name!r}, {each.link}, closed first by"] = who
        sides.append(words)
    return _changes("who closed first", *sides)


def _counters(left: Run, right: Run) -> Iterator[Change]:
    sides = []
    for one in (left, right):
        words = {}
        last = max((step for step, _ in one.record.snapshots), default=BEFORE)
        for node in one.topology.nodes:
            before, after = one.record.snapshots.get((BEFORE, node)), one.record.snapshots.get((last, node))
            if before and after:
                grown = {name: after.counters.get(name, 0) - before.counters.get(name, 0) for name in COUNTERS}
                words.update({f"{node}: {name}": f"{number:+}" for name, number in grown.items()})
        sides.append(words)
    return _changes("counters", *sides)


def _settings(left: Run, right: Run) -> Iterator[Change]:
    yield from _changes("experiment", {"experiment": left.experiment.path}, {"experiment": right.experiment.path})
    for kind, *sides in zip(SETTINGS[1:-1], _settings_of(left), _settings_of(right), strict=True):
        yield from _changes(kind, *sides)


def _settings_of(one: Run) -> Iterator[dict[str, str]]:
    """One table for each of SETTINGS but the first and the last."""
    header, built = one.record.header, one.record.built
    yield {"kernel": header.kernel} if header else {}
    yield dict(header.versions) if header else {}
    yield {"cores": str(header.cores)} if header else {}
    yield {"--client": header.client or FILES, "--server": header.servers or FILES} if header else {}
    yield {f"{node}: program": _ran(ran) for node, ran in built.programs.items()} if built else {}
    nodes = built.sysctls.items() if built else ()
    yield {f"{node}: {name}": value for node, sysctls in nodes for name, value in sysctls.items()}


def _ran(ran: Ran) -> str:
    limits = {name: getattr(ran, name) for name in ("max_requests", "keepalive", "keepalive_requests")}
    return ", ".join([f"{ran.words} at {ran.listen}", *(f"{name} {value}" for name, value in limits.items() if value)])


def _files(left: Run, right: Run) -> Iterator[tuple[str, list[str]]]:
    """A unified diff of each file that differs; the claim's own file is one, whatever it is called."""
    sides = []
    for one in (left, right):
        files = dict(one.record.header.files) if one.record.header else {}
        own = f"experiments/{one.experiment.claim_id}.toml"
        sides.append({"the claim's file" if name == own else name: text for name, text in files.items()})
    for name in sorted({*sides[0], *sides[1]}):
        texts = [side.get(name) for side in sides]
        if texts[0] != texts[1]:
            yield name, list(_unified(name, *texts))


def _unified(name: str, left: str | None, right: str | None) -> Iterator[str]:
    if left is None or right is None:
        yield f"only {'B' if left is None else 'A'} has it"
        return
    one, other = left.split("\n"), right.split("\n")
    if len(one) + len(other) > MAX_LINES:
        yield f"they differ; {len(one)} and {len(other)} lines are too many to compare here"
        return
    yield from difflib.unified_diff(one, other, f"A: {name}", f"B: {name}", lineterm="")


def everywhere(found: Sequence[Comparison]) -> list[Change]:
    """The settings that differ in the same way in every one of several comparisons."""
    if len(found) < 2:
        return []
    return [one for one in found[0].settings if all(one in each.settings for each in found)]


def as_json(found: Sequence[Comparison], pairs: Pairs, exit_code: int) -> str:
    """All comparisons as one JSON object."""
    answer = {
        "format": FORMAT,
        "exit_code": exit_code,
        "experiments": [_as_json(one) for one in found],
        "only_a": [one.experiment.path for one in pairs.left],
        "only_b": [one.experiment.path for one in pairs.right],
    }
    return json.dumps(answer, indent=2)


def _as_json(one: Comparison) -> dict[str, Any]:
    sides = {}
    for name, run in (("a", one.left), ("b", one.right)):
        verdict, reason = run.judgement.verdict, run.judgement.reason
        path = str(run.path) if run.path else None
        sides[name] = {"experiment": run.experiment.path, "verdict": verdict, "reason": reason, "record": path}
    changes = {
        name: [{"kind": each.kind, "what": each.what, "a": each.left, "b": each.right} for each in listed]
        for name, listed in (("outcome", one.outcome), ("settings", one.settings))
    }
    return {**sides, **changes, "files": one.files, "same": one.same}


def as_text(found: Sequence[Comparison], pairs: Pairs) -> RenderableType:
    """What differs first, then what does not, in one line."""
    parts: list[RenderableType] = []
    common = everywhere(found)
    if common:
        parts += [plain("in every experiment", "bold"), _table(common)]
    same = []
    for one in found:
        settings = [each for each in one.settings if each not in common]
        if one.outcome or settings or one.files:
            parts += _comparison(one, settings)
        else:
            same.append(one.left)
    for name, alone in (("A", pairs.left), ("B", pairs.right)):
        if alone:
            parts.append(plain(f"only in {name}: {', '.join(one.experiment.path for one in alone)}", "yellow"))
    if same:
        what = f"{same[0].experiment.path} ({same[0].judgement.verdict})"
        what = what if len(same) == 1 else f"{len(same)} experiments ({counts(same)})"
        parts.append(plain(f"no {'other ' if common else ''}difference: {what}", "green"))
    return Group(*parts)


def _comparison(one: Comparison, settings: Sequence[Change]) -> list[RenderableType]:
    left, right = one.left, one.right
    verdicts = f"{left.judgement.verdict.upper()} in A, {right.judgement.verdict.upper()} in B"
    style = "bold red" if one.is_verdict_other else "bold"
    title = plain(f"{left.experiment.path}  {verdicts}", style)
    parts: list[RenderableType] = [Rule(title, align="left", style="dim")]
    parts += [plain(f"{name}  {run.path}", "dim") for name, run in (("A", left), ("B", right)) if run.path]
    parts += [_table(changes) for changes in (one.outcome, settings) if changes]
    styles = {"+": "green", "-": "red", "@": "cyan"}
    for name, lines in one.files.items():
        parts += [plain(f"{name}:", "bold"), *(plain(line, styles.get(line[:1], "")) for line in lines), plain("")]
    return [*parts, plain(f"the same: {', '.join(one.same)}", "green"), plain("")]


def _table(changes: Sequence[Change]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for title, ratio in (("", 4), ("A", 3), ("B", 3)):
        table.add_column(title, ratio=ratio, overflow="fold")
    for one in changes:
        table.add_row(plain(one.what), plain(one.left), plain(one.right, "bold"))
    return table
