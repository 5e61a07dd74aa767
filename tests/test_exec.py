"""exec: the user's own program on a node, as if no command of ours stood between."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, netns_tw
from standing import COMMAND, labs_in, read_until, refused, running, start, terminal, up

from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns

CLIENT = ("exec", "direct", "client", "--")
COUNT = """
import signal
seen = []
signals = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
for one in signals:
    signal.signal(one, lambda number, frame: seen.append(number))
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
print("ready", flush=True)
while True:
    number = signal.sigwait(signals)
    seen.append(int(number))
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGUSR2:
        print(sorted(seen), flush=True)
        raise SystemExit(len(seen))
"""
"""Counts what reaches it until SIGUSR2; the exit code is the count."""


@pytest.fixture(scope="module", autouse=True)
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One lab for all tests here: a client and a server."""
    with labs_in(tmp_path_factory.mktemp("exec")) as folder:
        up("direct")
        yield folder


def python(code: str) -> list[str]:
    """The argv that runs *code*."""
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("argv", "code", "talk"),
    [
        (["true"], 0, ""),
        (["sh", "-c", "echo talk >&2; exit 42"], 42, "talk\n"),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM, ""),
        (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL, ""),
        (["no-such-program"], 127, "netns_tw: no-such-program: No such file or directory\n"),
        (["/etc/passwd"], 126, "netns_tw: /etc/passwd: Permission denied\n"),
    ],
)
def test_the_program_s_exit_code_is_ours(argv: list[str], code: int, talk: str) -> None:
    """As a shell has it: 128 + N for signal N, 126 what cannot be executed, 127 what is not found."""
    done = netns_tw(*CLIENT, *argv)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", talk)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["direct", "clinet", "true"], "lab direct has no node 'clinet'; did you mean 'client'?"),
        (["direct", "../client", "true"], "lab direct has no node '../client'; did you mean 'client'?"),
        (["dierct", "client", "true"], "no lab called 'dierct' is up; did you mean 'direct'?"),
        (["direct", "client"], "which command? netns_tw exec NAME NODE -- COMMAND..."),
        (["direct", "client", ""], "which command? netns_tw exec NAME NODE -- COMMAND..."),
    ],
)
def test_a_wrong_word_is_one_message(words: list[str], message: str) -> None:
    assert message in refused(netns_tw("exec", *words))


