"""Records read back from their files: whole, cut short, of another format, misfitting, hostile, or none at all."""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from conftest import ROOT, lab_processes, netns_tw

from netns_tw.errors import UsageError
from netns_tw.model import labs
from netns_tw.model.experiment import Experiment
from netns_tw.model.labs import Lab
from netns_tw.model.lines import (
    BEFORE,
    Batch,
    Built,
    Canary,
    Captured,
    Cost,
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
    from_json,
    to_json,
)
from netns_tw.model.record import Record
from netns_tw.report import diff, html, junit, ktap, saved, text
from netns_tw.report import json as json_report
from netns_tw.report.console import console
from netns_tw.report.run import Run
from netns_tw.verdict import judge
from netns_tw.wait import wait_until

LABS = {name: labs.read_lab(labs.folder_of(name)) for name in labs.shipped_names()}
SHIPPED = [(lab, one) for lab in LABS.values() for one in lab.experiments.values()]
HOSTILE = 'a"b\\c\nd\re\x1b[31m\u202e\u2028</script><b>&amp;]]> # SKIP\nok 1 forged'
T = TypeVar("T")
TIME_WAIT: Row = ("time-wait", "198.18.0.2", 1024, "198.18.0.1", 80, 59000)
CANARY: Row = ("time-wait", "127.0.0.1", 65535, "127.0.0.1", 65534, 60000)
LISTENING: Row = ("listening", "198.18.0.1", 80, "0.0.0.0", 0, 0)
SYSCTLS = {
    "net.ipv4.ip_local_port_range": "32768 60999",
    "net.ipv4.tcp_tw_reuse": "2",
    "net.ipv4.tcp_tw_reuse_delay": "1000",
    "net.ipv4.tcp_timestamps": "1",
    "net.ipv4.tcp_max_tw_buckets": "131072",
}


def lines_of(lab: Lab, experiment: Experiment, ok: Sequence[int] = (11, 0), log: Sequence[str] = ()) -> Iterator[Line]:
    """A run in which the first ``ok[n]`` requests of step n succeed, each with a TIME_WAIT of its own afterwards."""
    nodes = lab.topology.with_nodes(experiment.nodes).nodes
    versions = {"netns_tw": "0.1.0", "nginx": "1.22.1", "h11": "0.16.0"}
    where = (lab.name, experiment.claim_id, "Linux 6.18.5", versions, labs.files_of(lab.topology, experiment))
    yield Header(*where, None, None, "2026-01-02T03:04:05.678+00:00", 2)
    programs = {"server": Ran("http-server", "http-server (keep-alive)", "198.18.0.1:80", "keep-alive")}
    sysctls = {name: {**SYSCTLS, **node.sysctls} for name, node in nodes.items()}
    yield Built(1.0, sysctls, programs if "server" in nodes else {})
    for name in nodes:
        yield Canary(1.5, name, "before", CANARY)
    for name in nodes:
        yield Snapshot(BEFORE, 2.0, name, [LISTENING] if name == "server" else [], {"TcpActiveOpens": 1}, 0, [])
    taken = 0
    for number, (step, succeed) in enumerate(zip(experiment.steps, (*ok, 0, 0), strict=False)):
        began = 1000.0 * (number + 1)
        if step.client == "bare":
            failed = [("connect", "EADDRNOTAVAIL", step.requests - 5)]
            yield Batch(number, 0, step.requests, 5, failed, began, 9.0, (14.0, 30.0, 90.0))
        for index in range(step.requests if step.client != "bare" else 0):
            is_ok = index < succeed
            status, errno, call = (404, None, None) if is_ok else (None, "EADDRNOTAVAIL", "connect")
            port = 1024 + index if is_ok else None
            yield Response(number, index, began + index, 0.5, status, errno, call, port)
            taken += is_ok
        rows: list[Row] = [("time-wait", "198.18.0.2", 1024 + index, "198.18.0.1", 80, 59000) for index in range(taken)]
        yield Sample(began + 1, step.node, taken, 0, {"TcpExtTW": taken})
        yield Dump(began + 2, step.node, rows[:1])
        for name in nodes:
            if name == step.node:
                grown = {"TcpActiveOpens": 1 + taken, "TcpExtTW": taken}
                yield Snapshot(number, began + 900, name, rows, grown, taken, list(log))
            else:
                yield Snapshot(number, began + 900, name, [LISTENING], {"TcpPassiveOpens": taken}, 0, list(log))
        yield StepEnd(number, step.name, began, began + 800)
    for name in nodes:
        yield Canary(9998.0, name, "after", CANARY)
    yield End(9999.0)


