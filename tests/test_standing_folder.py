"""The labs' folder: who may have a name, and what happens when the folder or the disk is not as it should be.

Hostile names are refused before anything is made. Two commands at once are one after the other, by the folder's lock.
What a crash or a reboot left is removed by the next command; what is not ours is not touched; what cannot be read,
written or removed is said in one line, and the other labs stay usable.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest
from world import Command, World, alone, kill, make_lab, said

from netns_tw.kernel import sandbox
from netns_tw.standing.roster import Roster
from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns

BARE = "[nodes.n]\n"
HOSTILE = (
    "../x",
    "..",
    ".",
    "",
    "/",
    "x/y",
    "x" * 200,
    "a b",
    "a\nb",
    "x\n",
    "-x",
    "X",
    "é",
    "x\0y",
    "$(id)",
    ".netns_tw.lock",
)


def test_hostile_names_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    """Exit 2 and one line, for `up` and for all that take a name; not even the labs' folder is made."""

    def body(world: World) -> None:
        for name in HOSTILE:
            line = said(world.run("up", "direct", f"--name={name}"), 2)
            assert "a lab cannot be called" in line and len(line) < 200
        for name in HOSTILE[::4]:
            said(world.run("exec", "--", name, "client", "true"), 2)
            said(world.run("down", "--", name), 2)
            said(world.run("logs", "--", name, "client"), 2)
            said(world.run("set", "--", name, "client.net.ipv4.tcp_tw_reuse=1"), 2)
            said(world.run("replay", f"--in={name}", "no-reuse-back-to-back"), 2)
        assert not world.labs.exists()
        assert sorted(one.name.rstrip("0123456789") for one in world.folder.iterdir() if "out" not in one.name) == [
            "talk"
        ] * len(list(world.folder.glob("talk*")))
        world.assert_empty()

    alone(tmp_path, body)


def test_hostile_nodes_are_refused(tmp_path: Path) -> None:
    def body(world: World) -> None:
        world.up("x")
        for node in HOSTILE[::3]:
            said(world.run("exec", "--", "x", node, "true"), 2)
        world.down("x")
        world.assert_empty()

    alone(tmp_path, body)


def test_of_two_ups_of_one_name_one_wins(tmp_path: Path) -> None:
    """The other ends with 2 and says what to do; the winner's lab is whole. Both orders of every race are one case."""

    def body(world: World) -> None:
        for _ in range(4):
            ends = [one.end() for one in [world.start("up", "direct", "--name", "x") for _ in range(3)]]
            assert sorted(one.code for one in ends) == [0, 2, 2]
            for one in ends:
                if one.code:
                    assert "a lab called x is up already" in said(one, 2)
            world.assert_whole("x")
            world.down("x")
            world.assert_empty()

    alone(tmp_path, body)


def wait_for_the_rest(world: World, up: Command) -> bool:
    """Hold the folder's lock once *up* has a child, until *up* waits for it; False where it was quicker than this."""

    def wants_the_door() -> bool:
        lines = Path("/proc/locks").read_text().splitlines()
        return up.has_ended() or any("->" in line and f" {up.pid} " in line for line in lines)

    wait_until(lambda: world.below(up.pid) or up.has_ended(), "it is past the door", 10, 0.0005)
    with open(world.labs / ".netns_tw.lock") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        wait_until(wants_the_door, "it wants to remove the entry", 10)
        if up.has_ended():
            return False
        with open(world.labs / "x" / "lock") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def test_a_failed_up_lets_go_of_its_name_last(tmp_path: Path) -> None:
    """It holds the lab's lock until the entry is removed: who takes the name right afterwards does not lose his own."""
    refused = "[nodes.n.sysctls]\nnet.ipv4.no_such_sysctl = 1\n"

    def body(world: World) -> None:
        lab = str(make_lab(world.folder, refused))
        was_met = False
        while not was_met:
            up = world.start("up", lab, "--name", "x")
            was_met = wait_for_the_rest(world, up)
            said(up.end(), 3)
        world.assert_empty()

    alone(tmp_path, body)


