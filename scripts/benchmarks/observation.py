"""What looking costs: one count, one histogram, and the sampler while requests run.

A count is netns_tw's own reading of sockstat, its time the mean of a thousand calls. The histogram stands beside
ss(8) in the same namespace over the same sockets, from its start until its last line was read; what a reader of ss
would still have to do to count those lines is not charged to it, but done afterwards, to see that both count the same.
The sampler works as in a replay, by the replay's own loop and its own account of CPU time; the run beside it is the
same replay with a sampler that does nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks import labs
from benchmarks.figure import Figure, Samples, at_most
from benchmarks.fill import filled
from benchmarks.inside import inside
from benchmarks.interleave import alone, interleaved, program
from netns_tw.kernel import process
from netns_tw.kernel.counters import Counters
from netns_tw.kernel.sockdiag import SockDiag
from netns_tw.lab import RunningLab
from netns_tw.measure.sampler import Sampler
from netns_tw.model.experiment import Experiment, Step
from netns_tw.model.lines import Line, Response, StepEnd
from netns_tw.replay import Choices, Replay, now_ms

FEW, MANY, SHOWN = 10, 200_000, 28_000
CALLS = 1000
BACK_TO_BACK = Step("back to back", labs.URL, requests=10_000)
PACED = Step("paced", labs.URL, requests=6000, interval_ms=1)
"""Long enough for the sampler's longest pause, which a full dump earns, to be a part of it."""
SS_STATES = {"estab": "established", "listen": "listening"}
Histogram = Counter[tuple[str, str, int]]
"""How many sockets there are, by state, remote address, and remote port where the connection was not accepted."""


def _count_us(counters: Counters) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        counters.time_wait()
    return (time.perf_counter() - began) / CALLS * 1e6


def _count_at(count: int, runs: int) -> Samples:
    def samples() -> Samples:
        with RunningLab(labs.pair("server"), {}), filled("server", {"client": "198.18.1.1"}, count):
            counters = Counters("server")
            return alone(lambda: _count_us(counters), runs)

    return inside(samples)


def _count_many_beside_few(runs: int) -> Samples:
    def samples() -> Samples:
        with (
            RunningLab(labs.pair("many", "few"), {}),
            filled("many", {"client": "198.18.1.1"}, MANY),
            filled("few", {"client": "198.18.2.1"}, FEW),
        ):
            many, few = Counters("many"), Counters("few")
            return interleaved(lambda: _count_us(many), lambda: _count_us(few), runs)

    return inside(samples)


def _histogram_beside_ss(runs: int) -> Samples:
    program("ss", "iproute2")

    def samples() -> Samples:
        with RunningLab(labs.pair("server"), {}), filled("server", {"client": "198.18.1.1"}, SHOWN):
            reader = SockDiag("server")
            ours, theirs = _Ours(reader), _Ss("server")
            found = interleaved(ours.ms, theirs.ms, runs)
            wrong = "" if ours.last == theirs.last else f"unequal counts: {_differing(ours.last, theirs.last)}"
            return Samples(found.ours, found.theirs, wrong=wrong)

    return inside(samples)


class _Ours:
    """netns_tw's histogram, timed; the last one is kept."""

    def __init__(self, reader: SockDiag) -> None:
        self._reader = reader
        self.last: Histogram = Counter()

    def ms(self) -> float:
        began = time.monotonic()
        found = self._reader.tally()
        took_ms = (time.monotonic() - began) * 1000
        self.last = Counter({(kind.state, kind.remote, kind.remote_port): count for kind, count in found.items()})
        return took_ms


class _Ss:
    """``ss -Htan`` in a node, timed; what it counts the last time is kept."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._argv = [program("ss", "iproute2"), "-Htan"]
        self.last: Histogram = Counter()

    def ms(self) -> float:
        began = time.monotonic()
        child = process.spawn(self._node, self._argv, Path("/run/log"), stdout=-1)
        text, _ = child.communicate(timeout=60)
        took_ms = (time.monotonic() - began) * 1000
        rows = [line.split() for line in text.decode().splitlines()]
        listening = {row[3].rpartition(":")[2] for row in rows if row[0] == "LISTEN"}
        self.last = Counter(_of_ss(row, listening) for row in rows)
        return took_ms


def _of_ss(row: Sequence[str], listening: Collection[str]) -> tuple[str, str, int]:
    state, _, _, local, peer, *_ = row
    address, _, port = peer.rpartition(":")
    state = state.lower()
    is_open = not port.isdigit() or local.rpartition(":")[2] in listening
    return SS_STATES.get(state, state), address.strip("[]"), 0 if is_open else int(port)


def _differing(ours: Histogram, theirs: Histogram) -> str:
    key = next(key for key in {**ours, **theirs} if ours[key] != theirs[key])
    return f"{key}: {ours[key]} and {theirs[key]}"


class _Idle(Sampler):
    """A sampler that does nothing."""

    def wait_s(self) -> float:
        return 60.0

    def sample(self) -> None:
        pass


@dataclass(frozen=True)
class _Replayed:
    share: float
    """Of one core's time, that the sampler took."""
    p50_us: float


def _replayed(step: Step, is_sampled: bool = True) -> _Replayed:
    """Replay a step against the built-in server, with or without a sampler."""
    experiment = Experiment("pair", "benchmark", "", "", (step,), (), "")
    lines: list[Line] = []
    with RunningLab(labs.pair("server"), {"server": labs.built_in()}) as lab:
        replay = Replay(lab, experiment, Choices(), lines.append, now_ms())
        if not is_sampled:
            replay._sampler = _Idle({}, lambda *_: None, lambda *_: None)
        replay.run()
        (ended,) = (one for one in lines if isinstance(one, StepEnd))
        share = replay.end().sampling_ms / (ended.ended_ms - ended.began_ms)
    return _Replayed(share, median(one.took_ms for one in lines if isinstance(one, Response)) * 1000)


def _share(runs: int) -> Samples:
    return alone(lambda: inside(lambda: _replayed(PACED).share * 100), runs, warm=False)


def _disturbance(runs: int) -> Samples:
    """The noise is what the runs without a sampler differ by among themselves: ours may differ as much."""
    found = interleaved(
        lambda: inside(lambda: _replayed(BACK_TO_BACK).p50_us),
        lambda: inside(lambda: _replayed(BACK_TO_BACK, is_sampled=False).p50_us),
        runs,
    )
    noise = max(found.theirs) / median(found.theirs)
    return Samples(found.ours, found.theirs, bound=at_most(noise))


FIGURES = (
    *(
        Figure(
            f"count-{count}",
            f"one TIME_WAIT count at {count} sockets",
            at_most(10),
            "us",
            partial(_count_at, count),
        )
        for count in (FEW, MANY)
    ),
    Figure(
        "count-same",
        f"one TIME_WAIT count at {MANY} sockets",
        at_most(1.25),
        "us",
        _count_many_beside_few,
        f"the same at {FEW}",
        15,
    ),
    Figure(
        "histogram-ss",
        f"full histogram by state and peer at {SHOWN} TIME_WAIT",
        at_most(0.35),
        "ms",
        _histogram_beside_ss,
        "ss -Htan, from its start to its last line",
        9,
    ),
    Figure(
        "sampling",
        "one core's share that default sampling takes, at 1000 requests a second",
        at_most(3),
        "%",
        _share,
        runs=3,
    ),
    Figure(
        "sampling-p50",
        "request p50 with default sampling; no more than the slowest run without",
        at_most(1),
        "us",
        _disturbance,
        "no sampler at all",
    ),
)
