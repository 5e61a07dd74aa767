"""TCP counters and gauges of one namespace: /proc/net/{netstat,snmp,sockstat}.

A counter only grows (nstat(8)'s names: TcpExtTW, TcpActiveOpens); a gauge is what there is now (sockstat's ``tw``,
which also holds orphans in FIN_WAIT2). The files are opened inside the namespace and kept: an open /proc/net file
stays with the namespace it was opened in, and pread(2) costs microseconds. Only /proc/thread-self/net follows
setns(2) in every thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from netns_tw.errors import InstrumentBroken
from netns_tw.kernel import netns

_BUFFER_BYTES = 1 << 16
_SOCKSTAT_BYTES = 1024
_FILES = ("netstat", "snmp", "sockstat")


class Counters:
    """A reader of one namespace's TCP counters."""

    def __init__(self, netns_name: str) -> None:
        self.netns_name = netns_name
        self._fds: dict[str, int] = {}
        self._places: dict[str, tuple[str, int, int]] = {}
        """By counter: its file, its line, its column."""
        with netns.enter(netns_name):
            for name in _FILES:
                self._fds[name] = os.open(f"/proc/thread-self/net/{name}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def read(self) -> dict[str, int]:
        """Return the Tcp and TcpExt counters by nstat's names, those at zero included."""
        found: dict[str, int] = {}
        for name in ("netstat", "snmp"):
            found.update(_pairs(self._text(name)))
        return found

    def some(self, names: Iterable[str]) -> dict[str, int]:
        """Return those of the counters *names* that this kernel has; where they stand is looked up once."""
        if not self._places:
            for file in ("netstat", "snmp"):
                self._places.update(_places(self._text(file), file))
        rows: dict[tuple[str, int], list[str]] = {}
        found: dict[str, int] = {}
        for name in names:
            if name in self._places:
                file, line, column = self._places[name]
                if (file, line) not in rows:
                    rows[file, line] = self._text(file).split("\n", line + 1)[line].split()
                found[name] = int(rows[file, line][column])
        return found

    def time_wait(self) -> int:
        """Return sockstat's ``tw`` for TCP: sockets in TIME_WAIT, and orphans in FIN_WAIT2.

        Raises:
            InstrumentBroken: the file has no such figure.
        """
        text = os.pread(self._fds["sockstat"], _SOCKSTAT_BYTES, 0)
        before, found, rest = text[text.find(b"\nTCP:") :].partition(b" tw ")
        if not found or b"\n" in before[1:]:
            raise InstrumentBroken(f"/proc/net/sockstat in {self.netns_name} has no TCP line")
        return int(rest[: rest.find(b" ")])

    def _text(self, name: str) -> str:
        return os.pread(self._fds[name], _BUFFER_BYTES, 0).decode("ascii")


def _places(text: str, file: str) -> Iterator[tuple[str, tuple[str, int, int]]]:
    """Yield every counter of a file of line pairs with the place of its number."""
    for number, names in enumerate(text.splitlines()[::2]):
        prefix, *keys = names.split()
        if prefix in ("Tcp:", "TcpExt:"):
            yield from ((prefix[:-1] + key, (file, 2 * number + 1, column)) for column, key in enumerate(keys, 1))


def _pairs(text: str) -> dict[str, int]:
    """Parse a file of line pairs, "Tcp: names ..." then "Tcp: numbers ...", into {TcpName: number}."""
    found: dict[str, int] = {}
    lines = text.splitlines()
    for names, numbers in zip(lines[::2], lines[1::2], strict=False):
        prefix, *keys = names.split()
        if prefix in ("Tcp:", "TcpExt:"):
            found.update(zip((prefix[:-1] + key for key in keys), map(int, numbers.split()[1:]), strict=True))
    return found