def test_ten_ups_without_a_name_get_ten_names(tmp_path: Path) -> None:
    def body(world: World) -> None:
        lab = str(make_lab(world.folder, BARE))
        started = [world.start("up", lab, "--json") for _ in range(10)]
        names = [json.loads(one.out)["name"] for one in (command.end() for command in started) if one.code == 0]
        assert sorted(names) == sorted(["bare", *(f"bare-{n}" for n in range(2, 11))])
        assert set(world.listed()) == set(names)
        world.good("down", "--all")
        world.assert_empty()

    alone(tmp_path, body)


def wait_until_so_far(world: World, up: Command, children: int) -> None:
    """Until `up` has taken its name, and so many processes have come of it; or it has ended."""
    wait_until(lambda: (world.labs / "x").exists() or up.has_ended(), "the name is taken", 10, 0.0005)
    wait_until(lambda: len(world.below(up.pid)) >= children or up.has_ended(), "it is so far", 10, 0.0005)


def test_down_during_up_ends_both(tmp_path: Path) -> None:
    """At twelve moments of `up`: down ends with 0, up with 0 or 2 and one line; then nothing is left."""

    def body(world: World) -> None:
        lab = str(make_lab(world.folder, BARE))
        for number in range(12):
            up = world.start("up", lab if number % 2 else "direct", "--name", "x")
            wait_until_so_far(world, up, number % 4)
            world.good("down", "x")
            end = up.end()
            if end.code:
                said(end, 2)
            assert world.listed() == {}, number
            world.assert_empty()

    alone(tmp_path, body)


def test_what_a_crash_leaves_is_removed_by_the_next_command(tmp_path: Path) -> None:
    """PID 1 is killed: the kernel ends the rest; whichever command comes next finds no lab and removes the entry."""

    def body(world: World) -> None:
        for after in (("ls",), ("down", "x"), ("up", "direct", "--name", "x"), ("exec", "x", "client", "--", "true")):
            found = world.up("x")
            assert found.init
            kill(found.init.pid)
            world.settle()
            done = world.run(*after)
            assert done.code == (2 if after[0] == "exec" else 0), done
            if after[0] == "up":
                world.assert_whole("x")
                world.down("x")
            world.assert_empty()

    alone(tmp_path, body)


def test_what_a_reboot_leaves_is_removed_and_nobody_is_signalled(tmp_path: Path) -> None:
    """An entry of another boot whose pid is somebody else's by now: the entry goes, the process lives."""

    def body(world: World) -> None:
        bystander = os.fork()
        if bystander == 0:
            os.execvp("sleep", ["sleep", "600"])
        found = world.up("x")
        entry = json.loads((world.labs / "x" / "lab.json").read_text())
        world.down("x")
        for change in ({"boot": "0" * 36}, {"start_ticks": 1}):
            there = world.labs / "x"
            there.mkdir(mode=0o700)
            (there / "lock").touch(0o600)
            init = {**entry["init"], "pid": bystander, "boot": found.init.boot if found.init else "", **change}
            (there / "lab.json").write_text(json.dumps({**entry, "init": init}))
            assert world.listed() == {}
            assert not there.exists()
        assert bystander in world.processes()
        kill(bystander)
        os.waitpid(bystander, 0)
        world.assert_empty()

    alone(tmp_path, body)


def test_a_lab_whose_lock_file_was_removed_is_still_known(tmp_path: Path) -> None:
    """Its first process proves that it lives: it is listed, entered and taken down, not forgotten."""

    def body(world: World) -> None:
        world.up("x")
        (world.labs / "x" / "lock").unlink()
        assert list(world.listed()) == ["x"]
        world.assert_whole("x")
        said(world.run("up", "direct", "--name", "x"), 2)
        world.down("x")
        world.assert_empty()

    alone(tmp_path, body)


