"""The floors of the house: imports point down only, and every file keeps to its size and its words."""

from __future__ import annotations

import ast
import configparser
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "netns_tw"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}

UNDER_ALL = ("netns_tw.errors", "netns_tw.wait", "netns_tw.rules")
PROGRAMS = tuple(
    f"netns_tw.programs.{name}"
    for name in (
        "http11",
        "memo",
        "closing",
        "outcome",
        "server",
        "client",
        "proxy",
        "curl",
        "bare",
        "pace",
        "__main__",
    )
)
LAB = ("netns_tw.kernel", "netns_tw.measure", "netns_tw.model", "netns_tw.programs", *UNDER_ALL)
UP = ("netns_tw.lab", "netns_tw.node", "netns_tw.serving", "netns_tw.wiring", *LAB)
JOB = ("netns_tw.replay", "netns_tw.standing.stage", *UP)
PARALLEL = ("netns_tw.job", *JOB)
EVIDENCE = (
    "netns_tw.evidence",
    "netns_tw.model",
    "netns_tw.verdict",
    "netns_tw.scope",
    "netns_tw.errors",
    "netns_tw.rules",
)
REPORT = ("netns_tw.report", *EVIDENCE)
SESSION = ("netns_tw.parallel", "netns_tw.runs", *PARALLEL, *REPORT)
ROSTER = (
    "netns_tw.standing.roster",
    "netns_tw.standing.entry",
    "netns_tw.kernel",
    "netns_tw.programs.shells",
    *UNDER_ALL,
)
BRINGUP = ("netns_tw.standing.bringup", "netns_tw.standing.answer", *ROSTER, *UP)
VISIT = ("netns_tw.standing.visit", "netns_tw.standing.lookout", "netns_tw.standing.stage", *BRINGUP, *PARALLEL)
DOCTOR = (
    "netns_tw.doctor",
    "netns_tw.standing.roster",
    "netns_tw.standing.entry",
    "netns_tw.kernel",
    "netns_tw.model",
    "netns_tw.programs.choice",
    "netns_tw.runs",
)
COMMANDS = (
    "netns_tw.commands",
    "netns_tw.lesson",
    "netns_tw.grade",
    "netns_tw.doctor",
    "netns_tw.session",
    *SESSION,
    *VISIT,
)
ALLOWED = {
    "netns_tw.errors": (),
    "netns_tw.wait": (),
    "netns_tw.rules": (),
    "netns_tw.kernel": ("netns_tw.kernel", *UNDER_ALL),
    "netns_tw.model": ("netns_tw.model", *UNDER_ALL),
    "netns_tw.programs": (),
    **dict.fromkeys(PROGRAMS, ("netns_tw.programs", "netns_tw.rules")),
    "netns_tw.programs.nginx": ("netns_tw.programs", "netns_tw.model", "netns_tw.errors"),
    "netns_tw.programs.choice": ("netns_tw.programs", "netns_tw.model", "netns_tw.errors"),
    "netns_tw.measure": ("netns_tw.measure", "netns_tw.kernel", "netns_tw.errors", "netns_tw.wait"),
    "netns_tw.wiring": LAB,
    "netns_tw.node": LAB,
    "netns_tw.serving": ("netns_tw.node", *LAB),
    "netns_tw.lab": ("netns_tw.node", "netns_tw.serving", "netns_tw.wiring", *LAB),
    "netns_tw.replay": UP,
    "netns_tw.scope": ("netns_tw.model",),
    "netns_tw.verdict": ("netns_tw.scope", "netns_tw.model", "netns_tw.errors"),
    "netns_tw.evidence": EVIDENCE,
    "netns_tw.job": JOB,
    "netns_tw.parallel": PARALLEL,
    "netns_tw.runs": UNDER_ALL,
    "netns_tw.doctor": (*DOCTOR, *UNDER_ALL),
    "netns_tw.grade": EVIDENCE,
    "netns_tw.report": REPORT,
    "netns_tw.report.lesson": (*REPORT, "netns_tw.grade"),
    "netns_tw.report.saved": (*REPORT, "netns_tw.runs"),
    "netns_tw.report.progress": (*REPORT, "netns_tw.job", "netns_tw.parallel"),
    "netns_tw.report.live_screen": (*REPORT, "netns_tw.kernel.sandbox"),
    "netns_tw.report.live_replay": (*REPORT, "netns_tw.job", "netns_tw.parallel"),
    "netns_tw.session": SESSION,
    "netns_tw.standing.answer": ("netns_tw.kernel", *UNDER_ALL),
    "netns_tw.standing.stage": ("netns_tw.node", "netns_tw.lab", "netns_tw.model", *UNDER_ALL),
    "netns_tw.standing.entry": ("netns_tw.kernel", *UNDER_ALL),
    "netns_tw.standing.roster": ROSTER,
    "netns_tw.standing.bringup": BRINGUP,
    "netns_tw.standing.lookout": JOB,
    "netns_tw.standing.visit": VISIT,
    "netns_tw.report.standing": (*REPORT, "netns_tw.standing", "netns_tw.programs"),
    "netns_tw.lesson": ("netns_tw.session", "netns_tw.grade", *SESSION),
    "netns_tw.commands": COMMANDS,
    "netns_tw.cli": COMMANDS,
    "netns_tw.__main__": ("netns_tw.cli", *UNDER_ALL),
}
"""What a module, or every module of a package, may import of the project; the longest name that fits decides."""
FOREIGN = {
    "argcomplete": {"netns_tw.commands.completion"},
    "pyroute2": {"netns_tw.kernel.reference"},
    "nsenter": {"netns_tw.kernel.reference"},
    "h11": set(PROGRAMS),
    "msgspec": {"netns_tw.model.lines"},
    "jinja2": {"netns_tw.report.html"},
    "pygal": {"netns_tw.report.charts"},
    "rich": {
        "netns_tw.report.lesson",
        "netns_tw.report.budget",
        "netns_tw.report.diff",
        "netns_tw.report.standing",
        "netns_tw.report.console",
        "netns_tw.report.lab",
        "netns_tw.report.text",
        "netns_tw.report.progress",
        "netns_tw.report.live_screen",
    },
}
"""Who may import what is neither ours nor Python's."""
MAY_SLEEP = {"netns_tw.wait", "netns_tw.programs.pace"}


