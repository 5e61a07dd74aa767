"""The budget command: what its words mean, what it prints, and what it says to words that mean nothing."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from netns_tw.commands import Call, budget
from netns_tw.errors import EXIT_PASS, NetnsTwError, UsageError
from netns_tw.model.budget import Budget, PortChoice
from netns_tw.model.ports import Bounds
from netns_tw.report import budget as report


def parsed(*words: str) -> argparse.Namespace:
    """What the command line makes of ``budget`` and *words*."""
    top = argparse.ArgumentParser(exit_on_error=False)
    commands = top.add_subparsers()

    def add(name: str, example: str, call: Call, *, json: bool = True) -> argparse.ArgumentParser:
        assert example.startswith(f"python -m netns_tw {name} ")
        found: argparse.ArgumentParser = commands.add_parser(name, exit_on_error=False)
        found.set_defaults(call=call)
        if json:
            found.add_argument("--json", action="store_true")
        return found

    budget.declare(add)
    return top.parse_args(["budget", *words])


def found(*words: str) -> Budget:
    return budget.budget_of(parsed(*words))


def as_text(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    given = parsed(*words)
    assert given.call(given) == EXIT_PASS
    return capsys.readouterr().out


def folded(text: str) -> str:
    return " ".join(text.split())


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(as_text(capsys, *words, "--json"))
    return answer


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", Budget()),
        ("--range 1024-1026 --destinations 4", Budget(1024, 1026, destinations=4)),
        ("--reserved 40000,40002-40003 --listening 50000", Budget(taken=frozenset({40000, 40002, 40003, 50000}))),
        ("--sources 2", Budget(sources=2, choice=PortChoice.BIND_NO_PORT)),
        ("--sources 2 --bind bind", Budget(sources=2, choice=PortChoice.BIND)),
        ("--bind bind-no-port", Budget(choice=PortChoice.BIND_NO_PORT)),
        ("--port-range-option 40000-40010", Budget(range_option=(40000, 40010))),
        ("--tw-reuse --delay-ms 10", Budget(tw_reuse=1, delay_ms=10)),
        ("--tw-reuse --no-timestamps", Budget(tw_reuse=1, has_timestamps=False)),
        ("--max-tw-buckets 0 --requests-per-connection 7", Budget(max_tw_buckets=0, requests_per_connection=7)),
        ("lb3ports/lb", Budget(1024, 1026, frozenset({80}))),
        ("lb3ports/client", Budget(tw_reuse=2)),
        ("direct/client --range 2000-2003 --tw-reuse", Budget(2000, 2003, tw_reuse=1)),
        ("crowd/server", Budget(tw_reuse=2, taken=frozenset({80}))),
        ("crowd/server --listening 40000", Budget(tw_reuse=2, taken=frozenset({40000}))),
    ],
)
def test_words_mean_a_budget(words: str, expected: Budget) -> None:
    """The kernel's defaults, beaten by the lab's sysctls, beaten by what is given."""
    assert found(*words.split()) == expected


LAB = """
format = 1
name = "mine"
description = "one's own"
[nodes.client.sysctls]
net.ipv4.ip_local_port_range = "1024 1035"
net.ipv4.ip_local_reserved_ports = "1030-1031"
net.ipv4.tcp_tw_reuse = REUSE
net.ipv4.tcp_tw_reuse_delay = 50
net.ipv4.tcp_max_tw_buckets = 100
[nodes.client.program]
kind = "http-server"
listen = "198.18.0.2:1024"
[nodes.server.sysctls]
net.ipv4.tcp_timestamps = STAMPS
[nodes.server.program]
kind = "http-server"
listen = "198.18.0.1:80"
[[links]]
endpoints = ["client:eth0", "server:eth0"]
addresses = [["198.18.0.2/24"], ["198.18.0.1/24"]]
"""


def own_lab(folder: Path, reuse: str = "1", stamps: str = "1") -> str:
    """A lab of one's own; its path."""
    folder.mkdir()
    text = LAB.replace("REUSE", reuse).replace("STAMPS", stamps)
    (folder / "topology.toml").write_text(text, encoding="utf-8")
    return str(folder)


