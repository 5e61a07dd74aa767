"""up, ls, down: labs that stay, as a newcomer, a hostile user and an ordinary user meet them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, lab_processes, netns_tw
from standing import COMMAND, labs_in, left, read_until, refused, up, within

from netns_tw.report.standing import age
from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
RANGE = "net.ipv4.ip_local_port_range"
REUSE = "net.ipv4.tcp_tw_reuse"


@pytest.fixture(autouse=True)
def labs(tmp_path: Path) -> Iterator[Path]:
    """A roster of the test's own; what it brings up is taken down."""
    with labs_in(tmp_path) as folder:
        yield folder


def test_what_is_printed_is_what_came_up_and_what_can_be_done() -> None:
    """Name, diagram, addresses, effective sysctls; and each command that is printed works, in that order."""
    done = netns_tw("up", "direct")
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines = done.stdout.splitlines()
    assert first == "direct is up: a client with eleven local ports, and a server"
    text = "\n".join(" ".join(line.split()) for line in lines)
    assert "client ──── server (http-server, keep-alive)" in text
    assert "client:eth0 198.18.0.2/24, 2001:db8::2/64 ──── server:eth0 198.18.0.1/24, 2001:db8::1/64" in text
    assert "client - - ip_local_port_range = 1024 1034\ntcp_tw_reuse = 0\n" in text
    assert "server http-server (keep-alive) 198.18.0.1:80 ip_local_port_range = 32768 60999" in text
    at = lines.index("Try next:")
    assert lines[at + 4] == "And when you are done:"
    commands = [line.strip() for line in (*lines[at + 1 : at + 4], lines[at + 5])]
    replay, watch, look, down = commands
    assert [words.split()[-2:] for words in commands] == [
        ["direct", "connect-is-what-fails"],
        ["watch", "direct"],
        ["ss", "-tan"],
        ["down", "direct"],
    ]
    replayed = shell(replay)
    assert replayed.returncode == 0 and "PASS" in replayed.stdout
    with subprocess.Popen(["sh", "-c", f"exec {watch}"], cwd=ROOT, stdout=subprocess.PIPE) as child:
        read_until(child, b"time-wait=1")
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 0
    assert shell(look).stdout.count("TIME-WAIT") in (10, 11)
    assert shell(down).stdout == "direct: down\n"
    assert lab_processes() == {}


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line that was printed."""
    return subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_claim_s_lab_is_the_claim_s(labs: Path) -> None:
    """LAB/CLAIM: sysctls and programs as the claim changes them; a replay of it there is conclusive."""
    found = up("direct/http10-server-closes-first", "--name", "x")
    assert (found["name"], found["lab"], found["claim"]) == ("x", "direct", "http10-server-closes-first")
    assert found["nodes"]["server"]["program"] == "http-server (server-first)"
    (row,) = json.loads(netns_tw("ls", "--json").stdout)
    assert row["lab"] == "direct/http10-server-closes-first"
    up("direct/reuse-back-to-back", "--name", "y")
    done = netns_tw("replay", "--in", "y", "reuse-back-to-back", "-q")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("lab", ["direct", "crowd", "lb3ports"])
def test_when_up_is_back_every_program_listens(lab: str) -> None:
    """What --json tells is what the kernel has: listeners, sysctls, addresses, the programs' pids."""
    found = up(lab)
    for node, one in found["nodes"].items():
        script = "ss -Hltn; echo; cat $0 $1; ip -o a"
        sysctls = [f"/proc/sys/{name.replace('.', '/')}" for name in (RANGE, REUSE)]
        done = netns_tw("exec", lab, node, "--", "sh", "-c", script, *sysctls)
        listeners, _, rest = f"\n{done.stdout}".partition("\n\n")
        ports, reuse, *addresses = rest.splitlines()
        assert (one["listen"] or "") in listeners
        assert [" ".join(ports.split()), reuse] == [one["sysctls"][RANGE], one["sysctls"][REUSE]]
        assert all(any(f" {address} " in line for line in addresses) for address in one["addresses"])
        assert one["pid"] is None or Path(f"/proc/{one['pid']}").exists()
    assert set(lab_processes()) >= {found["init"]}


