"""report and diff as a user calls them: what is printed, what is written, and the exit code."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import ROOT, netns_tw
from test_saved import CLAIM, DIRECT, HEADER, HOSTILE, LABS, LINES, NAME, lines_of, replace_line, run_of, written

from netns_tw import cli
from netns_tw.commands import report
from netns_tw.errors import UsageError
from netns_tw.model.lines import Line, StepEnd, Trouble
from netns_tw.report import ktap

FAILING = list(lines_of(DIRECT, CLAIM, (11, 20)))
SKIPPED: list[Line] = [HEADER, Trouble(3, "no tcp_tw_recycle", skip=True)]
LATE = [replace_line(line, settled=False) if isinstance(line, StepEnd) else line for line in LINES]
VERDICTS: dict[str, tuple[list[Line], int]] = {
    "pass": (LINES, 0),
    "fail": (FAILING, 1),
    "error": ([HEADER, Trouble(2, "nginx: [emerg]")], 2),
    "skip": (SKIPPED, 3),
    "broken": ([HEADER, Trouble(4, "blind")], 4),
    "inconclusive": (LATE, 5),
}
TITLE = "direct/no-reuse-back-to-back"


@dataclass
class Done:
    """What a command did."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Command:
    """Carry out a command line."""

    def carry_out(*words: str | Path) -> Done:
        capfd.readouterr()
        code = cli.main(list(map(str, words)))
        sys.stdout.flush()
        return Done(code, *capfd.readouterr())

    return carry_out


@pytest.mark.parametrize("verdict", VERDICTS)
def test_report_says_what_the_run_itself_said(call: Command, tmp_path: Path, verdict: str) -> None:
    """The page of a run, what it ran on, and the exit code of its verdict."""
    lines, code = VERDICTS[verdict]
    done = call("report", written(tmp_path / NAME, lines))
    assert (done.code, done.err) == (code, "")
    assert done.out.startswith(f"{TITLE}  {verdict.upper()} ──")
    assert done.out.endswith("Linux 6.18.5, netns_tw 0.1.0, nginx 1.22.1, h11 0.16.0\n")


def test_a_record_that_was_cut_short_is_broken_and_shown(call: Command, tmp_path: Path) -> None:
    """Its steps are there, and what it says of them."""
    done = call("report", written(tmp_path / NAME, [*LINES[:-4], b'{"kind":"sna']))
    assert (done.code, done.err) == (4, "")
    assert "broken: the record is cut short" in done.out
    assert "11 x 404, 9 x EADDRNOTAVAIL" in done.out


def test_many_records_end_in_a_summary(call: Command, tmp_path: Path) -> None:
    """The gravest verdict decides."""
    for number, (lines, _) in enumerate(VERDICTS.values()):
        written(tmp_path / f"{number}.jsonl", lines)
    done = call("report", tmp_path)
    assert done.code == 4
    assert "1 pass, 1 fail, 1 error, 1 broken, 1 inconclusive, 1 skip" in done.out
    assert call("report", tmp_path / "0.jsonl", tmp_path / "3.jsonl").code == 0


