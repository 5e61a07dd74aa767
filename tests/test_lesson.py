"""Lessons: what a student is told and when, the rule of grading, the walk in a pipe and at a terminal, and a class."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from conftest import ROOT, lab_processes, netns_tw
from test_rootless import NOBODY, opened

from netns_tw import cli, grade, lesson
from netns_tw.evidence.prediction import Prediction
from netns_tw.grade import Outcome, mark
from netns_tw.model import labs
from netns_tw.model.answers import Answers
from netns_tw.model.experiment import Experiment
from netns_tw.model.labs import Lab
from netns_tw.report import html, junit, saved, text
from netns_tw.report import json as to_json
from netns_tw.report import lesson as drawn
from netns_tw.report.console import console
from netns_tw.wait import wait_until

LABS = [labs.read_lab(labs.folder_of(name)) for name in labs.shipped_names()]
ALL = [pytest.param(lab, one, id=one.path) for lab in LABS for one in lab.experiments.values()]
DIRECT = next(lab for lab in LABS if lab.name == "direct")
PORTS, LATER = Prediction(20, 10, 11), Prediction(20, 0, 1)
RACE = Prediction(1000, 2, 1000)


@pytest.mark.parametrize(
    ("predicted", "outcome", "expected"),
    [
        # what happened is right, whatever the budget said
        (11, Outcome(20, 11, PORTS), "yes"),
        (9, Outcome(20, 9, PORTS), "yes"),
        (0, Outcome(1000, 0), "yes"),
        (20, Outcome(20, 20, Prediction(20, 20, 20)), "yes"),
        # the kernel's chance between closed bounds
        (10, Outcome(20, 11, PORTS), "yes"),
        (1, Outcome(20, 0, LATER), "yes"),
        (8, Outcome(200, 10, Prediction(200, 8, 10)), "yes"),
        (10, Outcome(11, 11, Prediction(11, 10, 11)), "yes"),
        (12, Outcome(20, 11, PORTS), "no"),
        (2, Outcome(20, 0, LATER), "no"),
        # the machine did what the budget excludes: facts first
        (11, Outcome(20, 9, PORTS), "no"),
        # a race
        (49, Outcome(1000, 5, RACE), "near"),
        (1, Outcome(1000, 5, RACE), "no"),
        (1000, Outcome(1000, 5, RACE), "no"),
        (500, Outcome(1000, 1000, RACE), "no"),
        (49, Outcome(1000, 5), "near"),
        (0, Outcome(1000, 5), "no"),
        (5, Outcome(1000, 0), "no"),
        # nothing predicted, or nothing to hold it against
        (None, Outcome(20, 11, PORTS), ""),
        (11, Outcome(20, None, PORTS), ""),
    ],
)
def test_the_rule(predicted: int | None, outcome: Outcome, expected: str) -> None:
    """grade.py's rule, case by case."""
    assert mark(predicted, outcome) == expected


def test_rows_and_total() -> None:
    """A row for each step, answered or not; the total counts steps that could be graded."""
    claims = ("no-reuse-back-to-back", "connect-is-what-fails", "recycle-is-gone")
    experiments = [DIRECT.experiments[claim] for claim in claims]
    known = {
        "no-reuse-back-to-back": [Outcome(20, 11, PORTS), Outcome(20, 0, LATER)],
        "connect-is-what-fails": [Outcome(20, 11)],
        "recycle-is-gone": [Outcome(20, None)],
    }
    said = {"no-reuse-back-to-back": {"back to back": 10, "again at once": 5}, "recycle-is-gone": {"a": 1}}
    ann = Answers(Path("ann.toml"), "ann", "direct", said | {"connect-is-what-fails": {"back to back": 7}})
    found = grade.rows(ann, experiments, known)
    assert found == [
        ("ann", "direct", "no-reuse-back-to-back", "back to back", 10, "10 or 11", 11, "yes"),
        ("ann", "direct", "no-reuse-back-to-back", "again at once", 5, "0 or 1", 0, "no"),
        ("ann", "direct", "connect-is-what-fails", "back to back", 7, "", 11, "near"),
        ("ann", "direct", "recycle-is-gone", "a request a second", None, "", None, ""),
    ]
    assert grade.total(ann, found) == ("ann", "direct", 3, 3, 1, 1)