def test_everything_a_node_says_counts(tmp_path: Path) -> None:
    """Range, reserved ports, its own listener, reuse, delay, buckets; timestamps of the other end too."""
    expected = Budget(
        1024, 1035, frozenset({1024, 1030, 1031}), tw_reuse=1, delay_ms=50, has_timestamps=True, max_tw_buckets=100
    )
    assert found(own_lab(tmp_path / "on") + "/client") == expected
    assert expected.reuses
    assert not found(own_lab(tmp_path / "off", stamps="0") + "/client").reuses


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("lb3port/lb", ("no lab is called 'lb3port'", "did you mean 'lb3ports'")),
        (
            "lb3ports/backen",
            ("lab lb3ports has no node 'backen'", "did you mean 'backend'", "lb3ports/client, lb3ports"),
        ),
        ("lb3ports", ("lb3ports is a lab; name its node", "lb3ports/client, lb3ports/lb, lb3ports/backend")),
        ("./nosuch/lb", ("./nosuch: no lab there",)),
        ("nosuch", ("no lab is called 'nosuch'",)),
        ("--sources 2 --bind connect", ("2 source addresses need a bind", "give --bind bind or --bind bind-no-port")),
        ("--delay-ms 60001", ("tcp_tw_reuse_delay is 60001 ms, allowed is 1 to 60000",)),
    ],
)
def test_a_mistake_is_one_message(words: str, parts: tuple[str, ...]) -> None:
    """What, where, what is allowed, and the near match."""
    with pytest.raises(UsageError) as caught:
        found(*words.split())
    assert [part for part in parts if part not in str(caught.value)] == []


@pytest.mark.parametrize("reuse", ["7", '"on"'])
def test_a_labs_nonsense_is_one_message(reuse: str, tmp_path: Path) -> None:
    """A sysctl that is no number, or none the kernel takes."""
    with pytest.raises(NetnsTwError, match="tcp_tw_reuse"):
        found(own_lab(tmp_path / "mine", reuse=reuse) + "/client")


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--range", "5-3", "LOW-HIGH within 1-65535"),
        ("--range", "0-3", "LOW-HIGH within 1-65535"),
        ("--range", "1024", "LOW-HIGH within 1-65535"),
        ("--range", "1024-65536", "LOW-HIGH within 1-65535"),
        ("--range", "1_0-2_0", "LOW-HIGH within 1-65535"),
        ("--port-range-option", "x", "LOW-HIGH within 1-65535"),
        ("--reserved", "1,x", "1024,1030-1034"),
        ("--listening", "1-99999999999", "1024,1030-1034"),
        ("--sources", "0", "from 1 to"),
        ("--destinations", "1.5", "from 1 to"),
        ("--requests-per-connection", "9" * 400, "from 1 to"),
        ("--rate", "0", "above 0"),
        ("--rate", "nan", "above 0"),
        ("--rate", "1e300", "above 0"),
        ("--delay-ms", "0", "from 1 to"),
        ("--max-tw-buckets", "-1", "from 0 to"),
        ("--bind", "binds", "bind-no-port"),
    ],
)
def test_a_value_that_is_none_says_what_is_allowed(option: str, value: str, allowed: str) -> None:
    with pytest.raises(argparse.ArgumentError) as caught:
        parsed(f"{option}={value}")
    assert option in str(caught.value)
    assert value in str(caught.value)
    assert allowed in str(caught.value)


