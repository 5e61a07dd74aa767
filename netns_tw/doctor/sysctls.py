"""Sysctls: those that the labs set, tried with each value that they set, and those that came or went with a version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from netns_tw.doctor.need import LIMITED, MAIN_LAB, MISSING, OK, Need, more_rights
from netns_tw.errors import EnvironmentLacks
from netns_tw.kernel import probe
from netns_tw.kernel.attempt import NotTried, attempt, in_sandbox
from netns_tw.model.labs import Lab
from netns_tw.model.topology import Node
from netns_tw.rules import SYSCTL_KERNELS


def needs(found: Sequence[Lab]) -> Iterator[Need]:
    """A need for each sysctl that a lab of ours sets, tried with every value, and for each that came with a version."""
    values: dict[str, list[str]] = {}
    users: dict[str, list[str]] = {}
    for who, nodes in _described(found):
        for name, value in (pair for node in nodes.values() for pair in node.sysctls.items()):
            values.setdefault(name, []).append(value)
            losers = users.setdefault(name, [])
            if not {who, who.split("/")[0]} & set(losers):  # a claim is lost with its lab
                losers.append(who)
    wanted = {**values, **{name: [] for name in SYSCTL_KERNELS if name not in values}}
    try:
        wrong: Mapping[str, str] = attempt(lambda: in_sandbox(partial(probe.try_sysctls, wanted)))
    except NotTried as error:
        yield from (Need(name, LIMITED, str(error)) for name in sorted(wanted))
        return
    except EnvironmentLacks as error:
        wrong = dict.fromkeys(wanted, str(error))
    for name in sorted(wanted):
        since = f"; {SYSCTL_KERNELS[name]}" if name in SYSCTL_KERNELS else ""
        if not wrong[name]:
            yield Need(name, OK, f"can be set{since}")
            continue
        losers = users.get(name, [])
        state = MISSING if MAIN_LAB in losers else LIMITED
        cannot = ", ".join(losers) or "nothing that is here; a lab of yours that sets it"
        yield Need(name, state, wrong[name], cannot, _mend(name))


def _described(found: Sequence[Lab]) -> Iterator[tuple[str, Mapping[str, Node]]]:
    """Every lab and every claim by name, with the nodes as its file describes them."""
    for lab in found:
        yield lab.name, lab.topology.nodes
        yield from ((one.path, one.nodes) for one in lab.experiments.values())


def _mend(name: str) -> str:
    since, _, version = SYSCTL_KERNELS.get(name, "").split(" (")[0].rpartition(" Linux ")
    if since.startswith("removed"):
        return f"nothing does: only kernels before Linux {version} have it"
    return f"boot Linux {version} or newer" if version else more_rights()
