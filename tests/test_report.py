"""What is drawn from judged records: never wider than 100 columns, never an escape sequence of somebody else's."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from conftest import ROOT
from rich.cells import cell_len
from rich.console import RenderableType

from netns_tw.model import labs
from netns_tw.model.experiment import Experiment, Log
from netns_tw.model.labs import Lab
from netns_tw.model.lines import (
    Batch,
    Built,
    Canary,
    Cost,
    End,
    Header,
    Line,
    Ran,
    Response,
    Snapshot,
    StepEnd,
    Trouble,
)
from netns_tw.model.record import Record
from netns_tw.report import diagram, text
from netns_tw.report import json as json_report
from netns_tw.report import lab as lab_report
from netns_tw.report.console import console
from netns_tw.report.run import Run
from netns_tw.verdict import judge

LABS = {name: labs.read_lab(labs.folder_of(name)) for name in labs.shipped_names()}
SHIPPED = [(lab, one) for lab in LABS.values() for one in lab.experiments.values()]
EXHAUSTS = replace(LABS["lb3ports"].experiments["lb-exhausts-its-ports"], premises=())
"""Its expectations alone decide; no request of the records made here got a 502."""
NGINX_LOG = (
    "2026/01/01 00:00:00 [crit] 12345#12345: *98765 connect() to 198.18.2.2:80 failed (99: Cannot assign requested"
    ' address) while connecting to upstream, client: 198.18.1.2, server: , request: "GET / HTTP/1.0", upstream:'
    ' "http://198.18.2.2:80/", host: "198.18.1.1"'
)
HOSTILE = "(99: \x1b[2J\x1b]0;title\x07\r\x9b31m\u202e[bold]x[/bold] " + NGINX_LOG


def lines_of(lab: Lab, experiment: Experiment, log: str, notes: list[str]) -> Iterator[Line]:
    """A record in which every other request fails."""
    nodes = lab.topology.with_nodes(experiment.nodes).nodes
    sysctls = {name: {"net.ipv4.tcp_tw_reuse_delay": "1000", **node.sysctls} for name, node in nodes.items()}
    programs = dict.fromkeys(nodes, Ran("nginx", "nginx (nginx.conf)", ""))
    versions = {"nginx": "1.22.1", "curl": "7.88.1", "h11": "0.16.0", "python": "3.11.2"}
    yield Header(lab.name, experiment.claim_id, "Linux 6.18.5", versions, labs.files_of(lab.topology, experiment))
    yield Built(0.0, sysctls, programs, notes)
    for name in nodes:
        yield Canary(0.0, name, "before", ("time-wait", "127.0.0.1", 65535, "127.0.0.1", 65534, 60000))
        yield Canary(0.0, name, "after", ("time-wait", "127.0.0.1", 65535, "127.0.0.1", 65534, 60000))
        yield Snapshot(-1, 0.0, name, [], {}, 0, [])
        yield Cost(-1, 0.0, name, 0, 1, 1.0, 1.0)
    for number, step in enumerate(experiment.steps):
        if step.client == "bare":
            failed = [("connect", "EADDRNOTAVAIL", step.requests // 2)]
            yield Batch(number, 0, step.requests, step.requests - step.requests // 2, failed, 1.0, 9.0, (1e5, 1e6, 1e7))
            yield Cost(number, 1.0, "server", 10**6, 10**8, 1e3, 1e4)
        for index in range(step.requests if step.client != "bare" else 0):
            at = number * 1000 + index / 1000
            good = index % 2 == 0
            yield Response(number, index, at, 0.5, 200 if good else None, None if good else "EADDRNOTAVAIL", "", 1024)
        for name in nodes:
            yield Snapshot(number, number * 1000 + 900.0, name, [], {"TcpExtTW": number}, 0, [log])
        yield StepEnd(number, step.name, number * 1000.0, number * 1000 + 800.0)
    yield End(9999.0)


def run_of(lab: Lab, experiment: Experiment, log: str = NGINX_LOG, notes: list[str] | None = None) -> Run:
    record = Record()
    for line in lines_of(lab, experiment, log, notes or []):
        record.add(line)
    topology = lab.topology.with_nodes(experiment.nodes)
    return Run(experiment, topology, record, judge(record, experiment, topology))


def troubled(lab: Lab, experiment: Experiment, trouble: Trouble) -> Run:
    record = Record(trouble=trouble)
    return Run(experiment, lab.topology, record, judge(record, experiment, lab.topology))


def drawn(what: RenderableType) -> str:
    file = io.StringIO()
    console(file).print(what)
    return file.getvalue()


def is_safe(shown: str) -> bool:
    return all(one == "\n" or one.isprintable() for one in shown)


@pytest.mark.parametrize(("lab", "experiment"), SHIPPED, ids=[one.path for _, one in SHIPPED])
def test_every_shipped_experiment_fits_into_100_columns(lab: Lab, experiment: Experiment) -> None:
    """No line of a run is wider than 100 cells, Chinese words counted as they are drawn; claim and path are whole."""
    shown = drawn(text.run(run_of(lab, experiment)))
    assert max(cell_len(line) for line in shown.splitlines()) <= 100
    assert experiment.path in shown
    assert experiment.claim in " ".join(shown.split())
    assert is_safe(shown)


def test_a_run_says_all_that_matters() -> None:
    """Verdict, what the source saw, what was seen here, each finding, the log, why, and what it ran on."""
    lab = LABS["lb3ports"]
    shown = drawn(text.run(run_of(lab, EXHAUSTS, notes=["a note"])))
    joined = " ".join(shown.split())
    for words in (
        "lb3ports/lb-exhausts-its-ports FAIL",
        "note: a note",
        "49 x 200, 951 x 502",
        "500 x 200, 500 x EADDRNOTAVAIL",
        "FAIL every usable port is in TIME_WAIT",
        "== usable_ports = 2",
        "log 2026/01/01 00:00:00 [crit]",
        "why Whoever sends the first FIN",
        "lb: nginx (nginx.conf)",
        "ip_local_port_range=1024 1026",
    ):
        assert words in joined


def test_the_summary_and_the_lists_fit_into_100_columns() -> None:
    """Summary, list of labs and each lab's page are no wider than a run."""
    runs = [run_of(*one) for one in SHIPPED]
    runs += [troubled(*SHIPPED[0], Trouble(4, "x" * 300 + "\nsecond line"))]
    pages = [text.summary(runs), lab_report.labs(list(LABS.values())), *map(lab_report.topology, LABS.values())]
    for page in map(drawn, pages):
        assert max(cell_len(line) for line in page.splitlines()) <= 100
        assert is_safe(page)


