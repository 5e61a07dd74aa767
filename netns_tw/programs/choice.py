"""Which program runs on each node: as the lab's file says, all built-in (h11), or all nginx.

The two sets are interchangeable so that a claim can be seen to rest on the kernel and not on one program. A file may
name the stand-in itself (``program.h11``, ``program.nginx``); else nginx takes over a built-in server's close style.
"""

from __future__ import annotations

from collections.abc import Mapping

from netns_tw.errors import EnvironmentLacks, Skip
from netns_tw.model.topology import HttpProxy, HttpServer, Nginx, Program, Programs, Topology
from netns_tw.programs import nginx

NO_NGINX = "nginx is not installed: sudo apt-get install nginx-light"
NO_CURL = "curl is not installed: sudo apt-get install curl, or use --client h11"


def choose(topology: Topology, servers: str | None, has_nginx: bool) -> tuple[Mapping[str, Program], list[str]]:
    """Return the program of each node that has one, and notes on what differs from the file.

    *servers* is ``h11``, ``nginx``, or None: as written, built-in where nginx is written but missing.

    Raises:
        EnvironmentLacks: nginx was asked for and is missing.
        Skip: a node has no program of the set that was asked for.
    """
    wanted = {name: node.programs for name, node in topology.nodes.items() if node.programs}
    notes: list[str] = []
    if servers == "nginx" and not has_nginx:
        raise EnvironmentLacks(f"{NO_NGINX}, or use --server h11")
    if servers is None and not has_nginx and any(isinstance(one.default, Nginx) for one in wanted.values()):
        servers = "h11"
        notes.append(f"{NO_NGINX}; the embedded programs run instead")
    return {name: _pick(name, one, servers) for name, one in wanted.items()}, notes


def _pick(name: str, programs: Programs, servers: str | None) -> Program:
    if servers == "h11":
        return _built_in(name, programs)
    return _nginx(name, programs) if servers == "nginx" else programs.default


def _built_in(name: str, programs: Programs) -> Program:
    if programs.h11 is not None:
        return programs.h11
    if isinstance(programs.default, Nginx):
        raise Skip(
            f"node {name} runs nginx, and its file names no built-in program for it ([nodes.{name}.program.h11])"
        )
    return programs.default


def _nginx(name: str, programs: Programs) -> Program:
    if programs.nginx is not None:
        return programs.nginx
    if isinstance(programs.default, Nginx):
        return programs.default
    found = nginx.stand_in(programs.default) if isinstance(programs.default, HttpServer) else None
    if found is None:
        what = f"close style {programs.default.close}" if isinstance(programs.default, HttpServer) else "a proxy"
        raise Skip(f"node {name}: nginx cannot stand in for {what}; this claim needs the built-in program")
    return found


def describe(program: Program) -> str:
    """A program in a few words, for the report."""
    if isinstance(program, Nginx):
        return f"nginx ({program.config})"
    if isinstance(program, HttpServer):
        return f"http-server ({program.close})"
    assert isinstance(program, HttpProxy)
    kept = f"keepalive {program.keepalive}" if program.keepalive else "a connection per request"
    return f"http-proxy ({kept})"
