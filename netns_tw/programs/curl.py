"""The source's own loop: one real curl process per request.

    for id in `seq 1 20`; do curl -s --no-keepalive --http1.1 URL -o /dev/null -w "%{http_code}\\n"; done

curl's connection cache dies with its process, so "keep-alive" ends there: the idle connection is closed by curl, which
makes the client the active closer. A failed transfer prints status 000. curl keeps the errno to itself; strerror(3)'s
text stands in what ``-v`` makes it say, "Immediate connect fail for ADDRESS: TEXT" for a connect(2) that found no port.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence

from netns_tw.programs.client import Plan
from netns_tw.programs.outcome import Outcome
from netns_tw.programs.pace import Pace

WRITE_OUT = "%{http_code} %{local_port}"
EXIT_TIMEOUT = 28
BIND_FAILED = re.compile(r"[Bb]ind(?: to [^ ]+)? failed with errno (\d+)")
CALL_FAILED = (
    ("connect", re.compile(r"Immediate connect fail for [^ ]+: (.+)")),
    ("connect", re.compile(r"^\* connect to .+ failed: (.+)", re.MULTILINE)),
    ("send", re.compile(r"Send failure: (.+)")),
    ("recv", re.compile(r"Recv failure: (.+)")),
)
"""What curl says of a call that failed, with strerror(3)'s text."""
WORDS_BY_EXIT = {1: "not-http", 8: "not-http", 18: "closed-early", 52: "closed-early"}
"""curl's exit codes (libcurl-errors(3)) for what no errno names, in the words of the built-in client."""


def command(plan: Plan, curl: str, index: int) -> list[str]:
    """The argv of request number *index*: the source's flags, and those that make curl explain itself."""
    argv = [curl, "-q", "-g", "-s", "-v", "-o", os.devnull, "-w", WRITE_OUT, f"--http{plan.http}"]
    argv += ["--noproxy", "*", "-m", f"{plan.timeout_ms / 1000:.3f}"]
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
        emit(outcome(index, began * 1000, took_ms, done.returncode, text, talk))


def outcome(index: int, at_ms: float, took_ms: float, code: int, text: str, talk: str) -> Outcome:
    """Read one curl's exit code, its ``-w`` text and its ``-v`` talk."""
    found = re.fullmatch(r"(\d{3}) (\d+)", text)
    if found is None:
        return Outcome(index, at_ms, took_ms, None, f"curl-exit-{code}", None, None, talk[-300:].strip())
    status, port = int(found[1]), int(found[2]) or None
    if status and not code:
        return Outcome(index, at_ms, took_ms, status, None, None, port)
    name, call = why(code, talk)
    said = [line[2:] for line in talk.splitlines() if line.startswith("* ") and "Closing connection" not in line]
    return Outcome(index, at_ms, took_ms, None, name, call, port, said[-1] if said else None)


def why(code: int, talk: str) -> tuple[str, str | None]:
    """Return the errno's name and the failing call, from curl's exit code and its talk."""
    if found := BIND_FAILED.search(talk):
        return errno.errorcode.get(int(found[1]), found[1]), "bind"
    for call, pattern in CALL_FAILED:
        if found := pattern.search(talk):
            return errno_named(found[1].strip()), call
    if code == EXIT_TIMEOUT:
        return "ETIMEDOUT", "recv" if "\n* Connected to " in talk else "connect"
    if code in WORDS_BY_EXIT:
        return WORDS_BY_EXIT[code], "recv"
    return f"curl-exit-{code}", None


def errno_named(text: str, known: Sequence[int] = tuple(errno.errorcode)) -> str:
    """The name of the errno whose strerror(3) text is *text*; musl's and glibc's texts for EADDRNOTAVAIL differ."""
    if text in ("Address not available", "Cannot assign requested address"):
        return "EADDRNOTAVAIL"
    return next((errno.errorcode[code] for code in known if os.strerror(code) == text), text)
