"""Fixtures for kernel tests: run a function as PID 1 of a real sandbox, and prove that the host is untouched.

A kernel test that cannot have namespaces is skipped with the reason; with ``--netns-require`` (CI) it fails instead.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from netns_tw.errors import EnvironmentLacks
from netns_tw.kernel import sandbox
from netns_tw.standing.roster import Roster

ROOT = Path(__file__).resolve().parent.parent
T = TypeVar("T")
MARK = "NETNS_TW_TEST_RUN"
os.environ[MARK] = str(os.getpid())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--netns-require", action="store_true", help="fail kernel tests that cannot run here")
    parser.addoption("--stress", action="store_true", help="run the long tests too")


def why_no_sandbox() -> str:
    """Why no sandbox can be made here; empty where one can."""
    try:
        sandbox.start(lambda: 0).wait()
    except EnvironmentLacks as error:
        return str(error)
    return ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--stress"):
        config.hook.pytest_deselected(items=[item for item in items if "stress" in item.keywords])
        items[:] = [item for item in items if "stress" not in item.keywords]
    reason = why_no_sandbox() if any("netns" in item.keywords for item in items) else ""
    for item in items:
        if "netns" in item.keywords and reason and not config.getoption("--netns-require"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.config.getoption("--netns-require") and "netns" in item.keywords and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped although --netns-require is given: {report.longrepr}"
    return report


class Failure(AssertionError):
    """What went wrong inside a sandbox, with its traceback there."""


def in_sandbox(function: Callable[[], T]) -> T:
    """Run *function* as PID 1 of a fresh sandbox and return what it returns (it must pickle).

    Raises:
        Failure: it raised; with its traceback.
    """
    read, write = os.pipe()

    def main() -> int:
        try:
            answer = (True, function())
        except BaseException:
            answer = (False, traceback.format_exc())  # type: ignore[assignment]
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(answer, pipe)
        return 0

    made = sandbox.start(main, keep=(write,))
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    made.wait()
    if not data:
        raise Failure("the sandbox ended without an answer")
    good, value = pickle.loads(data)
    if not good:
        raise Failure(value)
    return value  # type: ignore[no-any-return]


def netns_tw(*arguments: str, timeout: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, from the checkout; output captured."""
    argv = [sys.executable, "-m", "netns_tw", *arguments]
    options.setdefault("cwd", ROOT)
    return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False, **options)


def host_state() -> dict[str, str]:
    """What a lab must never change: links, routes, sysctls of net.ipv4, /run/netns, mounts, our processes."""

    def ask(*argv: str) -> str:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def sysctls() -> str:
        lines = []
        for path in sorted(Path("/proc/sys/net/ipv4").rglob("*")):
            try:
                lines.append(f"{path}={path.read_text().strip()}")
            except OSError:
                continue
        return "\n".join(lines)

    return {
        "links": ask("ip", "-o", "link"),
        "addresses": "\n".join(line.split("valid_lft")[0] for line in ask("ip", "-o", "addr").splitlines()),
        "routes": ask("ip", "route", "show", "table", "all"),
        "sysctls": sysctls(),
        "netns": "\n".join(sorted(os.listdir("/run/netns"))) if os.path.isdir("/run/netns") else "",
        "mounts": Path("/proc/self/mounts").read_text(),
        "processes": "\n".join(sorted(lab_processes().values())),
    }


def lab_processes() -> dict[int, str]:
    """Processes by pid that live in another PID namespace than ours and come from this test run.

    They are known by MARK in their environment, which outlives their parents, or by descending from this process.
    Other labs and containers of the machine are not ours to count.
    """
    ours = os.readlink("/proc/self/ns/pid")
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.readlink(entry / "ns" / "pid") != ours and (_is_marked(entry) or _descends(int(entry.name))):
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
    return found


def _is_marked(entry: Path) -> bool:
    return f"{MARK}={os.environ[MARK]}\0".encode() in (entry / "environ").read_bytes() + b"\0"


def _descends(pid: int) -> bool:
    while pid > 1 and pid != os.getpid():
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid == os.getpid()


@pytest.fixture(scope="session", autouse=True)
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Records of this test run go to a folder of its own, not among the user's."""
    folder = tmp_path_factory.mktemp("runs")
    folder.chmod(0o777)  # some tests are an ordinary user
    os.environ["NETNS_TW_RUNS"] = str(folder)
    yield folder
    del os.environ["NETNS_TW_RUNS"]


@pytest.fixture(scope="session", autouse=True)
def labs_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Labs of this test run that stay are kept apart from the user's, and none is left at the end."""
    folder = tmp_path_factory.mktemp("labs")
    os.environ["NETNS_TW_LABS"] = str(folder)
    yield folder
    del os.environ["NETNS_TW_LABS"]
    roster = Roster(folder)
    left = roster.all_names()
    for name in left:  # a test has failed half way
        roster.down(name)
    assert left == []


@pytest.fixture(scope="session", autouse=True)
def host_is_untouched() -> Iterator[None]:
    """Host state is the same before and after the whole suite."""
    before = host_state()
    yield
    after = host_state()
    assert after == before
