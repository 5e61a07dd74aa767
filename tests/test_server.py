"""The built-in server closes as it is told to, and nothing that a peer does stops it.

Also here: the labs that the tests of all programs build (`chain`), and how they start a program in one.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from ipaddress import ip_interface
from pathlib import Path

import pytest
from conftest import in_sandbox

from netns_tw.kernel import netns, process
from netns_tw.lab import RunningLab
from netns_tw.measure.observer import wait_until_settled
from netns_tw.model.topology import Endpoint, Link, Node, Topology
from netns_tw.serving import built_in
from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns

SERVER = "198.18.0.2"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
GET_10 = b"GET / HTTP/1.0\r\n\r\n"
IO_TIMEOUT_S = 10.0


def chain(*names: str, **sysctls: dict[str, str]) -> RunningLab:
    """A lab of nodes in a row. Link i has 198.18.i.1 and 2001:db8:i::1 on its left, .2 and ::2 on its right."""

    def end(node: str, number: int, host: int) -> Endpoint:
        addresses = (f"198.18.{number}.{host}/24", f"2001:db8:{number}::{host}/64")
        return Endpoint(node, f"eth{number}", tuple(ip_interface(one) for one in addresses))

    links = tuple(Link(end(names[i], i, 1), end(names[i + 1], i, 2)) for i in range(len(names) - 1))
    nodes = {name: Node(name, sysctls.get(name, {})) for name in names}
    return RunningLab(Topology("test", "", nodes, links, "/"), {})


@contextmanager
def running(lab: RunningLab, node: str, argv: Sequence[str], port: int = 80) -> Iterator[subprocess.Popen[bytes]]:
    """A program on a node, from when it listens on *port* until the end of the block."""
    child = process.spawn(node, argv, lab.nodes[node].log)
    try:
        sockets = lab.nodes[node].observer.sockets
        wait_until(lambda: child.poll() is not None or sockets.is_listening(port), "listening", 20, pause_s=0.005)
        assert child.poll() is None, log_of(lab, node)
        yield child
    finally:
        process.end(child)


def serving(lab: RunningLab, *options: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """The built-in server on node "server", port 80."""
    return running(lab, "server", built_in("http-server", "--listen", "[::]:80", *options))


@contextmanager
def server(*options: str, **sysctls: dict[str, str]) -> Iterator[RunningLab]:
    """Nodes "client" and "server" with their sysctls, and the built-in server on the latter."""
    with chain("client", "server", **sysctls) as lab, serving(lab, *options):
        yield lab


def connect(address: str = SERVER, port: int = 80, node: str = "client") -> socket.socket:
    with netns.enter(node):
        return socket.create_connection((address, port), IO_TIMEOUT_S)


def run(node: str, *argv: str, check: bool = True) -> str:
    """Run a program to its end on a node; what it wrote to its standard output."""
    with netns.enter(node):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, (argv, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def curl(*options: str, node: str = "client", url: str = f"http://{SERVER}/") -> str:
    return run(node, "curl", "-q", "-s", "-m", "10", "--noproxy", "*", *options, url)


def log_of(lab: RunningLab, node: str) -> str:
    log = Path(lab.nodes[node].log)
    return log.read_text() if log.exists() else ""


def read_all(sock: socket.socket) -> bytes:
    """Read until the peer's FIN."""
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


def read_head(sock: socket.socket) -> bytes:
    """Read a head, up to its empty line."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += sock.recv(1)
    return data


def read_response(sock: socket.socket) -> bytes:
    """Read one response by its Content-Length and no further."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(1)
        assert part, data
        data += part
    found = re.search(rb"(?i)content-length: (\d+)", data)
    assert found, data
    body = b""
    while len(body) < int(found[1]):
        body += sock.recv(int(found[1]) - len(body))
    return data + body


def time_waits(lab: RunningLab, *names: str) -> list[int]:
    """TIME_WAIT sockets per node once all is settled, by sock_diag, which sockstat must confirm."""
    assert wait_until_settled([node.observer for node in lab.nodes.values()])
    return [sum(one.state == "time-wait" for one in lab.nodes[name].observer.read()[0]) for name in names]


