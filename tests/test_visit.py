"""set, logs, replay --in: what is done in a lab that is up, by this project's own code."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, lab_processes, netns_tw
from standing import labs_in, left, read_until, refused, start, stop_reading, up, within

from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns

needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
QUICK = "connect-is-what-fails"
"""A claim of lab direct: twenty requests, then it is judged."""
SLOW = "no-reuse-at-one-second-pace"
"""A claim of lab direct that takes twenty seconds."""
NUMBERS = count(1)
ASK = """
import http.client, sys
status = None
while status != 502:
    connection = http.client.HTTPConnection(sys.argv[1])
    connection.request("GET", "/")
    status = connection.getresponse().status
    connection.close()
"""
"""Asks until the LB has no port left; nginx races with its backend, so it may take more than three requests."""


@pytest.fixture(scope="module", autouse=True)
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One roster for all tests here, with a lab called lb that has an nginx where there is one."""
    with labs_in(tmp_path_factory.mktemp("visit")) as folder:
        up("lb3ports", "--name", "lb")
        yield folder


@pytest.fixture
def fresh() -> Iterator[str]:
    """The name of a new lab direct; it is taken down."""
    name = f"fresh-{next(NUMBERS)}"
    up("direct", "--name", name)
    yield name
    within("down", name)


def sysctl(lab: str, node: str, name: str) -> str:
    """What the kernel has."""
    return netns_tw("exec", lab, node, "--", "cat", f"/proc/sys/net/ipv4/{name}").stdout.strip()


def replay(lab: str, claim: str, *words: str) -> tuple[int, dict[str, Any]]:
    """Replay a claim in a lab that is up; the exit code, and what --json tells of it."""
    done = netns_tw("replay", "--in", lab, claim, "--json", *words)
    assert done.stdout, done.stderr
    (one,) = json.loads(done.stdout)["experiments"]
    return done.returncode, one


def test_set_tells_what_was_and_what_is_and_the_kernel_has_it() -> None:
    """In the order of the words, at once, for text and for a program."""
    done = netns_tw(
        "set", "lb", "client.net.ipv4.tcp_tw_reuse=1", "backend.ip_local_reserved_ports=9", "client.tcp_tw_reuse=0"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "client: net.ipv4.tcp_tw_reuse = 1  (before: 2)",
        "backend: net.ipv4.ip_local_reserved_ports = 9  (before: )",
        "client: net.ipv4.tcp_tw_reuse = 0  (before: 1)",
    ]
    assert sysctl("lb", "client", "tcp_tw_reuse") == "0"
    assert sysctl("lb", "backend", "ip_local_reserved_ports") == "9"
    done = within("set", "lb", "backend.ip_local_reserved_ports=", "client.tcp_tw_reuse=2", "--json")
    assert json.loads(done.stdout) == [
        {"node": "backend", "sysctl": "net.ipv4.ip_local_reserved_ports", "before": "9", "now": ""},
        {"node": "client", "sysctl": "net.ipv4.tcp_tw_reuse", "before": "0", "now": "2"},
    ]
    assert sysctl("lb", "backend", "ip_local_reserved_ports") == ""


@pytest.mark.parametrize(
    ("word", "code", "message"),
    [
        ("client.tcp_tw_reuse=9", 2, "node client: net.ipv4.tcp_tw_reuse = '9': refused by the kernel with EINVAL"),
        ("client.tcp_tw_reuse=1 2", 2, "net.ipv4.tcp_tw_reuse = '1 2': the kernel keeps '1' instead"),
        ("client.tcp_tw_resue=1", 3, "did you mean 'tcp_tw_reuse'?"),
        ("cleint.tcp_tw_reuse=1", 2, "no node is called 'cleint'; did you mean 'client'?"),
    ],
)
def test_set_sets_all_or_nothing(word: str, code: int, message: str) -> None:
    """What stood before the word that is refused is as it was; also what the kernel made of that word."""
    good = ("client.tcp_tw_reuse=0", "backend.ip_local_reserved_ports=8")
    assert message in refused(within("set", "lb", *good, word), code)
    assert sysctl("lb", "client", "tcp_tw_reuse") == "2"
    assert sysctl("lb", "backend", "ip_local_reserved_ports") == ""


