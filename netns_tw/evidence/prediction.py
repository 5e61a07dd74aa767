"""What the port budget predicts of each step, to stand beside what was observed.

The budget is replayed over the requests as they came (budget.predict): whoever opens the connections that matter, the
client or the LB behind its URL, has P usable ports, loses one at each close that it is first to make, and gets it back
after a TIME_WAIT life. Who is first follows from the programs:

    opener      loses a port each time: bounds of the simulation, equal where the kernel leaves nothing to chance
    acceptor    costs the opener nothing: every request finds a port
    race        anything between the two

Where theory does not say who is first (requests side by side, given source ports), nothing is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netns_tw.evidence.case import Case
from netns_tw.model.budget import DEFAULT_DELAY_MS, Budget, predict
from netns_tw.model.experiment import Step
from netns_tw.model.lines import Batch, Ran, Response
from netns_tw.model.ports import Bounds
from netns_tw.model.topology import MAX_TW_BUCKETS, TIMESTAMPS, TW_REUSE, TW_REUSE_DELAY, destination
from netns_tw.rules import BARE

OPENER, ACCEPTOR, RACE = "opener", "acceptor", "race"
JIFFY_MS = 12.0
"""What the client's clock and a TIME_WAIT's may differ by."""
NO_LIMIT = 10**9


@dataclass(frozen=True)
class Prediction:
    """How many requests of a step find a port."""

    requests: int
    least: int
    most: int

    @property
    def words(self) -> str:
        """``2``, ``10 or 11``, ``at least 2``, ``all 20``."""
        if self.least == self.requests:
            return f"all {self.requests}"
        return f"at least {self.least}" if self.most == self.requests else str(Bounds(self.least, self.most))


@dataclass(frozen=True)
class _Path:
    """Who opens the connections of a step that use up ports, to whom, and who closes them first."""

    opener: str
    acceptor: str
    closer: str
    requests_per_connection: int


def predictions(case: Case) -> list[Prediction | None]:
    """A prediction for each step; None where theory says nothing, or the step did not run."""
    paths = [_path(case, step) for step in case.experiment.steps]
    return [_predict(case, paths, number) for number in range(len(paths))]


def _path(case: Case, step: Step) -> _Path | None:
    built = case.record.built
    target = case.topology.owner_of(destination(step.url).address)
    if step.client == BARE:
        return _bare_path(step, target)
    if built is None or target not in built.programs or step.concurrency > 1:
        return None
    ran = built.programs[target]
    upstreams = {one.acceptor for one in case.closes if one.opener == target}
    if not upstreams:
        closer = _closer(ran, is_old_http=step.http == "1.0")
        if step.source_ports and closer != ACCEPTOR:
            return None
        return _Path(step.node, target, closer, NO_LIMIT if step.keep_alive and closer == OPENER else 1)
    upstream = upstreams.pop()
    if upstreams or upstream not in built.programs:
        return None
    return _through(target, ran, upstream, built.programs[upstream])


def _bare_path(step: Step, target: str | None) -> _Path | None:
    """Who closes first is in the step; of ports that are given, or of a range of the socket's own, nothing is said."""
    closer = ACCEPTOR if step.closes == "server" else OPENER
    if target is None or (closer == OPENER and (step.source_ports or step.port_range)):
        return None
    return _Path(step.node, target, closer, 1)


def _through(node: str, ran: Ran, upstream: str, its: Ran) -> _Path | None:
    """The path from an LB to its upstream."""
    if ran.keepalive is None:
        return None
    if not ran.keepalive:
        return _Path(node, upstream, _closer(its, is_old_http=True), 1)
    if its.kind != "http-server" or its.close != "keep-alive" or its.max_requests:
        return None  # whose limit is reached first?
    return _Path(node, upstream, OPENER, ran.keepalive_requests)


def _closer(ran: Ran, is_old_http: bool) -> str:
    """Who closes first when *ran* answers; an LB without keep-alive asks as HTTP/1.0 does, for one response."""
    if ran.close in ("server-first", "reset"):
        return ACCEPTOR
    if ran.close == "client-first":
        return OPENER
    if ran.close == "race" or is_old_http:
        return RACE
    return OPENER


def _predict(case: Case, paths: Sequence[_Path | None], number: int) -> Prediction | None:
    path = paths[number]
    requests = case.record.outcomes(number).total()
    if path is None or not requests or number not in case.record.steps:
        return None
    if path.closer == ACCEPTOR:
        return Prediction(requests, requests, requests)
    budget = _budget(case, path)
    if budget is None:
        return None
    shared = [step for step in range(number + 1) if paths[step] == path]
    for earlier in paths[:number]:  # what it left behind is not known
        if earlier is None or (earlier != path and (earlier.opener, earlier.acceptor) == (path.opener, path.acceptor)):
            return None
    before = _cumulative(case, shared[:-1], budget, path)
    upto = _cumulative(case, shared, budget, path)
    least, most = max(upto[0] - before[1], 0), min(upto[1] - before[0], requests)
    if path.closer == RACE:
        least, most = (least if not before[1] else 0), requests
    if not least and most == requests:  # no prediction at all
        return None
    return Prediction(requests, min(least, requests), most)


def _cumulative(case: Case, steps: Sequence[int], budget: Budget, path: _Path) -> tuple[int, int]:
    """How many requests of some steps together find a port."""
    every: list[Response | Batch] = []
    for step in steps:
        every += [*case.record.responses_of(step), *case.record.batches_of(step)]
    starts: list[float] = []
    ends: list[float] = []
    slack = 0.0
    for one in sorted(every, key=lambda one: (one.step, one.index)):
        count = 1
        if isinstance(one, Batch):  # when in its time each connection was made, and closed, is not known
            count, slack = one.count, max(slack, 2 * one.took_ms)
        starts += [one.at_ms] * count
        ends += [one.at_ms + one.took_ms] * count
    shortest, longest = budget.life_ms
    # TIME_WAIT begins when the peer has closed too; it takes no longer over that than the slowest took over a request
    late = JIFFY_MS + max((one.took_ms for one in every), default=0.0)
    life = (max(shortest - JIFFY_MS - slack, 0.0), longest + late)
    try:
        return predict(starts, ends, budget.ports, life, path.requests_per_connection)
    except ValueError:  # a record whose requests are not in order: nothing is certain
        return 0, len(starts)


def _budget(case: Case, path: _Path) -> Budget | None:
    """The opener's budget by its effective sysctls; None where tcp_max_tw_buckets frees ports early."""
    ports = next((one for one in case.port_maps if one.node == path.opener), None)
    reuse = case.sysctl(path.opener, TW_REUSE)
    if ports is None or reuse not in (0, 1, 2):
        return None
    buckets = case.sysctl(path.opener, MAX_TW_BUCKETS)
    delay = case.sysctl(path.opener, TW_REUSE_DELAY)
    has_timestamps = all(case.sysctl(node, TIMESTAMPS) != 0 for node in (path.opener, path.acceptor))
    found = Budget(
        ports.low, ports.high, ports.unusable, tw_reuse=reuse, has_timestamps=has_timestamps,
        delay_ms=min(max(delay or DEFAULT_DELAY_MS, 1), 60_000),
    )  # fmt: skip
    return None if buckets is not None and buckets <= found.ports.most else found
