"""The README's commands run, in its order, and print what it says they print."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.netns

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^(?:`([^`\n]+)`[^\n]*:\n\n)?```(\w+)\n(.*?)^```$", re.M | re.S)
RUN_ELSEWHERE = {
    "sudo scripts/run topology lb3ports": "every experiment in test_replay.py; its output below",
    "sudo scripts/test": "this is it",
    "sudo scripts/bench": "minutes of load, with the machine to itself: its parts in test_bench.py",
    "scripts/run lesson direct": "a conversation: test_lesson.py",
}


def blocks(kind: str) -> list[tuple[str, str]]:
    """The README's code blocks of a kind, each with the file name that stands before it."""
    return [(name, text) for name, found, text in BLOCK.findall(README) if found == kind]


def commands() -> list[str]:
    return [line for _, text in blocks("sh") for line in text.splitlines()]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the checkout, with the lab that the README tells its reader to write."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in (".venv", "scripts", "setup.cfg", "netns_tw", "topologies", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    for kind in ("toml", "nginx"):
        for name, text in blocks(kind):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(line)
    if words[0] == "sudo" and (os.geteuid() == 0 or shutil.which("sudo") is None):
        words = words[1:]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=200)


@pytest.mark.parametrize("line", [line for line in commands() if line not in RUN_ELSEWHERE])
def test_a_command_runs(line: str, checkout: Path) -> None:
    done = run(line, checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


def test_what_is_run_elsewhere_stands_in_the_readme() -> None:
    assert [line for line in RUN_ELSEWHERE if line not in commands()] == []
    assert "exec scripts/test" in (ROOT / ".ci" / "run").read_text()


RACE = re.compile(r"^so +(?:who closed first|of ).*?(?=^(?:so|log) )", re.M | re.S)
"""Sentences that depend on who wins the race: they are told when it was won and lost."""


def words_of(text: str) -> list[str]:
    """The words of an output, numbers and the kernel's own suffix aside: where lines break depends on the numbers."""
    plain = re.sub(r"Linux [\w.+~-]+", "Linux", RACE.sub("", text))
    plain = re.sub(r", both at once [0-9]+|\btimes?\b", "", plain)
    return sorted(re.sub(r"[0-9]+", "0", plain).split())


def test_the_output_shown_is_what_is_printed(checkout: Path) -> None:
    """Word for word, whatever the numbers are: the race is never the same twice."""
    shown = next(text for _, text in blocks("text") if "PASS" in text)
    done = run("scripts/run topology lb3ports --only lb-exhausts-its-ports", checkout)
    assert words_of(done.stdout) == words_of(shown)


def test_the_ci_recipe_is_the_command_of_the_readme() -> None:
    (recipe,) = (text for _, text in blocks("yaml"))
    runs = re.findall(r"run: (.*)", recipe)
    assert runs == ["sudo scripts/run topology ./mylab"]
    assert set(runs) <= set(commands())
