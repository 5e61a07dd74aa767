"""What the port budget says of a step beside what was seen: by who closes first, and what an nginx.conf keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from netns_tw.evidence.case import Case
from netns_tw.evidence.prediction import Prediction, predictions
from netns_tw.model import labs
from netns_tw.model.experiment import Experiment
from netns_tw.model.lines import BEFORE, Built, Ran, Response, Snapshot, StepEnd
from netns_tw.model.record import Record
from netns_tw.model.topology import Listen, Nginx
from netns_tw.programs.nginx import UNLIMITED, kept

DIRECT = labs.read_lab(labs.folder_of("direct"))
BACK_TO_BACK = DIRECT.experiments["no-reuse-back-to-back"]
LISTEN = Listen("198.18.1.1", 80)


@pytest.mark.parametrize(
    ("requests", "least", "most", "words"),
    [
        (20, 20, 20, "all 20"),
        (20, 2, 2, "2"),
        (20, 10, 11, "10 or 11"),
        (20, 2, 20, "at least 2"),
        (20, 2, 9, "2 to 9"),
    ],
)
def test_words(requests: int, least: int, most: int, words: str) -> None:
    assert Prediction(requests, least, most).words == words


def case_of(
    close: str, experiment: Experiment = BACK_TO_BACK, pace_ms: float = 1.0, sysctls: Mapping[str, str] | None = None
) -> Case:
    """A record of *experiment* against a server of a close style, each request taking half a ms."""
    effective = {
        "net.ipv4.tcp_tw_reuse": "0",
        "net.ipv4.tcp_tw_reuse_delay": "1000",
        "net.ipv4.tcp_timestamps": "1",
        "net.ipv4.tcp_max_tw_buckets": "131072",
        **{f"net.ipv4.{name}": value for name, value in (sysctls or {}).items()},
    }
    record = Record()
    nodes = DIRECT.topology.nodes
    record.add(Built(0.0, dict.fromkeys(nodes, effective), {"server": Ran("http-server", "", "198.18.0.1:80", close)}))
    at = 0.0
    for node in nodes:
        record.add(Snapshot(BEFORE, 0.0, node, [], {}, 0, []))
    for number, step in enumerate(experiment.steps):
        began = at
        for index in range(step.requests):
            record.add(Response(number, index, at, 0.5, 404, None, None, 1024))
            at += pace_ms
        for node in nodes:
            record.add(Snapshot(number, at, node, [], {}, 0, []))
        record.add(StepEnd(number, step.name, began, at))
    return Case(record, experiment, DIRECT.topology)


@pytest.mark.parametrize(
    ("close", "expected"),
    [
        ("client-first", ["10 or 11", "0 or 1"]),
        ("keep-alive", ["10 or 11", "0 or 1"]),
        ("race", ["at least 10", None]),
        ("server-first", ["all 20", "all 20"]),
        ("reset", ["all 20", "all 20"]),
    ],
)
def test_who_closes_first_decides(close: str, expected: list[str | None]) -> None:
    """The opener's closes cost ports that no later step has back; the acceptor's none; a race anything between."""
    assert [one and one.words for one in predictions(case_of(close))] == expected


@pytest.mark.parametrize(
    ("pace_ms", "sysctls", "words"),
    [
        (120.0, {"tcp_tw_reuse": "1"}, "all 20"),
        (1.0, {"tcp_tw_reuse": "1"}, "10 or 11"),
        (100.0, {"tcp_tw_reuse": "1", "tcp_timestamps": "0"}, "10 or 11"),
        (100.0, {"tcp_tw_reuse": "2"}, "10 or 11"),
        (100.0, {"tcp_tw_reuse": "1", "tcp_tw_reuse_delay": "60000"}, "10 or 11"),
        (7000.0, {}, "all 20"),
        (1.0, {"tcp_max_tw_buckets": "5"}, None),
    ],
)
def test_a_port_comes_back_after_its_life(pace_ms: float, sysctls: dict[str, str], words: str | None) -> None:
    """After the delay with tcp_tw_reuse and timestamps, else after a minute; where buckets are few, nobody knows."""
    (found, *_) = predictions(case_of("client-first", pace_ms=pace_ms, sysctls=sysctls))
    assert (found and found.words) == words


@pytest.mark.parametrize("changes", [{"concurrency": 2}, {"source_ports": (1024, 1025)}])
def test_nothing_is_predicted_where_theory_does_not_say(changes: dict[str, object]) -> None:
    """Requests side by side, and ports that the client asks for itself."""
    steps = tuple(replace(step, **changes) for step in BACK_TO_BACK.steps)  # type: ignore[arg-type]
    assert predictions(case_of("client-first", replace(BACK_TO_BACK, steps=steps))) == [None, None]


def test_a_record_without_its_begin_predicts_nothing() -> None:
    assert predictions(Case(Record(), BACK_TO_BACK, DIRECT.topology)) == [None, None]


MODERN = 'proxy_http_version 1.1; proxy_set_header Connection "";'


@pytest.mark.parametrize(
    ("version", "text", "expected"),
    [
        ("1.22.1", "upstream a { server x; }", (0, 0)),
        ("1.22.1", "upstream a { keepalive 64; } " + MODERN, (64, 1000)),
        ("1.19.9", "upstream a { keepalive 64; } " + MODERN, (64, 100)),
        ("1.14.0", "upstream a { keepalive 64; } " + MODERN, (64, UNLIMITED)),
        ("1.22.1", "upstream a { keepalive %%KEPT%%; keepalive_requests 7; } " + MODERN, (3, 7)),
        ("1.22.1", "upstream a { keepalive 64; }", (0, 0)),
        ("1.22.1", "upstream a { # keepalive 64;\n } " + MODERN, (0, 0)),
        ("1.29.7", "upstream a { server x; }", (None, 0)),
        ("1.29.7", "upstream a { server x; } proxy_http_version 1.0;", (0, 0)),
        ("1.22.1", "include other.conf;", (None, 0)),
        ("1.22.1", "upstream a { keepalive 1; } upstream b { keepalive 2; } " + MODERN, (None, 0)),
        ("", "upstream a { server x; }", (None, 0)),
    ],
)
def test_what_an_nginx_keeps(version: str, text: str, expected: tuple[int | None, int]) -> None:
    """Upstream keep-alive needs three lines; its limit's default changed with versions; what is unclear is None."""
    assert kept(Nginx(LISTEN, "nginx.conf", text, {"KEPT": "3"}), version) == expected
