"""watch NAME in a pipe: what happens in the lab, until it is gone or the reader leaves."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import lab_processes, netns_tw
from standing import labs_in, read_until, start, stop_reading, up, within

from netns_tw.wait import wait_until

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module", autouse=True)
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One lab for all tests here."""
    with labs_in(tmp_path_factory.mktemp("watch")) as folder:
        up("lb3ports", "--name", "lb")
        yield folder


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_watch_shows_what_happens_in_the_lab_until_it_is_gone() -> None:
    """Ports that an exec left in TIME_WAIT, with their seconds; what a replay comes to beside it; down ends it well."""
    fresh = up("direct")["name"]
    assert within("set", fresh, "client.ip_local_port_range=2000 2011").returncode == 0
    child = start("watch", fresh)
    read_until(child, b"node=server")
    assert netns_tw("exec", fresh, "client", "--", "curl", "-s", "http://198.18.0.1/").returncode == 0
    seen = read_until(child, b"left=").decode() + read_until(child, b"\n").decode()
    line = next(line for line in seen.splitlines() if "left=" in line)
    assert re.search(r"node=client .*time-wait=1 to=198\.18\.0\.1:80 free=.*11.*/12 left=20\d\d:(60|5\d)", line), line
    done = netns_tw("replay", "--in", fresh, "connect-is-what-fails", "-q", "--keep", "0")
    assert done.returncode == 5, done.stdout
    seen = read_until(child, b"result=EADDRNOTAVAIL").decode()
    assert re.search(r"step=1 index=0.* result=404", seen), seen
    within("down", fresh)
    _, talk = child.communicate(timeout=20)
    assert (child.returncode, talk) == (0, b"")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_watcher_leaves_nothing_in_the_lab(signum: int) -> None:
    """Nor does one that is killed."""
    before = sorted(lab_processes())
    child = start("watch", "lb")
    read_until(child, b"node=backend")
    assert len(lab_processes()) > len(before)
    child.send_signal(signum)
    _, talk = child.communicate(timeout=20)
    assert (child.returncode, talk) == (0, b"")
    wait_until(lambda: sorted(lab_processes()) == before, "its lookout is gone", 20)
    with start("watch", "lb") as killed:
        read_until(killed, b"node=backend")
        killed.kill()
    wait_until(lambda: sorted(lab_processes()) == before, "its lookout is gone", 20)


def test_a_watch_that_nobody_reads_on_is_no_error() -> None:
    """``watch | head -1``"""
    with start("watch", "lb") as child:
        read_until(child, b"node=client")
        assert stop_reading(child) == (0, b"")