@needs_nginx
def test_logs_are_what_the_program_wrote_and_follow_until_the_lab_is_gone(labs: Path) -> None:
    """nginx's own words for a 502; a line arrives as it is written; down ends it well."""
    up("lb3ports", "--name", "logged")
    assert netns_tw("logs", "logged", "lb").stdout == ""
    child = start("logs", "logged", "lb", "-f")
    client = ("exec", "logged", "client", "--", sys.executable, "-c", ASK)
    assert netns_tw(*client, "198.18.1.1").returncode == 0
    line = b"connect() to 198.18.2.2:80 failed (99: Cannot assign requested address)"
    assert line in read_until(child, line)
    assert line in netns_tw("logs", "logged", "lb").stdout.encode()
    assert within("down", "logged").returncode == 0
    _, talk = child.communicate(timeout=20)
    assert (child.returncode, talk) == (0, b"")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_follower_may_leave(signum: int) -> None:
    """Ctrl-C is the way to leave it, and no failure."""
    child = start("logs", "lb", "backend", "-f")
    wait_until(lambda: holds_log(child.pid), "it reads the log", 20)
    child.send_signal(signum)
    out, talk = child.communicate(timeout=20)
    assert (child.returncode, out, talk) == (0, b"", b"")


def holds_log(pid: int) -> bool:
    """Whether the process has a log open; its files come and go meanwhile."""
    folder = f"/proc/{pid}/fd"
    for fd in os.listdir(folder):
        with suppress(FileNotFoundError):
            if os.readlink(f"{folder}/{fd}").endswith("/log"):
                return True
    return False


def test_a_log_that_nobody_reads_on_is_no_error(fresh: str) -> None:
    """``logs | head -1``, of a log that is longer than a pipe."""
    log = Path(f"/proc/{row_of(fresh)['pids']['init']}/root/run/netns_tw/server/log")
    log.write_bytes(b"a line\n" * 100_000)
    with start("logs", fresh, "server") as child:
        assert read_until(child, b"a line\n").startswith(b"a line\n")
        assert stop_reading(child) == (0, b"")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lb", "client"], "node client runs no program and has no log; those that have one: lb, backend"),
        (["lb", "bakcend"], "lab lb has no node 'bakcend'; did you mean 'backend'?"),
        (["bl", "client"], "no lab called 'bl' is up"),
    ],
)
def test_a_log_that_is_not_there_is_one_message(words: list[str], message: str) -> None:
    assert message in refused(within("logs", *words))


def test_a_claim_passes_once_in_a_fresh_lab(fresh: str) -> None:
    """The record tells where it was, and is judged the same later; a second time the lab is not fresh."""
    run = Path(os.environ["NETNS_TW_RUNS"]) / fresh
    code, one = replay(fresh, QUICK, "--out", str(run))
    assert (code, one["verdict"]) == (0, "pass")
    (record,) = run.glob("*.jsonl")
    header, built = (json.loads(line) for line in record.read_text().splitlines()[:2])
    assert (header["inside"], built["differs"]) == (fresh, [])
    done = netns_tw("report", str(record), "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["experiments"][0]["verdict"] == "pass"
    again = json.loads(netns_tw("replay", "--in", fresh, f"direct/{QUICK}", "--json", "--out", f"{run}-2").stdout)
    assert again["exit_code"] == 5
    reason = again["experiments"][0]["reason"]
    assert re.fullmatch(rf"lab {fresh} was not fresh: before the first request client had 1[01] time-wait.*", reason), (
        reason
    )
    (record,) = Path(f"{run}-2").glob("*.jsonl")
    later = json.loads(netns_tw("report", str(record), "--json").stdout)
    assert (later["exit_code"], later["experiments"][0]["reason"]) == (5, reason)


@needs_nginx
def test_a_lab_that_is_not_the_claim_s_is_inconclusive() -> None:
    """A sysctl that was set, a program that is another: each is named, with what the claim wants."""
    assert within("set", "lb", "lb.tcp_tw_reuse=1").returncode == 0
    code, one = replay("lb", "keepalive-requests-is-a-budget", "--keep", "0")
    assert (code, one["verdict"]) == (5, "inconclusive")
    assert one["reason"].startswith("lab lb is not as the claim has it: ")
    assert "lb runs nginx (nginx.conf), the claim's is nginx (nginx-keepalive.conf)" in one["reason"]
    assert "lb: net.ipv4.tcp_tw_reuse = 1, the claim's is 0" in one["reason"]


def test_a_program_that_has_ended_is_named(fresh: str) -> None:
    """Then nobody listens, and no number means anything."""
    server = row_of(fresh)["pids"]["server"]
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: server not in lab_processes(), "the server is gone", 20)
    code, one = replay(fresh, QUICK, "--keep", "0")
    assert (code, one["verdict"]) == (5, "inconclusive")
    assert "the program of server ended with status -9" in one["reason"]


