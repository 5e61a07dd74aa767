"""The source's own loop: one real curl process per request.

    for id in `seq 1 20`; do curl -s --no-keepalive --http1.1 URL -o /dev/null -w "%{http_code}\\n"; done

curl's connection cache dies with its process, so "keep-alive" ends there: the idle connection is closed by curl, which
makes the client the active closer. A failed transfer prints status 000. curl keeps the errno to itself; the one of a
failed connect(2) is read from its ``-v`` line "Immediate connect fail for ADDRESS: TEXT".
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence

from netns_tw.programs.client import Outcome, Pace, Plan

WRITE_OUT = "%{http_code} %{local_port} %{exitcode} %{errormsg}"
EXIT_TIMEOUT = 28
IMMEDIATE = re.compile(r"Immediate connect fail for [^ ]+: (.+)")
BIND_FAILED = re.compile(r"[Bb]ind(?: to [^ ]+)? failed with errno (\d+)")
CALL_BY_EXIT = {7: "connect", 28: "recv", 45: "bind", 52: "recv", 55: "send", 56: "recv"}
"""curl's exit codes (libcurl-errors(3)) by the call that was under way."""


def command(plan: Plan, curl: str, index: int) -> list[str]:
    """The argv of request number *index*: the source's flags, and those that make curl explain itself."""
    argv = [curl, "-q", "-s", "-v", "-o", os.devnull, "-w", WRITE_OUT, f"--http{plan.http}"]
    argv += ["--noproxy", "*", "-m", f"{plan.timeout_ms / 1000:g}"]
    if not plan.keep_alive:
        argv.append("--no-keepalive")
    if plan.source_ports:
        argv += ["--local-port", str(plan.source_ports[index % len(plan.source_ports)])]
    return [*argv, plan.url]


def run(plan: Plan, curl: str, emit: Callable[[Outcome], None]) -> None:
    """Carry out *plan* with a curl process per request, one after the other."""
    for index in Pace(plan.requests, plan.interval_ms):
        began = time.monotonic()
        done = subprocess.run(
            command(plan, curl, index),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
            check=False,
        )
        took_ms = (time.monotonic() - began) * 1000
        text, talk = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        emit(outcome(index, began * 1000, took_ms, text, talk))


def outcome(index: int, at_ms: float, took_ms: float, text: str, talk: str) -> Outcome:
    """Read one curl's ``-w`` text and its ``-v`` talk."""
    words = text.split(" ", 3)
    if len(words) < 3:
        return Outcome(index, at_ms, took_ms, None, "curl-failed", None, None, talk[-300:].strip())
    status, port, code = (int(word) for word in words[:3])
    if status and not code:
        return Outcome(index, at_ms, took_ms, status, None, None, port)
    name, call = why(code, talk)
    message = words[3] if len(words) > 3 else None
    return Outcome(index, at_ms, took_ms, None, name, call, None, message)


def why(code: int, talk: str) -> tuple[str, str | None]:
    """Return the errno's name and the failing call, from curl's exit code and its talk."""
    call = CALL_BY_EXIT.get(code)
    if found := BIND_FAILED.search(talk):
        return errno.errorcode.get(int(found[1]), found[1]), "bind"
    if found := IMMEDIATE.search(talk):
        return errno_named(found[1].strip()), "connect"
    if code == EXIT_TIMEOUT:
        return "ETIMEDOUT", "recv"
    return f"curl-exit-{code}", call


def errno_named(text: str, known: Sequence[int] = tuple(errno.errorcode)) -> str:
    """The name of the errno whose strerror(3) text is *text*; musl's and glibc's texts for EADDRNOTAVAIL differ."""
    if text in ("Address not available", "Cannot assign requested address"):
        return "EADDRNOTAVAIL"
    return next((errno.errorcode[code] for code in known if os.strerror(code) == text), text)
