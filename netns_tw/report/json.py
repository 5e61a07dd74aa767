"""Runs and labs as JSON, for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from netns_tw.evidence.closers import Closes
from netns_tw.evidence.cost import connect_curve, costs
from netns_tw.evidence.explain import explain
from netns_tw.evidence.prediction import predictions
from netns_tw.evidence.refused import Refused
from netns_tw.model.labs import Lab
from netns_tw.model.topology import Topology
from netns_tw.report.diagram import role
from netns_tw.report.run import Run
from netns_tw.scope import Finding
from netns_tw.verdict import outcome_words

FORMAT = 1


def runs(found: Sequence[Run], exit_code: int) -> str:
    """All runs in one JSON object."""
    return json.dumps({"format": FORMAT, "exit_code": exit_code, "experiments": [_run(one) for one in found]}, indent=2)


def _run(one: Run) -> dict[str, Any]:
    header, built = one.record.header, one.record.built
    return {
        "lab": one.experiment.lab,
        "claim": one.experiment.claim_id,
        "text": one.experiment.claim,
        "source": one.experiment.source,
        "verdict": one.judgement.verdict,
        "reason": one.judgement.reason,
        "attempts": one.attempts,
        "steps": [_step(one, number) for number in range(len(one.experiment.steps))],
        "findings": [_finding(finding) for finding in one.judgement.findings],
        "closes": [_of_step(one, found) for found in one.case.closes],
        "refused": [_of_step(one, found) for found in one.case.refusals],
        "explanations": [asdict(found) for found in explain(one.case)],
        "why": " ".join(one.experiment.why.split()),
        "try": " ".join(one.experiment.try_next.split()),
        "kernel": header.kernel if header else None,
        "versions": header.versions if header else {},
        "programs": {node: ran.words for node, ran in built.programs.items()} if built else {},
        "sysctls": built.sysctls if built else {},
        "notes": built.notes if built else [],
        "record": str(one.path) if one.path else None,
    }


def _step(one: Run, number: int) -> dict[str, Any]:
    step = one.experiment.steps[number]
    end = one.record.steps.get(number)
    outcomes = one.record.outcomes(number)
    predicted = predictions(one.case)[number]
    return {
        "name": step.name,
        "reference": step.reference,
        "seen": outcome_words(outcomes),
        "requests": outcomes.total(),
        "ok": one.record.ok(number),
        "predicted_ok": {"least": predicted.least, "most": predicted.most} if predicted else None,
        "took_ms": round(one.record.span_ms(number, number), 3) if end else None,
        **_bare(one, number),
    }


def _bare(one: Run, number: int) -> dict[str, Any]:
    """Of a step that made bare connections: what connect() took as they grew in number, and what the sockets cost."""
    if not (curve := connect_curve(one.record, number)):
        return {}
    name = one.experiment.steps[number].name
    cost = next((asdict(each) for each in costs(one.record, one.experiment) if each.step == name), None)
    return {"connect_us": [{"percent": at, "median": us} for at, us in curve], "cost": cost}


def _of_step(one: Run, found: Closes | Refused) -> dict[str, Any]:
    return {**asdict(found), "step": one.experiment.steps[found.step].name}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.expectation.name,
        "step": finding.expectation.step,
        "holds": finding.holds,
        "expected": finding.expected,
        "actual": finding.actual,
        "evidence": finding.evidence,
    }


def labs(found: Sequence[Lab]) -> str:
    """The labs and their claims."""
    return json.dumps([_lab(lab) for lab in found], indent=2)


def _lab(lab: Lab) -> dict[str, Any]:
    return {
        "name": lab.name,
        "description": lab.topology.description,
        "folder": lab.topology.folder,
        "experiments": [
            {"claim": one.claim_id, "text": one.claim, "source": one.source} for one in lab.experiments.values()
        ],
    }


def topology(found: Topology) -> str:
    """One lab's nodes and links."""
    nodes = {
        name: {"program": role(node), "sysctls": dict(node.sysctls), "usable_ports": str(found.usable_ports(name))}
        for name, node in found.nodes.items()
    }
    links = [
        {"endpoints": [str(end) for end in link], "addresses": [[str(one) for one in end.addresses] for end in link]}
        for link in found.links
    ]
    return json.dumps({"name": found.name, "description": found.description, "nodes": nodes, "links": links}, indent=2)