DIRECT = LABS["direct"]
CLAIM = DIRECT.experiments["no-reuse-back-to-back"]
LINES = list(lines_of(DIRECT, CLAIM))
"""Eleven of eleven ports are taken, then none is left: this run passes."""
TEXT = [to_json(line) + b"\n" for line in LINES]
NAME = "direct--no-reuse-back-to-back.jsonl"


def first(kind: type[T], lines: Sequence[Line] = LINES) -> T:
    """The first line of a kind."""
    return next(line for line in lines if isinstance(line, kind))


HEADER, BUILT = first(Header), first(Built)
SNAPSHOT, STEP_END = first(Snapshot), first(StepEnd)
RESPONSES = [line for line in LINES if isinstance(line, Response)]
START = LINES[: LINES.index(RESPONSES[0])]
"""All before the first request."""


def run_of(lines: Sequence[Line], lab: Lab = DIRECT, experiment: Experiment = CLAIM, path: Path | None = None) -> Run:
    """A run as it would be judged while it is made."""
    record = Record()
    for line in lines:
        record.add(line)
    topology = lab.topology.with_nodes(experiment.nodes)
    return Run(experiment, topology, record, judge(record, experiment, topology), path)


PASSING = run_of(LINES)


def written(path: Path, lines: Sequence[Line | bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line if isinstance(line, bytes) else to_json(line) + b"\n" for line in lines))
    return path


