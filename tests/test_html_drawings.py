"""What the page draws: step functions keep their shape, all drawings share one time axis, colours have contrast."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from html_pages import LABS

from netns_tw.evidence.portmap import Interval, PortMap
from netns_tw.model.topology import Topology
from netns_tw.report import charts, html, nodemap, portmap, stepfunction, svg
from netns_tw.report.charts import Series
from netns_tw.report.timeaxis import LEFT, PLOT, Span, TimeAxis

AXIS = TimeAxis(1000.0, 3000.0, [Span("first", 1000.0, 1900.0), Span("second", 2000.0, 3000.0)], 1500.0)
STYLE = (Path(html.__file__).parent / "page.css.j2").read_text()


def tree_of(drawing: svg.Drawing) -> Element:
    return ElementTree.fromstring(drawing.svg)


def texts(root: Element) -> list[str]:
    return [one.text or "" for one in root.iter("text")]


def paths(root: Element, style: str) -> list[str]:
    return [one.get("d", "") for one in root.iter("path") if style in one.get("class", "").split()]


def xs(path: str) -> list[float]:
    """Every x of a path of absolute points."""
    return [float(one) for one in re.findall(r"[\d.]+", path)[::2]]


@pytest.mark.parametrize("seed", range(20))
def test_thinned_step_functions_keep_their_shape(seed: int) -> None:
    """Few points; first, last, highest and lowest are kept, also within any tenth of the time; none is invented."""
    chance = random.Random(seed)
    at = 0.0
    points = []
    for _ in range(chance.choice([1, 399, 401, 5000])):
        at += chance.choice([0.0, 0.001, 1.0, 500.0])
        points.append((at, chance.randrange(10)))
    points.insert(chance.randrange(len(points)), points[0])
    points.sort(key=lambda one: one[0])
    points[len(points) // 2] = (points[len(points) // 2][0], 10**12)
    found = stepfunction.thinned(points)
    assert len(found) <= stepfunction.MOST
    assert set(found) <= set(points)
    assert (found[0], found[-1]) == (points[0], points[-1])
    assert found == sorted(found, key=lambda one: one[0])
    for begin in range(10):
        low, high = at * begin / 10 - at / 50, at * (begin + 1) / 10 + at / 50
        inner = [value for when, value in points if at * begin / 10 <= when <= at * (begin + 1) / 10]
        kept = [value for when, value in found if low <= when <= high]
        assert not inner or (max(kept) >= max(inner) and min(kept) <= min(inner))


@pytest.mark.parametrize(
    ("points", "found"),
    [
        ([], []),
        ([(0.0, 1), (5.0, 2), (10.0, 3)], [(10.0, 3)]),
        ([(0.0, 1), (12.0, 1), (15.0, 4), (25.0, 5)], [(10.0, 1), (15.0, 4)]),
        ([(15.0, 4), (12.0, 1)], [(12.0, 1), (15.0, 4)]),
    ],
)
def test_a_step_function_within_bounds(points: list[tuple[float, int]], found: list[tuple[float, int]]) -> None:
    """What held before holds at its beginning; what comes after its end, and what changes nothing, is gone."""
    assert stepfunction.within(points, 10.0, 20.0) == found


def test_corners_and_values() -> None:
    """The line of a step function goes level, then upright, and on to its end."""
    points = [(1.0, 0), (2.0, 3)]
    assert stepfunction.corners(points, 5.0) == [(1.0, 0), (2.0, 0), (2.0, 3), (5.0, 3)]
    assert [stepfunction.value_at(points, at) for at in (0.5, 1.0, 1.9, 2.0, 9.0)] == [None, 0, 0, 3, 3]
    assert stepfunction.moments([points, [(1.5, 0)]], 30) == ([1.0, 1.5, 2.0], 3)
    assert stepfunction.moments([[(float(at), at) for at in range(100)]], 3) == ([0.0, 50.0, 99.0], 100)


@pytest.mark.parametrize(
    ("text", "room", "shown"),
    [
        ("abc", 100.0, "abc"),
        ("abcdefgh", 35.0, "abcd…"),
        ("连续请求", 42.0, "连续…"),
        ("a\x1bb", 90.0, r"a\x1bb"),
        ("abc", 3.0, ""),
    ],
)
def test_words_are_cut_to_their_room(text: str, room: float, shown: str) -> None:
    """By the cells they take, control characters shown; what does not fit ends in an ellipsis."""
    assert svg.cut(text, room) == shown
    assert svg.cells(shown) * svg.CELL <= room


@pytest.mark.parametrize("width", [1e-9, 0.001, 0.35, 1, 11, 28232, 2.0**63, 1e12])
def test_ticks_are_few_and_round(width: float) -> None:
    """At least one and at most twelve, of steps 1, 2 or 5 x 10^k, from 0 and not beyond the end."""
    found = svg.ticks(0, width, 10)
    assert 2 <= len(found) <= 12
    assert (found[0], found[-1] <= width * 1.000001) == (0, True)
    assert f"{found[1]:.0e}"[0] in "125"


def test_charts_and_port_maps_share_their_time_axis() -> None:
    """A moment lies at the same place in a chart, in its marks, and in a port map."""
    drawn = charts.chart("a", "a title", AXIS, [Series("a", [(900.0, 0), (1500.0, 7), (3000.0, 2)], "time-wait")])
    assert drawn is not None
    root = tree_of(drawn.drawing)
    plot = next(root.iter("g"))
    assert plot.get("transform") == f"translate({LEFT:.0f} 40)"
    assert xs(paths(root, "time-wait")[0]) == [0.0, PLOT / 4, PLOT / 4, PLOT, PLOT, PLOT]
    assert xs(paths(root, "exhausted")[0])[0] == PLOT / 4
    ports = {1: [Interval(1500.0, 2000.0, "established")]}
    found = portmap.port_map("b", PortMap("n", "r:80", 1, 2, ports, frozenset()), AXIS)
    assert xs(paths(tree_of(found.drawing), "established")[0])[0] == PLOT / 4
    assert "ports exhausted at 0.500 s" in texts(tree_of(found.drawing))
    assert {"1 first", "2 second"} <= set(texts(root)) & set(texts(tree_of(found.drawing)))


def test_a_chart_has_its_numbers_in_words() -> None:
    """Legend with the highest and last value, table with what held when; the description names steps and marks."""
    some = Series("a <b>", [(0.0, 1), (1200.0, 5), (1300.0, 2)], "bad")
    drawn = charts.chart("x", "a title", AXIS, [some, Series("b", [(1250.0, 1)], "bad")])
    assert drawn is not None
    assert [(key.name, key.style, key.most, key.last) for key in drawn.keys] == [
        ("a <b>", "series bad dash0", 5, 2),
        ("b", "series bad dash1", 1, 1),
    ]
    assert drawn.rows == [("0.000", ["1", "-"]), ("0.200", ["5", "-"]), ("0.250", ["5", "1"]), ("0.300", ["2", "1"])]
    root = tree_of(drawn.drawing)
    description = root.findtext("desc") or ""
    assert "a <b>: at most 5, at the end 2; b: at most 1" in description
    assert "Step 2, second, from 1.000 s to 2.000 s. Ports exhausted at 0.500 s." in description
    assert {"script", "style", "metadata"}.isdisjoint(one.tag for one in root.iter())
    assert charts.chart("x", "a title", AXIS, [Series("late", [(9999.0, 1)])]) is None


@pytest.mark.parametrize("values", [(0, 0), (1, 2), (11, 3), (700_000, 7), (10**6, 7), (2**63 - 1, 0)])
def test_the_scale_of_values_holds_all(values: tuple[int, int]) -> None:
    """Whole numbers from 0 to at least the greatest value, each once; however long, the time axis stays."""
    drawn = charts.chart("x", "t", AXIS, [Series("a", [(1000.0, values[0]), (2000.0, values[1])])])
    assert drawn is not None
    root = tree_of(drawn.drawing)
    labels = [one.text or "" for one in root.iter("text") if one.get("class") == "tick-y"]
    numbers = [float(one.replace(",", "")) for one in labels]
    assert numbers == sorted(set(numbers))
    assert (numbers[0], numbers[-1] >= max(values)) == (0, True)
    assert max(map(len, labels)) <= 7
    assert {0.0, PLOT} <= set(xs(paths(root, "series")[0])) <= {0.0, PLOT / 2, PLOT}


def test_an_axis_of_no_length() -> None:
    """A record of one moment, times outside, a step too short for its name, thousands of steps."""
    axis = TimeAxis(5.0, 5.0, [Span("no room for this", 5.0, 5.0)] * 10_000, 5.0)
    assert (axis.x(-1e6), axis.x(5.0), axis.x(1e9)) == (0.0, 0.0, PLOT)
    drawn = charts.chart("x", "t", axis, [Series("a", [(5.0, 1)])])
    assert drawn is not None
    assert len(drawn.drawing.svg) < 20_000
    assert "no room for this" not in texts(tree_of(drawn.drawing))


INTERVALS = {
    1024: [Interval(1100.0, 1101.0, "established"), Interval(1101.0, 2500.0, "time-wait"),
           Interval(2500.0, 2501.0, "established", True), Interval(2501.0, 62501.0, "time-wait")],
    1026: [Interval(1200.0, 9999.0, "close-wait")],
}  # fmt: skip


def test_a_row_for_each_port() -> None:
    """Narrow ranges: every port of the range, used or not; a connection of a ms is seen; the table says the same."""
    found = portmap.port_map("m", PortMap("lb", "198.18.2.2:80", 1024, 1026, INTERVALS, frozenset({1025})), AXIS)
    root = tree_of(found.drawing)
    assert [one for one in texts(root) if one.isdigit()] == ["1024", "1025", "1026"]
    assert found.kinds == ["established", "time-wait", "closing", "reused", "unusable"]
    assert [paths(root, kind) != [] for kind in ("established", "time-wait", "closing", "reused")] == [True] * 4
    assert [float(one) for one in re.findall(r"h([\d.]+)v", paths(root, "established")[0])] == [portmap.NARROWEST] * 2
    assert found.rows == [
        ["1024", "2", "1", "time-wait"],
        ["1025", "0", "0", "never taken"],
        ["1026", "1", "0", "close-wait"],
    ]


@pytest.mark.parametrize(
    ("high", "rows", "first"),
    [(1024 + 63, 64, "1024"), (1024 + 64, 22, "1024-1026"), (1024 + 4095, 32, "1024-1151"), (65535, 1, "1024-65535")],
)
def test_wide_ranges_are_drawn_in_bands(high: int, rows: int, first: str) -> None:
    """64 rows at most; a band says how many of its ports are busy, and the last band ends with the range."""
    ports = dict.fromkeys(range(1024, 1074), INTERVALS[1024])
    found = portmap.port_map("m", PortMap("lb", "198.18.2.2:80", 1024, high, ports, frozenset()), AXIS)
    assert (len(found.rows), found.rows[0][0]) == (rows, first)
    assert found.rows[-1][0].endswith(str(high))
    assert sum(int(row[1].replace(",", "")) for row in found.rows) == 100
    assert bool(found.note) == (rows < 64)
    assert ("reused" in found.kinds) == (rows == 64)  # a band has no room for a flag
    assert len(found.drawing.svg) < 60_000


def test_what_was_there_at_the_last_look_goes_on() -> None:
    """A TIME_WAIT that the record's last look still saw does not end there."""
    found = PortMap("n", "r:80", 1, 2, {1: [Interval(1500.0, 3000.0, "time-wait")]}, frozenset(), 3000.0)
    assert stepfunction.within(portmap.waiting(found), 1000.0, 3000.0) == [(1000.0, 0), (1500.0, 1)]
    assert portmap.port_map("m", found, AXIS).rows[0] == ["1", "1", "0", "time-wait"]


