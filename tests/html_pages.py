"""Records for pages, and a page as a browser's parser sees it, with what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from netns_tw.model import labs
from netns_tw.model.experiment import Experiment
from netns_tw.model.labs import Lab
from netns_tw.model.lines import (
    Built,
    Canary,
    Captured,
    Dump,
    End,
    Header,
    Line,
    Ran,
    Response,
    Row,
    Sample,
    Snapshot,
    StepEnd,
    Trouble,
)
from netns_tw.model.record import Record
from netns_tw.report.run import Run
from netns_tw.verdict import judge

LABS = {name: labs.read_lab(labs.folder_of(name)) for name in labs.shipped_names()}
SHIPPED = [(lab, one) for lab in LABS.values() for one in lab.experiments.values()]
DIRECT = LABS["direct"]
BACK_TO_BACK = DIRECT.experiments["no-reuse-back-to-back"]
PORTS = range(1024, 1035)
HOSTILE = (
    "<script>alert(1)</script></style></title></pre></svg><!--]]>"
    "<img src=x onerror=alert(2)>\"'{{ 7*7 }}{% raw %}&lt;&#x3c;"
    "\x1b[2J\x00\x9b31m\u202egnp.exe\u2066\ud800\r"
)
VOID = {"meta", "link", "br", "img", "input"}
INLINE = {"span", "strong", "code", "a"}


def time_waits(count: int, at_ms: float, ports: Sequence[int] = PORTS) -> list[Row]:
    """The client's first *count* TIME_WAITs as they are seen at *at_ms*; they began at 100 ms, a ms apart."""
    return [
        ("time-wait", "198.18.0.2", port, "198.18.0.1", 80, round(60_100 + index - at_ms))
        for index, port in enumerate(ports[:count])
    ]


def lines_of(lab: Lab, experiment: Experiment, words: str = "plain", ports: Sequence[int] = PORTS) -> Iterator[Line]:
    """A record of lab direct: every port is used once in the first step, then all is refused."""
    nodes = lab.topology.with_nodes(experiment.nodes).nodes
    count = len(ports)
    versions = {"nginx": words, "python": "3.11.2"}
    files = labs.files_of(lab.topology, experiment)
    yield Header(lab.name, experiment.claim_id, f"Linux 6.18.5 {words}", versions, files, None, None, words, 2)
    sysctls = {name: {"net.ipv4.tcp_tw_reuse_delay": "1000", **node.sysctls} for name, node in nodes.items()}
    yield Built(50.0, sysctls, {"server": Ran("http-server", words, "198.18.0.1:80")}, [words])
    listening: Row = ("listening", "198.18.0.1", 80, "0.0.0.0", 0, 0)
    canary: Row = ("time-wait", "127.0.0.1", 9, "127.0.0.1", 10, 60_000)
    yield from (Canary(51.0, name, "before", canary) for name in nodes)
    yield Snapshot(-1, 60.0, "client", [], {}, 0, [])
    yield Snapshot(-1, 60.0, "server", [listening], {}, 0, [])
    yield Sample(70.0, "client", 0, 0, {})
    for number, step in enumerate(experiment.steps):
        for index in range(step.requests):
            good = number == 0 and index < count
            port = ports[index] if good else None
            at = 99.0 + number * 100 + index
            refused = None if good else "EADDRNOTAVAIL"
            call = None if good else "connect"
            yield Response(number, index, at, 0.5, 404 if good else None, refused, call, port, words)
        at = 150.0 + 100 * number
        yield Sample(at, "client", count, 0, {"TcpExtTW": count, "TcpActiveOpens": count})
        yield Dump(at, "client", time_waits(count, at, ports))
        yield StepEnd(number, step.name, at - 60, at)
        counters = {"TcpExtTW": count, "TcpActiveOpens": count}
        yield Snapshot(number, at + 1, "client", time_waits(count, at + 1, ports), counters, count, [words])
        yield Snapshot(number, at + 1, "server", [listening], {"TcpPassiveOpens": count}, 0, [words])
    yield from (Canary(390.0, name, "after", canary) for name in nodes)
    yield Captured("client:eth0 -- server:eth0", [], 12, 1)
    yield End(400.0, 3.5, 20, 31.0)