def test_the_summary_counts_and_names_what_it_ran_on() -> None:
    """A line per run, the counts in the order of gravity, kernel and versions of the first that got so far."""
    lab = LABS["direct"]
    recycle = lab.experiments["recycle-is-gone"]
    runs = [
        troubled(lab, recycle, Trouble(3, "net.ipv4.tcp_tw_recycle: removed in Linux 4.12\nmore", skip=True)),
        run_of(lab, recycle),
    ]
    shown = drawn(text.summary(runs))
    assert "skip" in shown
    assert "removed in Linux 4.12" in " ".join(shown.split())
    assert "more" not in shown
    assert text.counts(runs) == "1 fail, 1 skip"
    assert text.versions(runs) == "Linux 6.18.5, nginx 1.22.1, curl 7.88.1, h11 0.16.0, python 3.11.2"


def test_terminal_escapes_are_shown_and_not_passed_through() -> None:
    """Control characters in logs, messages, notes and a lab's own words reach no terminal; markup is no markup."""
    lab = LABS["lb3ports"]
    base = lab.experiments["the-log-names-errno-99"]
    bad = replace(
        base,
        claim=HOSTILE,
        why=HOSTILE,
        steps=tuple(replace(one, name=HOSTILE, reference=HOSTILE) for one in base.steps),
        expectations=tuple(replace(one, name=HOSTILE) for one in base.expectations),
    )
    for one in (run_of(lab, bad, HOSTILE, [HOSTILE]), troubled(lab, bad, Trouble(4, HOSTILE))):
        shown = drawn(text.run(one))
        assert is_safe(shown)
        assert "\\x1b[2J\\x1b]0;title\\x07" in "".join(shown.split())
        assert "[bold]x[/bold]" in shown
        assert is_safe(drawn(text.summary([one])))
    page = replace(lab, topology=replace(lab.topology, description=HOSTILE), experiments={"x": bad})
    assert is_safe(drawn(lab_report.topology(page)))
    assert is_safe(drawn(lab_report.labs([page])))


def test_a_pipe_gets_no_colour_and_always_100_columns() -> None:
    """Not on a terminal: plain text, and a width that does not depend on the environment."""
    made = console(io.StringIO())
    assert (made.width, made.color_system, made.is_terminal) == (100, None, False)


