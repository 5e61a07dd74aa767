"""The built-in client says of every request what happened to it, and which call failed."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, in_sandbox
from test_server import RESET, SERVER, chain, read_head, running, server, time_waits

from netns_tw.kernel import netns
from netns_tw.lab import RunningLab
from netns_tw.programs import client
from netns_tw.programs.outcome import Outcome
from netns_tw.programs.pace import Pace
from netns_tw.serving import built_in
from netns_tw.wait import wait_until

URL = f"http://{SERVER}/"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
netns_test = pytest.mark.netns


def ask(*options: str, url: str = URL) -> list[dict[str, Any]]:
    """Run the client as a program on node "client"; its outcomes."""
    with netns.enter("client"):
        argv = built_in("h11", url, *options)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def once(**plan: Any) -> Outcome:
    """One request, made in this process on node "client"."""
    found: list[Outcome] = []
    with netns.enter("client"):
        client.run(client.Plan(**{"url": URL, **plan}), found.append)
    return found[-1]


def why(outcome: Outcome) -> tuple[int | None, str | None, str | None]:
    return outcome.status, outcome.call, outcome.errno


def nginx(lab: RunningLab, more: str = "") -> Any:
    """A real nginx on node "server"."""
    folder = lab.nodes["server"].folder
    conf = "daemon off; pid nginx.pid; user root root; error_log stderr; events {} http { access_log off;"
    for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        conf += f"{name}_temp_path temp-{name};"
    location = 'location / { return 200 "$request_uri $server_protocol $http_host $http_connection"; }'
    conf += f"server {{ listen [::]:80 ipv6only=off; {more} {location} }} }}"
    Path(folder, "nginx.conf").write_text(conf)
    return running(lab, "server", ["nginx", "-p", str(folder), "-e", "stderr", "-c", "nginx.conf"])


def listen() -> socket.socket:
    with netns.enter("server"):
        return socket.create_server((SERVER, 80))


@netns_test
@pytest.mark.parametrize("http", ["1.0", "1.1"])
def test_a_connection_per_request_to_a_real_nginx(http: str) -> None:
    """It closes on Content-Length: what nginx keeps alive is closed by the client, and HTTP/1.0 is a race."""

    def main() -> tuple[list[dict[str, Any]], list[int]]:
        with chain("client", "server") as lab, nginx(lab):
            return ask("-n", "20", "--http", http), time_waits(lab, "client", "server")

    found, kept = in_sandbox(main)
    assert [one["index"] for one in found] == list(range(20))
    assert {one["status"] for one in found} == {200}
    assert {(one["errno"], one["call"], one["message"]) for one in found} == {(None, None, None)}
    assert len({one["local_port"] for one in found}) == 20
    assert all(0 < one["took_ms"] < 30_000 for one in found)
    assert kept == [20, 0] if http == "1.1" else 20 <= sum(kept) <= 40


@netns_test
@pytest.mark.parametrize("http", ["1.0", "1.1"])
def test_keep_alive_uses_one_connection_to_a_real_nginx(http: str) -> None:
    """HTTP/1.0 too: the request asks for it and nginx grants it."""

    def main() -> list[dict[str, Any]]:
        with chain("client", "server") as lab, nginx(lab):
            return ask("-n", "50", "--keep-alive", "--http", http)

    found = in_sandbox(main)
    assert {one["status"] for one in found} == {200}
    assert len({one["local_port"] for one in found}) == 1


@netns_test
@pytest.mark.parametrize("http", ["1.0", "1.1"])
def test_keep_alive_opens_anew_when_the_server_has_said_close(http: str) -> None:
    """No request fails for it. Our server keeps no HTTP/1.0 connection."""

    def main() -> list[dict[str, Any]]:
        with server("--max-requests", "5"):
            return ask("-n", "20", "--keep-alive", "--http", http)

    found = in_sandbox(main)
    assert {one["status"] for one in found} == {200}
    assert len({one["local_port"] for one in found}) == (4 if http == "1.1" else 20)


@netns_test
def test_the_bytes_it_sends() -> None:
    """Path, query, Host with its port and IPv6's brackets, version."""

    def main() -> list[bytes]:
        found = []
        with chain("client", "server"), netns.enter("server"):
            listener = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
        for url in (f"http://{SERVER}:8080/a?b=c", "http://[2001:db8:0::2]:8080"):
            thread = threading.Thread(target=lambda: found.append(serve_one(listener)))
            thread.start()
            assert once(url=url, http="1.0").status == 200
            thread.join()
        return found

    assert in_sandbox(main) == [
        b"GET /a?b=c HTTP/1.0\r\nHost: 198.18.0.2:8080\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: [2001:db8:0::2]:8080\r\nConnection: close\r\n\r\n",
    ]


def serve_one(listener: socket.socket) -> bytes:
    sock, _ = listener.accept()
    with sock:
        asked = read_head(sock)
        sock.sendall(OK)
    return asked


@netns_test
def test_a_refused_connection() -> None:
    def main() -> Outcome:
        with chain("client", "server"):
            return once()

    found = in_sandbox(main)
    assert why(found) == (None, "connect", "ECONNREFUSED")
    assert found.local_port is None