def established(lab: RunningLab, node: str = "server", port: int = 80) -> int:
    rows = lab.nodes[node].observer.sockets.dump()
    return sum(one.local_port == port and one.state == "established" for one in rows)


def still_serves() -> None:
    assert curl("-o", "/dev/null", "-w", "%{http_code}") == "200"


CLOSES = 40


def owners(style: str, http: str, *options: str) -> list[int]:
    """Who holds the TIME_WAITs, [client, server], after requests by a client that closes on Content-Length."""

    def main() -> list[int]:
        with server("--close", style, *options) as lab:
            out = run("client", *built_in("h11", f"http://{SERVER}/", "-n", str(CLOSES), "--http", http))
            assert out.count('"status": 200') == CLOSES, out
            return time_waits(lab, "client", "server")

    return in_sandbox(main)


@pytest.mark.parametrize("http", ["1.0", "1.1"])
@pytest.mark.parametrize(
    ("style", "expected"), [("server-first", [0, CLOSES]), ("client-first", [CLOSES, 0]), ("reset", [0, 0])]
)
def test_a_close_style_says_who_keeps_the_time_wait(style: str, expected: list[int], http: str) -> None:
    """The first to send FIN keeps it, RFC 9293 section 3.6.1; an RST leaves none to either."""
    assert owners(style, http) == expected


def test_in_a_race_either_side_may_keep_it_and_both_when_fins_cross() -> None:
    """A simultaneous close takes both sides through CLOSING to TIME_WAIT."""
    client, serving = owners("race", "1.1")
    assert CLOSES <= client + serving <= 2 * CLOSES


def test_keep_alive_leaves_the_close_to_the_client() -> None:
    assert owners("keep-alive", "1.1") == [CLOSES, 0]


def test_max_requests_makes_the_server_close_first() -> None:
    """Of a client that does not close before it: the response says so, and the FIN follows it."""

    def main() -> list[int]:
        with server("--max-requests", "3") as lab:
            for _ in range(5):
                with connect() as sock:
                    said = []
                    for _ in range(3):
                        sock.sendall(GET)
                        said.append(b"Connection: close" in read_response(sock))
                    assert said == [False, False, True]
                    assert sock.recv(1) == b""
            return time_waits(lab, "client", "server")

    assert in_sandbox(main) == [0, 5]


def test_an_idle_connection_is_closed_by_the_server() -> None:
    def main() -> list[int]:
        with server("--idle-timeout-ms", "100") as lab:
            with connect() as fresh, connect() as used:
                used.sendall(GET)
                read_response(used)
                assert (fresh.recv(1), used.recv(1)) == (b"", b"")
            return time_waits(lab, "client", "server")

    assert in_sandbox(main) == [0, 2]


def test_client_first_closes_at_last_when_the_client_does_not() -> None:
    """ab without -k waits for the server's FIN; it gets one after the time for it."""

    def main() -> list[int]:
        with server("--close", "client-first", "--fin-timeout-ms", "100") as lab:
            assert "Failed requests:        0" in run("client", "ab", "-n", "4", "-c", "4", f"http://{SERVER}/")
            return time_waits(lab, "client", "server")

    assert in_sandbox(main) == [0, 4]


def test_status_and_body_are_as_told() -> None:
    """HEAD, 204 and 304 have no body, in every close style."""

    def main() -> None:
        with chain("client", "server") as lab:
            for style in ("server-first", "race"):
                with serving(lab, "--close", style, "--status", "404", "--body", "näh\\"):
                    assert curl("-w", " %{http_code}") == "näh\\ 404"
                    head = curl("-I")
                    assert "HTTP/1.1 404 Not Found" in head
                    assert "content-length: 5" in head.lower()
            for status in ("204", "304"):
                with serving(lab, "--close", "server-first", "--status", status):
                    assert curl("-w", "%{http_code} %{size_download}") == f"{status} 0"
            assert log_of(lab, "server") == ""

    in_sandbox(main)


