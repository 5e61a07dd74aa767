"""The built-in proxy talks to its upstream as nginx does, and says what nginx says when it cannot."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from conftest import in_sandbox
from test_server import (
    BIG,
    GET,
    RESET,
    SMALL_READS,
    SMALL_WRITES,
    chain,
    connect,
    curl,
    established,
    log_of,
    read_all,
    read_head,
    read_response,
    refusals,
    run,
    running,
    time_waits,
)

from netns_tw.kernel import netns
from netns_tw.lab import RunningLab
from netns_tw.serving import built_in
from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns

LB, BACKEND = "198.18.0.2", "198.18.1.2"
TWO_PORTS = {"net.ipv4.ip_local_port_range": "1024 1025"}
HELLO = "hello from netns_tw\n"
UPSTREAM = ("--upstream", f"{BACKEND}:80")


@contextmanager
def proxy(*options: str, backend: tuple[str, ...] | None = (), **sysctls: dict[str, str]) -> Iterator[RunningLab]:
    """client - lb - backend; the proxy on lb, and the built-in server on backend unless that is None."""
    with chain("client", "lb", "backend", **sysctls) as lab, ExitStack() as stack:
        if backend is not None:
            argv = built_in("http-server", "--listen", f"{BACKEND}:80", *backend)
            stack.enter_context(running(lab, "backend", argv))
        stack.enter_context(running(lab, "lb", built_in("http-proxy", "--listen", f"{LB}:80", *UPSTREAM, *options)))
        yield lab


def through(*options: str) -> str:
    return curl(*options, url=f"http://{LB}/")


def statuses(count: int) -> list[str]:
    return [through("-o", "/dev/null", "-w", "%{http_code}") for _ in range(count)]


def listen(node: str = "backend", address: str = BACKEND) -> socket.socket:
    """An upstream of the test's own."""
    with netns.enter(node):
        listener = socket.create_server((address, 80))
    listener.settimeout(10)
    return listener


def accept(listener: socket.socket) -> socket.socket:
    sock, _ = listener.accept()
    sock.settimeout(10)
    return sock


def opened(lab: RunningLab) -> int:
    """Connections that the proxy's node has opened."""
    return lab.nodes["lb"].observer.counters.read()["TcpActiveOpens"]


def test_out_of_ports_it_answers_502_and_logs_the_errno() -> None:
    """Two ports to one upstream that waits for our FIN: two requests; then connect() fails with 99."""

    def main() -> tuple[list[str], str, list[int]]:
        with proxy(backend=("--close", "client-first"), lb=TWO_PORTS) as lab:
            return statuses(5), log_of(lab, "lb"), time_waits(lab, "lb", "backend")

    found, log, kept = in_sandbox(main)
    assert found == ["200", "200", "502", "502", "502"]
    assert kept == [2, 0]
    line = (
        r"\d{4}(/\d\d){2} [\d:]{8} \[crit\] connect\(\) to 198.18.1.2:80 failed \(99: Cannot assign requested address\)"
    )
    line += r' while connecting to upstream, request: "GET / HTTP/1.1", upstream: "http://198.18.1.2:80/"'
    assert re.fullmatch(rf"({line}\n){{3}}", log), log


def test_nginx_logs_the_same_words() -> None:
    """One pattern serves both: the errno, its text, the phase."""

    def main() -> str:
        with chain("client", "lb", "backend", lb=TWO_PORTS) as lab:
            conf = "daemon off; pid nginx.pid; user root root; error_log stderr; events {} http { access_log off;"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
                conf += f"{name}_temp_path temp-{name};"
            conf += f"server {{ listen 80; location / {{ proxy_pass http://{BACKEND}:80; }} }} }}"
            folder = lab.nodes["lb"].folder
            Path(folder, "nginx.conf").write_text(conf)
            nginx = ["nginx", "-p", str(folder), "-e", "stderr", "-c", "nginx.conf"]
            server = built_in("http-server", "--listen", f"{BACKEND}:80", "--close", "client-first")
            with running(lab, "backend", server), running(lab, "lb", nginx):
                assert statuses(3) == ["200", "200", "502"]
                return log_of(lab, "lb")

    words = "connect() to 198.18.1.2:80 failed (99: Cannot assign requested address) while connecting to upstream"
    assert words in in_sandbox(main)


@pytest.mark.parametrize(("style", "kept"), [("client-first", [30, 0]), ("server-first", [0, 30]), ("reset", [0, 0])])
def test_a_connection_per_request_is_closed_as_the_upstream_lets_it(style: str, kept: list[int]) -> None:
    def main() -> list[int]:
        with proxy(backend=("--close", style)) as lab:
            run("client", *built_in("h11", f"http://{LB}/", "-n", "30", "--keep-alive"))
            assert opened(lab) == 30
            return time_waits(lab, "lb", "backend")

    assert in_sandbox(main) == kept