def test_the_text_is_what_to_act_on(capsys: pytest.CaptureFixture[str]) -> None:
    """The issue's own example: how long, which call, which errno, what is safe, what would help, and why."""
    text = folded(as_text(capsys, "--range", "1024-1026", "--destinations", "1", "--rate", "100"))
    for part in (
        "usable ports 2 of the 3 in 1024-1026",
        "capacity 2 connections in 60 s of TIME_WAIT",
        "never runs out up to 0.0306/s",
        "surely runs out from 0.0334/s",
        "At 100/s the ports last 0.02 s; then connect() fails with EADDRNOTAVAIL (Cannot assign requested address)",
        "Safe: up to 0.0306/s. With tcp_tw_reuse=1 and a delay of 1,000 ms: up to 1.99/s.",
        "100/s without end takes 6,520 usable ports",
        "never tries the last port, 1026",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--rate 100", "At 100/s the ports never run out."),
        ("--rate 450", "the ports last 63 s or for ever"),
        ("--rate 5000", "5,000/s without end takes 6 source and destination pairs with 64,512 ports each"),
        ("--rate 5000 --bind bind", "takes 6 sources with 64,512 ports each"),
        ("--rate 600 --destinations 3 --range 1024-1124", "takes 13,040 usable ports for each source and destination"),
        ("direct/client --rate 1", "At 1/s the ports last 10 to 11 s"),
        ("direct/client", "by the kernel's chance 1024 or 1034 may stay hidden. An even width is exact."),
        ("direct/client --bind bind", "may stay hidden; a second try may find it."),
        ("--bind bind", "When no port is left, bind() fails with EADDRINUSE (Address already in use)."),
        ("--bind bind --destinations 2", "2 destinations carry no more than one"),
        ("--bind bind --tw-reuse", "tcp_tw_reuse=1 adds nothing: it acts in connect()"),
        ("--tw-reuse --no-timestamps", "tcp_tw_reuse=1 adds nothing: it needs timestamps on both ends"),
        ("lb3ports/client", "tcp_tw_reuse=2 adds nothing: 2, the default, is for loopback addresses only"),
        ("--tw-reuse --delay-ms 10", "capacity 28,232 connections in 10 ms of tcp_tw_reuse_delay"),
        ("--requests-per-connection 1000", "requests 28,232,000 in that time, 1,000 a connection"),
        ("--max-tw-buckets 9 --rate 1e6", "never runs out up to any rate surely runs out from no rate"),
        ("--max-tw-buckets 9 --rate 1e6", "tcp_max_tw_buckets=9 is below the capacity"),
        ("--port-range-option 5-9", "not all inside 32768-60999: an end outside does not count, so it narrows nothing"),
        ("--port-range-option 5-40000", "so 32768-40000 is searched"),
        ("--range 5-6 --reserved 5-6 --rate 1", "At 1/s the ports last 0 s"),
    ],
)
def test_the_text_says_what_is_special(capsys: pytest.CaptureFixture[str], words: str, part: str) -> None:
    assert part in folded(as_text(capsys, *words.split()))


@pytest.mark.parametrize("words", ["", "lb3ports/lb --rate 100", "--sources 3 --bind bind --rate 99999 --tw-reuse"])
def test_the_text_fits_into_100_columns(capsys: pytest.CaptureFixture[str], words: str) -> None:
    text = as_text(capsys, *words.split())
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text


def test_json_has_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    answer = as_json(capsys, "lb3ports/lb", "--rate", "100", "--requests-per-connection", "10")
    assert answer["format"] == 1
    assert answer["node"] == "lb3ports/lb"
    assert answer["usable_ports"] == {"least": 2, "most": 2}
    assert answer["capacity"] == {"least": 2, "most": 2}
    assert answer["capacity_requests"] == {"least": 20, "most": 20}
    assert answer["exhaustion_s"] == {"earliest": 0.02, "latest": 0.02}
    assert answer["fails"] == {"call": "connect", "errno": "EADDRNOTAVAIL"}
    assert answer["safe_rate"] == pytest.approx(2 / 65.2)
    assert any("1026" in note for note in answer["notes"])


def test_json_says_null_for_never(capsys: pytest.CaptureFixture[str]) -> None:
    """No infinity, which JSON lacks."""
    answer = as_json(capsys, "--max-tw-buckets", "5", "--rate", "1")
    assert answer["exhaustion_s"] == {"earliest": None, "latest": None}
    assert (answer["safe_rate"], answer["exhausting_rate"]) == (None, None)
    assert as_json(capsys)["rate"] is None


@pytest.mark.parametrize(
    "value", [0.0306748, 0.0333333, 1.996, 2, 9.99, 10.98, 99.9, 100, 470.5333, 64512.0, 1e-9, 1e9]
)
def test_numbers_are_rounded_to_the_safe_side(value: float) -> None:
    """Three digits, never above a rate that is safe and never below one that is not."""
    down, up = (float(report._rounded(value, is_up).replace(",", "")) for is_up in (False, True))
    assert down <= value <= up
    assert up - down <= value / 99


def test_bounds_read_as_words() -> None:
    assert report._number(Bounds(10_000, 10_000)) == "10,000"
    assert report._number(Bounds(9_999, 10_000)) == "9,999 or 10,000"
    assert report._number(Bounds(19_998, 20_000)) == "19,998 to 20,000"


def test_json_needs_neither_rich_nor_pyroute2_nor_asyncio() -> None:
    """The command answers at once: what is slow to import is not."""
    code = (
        "import argparse, sys\n"
        "from netns_tw.commands import budget\n"
        "top = argparse.ArgumentParser()\n"
        "top.add_argument('--json', action='store_true')\n"
        "budget.declare(lambda *_: top)\n"
        "budget._budget(top.parse_args(['lb3ports/lb', '--rate', '100', '--json']))\n"
        "print([name for name in ('rich', 'pyroute2', 'asyncio') if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout)["node"] == "lb3ports/lb"
    assert done.stderr == "[]\n"
