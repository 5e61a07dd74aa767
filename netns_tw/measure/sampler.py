"""What happens between two snapshots, at a price that is known and bounded.

Gauges and counters cost microseconds a node (an open /proc/net file, pread(2)), so they are read often. A dump of all
sockets walks the whole established hash, which all namespaces share: a millisecond a node and more, so it is seldom.
Each of the two pays for itself: after a round that took c of CPU time the next one waits at least c / SHARE. So both
together stay under 2 x SHARE of one core, however many nodes and sockets there are; what suffers is the resolution.

The sampler has no thread and no timer. Whoever waits for something else asks it how long it may wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from netns_tw.kernel.sockdiag import CLOSED, LISTENING, TcpSocket
from netns_tw.measure.observer import Observer

SHARE = 0.01
"""Of one core's time, for the gauges and for the dumps each."""
GAUGES_MS = 25.0
DUMP_MS = 100.0
"""The shortest time between two rounds."""
SAMPLED = (
    "TcpExtTW",
    "TcpExtTWRecycled",
    "TcpExtTCPTimeWaitOverflow",
    "TcpActiveOpens",
    "TcpPassiveOpens",
    "TcpRetransSegs",
)
SAME_TIMER_MS = 100.0
"""A timer that surely ends this much later than it did is a new one: the port was used again in between."""
_ALL_BUT_LISTENERS = 0xFFF & ~LISTENING & ~CLOSED

OnGauges = Callable[[str, float, int, int, Mapping[str, int]], None]
"""Node, ms of CLOCK_MONOTONIC, sockstat's tw, TcpCurrEstab, the SAMPLED counters."""
Ends = dict[tuple[str, str, int, str, int], float]
"""When the timer of each TIME_WAIT ends at the latest, by state and 4-tuple."""
OnSockets = Callable[[str, float, list[TcpSocket]], None]
"""Node, ms of CLOCK_MONOTONIC, every socket that does not listen."""


class _Rounds:
    """When the next round of one kind is due, by what the last one cost."""

    def __init__(self, least_ms: float) -> None:
        self._least_ms = least_ms
        self.due_ms = _now_ms() + least_ms

    def took(self, cpu_ms: float) -> None:
        self.due_ms = _now_ms() + max(self._least_ms, cpu_ms / SHARE)


class Sampler:
    """Samples every node's gauges often and its sockets seldom; tells only what has changed."""

    def __init__(self, observers: Mapping[str, Observer], on_gauges: OnGauges, on_sockets: OnSockets) -> None:
        self._observers = observers
        self._on_gauges, self._on_sockets = on_gauges, on_sockets
        self._gauges, self._dumps = _Rounds(GAUGES_MS), _Rounds(DUMP_MS)
        self._last_gauges: dict[str, tuple[int, int, dict[str, int]]] = {}
        self._last_ends: dict[str, Ends] = {}
        self._last_at = _now_ms()
        self.cpu_ms = 0.0
        """CPU time that all rounds took, what was told of them included."""
        self.count = 0
        """Rounds of gauges."""
        self.longest_gap_ms = 0.0
        """The longest time between two rounds of gauges."""

    def wait_s(self) -> float:
        """Seconds until a round is due; 0 if one is."""
        return max(0.0, min(self._gauges.due_ms, self._dumps.due_ms) - _now_ms()) / 1000

    def sample(self) -> None:
        """Carry out the rounds that are due; cheap when none is."""
        now = _now_ms()
        if now >= self._gauges.due_ms:
            self.longest_gap_ms = max(self.longest_gap_ms, now - self._last_at)
            self._last_at = now
            self.count += 1
            self._charged(self._gauges, self._read_gauges)
        if now >= self._dumps.due_ms:
            self._charged(self._dumps, self._read_sockets)

    def _charged(self, rounds: _Rounds, call: Callable[[], None]) -> None:
        began = time.thread_time()
        call()
        cpu_ms = (time.thread_time() - began) * 1000
        rounds.took(cpu_ms)
        self.cpu_ms += cpu_ms

    def _read_gauges(self) -> None:
        for name, observer in self._observers.items():
            at, time_wait = _now_ms(), observer.counters.time_wait()
            counters = observer.counters.some(("TcpCurrEstab", *SAMPLED))
            found = (time_wait, counters.pop("TcpCurrEstab", 0), counters)
            if self._last_gauges.get(name) != found:
                self._last_gauges[name] = found
                self._on_gauges(name, at, *found)

    def _read_sockets(self) -> None:
        for name, observer in self._observers.items():
            if observer.is_crowded():  # its gauges tell enough, and a look takes a tenth of a second and more
                continue
            at, sockets = _now_ms(), observer.sockets.dump(_ALL_BUT_LISTENERS)
            took = _now_ms() - at  # on a busy machine it was not read when the clock was
            ends = {one[:-1]: at + one.expires_ms if one.state == "time-wait" else 0.0 for one in sockets}
            if has_changed(self._last_ends.get(name, {}), ends):
                self._last_ends[name] = {key: end + took for key, end in ends.items()}
                self._on_sockets(name, at, sockets)


def has_changed(latest_before: Ends, earliest_now: Ends) -> bool:
    """Whether other sockets are there, or one of them has surely begun a new timer."""
    return latest_before.keys() != earliest_now.keys() or any(
        earliest_now[key] - end > SAME_TIMER_MS for key, end in latest_before.items()
    )


def _now_ms() -> float:
    return time.monotonic() * 1000
