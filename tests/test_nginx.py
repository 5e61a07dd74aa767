"""A real nginx that stands in for the built-in server answers and closes as that does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import in_sandbox
from test_server import GET, SERVER, chain, connect, curl, log_of, read_response, run, running, time_waits

from netns_tw.errors import EnvironmentLacks, Skip
from netns_tw.kernel.process import find_program
from netns_tw.lab import RunningLab
from netns_tw.model.topology import HttpProxy, HttpServer, Listen, Nginx, Node, Programs, Topology
from netns_tw.programs import choice, nginx
from netns_tw.serving import built_in

AT = Listen("198.18.0.2", 80)
NGINX = find_program("nginx") or "nginx"


@contextmanager
def serving(lab: RunningLab, server: HttpServer) -> Iterator[None]:
    """The nginx for *server* on node "server"; nginx itself has found no fault with its configuration."""
    made = nginx.stand_in(server)
    assert made is not None
    folder = lab.nodes["server"].folder
    Path(folder, "nginx.conf").write_text(nginx.render(made, NGINX))
    checked = subprocess.run([*nginx.command(NGINX, folder), "-t"], check=True, capture_output=True, text=True)
    assert "[warn]" not in checked.stderr
    with running(lab, "server", nginx.command(NGINX, folder)):
        yield


@contextmanager
def stand_in(server: HttpServer) -> Iterator[RunningLab]:
    """Nodes "client" and "server", and on the latter the nginx for *server*."""
    with chain("client", "server") as lab, serving(lab, server):
        yield lab


def owners(server: HttpServer, http: str) -> list[int]:
    def main() -> list[int]:
        with stand_in(server) as lab:
            out = run("client", *built_in("h11", f"http://{SERVER}/", "-n", "50", "--http", http))
            assert out.count('"status": 200') == 50
            assert log_of(lab, "server") == ""
            return time_waits(lab, "client", "server")

    return in_sandbox(main)


@pytest.mark.netns
@pytest.mark.parametrize("http", ["1.0", "1.1"])
def test_server_first_leaves_every_time_wait_to_the_server(http: str) -> None:
    """The body ends with the connection: 50 of 50 are its own."""
    assert owners(HttpServer(AT, "server-first"), http) == [0, 50]


@pytest.mark.netns
def test_race_leaves_one_to_either_or_both() -> None:
    client, server = owners(HttpServer(AT, "race"), "1.1")
    assert 50 <= client + server <= 100


@pytest.mark.netns
def test_keep_alive_leaves_every_time_wait_to_the_client() -> None:
    assert owners(HttpServer(AT), "1.1") == [50, 0]


@pytest.mark.netns
def test_keep_alive_ends_at_max_requests_and_at_the_idle_time() -> None:
    """Milliseconds are milliseconds; the server closes first."""

    def main() -> list[int]:
        with stand_in(HttpServer(AT, max_requests=3, idle_timeout_ms=150)) as lab:
            for requests in (3, 1):
                with connect() as sock:
                    for _ in range(requests):
                        sock.sendall(GET)
                        last = read_response(sock)
                    assert (b"Connection: close" in last) is (requests == 3)
                    assert sock.recv(1) == b""
            return time_waits(lab, "client", "server")

    assert in_sandbox(main) == [0, 2]


BODIES = ["plain\n", 'a "quoted" \\ back\\n slash', "'; } }", "%%LISTEN%% # {", "näh ☃", "x" * 3500]


@pytest.mark.netns
@pytest.mark.parametrize("style", ["race", "keep-alive", "server-first"])
def test_status_and_body_are_the_servers(style: str) -> None:
    """Whatever nginx's own syntax makes of its letters."""

    def main() -> list[str]:
        found = []
        with chain("client", "server") as lab:
            for body in BODIES:
                with serving(lab, HttpServer(AT, style, 404, body)):
                    found.append(curl("-w", "%{http_code}"))
        return found

    assert in_sandbox(main) == [f"{body}404" for body in BODIES]


@pytest.mark.netns
def test_the_wildcard_takes_both_families() -> None:
    """As the built-in server does."""

    def main() -> list[str]:
        with stand_in(HttpServer(Listen("::", 80))):
            return [curl(url=url) for url in (f"http://{SERVER}/", "http://[2001:db8:0::2]/")]

    assert in_sandbox(main) == ["hello from netns_tw\n"] * 2