def test_serves_ipv6_too() -> None:
    def main() -> str:
        with server(), connect("2001:db8:0::2") as sock:
            sock.sendall(GET)
            return read_response(sock).partition(b"\r\n")[0].decode()

    assert in_sandbox(main) == "HTTP/1.1 200 OK"


def test_curl_ab_wrk_and_http_client_are_served() -> None:
    """What is run alone serves any HTTP program, and none of them sees a failure."""

    def main() -> str:
        with server() as lab:
            url = f"http://{SERVER}/"
            assert curl("-0") == curl("--http1.1") == "hello from netns_tw\n"
            assert (
                curl("-X", "POST", "-d", "x" * 100_000, "-H", "Transfer-Encoding: chunked") == "hello from netns_tw\n"
            )
            assert curl("-d", "x" * 2000, "-H", "Expect: 100-continue") == "hello from netns_tw\n"
            assert curl("-H", "Upgrade: h2c", "-H", "Connection: Upgrade") == "hello from netns_tw\n"
            for keep in ((), ("-k",)):
                report = run("client", "ab", "-q", "-n", "300", "-c", "10", *keep, url)
                assert re.search(r"Complete requests: +300\n", report)
                assert re.search(r"Failed requests: +0\n", report)
                assert "Non-2xx" not in report
            report = run("client", "wrk", "-t1", "-c20", "-d1s", url)
            assert "Socket errors" not in report
            assert "Non-2xx" not in report
            with connect() as sock:
                conn = http.client.HTTPConnection(SERVER)
                conn.sock = sock
                for method, body in (("GET", None), ("POST", b"abc"), ("HEAD", None), ("PUT", b""), ("GET", None)):
                    conn.request(method, "/", body)
                    response = conn.getresponse()
                    assert response.status == 200
                    assert response.read() == (b"" if method == "HEAD" else b"hello from netns_tw\n")
            return log_of(lab, "server")

    assert in_sandbox(main) == ""


REFUSED = {
    b"garbage\r\n\r\n": 400,
    b"\x16\x03\x01\x02\x00": 400,
    b"GET / HTTP/1.1\r\n\r\n": 400,
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n": 505,
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n": 501,
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 17 * 1024 + b"\r\n\r\n": 431,
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 200_000: 431,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 500_000: 413,
    GET + b"garbage\r\n\r\n": 200,
}


def refusals(port: int = 80, address: str = SERVER) -> list[int]:
    """The status of the first answer to each of REFUSED; each is read to the FIN, so none was cut off by an RST."""
    found = []
    for data in REFUSED:
        with connect(address, port) as sock:
            sock.sendall(data)
            found.append(int(read_all(sock).split()[1]))
    return found


@pytest.mark.parametrize("style", ["keep-alive", "server-first", "reset"])
def test_what_is_no_request_is_answered_and_closed(style: str) -> None:
    """The answer arrives whatever is left unread: FIN, then what comes is read (RFC 9112 section 9.6)."""

    def main() -> list[int]:
        with server("--close", style) as lab:
            if style == "reset":
                del REFUSED[GET + b"garbage\r\n\r\n"]
            found = refusals()
            if style == "keep-alive":
                still_serves()
            assert log_of(lab, "server") == ""
            return found

    expected = list(REFUSED.values())
    assert in_sandbox(main) == (expected[:-1] if style == "reset" else expected)


