"""``--hold``: the lab stays up after its experiment, can be looked into as the message says, and goes with Enter."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, lab_processes, netns_tw

pytestmark = pytest.mark.netns


def test_a_lab_that_cannot_be_held_says_why_and_does_not_wait() -> None:
    done = netns_tw("topology", "direct", "--only", "recycle-is-gone", "--hold", timeout=20)
    assert done.returncode == 3
    assert "removed in Linux 4.12" in done.stdout


def test_a_held_lab_can_be_looked_into_until_enter() -> None:
    argv = [sys.executable, "-m", "netns_tw", "topology", "direct", "--only", "connect-is-what-fails", "--hold"]
    with subprocess.Popen(
        argv, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdin and child.stdout and child.stderr
        talk: list[str] = []
        while "Enter ends it." not in "".join(talk[-1:]):
            talk.append(child.stderr.readline())
            assert talk[-1], talk
        command = next(line.strip() for line in talk if "nsenter" in line)
        words = [word for word in shlex.split(command) if word != "sudo"]
        inside = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout
        assert inside.count("TIME-WAIT") in (10, 11)
        child.stdin.write("\n")
        child.stdin.close()
        shown = child.stdout.read()
        assert child.wait(timeout=20) == 0
    assert "PASS" in shown
    assert lab_processes() == {}
