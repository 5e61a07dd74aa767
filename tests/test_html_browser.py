"""The HTML page in a real browser, headless Chromium: it asks no network, runs no script, and everybody can use it.

There is no network to fall back on: every request but the file itself is recorded and refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from html_pages import HOSTILE, RUN, SKIPPED, hostile_run
from playwright.sync_api import Browser, Dialog, Page, Route, sync_playwright

from netns_tw.report import html

pytestmark = pytest.mark.netns
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, Scheme] = ("light", "dark")
FINDINGS = [
    replace(one, holds=index % 2 == 0, evidence=["a log line " * 30])
    for index, one in enumerate(RUN.judgement.findings)
]
FAILED = replace(RUN, judgement=replace(RUN.judgement, verdict="fail", reason="a reason", findings=FINDINGS))
BROKEN = replace(RUN, judgement=replace(RUN.judgement, verdict="broken", reason="the instruments are blind"))
WIDE = 1280


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path)
        yield found
        found.close()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of four runs, so that some are folded."""
    return written(tmp_path_factory.mktemp("many"), html.page([FAILED, SKIPPED, RUN, BROKEN]))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of one run."""
    return written(tmp_path_factory.mktemp("single"), html.page([RUN]))


def written(folder: Path, text: str) -> Path:
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


@dataclass
class Seen:
    """What a page did that it should not."""

    page: Page
    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Browser, path: Path, scheme: Scheme = "light", width: int = WIDE, *also: Path) -> Iterator[Seen]:
    """A page, opened from its file; whatever it asks for, says or does is noted."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    seen = Seen(page)

    allowed = {path.as_uri() for path in (path, *also)}

    def refuse(route: Route) -> None:
        if route.request.url in allowed:
            route.continue_()
        else:
            seen.requests.append(route.request.url)
            route.abort()

    def stop(dialog: Dialog) -> None:
        seen.said.append(dialog.message)
        dialog.dismiss()

    context.route("**/*", refuse)
    page.on("console", lambda message: seen.said.append(message.text))
    page.on("pageerror", lambda error: seen.said.append(str(error)))
    page.on("dialog", stop)
    page.goto(path.as_uri())
    yield seen
    context.close()


def unfold(page: Page) -> None:
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")


def overflow(page: Page) -> int:
    """By how many px the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def colour(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [360, WIDE])
@pytest.mark.parametrize("which", ["many", "single"])
def test_it_asks_nothing_says_nothing_and_fits(
    browser: Browser, which: str, width: int, scheme: Scheme, request: pytest.FixtureRequest
) -> None:
    """No request leaves the file, no word on the console, no sideways scroll, folded or not."""
    with opened(browser, request.getfixturevalue(which), scheme, width) as seen:
        assert overflow(seen.page) <= 0
        unfold(seen.page)
        assert overflow(seen.page) <= 0
        assert colour(seen.page) == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 23, 27)")
        assert (seen.requests, seen.said) == ([], [])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing(browser: Browser, tmp_path: Path, scheme: Scheme) -> None:
    """No violation of an accessibility rule that axe-core knows, contrast among them; everything is unfolded."""
    with opened(browser, written(tmp_path, html.page([FAILED, SKIPPED])), scheme) as seen:
        unfold(seen.page)
        found = Axe().run(seen.page)
        assert found.violations_count == 0, found.generate_report()


def test_printed_it_is_light_and_unfolded(browser: Browser, many: Path, single: Path) -> None:
    """On paper: white, whatever the screen prefers; each run's drawings are there, the tables of their numbers not."""
    with opened(browser, many, "dark", 700, single) as seen:
        seen.page.emulate_media(media="print")
        assert colour(seen.page) == "rgb(255, 255, 255)"
        assert overflow(seen.page) <= 0
        drawings = seen.page.locator("details.part svg[role=img]")
        assert drawings.count() >= 3 * 4
        for index in range(drawings.count()):
            box = drawings.nth(index).bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) > 40
        assert seen.page.locator("details.data").evaluate_all("all => all.every(one => one.offsetHeight === 0)")
        assert breaks(seen.page) == "page"
        assert seen.page.pdf(format="A4").startswith(b"%PDF")
        seen.page.goto(single.as_uri())
        assert breaks(seen.page) == "auto"  # no leaf with nothing but a title