@pytest.mark.parametrize(
    ("evil", "seen"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\\t=1"),
        ("\r=1", "'\\r=1"),
        ("a\n=1", "a\\n=1"),
        ("a=1", "a=1"),
    ],
)
def test_a_spreadsheet_gets_no_formula(evil: str, seen: str) -> None:
    """What a spreadsheet would carry out comes with a ' before it; numbers and all other text stay as they are."""
    shown = grade.as_csv(("a", "b", "c"), [(evil, -1, 'x,"=y')])
    assert list(csv.reader(io.StringIO(shown, newline=""))) == [["a", "b", "c"], [seen, "-1", 'x,"=y']]


def printed(what: object) -> str:
    out = io.StringIO()
    console(out).print(what)
    return " ".join(out.getvalue().split())


@pytest.mark.parametrize(("lab", "one"), ALL)
def test_nothing_is_given_away(lab: Lab, one: Experiment) -> None:
    """Before the answer: nodes, sysctls and requests, but not the claim, its name, a step's name, the source or why."""
    changed = lab.topology.with_nodes(one.nodes)
    programs = {name: node.programs.default for name, node in changed.nodes.items() if node.programs}
    shown = printed(drawn.situation("experiment 1 of 9", lab, one, programs, set())) + printed(drawn.opening(lab, 9))
    kept_back = [one.claim_id, one.claim, one.source, one.why, one.try_next]
    kept_back += [word for step in one.steps for word in (step.reference, step.name) if word]
    kept_back += [finding.name for finding in one.expectations]
    known = ("500 requests", "5000 requests", "first", "second", "back to back")  # what is asked about, and no more
    assert [word for word in kept_back if word not in known and " ".join(word.split()) in shown] == []
    assert "#" not in shown and "%%" not in shown
    for step in one.steps:
        asked = step.bare or f"{step.requests} requests with HTTP/{step.http} from {step.node}"
        assert asked in " ".join(shown.split())
    for node in one.nodes.values():
        assert all(f"{key} = {value} (for this experiment)" in shown for key, value in node.sysctls.items())


def test_what_changes_least_comes_first() -> None:
    """The lab as it is, then a sysctl more, then more of them."""
    names = [one.claim_id for one in lesson.in_order(DIRECT)]
    assert names[0] == "connect-is-what-fails"
    assert sorted(names) == sorted(DIRECT.experiments)
    assert names.index("no-reuse-back-to-back") < names.index("reuse-at-one-second-pace")
    assert names.index("reuse-at-one-second-pace") < names.index("reuse-waits-for-its-delay")


def commands_of(one: Experiment) -> list[str]:
    """The commands that an experiment's ``try`` names."""
    return re.findall(r"`(netns_tw [^`]+)`", " ".join(one.try_next.split()))


@pytest.mark.parametrize(("lab", "one"), ALL)
def test_every_try_names_a_command_that_is_one(lab: Lab, one: Experiment) -> None:
    """Each shipped experiment says what to try next; its options, labs and claims exist."""
    commands = commands_of(one)
    assert commands
    for command in commands:
        given = cli.parser().parse_args(shlex.split(command)[1:])
        if given.command == "topology":
            labs.pick(labs.read_lab(labs.folder_of(given.lab)), given.only)
        elif given.command == "replay" and not getattr(given, "into", None):
            assert list(labs.find([name if "/" in name else f"{lab.name}/{name}" for name in given.names]))


