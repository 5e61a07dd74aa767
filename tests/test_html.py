"""The HTML page: whole, well formed, self-contained; whatever a record holds or lacks."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from html_pages import (
    BACK_TO_BACK,
    DIRECT,
    HOSTILE,
    RUN,
    SHIPPED,
    SKIPPED,
    Page,
    hostile_run,
    lines_of,
    problems_of,
    replace_header,
    run_of,
    time_waits,
)

from netns_tw.model import labs
from netns_tw.model.experiment import Experiment
from netns_tw.model.labs import Lab
from netns_tw.model.lines import Built, Dump, End, Header, Line, Response, Sample, Snapshot, StepEnd, Trouble
from netns_tw.model.topology import Topology
from netns_tw.report import html, sections


@pytest.mark.parametrize(("lab", "experiment"), SHIPPED, ids=[one.path for _, one in SHIPPED])
def test_every_shipped_experiment_makes_a_whole_page(lab: Lab, experiment: Experiment) -> None:
    """Well formed, self-contained, named images, captioned tables, headings in order; before it ran, and skipped."""
    nodes = lab.topology.with_nodes(experiment.nodes).nodes
    header = Header(lab.name, experiment.claim_id, "Linux", {}, labs.files_of(lab.topology, experiment))
    built = Built(1.0, {name: {} for name in nodes}, {}, [])
    cases: list[list[Line]] = [[], [header], [header, Trouble(3, "it lacks", skip=True)], [header, built]]
    for lines in cases:
        text = html.page([run_of(lines, lab, experiment)])
        assert problems_of(text) == []
        assert experiment.claim in Page(text).words


def test_a_page_says_all_that_matters() -> None:
    """Verdict, source, prediction, what was seen, expectations, proof, closers, why, sysctls, versions, the command."""
    text = html.page([RUN])
    assert problems_of(text) == []
    words = Page(text).words
    for one in (
        "The claim holds on this kernel.",
        "direct/no-reuse-back-to-back",
        "With tcp_tw_reuse = 0, eleven ports are eleven connections a minute",
        "11 x 404, 9 x 000",
        "10 or 11 succeed",
        "11 x 404, 9 x EADDRNOTAVAIL",
        "as many succeed as there are usable ports",
        ">= usable_ports_min = 10 and <= usable_ports_max = 11",
        "Proof:",
        "all 11 usable ports of client",
        "Whoever sends the first FIN keeps the 4-tuple",
        "ports exhausted at 0.050 s",
        "client: free ports",
        "client: local ports 1024-1034 towards 198.18.0.1:80",
        "client → server",
        "net.ipv4.tcp_tw_reuse 0 set by the lab",
        "Linux 6.18.5",
        "4 times a known TIME_WAIT was made, seen by every instrument, and gone again",
        "20 samples, at most 31 ms apart, 4 ms of CPU time in 0.40 s",
        "client:eth0 -- server:eth0: 12 packets, 1 dropped",
        "sudo python -m netns_tw topology direct --only no-reuse-back-to-back",
        'ip_local_port_range = "1024 1034"',
    ):
        assert one in words
    assert "Summary" not in words  # there is nothing to sum up


def test_many_runs() -> None:
    """The verdicts are counted and summed up in a sentence; each run is linked; one that passes is folded, one that
    fails is open; 22 pages' worth is below 3 MB."""
    failed = replace(RUN, judgement=replace(RUN.judgement, verdict="fail"))
    text = html.page([RUN] * 20 + [failed, SKIPPED])
    assert problems_of(text) == []
    page = Page(text)
    assert "1 of 22 claims does not hold here. ✗ 1 fail ✓ 20 pass – 1 skip" in page.words
    assert [one["href"] for one in page.all("a")][1:] == [f"#experiment-{number}" for number in range(1, 23)]
    folded = re.split(r'<section class="experiment"', text)[1:]
    assert [part.count('<details class="part" open') for part in folded] == [0] * 20 + [4] + [0]
    assert "no such sysctl" in page.words
    assert len(text.encode()) < 3_000_000


@pytest.mark.parametrize(
    ("verdicts", "sentence"),
    [
        ([], "No experiment was replayed."),
        (["pass"], "The claim holds on this kernel."),
        (["pass", "pass", "skip"], "All 2 claims hold on this kernel; 1 could not be tested here."),
        (["fail"], "The claim does not hold here."),
        (["broken"], "There is no verdict on the claim."),
        (["skip"], "Nothing could be tested here."),
        (["pass", "broken"], "1 of 2 experiments has no verdict on the claim."),
        (["inconclusive", "error"], "2 of 2 experiments have no verdict on the claim."),
        (["fail", "fail", "broken"], "2 of 3 claims do not hold here."),
    ],
)
def test_the_sentence_never_says_more_than_the_verdicts(verdicts: list[str], sentence: str) -> None:
    """A claim that was not judged is never said to hold."""
    runs = [replace(RUN, judgement=replace(RUN.judgement, verdict=one)) for one in verdicts]
    text = html.page(runs)
    assert problems_of(text) == []
    assert sentence in Page(text).words