def is_below(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == one or module.startswith(f"{one}.") for one in packages)


def rule_of(module: str) -> tuple[str, ...]:
    fitting = [name for name in ALLOWED if is_below(module, (name,))]
    return ALLOWED[max(fitting, key=len)] if fitting else ()


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every module that is imported, anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, one.name) for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for one in node.names:
                whole = f"{node.module}.{one.name}"
                yield node.lineno, whole if whole in MODULES else str(node.module)


def problems_of_imports(module: str, tree: ast.AST) -> list[str]:
    found = []
    for line, name in imports(tree):
        top = name.split(".")[0]
        if top == "netns_tw":
            is_good = name == "netns_tw" or is_below(name, rule_of(module))
        else:
            is_good = top in sys.stdlib_module_names or module in FOREIGN.get(top, set())
        if not is_good:
            found.append(f"{module}:{line} imports {name}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_only(module: str) -> None:
    """A module imports only what its floor may, Python's own library, and foreign packages where they are wrapped."""
    assert problems_of_imports(module, ast.parse(MODULES[module].read_text())) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("netns_tw.kernel.netns", "from netns_tw.model import topology"),
        ("netns_tw.kernel.link", "import netns_tw.lab"),
        ("netns_tw.model.reader", "from netns_tw.kernel import netns"),
        ("netns_tw.model.labs", "def late():\n    from netns_tw import verdict"),
        ("netns_tw.programs.server", "from netns_tw.errors import Skip"),
        ("netns_tw.programs.server", "from netns_tw.model.topology import Listen"),
        ("netns_tw.verdict", "from netns_tw.report import text"),
        ("netns_tw.verdict", "from netns_tw.wait import wait_until"),
        ("netns_tw.report.text", "from netns_tw import parallel"),
        ("netns_tw.parallel", "from netns_tw import session"),
        ("netns_tw.lab", "from pyroute2 import IPRoute"),
        ("netns_tw.kernel.sandbox", "import nsenter"),
        ("netns_tw.newcomer", "from netns_tw import errors"),
    ],
)
def test_an_arrow_up_is_seen(module: str, line: str) -> None:
    """The walk itself finds arrows that point up, late imports and unknown modules too."""
    assert len(problems_of_imports(module, ast.parse(line))) == 1


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_are_short(module: str) -> None:
    """A file has at most 300 lines, a function at most 50."""
    text = MODULES[module].read_text()
    assert len(text.splitlines()) <= 300
    functions = [one for one in ast.walk(ast.parse(text)) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [one.name for one in functions if (one.end_lineno or 0) - one.lineno >= 50] == []


def undocumented(tree: ast.Module, module: str) -> Iterator[str]:
    """Public names without a docstring.

    Dunder methods, close() and a property or method of one return statement speak for themselves; a method that
    overrides a documented one of its base is documented there.
    """
    if not ast.get_docstring(tree):
        yield module
    owners: list[ast.Module | ast.ClassDef] = [tree, *(one for one in tree.body if isinstance(one, ast.ClassDef))]
    for owner in owners:
        for one in owner.body:
            if not isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or one.name.startswith("_"):
                continue
            is_inherited = isinstance(owner, ast.ClassDef) and (owner.bases or owner.name.startswith("_"))
            is_plain = isinstance(owner, ast.ClassDef) and isinstance(one.body[0], ast.Return)
            if not ast.get_docstring(one) and not is_inherited and not is_plain and one.name != "close":
                yield f"{module}.{one.name}"


@pytest.mark.parametrize("module", MODULES)
def test_public_names_have_a_docstring(module: str) -> None:
    """Every module, public class and public function says what it is."""
    assert list(undocumented(ast.parse(MODULES[module].read_text()), module)) == []


def crossings(tree: ast.AST) -> list[int]:
    """Lines where a block that is inside a namespace gives up control."""
    found = []
    for block in ast.walk(tree):
        if isinstance(block, ast.With) and any(
            isinstance(one.context_expr, ast.Call) and ast.unparse(one.context_expr.func) in ("netns.enter", "enter")
            for one in block.items
        ):
            inside = [node for one in block.body for node in ast.walk(one)]
            found += [one.lineno for one in inside if isinstance(one, ast.Await | ast.Yield | ast.YieldFrom)]
    return found


@pytest.mark.parametrize("module", [name for name in MODULES if name != "netns_tw.kernel.netns"])
def test_nothing_leaves_an_entered_namespace_half_way(module: str) -> None:
    """No ``await`` and no ``yield`` inside ``with netns.enter(...)``: other code would run in the wrong namespace."""
    assert crossings(ast.parse(MODULES[module].read_text())) == []


def test_a_crossing_is_seen() -> None:
    """The walk finds a yield below netns.enter(), and none beside it."""
    assert crossings(ast.parse("def f():\n    with a, netns.enter(x):\n        if y:\n            yield 1\n")) == [4]
    assert crossings(ast.parse("def f():\n    with netns.enter(x):\n        pass\n    yield 1\n")) == []


def sleeps(tree: ast.AST) -> list[int]:
    calls = [one for one in ast.walk(tree) if isinstance(one, ast.Call)]
    return [one.lineno for one in calls if ast.unparse(one.func) in ("time.sleep", "sleep")]


@pytest.mark.parametrize("module", [name for name in MODULES if name not in MAY_SLEEP])
def test_nobody_sleeps_but_wait_and_the_clients_pace(module: str) -> None:
    """A wait names its condition (wait.py); only the client's pace is time itself."""
    assert sleeps(ast.parse(MODULES[module].read_text())) == []


def test_setup_cfg_names_every_package() -> None:
    """packages= in setup.cfg are the folders that hold Python files, and the labs."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    named = config["options"]["packages"].split()
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in FILES}
    assert sorted(named) == sorted({*folders, "netns_tw.topologies"})
    assert [path for path in folders if not (ROOT / Path(*path.split(".")) / "__init__.py").is_file()] == []
