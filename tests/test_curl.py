"""What one real curl says, read back as the outcome of a request."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import in_sandbox
from test_server import RESET, SERVER, chain, read_head, server, time_waits

from netns_tw.kernel import netns
from netns_tw.programs import curl
from netns_tw.programs.client import Plan
from netns_tw.serving import built_in

URL = f"http://{SERVER}/"
CONNECTED = "*   Trying 198.18.0.2:80...\n* Connected to 198.18.0.2 (198.18.0.2) port 80 (#0)\n"
FAILED = "* Failed to connect to 198.18.0.2 port 80 after 0 ms: Couldn't connect to server\n* Closing connection 0\n"
IMMEDIATE = "* Immediate connect fail for 198.18.0.2: "

READ = {
    "success": (0, "200 40000", CONNECTED, (200, None, None, 40000)),
    "an error status is a response": (0, "404 40000", CONNECTED, (404, None, None, 40000)),
    "no port, glibc": (
        7,
        "000 0",
        IMMEDIATE + "Cannot assign requested address\n" + FAILED,
        (None, "EADDRNOTAVAIL", "connect", None),
    ),
    "no port, musl": (
        7,
        "000 0",
        IMMEDIATE + "Address not available\n" + FAILED,
        (None, "EADDRNOTAVAIL", "connect", None),
    ),
    "unreachable": (
        7,
        "000 0",
        IMMEDIATE + "Network is unreachable\n" + FAILED,
        (None, "ENETUNREACH", "connect", None),
    ),
    "refused, curl 7": (
        7,
        "000 0",
        "* connect to 198.18.0.2 port 80 failed: Connection refused\n" + FAILED,
        (None, "ECONNREFUSED", "connect", None),
    ),
    "refused, curl 8": (
        7,
        "000 0",
        "* connect to 198.18.0.2 port 80 from 198.18.0.1 port 40000 failed: Connection refused\n" + FAILED,
        (None, "ECONNREFUSED", "connect", None),
    ),
    "source port busy": (
        45,
        "000 0",
        "* bind failed with errno 98: Address already in use\n",
        (None, "EADDRINUSE", "bind", None),
    ),
    "reset": (
        56,
        "000 40000",
        CONNECTED + "* Recv failure: Connection reset by peer\n* Closing connection 0\n",
        (None, "ECONNRESET", "recv", 40000),
    ),
    "reset while sending": (
        55,
        "000 40000",
        CONNECTED + "* Send failure: Broken pipe\n",
        (None, "EPIPE", "send", 40000),
    ),
    "closed": (52, "000 40000", CONNECTED + "* Empty reply from server\n", (None, "closed-early", "recv", 40000)),
    "closed in the body": (18, "200 40000", CONNECTED + "* transfer closed\n", (None, "closed-early", "recv", 40000)),
    "no http": (
        1,
        "000 40000",
        CONNECTED + "* Received HTTP/0.9 when not allowed\n",
        (None, "not-http", "recv", 40000),
    ),
    "silence": (28, "000 40000", CONNECTED + "* Operation timed out\n", (None, "ETIMEDOUT", "recv", 40000)),
    "nobody there": (28, "000 0", "* Connection timed out\n", (None, "ETIMEDOUT", "connect", None)),
    "something else": (6, "000 0", "* Could not resolve host: x\n", (None, "curl-exit-6", None, None)),
    "nothing at all": (2, "", "curl: no such option", (None, "curl-exit-2", None, None)),
    "killed": (-9, "", "", (None, "curl-exit--9", None, None)),
}


@pytest.mark.parametrize("name", READ)
def test_the_talk_of_a_curl_is_an_outcome(name: str) -> None:
    code, text, talk, expected = READ[name]
    found = curl.outcome(3, 1.0, 2.0, code, text, talk)
    assert (found.status, found.errno, found.call, found.local_port) == expected
    assert (found.index, found.at_ms, found.took_ms) == (3, 1.0, 2.0)
    assert (found.message is None) is (expected[1] is None)


def test_the_message_is_what_curl_said_last() -> None:
    found = curl.outcome(0, 0, 0, 7, "000 0", IMMEDIATE + "Cannot assign requested address\n" + FAILED)
    assert found.message == "Failed to connect to 198.18.0.2 port 80 after 0 ms: Couldn't connect to server"


def test_the_command_line_is_the_sources() -> None:
    """One process per request, --no-keepalive and the version as in the source; no config file, no proxy."""
    argv = curl.command(Plan(URL, http="1.1", source_ports=(5000, 5001), timeout_ms=1234567890), "/usr/bin/curl", 3)
    assert argv[:2] == ["/usr/bin/curl", "-q"]
    assert {"--no-keepalive", "--http1.1", "-g"} <= set(argv)
    assert argv[argv.index("--local-port") + 1] == "5001"
    assert argv[argv.index("-m") + 1] == "1234567.890"
    assert argv[-1] == URL
    assert "--no-keepalive" not in curl.command(Plan(URL, keep_alive=True), "curl", 0)


def ask(*options: str, url: str = URL) -> list[dict[str, Any]]:
    """Run the source's loop on node "client"; its outcomes."""
    with netns.enter("client"):
        argv = built_in("curl", url, *options)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def named(one: dict[str, Any]) -> tuple[int | None, str | None, str | None]:
    return one["status"], one["call"], one["errno"]