def test_without_a_name_it_is_the_last_run(call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the runs that are kept; where none is, that is said."""
    monkeypatch.setenv("NETNS_TW_RUNS", str(tmp_path))
    none = call("report")
    assert (none.code, none.out) == (2, "")
    assert f"no run is kept in {tmp_path}" in none.err
    written(tmp_path / "20260102T030405.000001Z-7" / NAME, LINES)
    written(tmp_path / "20260102T030405.000002Z-3" / NAME, FAILING)
    assert call("report").code == 1


def test_what_cannot_be_read_stops_no_other(call: Command, tmp_path: Path) -> None:
    """Each gets its message on standard error; the others are reported; the exit code is that of a usage error."""
    good, bad = written(tmp_path / NAME, FAILING), written(tmp_path / "bad.jsonl", [b"\x1b[2J\n"])
    xml = tmp_path / "out.xml"
    done = call("report", bad, tmp_path / "nothing", good, "--junit", xml)
    assert done.code == 2
    assert done.out.startswith(f"{TITLE}  FAIL")
    assert [line.split(": ")[:2] for line in done.err.splitlines()] == [
        ["netns_tw", f"{bad}:1"],
        ["netns_tw", f"{tmp_path}/nothing"],
    ]
    assert ElementTree.parse(xml).getroot().get("tests") == "1"
    alone = call("report", bad, "--junit", tmp_path / "none.xml")
    assert (alone.code, alone.out, (tmp_path / "none.xml").exists()) == (2, "", False)
    answer = call("report", bad, "--json")
    assert (answer.code, json.loads(answer.out)["experiments"]) == (2, [])


def test_json(call: Command, tmp_path: Path) -> None:
    """The JSON of the run itself."""
    path = written(tmp_path / NAME, FAILING)
    found = json.loads(call("report", path, "--json").out)
    assert (found["exit_code"], found["experiments"][0]["verdict"]) == (1, "fail")
    assert found["experiments"][0]["record"] == str(path)


def test_several_outputs_in_one_call(call: Command, tmp_path: Path) -> None:
    """KTAP replaces the text; files come beside either."""
    path = written(tmp_path / NAME, LINES)
    xml, html = tmp_path / "a.xml", tmp_path / "a.html"
    done = call("report", path, "--ktap", "--junit", xml, "--html", html)
    assert (done.code, done.err) == (0, "")
    assert done.out == ktap.document([run_of(LINES, path=path)])
    assert ElementTree.parse(xml).getroot().tag == "testsuites"
    assert "<html" in html.read_text()
    assert TITLE in call("report", path, "--junit", xml).out


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_a_report_on_standard_output_is_all_there_is(call: Command, tmp_path: Path, name: str) -> None:
    """``-`` and /dev/stdout, which must never be replaced by a file."""
    path = written(tmp_path / NAME, LINES)
    assert ElementTree.fromstring(call("report", path, "--junit", name).out).get("tests") == "1"
    page = call("report", path, "--html", name).out
    assert page.lstrip().lower().startswith("<!doctype html")
    assert os.path.islink("/dev/stdout")


@pytest.mark.parametrize(
    "words", [("--json", "--ktap"), ("--ktap", "--junit", "-"), ("--html", "-", "--junit", "/dev/stdout")]
)
def test_two_outputs_cannot_both_be_printed(call: Command, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = call("report", written(tmp_path / NAME, LINES), *words)
    assert (done.code, done.out) == (2, "")
    assert "both print to standard output" in done.err


def test_a_file_that_cannot_be_made_is_said_before_any_work(call: Command, tmp_path: Path) -> None:
    """A folder that is not there, or a folder in the file's place."""
    path = written(tmp_path / NAME, LINES)
    for name, why in ((tmp_path / "no" / "a.xml", "is not there"), (tmp_path, "is a folder"), ("", "is a folder")):
        done = call("report", path, "--junit", name)
        assert (done.code, done.out) == (2, "")
        assert why in done.err


def test_a_report_that_cannot_be_written_loses_no_other(tmp_path: Path) -> None:
    """A disk that is full half way (here: a limit on the size of files) leaves the old report as it was, and nothing
    else beside it; KTAP and the smaller file are there, then comes one message, and exit code 2."""
    path, xml, html = written(tmp_path / NAME, LINES), tmp_path / "a.xml", tmp_path / "a.html"
    html.write_text("old")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))

    words = ["--html", str(html), "--junit", str(xml), "--ktap"]
    done = netns_tw("report", str(path), *words, preexec_fn=limit)
    assert done.returncode == 2
    assert done.stderr == f"netns_tw: {html}: this report cannot be written: File too large\n"
    assert done.stdout == ktap.document([run_of(LINES, path=path)])
    assert ElementTree.parse(xml).getroot().tag == "testsuites"
    assert (html.read_text(), sorted(os.listdir(tmp_path))) == ("old", sorted(["a.html", "a.xml", NAME]))


