"""Tab in bash, zsh and fish: what the real shells offer, from the real parser; quick, and never a word of trouble."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, netns_tw

from netns_tw import cli
from netns_tw.commands import completion
from netns_tw.standing.entry import VARIABLE, Entry
from netns_tw.standing.roster import Roster

LABS = ["crowd", "direct", "lb3ports", "scale"]
SLOW = {"asyncio", "pyroute2", "rich", "jinja2", "msgspec", "nsenter", "pygal"}
NOTHING_TO_OFFER = {"N", "LOW-HIGH", "PORTS", "WORD", "-- COMMAND...", "NODE.SYSCTL=VALUE"}
"""Metavars of numbers and of the user's own words."""
ZSH = """
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'PROMPT=; unset zle_bracketed_paste; autoload -Uz compinit; compinit -D -u; eval "$(netns-tw completion zsh)"'
zpty -w z 'show() { print -r -- "<$BUFFER>"; BUFFER=; }; zle -N show; bindkey "^T" show; stty cols 200; echo REA""DY'
zpty -r -m z got '*READY*'
for line in "$@"; do
    zpty -w -n z "$line"$'\\t\\x14'
    zpty -r -m z got '*<*>*'
    print -r -- "$got"
done
zpty -d z
"""
"""A zsh with a terminal of its own: types each argument and Tab, and prints what the line is then between < and >."""
ASK = """
import json, os, sys
from netns_tw import cli
from netns_tw.commands import completion

found = {}
for line in sys.argv[1:]:
    read, write = os.pipe()
    if os.fork() == 0:
        os.dup2(write, 8)
        os.environ.update(_ARGCOMPLETE="1", _ARGCOMPLETE_IFS="\\n", _ARGCOMPLETE_SUPPRESS_SPACE="1")
        os.environ.update(COMP_LINE=line, COMP_POINT=str(len(line)))
        completion.answer(cli.parser())
    os.close(write)
    with os.fdopen(read) as answer:
        found[line] = answer.read().split("\\n")
    assert os.wait()[1] == 0, line
print(json.dumps(found))
"""
"""Asks for each argument, a line, in a child of its own; one start of Python for all."""


def asked(
    line: str, cwd: Path = ROOT, argv: tuple[str, ...] = (), variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command as a shell's script asks it, fd 8 being the answer; what it says beside that is kept apart."""
    question = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SUPPRESS_SPACE": "1", "COMP_LINE": line}
    question |= {"COMP_POINT": str(len(line))} | (variables or {})
    command = ["sh", "-c", 'exec "$@" 8>&1 1>&2', "sh", *(argv or (sys.executable, "-P", "-m", "netns_tw"))]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **question}
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=60, check=False)


def offered(*lines: str, cwd: Path = ROOT) -> dict[str, list[str]]:
    """What Tab offers at the end of each line."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-P", "-c", ASK, *(f"netns-tw {line}" for line in lines)]
    done = subprocess.run(argv, cwd=cwd, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, list[str]] = json.loads(done.stdout)
    return {line.removeprefix("netns-tw "): [one for one in words if one] for line, words in found.items()}


def claims(lab: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "topologies" / lab / "experiments").iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a lab, one whose files are broken, a record, and names that no line can hold."""
    for lab, text in (("mylab", "[nodes.a]\n[nodes.b]\n"), ("broken", "nodes = [\n"), ("binary", "\x00\udcff")):
        experiments = tmp_path / lab / "experiments"
        experiments.mkdir(parents=True)
        (experiments / "a-claim.toml").write_text("=")
        (tmp_path / lab / "topology.toml").write_bytes(text.encode(errors="surrogateescape"))
    (tmp_path / "out").mkdir()
    for name in ("one.jsonl", "notes.txt", ".hidden", "two\nlines.jsonl"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with ``netns-tw`` on it, this checkout's console script, and a ``sudo``: fish asks if there is one."""
    script = tmp_path_factory.mktemp("bin") / "netns-tw"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom netns_tw.__main__ import run\nrun()\n"
    )
    script.chmod(0o755)
    (script.parent / "sudo").symlink_to("/bin/false")
    return f"{script.parent}:{os.environ['PATH']}"