def test_arguments_arrive_as_they_are() -> None:
    """Blanks, newlines, octets that are no text, what would be options of ours, and a -- of the program's own."""
    odd = ["a b", "new\nline", "", "--", "-h", "--json", "--set", "\udcff"]
    done = subprocess.run([*COMMAND, *CLIENT, "printf", "%s|", *odd], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout == b"".join(os.fsencode(one) + b"|" for one in odd)


def test_ten_megabytes_pass_through_all_three_streams() -> None:
    """Byte for byte, whatever they are."""
    data = random.Random(4).randbytes(10_000_000)
    done = subprocess.run([*COMMAND, *CLIENT, "tee", "/dev/stderr"], cwd=ROOT, input=data, capture_output=True)
    assert done.returncode == 0
    assert done.stdout == data and done.stderr == data


def test_a_stream_that_is_closed_is_closed_for_the_program() -> None:
    """Not /dev/null, and no file of ours takes its number."""
    shown = "import os, sys; sys.stderr.write(repr([os.path.exists(f'/proc/self/fd/{n}') for n in range(2)]))"
    argv = ["sh", "-c", 'exec "$@" <&- >&-', "sh", *COMMAND, *CLIENT, *python(shown)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[False, False]")


def test_the_program_finds_its_place_and_what_was_the_caller_s(tmp_path: Path) -> None:
    """Folder and environment are the caller's, with the lab and the node named; network and /sys are the node's."""
    shown = """
import json, os
names = ["NETNS_TW_LAB", "NETNS_TW_NODE", "MINE"]
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([os.getcwd(), [os.environ.get(one) for one in names], sorted(os.listdir("/sys/class/net")),
    sorted(os.listdir("/proc/self/fd"))[:-1], status["SigBlk"].strip(), os.environ["PATH"]]))
"""
    environ = {**os.environ, "MINE": "kept", "PATH": "/usr/bin:/bin"}
    done = netns_tw(*CLIENT, *python(shown), cwd=tmp_path, env=environ, timeout=20)
    folder, variables, links, files, blocked, path = json.loads(done.stdout)
    assert folder == str(tmp_path)
    assert variables == ["direct", "client", "kept"]
    assert links == ["eth0", "lo"]
    assert files == ["0", "1", "2"]
    assert int(blocked, 16) == 0
    assert path.startswith("/usr/bin:/bin:") and "/usr/sbin" in path.split(":")


def test_a_folder_that_the_lab_hides_is_the_root() -> None:
    """/run is the lab's own."""
    hidden = tempfile.mkdtemp(dir="/run")
    try:
        argv = [sys.executable, "-P", "-m", "netns_tw", *CLIENT, "pwd", "-P"]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(argv, cwd=hidden, capture_output=True, text=True, env=environ)
    finally:
        os.rmdir(hidden)
    assert (done.returncode, done.stdout, done.stderr) == (0, "/\n", "")


def test_a_folder_that_is_gone_is_the_root_too(tmp_path: Path) -> None:
    """Such as that of a shell whose folder somebody removed meanwhile."""
    gone = tmp_path / "gone"
    gone.mkdir()
    argv = [
        "sh",
        "-c",
        'rmdir "$0"; exec "$@"',
        str(gone),
        sys.executable,
        "-P",
        "-m",
        "netns_tw",
        *CLIENT,
        "pwd",
        "-P",
    ]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=gone, capture_output=True, text=True, env=environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "/\n", "")


@pytest.mark.parametrize(("trap", "ignored"), [("", []), ("trap '' HUP INT;", [signal.SIGHUP, signal.SIGINT])])
def test_what_the_caller_ignores_the_program_ignores(trap: str, ignored: list[signal.Signals]) -> None:
    """As nohup wants it; and nothing else, so not what Python ignores for itself (SIGPIPE, SIGXFSZ)."""
    argv = ["sh", "-c", f'{trap} exec "$@"', "sh", *COMMAND, *CLIENT, "grep", "SigIgn", "/proc/self/status"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert int(done.stdout.split()[1], 16) == sum(1 << (one - 1) for one in ignored), done.stderr


def test_labs_are_reached_from_outside() -> None:
    """Inside a lab pids are others, and /run/netns_tw is the lab's own: what is there is no lab, and is not touched."""
    names = ["ls", "-A", "/run/netns_tw"]
    before = netns_tw(*CLIENT, *names).stdout
    for words in (["ls"], ["up", "direct"], ["down", "client"]):
        done = netns_tw(*CLIENT, "env", "-u", "NETNS_TW_LABS", *COMMAND, *words)
        assert "this is inside a lab" in refused(done)
    assert netns_tw(*CLIENT, *names).stdout == before


def test_a_file_of_the_caller_s_is_the_program_s_too() -> None:
    """``exec ... -- cat <(command)``: a shell hands such a pipe over by its number."""
    line = " ".join([*COMMAND, *CLIENT, "cat", "<(echo from a pipe)"])
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("from a pipe\n", "")


def test_a_signal_to_the_command_reaches_the_program_once() -> None:
    """Whatever ends a command elsewhere; what the program makes of it is the exit code."""
    child = start(*CLIENT, *python(COUNT))
    read_until(child, b"ready\n")
    sent = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
    for one in sent[:-1]:
        child.send_signal(one)
        assert read_until(child, b"\n") == f"{one.name}\n".encode()
    child.send_signal(sent[-1])
    out, talk = child.communicate(timeout=20)
    expected = f"SIGUSR2\n{sorted(map(int, sent))}\n"
    assert (out.decode(), talk, child.returncode) == (expected, b"", len(sent))


def test_the_program_dies_with_the_command() -> None:
    """Also by SIGKILL, which nobody can pass on."""
    child = start(*CLIENT, "sleep", "86399")
    wait_until(lambda: running("sleep 86399"), "the program runs", 20)
    child.kill()
    child.communicate()
    wait_until(lambda: not running("sleep 86399"), "the program is gone", 20)


def test_the_lab_may_go_first(labs: Path) -> None:
    """down ends what runs in the lab: the command ends as its program did, and says nothing."""
    up("direct", "--name", "short")
    child = start("exec", "short", "client", "--", "sh", "-c", "echo ready; exec sleep 86398")
    read_until(child, b"ready\n")
    assert netns_tw("down", "short").returncode == 0
    out, talk = child.communicate(timeout=20)
    assert (child.returncode, out, talk) == (128 + signal.SIGKILL, b"", b"")
    assert running("sleep 86398") == []


def test_a_terminal_is_the_program_s_own() -> None:
    """It is a terminal inside, of the same size, and a new size is told (SIGWINCH)."""
    shown = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
print(*map(os.isatty, range(3)), *os.get_terminal_size(), flush=True)
signal.sigwait([signal.SIGWINCH])
print(*os.get_terminal_size())
"""
    with terminal(*COMMAND, *CLIENT, *python(shown)) as one:
        one.expect("True True True 80 24\r\n")
        one.resize(50, 132)
        one.expect("132 50\r\n")
        assert one.end() == 0
        assert termios.tcgetattr(one.ours) == one.before


def test_ctrl_c_reaches_the_program_once() -> None:
    """The terminal tells both, so nothing is passed on; the program may live on, and its exit code comes back."""
    with terminal(*COMMAND, *CLIENT, *python(COUNT)) as one:
        one.expect("ready")
        one.type("\x03")
        one.expect("SIGINT")
        one.child.send_signal(signal.SIGUSR2)
        one.expect(r"SIGUSR2\r\n\[2, 12\]\r\n")
        assert one.end() == 2


def test_ctrl_z_stops_both_and_fg_goes_on() -> None:
    """The calling shell sees a stopped job; after fg the program reads from the terminal again."""
    line = " ".join([*COMMAND, *CLIENT, "sh", "-c", "'echo be\"\"gun; read word; echo got $word; exit 9'"])
    with terminal("bash", "--norc", "--noprofile", "-i", PS1="outer> ", HISTFILE="") as one:
        one.expect("outer> ")
        one.type(f"{line}\n")
        one.expect("begun\r\n")
        one.type("\x1a")
        one.expect("Stopped")
        one.expect("outer> ")
        assert one.foreground() == one.child.pid
        one.type("fg\n")
        wait_until(lambda: one.foreground() != one.child.pid, "the job is in the foreground", 20)
        one.type("back\n")
        one.expect("got back\r\n")
        one.expect("outer> ")
        one.type("echo code $?\n")
        one.expect("code 9\r\n")
        one.type("exit\n")
        assert one.end() == 0