def test_a_pool_asks_a_hundred_times_on_one_connection() -> None:
    """And nobody closes it: no TIME_WAIT on either side."""

    def main() -> tuple[int, int, list[int]]:
        with proxy("--keepalive", "4") as lab:
            out = run("client", *built_in("h11", f"http://{LB}/", "-n", "100"))
            assert out.count('"status": 200') == 100
            return opened(lab), established(lab, "backend"), time_waits(lab, "lb", "backend")

    assert in_sandbox(main) == (1, 1, [0, 0])


def test_at_its_request_limit_the_proxy_closes_first() -> None:
    def main() -> tuple[int, list[int]]:
        with proxy("--keepalive", "4", "--keepalive-requests", "10") as lab:
            run("client", *built_in("h11", f"http://{LB}/", "-n", "100"))
            return opened(lab), time_waits(lab, "lb", "backend")

    assert in_sandbox(main) == (10, [10, 0])


def test_no_more_idle_connections_are_kept_than_told() -> None:
    """Twenty at once, two kept: the others are closed by the proxy."""

    def main() -> tuple[int, int]:
        with proxy("--keepalive", "2", backend=None) as lab, listen() as listener, ExitStack() as stack:
            clients = [stack.enter_context(connect(LB)) for _ in range(20)]
            for client in clients:
                client.sendall(GET)
            upstreams = [stack.enter_context(accept(listener)) for _ in range(20)]
            for upstream in upstreams:
                upstream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            for client in clients:
                assert b" 200 " in read_response(client)
            wait_until(lambda: established(lab, "backend") == 2, "two are left", 5)
            rows = lab.nodes["lb"].observer.sockets.dump()
            return established(lab, "backend"), sum(one.state.startswith("fin-wait") for one in rows)

    assert in_sandbox(main) == (2, 18)


def test_a_fin_on_an_idle_connection_is_answered_at_once() -> None:
    """The upstream closes first and keeps the TIME_WAIT; the next request opens a new connection."""

    def main() -> tuple[list[int], int]:
        with proxy("--keepalive", "4", backend=("--idle-timeout-ms", "100")) as lab:
            assert statuses(1) == ["200"]
            wait_until(lambda: established(lab, "backend") == 0, "closed by the upstream", 5)
            kept = time_waits(lab, "lb", "backend")  # which waits until no socket is left in CLOSE_WAIT
            assert statuses(1) == ["200"]
            return kept, opened(lab)

    assert in_sandbox(main) == ([0, 1], 2)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def second_on_a_dying_connection(method: str, part: bytes, reset: bool) -> tuple[str, str]:
    """Two requests over one pooled connection that dies after *part* of the second answer; its status, the log."""

    def main() -> tuple[str, str]:
        with proxy("--keepalive", "4", backend=None) as lab, listen() as listener, ExitStack() as stack:
            client = http.client.HTTPConnection(LB)
            client.sock = stack.enter_context(connect(LB))
            client.request("GET", "/")
            upstream = stack.enter_context(accept(listener))
            assert upstream.recv(4096)
            upstream.sendall(OK)
            assert client.getresponse().read() == b"ok"
            client.request(method, "/", b"")
            assert upstream.recv(4096)
            upstream.sendall(part)
            if reset:
                upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            upstream.close()
            if not part and method != "POST":
                again = stack.enter_context(accept(listener))
                assert again.recv(4096).startswith(method.encode())
                again.sendall(OK)
            return str(client.getresponse().status), log_of(lab, "lb")

    return in_sandbox(main)


@pytest.mark.parametrize("reset", [False, True])
def test_a_request_that_crosses_a_close_is_sent_once_more(reset: bool) -> None:
    """RFC 9112 section 9.3.1: the reused connection ended before a byte of the answer."""
    assert second_on_a_dying_connection("GET", b"", reset) == ("200", "")


def test_a_request_is_not_sent_twice_when_that_may_do_harm() -> None:
    """RFC 9110 section 9.2.2: POST is not idempotent; and of what was answered in part, nobody knows how it ended."""
    status, log = second_on_a_dying_connection("POST", b"", False)
    assert status == "502"
    assert "upstream prematurely closed connection while reading response header from upstream" in log
    status, log = second_on_a_dying_connection("GET", b"HTTP/1.1 2", True)
    assert status == "502"
    assert "recv() failed (104: Connection reset by peer) while reading response header from upstream" in log