def test_every_record_that_was_cut_short_makes_a_page() -> None:
    """A record can end after any of its lines."""
    lines = list(lines_of(DIRECT, BACK_TO_BACK))
    for count in [*range(10), *range(10, len(lines), 5), len(lines) - 1]:
        text = html.page([run_of(lines[:count])])
        assert problems_of(text) == []
        assert "the record is cut short" in Page(text).words


@pytest.mark.parametrize("kind", [Header, Built, Response, Snapshot, Sample, Dump, StepEnd, End])
def test_every_record_that_lacks_a_kind_of_line_makes_a_page(kind: type) -> None:
    """No samples, no dumps, no snapshots, no responses, no header: said, never a traceback."""
    text = html.page([run_of([one for one in lines_of(DIRECT, BACK_TO_BACK) if not isinstance(one, kind)])])
    assert problems_of(text) == []


def test_hostile_words_are_shown_and_never_markup() -> None:
    """A page with hostile words has the elements of a page with harmless ones, and shows what it was given."""
    good, bad = (html.page([hostile_run(one)]) for one in ("words" * 20, HOSTILE))
    assert problems_of(good) == []
    assert problems_of(bad) == []
    assert Page(bad).shape == Page(good).shape
    assert all(one == "\n" or one.isprintable() for one in bad)
    assert "<script>alert(1)</script>" in Page(bad).text
    assert "{{ 7*7 }}" in Page(bad).text
    assert r"\x1b[2J\x00\x9b31m\u202egnp.exe\u2066\ud800" in Page(bad).text


def test_a_text_that_would_fill_the_page_is_cut() -> None:
    """A log line of a million letters is cut, and the page says by how much."""
    findings = [replace(one, evidence=["x" * 1_000_000]) for one in RUN.judgement.findings]
    text = html.page([replace(RUN, judgement=replace(RUN.judgement, findings=findings))])
    assert len(text) < 300_000
    assert "950,000 more letters are left out here" in text


def test_huge_numbers_and_times() -> None:
    """Counters of 63 bits, eleven days, negative times, steps without length, thousands of ports."""
    ports = range(1024, 6024)
    counters = {"TcpExtTW": 2**63 - 1, "TcpExtTWRecycled": 2**63 - 1, "TcpActiveOpens": 2**63 - 1}
    record = run_of(list(lines_of(DIRECT, BACK_TO_BACK))).record
    record.samples += [Sample(at, "client", 2**63 - 1, 2**63 - 1, counters) for at in (-1e6, 100.0, 1e9)]
    record.responses += [Response(0, 2**63 - 1, at, 1e9, 999, None, None, 65535) for at in (-1e6, 1e9)]
    record.steps[1] = StepEnd(1, "x", 1e9, 1e9)
    record.steps[0] = StepEnd(0, "x", 5.0, 5.0)
    record.dumps.append(Dump(200.0, "client", time_waits(5000, 200.0, ports)))
    record.snapshots[0, "client"] = Snapshot(0, 1e9, "client", time_waits(5000, 1e9, ports), counters, 2**63 - 1, [])
    for topology in map(with_range, ("1024 1034", "1024 6023", "1 65535", "1024 1024")):
        text = html.page([replace(RUN, record=record, topology=topology)])
        assert problems_of(text) == []
        assert len(text) < 600_000


def with_range(ports: str) -> Topology:
    node = RUN.topology.nodes["client"]
    sysctls = {**node.sysctls, "net.ipv4.ip_local_port_range": ports}
    return replace(RUN.topology, nodes={**RUN.topology.nodes, "client": replace(node, sysctls=sysctls)})


def test_the_command_replays_the_same() -> None:
    """Client and servers as they were chosen; every word quoted for a shell; a lab of one's own needs its path."""
    header = RUN.record.header
    assert header is not None
    record = replace(RUN.record, header=replace_header(header, client="curl", servers="nginx; reboot"))
    run = replace(RUN, record=record, experiment=replace(RUN.experiment, lab="my lab"))
    command = (
        "sudo python -m netns_tw topology 'my lab' --only no-reuse-back-to-back --client curl --server 'nginx; reboot'"
    )
    assert sections.command(run) == command
    foreign = [run, replace(RUN, topology=replace(RUN.topology, text="another lab of this name"))]
    assert [sections.section(one, 1).is_own_lab for one in (RUN, *foreign)] == [False, True, True]
    assert "in place of my lab" in Page(html.page([run])).words