def test_a_port_with_a_million_connections_stays_small() -> None:
    """What is too near to be told apart is drawn as one."""
    many = [Interval(1000 + index / 50, 1000 + (index + 0.4) / 50, "established", True) for index in range(100_000)]
    found = portmap.port_map("m", PortMap("lb", "198.18.2.2:80", 1, 1, {1: many}, frozenset()), AXIS)
    assert found.rows[0][1:3] == ["100,000", "100,000"]
    assert len(found.drawing.svg) < 60_000


def star(count: int) -> Topology:
    """lb3ports with *count* backends."""
    base = LABS["lb3ports"].topology
    front, back = base.links
    backends = {f"backend{index}": base.nodes["backend"] for index in range(count)}
    links = [replace(back, right=replace(back.right, node=name)) for name in backends]
    nodes = {"client": base.nodes["client"], "lb": base.nodes["lb"], **backends}
    return replace(base, nodes=nodes, links=(front, *links))


def test_requests_run_from_left_to_right() -> None:
    """A chain is a row, the leaves of a star share a column, a node without a link stands with the clients."""
    base = LABS["lb3ports"].topology
    assert nodemap.columns(base, {"client"}) == [["client"], ["lb"], ["backend"]]
    assert nodemap.columns(LABS["crowd"].topology, {"client1", "client2"}) == [["client1", "client2"], ["server"]]
    assert nodemap.columns(star(3), {"client"})[2] == ["backend0", "backend1", "backend2"]
    assert nodemap.columns(replace(base, links=base.links[:1]), {"client"}) == [["client", "backend"], ["lb"]]
    assert nodemap.columns(replace(base, links=()), {"gone"}) == [["client", "lb", "backend"]]


