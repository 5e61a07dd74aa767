"""The built-in client and server beside ab, nginx and curl: requests a second, each on a new connection.

Client and server are nodes of a lab of their own, over a veth pair. A rate is the program's own, from its first request
to its last, so that neither side's start counts: ab tells its own, the built-in client's is in its results. The curl
loop is the source document's, a process a request, and its rate is that of the whole loop. A client that closes first
keeps a port in TIME_WAIT, so each pair of samples has a lab of its own, far below half of the port range, where
connect() becomes slow.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import labs
from benchmarks.figure import Figure, Samples, at_least
from benchmarks.inside import inside
from benchmarks.interleave import program
from netns_tw import serving
from netns_tw.kernel import process
from netns_tw.lab import RunningLab

REQUESTS = 4000
LOOPED = 40
OUT = Path("/run/out")
LOOP = (
    f"for id in `seq 1 {LOOPED}`;do"
    f' curl -s --no-keepalive --http1.1 {labs.URL} -o /dev/null -w "%{{http_code}}\\n";'
    "done |sort |uniq -c"
)
"""As in the source document."""


def _in_node(argv: list[str]) -> str:
    """Run a program on the client's node to its end; return what it printed."""
    with open(OUT, "wb") as out:
        child = process.spawn("client", argv, Path("/run/log"), stdout=out.fileno())
        try:
            code = child.wait(120)
        finally:
            process.end(child)
    if code:
        raise RuntimeError(f"{argv[0]} ended with status {code}: {process.tail(Path('/run/log'))}")
    return OUT.read_text()


def built_in_client_per_s(url: str = labs.URL) -> float:
    """The built-in client's rate, as a step of an experiment starts it."""
    lines = _in_node(serving.built_in("h11", url, "--requests", str(REQUESTS))).splitlines()
    found = [json.loads(line) for line in lines]
    if sum(one["status"] == 200 for one in found) != REQUESTS:
        raise RuntimeError(f"not all of {REQUESTS} requests were answered")
    took_ms: float = found[-1]["at_ms"] + found[-1]["took_ms"] - found[0]["at_ms"]
    return REQUESTS / took_ms * 1000


def ab_per_s(url: str = labs.URL) -> float:
    """What ab says of its rate, one request after the other."""
    text = _in_node([program("ab", "apache2-utils"), "-q", "-c", "1", "-n", str(REQUESTS), url])
    complete, failed = (re.search(rf"^{word} requests: +(\d+)$", text, re.M) for word in ("Complete", "Failed"))
    rate = re.search(r"^Requests per second: +([\d.]+)", text, re.M)
    if not (complete and failed and rate and complete[1] == str(REQUESTS) and failed[1] == "0") or "Non-2xx" in text:
        raise RuntimeError(f"ab: not all of {REQUESTS} requests were answered")
    return float(rate[1])


def _loop_per_s() -> float:
    program("curl")
    began = time.monotonic()
    text = _in_node([program("bash"), "-c", LOOP])
    took_s = time.monotonic() - began
    if text.split() != [str(LOOPED), "200"]:
        raise RuntimeError(f"the loop of curl: not {LOOPED} x 200")
    return LOOPED / took_s


def _against_nginx(theirs: Callable[[], float], runs: int) -> Samples:
    program("nginx", "nginx-light")

    def both() -> tuple[float, float]:
        with RunningLab(labs.pair("server"), {"server": labs.nginx()}):
            return built_in_client_per_s(), theirs()

    pairs = [inside(both) for _ in range(runs + 1)][1:]
    return Samples([one for one, _ in pairs], [one for _, one in pairs])


def _client_beside_ab(runs: int) -> Samples:
    program("ab", "apache2-utils")
    return _against_nginx(ab_per_s, runs)


def _client_beside_loop(runs: int) -> Samples:
    return _against_nginx(_loop_per_s, runs)


def _server_beside_nginx(runs: int) -> Samples:
    program("ab", "apache2-utils")
    program("nginx", "nginx-light")

    def both() -> tuple[float, float]:
        programs = {"server": labs.built_in(1), "nginx": labs.nginx(2)}
        with RunningLab(labs.pair("server", "nginx"), programs):
            return ab_per_s("http://198.18.1.1/"), ab_per_s("http://198.18.2.1/")

    pairs = [inside(both) for _ in range(runs + 1)][1:]
    return Samples([one for one, _ in pairs], [one for _, one in pairs])


FIGURES = (
    Figure(
        "client-ab",
        "built-in client, a new connection per request, against nginx",
        at_least(0.8),
        "req/s",
        _client_beside_ab,
        "ab -c1",
    ),
    Figure(
        "client-curl-loop",
        "built-in client, a new connection per request, against nginx",
        at_least(100),
        "req/s",
        _client_beside_loop,
        "the source document's loop of curl",
    ),
    Figure(
        "server-nginx",
        "built-in server, driven by ab -c1",
        at_least(0.7),
        "req/s",
        _server_beside_nginx,
        "nginx with one worker",
    ),
)