@netns_test
def test_out_of_ports() -> None:
    """Two ports in TIME_WAIT are all there are: connect(2) finds none (__inet_hash_connect)."""

    def main() -> list[dict[str, Any]]:
        few = {"net.ipv4.ip_local_port_range": "1024 1025"}
        with server("--close", "client-first", client=few):
            return ask("-n", "4")

    found = in_sandbox(main)
    assert [one["status"] for one in found] == [200, 200, None, None]
    assert {one["local_port"] for one in found[:2]} == {1024, 1025}
    assert [(one["call"], one["errno"], one["local_port"]) for one in found[2:]] == [
        ("connect", "EADDRNOTAVAIL", None)
    ] * 2


@netns_test
def test_forced_source_ports_are_used_in_turn_and_a_busy_one_fails_in_bind() -> None:
    """Port 5000 comes again while it is in TIME_WAIT, which bind(2) refuses without SO_REUSEADDR."""

    def main() -> list[dict[str, Any]]:
        with server("--close", "client-first"):
            return ask("-n", "3", "--source-ports", "5000", "5001")

    found = in_sandbox(main)
    assert [(one["status"], one["local_port"]) for one in found] == [(200, 5000), (200, 5001), (None, 5000)]
    assert (found[2]["call"], found[2]["errno"]) == ("bind", "EADDRINUSE")


def against(answer: bytes | None, reset: bool, **plan: Any) -> Outcome:
    """One request to a server that sends *answer* and closes; None: that keeps silent."""

    def main() -> Outcome:
        with chain("client", "server"), listen() as listener, ExitStack() as stack:

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
            found = once(**plan)
            thread.join()
            return found

    return in_sandbox(main)


@netns_test
@pytest.mark.parametrize(
    ("answer", "reset", "word"),
    [
        (b"", True, "ECONNRESET"),
        (OK[:-1], True, "ECONNRESET"),
        (b"", False, "closed-early"),
        (OK[:-1], False, "closed-early"),
        (b"220 smtp ready\r\n\r\n", False, "not-http"),
    ],
)
def test_a_broken_answer_is_named_and_its_port_is_known(answer: bytes, reset: bool, word: str) -> None:
    found = against(answer, reset)
    assert why(found) == (None, "recv", word)
    assert found.local_port is not None


@netns_test
def test_a_silent_server_times_out() -> None:
    found = against(None, False, timeout_ms=150)
    assert why(found) == (None, "recv", "ETIMEDOUT")
    assert found.took_ms >= 150


@netns_test
def test_the_timeout_is_for_the_whole_request() -> None:
    """A byte now and then does not put it off."""

    def main() -> Outcome:
        with chain("client", "server"), listen() as listener:

            def drip() -> None:
                sock, _ = listener.accept()
                with sock, suppress(OSError):
                    read_head(sock)
                    sock.sendall(b"HTTP/1.1 200 OK\r\nA: ")
                    sock.settimeout(0.02)
                    left = False
                    while not left:
                        sock.sendall(b"a")
                        with suppress(TimeoutError):
                            left = not sock.recv(1)

            thread = threading.Thread(target=drip)
            thread.start()
            found = once(timeout_ms=300)
            thread.join(10)
            return found

    assert why(in_sandbox(main)) == (None, "recv", "ETIMEDOUT")


@netns_test
def test_a_connection_that_nobody_accepts_times_out_in_connect() -> None:
    """A full backlog drops the SYN; the kernel would try for two minutes."""

    def main() -> Outcome:
        with chain("client", "server") as lab, ExitStack() as stack:
            with netns.enter("server"):
                stack.enter_context(socket.create_server((SERVER, 80), backlog=0))
            with netns.enter("client"):
                first = stack.enter_context(socket.create_connection((SERVER, 80), 10))
            assert first
            rows = lab.nodes["server"].observer.sockets.dump
            wait_until(lambda: any(one.state == "established" for one in rows()), "backlog full", 5)
            return once(timeout_ms=150)

    assert why(in_sandbox(main)) == (None, "connect", "ETIMEDOUT")


@netns_test
def test_ipv6() -> None:
    def main() -> list[dict[str, Any]]:
        with server():
            return ask("--source-ports", "5000", url="http://[2001:db8:0::2]/")

    (found,) = in_sandbox(main)
    assert (found["status"], found["local_port"]) == (200, 5000)


@netns_test
def test_concurrency_opens_as_many_at_once() -> None:
    """The server answers nobody before it has accepted eight: fewer at once would wait for ever."""

    def main() -> list[dict[str, Any]]:
        with chain("client", "server"), listen() as listener, ExitStack() as stack:
            listener.settimeout(20)

            def serve() -> None:
                socks = [stack.enter_context(listener.accept()[0]) for _ in range(8)]
                for sock in socks:
                    read_head(sock)
                    sock.sendall(OK)

            thread = threading.Thread(target=serve)
            thread.start()
            with netns.enter("client"):
                child = subprocess.Popen(built_in("h11", URL, "-n", "8", "-c", "8"), stdout=subprocess.PIPE, text=True)
            out, _ = child.communicate(timeout=30)
            thread.join()
            return [json.loads(line) for line in out.splitlines()]

    found = in_sandbox(main)
    assert {one["status"] for one in found} == {200}
    assert sorted(one["index"] for one in found) == list(range(8))


