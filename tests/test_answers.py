"""A student's answer file: what is written can be read, a hand can write it, and a wrong one says all that is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netns_tw.model import answers, labs
from netns_tw.model.answers import find_answers, read_answers
from netns_tw.model.folder import FileProblems

DIRECT = labs.read_lab(labs.folder_of("direct"))
GOOD = """\
format  = 1
lab     = "direct"
student = "ann"
[predictions.no-reuse-back-to-back]
"back to back" = 11
"""


def problems_of(path: Path) -> list[str]:
    """What is said of a file that cannot be graded, its folder left out."""
    with pytest.raises(FileProblems) as caught:
        read_answers(path, DIRECT)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def test_a_hand_may_write_it_as_any_toml(tmp_path: Path) -> None:
    """Tables, inline tables and dotted keys say the same; Windows' line ends and a BOM do no harm."""
    forms = {
        "table": GOOD,
        "inline": GOOD.split("[")[0] + 'predictions.no-reuse-back-to-back = { "back to back" = 11 }',
        "dotted": GOOD.split("[")[0] + "predictions.no-reuse-back-to-back.'back to back' = 11",
        "windows": "\ufeff" + GOOD.replace("\n", "\r\n"),
    }
    for name, text in forms.items():
        (tmp_path / name).write_bytes(text.encode())
        found = read_answers(tmp_path / name, DIRECT)
        assert (found.student, found.lab) == ("ann", "direct"), name
        assert found.predictions == {"no-reuse-back-to-back": {"back to back": 11}}, name


@pytest.mark.parametrize("name", ["ann", 'Ann "the" \\ O\'Neill', "=1+1", "李 雷", "a.b [c] # d", "😀"])
def test_what_is_written_is_read(name: str, tmp_path: Path) -> None:
    """Any printable name comes back as it was, whatever TOML makes of its characters."""
    text = answers.head_text("direct", name) + answers.claim_text("no-reuse-back-to-back")
    text += answers.step_text("back to back", 11) + answers.step_text("again at once", 0)
    (tmp_path / "a.toml").write_text(text, encoding="utf-8")
    found = read_answers(tmp_path / "a.toml", DIRECT)
    assert found.student == name
    assert found.predictions == {"no-reuse-back-to-back": {"back to back": 11, "again at once": 0}}


