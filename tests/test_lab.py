"""A lab that cannot be built says what, where and why, leaves nothing, and disturbs no other lab."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, lab_processes, netns_tw

from netns_tw.kernel import process

pytestmark = pytest.mark.netns

TOPOLOGY = (ROOT / "topologies" / "direct" / "topology.toml").read_text(encoding="utf-8")
EXPERIMENT = """
format = 1
claim  = "a request is answered"
source = "none"
why    = "because"
[[steps]]
name = "one"
url  = "http://198.18.0.1/"
[[expect]]
name      = "it is answered"
responses = { ok = true }
equals    = 1
"""


def own_lab(folder: Path, topology: str = TOPOLOGY, experiment: str = EXPERIMENT) -> str:
    """Write a lab of one's own; return its path."""
    (folder / "experiments").mkdir(parents=True)
    (folder / "topology.toml").write_text(topology, encoding="utf-8")
    (folder / "experiments" / "one.toml").write_text(experiment, encoding="utf-8")
    return str(folder)


def test_a_users_own_folder_runs_by_its_path(tmp_path: Path) -> None:
    done = netns_tw("topology", own_lab(tmp_path / "mine"), "--json")
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["experiments"]
    assert (one["verdict"], one["claim"], one["steps"][0]["seen"]) == ("pass", "one", "1 x 404")


NGINX = """kind = "nginx"
config = "nginx.conf"
"""