def ran(path: str, home: Path, *argv: str) -> list[str]:
    """The lines that a shell prints, without a user's own settings, in the checkout."""
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed: scripts/setup test")
    environ = {**os.environ, "PATH": path, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "TERM": "dumb"}
    done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_what_is_offered() -> None:
    """Commands, options, choices, labs, claims and nodes; for a number nothing, not even a file."""
    answers = {
        "topology ": LABS,
        "topology lb": ["lb3ports"],
        "topo": ["topology"],
        "help to": ["topology"],
        "completion ": ["bash", "zsh", "fish"],
        "replay ": LABS,
        "replay crowd": ["crowd", *(f"crowd/{one}" for one in claims("crowd"))],
        "replay crowd direct/connect": ["direct/connect-is-what-fails"],
        "budget direct": ["direct/client", "direct/server"],
        "budget lb3ports/l": ["lb3ports/lb"],
        "topology crowd --only ": claims("crowd"),
        "topology -q crowd --only tw": ["tw-buckets-cap-time-wait"],
        "topology --only tw": ["tw-buckets-cap-time-wait", "tw-buckets-cut-off-the-rest"],
        "topology nosuchlab --only ": [],
        "replay --nosuch direct/con": ["direct/connect-is-what-fails"],
        "replay --client ": ["h11", "curl"],
        "replay direct --server ng": ["nginx"],
        "replay -j ": [],
        "budget --rate ": [],
        "topology --o": ["--only", "--out"],
        "show lb3ports --m": ["--mermaid"],
        "list; sudo -E scripts/run topology lb": ["lb3ports"],
        "list && FOO=1 netns-tw topology lb": ["lb3ports"],
    }
    assert offered(*answers) == answers


def test_paths_are_offered_where_they_are_meant(folder: Path) -> None:
    """Folders, records, any file, as its argument needs; a lab of one's own by its path; hidden ones when asked."""
    own = ["./binary/", "./broken/", "./mylab/"]
    answers = {
        "topology ": [*LABS, *own],
        "topology ./my": ["./mylab/"],
        "replay ./mylab/a": ["./mylab/a-claim"],
        "topology ./mylab --only ": ["a-claim"],
        "budget ./mylab/": ["./mylab/experiments/", "./mylab/a", "./mylab/b"],
        "report ": ["binary/", "broken/", "mylab/", "one.jsonl", "out/"],
        "diff one.jsonl o": ["one.jsonl", "out/"],
        "report --junit n": ["notes.txt"],
        "report --junit .": [".hidden"],
        "replay --out o": ["out/"],
        "validate my": ["mylab/"],
    }
    assert offered(*answers, cwd=folder) == answers


def test_labs_that_are_up_and_their_nodes_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their names, each with its own nodes; a word that names a new thing gets no old name."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "labs"))
    assert offered("exec ") == {"exec ": []}
    with Roster().reserve(Entry("one", "direct", "x", nodes=["client", "server"]), may_number=False) as first:
        first.write(first.entry)
        with Roster().reserve(Entry("two", "crowd", "x", nodes=["client1"]), may_number=False) as second:
            second.write(second.entry)
            (tmp_path / "labs" / "damaged").mkdir()
            answers = {
                "exec ": ["one", "two"],
                "down one t": ["two"],
                "shell one ": ["client", "server"],
                "exec two c": ["client1"],
                "exec nosuch ": [],
                "exec one client -- ": [],
                "exec one client ": [],
                "exec one client curl -s ": [],
                "up direct --name ": [],
            }
            assert offered(*answers) == answers


def test_what_is_broken_costs_only_itself(folder: Path) -> None:
    """A lab with a wrong file, a folder that is not there: the rest is offered, and nothing is said."""
    answers = {
        "replay ./broken/": ["./broken/experiments/", "./broken/a-claim"],
        "budget ./broken/": ["./broken/experiments/"],
        "budget ./binary/": ["./binary/experiments/"],
        "topology ./nowhere/x": [],
    }
    assert offered(*answers, cwd=folder) == answers


@pytest.mark.parametrize(
    ("line", "variables"),
    [
        ("netns-tw topology 'lb", {}),
        ("netns-tw topology lb", {"COMP_POINT": "many"}),
        ("netns-tw topology lb", {"_ARGCOMPLETE": "x"}),
        ("netns-tw topology lb", {"NETNS_TW_CLIENT": "crul", "NETNS_TW_A_TYPO": "1"}),
    ],
)
def test_a_tab_never_talks(line: str, variables: dict[str, str]) -> None:
    """An open quote, a strange shell, variables that a command would refuse: no message, no traceback."""
    assert asked(line, variables=variables).stderr == ""


