"""All that needs namespaces is measured as PID 1 of one of netns_tw's own sandboxes: nothing can be left of it.

The programs that netns_tw is compared with run in such a sandbox too. It costs them nothing that is measured, and
their names under /run/netns and their links are nobody else's.
"""

from __future__ import annotations

import os
import pickle
import select
import traceback
from collections.abc import Callable
from typing import TypeVar

from benchmarks.figure import NotMeasured
from netns_tw.errors import EnvironmentLacks
from netns_tw.kernel import sandbox

T = TypeVar("T")
DEADLINE_S = 600.0


def inside(function: Callable[[], T], deadline_s: float = DEADLINE_S) -> T:
    """Run *function* as PID 1 of a fresh sandbox and return what it returns (it must pickle).

    Raises:
        NotMeasured: it raised that, or this machine lacks something.
        RuntimeError: it raised anything else, or was not through in time; with its traceback there.
    """
    read, write = os.pipe()

    def main() -> int:
        try:
            answer: tuple[str, object] = ("good", function())
        except (NotMeasured, EnvironmentLacks) as error:
            answer = ("lacks", str(error))
        except BaseException:
            answer = ("broke", traceback.format_exc())
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(answer, pipe)
        return 0

    try:
        made = sandbox.start(main, keep=(write,))
    except EnvironmentLacks as error:
        raise NotMeasured(str(error)) from error
    finally:
        os.close(write)
    try:
        data = _read(read, deadline_s)
    finally:
        os.close(read)
        made.kill()
        made.wait()
    if not data:
        raise RuntimeError(f"no answer from the sandbox within {deadline_s:g} s")
    how, value = pickle.loads(data)
    if how == "lacks":
        raise NotMeasured(value)
    if how == "broke":
        raise RuntimeError(value)
    return value  # type: ignore[no-any-return]


def _read(fd: int, deadline_s: float) -> bytes:
    parts: list[bytes] = []
    while select.select([fd], [], [], deadline_s)[0]:
        part = os.read(fd, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return b""
