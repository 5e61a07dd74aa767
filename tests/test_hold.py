"""``--hold``: the lab stays up after its experiment, can be looked into as the message says, and goes with Enter."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, lab_processes

pytestmark = pytest.mark.netns


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
        command = next(line.strip() for line in talk if "ip netns exec" in line)
        words = [word for word in shlex.split(command) if word != "sudo"]
        inside = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout
        assert inside.count("TIME-WAIT") in (10, 11)
        child.stdin.write("\n")
        child.stdin.close()
        shown = child.stdout.read()
        assert child.wait(timeout=20) == 0
    assert "PASS" in shown
    assert lab_processes() == {}
