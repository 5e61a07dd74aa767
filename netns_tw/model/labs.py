"""Where labs are found: those that come with netns_tw, and a user's own folder by its path.

To name a lab is quick; what reads one is imported when one is read, so that the command line and Tab start fast.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from netns_tw.errors import UsageError, near_match
from netns_tw.model.frozen import Frozen
from netns_tw.rules import TOPOLOGY

if TYPE_CHECKING:
    from netns_tw.model.experiment import Experiment
    from netns_tw.model.folder import Folder
    from netns_tw.model.topology import Topology

_PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
SHIPPED = (os.path.join(_PACKAGE, "topologies"), os.path.join(os.path.dirname(_PACKAGE), "topologies"))
"""In an installed wheel, and in a checkout."""
EXPERIMENTS = "experiments"


class Lab(Frozen):
    """A lab's folder, read: its topology and its experiments by claim."""

    topology: Topology
    experiments: dict[str, Experiment]

    @property
    def name(self) -> str:
        return self.topology.name


def shipped_folder() -> str:
    """The folder of the labs that come with netns_tw.

    Raises:
        UsageError: this installation has none.
    """
    for folder in SHIPPED:
        if os.path.isdir(folder):
            return folder
    raise UsageError(f"this installation has no labs: neither {SHIPPED[0]} nor {SHIPPED[1]} exists")


def shipped_names() -> list[str]:
    """The names of the labs that come with netns_tw, sorted."""
    folder = shipped_folder()
    return sorted(name for name in os.listdir(folder) if is_lab(os.path.join(folder, name)))


def is_lab(folder: str | os.PathLike[str]) -> bool:
    """Whether a topology.toml lies in *folder*; False too where it cannot be looked into."""
    return os.path.isfile(os.path.join(folder, TOPOLOGY))


def folder_of(name: str) -> str:
    """The folder of a lab by its name or its path (one that holds a '/' or is '.').

    Raises:
        UsageError: there is none; with the near match.
    """
    if "/" in name or name in (".", ".."):
        if not is_lab(name):
            raise UsageError(f"{name}: no lab there, a lab's folder holds a topology.toml")
        return name
    names = shipped_names()
    if name not in names:
        path = " (a lab of your own is named by its path, ./" + name + ")" if is_lab(name) else ""
        raise UsageError(f"no lab is called {name!r}{near_match(name, names)}; there are {', '.join(names)}{path}")
    return os.path.join(shipped_folder(), name)


class Contents(Frozen):
    """What a lab is about, and what each of its experiments claims, by LAB/CLAIM."""

    name: str
    description: str
    claims: Mapping[str, str]


def read_contents(path: str | os.PathLike[str]) -> Contents:
    """Read of a lab's folder what stands at the head of its files; what is wrong below that is not looked for.

    Raises:
        FileProblems: all problems of all its files, where one has no such head.
    """
    from netns_tw.model.folder import FileProblems, Folder

    try:
        return _heads(Folder(path))
    except FileProblems:
        lab = read_lab(path)
        claims = {one.path: one.claim for one in lab.experiments.values()}
        return Contents(lab.name, lab.topology.description, claims)


def _heads(folder: Folder) -> Contents:
    from netns_tw.model.folder import stem
    from netns_tw.model.reader import Document

    lab = Document(folder, TOPOLOGY, is_whole=False)
    name, description = lab.root.text("name"), lab.root.text("description", "")
    lab.finish()
    claims = {}
    for file in folder.names(f"{EXPERIMENTS}/", ".toml"):
        experiment = Document(folder, file, is_whole=False)
        claims[f"{name}/{stem(file)}"] = experiment.root.text("claim")
        experiment.finish()
    return Contents(name, description, claims)


def read_lab(path: str | os.PathLike[str]) -> Lab:
    """Read a lab's folder whole.

    Raises:
        FileProblems: all problems of all its files.
    """
    from netns_tw.model.folder import Folder

    return _read(Folder(path))


def kept_lab(kept: Mapping[str, str], record: str | os.PathLike[str]) -> Lab:
    """Read a lab from the files that *record* kept of it, by their paths inside the lab's folder.

    Raises:
        FileProblems: all problems of all its files.
    """
    from netns_tw.model.folder import Folder

    return _read(Folder(record, kept))


def _read(folder: Folder) -> Lab:
    from netns_tw.model.experiment_file import read_experiment
    from netns_tw.model.folder import FileProblems, Problem, stem
    from netns_tw.model.topology_file import read_topology

    topology = read_topology(folder)
    problems: list[Problem] = []
    experiments: dict[str, Experiment] = {}
    for name in folder.names(f"{EXPERIMENTS}/", ".toml"):
        try:
            experiments[stem(name)] = read_experiment(folder, name, topology)
        except FileProblems as error:
            problems.extend(error.problems)
    if problems:
        raise FileProblems(problems)
    return Lab(topology, experiments)


def files_of(topology: Topology, experiment: Experiment) -> dict[str, str]:
    """The files that an experiment rests on, as they were read, by their paths inside the lab's folder."""
    from netns_tw.model.topology import Nginx

    files = {TOPOLOGY: topology.text, f"{EXPERIMENTS}/{experiment.claim_id}.toml": experiment.text}
    nodes = [*topology.nodes.values(), *experiment.nodes.values()]
    for programs in filter(None, (node.programs for node in nodes)):
        for program in (programs.default, programs.h11, programs.nginx):
            if isinstance(program, Nginx):
                files[program.config] = program.config_text
    return files


def find(names: list[str]) -> Iterator[tuple[Lab, Experiment]]:
    """Yield the experiments that LAB and LAB/CLAIM words mean, each once, in the order given; all where there are none.

    Raises:
        UsageError: a lab or claim does not exist.
    """
    seen: set[tuple[str, str]] = set()
    labs: dict[str, Lab] = {}
    for name in names or shipped_names():
        path, claim = _split(name)
        folder = os.path.realpath(path)  # one lab, whether named or pathed
        if folder not in labs:
            labs[folder] = read_lab(path)
        lab = labs[folder]
        for experiment in [pick(lab, claim)] if claim else lab.experiments.values():
            if (folder, experiment.claim_id) not in seen:
                seen.add((folder, experiment.claim_id))
                yield lab, experiment


def find_one(name: str) -> tuple[Lab, Experiment | None]:
    """The lab that a LAB or LAB/CLAIM word means, and the claim if it names one.

    Raises:
        UsageError: a lab or claim does not exist.
    """
    path, claim = _split(name)
    lab = read_lab(path)
    return lab, pick(lab, claim) if claim else None


def _split(name: str) -> tuple[str, str]:
    """Split LAB/CLAIM; a path that is a lab's folder is one, else its last part is the claim."""
    if "/" not in name or is_lab(name):
        return folder_of(name), ""
    lab, slash, claim = name.rstrip("/").rpartition("/")
    if not slash:
        return folder_of(claim), ""
    return folder_of(lab.removesuffix("/experiments") if claim.endswith(".toml") else lab), claim.removesuffix(".toml")


def pick(lab: Lab, claim: str) -> Experiment:
    """Return the experiment of *lab* called *claim*.

    Raises:
        UsageError: there is none; with the near match.
    """
    if claim not in lab.experiments:
        near = near_match(claim, lab.experiments)
        raise UsageError(f"lab {lab.name} has no claim {claim!r}{near}; see: netns_tw show {lab.name}")
    return lab.experiments[claim]