def refused(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        saved.load(path)
    assert all(one == "\n" or one.isprintable() for one in str(caught.value))
    return str(caught.value)


def draw(one: Run) -> None:
    """Every report of a run; none may stumble over it."""
    console(io.StringIO()).print(text.run(one), text.summary([one]))
    json.loads(json_report.runs([one], 0))
    ktap.document([one])
    junit.document([one])
    html.page([one])
    for left, right in ((one, PASSING), (PASSING, one)):
        pairs = diff.pair([left], [right])
        found = [diff.compare(left, right)]
        console(io.StringIO()).print(diff.as_text(found, pairs))
        json.loads(diff.as_json(found, pairs, 0))


@pytest.mark.parametrize(("lab", "experiment"), SHIPPED, ids=[one.path for _, one in SHIPPED])
def test_what_was_recorded_is_read_back(tmp_path: Path, lab: Lab, experiment: Experiment) -> None:
    """Experiment, lab, lines and judgement are those of the run itself, from the file alone."""
    lines = list(lines_of(lab, experiment))
    live, read = run_of(lines, lab, experiment), saved.load(written(tmp_path / "x.jsonl", lines))
    assert (read.experiment, read.record, read.judgement) == (experiment, live.record, live.judgement)
    assert replace(read.topology, folder=live.topology.folder) == live.topology
    assert read.path == tmp_path / "x.jsonl"
    draw(read)


def test_a_verdict_is_never_read_but_found_again(tmp_path: Path) -> None:
    """The same lines with one failure more come to another verdict."""
    assert saved.load(written(tmp_path / "a", LINES)).judgement.verdict == "pass"
    last = [line for line in RESPONSES if line.ok][-1]
    other = [replace_line(line, status=502) if line == last else line for line in LINES]
    judgement = saved.load(written(tmp_path / "b", other)).judgement
    assert judgement.verdict == "fail"
    assert [(one.actual, one.expected) for one in judgement.findings if not one.holds] == [(11, "== ok = 10")]


def replace_line(line: Line, **changes: Any) -> Line:
    """*line* with some of its fields changed."""
    values = {**json.loads(to_json(line)), **changes}
    return from_json(json.dumps(values))


@pytest.mark.parametrize("cut", range(0, 100, 3))
def test_every_beginning_of_a_record_is_cut_short(tmp_path: Path, cut: int) -> None:
    """Wherever a kill stopped the writing: what lines are whole are there, the verdict is broken and says why."""
    whole = b"".join(TEXT)
    first = len(TEXT[0])
    at = first + (len(whole) - 1 - first) * cut // 99
    one = saved.load(written(tmp_path / "x.jsonl", [whole[:at]]))
    expected = Record()
    for line in whole[:at].split(b"\n")[:-1]:
        expected.add(from_json(line))
    assert one.record == expected
    assert (one.judgement.verdict, one.judgement.reason) == ("broken", "the record is cut short")
    draw(one)


@pytest.mark.parametrize("tail", [b"", b"{", b'{"kind":"end","at_ms":1}', b"garbage\n", b"\0" * 4096, b"\xff\xfe\n"])
def test_a_last_line_that_is_not_whole_is_left_out(tmp_path: Path, tail: bytes) -> None:
    """Without a newline, or no line of a record: then the record is cut short, and all before it is shown."""
    one = saved.load(written(tmp_path / "x.jsonl", [*TEXT[:-1], tail]))
    assert one.judgement.reason == "the record is cut short"
    assert len(one.record.responses) == 40
    after_its_end = saved.load(written(tmp_path / "y.jsonl", [*TEXT, tail]))
    assert after_its_end.judgement.verdict == ("broken" if tail else "pass")


def test_a_trouble_is_the_last_line(tmp_path: Path) -> None:
    """What stopped the run is its verdict; it may follow the end, where the writer was killed right after that."""
    for before, trouble in ((START, Trouble(3, "no such sysctl", skip=True)), (LINES, Trouble(4, "it died"))):
        one = saved.load(written(tmp_path / "x.jsonl", [*before, trouble]))
        assert (one.judgement.reason, one.judgement.exit_code) == (trouble.message, trouble.exit_code)
        draw(one)
    assert "after the end" in refused(written(tmp_path / "x.jsonl", [*LINES, trouble, trouble]))


def test_a_wrong_line_in_the_middle(tmp_path: Path) -> None:
    """No kill leaves one: the file is no record, and its line is named."""
    path = written(tmp_path / "x.jsonl", [*TEXT[:16], b"\x1b[2J\n", *TEXT[16:]])
    assert refused(path).startswith(f"{path}:17: not a line of a record: ")
    written(path, [*TEXT[:16], b'{"kind":"end","at_ms":1,"\\u001b[2J":2}\n', *TEXT[16:]])
    assert refused(path).startswith(f"{path}:17: not a line of a record: ")
    written(path, [*TEXT[:16], b'{"kind":"dump","at_ms":1,"node":"a\xff","sockets":[]}\n', *TEXT[16:]])
    assert refused(path).startswith(f"{path}:17: not a line of a record: ")


def batch(index: int, step: int = 0, ok: int = 9, took_ms: float = 1.0) -> Batch:
    """Ten bare connections, of which one failed."""
    return Batch(step, index, 10, ok, [("connect", "EADDRNOTAVAIL", 1)], 1.0, took_ms, (1.0, 2.0, 3.0))


MISFITS: list[tuple[str, list[Line], str]] = [
    ("a second header", [*START, HEADER], "a second header"),
    ("a second built", [*START, BUILT], "a second line of kind built"),
    ("before built", [HEADER, SNAPSHOT], "comes before the line of kind built"),
    ("a second end", [*LINES, LINES[-1]], "a line after the end of its record"),
    ("a line after the end", [*LINES, SNAPSHOT], "a line after the end of its record"),
    ("built: an unknown node", [HEADER, replace_line(BUILT, sysctls={"moon": {}})], "the lab has no node 'moon'"),
    ("built: a node is missing", [HEADER, replace_line(BUILT, sysctls={"client": {}})], "no sysctls of node server"),
    (
        "built: an unknown program",
        [HEADER, replace_line(BUILT, programs={"moon": {"kind": "", "words": "", "listen": ""}})],
        "the lab has no node 'moon'",
    ),
    ("a response of no step", [*START, Response(2, 0, 1.0, 1.0, 200, None, None, 1)], "no step number 2"),
    ("a response before all", [*START, Response(-1, 0, 1.0, 1.0, 200, None, None, 1)], "no step number -1"),
    ("a response too many", [*START, Response(0, 20, 1.0, 1.0, 200, None, None, 1)], "has no request number 20"),
    ("a response twice", [*START, RESPONSES[0], RESPONSES[0]], "a second response to request number"),
    ("no time at all", [*START, Response(0, 0, 1.0, -1.0, 200, None, None, 1)], "less than no time"),
    ("neither status nor errno", [*START, Response(0, 0, 1.0, 1.0, None, None, None, 1)], "neither status nor"),
    ("a snapshot of no step", [*START, Snapshot(2, 1.0, "client", [], {}, 0, [])], "no step number 2"),
    ("a snapshot of no node", [*START, Snapshot(0, 1.0, "moon", [], {}, 0, [])], "the lab has no node 'moon'"),
    ("a snapshot twice", [*START, SNAPSHOT], "a second snapshot of node 'client' after step number -1"),
    ("an end of no step", [*START, StepEnd(2, "x", 1.0, 2.0)], "no step number 2"),
    ("a step ends early", [*START, *RESPONSES[:5], STEP_END], "step 'back to back' ends after 5 of its 20 responses"),
    ("a step ends twice", [*LINES[:-1], STEP_END], "a second end of step 'back to back'"),
    (
        "a step of another name",
        [replace_line(one, name="x") if one == STEP_END else one for one in LINES],
        "with another name",
    ),
    (
        "a step ends before it began",
        [replace_line(one, ended_ms=1.0) if one == STEP_END else one for one in LINES],
        "before it began",
    ),
    ("a sample of no node", [*START, Sample(1.0, "moon", 0, 0, {})], "the lab has no node 'moon'"),
    ("a dump of no node", [*START, Dump(1.0, "moon", [])], "the lab has no node 'moon'"),
    ("a canary of no node", [*START, Canary(1.0, "moon", "before", TIME_WAIT)], "the lab has no node 'moon'"),
    ("a batch of no step", [*START, batch(0, step=2)], "no step number 2"),
    ("a batch too long", [*START, batch(15)], "has no request number 24"),
    ("a batch twice", [*START, batch(0), batch(9)], "a second response to request number 9"),
    ("a batch and a response", [*START, RESPONSES[3], batch(0)], "a second response to request number 0"),
    ("a batch that does not add up", [*START, batch(0, ok=8)], "do not add up"),
    ("a batch in no time", [*START, batch(0, took_ms=-1.0)], "less than no time"),
    ("a cost of no node", [*START, Cost(0, 1.0, "moon", 1, 1, 1.0, 1.0)], "the lab has no node 'moon'"),
    ("a capture of no link", [*START, Captured("a -- b", [], 0, 0)], "the lab has no link 'a -- b'"),
]


@pytest.mark.parametrize(("lines", "message"), [one[1:] for one in MISFITS], ids=[one[0] for one in MISFITS])
def test_lines_that_do_not_fit(tmp_path: Path, lines: list[Line], message: str) -> None:
    """A line must fit to its record's lab and to the lines before it, else no report could rely on them."""
    found = refused(written(tmp_path / "x.jsonl", lines))
    assert message in found
    assert re.match(r".*/x\.jsonl:\d+: ", found)


def test_a_header_that_does_not_fit_its_files(tmp_path: Path) -> None:
    """Lab and claim are those of the files; what is wrong in these is said with its line, as of files on disk."""
    path = tmp_path / "x.jsonl"
    files = HEADER.files
    for changes, message in (
        ({"lab": "moon"}, "a run of lab 'moon', but with the files of lab 'direct'"),
        ({"claim_id": "moon"}, "a run of claim 'moon', whose file it does not hold"),
        ({"claim_id": HOSTILE}, "whose file it does not hold"),
        ({"files": {}}, f"{path}/topology.toml: the record does not hold this file"),
        ({"files": {"topology.toml": files["topology.toml"]}}, "whose file it does not hold"),
        ({"files": {**files, "topology.toml": "x = 1\n[["}}, f"{path}/topology.toml:2: not TOML"),
        ({"files": {**files, "experiments/a.toml": "claim = 1"}}, f"{path}/experiments/a.toml"),
    ):
        assert message in refused(written(path, [replace_line(HEADER, **changes), *LINES[1:]]))
    many = {**files, **{f"experiments/{number:03}.toml": "" for number in range(100)}}
    assert refused(written(path, [replace_line(HEADER, files=many)])).endswith("more")


def test_a_file_of_another_format(tmp_path: Path) -> None:
    """Whose move is next is said: a newer netns_tw reads it."""
    path = tmp_path / "x.jsonl"
    newer = json.dumps({**json.loads(TEXT[0]), "format": 2, "news": HOSTILE}).encode() + b"\n"
    reads = "this one reads format 1"
    assert refused(written(path, [newer])) == f"{path}: written in format 2 by a newer netns_tw; {reads}"
    assert refused(written(path, [newer.replace(b": 2,", b": 0,")])) == f"{path}: written in format 0; {reads}"
    assert len(refused(written(path, [newer.replace(b": 2,", b": 2" + b"0" * 4000 + b",")]))) < 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty: the run ended before it wrote a line"),
        (b"\n", "not a record"),
        (b"hello", "not a record"),
        (b"\x7fELF\x02\x01\x01\0\n\0", "not a record"),
        (b"\x1f\x8b\x08" * 50 + b"\n", "not a record"),
        (b'{"kind":"end","at_ms":1.0}\n', "not a record: its first line is no header"),
        (b"null\n[]\n", "not a record"),
        (TEXT[0][:-1], "cut short within its first line"),
        (TEXT[0][:40], "cut short within its first line"),
        (TEXT[0].replace(b'"direct"', b'"direct\xff"'), "not a record"),
        (b"[" * 200_000 + b"\n", "not a record"),
    ],
)
def test_what_is_no_record(tmp_path: Path, content: bytes, message: str) -> None:
    """Any other file is refused with one line that says why."""
    path = written(tmp_path / "x.jsonl", [content])
    assert refused(path).startswith(f"{path}")
    assert message in refused(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    """A FIFO would wait for its writer, a device might never end: neither is opened for long."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for path, message in (
        (tmp_path / "fifo", "a record is a regular file"),
        (Path("/dev/zero"), "a record is a regular file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "nothing", "No such file or directory"),
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        assert refused(path).endswith(message) or message in refused(path)
    assert "\\x1b" in refused(written(tmp_path / "\x1b[2J", [b"x\n"]))


def test_a_line_without_end_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are bounded, so that no file can fill the memory."""
    monkeypatch.setattr(saved, "MAX_LINE_BYTES", 8 << 20)
    with open(tmp_path / "x.jsonl", "wb") as file:
        file.write(b"".join(TEXT[:5]))
        file.truncate(1 << 40)  # a terabyte of NULs, and no newline
    assert refused(tmp_path / "x.jsonl").endswith("x.jsonl:6: longer than 8 MiB: no line of a record")


@pytest.mark.parametrize("pattern", ["(a+)+$", "(?:a|aa)+$", "a*a*a*b", r"(?:a*)*\d"])
def test_a_regular_expression_cannot_take_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    """The CPU time to judge a record is bounded, the timer is gone afterwards, and nobody's handler is lost."""
    monkeypatch.setattr(saved, "CPU_S", 0.3)
    monkeypatch.setattr(saved, "CPU_S_PER_BYTE", 0.0)
    lab = LABS["lb3ports"]
    experiment = lab.experiments["the-log-names-errno-99"]
    lines = list(lines_of(lab, experiment, log=["a" * 20_000 + "c"]))
    header = first(Header, lines)
    name = f"experiments/{experiment.claim_id}.toml"
    hostile = header.files[name].replace("'upstream'", f"'{pattern}'")
    assert hostile != header.files[name]
    lines[0] = replace_line(header, files={**header.files, name: hostile})
    before = signal.getsignal(signal.SIGVTALRM)
    began = time.process_time()
    assert "not judged within 0 s of CPU time" in refused(written(tmp_path / "x.jsonl", lines))
    assert time.process_time() - began < 10
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGVTALRM) is before