@pytest.mark.parametrize("topology", [LABS["lb3ports"].topology, LABS["crowd"].topology, star(7)])
def test_no_box_lies_on_another(topology: Topology) -> None:
    """Every node has a box of its own inside the drawing, with all its words; every link is a line."""
    root = tree_of(nodemap.draw("n", topology, {"client"}, {"lb": "nginx <b>"}))
    boxes = [one for one in root.iter("g") if one.get("class") == "node"]
    assert len(boxes) == len(topology.nodes)
    assert len({one.get("transform") for one in boxes}) == len(boxes)
    assert len(paths(root, "link")) == len(topology.links)
    for link in topology.links:
        for end in link:
            assert any(f"{end.interface:<5}{end.addresses[0]}" == one for one in texts(root))


def shades(scheme: str) -> dict[str, str]:
    """The style sheet's colours of a scheme, by name."""
    blocks = re.findall(r":root \{([^}]*--bg[^}]*)\}", STYLE)
    return dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[0 if scheme == "light" else 1]))


def contrast(one: str, other: str) -> float:
    """WCAG 2.1, contrast ratio and relative luminance."""

    def luminance(shade: str) -> float:
        parts = [int(shade[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


TEXT = [("fg", "bg"), ("fg", "panel"), ("fg", "band"), ("fg", "band-even"), ("muted", "bg"), ("muted", "panel"),
        ("link", "bg"), ("bad", "bg"), ("pass", "pass-bg"), ("fail", "fail-bg"), ("warn", "warn-bg"), ("odd", "odd-bg"),
        ("calm", "calm-bg")]  # fmt: skip
GRAPHICS = [("wait", "bg"), ("wait", "wait-bg"), ("wait", "row"), ("open", "bg"), ("open", "row"), ("free", "bg"),
            ("reuse", "bg"), ("reuse", "wait-bg"), ("other", "bg"), ("strong-rule", "bg"), ("focus", "bg")]  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_contrast(scheme: str) -> None:
    """WCAG 2.1 AA: 4.5 for text (1.4.3), 3 for what a drawing is made of (1.4.11); in both schemes."""
    found = shades(scheme)
    assert found.keys() == set(re.findall(r"var\(--([\w-]+)\)", STYLE))
    assert [pair for pair in TEXT if contrast(*(found[name] for name in pair)) < 4.5] == []
    assert [pair for pair in GRAPHICS if contrast(*(found[name] for name in pair)) < 3] == []
