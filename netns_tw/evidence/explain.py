"""Why a run came out as it did: sentences an engineer can act on, each with the counter that proves it.

A rule is a function of a Case. It speaks only where its counter moved or its sockets were seen, never from the
experiment's intention: a run that went another way gets another explanation, or none.
"""

from __future__ import annotations

from netns_tw.evidence import rules_closing, rules_ports, rules_trouble
from netns_tw.evidence.case import Case, Explanation

RULES = (*rules_ports.RULES, *rules_closing.RULES, *rules_trouble.RULES)
"""In the order in which they are told: no port first, then who closed, then other trouble."""


def explain(case: Case) -> list[Explanation]:
    """Explain a run from its record alone."""
    return [one for rule in RULES for one in rule(case)]