def test_copies_are_numbered_and_a_name_is_one_lab_s(labs: Path) -> None:
    """A number that is free again is taken again. A name that was asked for is not numbered."""
    names = [up(word)["name"] for word in ("direct", "direct", str(ROOT / "topologies" / "direct"))]
    assert names == ["direct", "direct-2", "direct-3"] == left(labs)
    assert within("down", "direct-2", "nobody").stdout == "direct-2: down\nnobody: was not up\n"
    assert up("direct")["name"] == "direct-2"
    message = refused(within("up", "lb3ports", "--name", "direct-3"))
    assert "a lab called direct-3 is up already: choose another --name, or netns_tw down direct-3" in message
    rows = json.loads(within("ls", "--json").stdout)
    assert [(row["name"], row["lab"], row["nodes"], row["state"]) for row in rows] == [
        (name, "direct", ["client", "server"], "up") for name in ("direct", "direct-3", "direct-2")
    ]
    server = rows[0]["pids"]["server"]
    assert server in lab_processes()
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: server not in lab_processes(), "the server is gone", 20)
    wait_until(lambda: "with status" in within("ls", "--json").stdout, "its exit status is written", 20)
    rows = json.loads(within("ls", "--json").stdout)
    assert [row["state"] for row in rows] == ["up, program of server ended with status -9", "up", "up"]
    table = within("ls").stdout
    assert all(re.search(rf"^ {row['name']} +direct +\d+ s +client server +up", table, re.M) for row in rows)
    done = json.loads(within("down", "--all", "--json").stdout)
    assert done == {"direct": "down", "direct-3": "down", "direct-2": "down"}
    assert (left(labs), lab_processes()) == ([], {})


def test_nothing_to_list_and_nothing_to_take_down_is_no_error() -> None:
    """A person is told on standard error what to do; a program gets an empty answer."""
    done = within("ls")
    assert (done.returncode, done.stdout) == (0, "") and re.fullmatch(
        r"no lab is up; bring one up: .* up LAB\n", done.stderr
    )
    assert json.loads(within("ls", "--json").stdout) == []
    done = within("down", "--all")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no lab is up\n")
    assert json.loads(within("down", "--all", "--json").stdout) == {}
    done = within("down", "direct", "direct")
    assert (done.returncode, done.stdout, done.stderr) == (0, "direct: was not up\n", "")


def test_set_is_done_before_the_first_packet(labs: Path) -> None:
    """--set wins over the file and over the claim; what is printed is what the kernel has; three other commands fit."""
    words = ("--set", "client.tcp_tw_reuse=1", "--set", "server.net.ipv4.tcp_max_tw_buckets=7")
    ports = ("--set", "client.ip_local_port_range=2000\t2005", "--set", "client.tcp_tw_reuse=2")
    found = up("direct/reuse-back-to-back", *words, *ports)
    client, server = (found["nodes"][name]["sysctls"] for name in ("client", "server"))
    assert (client[REUSE], client[RANGE], server["net.ipv4.tcp_max_tw_buckets"]) == ("2", "2000 2005", "7")
    shown = netns_tw("up", "direct", *words).stdout
    assert "replay --in" not in shown, "it would be inconclusive: the lab is not the claim's any more"
    assert "exec direct-2 client -- curl -si http://198.18.0.1/" in shown and "shell direct-2 client" in shown


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["direct", "--set", "cleint.tcp_tw_reuse=1"], 2, "no node is called 'cleint'; did you mean 'client'?"),
        (["direct", "--set", "client.ip_local_port_range=9 8"], 2, "must be ports in the form 'FIRST LAST'"),
        (["direct", "--set", "client.tcp_tw_resue=1"], 3, "did you mean 'tcp_tw_reuse'?"),
        (["direct", "--set", "client.tcp_tw_recycle=1"], 3, "removed in Linux 4.12"),
        (["direct", "--set", "client.tcp_tw_reuse=7"], 2, "refused by the kernel with EINVAL"),
        (["direct", "--set", "client.tcp_tw_reuse=1 2"], 2, "the kernel keeps '1' instead"),
        (["direct", "--set", "client.conf.eth7.rp_filter=1"], 3, "net.ipv4.conf.eth7.rp_filter: not among"),
        (["direct", "--name", "../x"], 2, "a lab cannot be called '../x'"),
        (["direct", "--name", "a b\nc"], 2, r"a lab cannot be called 'a b\nc'"),
        (["direct", "--name", "x" * 200], 2, "1 to 32 of a-z, 0-9 and '-'"),
        (["dierct"], 2, "no lab is called 'dierct'; did you mean 'direct'?"),
        (["direct/reuse-back-to-bakc"], 2, "did you mean 'reuse-back-to-back'?"),
        (["direct/../lb3ports/x"], 2, "no lab there"),
        (["/nonexistent/lab"], 2, "/nonexistent: no lab there"),
    ],
)
def test_what_cannot_be_is_one_message_and_leaves_nothing(
    words: list[str], code: int, message: str, labs: Path
) -> None:
    assert message in refused(within("up", *words), code)
    assert (left(labs), lab_processes()) == ([], {})


