"""Options from the environment: the command line wins, a bad value names its variable, no command is broken."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path

import pytest
from conftest import ROOT, netns_tw
from test_saved import LINES, NAME, written

from netns_tw import cli
from netns_tw.commands import environment
from netns_tw.commands.report import check_outputs
from netns_tw.errors import UsageError

NAMED = re.compile(r"\bNETNS_TW_[A-Z_]*[A-Z]\b")
NEITHER = "is neither yes (1, true, yes) nor no (0, false, no)"
ELSEWHERE = [environment.PREFIX + one for one in ("X", "A_TYPO")]


def given(words: str, **variables: str) -> argparse.Namespace:
    """What a command line and NETNS_TW_ variables, named without that prefix, ask for."""
    return cli.parse(words.split(), {environment.PREFIX + name: value for name, value in variables.items()})


@pytest.mark.parametrize(
    ("words", "variables", "option", "value"),
    [
        ("topology direct", {}, "client", None),
        ("topology direct", {"CLIENT": "curl"}, "client", "curl"),
        ("topology direct --client h11", {"CLIENT": "curl"}, "client", "h11"),
        ("replay", {"SERVER": "nginx"}, "server", "nginx"),
        ("replay", {}, "jobs", 12),
        ("replay", {"JOBS": "3"}, "jobs", 3),
        ("replay -j 12", {"JOBS": "3"}, "jobs", 12),
        ("replay --jobs 2", {"JOBS": "3"}, "jobs", 2),
        ("replay", {"OUT": "a dir"}, "out", Path("a dir")),
        ("replay", {"OUT": ""}, "out", None),
        ("replay", {"KEEP": "0"}, "keep", 0),
        ("replay", {"PCAP": "p"}, "pcap", Path("p")),
        ("replay", {"JUNIT": "j.xml"}, "junit", Path("j.xml")),
        ("report", {"HTML": "h.html"}, "html", Path("h.html")),
        ("report", {"KTAP": "yes"}, "ktap", True),
        ("report", {"KTAP": "No"}, "ktap", False),
        ("replay", {"QUIET": "TRUE"}, "quiet", True),
        ("replay -q", {"QUIET": "0"}, "quiet", True),
        ("list", {"JSON": "1"}, "json", True),
        ("list", {"JSON": "false"}, "json", False),
        ("list", {"JSON": ""}, "json", False),
        # what the command line prints to standard output puts the environment's wish for it aside, and only that
        ("report --ktap", {"JSON": "1"}, "json", False),
        ("report --html -", {"JSON": "1"}, "json", False),
        ("report --json", {"JUNIT": "-"}, "junit", None),
        ("report --json", {"JUNIT": "j.xml"}, "junit", Path("j.xml")),
        ("report --junit j.xml", {"JSON": "1"}, "json", True),
        ("topology direct --only x --hold", {"JSON": "1"}, "json", False),
        ("topology direct --only x --hold", {"KTAP": "1"}, "ktap", False),
        ("topology direct --only x --hold", {"PCAP": "p"}, "pcap", None),
        ("topology direct --only x --hold", {"HTML": "h.html"}, "html", Path("h.html")),
        ("topology direct --watch", {"KTAP": "1"}, "ktap", False),
        ("topology direct --watch", {"QUIET": "1"}, "quiet", False),
        ("show direct --mermaid", {"JSON": "1"}, "json", False),
    ],
)
def test_a_variable_stands_where_no_option_was_typed(
    words: str, variables: dict[str, str], option: str, value: object
) -> None:
    """With the option's own type; an empty one counts as unset; the command line wins."""
    assert getattr(given(words, **variables), option) == value


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"CLIENT": "crul"}, "NETNS_TW_CLIENT: 'crul' is none of h11, curl; did you mean 'curl'?"),
        ({"JOBS": "0"}, "NETNS_TW_JOBS: '0' is no number from 1 up"),
        ({"KEEP": "all"}, "NETNS_TW_KEEP: 'all' is no number from 0 up"),
        ({"JSON": "ture"}, f"NETNS_TW_JSON: 'ture' {NEITHER}; did you mean 'true'?"),
        ({"QUIET": "2"}, f"NETNS_TW_QUIET: '2' {NEITHER}"),
        ({"JOBS": "x", "SERVER": "a"}, "NETNS_TW_SERVER: 'a' is none of h11, nginx\nNETNS_TW_JOBS: 'x' is no number"),
    ],
)
def test_a_bad_value_names_its_variable(variables: dict[str, str], message: str) -> None:
    """What is wrong, what is allowed and the near match; all bad variables at once."""
    with pytest.raises(UsageError) as refused:
        given("topology direct", **variables)
    assert str(refused.value).startswith(message)
    assert refused.value.exit_code == 2
    assert given("show direct", CLIENT="crul", JOBS="x")  # no business of this command


