"""Run one built-in program alone, so that curl, ab, wrk or any HTTP program can be pointed at it or at its peer."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_PACKAGES = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..")
sys.path.append(os.path.normpath(_PACKAGES))  # run by its path from a checkout; last, so it hides nothing

EXIT_CANNOT_LISTEN = 98
EXIT_CANNOT_START = 127


def endpoint(text: str) -> tuple[str, int]:
    """Split ``ADDRESS:PORT``; an IPv6 address stands in brackets."""
    address, _, port = text.rpartition(":")
    if not address or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDRESS:PORT, such as 127.0.0.1:8080 or [::1]:8080")
    return address.strip("[]"), int(port)


def url(text: str) -> str:
    """Check that *text* is an http URL that can stand in a request line as it is."""
    try:
        parts = urlsplit(text)
        good = parts.scheme == "http" and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or not all("!" <= letter <= "~" for letter in text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an http URL, such as http://127.0.0.1:8080/ or http://[::1]/"
        )
    return text


def _number(low: int, high: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low} to {high}")
        return int(text)

    return number


STRICT = "let h11 read every message, also one that it has read before"
ms = _number(1, 86_400_000)
count = _number(1, 1_000_000_000)
count_or_0 = _number(0, 1_000_000_000)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m netns_tw.programs", description=__doc__)
    commands = parser.add_subparsers(dest="program", required=True, metavar="PROGRAM")
    _add_servers(commands)
    _add_clients(commands)
    _add_bare(commands)
    return parser


def _add_servers(commands: Commands) -> None:
    from netns_tw.rules import CLOSE_STYLES

    server = commands.add_parser("http-server", help="a server that closes the way it is told to")
    server.add_argument("--listen", type=endpoint, required=True, metavar="ADDRESS:PORT")
    server.add_argument("--close", choices=CLOSE_STYLES, default="keep-alive", help="who closes first, and how")
    server.add_argument("--status", type=_number(200, 599), default=200)
    server.add_argument("--body", default="hello from netns_tw\n", help="text of every response")
    server.add_argument("--max-requests", type=count_or_0, default=0, help="per connection (keep-alive); 0: no limit")
    server.add_argument("--idle-timeout-ms", type=ms, default=60_000, help="keep-alive: without a request, then close")
    server.add_argument("--request-timeout-ms", type=ms, default=10_000, help="from first to last byte, then 408")
    server.add_argument("--fin-timeout-ms", type=ms, default=5_000, help="client-first: without their FIN, then close")
    server.add_argument("--strict-h11", action="store_true", help=STRICT)
    proxy = commands.add_parser("http-proxy", help="the embedded load balancer")
    proxy.add_argument("--listen", type=endpoint, required=True, metavar="ADDRESS:PORT")
    proxy.add_argument("--upstream", type=endpoint, required=True, metavar="ADDRESS:PORT")
    proxy.add_argument("--keepalive", type=count_or_0, default=0, help="idle upstream connections kept; 0: none")
    proxy.add_argument("--keepalive-requests", type=count, default=1000, help="requests before the proxy closes one")
    proxy.add_argument("--timeout-ms", type=ms, default=60_000, help="for the upstream's answer, then 504")
    proxy.add_argument("--request-timeout-ms", type=ms, default=10_000, help="from first to last byte, then 408")


def _add_clients(commands: Commands) -> None:
    for name, what in (("h11", "the built-in client"), ("curl", "one curl process per request")):
        client = commands.add_parser(name, help=f"{what}; prints a JSON line per request")
        client.add_argument("url", type=url)
        client.add_argument("-n", "--requests", type=count, default=1)
        client.add_argument("--interval-ms", type=float, default=0)
        client.add_argument("--http", choices=("1.0", "1.1"), default="1.1")
        client.add_argument("-c", "--concurrency", type=_number(1, 10_000), default=1, help="h11 only")
        client.add_argument("--keep-alive", action="store_true", help="several requests per connection")
        client.add_argument("--source-ports", type=_number(1, 65535), nargs="*", default=[], metavar="PORT")
        client.add_argument("--timeout-ms", type=ms, default=10_000, help="for each request as a whole")
        client.add_argument("--strict-h11", action="store_true", help=f"h11 only: {STRICT}")
        client.add_argument("--curl", default="curl", metavar="PATH", help="the curl program")


def port_range(text: str) -> tuple[int, int]:
    """Split ``LOW-HIGH``."""
    low, _, high = text.partition("-")
    if not (low.isdigit() and high.isdigit() and 0 < int(low) <= int(high) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW-HIGH, such as 1024-1034")
    return int(low), int(high)


def _add_bare(commands: Commands) -> None:
    from netns_tw.rules import CLOSERS

    bare = commands.add_parser("bare", help="connections without a byte, both ends ours; prints a JSON line per batch")
    bare.add_argument("--listener", type=int, required=True, metavar="FD", help="the socket that listens, inherited")
    bare.add_argument("-n", "--requests", type=count, default=1, help="connections")
    bare.add_argument("--closes", choices=CLOSERS, default=CLOSERS[0], help="who closes first")
    bare.add_argument("--source-ports", type=port_range, metavar="LOW-HIGH", help="each in turn")
    bare.add_argument("--port-range", type=port_range, metavar="LOW-HIGH", help="IP_LOCAL_PORT_RANGE of each socket")
    bare.add_argument("--timeout-ms", type=ms, default=10_000, help="for each connection")


def _bare(given: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict

    from netns_tw.programs import bare

    low, high = given.source_ports or (1, 0)
    plan = bare.Plan(
        given.listener, given.requests, given.closes, range(low, high + 1), given.port_range, given.timeout_ms
    )
    try:
        bare.run(plan, lambda one: print(json.dumps(asdict(one)), flush=True))
    except bare.Stalled:
        sys.exit(f"bare: no connection was made for {given.timeout_ms} ms")


def _server(given: argparse.Namespace) -> None:
    from netns_tw.programs.closing import Behaviour
    from netns_tw.programs.server import Server, bind

    behaviour = Behaviour(
        given.close,
        given.status,
        os.fsencode(given.body),
        given.max_requests,
        given.idle_timeout_ms,
        given.request_timeout_ms,
        given.fin_timeout_ms,
        given.strict_h11,
    )
    Server(bind(*given.listen), behaviour).run()


def _proxy(given: argparse.Namespace) -> None:
    import asyncio

    from netns_tw.programs.proxy import Proxy, Upstream
    from netns_tw.programs.server import listen

    address, port = given.upstream
    upstream = Upstream(address, port, given.keepalive, given.keepalive_requests, given.timeout_ms)
    asyncio.run(Proxy(upstream, given.request_timeout_ms).serve(listen(*given.listen)))


def _client(given: argparse.Namespace) -> None:
    from netns_tw.programs import client, curl
    from netns_tw.programs.outcome import Lines

    plan = client.Plan(
        given.url,
        given.requests,
        given.interval_ms,
        given.http,
        given.concurrency,
        given.keep_alive,
        tuple(given.source_ports),
        given.timeout_ms,
        given.strict_h11,
    )
    lines = Lines(sys.stdout.fileno())
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if given.program == "h11":
            client.run(plan, lines.add, lines.flush)
        else:
            curl.run(plan, given.curl, lines.add_now)
    finally:
        lines.flush()


class Terminated(BaseException):
    """SIGTERM came: say what there is to say, then die of it."""


def _terminate(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(1)  # should nobody read what we still have to say
    raise Terminated


def main() -> int:
    """Run the program named on the command line; exit with one line when it cannot start: 98 for its address."""
    given = _parser().parse_args()
    run = {"http-server": _server, "http-proxy": _proxy, "bare": _bare}.get(given.program, _client)
    try:
        run(given)
    except KeyboardInterrupt:
        return 130
    except Terminated:
        os.kill(os.getpid(), signal.SIGTERM)
    except BrokenPipeError:  # nobody reads our results any more; nor must the interpreter try at its end
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = (
            ":".join(map(str, given.listen))
            if "listen" in given
            else error.filename or getattr(given, "url", given.program)
        )
        print(f"{given.program}: {where}: {error.strerror or error} (errno {error.errno})", file=sys.stderr)
        return EXIT_CANNOT_LISTEN if "listen" in given else EXIT_CANNOT_START
    return 0


if __name__ == "__main__":
    sys.exit(main())
