"""Programs of nodes: started, and awaited until they listen. Runs as PID 1 of a sandbox, called by lab.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack

from netns_tw.errors import EnvironmentLacks, UsageError
from netns_tw.kernel import process
from netns_tw.model.topology import HttpProxy, HttpServer, Nginx, Program
from netns_tw.node import RunningNode
from netns_tw.programs import nginx
from netns_tw.programs.choice import NO_NGINX
from netns_tw.wait import DeadlineMissed, wait_until

PROGRAMS = os.path.join(os.path.dirname(os.path.realpath(__file__)), "programs", "__main__.py")
LISTEN_DEADLINE_S = 10.0


def start(nodes: Mapping[str, RunningNode], programs: Mapping[str, Program], undo: ExitStack) -> None:
    """Start all programs, then wait until each listens; a port that is taken is a dead program with its log.

    Raises:
        EnvironmentLacks: a program is not there, or cannot be started.
        UsageError: one ended, or does not listen within 10 s; with the end of its log.
    """
    for name, program in programs.items():
        node = nodes[name]
        try:
            node.process = process.spawn(name, _argv(program, node.folder), node.log, node.folder)
        except OSError as error:
            raise EnvironmentLacks(f"node {name}: cannot start {error.filename}: {error.strerror}") from error
        undo.callback(process.end, node.process)
    for name, program in programs.items():
        _wait_until_listening(nodes[name], program)


def end(nodes: Mapping[str, RunningNode]) -> None:
    """End all programs. Harmless for those that have ended."""
    for node in nodes.values():
        if node.process:
            process.end(node.process)


def built_in(*arguments: str) -> list[str]:
    """The argv of a built-in program: by its path and with -P, so that no folder is put before the standard library."""
    return [sys.executable, "-P", PROGRAMS, *arguments]


def _argv(program: Program, folder: str) -> list[str]:
    """The argv of a node's program; nginx's configuration is written to *folder* first."""
    listen = ["--listen", str(program.listen)]
    if isinstance(program, HttpServer):
        how = ["--close", program.close, "--status", str(program.status), "--body", program.body]
        limits = ["--max-requests", str(program.max_requests), "--idle-timeout-ms", str(program.idle_timeout_ms)]
        return built_in("http-server", *listen, *how, *limits)
    if isinstance(program, HttpProxy):
        kept = ["--keepalive", str(program.keepalive), "--keepalive-requests", str(program.keepalive_requests)]
        return built_in("http-proxy", *listen, "--upstream", str(program.upstream), *kept)
    path = process.find_program("nginx")
    if path is None:
        raise EnvironmentLacks(NO_NGINX)
    with open(f"{folder}/nginx.conf", "w", encoding="utf-8") as config:
        config.write(nginx.render(program, path))
    return nginx.command(path, folder)


def _wait_until_listening(node: RunningNode, program: Program) -> None:
    """Wait for the program's LISTEN socket or its death, whichever comes first; no connection is made."""
    what = "nginx" if isinstance(program, Nginx) else "the built-in program"
    where = f"node {node.name}: {what} for {program.listen}"
    child = node.process
    assert child is not None

    def listens_or_died() -> bool:
        return child.poll() is not None or node.observer.sockets.is_listening(
            program.listen.port, program.listen.address
        )

    try:
        wait_until(listens_or_died, where, LISTEN_DEADLINE_S, pause_s=0.005)
    except DeadlineMissed as error:
        raise UsageError(f"{error}; its log ends:\n{_quoted(node.log)}") from error
    if child.poll() is not None:
        raise UsageError(f"{where} ended with status {child.returncode}; its log ends:\n{_quoted(node.log)}")


def _quoted(log: str) -> str:
    text = process.tail(log) or "(empty)"
    return "\n".join(f"  | {line}" for line in text.splitlines())
