"""The labs' folder on a disk that is full, read-only or damaged: one line says so, and what is up stays usable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from world import World, alone, disk, make_lab, said

from netns_tw.kernel import libc
from netns_tw.standing.roster import Roster

pytestmark = pytest.mark.netns

BARE = "[nodes.n]\n"
MS_RDONLY, MS_REMOUNT = 1, 32  # mount(2)


@pytest.mark.parametrize("limit", [*(f"nr_inodes={n}" for n in range(1, 7)), "size=4k", "size=8k"])
def test_a_full_disk_is_said_and_nothing_is_left(tmp_path: Path, limit: str) -> None:
    """Whichever of the folder's files cannot be made or filled: exit 3, one line, no process and no rest.

    Inodes run out one write earlier or later: the lock of the folder, the lab's folder, its lock, its entry. Blocks run
    out while the entry is written; a filler leaves none.
    """

    def body(world: World) -> None:
        lab = str(make_lab(world.folder, BARE + "# long, and kept in the entry\n" * 400))
        with disk(world, limit):
            if limit.startswith("size"):
                (world.labs / ".filler").write_bytes(b"x" * 4096)
            done = world.run("up", lab, "--name", "x")
            if limit == "nr_inodes=6":
                assert done.code == 0, done
                world.down("x")
            else:
                assert str(world.labs) in said(done, 3)
            world.assert_empty(frozenset({".netns_tw.lock", ".filler"}))

    alone(tmp_path, body)


def test_a_disk_that_fills_up_later(tmp_path: Path) -> None:
    """The entry is written several times; the first that does not fit ends the lab. What is up stays usable."""

    def body(world: World) -> None:
        lab = str(make_lab(world.folder, BARE))
        codes = set()
        with disk(world, "size=16k"):
            (world.labs / ".filler").write_bytes(b"x" * 4096)
            for name in ("a", "b", "c", "d"):
                done = world.run("up", lab, "--name", name)
                codes.add(done.code)
                if done.code:
                    said(done, 3)
            assert codes == {0, 3}
            there = world.listed()
            assert there
            for name in there:
                world.assert_whole(name)
            world.good("down", "--all")
            world.assert_empty(frozenset({".netns_tw.lock", ".filler"}))

    alone(tmp_path, body)


def make_read_only(world: World) -> None:
    """For who comes by this path; a lab that is up has its lock open to write, so that the disk itself is busy."""
    libc.mount(str(world.labs), str(world.labs), "", libc.MS_BIND)
    libc.mount("none", str(world.labs), "", libc.MS_BIND | MS_REMOUNT | MS_RDONLY)


def test_on_a_read_only_disk_labs_are_listed_and_ended(tmp_path: Path) -> None:
    """`up` says so in one line; ls, exec and down work, and say which entry they could not remove."""

    def body(world: World) -> None:
        with disk(world, "size=1m"):
            said(world.run("up", "direct", "--set", "nonsense"), 2)
            world.up("x")
            make_read_only(world)
            assert "Read-only file system" in said(world.run("up", "direct", "--name", "y"), 3)
            assert list(world.listed()) == ["x"]
            world.assert_whole("x")
            for words in (("down", "x"), ("ls",), ("down", "--all")):
                done = world.run(*words)
                assert done.code == 0
                assert f"{world.labs / 'x'}: cannot be removed: Read-only file system" in done.talk
            assert world.processes() == {}

    alone(tmp_path, body)


def test_on_a_read_only_disk_without_a_lock_there_is_no_lab(tmp_path: Path) -> None:
    def body(world: World) -> None:
        with disk(world, "size=1m"):
            make_read_only(world)
            assert "Read-only file system" in said(world.run("up", "direct"), 3)
            assert world.listed() == {}

    alone(tmp_path, body)


DAMAGED = ("", "{", "[]", "null", "{}", '{"name": "x"}', "\0" * 300, "\xff\xfe", '{"init": 3, "programs": {}}', None)


def test_a_damaged_entry_is_named_and_other_labs_are_usable(tmp_path: Path) -> None:
    """One line that names the file; ls lists the others, they can be entered and ended, a third one brought up."""

    def body(world: World) -> None:
        world.up("good")
        found = world.up("bad")
        path = world.labs / "bad" / "lab.json"
        whole = path.read_text()
        for text in DAMAGED:
            path.unlink()
            if text is not None:
                path.write_text(text, encoding="latin-1")
            done = world.run("ls", "--json")
            assert done.code == 0 and [one["name"] for one in json.loads(done.out)] == ["good"]
            assert done.talk.startswith(f"netns_tw: {path}: damaged") and done.talk.count("\n") == 1
            assert str(path) in said(world.run("exec", "bad", "client", "--", "true"), 2)
        assert str(path) in said(world.run("down", "bad"), 2)
        assert "is up already" in said(world.run("up", "direct", "--name", "bad"), 2)
        world.assert_whole("good")
        world.up("third")
        world.down("good", "third")
        path.write_text(whole)
        assert found == Roster().find("bad")
        world.down("bad")
        world.assert_empty()

    alone(tmp_path, body)
