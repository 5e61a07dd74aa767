"""Every source experiment, replayed on this kernel; with the built-in programs, and with real nginx and curl."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest
from conftest import lab_processes, netns_tw

from netns_tw.model import labs

pytestmark = pytest.mark.netns

LB = ("lb3ports/the-log-names-errno-99", "lb3ports/keepalive-requests-is-a-budget")
"""The load balancer's experiments that are not thousands of curl processes; scripts/stress has these too."""
SKIPPED = {"direct/recycle-is-gone": "removed in Linux 4.12"}
NEEDS_BUILT_IN = {"lb3ports/reuse-gives-each-port-once-per-delay": "nginx cannot stand in for close style client-first"}


def replay(*arguments: str) -> dict[str, dict[str, Any]]:
    """Replay and return the experiments by LAB/CLAIM; standard output is JSON and nothing else."""
    done = netns_tw("replay", *arguments, "--json", timeout=400)
    assert lab_processes() == {}
    assert done.returncode == 0, done.stdout + done.stderr
    return {f"{one['lab']}/{one['claim']}": one for one in json.loads(done.stdout)["experiments"]}


def assert_all_pass(found: dict[str, dict[str, Any]], skipped: dict[str, str]) -> None:
    """Each experiment passes, but for those skipped with the reason expected."""
    for path, one in found.items():
        if path in skipped:
            assert one["verdict"] == "skip" and skipped[path] in one["reason"], one
        else:
            assert one["verdict"] == "pass", json.dumps(one, indent=1)
            assert_as_predicted(one)


def assert_as_predicted(one: dict[str, Any]) -> None:
    """What the port budget predicts of a step contains what was seen."""
    for step in one["steps"]:
        predicted = step["predicted_ok"]
        if predicted is not None:
            assert predicted["least"] <= step["ok"] <= predicted["most"], json.dumps(one["steps"], indent=1)


LONG = {"scale/half-a-million-on-one-server", "scale/tw-buckets-cut-off-the-rest"}
"""A core for half a minute; scripts/stress replays them."""


def test_all_pass_as_their_files_say() -> None:
    every = {
        one.path for name in labs.shipped_names() for one in labs.read_lab(labs.folder_of(name)).experiments.values()
    }
    found = replay(*sorted(every - LONG))
    assert found.keys() == every - LONG
    assert_all_pass(found, SKIPPED)
    assert found["scale/a-hundred-thousand-on-one-server"]["steps"][7]["cost"]["time_wait"] == 100_000
    assert len(found["scale/connect-slows-down-at-half-its-range"]["steps"][0]["connect_us"]) == 100
    assert found["lb3ports/lb-exhausts-its-ports"]["programs"]["lb"] == "nginx (nginx.conf)"
    exact = {path: step["predicted_ok"] for path, one in found.items() for step in one["steps"][:1]}
    assert exact["lb3ports/keepalive-requests-is-a-budget"] == {"least": 200, "most": 200}
    assert exact["lb3ports/upstream-keepalive-cures"] == {"least": 5000, "most": 5000}
    assert exact["direct/no-reuse-back-to-back"] == {"least": 10, "most": 11}


def test_all_pass_with_the_built_in_programs() -> None:
    found = replay("--server", "h11", "lb3ports/lb-exhausts-its-ports", LB[1], "crowd", "direct/no-reuse-back-to-back")
    assert_all_pass(found, SKIPPED)
    assert found["lb3ports/lb-exhausts-its-ports"]["steps"][0]["seen"] == "2 x 200, 998 x 502"


def test_all_pass_with_real_curl_and_nginx() -> None:
    found = replay("--client", "curl", "--server", "nginx", "direct", "crowd", *LB)
    assert_all_pass(found, SKIPPED | NEEDS_BUILT_IN)
    refused = found["direct/connect-is-what-fails"]
    assert refused["programs"]["server"].startswith("nginx")
    assert "EADDRNOTAVAIL" in refused["steps"][0]["seen"]


SETS = {
    "as written": (),
    "h11": ("--server", "h11"),
    "curl and nginx": ("--client", "curl", "--server", "nginx"),
}


@pytest.mark.stress
@pytest.mark.parametrize("programs", SETS)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "both cores busy"])
def test_again_and_again(programs: str, busy: bool) -> None:
    """No verdict but pass, N times; with all cores busy an inconclusive one is acceptable, a fail never is."""
    verdicts: dict[str, list[str]] = {}
    burners = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(os.cpu_count() or 1 if busy else 0)]
    try:
        for _ in range(int(os.environ.get("NETNS_TW_STRESS_RUNS", "20"))):
            done = netns_tw("replay", *SETS[programs], "--json", timeout=1200)
            for one in json.loads(done.stdout)["experiments"]:
                verdicts.setdefault(f"{one['lab']}/{one['claim']}", []).append(one["verdict"])
                assert one["verdict"] not in ("fail", "broken", "error"), json.dumps(one, indent=1)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    allowed = {"pass", "inconclusive"} if busy else {"pass"}
    skips = {path for path, seen in verdicts.items() if set(seen) == {"skip"}}
    assert {path: seen for path, seen in verdicts.items() if not set(seen) <= allowed and path not in skips} == {}
    assert skips == set(SKIPPED | (NEEDS_BUILT_IN if "nginx" in programs else {}))