def test_json_of_runs() -> None:
    """One object with every run: verdict, steps, findings, what it ran on."""
    lab = LABS["lb3ports"]
    runs = [
        run_of(lab, EXHAUSTS, HOSTILE),
        troubled(lab, lab.experiments["upstream-keepalive-cures"], Trouble(3, "no nginx", skip=True)),
    ]
    found = json.loads(json_report.runs(runs, 1))
    assert (found["format"], found["exit_code"], len(found["experiments"])) == (1, 1, 2)
    first, second = found["experiments"]
    assert (first["lab"], first["claim"], first["verdict"]) == ("lb3ports", "lb-exhausts-its-ports", "fail")
    assert first["steps"][0] == {
        "name": "first",
        "reference": "49 x 200, 951 x 502",
        "seen": "500 x 200, 500 x EADDRNOTAVAIL",
        "requests": 1000,
        "ok": 500,
        "predicted_ok": None,
        "took_ms": 1.499,
    }
    assert first["findings"][0] == {
        "name": "every usable port is in TIME_WAIT towards the backend",
        "step": "first",
        "holds": False,
        "expected": "== usable_ports = 2",
        "actual": 0,
        "evidence": [],
    }
    assert first["findings"][4]["evidence"] == [HOSTILE, HOSTILE]
    assert first["kernel"] == "Linux 6.18.5"
    assert (second["verdict"], second["reason"], second["steps"][0]["took_ms"]) == ("skip", "no nginx", None)


def test_json_of_labs() -> None:
    """Labs with their claims; a lab with its nodes and links."""
    found = json.loads(json_report.labs(list(LABS.values())))
    assert {one["name"]: len(one["experiments"]) for one in found} == {
        "crowd": 3,
        "direct": 13,
        "lb3ports": 6,
        "scale": 4,
    }
    assert found[2]["folder"] == str(ROOT / "topologies" / "lb3ports")
    lab = json.loads(json_report.topology(LABS["lb3ports"].topology))
    assert lab["nodes"]["lb"] == {
        "program": "nginx",
        "sysctls": {"net.ipv4.ip_local_port_range": "1024 1026", "net.ipv4.tcp_tw_reuse": "0"},
        "usable_ports": "2",
    }
    assert lab["links"][1]["endpoints"] == ["lb:eth1", "backend:eth0"]


def test_diagram() -> None:
    """A chain is drawn on one line from end to end, then each link with its addresses."""
    assert diagram.text(LABS["lb3ports"].topology) == [
        "client ──── lb (nginx) ──── backend (http-server, race)",
        "client:eth0 198.18.1.2/24, 2001:db8:1::2/64 ──── lb:eth0 198.18.1.1/24, 2001:db8:1::1/64",
        "lb:eth1 198.18.2.1/24, 2001:db8:2::1/64 ──── backend:eth0 198.18.2.2/24, 2001:db8:2::2/64",
    ]
    assert diagram.chain(LABS["crowd"].topology) == ["client1", "server", "client2"]


def test_a_lab_that_is_no_chain_has_its_links_alone() -> None:
    """A ring has no end, two separate links have more than two; neither is drawn as a chain."""
    links = LABS["lb3ports"].topology.links
    ring = replace(links[0], left=replace(links[0].left, node="backend", interface="eth9"), right=links[0].left)
    topology = replace(LABS["lb3ports"].topology, links=(*links, ring))
    assert diagram.chain(topology) is None
    assert len(diagram.text(topology)) == 3
    assert diagram.chain(replace(topology, links=links[:1])) is None


def test_mermaid() -> None:
    """The lab as a flowchart: nodes by number, so that no name can be taken for syntax."""
    assert diagram.mermaid(LABS["direct"].topology) == (
        "flowchart LR\n"
        '    n0["client"]\n'
        '    n1["server<br/>http-server, keep-alive"]\n'
        '    n0 ---|"198.18.0.2/24, 2001:db8::2/64 / 198.18.0.1/24, 2001:db8::1/64"| n1'
    )


def test_evidence_is_of_a_log_only() -> None:
    """The log line that a run shows is one that an expectation counted."""
    lab = LABS["lb3ports"]
    experiment = lab.experiments["the-log-names-errno-99"]
    assert any(isinstance(one.subject, Log) for one in experiment.expectations)
    assert "\nlog  2026/01/01" in drawn(text.run(run_of(lab, experiment)))
    assert "\nlog " not in drawn(text.run(run_of(lab, experiment, log="nothing of note")))