@pytest.mark.parametrize(
    "server",
    [
        HttpServer(AT, "client-first"),
        HttpServer(AT, "reset"),
        HttpServer(AT, "race", body="cost: $5"),
        HttpServer(AT, "race", body="x" * 4000),
        HttpServer(AT, "race", 302),
        HttpServer(AT, "race", 444),
        HttpServer(AT, "race", 204),
        HttpServer(AT, "server-first", body=""),
        HttpServer(AT, "race", 404, ""),
    ],
    ids=str,
)
def test_nginx_does_not_stand_in_where_it_cannot(server: HttpServer) -> None:
    """It waits for nobody's FIN, sends no RST after an answer, and ``return`` has its own idea of some statuses."""
    assert nginx.stand_in(server) is None


def test_an_nginx_without_sub_filter_is_said_to_lack_it(tmp_path: Path) -> None:
    """A light build has none; nginx itself would only say "unknown directive"."""
    light = tmp_path / "nginx"
    light.write_text("#!/bin/sh\necho nginx version: nginx/1.2.3 >&2\necho configure arguments: --with-x >&2\n")
    light.chmod(0o755)
    made = nginx.stand_in(HttpServer(AT, "server-first"))
    assert made is not None
    with pytest.raises(EnvironmentLacks, match="sub_filter"):
        nginx.render(made, str(light))
    assert nginx.version(str(light)) == "1.2.3"
    race = nginx.stand_in(HttpServer(AT, "race"))
    assert race is not None
    assert "temp_path" not in nginx.render(race, str(light))


def test_unknown_tokens_stay_and_known_ones_are_filled_in_once() -> None:
    """What a value brings in is not filled in again."""
    assert nginx.fill("%%A%% %%B%% %%C", {"A": "%%B%%", "B": "b"}) == "%%B%% b %%C"


def topology(programs: Programs) -> Topology:
    return Topology("test", "", {"a": Node("a", programs=programs)}, (), "/")


BUILT_IN, OWN = HttpServer(AT, "race"), Nginx(AT, "nginx.conf", "events {}")
PROXY = HttpProxy(AT, AT)


@pytest.mark.parametrize(
    ("programs", "servers", "has_nginx", "expected"),
    [
        (Programs(BUILT_IN), None, True, "http-server (race)"),
        (Programs(BUILT_IN), "h11", False, "http-server (race)"),
        (Programs(BUILT_IN), "nginx", True, "nginx (made for close style race)"),
        (Programs(BUILT_IN, nginx=OWN), "nginx", True, "nginx (nginx.conf)"),
        (Programs(OWN, h11=PROXY), None, True, "nginx (nginx.conf)"),
        (Programs(OWN, h11=PROXY), None, False, "http-proxy (a connection per request)"),
        (Programs(OWN, h11=replace(PROXY, keepalive=4)), "h11", True, "http-proxy (keepalive 4)"),
        (Programs(OWN), "nginx", True, "nginx (nginx.conf)"),
    ],
)
def test_the_set_that_was_asked_for_runs(
    programs: Programs, servers: str | None, has_nginx: bool, expected: str
) -> None:
    """As written; built-in where nginx is written but missing, and then it is said."""
    chosen, notes = choice.choose(topology(programs), servers, has_nginx)
    assert choice.describe(chosen["a"]) == expected
    assert len(notes) == (0 if servers or has_nginx else 1)


@pytest.mark.parametrize(
    ("programs", "servers", "words"),
    [
        (Programs(HttpServer(AT, "reset")), "nginx", "close style reset"),
        (Programs(PROXY), "nginx", "a proxy"),
        (Programs(OWN), "h11", "names no built-in program"),
    ],
)
def test_a_node_without_a_program_of_the_set_skips(programs: Programs, servers: str, words: str) -> None:
    with pytest.raises(Skip, match=words):
        choice.choose(topology(programs), servers, True)


def test_a_missing_nginx_that_was_asked_for_is_an_error() -> None:
    with pytest.raises(EnvironmentLacks, match="not installed"):
        choice.choose(topology(Programs(BUILT_IN)), "nginx", False)
