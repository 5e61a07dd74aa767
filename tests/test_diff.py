"""Two runs side by side: what differs is said, what is noise is not, and the verdict decides."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from rich.cells import cell_len
from test_saved import (
    BUILT,
    CLAIM,
    DIRECT,
    HEADER,
    HOSTILE,
    LABS,
    LINES,
    lines_of,
    replace_line,
    run_of,
)

from netns_tw.model.lines import Header, Line, Response, Sample, Snapshot, StepEnd, Trouble
from netns_tw.report import diff
from netns_tw.report.console import console
from netns_tw.report.run import Run

SAME = run_of(LINES)


def shown(found: Sequence[diff.Comparison], pairs: diff.Pairs) -> str:
    file = io.StringIO()
    console(file).print(diff.as_text(found, pairs))
    return file.getvalue()


def compared(left: Run, right: Run) -> str:
    return shown([diff.compare(left, right)], diff.pair([left], [right]))


def changes(found: Sequence[diff.Change]) -> list[tuple[str, str, str]]:
    return [(one.what, one.left, one.right) for one in found]


def test_two_identical_records_say_so_in_one_line() -> None:
    assert compared(SAME, run_of(LINES)) == "no difference: direct/no-reuse-back-to-back (pass)\n"


def later(line: Line) -> Line:
    """The same, on another day, at another pace."""
    if isinstance(line, Response | Snapshot | Sample):
        return replace_line(line, at_ms=line.at_ms + 3.5)
    if isinstance(line, StepEnd):
        return replace_line(line, began_ms=line.began_ms + 3.5, ended_ms=line.ended_ms + 4.5)
    return replace_line(line, began="2027-01-01T00:00:00+00:00", attempt=2) if isinstance(line, Header) else line


def test_what_differs_in_every_run_is_not_shown() -> None:
    """Dates, times, attempts, samples, what a log says and the ports that were taken are noise."""
    lines = [later(line) for line in lines_of(DIRECT, CLAIM, log=["2026/01/01 00:00:00 [crit] 12345#12345: x"])]
    lines = [replace_line(line, local_port=1030) if isinstance(line, Response) else line for line in lines]
    lines = [line for line in lines if not isinstance(line, Sample)]
    assert compared(SAME, run_of(lines)).startswith("no difference: ")


def with_files(**changed: str) -> list[Line]:
    return [replace_line(HEADER, files={**HEADER.files, **changed}), *LINES[1:]]


def with_built(**fields: object) -> list[Line]:
    return [HEADER, replace_line(BUILT, **fields), *LINES[2:]]


FASTER = {**BUILT.sysctls, "client": {**BUILT.sysctls["client"], "net.ipv4.tcp_tw_reuse": "1"}}
SETTINGS: dict[str, tuple[list[Line], list[tuple[str, str, str]]]] = {
    "kernel": (
        [replace_line(HEADER, kernel="Linux 6.1.0"), *LINES[1:]],
        [("kernel", "Linux 6.18.5", "Linux 6.1.0")],
    ),
    "versions": (
        [replace_line(HEADER, versions={"netns_tw": "0.1.0", "nginx": "1.28.0", "curl": "8.0"}), *LINES[1:]],
        [("nginx", "1.22.1", "1.28.0"), ("h11", "0.16.0", "-"), ("curl", "-", "8.0")],
    ),
    "cores": ([replace_line(HEADER, cores=64), *LINES[1:]], [("cores", "2", "64")]),
    "client and server": (
        [replace_line(HEADER, client="curl", servers="nginx"), *LINES[1:]],
        [("--client", "as the files say", "curl"), ("--server", "as the files say", "nginx")],
    ),
    "programs": (
        with_built(programs={"server": {"kind": "nginx", "words": "nginx (x.conf)", "listen": "a:80", "keepalive": 2}}),
        [
            (
                "server: program",
                "http-server (keep-alive) at 198.18.0.1:80",
                "nginx (x.conf) at a:80, keepalive 2",
            )
        ],
    ),
    "sysctls": (with_built(sysctls=FASTER), [("client: net.ipv4.tcp_tw_reuse", "0", "1")]),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings(kind: str) -> None:
    """Each sort of setting is compared by itself; the rest is said to be the same."""
    lines, expected = SETTINGS[kind]
    found = diff.compare(SAME, run_of(lines))
    assert changes(found.settings) == expected
    assert {one.kind for one in found.settings} == {kind}
    assert (found.outcome, found.files, found.is_verdict_other) == ([], {}, False)
    assert kind not in found.same
    assert len(found.same) == len(diff.SETTINGS) + len(diff.OUTCOMES) - 1


def test_files_are_compared_line_by_line() -> None:
    """As diff -u would; the claim's own file too, even under another name; what one side lacks is named."""
    claim = f"experiments/{CLAIM.claim_id}.toml"
    topology = HEADER.files["topology.toml"].replace("1024 1034", "1024 2047")
    other = run_of(with_files(**{"topology.toml": topology, "nginx.conf": "worker_processes 1;\n"}))
    found = diff.compare(SAME, other).files
    assert list(found) == ["nginx.conf", "topology.toml"]
    assert found["nginx.conf"] == ["only B has it"]
    assert [line for line in found["topology.toml"] if line[0] in "+-"] == [
        "--- A: topology.toml",
        "+++ B: topology.toml",
        '-net.ipv4.ip_local_port_range = "1024 1034"',
        '+net.ipv4.ip_local_port_range = "1024 2047"',
    ]
    renamed = replace(CLAIM, claim_id="mine")
    files = {"topology.toml": HEADER.files["topology.toml"], "experiments/mine.toml": HEADER.files[claim]}
    mine = run_of([replace_line(HEADER, claim_id="mine", files=files), *LINES[1:]], DIRECT, renamed)
    found_mine = diff.compare(SAME, mine)
    assert changes(found_mine.settings) == [("experiment", "direct/no-reuse-back-to-back", "direct/mine")]
    assert found_mine.files == {}


