"""Programs and Python packages: found as a lab finds them, and run or imported once."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib import metadata, util

from netns_tw.doctor.need import EVERY_LAB, LIMITED, MISSING, OK, Check, Need
from netns_tw.errors import EnvironmentLacks, Skip
from netns_tw.kernel.attempt import NotTried, attempt, in_sandbox
from netns_tw.model.labs import Lab
from netns_tw.programs.choice import NO_CURL, NO_NGINX, choose

INSIDE = "inside a lab that is up (exec, shell)"
PROGRAMS = (
    # name, the flag that makes it say its version, the package, what it is for
    ("tcpdump", "--version", "tcpdump", f"tcpdump {INSIDE}; --pcap captures without it"),
    ("ss", "-V", "iproute2", f"ss {INSIDE}"),
    ("ip", "-V", "iproute2", f"ip {INSIDE}, and ip netns exec"),
)
PACKAGES = {
    **dict.fromkeys(("nsenter", "h11", "msgspec", "rich"), EVERY_LAB),
    "pyroute2": "--links pyroute2",
    **dict.fromkeys(("jinja2", "pygal"), "--html"),
    "argcomplete": "completion",
}
"""Python packages, and what cannot run without each."""


def packages() -> Need:
    """One need for all Python packages."""
    good: list[str] = []
    bad: dict[str, str] = {}
    for name in PACKAGES:
        try:
            good.append(f"{name} {attempt(partial(_import, name))}")
        except EnvironmentLacks as error:
            bad[name] = str(error)
    if not bad:
        return Need("Python packages", OK, ", ".join(good))
    cannot = dict.fromkeys(PACKAGES[name] for name in bad)
    found = "; ".join(f"{name}: {why}" for name, why in bad.items())
    mend = shlex.join([sys.executable, "-m", "pip", "install", *map(_with_version, bad)])
    return Need("Python packages", MISSING if EVERY_LAB in cannot else LIMITED, found, ", ".join(cannot), mend)


def _with_version(name: str) -> str:
    """The package with the versions that this installation asks for, where it is one that says so."""
    with suppress(metadata.PackageNotFoundError):
        for one in metadata.requires("netns-tw") or ():
            if re.split(r"[^\w-]", one)[0] == name:
                return one.partition(";")[0].strip()
    return name


def _import(name: str) -> str:
    """Import a package and return its version. pyroute2, which takes 0.2 s, is only found here."""
    spec = util.find_spec(name)
    if spec is None or spec.origin is None:  # None: an empty folder of that name
        raise EnvironmentLacks("not installed")
    if name != "pyroute2":
        importlib.import_module(name)
    return metadata.version(name)


def checks(found: Sequence[Lab]) -> Iterator[Check]:
    """nginx and curl, with the claims among *found* that need them, and the programs for a look inside."""
    experiments = [(lab, one) for lab in found for one in lab.experiments.values()]
    curls = [one.path for _, one in experiments if any(step.client == "curl" for step in one.steps)]
    nginxes = []
    for lab, one in experiments:
        try:
            choose(lab.topology.with_nodes(one.nodes), None, has_nginx=False)
        except Skip:
            nginxes.append(one.path)
    instead = "the built-in programs run instead"
    for name, flag, said, claims, option in (
        ("nginx", "-v", NO_NGINX, nginxes, "--server nginx"),
        ("curl", "--version", NO_CURL, curls, "--client curl"),
    ):
        yield _check(name, flag, said.partition(": ")[2], f"{', '.join([*claims, option])}; {instead}")
    for name, flag, package, cannot in PROGRAMS:
        yield _check(name, flag, f"sudo apt-get install {package}", cannot)


def _check(name: str, flag: str, mend: str, cannot: str) -> Check:
    def act() -> str:
        """In a sandbox, as a lab runs it, and so that all of it dies with us; where there is none, as we are."""
        try:
            return str(in_sandbox(partial(_ask_version, name, flag)))
        except NotTried:
            return _ask_version(name, flag)

    return Check(name, act, cannot, lambda _: mend)


def _ask_version(name: str, flag: str) -> str:
    from netns_tw.kernel.process import find_program

    path = find_program(name)
    if path is None:
        raise EnvironmentLacks("not installed")
    done = subprocess.run([path, flag], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    said = done.stdout + done.stderr
    if done.returncode:
        raise EnvironmentLacks(f"{path} does not run: exit status {done.returncode} {said.strip()[:100]}".rstrip())
    version = re.search(r"\d+(\.\d+)+", said)
    return f"{version[0] if version else 'of an unknown version'}, {path}"
