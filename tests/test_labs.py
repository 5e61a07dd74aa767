"""Where labs are found, and what the words LAB and LAB/CLAIM mean."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from netns_tw.errors import UsageError
from netns_tw.model import labs
from netns_tw.model.folder import FileProblems


def found(*names: str) -> list[str]:
    return [experiment.path for _, experiment in labs.find(list(names))]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own lab, ./mylab, with the files of lb3ports."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "topologies" / "lb3ports", tmp_path / "mylab")
    topology = tmp_path / "mylab" / "topology.toml"
    topology.write_text(topology.read_text().replace('"lb3ports"', '"mine"'))
    return tmp_path / "mylab"


def test_shipped_names() -> None:
    """The shipped labs by name, and each is called as its folder is."""
    assert labs.shipped_names() == ["crowd", "direct", "lb3ports", "scale"]
    assert [labs.read_lab(labs.folder_of(name)).name for name in labs.shipped_names()] == labs.shipped_names()


def test_a_lab_means_all_of_its_claims() -> None:
    assert found("crowd") == [
        "crowd/a-server-holds-more-than-any-client",
        "crowd/one-client-at-a-time-uses-half-its-ports",
        "crowd/tw-buckets-cap-time-wait",
    ]


def test_no_word_means_everything() -> None:
    assert len(found()) == 26


def test_each_claim_once_in_the_order_given() -> None:
    """A claim that two words mean is found once, where it is named first."""
    claim = "crowd/tw-buckets-cap-time-wait"
    names = found(claim, "crowd", claim)
    assert names[0] == claim
    assert len(names) == 3


def test_a_claim_may_be_named_by_its_file() -> None:
    """What a shell completes, LAB/experiments/CLAIM.toml or with a slash at its end, is understood."""
    claim = "crowd/tw-buckets-cap-time-wait"
    assert found(f"{claim}.toml") == [claim]
    assert found("crowd/experiments/tw-buckets-cap-time-wait.toml") == [claim]
    assert found(f"{claim}/") == [claim]
    assert len(found("crowd/")) == 3


def test_own_folder_by_path(own: Path) -> None:
    """A path works wherever a lab's name does; the lab is called as its file says."""
    assert len(found("./mylab")) == 6
    assert found("./mylab/lb-exhausts-its-ports") == ["mine/lb-exhausts-its-ports"]
    assert found(f"{own}/experiments/lb-exhausts-its-ports.toml") == ["mine/lb-exhausts-its-ports"]


def test_a_lab_by_name_and_by_path_is_one() -> None:
    assert len(found("crowd", str(ROOT / "topologies" / "crowd"))) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lb3port", "no lab is called 'lb3port'; did you mean 'lb3ports'?; there are crowd, direct, lb3ports, scale"),
        ("zzz", "no lab is called 'zzz'; there are crowd, direct, lb3ports, scale"),
        ("", "no lab is called ''; there are crowd, direct, lb3ports, scale"),
        ("./nowhere/x", "./nowhere: no lab there, a lab's folder holds a topology.toml"),
        (
            "direct/recycle-is-gon",
            "lab direct has no claim 'recycle-is-gon'; did you mean 'recycle-is-gone'?; see: netns_tw show direct",
        ),
        ("a" * 5000 + "/b", "no lab is called '" + "a" * 5000 + "'; there are crowd, direct, lb3ports, scale"),
        ("./" + "a" * 5000 + "/b", "./" + "a" * 5000 + ": no lab there, a lab's folder holds a topology.toml"),
    ],
)
def test_unknown(name: str, message: str) -> None:
    """What does not exist is said with its near match."""
    with pytest.raises(UsageError) as caught:
        found(name)
    assert str(caught.value) == message


def test_a_folder_named_without_a_slash_is_hinted_at(own: Path) -> None:
    """``mylab`` is not looked up as a path; the message says how to name it."""
    with pytest.raises(UsageError, match=r"named by its path, \./mylab\)"):
        found(own.name)


def test_the_contents_of_a_lab_are_those_of_its_files() -> None:
    """What a list of labs shows is read from the heads of the files, and is what the whole files say."""
    for name in labs.shipped_names():
        lab, contents = labs.read_lab(labs.folder_of(name)), labs.read_contents(labs.folder_of(name))
        assert (contents.name, contents.description) == (lab.name, lab.topology.description)
        assert dict(contents.claims) == {one.path: one.claim for one in lab.experiments.values()}


def test_contents_that_no_head_shows_are_read_from_the_whole(own: Path) -> None:
    """A value that a head would cut is read; a file without its claim is a problem, told with all others."""
    path = own / "experiments" / "lb-exhausts-its-ports.toml"
    good = path.read_text()
    path.write_text(good.replace("why = '''", "why = '''\n[ not a table ]"))
    assert "[ not a table ]" in path.read_text()
    assert len(labs.read_contents(own).claims) == 6
    path.write_text(good.replace("claim ", "clame ").replace("requests ", "request "))
    with pytest.raises(FileProblems) as whole:
        labs.read_lab(own)
    with pytest.raises(FileProblems) as caught:
        labs.read_contents(own)
    assert str(caught.value) == str(whole.value)
    assert str(caught.value).count("unknown key") > 1


def test_problems_of_all_experiments_come_together(own: Path) -> None:
    """read_lab() reports every experiment's problems at once."""
    for name in ("lb-exhausts-its-ports", "the-log-names-errno-99"):
        path = own / "experiments" / f"{name}.toml"
        path.write_text(path.read_text().replace("claim ", "clame "))
    with pytest.raises(FileProblems) as caught:
        labs.read_lab(own)
    assert [Path(one.file).stem for one in caught.value.problems] == ["lb-exhausts-its-ports"] * 2 + [
        "the-log-names-errno-99"
    ] * 2