def test_without_a_question_argcomplete_is_not_there_and_with_one_nothing_slow_is() -> None:
    """The hook costs a look at the environment; a Tab imports argcomplete and labs' names, and no more."""
    argv = (sys.executable, "-P", "-X", "importtime", "-m", "netns_tw")
    done = asked("netns-tw topology lb", argv=argv)
    assert done.stdout == "lb3ports"
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "argcomplete" in imported
    assert imported & SLOW == set()
    plain = subprocess.run([*argv, "list"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "argcomplete" not in plain.stderr


def test_every_kind_of_word_is_completed_or_known_to_be_free() -> None:
    """A new metavar needs a row in COMPLETERS, or is a number or a word of the user's own."""
    commands = cli.parser().commands.choices
    words = [(name, one) for name, command in commands.items() for one in command._actions if one.nargs != 0]
    unknown = [
        f"{name} {one.metavar or one.option_strings}"
        for name, one in words
        if one.choices is None and completion.completer_of(one) is None and one.metavar not in NOTHING_TO_OFFER
    ]
    assert unknown == []
    assert [one for one in words if isinstance(one[1], argparse._AppendAction) and one[1].metavar is None] == []


def test_bash(path: str, tmp_path: Path) -> None:
    """The function that the script registers for netns-tw, called as bash calls it."""
    script = """
        source <(netns-tw completion bash)
        name=$(complete -p netns-tw | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
        for COMP_LINE in "$@"; do
            COMP_POINT=${#COMP_LINE} COMP_TYPE=9 COMPREPLY=()
            $name netns-tw
            echo "${COMPREPLY[*]}"
        done
    """
    lines = ["netns-tw topology lb", "netns-tw replay --client=", "netns-tw replay -j "]
    assert ran(path, tmp_path, "bash", "--norc", "-c", script, "bash", *lines) == ["lb3ports ", "h11 curl", ""]


def test_zsh(path: str, tmp_path: Path) -> None:
    """A zsh at a terminal, Tab pressed: the line is completed; after sudo, too. The script is good zsh."""
    lines = ["netns-tw topology lb", "netns-tw replay lb3ports/upst", "sudo netns-tw show cr", "netns-tw topology -j "]
    shown = "\n".join(ran(path, tmp_path, "zsh", "-f", "-c", ZSH, "zsh", *lines))
    for line in ("netns-tw topology lb3ports ", "netns-tw replay lb3ports/upstream-keepalive-cures ",
                 "sudo netns-tw show crowd ", "netns-tw topology -j "):  # fmt: skip
        assert f"<{line}>" in shown
    (tmp_path / "_netns-tw").write_text(netns_tw("completion", "zsh").stdout)
    assert ran(path, tmp_path, "zsh", "-n", str(tmp_path / "_netns-tw")) == []


def test_fish(path: str, tmp_path: Path) -> None:
    """fish's own ``complete -C``: words, and for options and commands their help beside them; after sudo, too."""
    script = "netns-tw completion fish | source; for line in $argv; complete -C $line; end"
    lines = ["netns-tw topology lb", "netns-tw topo", "sudo netns-tw topology cr", "netns-tw topology -j "]
    found = ran(path, tmp_path, "fish", "-c", script, *lines)
    assert found == ["lb3ports", "topology\treplay every experiment of one lab", "crowd"]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_checkouts_own_script_completes(shell: str, path: str, tmp_path: Path) -> None:
    """``completion SHELL scripts/run`` completes for that word, with the answers of this checkout."""
    done = netns_tw("completion", shell, "scripts/run")
    assert (done.returncode, done.stderr) == (0, "")
    assert str(ROOT / "scripts" / "run") in done.stdout
    if shell == "fish":
        (tmp_path / "script").write_text(done.stdout)
        asks = (
            f"source {tmp_path}/script; complete -C 'scripts/run topology lb'; complete -C 'elsewhere/run topology lb'"
        )
        assert ran(path, tmp_path, "fish", "-c", asks) == ["lb3ports"]


def test_scripts_run_answers_a_tab_without_setting_anything_up(tmp_path: Path) -> None:
    """A Tab that installs packages would be a surprise; so would one that waits."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "run", tmp_path / "scripts")
    (tmp_path / "scripts" / "setup").write_text(f"#!/bin/sh\ntouch {tmp_path}/was-set-up\n")
    (tmp_path / "scripts" / "setup").chmod(0o755)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    done = asked("scripts/run topology lb", tmp_path, argv=("scripts/run",))
    assert (done.returncode, done.stdout, done.stderr) == (0, "lb3ports", "")
    assert not (tmp_path / "was-set-up").exists()


def test_python_m_netns_tw_answers_argcompletes_own_hook() -> None:
    """argcomplete's global completion asks whether the module wants it, then counts words from the module's name."""
    argv = [sys.executable, "-m", "argcomplete._check_module", "netns_tw"]
    assert subprocess.run(argv, cwd=ROOT, check=False).returncode == 0
    assert asked("python -m netns_tw topology lb", variables={"_ARGCOMPLETE": "3"}).stdout == "lb3ports"