def test_hostile_strings_stay_data(tmp_path: Path) -> None:
    """Whatever a record says of messages, versions and logs is read as it is, and every report can draw it."""
    lines: list[Line] = []
    for line in lines_of(DIRECT, CLAIM, log=[HOSTILE]):
        if isinstance(line, Header):
            lines.append(replace_line(line, kernel=HOSTILE, versions={HOSTILE: HOSTILE}, client=HOSTILE, began=HOSTILE))
        elif isinstance(line, Built):
            ran = {"kind": HOSTILE, "words": HOSTILE, "listen": HOSTILE}
            nodes = {name: {HOSTILE: HOSTILE, **found} for name, found in line.sysctls.items()}
            lines.append(replace_line(line, notes=[HOSTILE], programs={"server": ran}, sysctls=nodes))
        elif isinstance(line, Response) and line.status is None:
            lines.append(replace_line(line, errno=HOSTILE, call=HOSTILE, message=HOSTILE))
        else:
            lines.append(line)
    one = saved.load(written(tmp_path / "x.jsonl", lines))
    assert one.record.snapshots[0, "client"].log == [HOSTILE]
    assert (one.record.header, one.record.built) == (lines[0], lines[1])
    draw(one)


def test_huge_numbers_can_be_drawn(tmp_path: Path) -> None:
    """The largest numbers that a line may hold."""
    lines: list[Line] = []
    for line in LINES:
        if isinstance(line, Snapshot):
            lines.append(replace_line(line, counters={"TcpExtTW": 2**63 - 1, "TcpActiveOpens": -(2**63)}, at_ms=1e9))
        elif isinstance(line, Response):
            lines.append(replace_line(line, at_ms=-1e6 if line.index % 2 else 1e9, took_ms=1e9))
        else:
            lines.append(line)
    draw(saved.load(written(tmp_path / "x.jsonl", lines)))