def test_files_too_long_to_compare_are_said_to_differ() -> None:
    """difflib takes time that is quadratic in the lines; a hostile file gets none of it."""
    long = "\n".join(map(str, range(3000)))
    found = diff.compare(run_of(with_files(x=long)), run_of(with_files(x=long + "\n1")))
    assert found.files == {"x": ["they differ; 3000 and 3001 lines are too many to compare here"]}


def test_outcomes() -> None:
    """Verdict, responses by step, expectations that changed sides with both numbers, and counters that matter."""
    found = diff.compare(SAME, run_of(list(lines_of(DIRECT, CLAIM, (11, 20)))))
    assert found.is_verdict_other
    assert changes([one for one in found.outcome if one.kind != "who closed first"]) == [
        ("verdict", "pass", "fail"),
        ("step 'again at once'", "20 x EADDRNOTAVAIL", "20 x 404"),
        ("right afterwards all are refused, but for that port (again at once)", "ok, 20", "FAIL, 0"),
        ("both steps together have no more than the usable ports", "ok, 11", "FAIL, 31"),
        ("client: TcpExtTW", "+11", "+31"),
        ("client: TcpActiveOpens", "+11", "+31"),
        ("server: TcpPassiveOpens", "+11", "+31"),
    ]
    assert found.settings == []
    out = compared(found.left, found.right)
    assert out.startswith("direct/no-reuse-back-to-back  PASS in A, FAIL in B ──")
    assert out.index("verdict  ") < out.index("the same: ")
    assert "the same: experiment, kernel, versions, cores, client and server" in out


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (Trouble(4, "it took 3 ms"), Trouble(4, "it took 999 ms"), []),
        (Trouble(4, "blind"), Trouble(4, "deaf"), [("reason", "blind", "deaf")]),
        (Trouble(4, "blind"), Trouble(3, "blind", skip=True), [("verdict", "broken", "skip")]),
        (
            Trouble(3, "no nginx"),
            Trouble(3, "no curl", skip=True),
            [("verdict", "error", "skip"), ("reason", "no nginx", "no curl")],
        ),
    ],
)
def test_reasons(left: Trouble, right: Trouble, expected: list[tuple[str, str, str]]) -> None:
    """Why there is no pass or fail, unless only its numbers differ."""
    assert changes(diff.compare(run_of([HEADER, left]), run_of([HEADER, right])).outcome) == expected


def test_a_run_that_was_cut_short_is_compared_as_far_as_it_goes() -> None:
    """Its expectations were never judged, so they do not differ; its counters are those of its last step."""
    half = LINES[: next(place for place, line in enumerate(LINES) if isinstance(line, StepEnd)) + 1]
    for end in (1, 2, 3, 10, len(half)):
        found = diff.compare(SAME, run_of(LINES[:end]))
        assert [one for one in found.outcome if one.kind == "expectations"] == []
        assert changes(found.outcome)[:2] == [("verdict", "pass", "broken"), ("reason", "-", "the record is cut short")]
    assert [one for one in found.outcome if one.kind == "counters"] == []


def two(lab: str, change: Callable[[list[Line]], list[Line]]) -> list[Run]:
    """All runs of a lab, changed."""
    found = LABS[lab]
    return [run_of(change(list(lines_of(found, one))), found, one) for one in found.experiments.values()]


