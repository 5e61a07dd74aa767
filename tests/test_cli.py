"""The command as a user types it: answers at once, exits with the right code, never shows a traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, netns_tw

from netns_tw import __version__

COMMANDS = (
    *("topology", "replay", "lesson", "up", "ls", "exec", "shell", "set", "logs", "watch", "down"),
    *("list", "show", "validate", "budget", "report", "diff", "doctor", "completion", "help"),
)
SLOW = {
    *("pyroute2", "asyncio", "rich", "nsenter", "msgspec", "argcomplete", "jinja2", "pygal"),
    *("dataclasses", "inspect", "ast", "dis", "difflib", "json", "traceback", "subprocess", "socket", "pickle"),
    *("pathlib", "fnmatch", "urllib", "locale"),
    *("netns_tw.kernel", "netns_tw.report", "netns_tw.runs", "netns_tw.model.budget", "netns_tw.model.locate"),
}
"""What a command that answers at once must not wait for: 1 to 300 ms each."""
MODEL = {"netns_tw.model.experiment_file", "netns_tw.model.topology", "netns_tw.model.expression"}
"""What reads a lab whole."""


def refused(*arguments: str) -> str:
    """What a command line says that is refused: on standard error alone, exit code 2, no traceback."""
    done = netns_tw(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    return done.stderr


def printed(*arguments: str) -> str:
    """What a command line prints that succeeds without a word on standard error."""
    done = netns_tw(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_version() -> None:
    assert printed("--version") == f"netns_tw {__version__}\n"


def test_help_names_every_command_and_exit_code() -> None:
    """The first page leads to all others and says what the exit codes mean."""
    shown = printed("--help")
    assert [name for name in COMMANDS if f"\n    {name} " not in shown] == []
    assert "5 inconclusive" in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(command: str) -> None:
    """Each command's help ends in a line that can be typed, and the exit codes."""
    shown = printed(command, "--help")
    example = shown.split("example:\n", 1)[1].splitlines()[0].strip()
    assert example.removeprefix("sudo ").startswith(f"python -m netns_tw {command}")
    assert "exit codes:" in shown


def test_list() -> None:
    """Every lab and claim, one a line."""
    lines = printed("list").splitlines()
    assert len(lines) == 4 + 26
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == [
        "crowd",
        "direct",
        "lb3ports",
        "scale",
    ]
    assert any(line.startswith("  lb3ports/lb-exhausts-its-ports  ") for line in lines)
    assert [one["name"] for one in json.loads(printed("list", "--json"))] == ["crowd", "direct", "lb3ports", "scale"]


def test_topology_without_a_lab_lists_them() -> None:
    assert printed("topology") == printed("list")


def test_show() -> None:
    """Diagram, sysctls, port budget and claims of one lab, as text, JSON and Mermaid."""
    shown = printed("show", "lb3ports")
    assert "client ──── lb (nginx) ──── backend (http-server, race)" in shown
    assert "net.ipv4.ip_local_port_range = 1024 1026" in shown
    assert "lb3ports/the-log-names-errno-99" in shown
    assert json.loads(printed("show", "lb3ports", "--json"))["nodes"]["lb"]["usable_ports"] == "2"
    assert printed("show", "lb3ports", "--mermaid").startswith("flowchart LR\n")


def test_validate_good() -> None:
    """Labs by name and by path, from any folder."""
    shown = printed("validate", "direct", str(ROOT / "topologies" / "crowd"))
    assert [line.split(": ")[1] for line in shown.splitlines()] == ["ok, 13 experiments", "ok, 3 experiments"]
    assert json.loads(printed("validate", "direct", "--json")) == []


def test_validate_bad() -> None:
    """Every problem of every lab is on standard error, what is good on standard output; exit code 2."""
    bad = ROOT / "tests" / "errors"
    done = netns_tw("validate", "direct", str(bad / "wrong-format"), str(bad / "bad-listen"))
    assert done.returncode == 2
    assert done.stdout.endswith("direct: ok, 13 experiments\n")
    assert done.stderr.count("\n") == 2
    assert "bad-listen/topology.toml:9: nodes.server.program.listen: must be" in done.stderr
    assert "wrong-format/topology.toml:1: format: this version reads format 1, not 2" in done.stderr
    as_json = netns_tw("validate", "--json", str(bad / "wrong-format"))
    assert as_json.returncode == 2
    assert json.loads(as_json.stdout)[0]["line"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["lst"], "did you mean 'list'?"),
        (["list", "--jsn"], "unrecognized arguments: --jsn"),
        (["show"], "the following arguments are required: LAB"),
        (["show", "lb3port"], "no lab is called 'lb3port'; did you mean 'lb3ports'?"),
        (["show", ""], "no lab is called ''"),
        (["show", "./nowhere"], "./nowhere: no lab there"),
        (["validate", "drect"], "did you mean 'direct'?"),
        (["topology", "direct", "--only", "recycle-is-gon"], "did you mean 'recycle-is-gone'?"),
        (["topology", "--only", "recycle-is-gone"], "which lab?"),
        (["topology", "direct", "--hold"], "--only CLAIM"),
        (["replay", "direct/recycle"], "lab direct has no claim 'recycle'"),
        (["replay", "direct", "--client", "crul"], "did you mean 'curl'?"),
        (["replay", "direct", "--server", "ngin"], "did you mean 'nginx'?"),
        (["validate", "./" + "x" * 5000], "no lab there"),
        (["replay", "direct", "-j", "0"], "'0' is no number from 1 up"),
        (["replay", "direct", "-j", "many"], "'many' is no number from 1 up"),
        (["replay", "/dev/null"], "no lab there"),
        (["replay", "direct/" + "x" * 5000], "has no claim"),
    ],
)
def test_a_wrong_word_is_said_with_what_is_right(arguments: list[str], message: str) -> None:
    """A mistyped command, option, lab or claim exits with 2 and, where there is one, the near match."""
    assert message in refused(*arguments)