def test_a_bad_value_ends_the_command_with_one_message() -> None:
    """Exit code 2, nothing on standard output, no traceback, no word of an option that nobody typed."""
    done = netns_tw("replay", "direct", env={**os.environ, "NETNS_TW_CLIENT": "crul"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "netns_tw: NETNS_TW_CLIENT: 'crul' is none of h11, curl; did you mean 'curl'?\n"


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        ("--json --ktap", {}, "--json and --ktap both print"),
        ("", {"JSON": "1", "KTAP": "1"}, "NETNS_TW_JSON and NETNS_TW_KTAP both print"),
        ("", {"KTAP": "1", "JUNIT": "-"}, "NETNS_TW_KTAP and NETNS_TW_JUNIT=- both print"),
        ("", {"JSON": "1", "KTAP": "1", "HTML": "-"}, "NETNS_TW_JSON and NETNS_TW_KTAP and NETNS_TW_HTML=- all print"),
        ("", {"JUNIT": "/nowhere/x"}, "NETNS_TW_JUNIT=/nowhere/x: the folder /nowhere is not there"),
        ("--junit /nowhere/x", {"JUNIT": "-"}, "--junit /nowhere/x: the folder /nowhere is not there"),
    ],
)
def test_what_cannot_go_together_is_said_as_it_was_asked_for(
    words: str, variables: dict[str, str], message: str
) -> None:
    """By variable where it was one: nobody typed --json."""
    with pytest.raises(UsageError) as refused:
        check_outputs(given(f"report {words}", **variables))
    assert str(refused.value).startswith(message)


def test_json_for_a_whole_job_breaks_no_command(tmp_path: Path) -> None:
    """NETNS_TW_JSON is obeyed by what prints tables, and each still answers; another format is asked for as ever."""
    record = str(written(tmp_path / NAME, LINES))
    job = {**os.environ, "NETNS_TW_JSON": "1"}
    for words in (["list"], ["show", "direct"], ["validate", "direct"], ["report", record], ["diff", record, record]):
        done = netns_tw(*words, env=job)
        assert (done.returncode, done.stderr) == (0, ""), words
        json.loads(done.stdout)
    assert netns_tw("report", record, "--ktap", env=job).stdout.startswith("KTAP version 1\n")
    assert netns_tw("show", "direct", "--mermaid", env=job).stdout.startswith("flowchart LR\n")
    assert netns_tw("list", env={**job, "NETNS_TW_JSON": ""}).stdout.startswith("crowd: ")
    assert netns_tw("help", env=job).stdout.startswith("usage: ")


def test_a_variable_that_is_none_is_a_warning() -> None:
    """One line on standard error with the near match; what is empty or ours, also of the tests, is not."""
    odd = {"NETNS_TW_JOB": "3", "NETNS_TW_X": "", "NETNS_TW_RUNS": "x", "NETNS_TW_STRESS_RUNS": "2", "NETNS": "1"}
    assert environment.warnings(odd) == [
        "warning: NETNS_TW_JOB is no variable of netns_tw; did you mean 'NETNS_TW_JOBS'?"
    ]
    done = netns_tw("list", env={**os.environ, "NETNS_TW_A_TYPO": "1"})
    assert (done.returncode, done.stderr) == (0, "netns_tw: warning: NETNS_TW_A_TYPO is no variable of netns_tw\n")
    assert done.stdout.startswith("crowd: ")


def test_every_variable_that_the_project_names_is_known() -> None:
    """Whatever our files call NETNS_TW_SOMETHING earns no warning, and every option with a variable exists."""
    folders = [ROOT / one for one in ("netns_tw", "scripts", "tests")]
    texts = [
        path.read_text()
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in (".py", "", ".sh") and path.is_file()
    ]
    named = {name for text in texts for name in NAMED.findall(text)} - {
        *ELSEWHERE,
        "NETNS_TW_SOMETHING",
        "NETNS_TW_JOB",
    }
    assert environment.warnings(dict.fromkeys(named, "1")) == []
    commands = cli.parser().commands.choices.values()
    with_variable = {environment.of_action(action) for one in commands for action in one._actions} - {""}
    assert with_variable == set(map(environment.variable, environment.OPTIONS))
