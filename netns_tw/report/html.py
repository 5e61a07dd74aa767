"""The report as one HTML page that needs nothing but itself: no script, no network, no other file.

Two walls keep a hostile record from being more than text. Everything that a template prints passes ``finalize`` and
jinja2's escaping; only a Drawing, built element by element (svg.py), is markup. And the page's own policy (CSP level 3)
forbids scripts, and every request, to the browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from netns_tw.model.ports import Bounds
from netns_tw.report.escape import escaped
from netns_tw.report.run import Run
from netns_tw.report.sections import Section, section

ORDER = ("fail", "error", "broken", "inconclusive", "pass", "skip")
"""Verdicts as they are counted, those that ask for a look first."""
MARKS = {"pass": "✓", "fail": "✗", "error": "✗", "broken": "!", "inconclusive": "?", "skip": "–"}
"""A sign beside each verdict's word and colour."""
FEW = 3
"""On a page with more experiments the drawings of those that pass are folded."""
LONGEST = 50_000
"""Letters of one text that are shown."""


@dataclass(frozen=True)
class Head:
    """What stands above all experiments."""

    title: str
    """Of the window."""
    sentence: str
    """The verdict on all of them."""
    counts: list[tuple[str, int]]
    kernels: list[str]
    versions: list[str]
    began: str


def page(runs: Sequence[Run]) -> str:
    """Render judged *runs* as one page."""
    paths = [run.experiment.path for run in runs]
    sections = [section(run, index + 1, paths[: index + 1].count(paths[index])) for index, run in enumerate(runs)]
    return _templates().get_template("page.html.j2").render(head=_head(runs), sections=sections, folds=_folds(sections))


@cache
def _templates() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals.update(marks=MARKS)
    found.filters.update(language=_language, untabbed=lambda text: text.replace("\r\n", "\n").expandtabs(4))
    return found


def _shown(value: Any) -> Any:
    """What a template prints: control characters shown, not obeyed; a text that would fill pages cut."""
    if hasattr(value, "__html__"):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Bounds):
        between = "or" if value.most - value.least == 1 else "to"
        return f"{value.least:,}" if value.is_exact else f"{value.least:,} {between} {value.most:,}"
    text = str(value)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}… ({len(text) - LONGEST:,} more letters are left out here; the record holds them)"
    return escaped(text)


def _language(text: str) -> str:
    """The language of the source's words: zh where they hold a Chinese letter."""
    return "zh" if any("\u4e00" <= one <= "\u9fff" for one in text) else "en"


def _folds(sections: Sequence[Section]) -> dict[str, bool]:
    """Whether an experiment's drawings are folded at first, by its anchor."""
    return {one.anchor: len(sections) > FEW and one.run.judgement.verdict in ("pass", "skip") for one in sections}


def _head(runs: Sequence[Run]) -> Head:
    verdicts = [one.judgement.verdict for one in runs]
    headers = [one.record.header for one in runs if one.record.header]
    versions = [", ".join(f"{name} {word}" for name, word in one.versions.items()) for one in headers]
    return Head(
        title=runs[0].experiment.path if len(runs) == 1 else f"{len(runs):,} experiments",
        sentence=_sentence(verdicts),
        counts=[(name, verdicts.count(name)) for name in ORDER if name in verdicts],
        kernels=list(dict.fromkeys(one.kernel for one in headers)),
        versions=list(dict.fromkeys(versions)),
        began=min((one.began for one in headers if one.began), default=""),
    )


def _sentence(verdicts: Sequence[str]) -> str:
    """The verdicts of all runs in one sentence."""
    count = len(verdicts)
    failed, passed, skipped = (verdicts.count(name) for name in ("fail", "pass", "skip"))
    unsure = count - failed - passed - skipped
    if not count:
        return "No experiment was replayed."
    if count == 1 and (failed or unsure):
        return "The claim does not hold here." if failed else "There is no verdict on the claim."
    if failed:
        return f"{failed:,} of {count:,} claims {'does' if failed == 1 else 'do'} not hold here."
    if unsure:
        return f"{unsure:,} of {count:,} experiments {'has' if unsure == 1 else 'have'} no verdict on the claim."
    if not passed:
        return "Nothing could be tested here."
    rest = f"; {skipped:,} could not be tested here" if skipped else ""
    return ("The claim holds" if passed == 1 else f"All {passed:,} claims hold") + f" on this kernel{rest}."