def test_a_lab_is_known_by_its_lock_where_its_pids_mean_nothing(tmp_path: Path) -> None:
    """Seen from another PID namespace that shares the folder, it is alive as long as its first process is."""

    def body(world: World) -> None:
        entry = world.up("x")
        seen = [[entry], []]
        for expected in seen:
            assert sandbox.start(lambda those=expected: int(Roster().entries() != those)).wait() == 0  # type: ignore[misc]
            if expected:
                assert entry.init
                kill(entry.init.pid)
                world.settle()
        world.assert_empty()

    alone(tmp_path, body)


@pytest.mark.parametrize("how", ["world-writable", "somebody else's", "a link", "a file"])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, how: str) -> None:
    """Exit 2 and one line from every command, and nothing is made in it."""
    folder = tmp_path / "labs"
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    if how == "a link":
        folder.symlink_to(target)
    elif how == "a file":
        folder.touch(0o600)
    else:
        folder.mkdir(mode=0o755)
    if how == "world-writable":
        folder.chmod(0o777)
    if how == "somebody else's":
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        os.chown(folder, 1, 1)

    def body(world: World) -> None:
        for words in (("up", "direct"), ("ls",), ("down", "x"), ("down", "--all"), ("exec", "x", "client", "--", "id")):
            line = said(world.run(*words), 2)
            assert str(folder) in line and "NETNS_TW_LABS=DIR" in line
        assert list(target.iterdir()) == []
        assert how == "a file" or not list(folder.iterdir())

    alone(tmp_path, body)


def test_foreign_files_are_never_touched(tmp_path: Path) -> None:
    """Files, links and folders with files that are not of a lab lie there as before, and their names are taken."""

    def body(world: World) -> None:
        world.up("x")
        world.down("x")
        elsewhere = world.folder / "elsewhere"
        elsewhere.mkdir()
        for folder in (elsewhere, world.labs / "folder", world.labs / "Folder"):
            folder.mkdir(exist_ok=True)
            for name in ("mine", *(("lock", "lab.json") if folder == elsewhere else ())):
                (folder / name).write_text("mine")
        (world.labs / "file").write_text("mine")
        (world.labs / "link").symlink_to(elsewhere)

        def seen() -> dict[str, str]:
            paths = [one for top in (world.labs, elsewhere) for one in top.rglob("*") if one.name != ".netns_tw.lock"]
            return {str(one): one.read_text() if one.is_file() else "" for one in paths}

        before = seen()
        for name in ("file", "link", "folder"):
            assert str(world.labs / name) in said(world.run("up", "direct", "--name", name), 2)
            world.run("down", name)
        world.up("x")
        world.down("x")
        world.good("down", "--all")
        assert world.listed() == {}
        assert seen() == before

    alone(tmp_path, body)


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    """Where no lab ever came up nothing is removed and nothing is made: a home folder by mistake stays as it is."""

    def body(world: World) -> None:
        for name in ("empty", "mail"):
            (world.labs / name).mkdir(parents=True)
        world.labs.chmod(0o700)
        (world.labs / "mail" / "lock").touch()
        before = sorted(world.labs.rglob("*"))
        assert world.listed() == {}
        world.good("down", "x")
        assert "holds other things" in said(world.run("up", "direct"), 2)
        assert sorted(world.labs.rglob("*")) == before

    alone(tmp_path, body)


def test_a_lab_whose_folder_was_removed_ends(tmp_path: Path) -> None:
    """As logind removes a user's runtime folder after the last logout: no command could ever find such a lab."""

    def body(world: World) -> None:
        world.up("x")
        assert world.processes()
        shutil.rmtree(world.labs / "x")
        wait_until(lambda: not world.processes(), "the lab has ended", 20)
        assert world.listed() == {}

    alone(tmp_path, body)