def test_a_lab_without_experiments(tmp_path: Path) -> None:
    """There is nothing to replay, and that is said."""
    shutil.copy(ROOT / "topologies" / "direct" / "topology.toml", tmp_path)
    assert "no experiment to replay" in refused("topology", f"{tmp_path}/")


@pytest.mark.parametrize("case", sorted(path.name for path in (ROOT / "tests" / "errors").iterdir())[::6])
def test_a_wrong_file_has_no_traceback(case: str) -> None:
    """show and replay refuse a wrong file as validate does."""
    folder = str(ROOT / "tests" / "errors" / case)
    lines = len((ROOT / "tests" / "errors" / case / "expected.txt").read_text().splitlines())
    if case != "no-topology":
        assert refused("show", folder).count(folder) == lines


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """``list | head -1`` ends without a traceback: standard output is closed before all is written."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "netns_tw", "list"], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
    shell = f"{sys.executable} -m netns_tw list | head -1"
    head = subprocess.run(["sh", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (head.stdout.split(":")[0], head.stderr) == ("crowd", "")


def test_a_terminal_that_is_not_utf_8_gets_an_answer() -> None:
    """What its encoding cannot hold is shown escaped."""
    done = netns_tw("show", "lb3ports", env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert (done.returncode, done.stderr) == (0, "")
    assert r"client \u2500\u2500" in done.stdout


def imported(*argv: str, codes: tuple[int, ...] = (0,)) -> set[str]:
    """What Python imports to run *argv*, which ends with one of *codes*."""
    command = [sys.executable, "-X", "importtime", *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in codes
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    ("arguments", "needless"),
    [
        (
            ["--help"],
            {*SLOW - {"fnmatch"}, "tomllib", "netns_tw.model", "netns_tw.commands.run", "netns_tw.commands.validate"},
        ),
        (["--version"], {*SLOW, "tomllib", "netns_tw.model", "netns_tw.commands.run", "netns_tw.commands.validate"}),
        (["list"], {*SLOW, *MODEL, "shutil", "netns_tw.commands.run"}),
        (["validate", "lb3ports"], {*SLOW, "shutil", "netns_tw.commands.run"}),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_what_needs_no_kernel_starts_fast(arguments: list[str], needless: set[str]) -> None:
    """They import little more than argparse and tomllib, and no other command's module."""
    found = imported("-m", "netns_tw", *arguments)
    assert "netns_tw.cli" in found
    more = found - imported("-c", "import argparse, tomllib")  # which this Python itself may have at its start
    assert {name for name in more for one in needless if name == one or name.startswith(f"{one}.")} == set()


def test_list_as_json_needs_no_kernel() -> None:
    """It reads the labs whole, and still nothing that builds or draws."""
    tops = {name.partition(".")[0] for name in imported("-m", "netns_tw", "list", "--json")}
    assert tops & {"pyroute2", "asyncio", "rich", "nsenter"} == set()


@pytest.mark.netns
@pytest.mark.parametrize(
    "words", [["ls"], ["down", "x"], ["exec", "x", "server", "--", "true"], ["set", "x", "server.tcp_tw_reuse=1"]]
)
def test_what_builds_nothing_does_without_what_builds(words: list[str]) -> None:
    """pyroute2 takes longer than all else together, and a lab that is up needs it no more."""
    found = imported("-m", "netns_tw", *words, codes=(0, 2))
    assert "netns_tw.kernel.inside" in found
    assert found & {"pyroute2", "nsenter", "netns_tw.kernel.link"} == set()


@pytest.mark.netns
@pytest.mark.parametrize("words", [["show", "direct"], ["ls"], ["up", "direct"]])
def test_what_judges_nothing_does_without_what_judges(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To draw a lab takes rich; records, and what is made of them, take as long again."""
    monkeypatch.setenv("NETNS_TW_LABS", str(tmp_path))
    try:
        found = imported("-m", "netns_tw", *words)
    finally:
        netns_tw("down", "--all")
    assert found & {"msgspec", "netns_tw.evidence", "netns_tw.verdict", "netns_tw.model.lines", "pyroute2"} == set()


LATE = """
import os, sys
command = os.getpid()
def say(event, given):
    if event == "import" and os.getpid() != command:
        os.write(2, f"late: {given[0]}\\n".encode())
sys.addaudithook(say)
from netns_tw import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.netns
@pytest.mark.parametrize(
    "words", [["up", "direct"], ["replay", "direct/connect-is-what-fails", "--quiet", "--pcap", "pcap"]]
)
def test_a_sandbox_imports_nothing(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is there before the fork: one import then, not one in each sandbox, where /run for one is another folder."""
    monkeypatch.setenv("NETNS_TW_LABS", str(tmp_path / "labs"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    try:
        done = subprocess.run(
            [sys.executable, "-c", LATE, *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    finally:
        netns_tw("down", "--all")
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if line.startswith("late:")] == []


def test_a_lab_without_programs_loads_little() -> None:
    """What builds it takes as long to load as it takes to build: nothing there that starts programs, or logs."""
    found = imported("-c", "import netns_tw.lab, netns_tw.kernel.sandbox")
    more = found - imported("-c", "pass")  # which this Python itself may have at its start
    heavy = {"dataclasses", "inspect", "nsenter", "pathlib", "subprocess", "shutil", "logging", "argparse", "threading"}
    assert more & heavy == set()