CASES = {
    "a sysctl value that the kernel refuses": (
        TOPOLOGY.replace("net.ipv4.tcp_tw_reuse        = 0", "net.ipv4.tcp_tw_reuse = 7"),
        2,
        ("node client: net.ipv4.tcp_tw_reuse = '7'", "EINVAL"),
    ),
    "a route without a way": (
        TOPOLOGY + '\n[[nodes.client.routes]]\nto = "198.18.9.0/24"\nvia = "198.18.7.7"\n',
        2,
        ("route to 198.18.9.0/24 via 198.18.7.7 in client", "Nexthop has invalid gateway"),
    ),
    "a program that dies at start": (
        TOPOLOGY.replace('kind   = "http-server"\n', NGINX).replace("status = 404", "#").replace("close ", "# "),
        2,
        ("node server: nginx for 198.18.0.1:80 ended with status 1", "its log ends", 'unknown directive "nonsense"'),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_built_is_said_in_one_message(case: str, tmp_path: Path) -> None:
    topology, code, words = CASES[case]
    lab = own_lab(tmp_path / "mine", topology)
    (tmp_path / "mine" / "nginx.conf").write_text("%%GLOBALS%%\nnonsense;\nhttp { %%HTTP_GLOBALS%% }\n")
    done = netns_tw("topology", lab)
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    folded = " ".join(text.replace("|", " ").split())
    assert [word for word in words if word not in folded] == [], text
    assert "Traceback" not in text
    assert lab_processes() == {}


def test_a_bind_that_fails_is_a_dead_program_with_its_log(tmp_path: Path) -> None:
    """nginx is told to listen where it cannot: its own words, errno included, are part of the message."""
    text = TOPOLOGY.replace('kind   = "http-server"\n', NGINX).replace("status = 404", "#").replace("close ", "# ")
    lab = own_lab(tmp_path / "mine", text)
    (tmp_path / "mine" / "nginx.conf").write_text(
        "%%GLOBALS%%\nevents { }\nhttp { %%HTTP_GLOBALS%%\n"
        "server { listen 198.18.0.77:80; location / { return 200; } } }\n"
    )
    done = netns_tw("topology", lab)
    folded = " ".join((done.stdout + done.stderr).replace("|", " ").split())
    assert done.returncode == 2
    assert "bind() to 198.18.0.77:80 failed (99: Cannot assign requested address)" in folded
    assert "Traceback" not in folded


def test_a_replay_without_experiments_is_no_pass(tmp_path: Path) -> None:
    """A misnamed experiments folder must not be green for ever."""
    lab = own_lab(tmp_path / "mine")
    (tmp_path / "mine" / "experiments").rename(tmp_path / "mine" / "experiment")
    done = netns_tw("replay", lab)
    assert done.returncode == 2
    assert "no experiment to replay" in done.stderr


def test_a_missing_sysctl_is_a_skip_and_other_experiments_run(tmp_path: Path) -> None:
    """One experiment lacks its sysctl, the other one passes: exit 0; alone, the skip exits 3."""
    lab = own_lab(tmp_path / "mine")
    skipped = EXPERIMENT.replace("[[steps]]", "[nodes.client.sysctls]\nnet.ipv4.tcp_tw_recycle = 1\n[[steps]]", 1)
    (tmp_path / "mine" / "experiments" / "two.toml").write_text(skipped)
    done = netns_tw("topology", lab, "--json")
    verdicts = {one["claim"]: one["verdict"] for one in json.loads(done.stdout)["experiments"]}
    assert (verdicts, done.returncode) == ({"one": "pass", "two": "skip"}, 0)
    alone = netns_tw("topology", lab, "--only", "two")
    assert alone.returncode == 3
    assert "removed in Linux 4.12" in alone.stdout


def test_a_misspelt_counter_is_a_skip_not_a_zero(tmp_path: Path) -> None:
    """It would be 0 for ever, and ``equals = 0`` would pass."""
    wrong = EXPERIMENT.replace(
        "responses = { ok = true }\nequals    = 1",
        'counter = { node = "client", name = "TcpExtTWRecyled" }\nequals = 0',
    )
    done = netns_tw("topology", own_lab(tmp_path / "mine", experiment=wrong))
    assert done.returncode == 3
    assert "did you mean 'TcpExtTWRecycled'" in " ".join(done.stdout.split())


def test_one_lab_that_fails_to_start_disturbs_no_other(tmp_path: Path) -> None:
    """Side by side, an error in one experiment leaves the verdict of the other one alone."""
    bad = own_lab(tmp_path / "bad", CASES["a sysctl value that the kernel refuses"][0])
    good = own_lab(tmp_path / "good")
    done = netns_tw("replay", bad, good, "--json")
    assert [one["verdict"] for one in json.loads(done.stdout)["experiments"]] == ["error", "pass"]
    assert done.returncode == 2


def test_a_claim_that_does_not_hold_fails_with_expected_and_actual(tmp_path: Path) -> None:
    lab = own_lab(tmp_path / "mine", experiment=EXPERIMENT.replace("equals    = 1", "equals    = 2"))
    done = netns_tw("topology", lab)
    assert done.returncode == 1
    assert "FAIL" in done.stdout and "== 2" in done.stdout


def test_a_step_slower_than_it_must_be_is_inconclusive(tmp_path: Path) -> None:
    """Never a wrong number: exit 5 and the reason, although every expectation holds."""
    slow = EXPERIMENT.replace(
        'url  = "http://198.18.0.1/"', 'url = "http://198.18.0.1/"\nrequests = 2\ninterval_ms = 60\nwithin_ms = 50'
    )
    done = netns_tw("topology", own_lab(tmp_path / "mine", experiment=slow.replace("equals    = 1", "equals    = 2")))
    assert done.returncode == 5
    assert "must fit into 50 ms" in done.stdout


def without_nginx_and_curl(*arguments: str) -> tuple[int, str]:
    """Run the command on a machine that lacks both: in a mount namespace where neither can be executed."""
    paths = [path for name in ("nginx", "curl") if (path := process.find_program(name))]
    hide = "; ".join(f"mount --bind /dev/null {path}" for path in paths)
    argv = ["unshare", "-m", "sh", "-ec", f'{hide}; exec "$@"', "sh", sys.executable, "-m", "netns_tw", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_without_nginx_the_embedded_programs_run_and_say_so() -> None:
    code, text = without_nginx_and_curl("topology", "lb3ports", "--only", "keepalive-requests-is-a-budget")
    assert code == 0, text
    folded = " ".join(text.split())
    assert "nginx is not installed: sudo apt-get install nginx-light; the embedded programs run instead" in folded
    assert "http-proxy (keepalive 64)" in folded


@pytest.mark.parametrize("asked", [("--server", "nginx"), ("--client", "curl")])
def test_what_is_asked_for_and_missing_exits_3_with_the_line_that_mends_it(asked: tuple[str, str]) -> None:
    code, text = without_nginx_and_curl("topology", "lb3ports", *asked)
    assert code == 3
    assert f"{asked[1]} is not installed" in text and "sudo apt-get install" in text


ROUTED = """
format = 1
name = "routed"
[nodes.client]
[[nodes.client.routes]]
to = "198.18.2.0/24"
via = "198.18.1.1"
[nodes.router.sysctls]
net.ipv4.ip_forward = 1
[nodes.server.program]
kind = "http-server"
listen = "198.18.2.2:80"
[[nodes.server.routes]]
to = "198.18.1.0/24"
via = "198.18.2.1"
[[links]]
endpoints = ["client:eth0", "router:eth0"]
addresses = [["198.18.1.2/24"], ["198.18.1.1/24"]]
[[links]]
endpoints = ["router:eth1", "server:eth0"]
addresses = [["198.18.2.1/24"], ["198.18.2.2/24"]]
"""


def test_routes_reach_where_a_link_does_not(tmp_path: Path) -> None:
    """A client reaches a server two links away, and the router itself opens no connection."""
    experiment = EXPERIMENT.replace("198.18.0.1", "198.18.2.2")
    experiment += '\n[[expect]]\nname = "the router has no socket"\n'
    experiment += 'counter = { node = "router", name = "TcpActiveOpens" }\nequals = 0\n'
    done = netns_tw("topology", own_lab(tmp_path / "routed", ROUTED, experiment), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