def run_of(lines: Sequence[Line], lab: Lab = DIRECT, experiment: Experiment = BACK_TO_BACK) -> Run:
    record = Record()
    for line in lines:
        record.add(line)
    topology = lab.topology.with_nodes(experiment.nodes)
    return Run(experiment, topology, record, judge(record, experiment, topology))


RUN = run_of(list(lines_of(DIRECT, BACK_TO_BACK)))
SKIPPED = run_of([Trouble(3, "no such sysctl\nmore", skip=True)], DIRECT, DIRECT.experiments["recycle-is-gone"])


class Page(HTMLParser):
    """A page as a browser's parser sees it: its elements, its text, and what is wrong with its form."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.problems: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.problems += [f"<{tag}> is not closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing, line {self.getpos()[0]}")
        self.text += "" if tag in INLINE else " "

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "title", "desc"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for one, attributes in self.elements if one == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(tag, tuple(attributes)) for tag, attributes in self.elements]


def problems_of(text: str) -> list[str]:
    """What a page must not have, or must have and has not."""
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    problems = page.problems + [f"id {one} twice" for one in ids if ids.count(one) > 1]
    for tag, attributes in page.elements:
        problems += [f"<{tag} {name}>" for name in attributes if name.startswith("on") or name in ("src", "style")]
        wanted = [attributes[name] for name in ("aria-labelledby", "aria-describedby") if name in attributes]
        wanted += [attributes["href"][1:]] if attributes.get("href", "").startswith("#") else []
        problems += [f"<{tag}> names #{one}, which is not there" for one in wanted if one not in ids]
        problems += [f"<{tag} href={attributes['href']}>" for _ in [0] if attributes.get("href", "#")[0] not in "#d"]
    problems += [f"<{tag}>" for tag, _ in page.elements if tag in ("script", "iframe", "object", "form", "base")]
    problems += [f"url({one})" for one in re.findall(r"url\(#?([^)]*)\)", text) if one not in ids]
    style = text.partition("<style>")[2].partition("</style>")[0]
    values = [value for _, attributes in page.elements for value in attributes.values()]
    problems += [f"a URL: {one}" for one in [style, *values] if "//" in one or "@import" in one]
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    steps = zip([0, *headings], headings, strict=False)
    problems += [f"h{after} after h{before}" for before, after in steps if after > before + 1]
    problems += ["not one h1"] if headings.count(1) != 1 else []
    problems += ["a table without a caption"] if len(page.all("table")) != len(page.all("caption")) else []
    problems += ["a th without a scope"] if any("scope" not in one for one in page.all("th")) else []
    scrolling = [one for one in page.all("div") if one.get("class") == "scroll"] + page.all("pre")
    keyed = [one.get("tabindex") == "0" and {"aria-label", "aria-labelledby"} & one.keys() for one in scrolling]
    problems += ["a part that scrolls, out of the keyboard's reach"] if not all(keyed) else []
    images = [one for one in page.all("svg") if "aria-hidden" not in one]
    problems += (
        ["an image without a name"]
        if not all("aria-labelledby" in one and "aria-describedby" in one for one in images)
        else []
    )
    return problems


def hostile_run(words: str) -> Run:
    """A run with *words* wherever a record or a lab's file can have words of its own."""
    steps = [replace(one, name=f"{index}{words}", reference=words) for index, one in enumerate(BACK_TO_BACK.steps)]
    bad = replace(
        BACK_TO_BACK,
        claim=words,
        why=words,
        source=words,
        steps=tuple(steps),
        expectations=tuple(replace(one, name=words, step=None) for one in BACK_TO_BACK.expectations),
    )
    run = run_of(list(lines_of(DIRECT, bad, words)), DIRECT, bad)
    header = run.record.header
    assert header is not None
    run.record.header = replace_header(header, files={"topology.toml": words, words: words})
    findings = [replace(one, evidence=[words]) for one in run.judgement.findings]
    topology = replace(run.topology, description=words)
    return replace(run, judgement=replace(run.judgement, findings=findings, reason=words), topology=topology)


def replace_header(header: Header, **changes: Any) -> Header:
    return Header(**{name: getattr(header, name) for name in header.__struct_fields__} | changes)