@pytest.mark.parametrize("name", ["../x", "", "x" * 200, ".netns_tw.lock", "a\nb"])
def test_down_touches_nothing_but_labs(name: str, labs: Path) -> None:
    before = sorted(labs.parent.iterdir())
    assert "a lab cannot be called" in refused(within("down", "--", name))
    assert sorted(labs.parent.iterdir()) == before


@pytest.mark.parametrize("words", [[], ["--all", "direct"]])
def test_down_wants_names_or_all(words: list[str]) -> None:
    assert "which lab? name some, or --all of yours" in refused(within("down", *words))


def broken_lab(folder: Path, old: str, new: str, name: str = "nginx.conf") -> Path:
    """A copy of lb3ports in which one line of a file is another."""
    lab = folder / "lb3ports"
    shutil.copytree(ROOT / "topologies" / "lb3ports", lab)
    text = (lab / name).read_text()
    assert old in text
    (lab / name).write_text(text.replace(old, new, 1))
    return lab


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_a_wrong_nginx_conf_is_the_user_s_to_mend(labs: Path, tmp_path: Path) -> None:
    """Exit 2 with what nginx said, and nothing is left; mended, the same name is free."""
    lab = broken_lab(tmp_path, "proxy_pass", "proxy_pas")
    message = refused(netns_tw("up", str(lab)))
    assert "node lb: nginx for 198.18.1.1:80 ended with status 1" in message and '"proxy_pas"' in message
    assert (left(labs), lab_processes()) == ([], {})
    shutil.rmtree(lab)
    assert up(str(broken_lab(tmp_path, "proxy_pass", "proxy_pass")))["name"] == "lb3ports"


def hidden(*names: str) -> list[str]:
    """The start of an argv that hides programs, in a mount namespace of its own."""
    lines = [f"mount --bind /dev/null {path};" for path in map(shutil.which, names) if path]
    return ["unshare", "-m", "sh", "-ec", f'{" ".join(lines)} exec "$@"', "sh", *COMMAND]


@is_root
def test_without_nginx_the_embedded_programs_run() -> None:
    """A note says so, and the lab works; nginx that is asked for by name is missing, exit 3."""
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run([*hidden("nginx"), "up", "lb3ports"], **options)  # type: ignore[call-overload]
    note = "note: nginx is not installed: sudo apt-get install nginx-light; the embedded programs run instead"
    assert done.returncode == 0 and note in " ".join(done.stdout.split())
    assert "lb (http-proxy)" in done.stdout, "what runs is drawn, not what the file says"
    replayed = subprocess.run(
        [*hidden("nginx"), "replay", "--in", "lb3ports", "the-log-names-errno-99", "-q"], **options
    )  # type: ignore[call-overload]
    assert replayed.returncode == 0, replayed.stdout
    done = subprocess.run([*hidden("nginx"), "up", "lb3ports", "--server", "nginx"], **options)  # type: ignore[call-overload]
    assert "nginx is not installed" in refused(done, 3)


def test_all_servers_can_be_of_one_kind() -> None:
    found = up("lb3ports", "--server", "h11")
    assert [one["program"] for one in found["nodes"].values()] == [
        None,
        "http-proxy (a connection per request)",
        "http-server (client-first)",
    ]


def test_a_reader_that_has_seen_enough_leaves_the_lab_up(labs: Path) -> None:
    """``up LAB | head -1``: the lab is up, since that was asked for."""
    line = " ".join([*COMMAND, "up", "direct"])
    done = shell(f"{line} | head -1")
    assert (done.stdout, done.stderr) == ("direct is up: a client with eleven local ports, and a server\n", "")
    assert left(labs) == ["direct"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0 s"), (59.9, "59 s"), (60.0, "1 min"), (185.0, "3 min 5 s"), (3600.0, "1 h"), (90061.0, "1 d 1 h")],
)
def test_an_age_is_told_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert age(seconds) == words