def breaks(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.querySelector('.experiment')).breakBefore"))


def focused(page: Page) -> dict[str, Any]:
    """What has the focus, and whether that is seen."""
    return dict(
        page.evaluate(
            """() => {
                const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
                return {tag: one.tagName, href: one.getAttribute("href"), text: one.innerText,
                        outline: style.outlineStyle === "solid" ? parseFloat(style.outlineWidth) : 0,
                        left: box.left, width: box.width};
            }"""
        )
    )


def test_the_keyboard_reaches_everything(browser: Browser, many: Path) -> None:
    """Tab goes through links and folds in order, the focus is seen at each; Enter follows and unfolds."""
    with opened(browser, many) as seen:
        page = seen.page
        page.keyboard.press("Tab")
        first = focused(page)
        assert (first["href"], first["left"] >= 0) == ("#main", True)
        wanted = page.locator("main a, main summary").evaluate_all(
            "all => all.filter(one => one.checkVisibility()).map(one => one.innerText)"
        )
        reached: list[str] = []
        while focused(page)["tag"] != "BODY" and len(reached) < 1000:
            page.keyboard.press("Tab")
            one = focused(page)
            if one["tag"] != "BODY":
                assert one["outline"] >= 2, one
            if one["tag"] in ("A", "SUMMARY"):
                reached.append(one["text"])
        assert reached == wanted
        assert len(wanted) > 30
        folded = page.locator("details.data").first
        folded.locator("summary").focus()
        page.keyboard.press("Enter")
        assert folded.get_attribute("open") is not None
        page.locator("nav a").nth(2).focus()
        page.keyboard.press("Enter")
        assert page.url.endswith("#experiment-3")


def test_a_screen_reader_finds_its_way(browser: Browser, single: Path) -> None:
    """Landmarks, headings and images have names; an image is told in words, and its numbers are a table too."""
    with opened(browser, single) as seen:
        tree = seen.page.locator("body").aria_snapshot()
        for one in (
            "- banner:",
            "- main:",
            "- contentinfo:",
            '- heading "The claim holds on this kernel." [level=1]',
            '- region "direct/no-reuse-back-to-back pass"',
            '- table "Each expectation, held against the record"',
            'img "client: free ports"',
            'img "client: local ports 1024-1034 towards 198.18.0.1:80"',
        ):
            assert one in tree
        told = seen.page.locator("svg[role=img] > desc").all_text_contents()
        assert any("Ports exhausted at" in one for one in told)
        assert all(len(one) > 20 for one in told)


def test_hostile_words_do_nothing(browser: Browser, tmp_path: Path) -> None:
    """No script runs, no dialog opens, nothing is asked for; the words are there to be read."""
    with opened(browser, written(tmp_path, html.page([hostile_run(HOSTILE), RUN]))) as seen:
        unfold(seen.page)
        assert (seen.requests, seen.said) == ([], [])
        assert seen.page.locator("main script, main img, main style, main title:not(svg *)").count() == 0
        assert "<script>alert(1)</script></style>" in seen.page.locator("main").inner_text()
        assert r"\u202egnp.exe" in seen.page.locator("main").inner_text()
        assert overflow(seen.page) <= 0


def test_the_policy_stops_what_would_get_through(browser: Browser, tmp_path: Path) -> None:
    """The second wall: a script, a style sheet and an image that stood in the page would be stopped by the browser."""
    foreign = (
        "<script>document.title = 'bad'</script><img src='x.png' onerror=\"document.title = 'bad'\">"
        "<link rel='stylesheet' href='http://198.18.0.1/x.css'><iframe src='http://198.18.0.1/'></iframe><main"
    )
    text = html.page([RUN]).replace("<main", foreign)
    with opened(browser, written(tmp_path, text)) as seen:
        assert seen.page.title() == "netns_tw: direct/no-reuse-back-to-back"
        assert seen.requests == []
        assert sum("Content Security Policy" in one for one in seen.said) >= 4