@pytest.mark.netns
def test_each_request_is_a_process_that_closes_first() -> None:
    """curl's connections die with it: even on a keep-alive server all TIME_WAITs are the client's."""

    def main() -> tuple[list[dict[str, Any]], list[int]]:
        with server() as lab:
            return ask("-n", "10", "--keep-alive"), time_waits(lab, "client", "server")

    found, kept = in_sandbox(main)
    assert [named(one) for one in found] == [(200, None, None)] * 10
    assert len({one["local_port"] for one in found}) == 10
    assert kept == [10, 0]


@pytest.mark.netns
def test_http10_and_ipv6_and_source_ports() -> None:
    def main() -> list[dict[str, Any]]:
        with server("--close", "client-first"):
            url = "http://[2001:db8:0::2]/"
            return ask("--http", "1.0", "-n", "3", "--source-ports", "5000", "5001", url=url)

    found = in_sandbox(main)
    assert [named(one) for one in found] == [(200, None, None)] * 2 + [(None, "bind", "EADDRINUSE")]
    assert [one["local_port"] for one in found[:2]] == [5000, 5001]


@pytest.mark.netns
def test_out_of_ports_and_refused_are_told_apart() -> None:
    def main() -> list[dict[str, Any]]:
        with server("--close", "client-first", client={"net.ipv4.ip_local_port_range": "1024 1025"}):
            return [*ask("-n", "3"), *ask(url=f"http://{SERVER}:81/")]

    found = in_sandbox(main)
    assert [named(one) for one in found] == [
        (200, None, None),
        (200, None, None),
        (None, "connect", "EADDRNOTAVAIL"),
        (None, "connect", "ECONNREFUSED"),
    ]


@pytest.mark.netns
@pytest.mark.parametrize(
    ("answer", "reset", "word"),
    [
        (b"", True, "ECONNRESET"),
        (b"", False, "closed-early"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", False, "closed-early"),
        (b"220 smtp ready\r\n\r\n", False, "not-http"),
        (None, False, "ETIMEDOUT"),
    ],
)
def test_a_broken_answer_is_named_as_the_built_in_client_names_it(answer: bytes | None, reset: bool, word: str) -> None:
    def main() -> list[dict[str, Any]]:
        with chain("client", "server"), ExitStack() as stack:
            with netns.enter("server"):
                listener = stack.enter_context(socket.create_server((SERVER, 80)))

            def serve() -> None:
                sock = stack.enter_context(listener.accept()[0])
                read_head(sock)
                if answer is not None:
                    sock.sendall(answer)
                    if reset:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    sock.close()

            thread = threading.Thread(target=serve)
            thread.start()
            found = ask("--timeout-ms", "300" if answer is None else "10000")
            thread.join()
            return found

    (found,) = in_sandbox(main)
    assert named(found) == (None, "recv", word)
    assert found["local_port"]


@pytest.mark.netns
def test_a_missing_curl_is_one_line() -> None:
    def main() -> tuple[int, str]:
        with chain("client", "server"), netns.enter("client"):
            argv = built_in("curl", URL, "--curl", "/no/curl")
            done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
            return done.returncode, done.stderr

    assert in_sandbox(main) == (127, "curl: /no/curl: No such file or directory (errno 2)\n")


@pytest.mark.netns
def test_a_curlrc_and_a_proxy_of_the_users_are_not_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the experiment's file decides what is sent: port 1 of loopback refuses, no proxy is asked."""
    (tmp_path / ".curlrc").write_text('user-agent = "mine"\nfail-with-body\nproxy = "http://203.0.113.1:1"\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://203.0.113.1:1")

    def main() -> list[dict[str, Any]]:
        with chain("client", "server"):
            return ask()

    (found,) = in_sandbox(main)
    assert named(found) == (None, "connect", "ECONNREFUSED")