def test_load_all_takes_files_and_folders_in_order(tmp_path: Path) -> None:
    """Each file counts once, however it is named; what cannot be read is a message and stops nothing."""
    one, other = written(tmp_path / "a" / NAME, LINES), written(tmp_path / "b" / NAME, START)
    (tmp_path / "b" / "notes.txt").write_text("not a record, and not taken for one")
    bad = written(tmp_path / "b" / "bad.jsonl", [b"x\n"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "again.jsonl").symlink_to(one)
    names = [other, tmp_path / "empty", tmp_path / "a", tmp_path / "no", tmp_path / "b", tmp_path / "again.jsonl"]
    found, problems = saved.load_all(names)
    assert [run.path for run in found] == [other, one]
    assert [problem.split(":")[0] for problem in problems] == [
        str(path) for path in (tmp_path / "empty", tmp_path / "no", bad)
    ]
    assert saved.load_all([]) == ([], [])


def test_only_the_last_attempt_counts(tmp_path: Path) -> None:
    """A repetition beside it replaces a first attempt; the same claim of another run, or lab, stands for itself."""
    again = [replace_line(HEADER, attempt=2), *LINES[1:]]
    other_files = [replace_line(HEADER, files={**HEADER.files, "nginx.conf": "# mine"}), *LINES[1:]]
    first, second = written(tmp_path / "a" / NAME, LINES), written(tmp_path / "a" / "again.jsonl", again)
    mine, elsewhere = written(tmp_path / "a" / "mine.jsonl", other_files), written(tmp_path / "b" / NAME, LINES)
    found, problems = saved.load_all([tmp_path / "a", tmp_path / "b"])
    assert ({run.path for run in found}, problems) == ({second, mine, elsewhere}, [])
    assert [run.attempts for run in saved.load_all([first])[0]] == [1]


class Mutations:
    """Records that were changed at random, by a seed."""

    def __init__(self, seed: int, originals: Sequence[bytes]) -> None:
        self._random = random.Random(seed)
        self._originals = originals
        self._others = [self._drop, self._repeat, self._swap, self._byte, self._cut]
        self._words = [
            "",
            "\x1b[2J",
            "client",
            "server",
            "lb",
            "9" * 400,
            "x y",
            "time-wait",
            "-1",
            "::1",
            "both",
            HOSTILE,
        ]

    def one(self) -> bytes:
        """One more record."""
        lines = self._random.choice(self._originals).split(b"\n")
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            at = self._random.randrange(len(lines))
            change = self._random.choice([self._value] * 6 + self._others)
            lines = change(lines, at) or [b""]
        return b"\n".join(lines)

    def _value(self, lines: list[bytes], at: int) -> list[bytes]:
        try:
            lines[at] = json.dumps(self._changed(json.loads(lines[at]))).encode()
        except ValueError:
            lines[at] += b"x"
        return lines

    def _changed(self, value: Any) -> Any:
        pick = self._random.choice
        if isinstance(value, dict | list) and value:
            copy: Any = value.copy()
            key = pick(list(value) if isinstance(value, dict) else range(len(value)))
            change = self._random.random()
            if change < 0.1:
                del copy[key]
            elif change < 0.2:
                copy.update({pick(self._words): value[key]}) if isinstance(copy, dict) else copy.append(value[key])
            else:
                copy[key] = self._changed(value[key])
            return copy
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return pick((0, 1, 2, -1, 80, 65536, 2**32, 2**63 - 1, value + 1, value - 1, 0.5))
        if isinstance(value, float):
            return pick((0.0, -1.0, 1e9, -1e6, 1e300, value + 1, value - 1000, 1))
        if isinstance(value, str) and len(value) > 100:
            word = pick(value.split())
            return value.replace(word, pick((*value.split(), *self._words)), 1)
        return pick((*self._words, None, 0, [], {})) if self._random.random() < 0.2 else pick(self._words)

    def _drop(self, lines: list[bytes], at: int) -> list[bytes]:
        return [*lines[:at], *lines[at + 1 :]]

    def _repeat(self, lines: list[bytes], at: int) -> list[bytes]:
        return [*lines[:at], self._random.choice(lines), *lines[at:]]

    def _swap(self, lines: list[bytes], at: int) -> list[bytes]:
        other = self._random.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
        return lines

    def _byte(self, lines: list[bytes], at: int) -> list[bytes]:
        text = bytearray(lines[at] or b"x")
        text[self._random.randrange(len(text))] = self._random.randrange(256)
        return [*lines[:at], bytes(text), *lines[at + 1 :]]

    def _cut(self, lines: list[bytes], at: int) -> list[bytes]:
        return [*lines[:at], lines[at][: self._random.randrange(len(lines[at]) + 1)]]


def originals() -> list[bytes]:
    """Small records of every sort: whole, skipped, with a canary and a capture."""
    extra: list[Line] = [
        Canary(3.0, "client", "before", CANARY),
        Captured("client:eth0 -- server:eth0", [("198.18.0.2", 1024, "198.18.0.1", 80, 1000.0, "opener")], 9, 0),
        Cost(-1, 4.0, "client", 0, 100, 3.0, 0.5),
    ]
    found: list[Sequence[Line]] = [LINES, [*START, *extra, *LINES[len(START) :]], [HEADER, Trouble(3, "no", skip=True)]]
    found += [list(lines_of(LABS["crowd"], one, (20, 20))) for one in LABS["crowd"].experiments.values()]
    return [b"".join(to_json(line) + b"\n" for line in lines) for lines in found]


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.stress) for seed in range(1, 20))]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mutated_record_is_refused_or_can_be_drawn(tmp_path: Path, seed: int) -> None:
    """Every record that was changed at random is a UsageError or a run that all reports draw; with --stress, 2000."""
    mutations, seen = Mutations(seed, originals()), Counter[str]()
    for _ in range(100):
        path = written(tmp_path / "x.jsonl", [mutations.one()])
        try:
            one = saved.load(path)
        except UsageError as error:
            assert all(each == "\n" or each.isprintable() for each in str(error))
            seen["refused"] += 1
            continue
        draw(one)
        seen["drawn"] += 1
    assert min(seen["refused"], seen["drawn"]) > 10


