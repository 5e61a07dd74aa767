"""One answer through a pipe, from a process in a lab to the command: JSON, or an error with its exit code."""

from __future__ import annotations

import json
import os
from typing import Any

from netns_tw.errors import NetnsTwError
from netns_tw.kernel import process

READ_BYTES = 1 << 16


def tell(pipe: int, found: object) -> None:
    """Write an answer; *found* must be made of what JSON knows."""
    _write(pipe, {"found": found})


def tell_error(pipe: int, error: NetnsTwError) -> None:
    """Write why there is no answer."""
    _write(pipe, {"error": str(error), "exit_code": error.exit_code})


def _write(pipe: int, line: dict[str, object]) -> None:
    process.write_whole(pipe, json.dumps(line).encode() + b"\n")


def hear(pipe: int) -> Any:
    """Read an answer and return it.

    Raises:
        NetnsTwError: it is an error; with its exit code.
        EOFError: the other side ended without an answer.
    """
    text = b""
    while not text.endswith(b"\n"):
        data = os.read(pipe, READ_BYTES)
        if not data:
            raise EOFError
        text += data
    line = json.loads(text)
    if "error" in line:
        error = NetnsTwError(line["error"])
        error.exit_code = line["exit_code"]
        raise error
    return line["found"]