def test_the_key_try(tmp_path: Path) -> None:
    """It is read, must be text, and stands above the first table."""
    folder = tmp_path / "mine"
    (folder / "experiments").mkdir(parents=True)
    for name in ("topology.toml", "experiments/connect-is-what-fails.toml"):
        (folder / name).write_text((ROOT / "topologies" / "direct" / name).read_text())
    path = folder / "experiments" / "connect-is-what-fails.toml"
    whole = path.read_text()
    (one,) = labs.read_lab(folder).experiments.values()
    assert one.try_next.startswith("`netns_tw topology direct --only connect-is-what-fails --pcap packets`")
    path.write_text(re.sub(r"try = '''.*?'''", "try = 1", whole, flags=re.S))
    assert "try: must be a string, not 1" in netns_tw("validate", str(folder)).stderr
    path.write_text(re.sub(r"try = '''.*?'''", "", whole, flags=re.S) + '\ntry = "x"\n')
    assert "expect[3].try: unknown key here" in netns_tw("validate", str(folder)).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["drect"], "did you mean 'direct'?"),
        (["direct", "--only", "recycle-is-gon"], "did you mean 'recycle-is-gone'?"),
        (["direct", "--predict-only"], "--predict-only needs --answers FILE"),
        (["direct", "--name", "ann"], "--name needs --answers FILE"),
        (["direct", "--answers", "/nowhere/a.toml"], "--answers /nowhere/a.toml: cannot be made: No such file"),
        (["direct", "--answers", "."], "--answers .: is there already; name another file, or remove it"),
        (["direct", "--answers", "a.toml", "--name", "a\nb"], "--name must be printable, on one line, not 'a\\nb'"),
        (["direct", "--answers", "a.toml", "--name", " "], "--name must not be empty"),
        (["direct", "--summary"], "--summary is for grading, with --check ANSWERS"),
        (["direct", "--json"], "--json is for grading"),
        (["direct", "--check", "x", "--answers", "y"], "--answers is for a walk"),
    ],
)
def test_a_wrong_word(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2 and one line, before anything is asked."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["lesson", *arguments]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert message in shown.err
    assert list(tmp_path.iterdir()) == []


def test_homework(tmp_path: Path) -> None:
    """--predict-only asks all and tells nothing; what is skipped is not written, and no file is written over."""
    file = tmp_path / "ann.toml"
    ask = ("lesson", "crowd", "--predict-only", "--answers", str(file), "--name", "ann")
    done = netns_tw(*ask, input="11\n\n-1\n21\n 7 \n20\n0\n3\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("That is no whole number from 0 to 20; Enter alone skips.") == 2
    assert "PASS" not in done.stdout and "why" not in done.stdout
    found = file.read_text().split("\n\n")
    assert found[0].splitlines()[1:] == ["format  = 1", 'lab     = "crowd"', 'student = "ann"']
    assert found[1:] == [
        '[predictions.a-server-holds-more-than-any-client]\n"first client" = 11',
        '[predictions.one-client-at-a-time-uses-half-its-ports]\n"first client" = 7\n"second client" = 20',
        '[predictions.tw-buckets-cap-time-wait]\n"first client" = 0\n"second client" = 3\n',
    ]
    again = netns_tw(*ask, input="1\n")
    assert (again.returncode, again.stdout) == (2, "")
    assert "is there already; name another file, or remove it" in again.stderr
    assert file.read_text().split("\n\n") == found


def test_where_nothing_is_answered_no_file_is_left(tmp_path: Path) -> None:
    done = netns_tw("lesson", "crowd", "--predict-only", "--answers", str(tmp_path / "a.toml"), input="")
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (0, "", [])


QUICK = ("lesson", "direct", "--only", "no-reuse-back-to-back")


@pytest.mark.netns
def test_a_walk_through_a_pipe(tmp_path: Path) -> None:
    """Ask, ask again, replay, compare; the claim and why come after the answer only."""
    done = netns_tw(*QUICK, "--answers", str(tmp_path / "ann.toml"), input="many\n10\n20\n")
    assert (done.returncode, done.stderr) == (0, "")
    before, after = done.stdout.split("Replaying")
    assert before.count("\nStep 1: how many of the 20 requests succeed? ") == 2
    words = " ".join(after.split())
    assert re.search(r"1: back to back 10 10 or 11 1[01] of 20 1[01] x 404, \d+ x EADDRNOTAVAIL right", words)
    assert re.search(r"2: again at once 20 0 or 1 [01] of 20 .* wrong", words)
    one = DIRECT.experiments["no-reuse-back-to-back"]
    for kept_back in (one.claim, *(" ".join(label.split()) for label in (one.why, one.try_next))):
        assert kept_back not in " ".join(before.split()) and kept_back in words
    assert "Right: 1 of 2 predictions." in words
    assert '"again at once" = 20' in (tmp_path / "ann.toml").read_text()
    records = re.search(r"Records: (\S+)", done.stdout)
    assert records and [one.name for one in Path(records[1]).iterdir()] == ["direct--no-reuse-back-to-back.jsonl"]
    (run,) = (saved.load(path) for path in Path(records[1]).iterdir())
    tried = " ".join(one.try_next.split())
    assert f"try {tried}" in printed(text.run(run))
    assert json.loads(to_json.runs([run], 0))["experiments"][0]["try"] == tried
    assert tried in unescape(html.page([run]))
    failed = replace(run, judgement=replace(run.judgement, verdict="fail"))
    assert f"try: {tried}" in unescape(junit.document([failed]).decode())


@pytest.mark.netns
def test_the_end_of_the_input_ends_the_lesson(tmp_path: Path) -> None:
    """What was answered is still replayed; of the rest it is said that it was not asked."""
    done = netns_tw("lesson", "crowd", input="11")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Replaying") == 1
    assert "Right: 1 of 1 predictions." in done.stdout
    assert "The input ended; not asked: 2 experiments." in done.stdout
    assert "Replaying" not in netns_tw("lesson", "crowd", input="").stdout


class Terminal:
    """A command at a terminal of its own; what is typed reaches it, Ctrl-C as a signal."""

    def __init__(self, argv: list[str]) -> None:
        self.screen, side = pty.openpty()
        self.child = subprocess.Popen(["setsid", "-c", *argv], cwd=ROOT, stdin=side, stdout=side, stderr=side)
        os.close(side)
        self.seen = ""
        self._after = 0

    def see(self, words: str, deadline_s: float = 30) -> None:
        """Wait until *words* are on the screen, after what was seen before."""
        end = time.monotonic() + deadline_s
        while words not in self.seen[self._after :]:
            assert select.select([self.screen], [], [], max(0, end - time.monotonic()))[0], self.seen
            self.seen += self._read()
        self._after = self.seen.index(words, self._after) + len(words)

    def _read(self) -> str:
        try:
            data = os.read(self.screen, 4096)
        except OSError:  # EIO: nobody has the terminal open any more
            data = b""
        assert data, self.seen
        return data.decode()

    def type(self, keys: str) -> None:
        os.write(self.screen, keys.encode())


@contextmanager
def at_terminal(*argv: str) -> Iterator[Terminal]:
    """Run *argv* at a terminal; whatever happens it is gone at the end."""
    terminal = Terminal(list(argv))
    try:
        yield terminal
    finally:
        terminal.child.kill()
        terminal.child.wait(timeout=30)
        os.close(terminal.screen)


AS_ROOT = [sys.executable, "-m", "netns_tw"]


def as_nobody() -> list[str]:
    """The command as user nobody, without any capability."""
    drop = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --inh-caps=-all --bounding-set=-all"
    return ["unshare", "-m", "sh", "-ec", f'{opened() or ":"}; exec {drop} "$@"', "sh", *AS_ROOT]


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that everybody may write to, on a path that everybody may pass."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


@pytest.mark.netns
@pytest.mark.parametrize("is_root", [True, False], ids=["root", "rootless"])
def test_a_walk_at_a_terminal(is_root: bool, shared_folder: Path) -> None:
    """Root or not: questions and answers at a terminal, and the file is the student's own."""
    if not is_root and os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    file = shared_folder / "answers.toml"
    with at_terminal(*(AS_ROOT if is_root else as_nobody()), *QUICK, "--answers", str(file)) as terminal:
        terminal.see("Step 1: how many of the 20 requests succeed? ")
        terminal.type("x\r")
        terminal.see("That is no whole number from 0 to 20; Enter alone skips.")
        terminal.type("11\r")
        terminal.see("Step 2: how many of the 20 requests succeed? ")
        terminal.type("\x04")  # Ctrl-D: the end of the input
        terminal.see("Right: 1 of 1 predictions.")
        terminal.see(f"Answers: {file}")
        assert terminal.child.wait(timeout=30) == 0
    assert file.read_text().endswith('\n"back to back" = 11\n')
    assert file.stat().st_uid == (0 if is_root else NOBODY)
    assert lab_processes() == {}


@pytest.mark.netns
@pytest.mark.parametrize("when", ["at a question", "in a replay"])
def test_ctrl_c_keeps_what_was_answered(when: str, tmp_path: Path) -> None:
    """Exit code 130 whenever it comes; the answers given are in the file, and nothing is left."""
    file = tmp_path / "answers.toml"
    claim = "keepalive-dies-with-its-process"
    with at_terminal(*AS_ROOT, "lesson", "direct", "--only", claim, "--answers", str(file)) as terminal:
        terminal.see("Step 1: how")
        terminal.type("11\r")
        terminal.see("Step 2: how")
        if when == "in a replay":
            terminal.type("3\r")
            terminal.see("Replaying, about 19 s")
            wait_until(lambda: len(lab_processes()) > 2, "the lab runs", 10)
        terminal.type("\x03")
        terminal.see("netns_tw: interrupted; nothing is left behind")
        assert terminal.child.wait(timeout=30) == 130
        assert lab_processes() == {}
    written = ['"a request a second" = 11'] + ['"again at once" = 3'] * (when == "in a replay")
    assert file.read_text().splitlines()[-len(written) :] == written


def hand_in(folder: Path, student: str, file: str, *lines: str, lab: str = "crowd") -> None:
    """Write a student's answer file into *folder*."""
    head = f"format = 1\nlab = {json.dumps(lab)}\nstudent = {json.dumps(student)}\n"
    (folder / file).write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


HOLDS = "[predictions.a-server-holds-more-than-any-client]"
CAP = "[predictions.tw-buckets-cap-time-wait]"
TABLE = """\
student,lab,claim,step,prediction,predicted by the budget,observed,right
ann,crowd,a-server-holds-more-than-any-client,first client,11,all 11,11,yes
ann,crowd,a-server-holds-more-than-any-client,second client,0,all 11,11,no
ann,crowd,tw-buckets-cap-time-wait,first client,,all 11,11,
ann,crowd,tw-buckets-cap-time-wait,second client,,all 11,11,
ann,crowd,a-server-holds-more-than-any-client,first client,,all 11,11,
ann,crowd,a-server-holds-more-than-any-client,second client,,all 11,11,
ann,crowd,tw-buckets-cap-time-wait,first client,5,all 11,11,no
ann,crowd,tw-buckets-cap-time-wait,second client,,all 11,11,
'=cmd(),crowd,a-server-holds-more-than-any-client,first client,,all 11,11,
'=cmd(),crowd,a-server-holds-more-than-any-client,second client,,all 11,11,
'=cmd(),crowd,tw-buckets-cap-time-wait,first client,11,all 11,11,yes
'=cmd(),crowd,tw-buckets-cap-time-wait,second client,11,all 11,11,yes
"""
SUMMARY = """\
student,lab,steps,answered,right,near
ann,crowd,4,2,1,0
ann,crowd,4,1,0,0
'=cmd(),crowd,4,2,2,0
"""


@pytest.mark.netns
def test_a_class_is_graded_against_one_run(tmp_path: Path) -> None:
    """One table for all; who hands in what cannot be read does not stop the others, and is named, with exit code 2."""
    hand_in(tmp_path, "ann", "1.toml", HOLDS, '"first client" = 11', '"second client" = 0')
    hand_in(tmp_path, "ann", "2.toml", CAP, '"first client" = 5')
    hand_in(tmp_path, "=cmd()", "3.toml", CAP, '"first client" = 11', '"second client" = 11')
    good = sorted(tmp_path.iterdir())
    (tmp_path / "4.toml").write_bytes(b"\x00\xff")
    (tmp_path / "5.toml").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "6.toml")
    (tmp_path / "7.toml").write_text("#" * 10_000_000)
    hand_in(tmp_path, "eve", "8.toml", "[predictions.tw-bucket-cap-time-wait]")
    (tmp_path / "9.doc").write_text("ann: 200")
    assert netns_tw("replay", "crowd", "--out", str(tmp_path / "out"), "-q").returncode == 0
    check = ("lesson", "crowd", "--records", str(tmp_path / "out"), "--check")
    done = netns_tw(*check, *(str(path) for path in sorted(tmp_path.glob("[1-9]*"))))
    assert (done.returncode, done.stdout) == (2, TABLE)
    assert done.stderr.replace(f"{tmp_path}/", "").splitlines() == [
        "netns_tw: 4.toml:1: not UTF-8 text; save it as UTF-8",
        "netns_tw: 5.toml: a symbolic link; an answer file is a file itself",
        "netns_tw: 6.toml: not a regular file",
        "netns_tw: 7.toml: larger than 32 KiB: not an answer file",
        "netns_tw: 8.toml:4: predictions.tw-bucket-cap-time-wait: lab crowd has no claim "
        "'tw-bucket-cap-time-wait'; did you mean 'tw-buckets-cap-time-wait'?",
        "netns_tw: 9.doc:1: not TOML: Expected '=' after a key in a key/value pair, column 4",
        "netns_tw: 2 files by ann, each graded for itself: 1.toml, 2.toml",
    ]
    summary = netns_tw(*check, *map(str, good), "--summary")
    assert (summary.returncode, summary.stdout) == (0, SUMMARY)
    for_programs = json.loads(netns_tw(*check, *map(str, good), "--json").stdout)
    assert [one["right"] for one in for_programs["students"]] == [1, 0, 2]
    assert [one["right"] for one in for_programs["steps"][:3]] == ["yes", "no", ""]


@pytest.mark.netns
def test_a_class_is_graded_by_a_replay(tmp_path: Path) -> None:
    """Without records the lab is replayed, and of it only what somebody answered; what cannot run grades nobody."""
    lines = ["[predictions.connect-is-what-fails]", '"back to back" = 20', "[predictions.recycle-is-gone]"]
    hand_in(tmp_path, "bob", "bob.toml", *lines, '"a request a second" = 20', lab="direct")
    done = netns_tw("lesson", "direct", "--check", str(tmp_path))
    assert done.returncode == 0, done.stderr
    shown = re.sub(r",1[01],no$", ",10 or 11,no", done.stdout, flags=re.M)
    assert shown.splitlines()[1:] == [
        "bob,direct,connect-is-what-fails,back to back,20,10 or 11,10 or 11,no",
        "bob,direct,recycle-is-gone,a request a second,20,,,",
    ]
    assert "direct/recycle-is-gone: nobody is graded on it, skip: net.ipv4.tcp_tw_recycle" in done.stderr
    empty = netns_tw("lesson", "direct", "--records", str(tmp_path), "--check", str(tmp_path / "bob.toml"))
    assert empty.returncode == 2
    assert "holds no record" in empty.stderr
    assert "bob,direct,connect-is-what-fails,back to back,20,,," in empty.stdout
