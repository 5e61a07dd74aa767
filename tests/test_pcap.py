"""--pcap: a capture of every link that tshark reads, whose FINs say what the counters say about who closed first."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import netns_tw

from netns_tw.evidence.closers import closes
from netns_tw.report.run import Run
from netns_tw.report.saved import load

pytestmark = pytest.mark.netns

FIELDS = ("tcp.stream", "ip.src", "tcp.flags.syn", "tcp.flags.fin", "tcp.flags.ack", "tcp.seq_raw", "tcp.ack_raw")


def replayed(folder: Path, *arguments: str) -> list[Run]:
    """Replay with captures beside the records; return the runs, read again from the records."""
    done = netns_tw("replay", *arguments, "--out", str(folder), "--pcap", str(folder), "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    return [load(path) for path in sorted(folder.glob("*.jsonl"))]


def by_tshark(path: Path) -> Counter[str]:
    """Count how the connections of a capture were closed, by tshark's own streams and their first two FINs."""
    argv = [
        "tshark",
        "-n",
        "-r",
        str(path),
        "-Y",
        "tcp",
        "-T",
        "fields",
        *(word for one in FIELDS for word in ("-e", one)),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    openers: dict[str, str] = {}
    fins: dict[str, dict[str, tuple[int, int]]] = {}
    for line in done.stdout.splitlines():
        stream, source, syn, fin, ack, seq, acked = line.split("\t")
        if syn in ("1", "True") and ack in ("0", "False"):
            openers.setdefault(stream, source)
        if fin in ("1", "True"):
            fins.setdefault(stream, {}).setdefault(source, (int(seq), int(acked)))
    hows: Counter[str] = Counter()
    for stream, opener in openers.items():
        found = list(fins.get(stream, {}).items())
        if len(found) == 2:
            (first, (sequence, _)), (_, (_, acknowledged)) = found
            has_seen = (acknowledged - sequence) % 2**32 in range(1, 2**31)
            hows["simultaneous" if not has_seen else "opener" if first == opener else "acceptor"] += 1
    return hows


def assert_captures_agree(run: Run, folder: Path) -> None:
    """The capture's own reading, tshark's, and the counters."""
    record = run.record
    assert {one.link for one in record.captured} == {link.name for link in run.topology.links}
    counted = replace(record, captured=[])
    for capture in record.captured:
        name = capture.link.replace(" -- ", "--").replace(":", "-")
        path = folder / f"{run.path.stem if run.path else ''}--{name}.pcapng"
        assert capture.dropped == 0
        info = subprocess.run(
            ["capinfos", "-c", "-M", "-T", "-r", str(path)], capture_output=True, text=True, check=True
        )
        assert int(info.stdout.split()[-1]) == capture.packets
        ours = Counter(how for *_, how in capture.closes if how in ("opener", "acceptor", "simultaneous"))
        assert by_tshark(path) == ours
    for step in record.steps:
        exact = {(one.link, one.opener): one for one in closes(record, run.topology, step)}
        for one in closes(counted, run.topology, step):
            seen = exact[one.link, one.opener]
            assert (seen.source, one.source) == ("capture", "counters")
            assert seen.opened == one.opened
            for name in ("by_opener", "by_acceptor", "simultaneous", "reset"):
                bounds, number = getattr(one, name), getattr(seen, name)
                assert bounds.least <= number.least == number.most <= bounds.most, (name, one, seen)


def test_every_link_is_captured_whole(tmp_path: Path) -> None:
    """Races, reuse and two clients; every capture agrees with tshark and with the counters."""
    if not shutil.which("tshark"):
        pytest.skip("tshark is not installed: apt-get install tshark")
    names = ("lb3ports/the-log-names-errno-99", "lb3ports/reuse-gives-each-port-once-per-delay")
    runs = replayed(tmp_path / "out", *names, "crowd", "direct/no-reuse-back-to-back")
    assert len(runs) == 6
    for run in runs:
        assert run.judgement.verdict == "pass"
        assert_captures_agree(run, tmp_path / "out")


def test_a_kept_connections_last_fin_is_in_the_capture(tmp_path: Path) -> None:
    """The LB's idle connection ends with its program, after the last snapshot; the capture has that FIN too."""
    (run,) = replayed(tmp_path, "lb3ports/upstream-keepalive-cures")
    (upstream,) = (one for one in run.record.captured if one.link == "lb:eth1 -- backend:eth0")
    assert [how for *_, how in upstream.closes] != ["open"]
    (kept,) = (one for one in closes(run.record, run.topology, 0) if one.opener == "lb")
    assert (kept.opened, kept.open) == (1, 1)


def test_a_capture_is_never_overwritten_and_does_not_wait_with_a_lab(tmp_path: Path) -> None:
    """What is there already is refused before anything is made, and so is --hold."""
    name = "direct--connect-is-what-fails--client-eth0--server-eth0.pcapng"
    (tmp_path / name).write_text("mine")
    argv = ("topology", "direct", "--only", "connect-is-what-fails", "--pcap", str(tmp_path))
    done = netns_tw(*argv)
    assert done.returncode == 2 and f"{tmp_path / name}: is there already" in done.stderr
    assert (tmp_path / name).read_text() == "mine"
    done = netns_tw(*argv, "--hold")
    assert done.returncode == 2 and "use --hold or --pcap" in done.stderr