def test_a_lesson_without_an_answer_is_no_answer_file(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(answers.head_text("direct", "ann"))
    assert problems_of(tmp_path / "a.toml") == [
        "a.toml: predictions: missing; a table for each claim, [predictions.CLAIM]"
    ]


CLAIM = "[predictions.no-reuse-back-to-back]\n"
STEPS = "there are 'back to back', 'again at once'"
BAD = {
    "": [
        "a.toml: format: missing; it must be a whole number",
        "a.toml: lab: missing; it must be a string",
        "a.toml: predictions: missing; a table for each claim, [predictions.CLAIM]",
        "a.toml: student: missing; it must be a string",
    ],
    "%PDF-1.7": ["a.toml:1: not TOML: Invalid statement, column 1"],
    GOOD.replace("format  = 1", "format = 2"): ["a.toml:1: format: this version reads format 1, not 2"],
    GOOD.replace('"direct"', '"crowd"'): ["a.toml:2: lab: predictions of lab 'crowd'; graded is lab direct"],
    GOOD.replace('"ann"', r'"a\nb"'): [r"a.toml:3: student: must be printable, on one line, not 'a\nb'"],
    GOOD.replace('"ann"', r'"a\u202eb"'): [r"a.toml:3: student: must be printable, on one line, not 'a\u202eb'"],
    GOOD.replace('"ann"', '"  "'): ["a.toml:3: student: must not be empty"],
    GOOD.replace("ann", "x" * 200): ["a.toml:3: student: must have at most 100 characters, not 200"],
    GOOD.replace("no-reuse-back", "no-reus-back"): [
        "a.toml:4: predictions.no-reus-back-to-back: lab direct has no claim 'no-reus-back-to-back'; "
        "did you mean 'no-reuse-back-to-back'?"
    ],
    GOOD.replace("back to back", "back to bak"): [
        "a.toml:5: predictions.no-reuse-back-to-back.back to bak: no step is called 'back to bak'; "
        f"did you mean 'back to back'?; {STEPS}"
    ],
    GOOD.replace("11", "21"): [
        "a.toml:5: predictions.no-reuse-back-to-back.back to back: must be a whole number from 0 to 20, not 21"
    ],
    GOOD.replace("11", "11.0"): [
        "a.toml:5: predictions.no-reuse-back-to-back.back to back: must be a whole number from 0 to 20, not 11.0"
    ],
    GOOD.replace("11", "true"): [
        "a.toml:5: predictions.no-reuse-back-to-back.back to back: must be a whole number from 0 to 20, not true"
    ],
    GOOD.replace("format", "studnet = 1\nformat"): ["a.toml:1: studnet: unknown key; did you mean 'student'?"],
    GOOD + "x = " + "[" * 1900: ["a.toml: nested more than 16 deep"],
    GOOD.split("[")[0] + "a." * 900 + "a = 1": [f"a.toml: {'a.' * 16}a: nested more than 16 deep"],
    GOOD + "[" + "a." * 10_000 + "a]": ["a.toml: a line is longer than 2000 bytes: not an answer file"],
    GOOD.split("[")[0] + "predictions = 3": ["a.toml:4: predictions: must be a table, not 3"],
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_a_wrong_file_says_what_is_wrong(text: str, tmp_path: Path) -> None:
    """Each problem with its line, what is allowed, and the near match."""
    (tmp_path / "a.toml").write_text(text, encoding="utf-8")
    assert problems_of(tmp_path / "a.toml") == BAD[text]


def test_a_hundred_mistakes_are_not_all_told(tmp_path: Path) -> None:
    claims = "".join(f"[predictions.x{number}]\n" for number in range(1000))
    (tmp_path / "a.toml").write_text(GOOD + claims)
    steps = "".join(f"x{number} = 1\n" for number in range(1000))
    (tmp_path / "b.toml").write_text(GOOD + steps)
    assert [len(problems_of(tmp_path / name)) for name in ("a.toml", "b.toml")] == [20, 20]


def test_what_is_no_answer_file_is_not_read(tmp_path: Path) -> None:
    """A FIFO has no writer to wait for, a link may lead anywhere, 10 MB are no answers to anything."""
    os.mkfifo(tmp_path / "fifo.toml")
    (tmp_path / "secret").write_text("password = 1")
    (tmp_path / "link.toml").symlink_to(tmp_path / "secret")
    (tmp_path / "huge.toml").write_text("#" * 10_000_000)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert {name: problems_of(tmp_path / name) for name in ("fifo.toml", "link.toml", "huge.toml", "binary.toml")} == {
        "fifo.toml": ["fifo.toml: not a regular file"],
        "link.toml": ["link.toml: a symbolic link; an answer file is a file itself"],
        "huge.toml": ["huge.toml: larger than 32 KiB: not an answer file"],
        "binary.toml": ["binary.toml:1: not UTF-8 text; save it as UTF-8"],
    }
    assert problems_of(tmp_path / "gone.toml") == ["gone.toml: No such file or directory"]


def test_folders_and_files(tmp_path: Path) -> None:
    """A folder means the answer files in and below it; each file counts once, and what else lies there is told."""
    for name in ("b.toml", "a.toml", "deep/er/c.toml", "notes.txt", ".hidden.toml", ".git/d.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(GOOD)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "empty").mkdir()
    named = [tmp_path, tmp_path / "a.toml", tmp_path / "notes.txt", tmp_path / "empty", tmp_path / "gone"]
    found, problems = find_answers(named)
    assert [str(one.relative_to(tmp_path)) for one in found] == ["a.toml", "b.toml", "deep/er/c.toml", "notes.txt"]
    assert [one.replace(str(tmp_path), "") for one in problems] == [
        "/empty: holds no answer file (*.toml)",
        "/loop: not graded; the name of an answer file ends in .toml",
        "/gone: No such file or directory",
    ]