def test_a_new_file_has_the_mode_of_any_other(tmp_path: Path) -> None:
    """By the umask; and an old one is replaced by the name that a link means, not the link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.xml").write_text("old")
    link = tmp_path / "a.xml"
    link.symlink_to("real/a.xml")
    before = os.umask(0o027)
    try:
        report.write_reports([run_of(LINES)], link, None, ktap=False)
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert stat.S_IMODE(link.stat().st_mode) == 0o640
    assert ElementTree.parse(tmp_path / "real" / "a.xml").getroot().get("tests") == "1"
    assert os.listdir(tmp_path / "real") == ["a.xml"]


def test_under_sudo_a_report_belongs_to_who_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else he could not replace it without root; where he may not write, root does."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be anybody else")
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65534")
    found = [run_of(LINES)]
    for owner in (65534, 0):
        folder = Path(tempfile.mkdtemp(dir="/tmp"))
        try:
            os.chown(folder, owner, owner)
            for _ in range(2):
                report.write_reports(found, folder / "a.xml", None, ktap=False)
            assert [(one.name, one.stat().st_uid) for one in folder.iterdir()] == [("a.xml", owner)]
        finally:
            shutil.rmtree(folder)


def test_a_pipe_of_the_shell_is_written_to(tmp_path: Path) -> None:
    """``--junit >(tool)`` names a pipe, /dev/fd/63."""
    path = written(tmp_path / NAME, LINES)
    read, write = os.pipe()
    done = netns_tw("report", str(path), "--junit", f"/dev/fd/{write}", pass_fds=(write,))
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    assert (done.returncode, done.stderr) == (0, "")
    assert ElementTree.fromstring(data).get("tests") == "1"


@pytest.mark.parametrize("words", [[], ["--ktap"], ["--json"], ["--html", "-"]])
def test_a_reader_that_has_seen_enough_changes_nothing(tmp_path: Path, words: list[str]) -> None:
    """``report | head -1``: the files are written and the exit code is the verdict's."""
    path, xml = written(tmp_path / NAME, FAILING), tmp_path / "a.xml"
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "netns_tw", "report", str(path), *words, "--junit", str(xml)]
    done = subprocess.run(argv, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
    assert ElementTree.parse(xml).getroot().get("failures") == "1"


def test_write_reports_raises_after_all_are_tried(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What topology and replay call, too."""
    with pytest.raises(UsageError, match="cannot be written"):
        report.write_reports([run_of(LINES)], tmp_path / "no" / "a.xml", tmp_path / "a.html", ktap=True)
    assert capfdbinary.readouterr().out.startswith(b"KTAP version 1\n1..1\n")
    assert (tmp_path / "a.html").exists()


def test_hostile_strings_are_shown_escaped(call: Command, tmp_path: Path) -> None:
    """No report obeys what a record says."""
    header = replace_line(HEADER, kernel=HOSTILE, versions={HOSTILE: HOSTILE}, client=HOSTILE)
    path = written(tmp_path / NAME, [header, *LINES[1:-1], Trouble(4, HOSTILE)])
    for words in ([], ["--ktap"], ["--junit", "-"], ["--html", "-"]):
        done = call("report", path, *words)
        assert (done.code, done.err) == (4, "")
        assert not set(done.out) & set("\x1b\u202e\u2028\r")
        assert "\\x1b[31m" in done.out


@pytest.mark.parametrize("words", [["--json"], ["--ktap"], ["--junit", "-"]])
def test_reports_start_fast(tmp_path: Path, words: list[str]) -> None:
    """Neither pyroute2 nor asyncio is imported, and rich only where it draws."""
    path = written(tmp_path / NAME, LINES)
    argv = [sys.executable, "-X", "importtime", "-m", "netns_tw", "report", str(path), *words]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "netns_tw" in imported
    assert imported & {"pyroute2", "asyncio", "nsenter", "rich", "jinja2"} == set()


def test_diff_of_the_same(call: Command, tmp_path: Path) -> None:
    """One line, and 0."""
    a, b = written(tmp_path / "a" / NAME, LINES), written(tmp_path / "b" / NAME, LINES)
    for left, right in ((a, b), (a, a), (a.parent, b.parent), (a, b.parent)):
        done = call("diff", left, right)
        assert (done.code, done.out, done.err) == (0, f"no difference: {TITLE} (pass)\n", "")


def test_diff_exits_1_when_verdicts_differ(call: Command, tmp_path: Path) -> None:
    """Another kernel alone is a difference that is shown, and no failure."""
    a, b = written(tmp_path / "a" / NAME, LINES), written(tmp_path / "b" / NAME, FAILING)
    other = written(tmp_path / "c" / NAME, [replace_line(HEADER, kernel="Linux 6.1.0"), *LINES[1:]])
    assert call("diff", a, b).code == 1
    done = call("diff", a, other)
    assert (done.code, "Linux 6.1.0" in done.out) == (0, True)
    answer = call("diff", a, b, "--json")
    assert (answer.code, json.loads(answer.out)["exit_code"]) == (1, 1)


def test_diff_of_what_cannot_be_compared(call: Command, tmp_path: Path) -> None:
    """Bad input is 2, whatever else there is; folders without a claim in common are bad input."""
    a, b = written(tmp_path / "a" / NAME, LINES), written(tmp_path / "b" / NAME, FAILING)
    bad = written(tmp_path / "b" / "bad.jsonl", [b"x\n"])
    both = call("diff", a.parent, b.parent)
    assert (both.code, both.err.count("\n")) == (2, 1)
    assert "FAIL in B" in both.out
    none = call("diff", a, bad)
    assert (none.code, none.out) == (2, "")
    assert f"{bad}:1: not a record" in none.err
    crowd = LABS["crowd"]
    for number, one in enumerate(crowd.experiments.values()):
        written(tmp_path / "c" / f"{number}.jsonl", list(lines_of(crowd, one)))
    alone = call("diff", a.parent, tmp_path / "c")
    assert (alone.code, alone.out) == (2, "")
    assert "have no experiment in common" in alone.err
