"""Help is complete and true: every word has its help, every example parses, no text names an option that is not."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, netns_tw

from netns_tw import cli
from netns_tw.commands import environment, overview
from netns_tw.errors import EXIT_USAGE

TOP = cli.parser()
COMMANDS = TOP.commands.choices
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]\b")
OF_OTHERS = {"--privileged", "--history", "--list"}
"""Options in the README that are another program's: docker's, and scripts/bench's (test_bench.py)."""
NEVER_FOR_HELP = {
    "asyncio",
    "pyroute2",
    "rich",
    "jinja2",
    "msgspec",
    "nsenter",
    "pygal",
    "argcomplete",
    "netns_tw.kernel",
}
"""What --help, list and a Tab must not pay for: 20 to 300 ms each."""


def words_of(name: str) -> list[argparse.Action]:
    return [one for one in COMMANDS[name]._actions if one.dest != "help"]


def flat(text: str) -> str:
    return " ".join(text.split())


def run_names(line: str) -> list[str] | None:
    """The words after our name in a command line of the README or an example; None where it calls another."""
    words = shlex.split(line, comments=True)
    words = words[1:] if words[:1] == ["sudo"] else words
    for ours in (["python", "-m", "netns_tw"], ["scripts/run"], ["netns-tw"]):
        if words[: len(ours)] == ours:
            return words[len(ours) :]
    return None


def parses(words: list[str]) -> bool:
    """Whether the parser takes these words; asking for help is taken."""
    try:
        cli.parse(words, {})
    except SystemExit as ended:
        return ended.code != EXIT_USAGE
    return True


@pytest.mark.parametrize("name", COMMANDS)
def test_every_word_of_a_command_has_help(name: str) -> None:
    """Each option and positional says what it is; what may be left out and has a value says what is taken then."""
    for one in words_of(name):
        assert one.help and one.help is not argparse.SUPPRESS, f"{name}: {one.dest} has no help"
        is_needed = not one.option_strings and one.nargs not in ("?", "*")
        has_value = one.nargs != 0
        if has_value and not is_needed:
            assert "(default: " in one.help, f"{name}: {'/'.join(one.option_strings) or one.metavar} names no default"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses(name: str) -> None:
    """The line after ``example:`` can be typed."""
    line = COMMANDS[name].format_help().split("example:\n", 1)[1].splitlines()[0].strip()
    words = run_names(line)
    assert words, line
    assert words[0] == name
    assert parses(words), line


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_names_only_options_that_exist(name: str) -> None:
    """A command's own options, or with its name before them another's; the variable of each stands beside it."""
    shown = COMMANDS[name].format_help()
    known = {option for one in COMMANDS.values() for action in one._actions for option in action.option_strings}
    assert set(OPTION.findall(shown)) - known == set()
    for one in words_of(name):
        if variable := environment.of_action(one):
            assert f"[env: {variable}]" in flat(shown)


def test_the_first_page_names_every_command_once_in_its_group() -> None:
    """One line each; overview.GROUPS has no other command than the parser."""
    page = TOP.format_help()
    assert set(overview.HELPS) == set(COMMANDS)
    for name, one in COMMANDS.items():
        assert len(re.findall(rf"^    {name} +\S", page, re.M)) == 1, name
        helps = {action.dest: action.help for action in TOP.commands._choices_actions}
        assert flat(str(helps[name])) in flat(page)
        assert "example:" in one.format_help()
    grouped = [name for names in overview.GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))


def test_the_first_page_tells_variables_and_exit_codes() -> None:
    """Each variable with its option, those that are no option's, the rules; every exit code."""
    page = TOP.format_help()
    for name in (*map(environment.variable, environment.OPTIONS), *environment.OTHERS):
        assert re.search(rf"^  {name} +\S", page, re.M), name
    for code in ("0 pass", "1 fail", "2 usage", "3 the machine", "4 broken", "5 inconclusive", "130 interrupted"):
        assert code in page
    assert "The command line wins" in page