@netns_test
def test_lines_of_many_workers_do_not_mix() -> None:
    def main() -> list[dict[str, Any]]:
        with server():
            return ask("-n", "1000", "-c", "16", "--keep-alive")

    found = in_sandbox(main)
    assert sorted(one["index"] for one in found) == list(range(1000))
    assert {one["status"] for one in found} == {200}
    assert len({one["local_port"] for one in found}) <= 16


def test_request_i_comes_no_sooner_than_i_intervals_after_the_first() -> None:
    """However late single ones are, and whoever takes them."""
    before = time.monotonic()
    taken = [(index, time.monotonic() - before) for index in Pace(12, 15)]
    assert [index for index, _ in taken] == list(range(12))
    assert all(at >= index * 0.015 for index, at in taken)


@netns_test
def test_the_pace_is_kept_from_start_to_start() -> None:
    def main() -> tuple[float, list[dict[str, Any]]]:
        with server():
            before = time.monotonic() * 1000
            return before, ask("-n", "10", "--interval-ms", "25", "-c", "2")

    before, found = in_sandbox(main)
    assert all(one["at_ms"] - before >= one["index"] * 25 for one in found)


@netns_test
def test_results_are_written_as_they_come_and_survive_a_kill() -> None:
    """The reader knows all that happened before SIGKILL."""

    def main() -> list[int]:
        with server(), netns.enter("client"):
            argv = built_in("h11", URL, "-n", "1000", "--interval-ms", "20")
            with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
                assert child.stdout is not None
                found = [json.loads(child.stdout.readline())["status"] for _ in range(3)]
                child.kill()
                return found

    assert in_sandbox(main) == [200, 200, 200]


@netns_test
@pytest.mark.parametrize("workers", ["1", "4"])
def test_it_ends_quietly_when_nobody_reads_its_results(workers: str) -> None:
    """As with ``| head -1``."""

    def main() -> tuple[int, bytes]:
        with server(), netns.enter("client"):
            argv = built_in("h11", URL, "-n", "100000", "-c", workers)
            with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
                assert child.stdout is not None
                assert child.stderr is not None
                child.stdout.readline()
                child.stdout.close()
                said = child.stderr.read()
                return child.wait(20), said

    assert in_sandbox(main) == (0, b"")


@netns_test
def test_an_interrupt_ends_all_workers() -> None:
    def main() -> int:
        with server(), netns.enter("client"):
            argv = built_in("h11", URL, "-n", "1000", "-c", "4", "--interval-ms", "50")
            with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
                assert child.stdout is not None
                child.stdout.readline()
                child.send_signal(signal.SIGINT)
                return child.wait(20)

    assert in_sandbox(main) == 130


OUT_OF_FDS = """
import encodings.idna, resource, sys
from netns_tw.programs import client
from netns_tw.programs.outcome import Lines
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
client.run(client.Plan(sys.argv[1], 2), Lines(1).add_now)
"""


@netns_test
def test_out_of_file_descriptors_is_a_result_like_any_other() -> None:
    """EMFILE from socket(2) ends neither the request's worker nor the client."""

    def main() -> list[dict[str, Any]]:
        with server(), netns.enter("client"):
            argv = [sys.executable, "-c", OUT_OF_FDS, URL]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True, cwd=ROOT)
            return [json.loads(line) for line in done.stdout.splitlines()]

    found = in_sandbox(main)
    assert [(one["call"], one["errno"]) for one in found] == [("socket", "EMFILE")] * 2


@pytest.mark.parametrize(
    "argv",
    [
        ["h11", "127.0.0.1:80"],
        ["h11", "https://127.0.0.1/"],
        ["h11", "http:///x"],
        ["h11", "http://127.0.0.1:99999/"],
        ["h11", "http://127.0.0.1/a b"],
        ["h11", "http://127.0.0.1/ü"],
        ["h11", "http://[::1/"],
        ["h11", "http://127.0.0.1/", "-n", "0"],
        ["h11", "http://127.0.0.1/", "-c", "0"],
        ["h11", "http://127.0.0.1/", "--source-ports", "70000"],
        ["http-server", "--listen", "80"],
        ["http-server", "--listen", "127.0.0.1:0"],
        ["http-server", "--listen", "127.0.0.1:80", "--status", "100"],
        ["http-server", "--listen", "127.0.0.1:80", "--close", "maybe"],
    ],
)
def test_nonsense_on_the_command_line_is_a_usage_error(argv: list[str]) -> None:
    """Exit 2 and argparse's line, never a traceback and never a request to somewhere else."""
    done = subprocess.run(built_in(*argv), capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("python -m netns_tw.programs ")
    assert "Traceback" not in done.stderr
