"""shell: the user's own shell on a node, and the calling one as it was afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import netns_tw
from standing import COMMAND, labs_in, refused, running, terminal, up

from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module", autouse=True)
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One lab for all tests here."""
    with labs_in(tmp_path_factory.mktemp("shell")) as folder:
        up("direct")
        yield folder


RC = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/config.fish"}
"""What a shell reads of its user's; dash reads nothing unless $ENV names it."""


@pytest.mark.parametrize("name", ["bash", "zsh", "fish", "dash"])
def test_a_shell_says_where_it_is_and_is_the_user_s_own(name: str, tmp_path: Path) -> None:
    """Lab and node stand before the prompt, the user's start-up file was read, jobs stop and go on, and the calling
    shell has its terminal back afterwards, with the exit code of the last command."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    rc = tmp_path / RC.get(name, ".dashrc")
    rc.parent.mkdir(parents=True, exist_ok=True)
    rc.write_text("alias mine='echo the alias was read'\n")
    outer = tmp_path / "outer"
    outer.write_text("PS1='outer> '\n")
    environ = {"HOME": str(tmp_path), "SHELL": path, "ENV": str(rc), "HISTFILE": ""}
    here = r"\[direct:client\]"
    with terminal("bash", "--rcfile", str(outer), "-i", **environ) as one:
        one.expect("outer> ")
        one.type(" ".join([*COMMAND, "shell", "direct", "client"]) + "\n")
        one.expect(here)
        one.type("mine\r")
        one.expect("the alias was read\r\n")
        one.expect(here)
        one.type("sleep 86397\r")
        wait_until(lambda: running("sleep 86397"), "the job runs", 20)
        wait_until(lambda: os.getpgid(running("sleep 86397")[0]) == one.foreground(), "it has the terminal", 20)
        one.type("\x1a")
        one.expect(here)
        one.type("jobs\r")
        one.expect("sleep 86397")
        one.expect(here)
        one.type("fg\r")
        wait_until(lambda: os.getpgid(running("sleep 86397")[0]) == one.foreground(), "it has the terminal again", 20)
        one.type("\x03")
        one.expect(here)
        one.type("sh -c 'exit 7'\r")
        one.expect(here)
        one.type("\x04" if name == "bash" else "exit\r")
        one.expect("outer> ")
        assert one.foreground() == one.child.pid
        one.type("echo code $?\n")
        one.expect("code 7\r\n")
        one.type("exit\n")
        assert one.end() == 0
    assert running("sleep 86397") == []


@pytest.mark.parametrize("path", ["/nonexistent/shell", "/usr/sbin/nologin"])
def test_a_shell_that_is_none_is_bash_or_sh(path: str) -> None:
    """A user of a service has a shell that lets nobody in; the lab is still his own."""
    environ = {**os.environ, "SHELL": path}
    done = netns_tw("shell", "direct", "client", env=environ, input="echo it is $0; exit 5\n")
    assert done.returncode == 5
    assert "it is bash" in done.stdout or "it is sh" in done.stdout


def test_of_a_wrong_node_a_shell_says_the_same() -> None:
    message = refused(netns_tw("shell", "direct", "servre"))
    assert "lab direct has no node 'servre'; did you mean 'server'?" in message