UPSTREAMS: dict[str, tuple[Callable[[socket.socket], None], str, str]] = {
    "closes": (lambda sock: None, "502", "upstream prematurely closed connection"),
    "resets": (
        lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET),
        "502",
        "recv() failed (104: Connection reset by peer)",
    ),
    "talks something else": (lambda sock: sock.sendall(b"220 smtp\r\n\r\n"), "502", "sent no valid response"),
    "sends half": (lambda sock: sock.sendall(OK[:-1]), "502", "upstream prematurely closed connection"),
    "says nothing": (lambda sock: (sock.recv(1), None)[1], "504", "upstream timed out (110: Connection timed out)"),
}


@pytest.mark.parametrize("name", UPSTREAMS)
def test_a_broken_upstream_is_answered_for(name: str) -> None:
    act, status, words = UPSTREAMS[name]

    def main() -> tuple[str, str]:
        with proxy("--timeout-ms", "300", backend=None) as lab, listen() as listener, connect(LB) as client:
            client.sendall(GET)
            with accept(listener) as upstream:
                assert upstream.recv(4096)
                act(upstream)
            return read_response(client).split()[1].decode(), log_of(lab, "lb")

    found, log = in_sandbox(main)
    assert found == status
    assert words in log


def test_a_dead_upstream_is_502_and_its_return_is_noticed() -> None:
    def main() -> tuple[list[str], str]:
        with proxy("--keepalive", "4", backend=None) as lab:
            found = statuses(2)
            with running(lab, "backend", built_in("http-server", "--listen", f"{BACKEND}:80")):
                found += statuses(2)
            found += statuses(1)
            return found, log_of(lab, "lb")

    found, log = in_sandbox(main)
    assert found == ["502", "502", "200", "200", "502"]
    assert log.count("[error] connect() to 198.18.1.2:80 failed (111: Connection refused)") == 3


def test_a_client_first_upstream_in_a_pool_is_closed_as_it_asks() -> None:
    """It says Connection: close; what it says is heeded though we would keep the connection."""

    def main() -> tuple[list[str], int, list[int]]:
        with proxy("--keepalive", "4", backend=("--close", "client-first")) as lab:
            return statuses(3), opened(lab), time_waits(lab, "lb", "backend")

    assert in_sandbox(main) == (["200"] * 3, 3, [3, 0])