@pytest.mark.netns
def test_a_real_run_is_judged_from_its_record_as_it_was_live(tmp_path: Path) -> None:
    """The record holds all that the verdict rests on: the same JSON, from the run and from its record."""
    done = netns_tw("replay", "direct/no-reuse-back-to-back", "--out", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    found, problems = saved.load_all([tmp_path])
    assert problems == []
    assert json.loads(json_report.runs(found, 0)) == json.loads(done.stdout)
    draw(found[0])


MOMENTS: dict[str, Callable[[bytes], bool]] = {
    "as soon as the file is there": lambda data: True,
    "after the header": lambda data: data.count(b"\n") >= 1,
    "after the lab is built": lambda data: b'"kind":"built"' in data,
    "within the first step": lambda data: data.count(b'"kind":"response"') >= 5,
    "between the steps": lambda data: b'"kind":"stepend"' in data,
    "within the second step": lambda data: data.count(b'"kind":"response"') >= 30,
}


@pytest.mark.netns
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_was_killed_is_reported(tmp_path: Path, moment: str) -> None:
    """SIGKILL to the command ends its sandbox at once; each line that was written is read, and it says: cut short."""
    argv = [sys.executable, "-m", "netns_tw", "replay", "direct/no-reuse-back-to-back", "--out", str(tmp_path), "-q"]
    path = tmp_path / NAME
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
        try:
            wait_until(lambda: path.exists() and MOMENTS[moment](path.read_bytes()), moment, 30.0, pause_s=0.001)
        finally:
            command.kill()
    wait_until(lambda: not lab_processes(), "the sandbox is gone", 10.0)
    data = path.read_bytes()
    if data.count(b"\n") == 0:
        assert "empty" in refused(path) or "cut short within its first line" in refused(path)
        return
    one = saved.load(path)
    if b'"kind":"end"' not in data:  # else it was through before the signal came
        assert (one.judgement.verdict, one.judgement.reason) == ("broken", "the record is cut short")
    assert len(one.record.responses) == data.count(b'"kind":"response"')
    draw(one)
