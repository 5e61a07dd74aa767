"""scripts/bench but for its timings: verdicts, table, history, its command line, and that the C reference works."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from benchmarks import command, history, limit, table
from benchmarks.figure import DOES_NOT, HOLDS, NOT_MEASURED, Figure, NotMeasured, Result, Samples, at_least, at_most
from benchmarks.figure import measured as measured_figure
from benchmarks.history import Change
from benchmarks.interleave import alone, interleaved
from benchmarks.subjects import FIGURES
from conftest import in_sandbox

HERE = {"kernel": "6.18.44", "cores": 2}


def measured(samples: Samples, bound: str = "at most 2", against: str = "theirs", name: str = "one") -> Result:
    words = bound.split()
    made = at_most(float(words[-1])) if words[1] == "most" else at_least(float(words[-1]))
    return measured_figure(Figure(name, "ours", made, "ms", lambda _: samples, against), None)


def lines(*values: float, figure: str = "one", **where: object) -> list[dict[str, object]]:
    return [{**HERE, **where, "figure": figure, "value": value} for value in values]


@pytest.mark.parametrize(
    ("ours", "theirs", "bound", "verdict", "value"),
    [
        ((3, 1, 2), (1, 1, 9), "at most 2", HOLDS, 2),
        ((3, 1, 2.1), (1, 1, 9), "at most 2", DOES_NOT, 2.1),
        ((90, 80), (100, 100), "at least 0.8", HOLDS, 0.85),
        ((70, 80), (100, 100), "at least 0.8", DOES_NOT, 0.75),
        ((), (1,), "at most 2", NOT_MEASURED, None),
    ],
)
def test_the_ratio_of_the_medians_is_held_against_the_bound(
    ours: tuple[float, ...], theirs: tuple[float, ...], bound: str, verdict: str, value: float | None
) -> None:
    found = measured(Samples(ours, theirs), bound)
    assert (found.verdict, found.value) == (verdict, pytest.approx(value) if value else value)


def test_what_nothing_stands_beside_is_judged_by_itself() -> None:
    assert measured(Samples((1.5, 1.5, 9)), against="").verdict == HOLDS
    assert measured(Samples((3.0,)), against="").verdict == DOES_NOT


def test_a_bound_may_come_from_the_runs_and_a_wrong_count_holds_never() -> None:
    found = measured(Samples((3,), (1,), bound=at_most(3)))
    assert (found.verdict, str(found.bound)) == (HOLDS, "at most 3")
    wrong = measured(Samples((1,), (1,), wrong="unequal counts"))
    assert (wrong.verdict, wrong.reason) == (DOES_NOT, "unequal counts")


@pytest.mark.parametrize(
    ("error", "verdict", "reason"),
    [
        (NotMeasured("no C compiler"), NOT_MEASURED, "no C compiler"),
        (RuntimeError("Traceback\n  ...\nOSError: no"), DOES_NOT, "RuntimeError: OSError: no"),
    ],
)
def test_what_cannot_be_measured_is_said_and_what_breaks_is_not_green(
    error: Exception, verdict: str, reason: str
) -> None:
    def measure(_: int) -> Samples:
        raise error

    found = measured_figure(Figure("one", "ours", at_most(2), "ms", measure), 3)
    assert (found.verdict, found.reason) == (verdict, reason)


def test_samples_are_taken_in_turn_after_a_round_that_does_not_count() -> None:
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return len(calls)

    found = interleaved(lambda: side("a"), lambda: side("b"), 2)
    assert (calls, found.ours, found.theirs) == (list("ababab"), [3, 5], [4, 6])
    assert alone(lambda: side("c"), 1).ours == [8]


def test_the_table_has_the_ratio_first_and_numbers_beside_it() -> None:
    results = [
        measured(Samples((12.34, 12.34), (5, 5))),
        measured(Samples((), (1234.5,), lacks="not yet"), name="another"),
        measured(Samples((0.5,), note="a note"), against="", name="three"),
    ]
    text = table.table(results, {"one": Change(0.304, is_worse=True), "three": Change(-0.5, is_worse=False)})
    head, one, another, three = (line.split("  ") for line in text.splitlines())
    shown = [[word.strip() for word in row if word.strip()] for row in (head, one, another, three)]
    assert shown[0][:3] == ["figure", "verdict", "value"]
    assert shown[1] == ["one", "does not", "2.47", "at most 2", "12.3 ms", "5 ms", "+30 % WORSE", "ours / theirs"]
    assert shown[2] == ["another", "not measured", "at most 2", "1234 ms", "ours / theirs; not yet"]
    assert shown[3] == ["three", "holds", "0.5 ms", "at most 2 ms", "0.5 ms", "-50 %", "ours; a note"]


def test_json_has_every_sample() -> None:
    text = table.as_json([measured(Samples((1, 3), (2, 2)))], {"one": Change(None, is_worse=True)}, HERE)
    found = json.loads(text)
    assert found["where"] == HERE
    (one,) = found["figures"]
    assert (one["value"], one["samples"], one["bound"]) == (1, {"ours": [1, 3], "theirs": [2, 2]}, {"at_most": 2})
    assert (one["change"], one["is_worse"]) == (None, True)


@pytest.mark.parametrize(
    ("before", "now", "bound", "expected"),
    [
        ((1, 1, 9), 1.2, "at most 2", (0.2, False)),
        ((1, 1, 9), 1.3, "at most 2", (0.3, True)),
        ((1, 1, 9), 0.5, "at most 2", (-0.5, False)),
        ((1, 1, 9), 0.85, "at least 0.8", (-0.15, False)),
        ((1, 1, 9), 0.75, "at least 0.8", (-0.25, True)),
        ((1, 1, 9), 2.0, "at least 0.8", (1.0, False)),
        ((0,), 0.0, "at most 0", (0.0, False)),
        ((0,), 3.0, "at most 0", (None, True)),
        ((*[5.0] * 10, *[1.0] * 10), 1.5, "at most 2", (0.5, True)),
        ((), 1.0, "at most 2", None),
    ],
)
def test_what_is_a_quarter_worse_than_the_last_runs_is_marked(
    before: tuple[float, ...], now: float, bound: str, expected: tuple[float | None, bool] | None
) -> None:
    """By the median of the last ten; what is better when it is more, is worse when it is less."""
    earlier = [*lines(99.0, figure="another"), *lines(*before)]
    found = history.change(measured(Samples((now,), (1,)), bound), earlier, HERE)
    assert (found and (found.share and round(found.share, 6), found.is_worse)) == expected


def test_a_number_is_compared_with_those_of_such_a_machine_only() -> None:
    """A ratio with all of them."""
    earlier = [*lines(1.0, cores=64), *lines(1.0, kernel="7.0")]
    assert history.change(measured(Samples((2,)), against=""), earlier, HERE) is None
    assert history.change(measured(Samples((2,), (1,))), earlier, HERE) == Change(1.0, is_worse=True)


def test_a_run_is_a_line_for_each_figure_that_has_a_value(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert history.read(path) == []
    results = [measured(Samples((1, 3, 2), (1, 1, 1))), measured(Samples((), lacks="no ab"), name="another")]
    where = history.circumstances(tmp_path)
    for _ in range(2):
        history.append(path, history.lines_of(results, where))
    found = history.read(path)
    assert len(found) == 2
    assert {key: found[0][key] for key in ("figure", "runs", "value", "ours", "theirs")} == {
        "figure": "one", "runs": 3, "value": 2.0, "ours": 2, "theirs": 1
    }  # fmt: skip
    assert {"date", "netns_tw", "commit", "kernel", "cores", "python"} <= found[0].keys()


@pytest.mark.parametrize("release", ["6.18.44", "6.18.44-cloud-amd64", "6.18.44+custom"])
def test_a_kernels_release_is_kept_without_its_builders_words(release: str) -> None:
    assert history.plain_release(release) == "6.18.44"


def test_the_list_names_every_figure_and_its_bound(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    found = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in found] == [one.name for one in FIGURES]
    assert len({one.name for one in FIGURES}) == len(FIGURES)
    assert all(line.endswith(str(one.bound)) for line, one in zip(found, FIGURES, strict=True))


def test_a_wrong_name_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["chain-c", "chain-mininets"]) == 2
    found = capsys.readouterr()
    assert (found.out, "did you mean 'chain-mininet'?" in found.err) == ("", True)


@pytest.mark.parametrize("words", [["--runs", "0"], ["--run", "1"], ["--wrong"]])
def test_a_wrong_option_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(words)
    assert caught.value.code == 2


def test_a_history_that_cannot_be_used_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "damaged").write_text("{")
    for name in ("damaged", "no/folder"):
        assert command.main(["chain-c", "--history", str(tmp_path / name)]) == 2
        assert name in capsys.readouterr().err


def test_a_run_prints_notes_and_exits_as_its_figures_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run is compared with the first."""
    values = iter((1.0, 3.0))
    one = Figure("one", "ours", at_most(2), "ms", lambda _: Samples((next(values),), (1,)), "theirs")
    monkeypatch.setattr(command, "FIGURES", (one,))
    monkeypatch.setattr(command, "without_old_byte_code", lambda folder: None)
    words = ["--history", str(tmp_path / "history.jsonl")]
    assert command.main(words) == 0
    assert command.main([*words, "--json"]) == 1
    _, _, text = capsys.readouterr().out.partition("{")
    assert json.loads("{" + text)["figures"][0]["is_worse"]
    assert [line["value"] for line in history.read(tmp_path / "history.jsonl")] == [1.0, 3.0]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The C reference, compiled with all warnings as errors."""
    try:
        return limit.compile_into(tmp_path_factory.mktemp("limit"))
    except NotMeasured as error:
        if "does not compile" in str(error):
            raise
        pytest.skip(str(error))


def test_the_c_reference_compiles_without_warnings(compiled: str) -> None:
    assert {"-Wall", "-Wextra", "-Werror"} <= set(limit.FLAGS)
    assert subprocess.run([compiled], capture_output=True, check=False).returncode == 2


def test_no_compiler_is_a_reason_and_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netns_tw.kernel.process.find_program", lambda name: None)
    with pytest.raises(NotMeasured, match="no C compiler"):
        limit.compile_into(tmp_path)


@pytest.mark.netns
def test_the_c_reference_passes_a_packet(compiled: str) -> None:
    """Its chain ends with a connection over each link; its TIME_WAIT are counted by the kernel."""

    def inside() -> list[str]:
        return [
            subprocess.run([compiled, *words], capture_output=True, text=True, check=True, timeout=20).stdout
            for words in (["chain"], ["time-wait", "50", "2"])
        ]

    chain, time_wait = in_sandbox(inside)
    numbers = dict(line.split() for line in chain.splitlines())
    assert 0 < int(numbers["of_it_after_set_up_us"]) < int(numbers["first_packet_us"])
    assert "time_wait 50" in time_wait.splitlines()