@pytest.mark.parametrize("keepalive", ["0", "4"])
def test_methods_headers_and_bodies_pass_through(keepalive: str) -> None:
    """But for what concerns one connection only, RFC 9110 section 7.6.1; HEAD's length is the upstream's."""

    def main() -> tuple[bytes, bytes]:
        with proxy("--keepalive", keepalive, backend=None), listen() as listener, ExitStack() as stack:
            client = stack.enter_context(connect(LB))
            client.sendall(
                b"POST /a?b HTTP/1.1\r\nHost: x\r\nX-One: 1\r\nX-Hop: 2\r\nConnection: X-Hop\r\nTE: trailers\r\n"
                b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            assert read_head(client) == b"HTTP/1.1 100 \r\n\r\n"
            client.sendall(b"3\r\nabc\r\n0\r\n\r\n")
            upstream = stack.enter_context(accept(listener))
            asked = upstream.recv(4096)
            upstream.sendall(b"HTTP/1.1 201 Created\r\nX-Two: 2\r\nContent-Length: 2\r\n\r\nhi")
            first = read_response(client)
            assert first.startswith(b"HTTP/1.1 201 Created\r\n")
            assert b"X-Two: 2\r\n" in first or b"x-two: 2\r\n" in first
            assert first.endswith(b"\r\n\r\nhi")
            client.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            if keepalive == "0":
                upstream = stack.enter_context(accept(listener))
            assert upstream.recv(4096).startswith(b"HEAD / ")
            upstream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")
            return asked, read_all(client)

    asked, head = in_sandbox(main)
    version = b"1.0" if keepalive == "0" else b"1.1"
    assert asked.startswith(b"POST /a?b HTTP/" + version + b"\r\nHost: 198.18.1.2:80\r\n")
    assert asked.endswith(b"\r\n\r\nabc")
    assert b"x-one: 1\r\n" in asked.lower()
    assert b"content-length: 3\r\n" in asked.lower()
    assert not re.search(rb"(?i)x-hop|expect|transfer-encoding|\r\nte:", asked)
    assert (b"connection: close" in asked.lower()) is (keepalive == "0")
    assert head.lower().count(b"content-length") == 1
    assert b"content-length: 12345\r\n" in head.lower()
    assert head.endswith(b"\r\n\r\n")


def test_what_is_no_request_is_answered_and_closed() -> None:
    """As by the built-in server; the answer is not lost to an RST."""

    def main() -> list[int]:
        with proxy():
            found = refusals(address=LB)
            assert statuses(1) == ["200"]
            return found

    assert in_sandbox(main) == [400, 400, 400, 505, 501, 431, 431, 413, 200]


def test_half_a_request_then_silence_is_answered_408() -> None:
    def main() -> list[bytes]:
        with proxy("--request-timeout-ms", "200"), connect(LB) as idle:
            found = []
            for half in (b"G", GET[:-1], b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"):
                with connect(LB) as sock:
                    sock.sendall(half)
                    found.append(read_all(sock)[:12])
            idle.sendall(GET)  # idle for longer than that, and none the worse for it
            found.append(read_response(idle)[:12])
            return found

    assert in_sandbox(main) == [b"HTTP/1.1 408"] * 3 + [b"HTTP/1.1 200"]


def test_a_slow_reader_holds_up_nobody_and_one_that_takes_nothing_is_dropped() -> None:
    def main() -> int:
        options = ("--request-timeout-ms", "500")
        with proxy(*options, backend=("--body", BIG), lb=SMALL_WRITES, client=SMALL_READS) as lab:
            with connect(LB) as deaf, connect(LB) as slow:
                deaf.sendall(GET)
                slow.sendall(GET)
                assert through("-o", "/dev/null", "-w", "%{http_code}") == "200"
                got = len(read_response(slow))
                wait_until(lambda: established(lab, "lb") == 1, "the deaf one dropped", 10)
            return got

    assert in_sandbox(main) > len(BIG)


def test_a_client_that_leaves_does_no_harm() -> None:
    """Before its answer, by FIN or RST; the upstream's connections are not left behind."""

    def main() -> None:
        with proxy("--keepalive", "4") as lab:
            for data in (b"", b"GE", GET, GET * 50):
                for linger in (False, True):
                    with connect(LB) as sock:
                        sock.sendall(data)
                        if linger:
                            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            wait_until(lambda: established(lab, "lb") == 0, "all clients forgotten", 5)
            assert statuses(1) == ["200"]
            assert established(lab, "backend") <= 4
            assert log_of(lab, "lb") == ""

    in_sandbox(main)


@pytest.mark.parametrize("keepalive", ["0", "8"])
def test_curl_ab_wrk_and_http_client_are_served_through_it(keepalive: str) -> None:
    """No failure is seen by any of them, nor logged."""

    def main() -> str:
        with proxy("--keepalive", keepalive) as lab:
            assert through("-0") == through() == through("-d", "x" * 50_000) == HELLO
            for keep in ((), ("-k",)):
                report = run("client", "ab", "-q", "-n", "200", "-c", "10", *keep, f"http://{LB}/")
                assert re.search(r"Complete requests: +200\n", report)
                assert re.search(r"Failed requests: +0\n", report)
                assert "Non-2xx" not in report
            report = run("client", "wrk", "-t1", "-c10", "-d1s", f"http://{LB}/")
            assert "Socket errors" not in report
            assert "Non-2xx" not in report
            with connect(LB) as sock:
                client = http.client.HTTPConnection(LB)
                client.sock = sock
                for method in ("GET", "POST", "HEAD", "GET"):
                    client.request(method, "/", b"abc" if method == "POST" else None)
                    response = client.getresponse()
                    assert (response.status, response.getheader("Content-Length")) == (200, str(len(HELLO)))
                    assert response.read() == (b"" if method == "HEAD" else HELLO.encode())
            return log_of(lab, "lb")

    assert in_sandbox(main) == ""


def test_it_survives_running_out_of_file_descriptors() -> None:
    """asyncio pauses accept() for a second, then goes on."""

    def main() -> None:
        argv = ["prlimit", "--nofile=20:20", *built_in("http-proxy", "--listen", f"{LB}:80", *UPSTREAM)]
        server = built_in("http-server", "--listen", f"{BACKEND}:80")
        with chain("client", "lb", "backend") as lab, running(lab, "backend", server), running(lab, "lb", argv):
            with ExitStack() as stack:
                for _ in range(24):
                    stack.enter_context(connect(LB))
                wait_until(lambda: "out of system resource" in log_of(lab, "lb"), "out of fds", 5)
            assert statuses(2) == ["200", "200"]

    in_sandbox(main)


def test_it_ends_on_sigterm() -> None:
    def main() -> int:
        argv = built_in("http-proxy", "--listen", f"{LB}:80", *UPSTREAM)
        with chain("client", "lb") as lab, running(lab, "lb", argv) as child, connect(LB):
            child.terminate()
            try:
                return child.wait(5)
            except subprocess.TimeoutExpired:
                return 0

    assert in_sandbox(main) == -15