def test_half_a_request_then_silence_is_answered_408() -> None:
    """Be it half a head, half a body, or half of a second request; the deadline is not put off by single bytes."""
    halves = [b"G", GET[:-1], b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf", GET + GET[:9]]

    def main() -> list[bytes]:
        with server("--request-timeout-ms", "200") as lab, ExitStack() as stack:
            socks = [stack.enter_context(connect()) for _ in halves]
            for sock, half in zip(socks, halves, strict=True):
                sock.sendall(half)
            still_serves()
            found = [read_all(sock).split(b"HTTP/1.1 ")[-1][:3] for sock in socks]
            with connect() as slow:
                slow.settimeout(0.02)
                got = b""
                for _ in range(500):
                    slow.sendall(b"G")
                    with suppress(TimeoutError):
                        got = slow.recv(3000)
                        break
                found.append(got[9:12])
            assert log_of(lab, "server") == ""
            return found

    assert in_sandbox(main) == [b"408"] * 5


def test_a_request_before_a_half_close_is_answered() -> None:
    """A FIN behind a request ends one direction only, RFC 9293 section 3.6; in every close style."""

    def main() -> list[bytes]:
        found = []
        with chain("client", "server") as lab:
            for style in ("keep-alive", "server-first", "client-first", "race"):
                with serving(lab, "--close", style), connect() as sock:
                    sock.sendall(GET)
                    sock.shutdown(socket.SHUT_WR)
                    found.append(read_all(sock)[:15])
        return found

    assert in_sandbox(main) == [b"HTTP/1.1 200 OK"] * 4


def test_fifty_pipelined_requests_are_answered_in_order() -> None:
    """Where the server closes after the first, that answer still arrives whole."""

    def main() -> list[int]:
        found = []
        with chain("client", "server") as lab:
            for style in ("keep-alive", "server-first", "race", "client-first"):
                with serving(lab, "--close", style), connect() as sock:
                    sock.sendall(GET * 50)
                    if style in ("keep-alive", "client-first"):
                        sock.shutdown(socket.SHUT_WR)
                    found.append(read_all(sock).count(b"hello from netns_tw\n"))
        return found

    assert in_sandbox(main) == [50, 1, 1, 1]


BIG = "x" * 120_000


SMALL_WRITES = {"net.ipv4.tcp_wmem": "4096 4096 4096"}
SMALL_READS = {"net.ipv4.tcp_rmem": "4096 4096 4096"}
"""Buffers that the big body does not fit in."""


@pytest.mark.parametrize("style", ["keep-alive", "server-first", "client-first", "race"])
def test_a_slow_reader_gets_all_and_holds_up_nobody(style: str) -> None:
    def main() -> int:
        with server("--close", style, "--body", BIG, client=SMALL_READS, server=SMALL_WRITES), connect() as slow:
            slow.sendall(GET)
            got = len(slow.recv(100))
            still_serves()
            slow.shutdown(socket.SHUT_WR)
            while part := slow.recv(1500):
                got += len(part)
            return got

    assert in_sandbox(main) > len(BIG)


def test_a_peer_that_takes_nothing_is_dropped() -> None:
    def main() -> None:
        options = ("--body", BIG, "--request-timeout-ms", "200")
        with server(*options, client=SMALL_READS, server=SMALL_WRITES) as lab:
            with connect() as sock:
                sock.sendall(GET * 10)
                wait_until(lambda: established(lab) == 1, "accepted", 5)
                wait_until(lambda: established(lab) == 0, "dropped", 10)
            still_serves()

    in_sandbox(main)


RESET = b"\x01\x00\x00\x00\x00\x00\x00\x00"


def test_a_reset_at_any_moment_is_survived() -> None:
    """Before, in and after a request, and in the middle of a response."""

    def main() -> str:
        with server("--body", BIG, server=SMALL_WRITES) as lab:
            for data in (b"", b"GET", GET, GET * 50):
                for read in (False, True):
                    with connect() as sock:
                        sock.sendall(data)
                        if read and len(data) >= len(GET):
                            sock.recv(1000)
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            wait_until(lambda: established(lab) == 0, "all forgotten", 5)
            still_serves()
            return log_of(lab, "server")

    assert in_sandbox(main) == ""


def test_two_hundred_idle_connections_hold_up_nobody() -> None:
    def main() -> None:
        with server() as lab, ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(connect())
            wait_until(lambda: established(lab) == 200, "200 connections", 5)
            still_serves()

    in_sandbox(main)


def fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_it_comes_back_when_it_runs_out_of_file_descriptors() -> None:
    """EMFILE from accept(2) is said once a second; those who wait in the backlog are served after others close."""

    def main() -> tuple[str, float]:
        began = time.monotonic()
        argv = ["prlimit", "--nofile=20:20", *built_in("http-server", "--listen", "[::]:80")]
        with chain("client", "server") as lab, running(lab, "server", argv) as child, ExitStack() as stack:
            first = [stack.enter_context(connect()) for _ in range(40)]
            wait_until(lambda: fds(child.pid) == 20, "all used up", 5)
            wait_until(lambda: "accept() failed (24" in log_of(lab, "server"), "said so", 5)
            for sock in first:
                sock.close()
            wait_until(lambda: fds(child.pid) < 10, "closed", 5)
            still_serves()
            return log_of(lab, "server"), time.monotonic() - began

    text, took_s = in_sandbox(main)
    lines = text.splitlines()
    assert 1 <= len(lines) <= took_s + 1
    assert set(lines) == {"accept() failed (24: Too many open files); trying again"}


def test_it_accepts_again_though_no_connection_of_its_own_closes() -> None:
    """The limit may be met with no connection open: then nothing of ours will ever close."""

    def main() -> None:
        with chain("client", "server") as lab, serving(lab) as child:
            run("server", "prlimit", f"--pid={child.pid}", f"--nofile={fds(child.pid)}:1024")
            with connect() as sock:
                sock.sendall(GET)
                wait_until(lambda: "accept() failed (24" in log_of(lab, "server"), "out of fds", 5)
                run("server", "prlimit", f"--pid={child.pid}", "--nofile=1024:1024")
                assert read_response(sock).startswith(b"HTTP/1.1 200 OK")

    in_sandbox(main)


MANY = 10_000
RSS_GROWTH_KB = 2048
"""10,000 leaked connections would hold over 10 MB: a Connection with its h11 state is above 1 KB. What may grow is
the heap's high-water mark, by the few dozen connections that are open at once."""


def rss_kb(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


def test_ten_thousand_connections_leave_it_as_it_was() -> None:
    """Open files, memory and connections are those of before, and it closed each of them first.

    Counted by TcpExtTW: a TIME_WAIT socket is recycled when the client's random port comes again
    (tcp_timewait_state_process). ab opens a few connections more than it has requests for, and closes those itself.
    """

    def main() -> tuple[int, int, int, int]:
        with chain("client", "server") as lab, serving(lab, "--close", "server-first") as child:
            url = f"http://{SERVER}/"
            files = fds(child.pid)
            run("client", "ab", "-q", "-c", "20", "-n", "500", url)
            wait_until(lambda: fds(child.pid) == files, "warm, and all closed", 5)
            memory = rss_kb(child.pid)
            counters = lab.nodes["server"].observer.counters
            closed = counters.read()["TcpExtTW"]
            report = run("client", "ab", "-q", "-c", "20", "-n", str(MANY), url)
            assert re.search(rf"Complete requests: +{MANY}\n", report)
            assert re.search(r"Failed requests: +0\n", report)
            wait_until(lambda: fds(child.pid) == files, "all closed", 5)
            assert wait_until_settled([node.observer for node in lab.nodes.values()])
            closed = counters.read()["TcpExtTW"] - closed
            return fds(child.pid) - files, rss_kb(child.pid) - memory, established(lab), closed

    files, memory, connections, closed = in_sandbox(main)
    assert (files, connections) == (0, 0)
    assert closed >= MANY
    assert memory < RSS_GROWTH_KB, f"grew by {memory} kB"


def test_sigterm_ends_it() -> None:
    def main() -> int:
        with chain("client", "server") as lab, serving(lab) as child, connect():
            child.send_signal(signal.SIGTERM)
            return child.wait(5)

    assert in_sandbox(main) == -signal.SIGTERM


@pytest.mark.parametrize("program", ["http-server", "http-proxy"])
def test_a_taken_port_is_one_line_and_exit_98(program: str) -> None:
    def main() -> tuple[int, str]:
        extra = ["--upstream", "127.0.0.1:81"] if program == "http-proxy" else []
        with server(), netns.enter("server"):
            argv = built_in(program, "--listen", "198.18.0.2:80", *extra)
            done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
            return done.returncode, done.stderr

    code, text = in_sandbox(main)
    assert code == 98
    assert text.startswith(f"{program}: 198.18.0.2:80: Address already in use")
    assert text.count("\n") == 1
