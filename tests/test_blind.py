"""The whole suite with blinded instruments: every verdict is broken, never pass (decision D7)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from netns_tw.kernel.counters import Counters
from netns_tw.kernel.sockdiag import ALL_STATES, SockDiag, TcpSocket
from netns_tw.model import labs
from netns_tw.replay import Replay
from netns_tw.session import Wishes, replay

pytestmark = pytest.mark.netns

DUMP, TIME_WAIT, READ = SockDiag.dump, Counters.time_wait, Counters.read
GONE = {"direct/recycle-is-gone"}
"""Skipped before anything is looked at."""


def without_time_wait(self: SockDiag, states: int = ALL_STATES) -> list[TcpSocket]:
    return [one for one in DUMP(self, states) if one.state != "time-wait"]


def nothing(self: Counters) -> int:
    return 0


def frozen(self: Counters) -> dict[str, int]:
    return {**READ(self), "TcpExtTW": 0}


BLIND: dict[str, dict[tuple[type, str], Callable[..., object]]] = {
    "sock_diag": {(SockDiag, "dump"): without_time_wait},
    "sockstat": {(Counters, "time_wait"): nothing},
    "both, so that they agree": {(SockDiag, "dump"): without_time_wait, (Counters, "time_wait"): nothing},
    "the counters": {(Counters, "read"): frozen},
    "all": {
        (SockDiag, "dump"): without_time_wait,
        (Counters, "time_wait"): nothing,
        (Counters, "read"): frozen,
    },
}


def assert_all_broken(verdicts: dict[str, str]) -> None:
    assert {path: verdict for path, verdict in verdicts.items() if verdict != "broken" and path not in GONE} == {}


def verdicts_of(names: list[str]) -> dict[str, str]:
    found = replay(list(labs.find(names)), Wishes(at_once=24, is_quiet=True, keep=0))
    return {one.experiment.path: one.judgement.verdict for one in found}


@pytest.mark.parametrize("which", ["both, so that they agree"])
def test_a_suite_with_blind_instruments_is_broken(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every experiment of every lab; the sandboxes are forked from here, so they have these readers."""
    for (owner, name), function in BLIND[which].items():
        monkeypatch.setattr(owner, name, function)
    verdicts = verdicts_of([])
    assert len(verdicts) == sum(len(labs.read_lab(labs.folder_of(name)).experiments) for name in labs.shipped_names())
    assert_all_broken(verdicts)


@pytest.mark.parametrize("which", ["sock_diag", "sockstat", "the counters"])
def test_one_blind_instrument_is_enough(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever it is, no verdict rests on the other one."""
    for (owner, name), function in BLIND[which].items():
        monkeypatch.setattr(owner, name, function)
    assert_all_broken(verdicts_of(["direct/connect-is-what-fails"]))


@pytest.mark.parametrize("which", ["both, so that they agree", "the counters"])
def test_instruments_that_go_blind_on_the_way_are_found_out_afterwards(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They pass the test before the first request and fail the one after the last snapshot."""
    look = Replay._look

    def blinded(self: Replay, step: int) -> None:
        look(self, step)
        for (owner, name), function in BLIND[which].items():
            monkeypatch.setattr(owner, name, function)

    monkeypatch.setattr(Replay, "_look", blinded)
    assert_all_broken(verdicts_of(["crowd/tw-buckets-cap-time-wait", "direct/connect-is-what-fails"]))


def test_the_same_suite_with_open_eyes_passes() -> None:
    """What the tests above call broken is broken by the blinding alone."""
    assert set(verdicts_of(["crowd", "direct/connect-is-what-fails"]).values()) == {"pass"}
