"""A need, and how it is tried: an act in a child of its own, and the words for what came of it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

from netns_tw.errors import EnvironmentLacks
from netns_tw.kernel.attempt import NotTried, attempt

MAIN_LAB = "lb3ports"
"""The lab of the main job."""
OK, LIMITED, MISSING = "ok", "limited", "missing"
EVERY_LAB = "any lab: topology, replay, up"
CONTAINER = "docker run --privileged IMAGE"


@dataclass(frozen=True)
class Need:
    """One need: what was found, what cannot run without it, and the command line that mends it."""

    name: str
    state: str
    found: str
    cannot: str = ""
    mend: str = ""


@dataclass(frozen=True)
class Check:
    """A need before it is tried; *act* returns what was found, *mend* is given what went wrong."""

    name: str
    act: Callable[[], str]
    cannot: str
    mend: Callable[[str], str]
    is_needed: bool = False
    why: Callable[[], str] = str
    """What explains a refusal: the switches that are set."""

    def carry_out(self) -> Need:
        """Try it. What fails, crashes or hangs is a need like any other."""
        try:
            return Need(self.name, OK, attempt(self.act))
        except NotTried as error:
            return Need(self.name, LIMITED, str(error))
        except EnvironmentLacks as error:
            state = MISSING if self.is_needed else LIMITED
            refusal, why = re.sub(r"^unshare\(.*?\): ", "", str(error)), self.why()
            found = f"{why}; so the answer is: {refusal}" if why else refusal
            return Need(self.name, state, found, self.cannot, self.mend(refusal))


def more_rights(_: str = "") -> str:
    """The way to more rights, where no switch or package is to blame; what went wrong makes no difference."""
    if os.geteuid() == 0:
        return f"{CONTAINER} (if this is a container; it has too few rights)"
    return f"sudo {sys.executable} -P -m netns_tw topology {MAIN_LAB}; in a container: {CONTAINER}"