@pytest.mark.parametrize("name", [one for names in cli.MODULES.values() for one in names])
def test_a_command_alone_is_declared_as_among_all(name: str) -> None:
    """What is built for a call of one command is that command as all are built, of its own module alone."""
    alone = cli.parser(name).commands.choices
    (module,) = (names for names in cli.MODULES.values() if name in names)
    assert tuple(alone) == module
    assert alone[name].format_help() == COMMANDS[name].format_help()


@pytest.mark.parametrize("word", cli.ANSWERED_AT_ONCE)
def test_the_first_page_needs_no_command(word: str) -> None:
    """What --help prints without any command's words is the page of all commands."""
    assert cli.parser(word).commands.choices == {}
    assert cli.parser(word).format_help() == TOP.format_help()


def test_the_first_page_names_options_as_the_commands_declare_them() -> None:
    """Beside each variable: the option with its short name, and its choices or the kind of its value."""
    for option, shown in environment.OPTIONS.items():
        declared = [one for name in COMMANDS for one in words_of(name) if f"--{option}" in one.option_strings]
        values = {"|".join(map(str, one.choices or ())) or str(one.metavar) for one in declared if one.nargs != 0}
        names = {"/".join(one.option_strings) for one in declared}
        assert " ".join([*names, *values]) == shown
        assert re.search(rf"^  {environment.variable(option)} +{re.escape(shown)}$", TOP.format_help(), re.M)


def test_help_command_is_the_commands_help() -> None:
    """``help COMMAND`` and ``COMMAND --help`` are one page, ``help`` and ``--help`` too; a typo gets its near match."""
    for one in ([], ["budget"]):
        by_word, by_option = netns_tw("help", *one), netns_tw(*one, "--help")
        assert (by_word.returncode, by_word.stdout, by_word.stderr) == (0, by_option.stdout, "")
    wrong = netns_tw("help", "bugdet")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean 'budget'?" in wrong.stderr


def test_an_option_is_never_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    """A prefix that is one option's today is another's tomorrow; the near match says what was meant."""
    for words, near in (
        (["topology", "direct", "--cli", "curl"], "unrecognized arguments: --cli curl; did you mean '--client'?"),
        (
            ["topology", "direct", "--client=curl", "--junt=x"],
            "unrecognized arguments: --junt=x; did you mean '--junit'?",
        ),
        (["list", "--js"], "unrecognized arguments: --js; did you mean '--json'?"),
        (["list", "direct"], "netns_tw list: unrecognized arguments: direct\n"),
        (["--vers", "list"], "netns_tw"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.parse(words, {})
        assert ended.value.code == EXIT_USAGE
        assert near in capsys.readouterr().err


def test_the_readme_names_only_what_exists() -> None:
    """Every command line in its blocks parses, and every --option anywhere is one of ours."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"^```sh\n(.*?)^```", readme, re.M | re.S) for line in block.splitlines()]
    ours = [words for line in lines if (words := run_names(line)) is not None]
    assert len(ours) > 10
    assert [words for words in ours if not parses(words)] == []
    known = {option for one in (TOP, *COMMANDS.values()) for action in one._actions for option in action.option_strings}
    assert set(OPTION.findall(readme)) - known - OF_OTHERS == set()


def test_the_readme_names_every_command() -> None:
    """In code, so that a reader finds it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if not re.search(rf"`{name}\b", readme)] == []


@pytest.mark.parametrize("words", [["--help"], ["help", "topology"], ["list"]])
def test_help_and_list_import_little(words: list[str]) -> None:
    """Nothing that takes long to import, whole or below it."""
    argv = [sys.executable, "-X", "importtime", "-m", "netns_tw", *words]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "netns_tw.cli" in names
    slow = {name for name in names for one in NEVER_FOR_HELP if name == one or name.startswith(f"{one}.")}
    assert slow == set()
