"""Each folder of tests/errors is a lab with mistakes in it, and expected.txt is what its user reads."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

from netns_tw.errors import EXIT_USAGE
from netns_tw.model import labs
from netns_tw.model.folder import FileProblems
from netns_tw.model.locate import locate
from netns_tw.model.reader import head, shown

CASES = sorted(path for path in (ROOT / "tests" / "errors").iterdir() if path.is_dir())


def problems_of(folder: Path) -> FileProblems:
    with pytest.raises(FileProblems) as caught:
        labs.read_lab(folder)
    return caught.value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_message(case: Path) -> None:
    """All problems of a file come at once: where, what, what is allowed, and the near match."""
    found = str(problems_of(case)).replace(f"{case}/", "") + "\n"
    if "NETNS_TW_WRITE_EXPECTED" in os.environ:
        (case / "expected.txt").write_text(found)
    assert found == (case / "expected.txt").read_text()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_problems_are_the_users(case: Path) -> None:
    """Every problem exits with 2, is one printable line, and the lines of a file come in order."""
    error = problems_of(case)
    assert error.exit_code == EXIT_USAGE
    assert all(line.isprintable() for line in str(error).split("\n"))
    assert [one.line for one in error.problems] == sorted(one.line for one in error.problems)


def test_every_shipped_lab_is_read() -> None:
    """The labs that come with netns_tw have no problem."""
    assert {name: len(labs.read_lab(labs.folder_of(name)).experiments) for name in labs.shipped_names()} == {
        "crowd": 3,
        "direct": 13,
        "lb3ports": 6,
        "scale": 4,
    }


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    """A file that a Windows editor saved is the same file."""
    for path in (ROOT / "topologies" / "direct").rglob("*.toml"):
        copy = tmp_path / path.relative_to(ROOT / "topologies")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(labs.read_lab(tmp_path / "direct").experiments) == 13


def test_a_conf_file_with_a_nul_in_its_name_is_a_problem(tmp_path: Path) -> None:
    """No name that open(2) cannot take escapes as a traceback."""
    text = (ROOT / "tests" / "errors" / "missing-nginx-conf" / "topology.toml").read_text()
    (tmp_path / "topology.toml").write_text(text.replace("ngnix.conf", "a\\u0000b"))
    assert "nodes.lb.program.config" in str(problems_of(tmp_path))


@pytest.mark.parametrize("path", sorted((ROOT / "topologies").rglob("*.toml")), ids=lambda path: path.stem)
def test_the_head_of_a_file_has_all_keys_of_its_root(path: Path) -> None:
    """Whatever is no table; and it is the smaller part of the file."""
    text = path.read_text(encoding="utf-8")
    whole = tomllib.loads(text)
    is_table = {key: isinstance(one, dict) or (isinstance(one, list) and key != "tags") for key, one in whole.items()}
    assert tomllib.loads(head(text)) == {key: one for key, one in whole.items() if not is_table[key]}


@pytest.mark.parametrize(
    "text",
    [
        'why = """\n[steps]\n"""\nclaim = \'a\'\n',
        "why = '''\n  [[steps]]\n'''\nclaim = 'a'\n",
        "why = [\n[1],\n[2]]\nclaim = 'a'\n",
        "claim = 'a'\n[steps\n",
    ],
)
def test_a_head_that_is_cut_inside_a_value_is_no_toml_or_is_the_head(text: str) -> None:
    """So whoever reads a head alone never takes less for the whole: it reads the file, and says what is wrong there."""
    try:
        assert tomllib.loads(head(text))["claim"] == "a"
    except tomllib.TOMLDecodeError:
        assert tomllib.loads(text)["claim"] == "a"


def test_locate_finds_lines() -> None:
    """Keys and headers are found by their dotted path; strings, comments and arrays over several lines are not."""
    text = '''a = 1
[b."c.d"]
"e f" = """
x = 1
[y]
"""
g = [
    ["h"],
]  # [z]
[[i]]
j = "[["
[[i]]
[i.k]
l.m = 2
'''
    assert locate(text) == {
        "a": 1,
        "b": 2,
        "b.c.d": 2,
        "b.c.d.e f": 3,
        "b.c.d.g": 7,
        "i": 10,
        "i[0]": 10,
        "i[0].j": 11,
        "i[1]": 12,
        "i[1].k": 13,
        "i[1].k.l.m": 14,
    }


def test_values_are_shown_as_toml_has_them() -> None:
    """A message shows a value about as the file has it, and not all of a long one."""
    assert shown(True) == "true"
    assert shown("a\x1b") == "'a\\x1b'"
    assert shown([1, "b"]) == "[1, 'b']"
    assert shown("x" * 100) == "'" + "x" * 56 + "..."