def row_of(name: str) -> dict[str, Any]:
    """A lab's row of ls."""
    (found,) = [row for row in json.loads(within("ls", "--json").stdout) if row["name"] == name]
    return dict(found)


def test_one_replay_at_a_time_and_an_interrupt_frees_the_stage(fresh: str) -> None:
    """The second is refused with one message; Ctrl-C leaves no client in the lab, and the next replay has the stage."""
    before = sorted(lab_processes())
    first = start("replay", "--in", fresh, SLOW, "--keep", "0")
    shown = Path(f"/proc/{row_of(fresh)['pids']['init']}/root/run/netns_tw/.replay")
    wait_until(lambda: shown.exists() and b"response" in shown.read_bytes(), "it has the stage, and an answer", 20)
    done = netns_tw("replay", "--in", fresh, QUICK, "-q", "--keep", "0")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = " ".join((done.stdout + done.stderr).split())
    assert said.count(f"lab {fresh} is in use by another replay; let it end, or bring up another copy") == 1, said
    first.send_signal(signal.SIGINT)
    _, talk = first.communicate(timeout=20)
    assert first.returncode == 130 and talk.endswith(b"netns_tw: interrupted; nothing is left behind\n")
    assert sorted(lab_processes()) == before
    code, one = replay(fresh, QUICK, "--keep", "0")
    assert code == 5 and "was not fresh" in one["reason"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["connect-is-what-fials"], f"did you mean '{QUICK}'?"),
        (["lb3ports/the-log-names-errno-99"], "no claim"),
        ([], "which claim? name one: netns_tw replay --in NAME CLAIM"),
        ([QUICK, SLOW], "which claim? name one: netns_tw replay --in NAME CLAIM"),
        ([QUICK, "--server", "h11"], "with --in the lab is there already: leave out --server, --links and --pcap"),
        ([QUICK, "--pcap", "packets"], "with --in the lab is there already: leave out --server, --links and --pcap"),
    ],
)
def test_a_wrong_word_of_replay_is_one_message(words: list[str], message: str, labs: Path) -> None:
    if "plain" not in left(labs):
        up("direct", "--name", "plain")
    assert message in refused(within("replay", "--in", "plain", *words))
    assert not (ROOT / "packets").exists()


def test_a_lab_whose_file_has_changed_is_not_replayed_in(tmp_path: Path) -> None:
    """What is up came from another file than the claim would be judged by; so too when the file is gone."""
    lab = tmp_path / "mine"
    shutil.copytree(ROOT / "topologies" / "direct", lab)
    text = (lab / "topology.toml").read_text().replace('name        = "direct"', 'name = "mine"')
    (lab / "topology.toml").write_text(text)
    up(str(lab))
    (lab / "topology.toml").write_text(text.replace("1024 1034", "1024 1044"))
    for words in (["replay", "--in", "mine", QUICK], ["watch", "mine"]):
        message = refused(within(*words))
        assert (
            "its topology file has changed since lab mine came up; first: netns_tw down mine, then up again" in message
        )
    shutil.rmtree(lab)
    assert str(lab) in refused(within("replay", "--in", "mine", QUICK))
    assert netns_tw("exec", "mine", "client", "--", "true").returncode == 0
    assert within("down", "mine").stdout == "mine: down\n"