def test_folders_are_matched_by_claim() -> None:
    """Whatever the order; what one side alone has is named; what differs everywhere is said once."""
    left = two("crowd", lambda lines: lines)
    right = two("crowd", lambda lines: [replace_line(lines[0], kernel="Linux 6.1.0"), *lines[1:]])[::-1]
    pairs = diff.pair([*left, SAME], right[:-1])
    assert [(one.experiment.path, other.experiment.path) for one, other in pairs.both] == [
        (one.experiment.path, one.experiment.path) for one in left[1:]
    ]
    assert [one.experiment.path for one in pairs.left] == [left[0].experiment.path, "direct/no-reuse-back-to-back"]
    assert pairs.right == []
    found = [diff.compare(*both) for both in pairs.both]
    out = shown(found, pairs)
    assert out.count("Linux 6.1.0") == 1
    assert "in every experiment" in out
    assert out.endswith("no other difference: 2 experiments (2 fail)\n")
    assert "only in A: crowd/a-server-holds-more-than-any-client, direct/no-reuse-back-to-back" in out
    answer = json.loads(diff.as_json(found, pairs, 0))
    assert (answer["format"], answer["exit_code"], answer["only_b"]) == (1, 0, [])
    assert answer["only_a"] == ["crowd/a-server-holds-more-than-any-client", "direct/no-reuse-back-to-back"]
    assert [one["settings"] for one in answer["experiments"]] == [
        [{"kind": "kernel", "what": "kernel", "a": "Linux 6.18.5", "b": "Linux 6.1.0"}]
    ] * 2


def test_two_records_are_compared_whatever_they_are() -> None:
    """One record on each side: whoever names two claims wants to see them beside each other."""
    crowd = LABS["crowd"]
    other = next(iter(crowd.experiments.values()))
    pairs = diff.pair([SAME], [run_of(list(lines_of(crowd, other)), crowd, other)])
    assert (len(pairs.both), pairs.left, pairs.right) == (1, [], [])
    found = diff.compare(*pairs.both[0])
    assert changes(found.settings)[0] == ("experiment", "direct/no-reuse-back-to-back", other.path)
    out = shown([found], pairs)
    assert "in every experiment" not in out


def test_two_runs_of_one_claim_on_a_side_are_matched_in_order() -> None:
    """Two labs of one name."""
    other = run_of([replace_line(HEADER, cores=4), *LINES[1:]])
    pairs = diff.pair([SAME, other], [other, SAME, SAME])
    assert [(one is SAME, two is SAME) for one, two in pairs.both] == [(True, False), (False, True)]
    assert pairs.right == [SAME]


def test_json_of_one_comparison() -> None:
    """Both sides, what differs, what does not."""
    found = diff.compare(SAME, run_of(list(lines_of(DIRECT, CLAIM, (11, 20)))))
    (one,) = json.loads(diff.as_json([found], diff.pair([SAME], [found.right]), 1))["experiments"]
    assert one["a"] == {"experiment": "direct/no-reuse-back-to-back", "verdict": "pass", "reason": "", "record": None}
    assert one["b"]["verdict"] == "fail"
    assert one["outcome"][0] == {"kind": "verdict", "what": "verdict", "a": "pass", "b": "fail"}
    assert (one["settings"], one["files"]) == ([], {})
    assert one["same"] == list(diff.SETTINGS)


def test_nothing_is_wider_than_100_columns_and_nothing_is_obeyed() -> None:
    """Long and hostile words of either side are folded and escaped."""
    wide = HOSTILE + "x" * 300
    files = {**HEADER.files, "nginx.conf": f"a\n{wide}\nb", wide: wide}
    header = replace_line(HEADER, kernel=wide, versions={wide: wide}, files=files, client=wide)
    programs = {"server": {"kind": wide, "words": wide, "listen": wide}}
    sysctls = {name: {**found, wide: wide} for name, found in BUILT.sysctls.items()}
    lines: list[Line] = [header, replace_line(BUILT, programs=programs, sysctls=sysctls), *LINES[2:-1]]
    lines = [replace_line(line, errno=wide) if isinstance(line, Response) and not line.ok else line for line in lines]
    experiment = replace(CLAIM, claim_id=wide, steps=tuple(replace(step, name=wide) for step in CLAIM.steps))
    hostile = run_of([*lines, Trouble(4, wide)], DIRECT, experiment)
    others = diff.pair([SAME, hostile], [hostile])
    plain = run_of(with_files(**{"nginx.conf": "a\nb"}))
    for out in (
        compared(plain, hostile),
        compared(hostile, plain),
        shown([diff.compare(SAME, hostile), diff.compare(SAME, hostile)], others),
    ):
        assert max(cell_len(line) for line in out.splitlines()) <= 100
        assert all(one == "\n" or one.isprintable() for one in out)
        assert "\\x1b[31m" in "".join(out.split())
