"""Options from the environment: a CI job sets ``NETNS_TW_OUT`` once, and each command that has ``--out`` obeys.

The variable is the option's long name in capitals. The rules, the same for all:

* The command line wins. That includes what cannot go together: where the command line asks for an output that needs
  standard output for itself (``--ktap``, ``--hold``), a variable that asks for another (``NETNS_TW_JSON``) stands back.
* A variable that is set for a whole job must not break the commands that know nothing of it: those take no notice, not
  even of a bad value.
* An empty variable counts as unset. So ``NETNS_TW_JSON= netns_tw list`` prints text in a job that asks for JSON.
* A bad value, and two variables that cannot go together, end the command before anything is made, and the message
  names the variables, since nobody typed the options. A variable that is none of ours is a warning: it may be a typo.

An option is listed below when it says *how* to run or where results go. What says *which* experiment, lab or question
(``--only``, ``--range``) belongs to one command line, and what asks for a terminal (``--hold``) to a person.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping

from netns_tw.commands.streams import is_stdout
from netns_tw.errors import UsageError, near_match
from netns_tw.rules import CLIENTS, LINKS, SERVERS

PREFIX = "NETNS_TW_"
OPTIONS = {
    "client": f"--client {'|'.join(CLIENTS)}",
    "server": f"--server {'|'.join(SERVERS)}",
    "links": f"--links {'|'.join(LINKS)}",
    "jobs": "-j/--jobs N",
    "out": "--out DIR",
    "keep": "--keep N",
    "pcap": "--pcap DIR",
    "junit": "--junit FILE",
    "html": "--html FILE",
    "ktap": "--ktap",
    "quiet": "-q/--quiet",
    "json": "--json",
}
"""Options that have a variable, in every command that has the option: by long name, and as the first page has them."""
OTHERS = {
    "NETNS_TW_RUNS": "the folder of the kept runs (~/.local/state/netns_tw/runs)",
    "NETNS_TW_LABS": "the folder of the labs that are up (/run/netns_tw, or in $XDG_RUNTIME_DIR)",
    "NETNS_TW_LAB": "set for what runs on a node: the lab's name",
    "NETNS_TW_NODE": "set for what runs on a node: the node's name",
}
"""Variables that are no option's, and what they mean."""
OF_TESTS = ("NETNS_TW_TEST_RUN", "NETNS_TW_WRITE_EXPECTED", "NETNS_TW_STRESS_RUNS")
BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

_PRINTED = ("json", "ktap", "junit", "html")
"""Outputs that may want standard output for themselves."""
_OWN_SCREEN = ("hold", "watch", "mermaid")
"""Options, of the command line alone, that say what standard output shows; no other output goes with them."""
_ALSO_NOT_WITH = {"hold": "pcap", "watch": "quiet"}
"""What else does not go with one of those."""


class NotTyped:
    """Stands as an option's default until :func:`fill` knows whether its variable is set."""

    def __init__(self, action: argparse.Action, default: object) -> None:
        self.action = action
        self.default = default

    def __str__(self) -> str:
        return str(self.default)


def variable(option: str) -> str:
    """The variable of an option's long name."""
    return PREFIX + option.upper().replace("-", "_")


def of_action(action: argparse.Action) -> str:
    """The variable of an option; empty where it has none."""
    return next((variable(one) for one in OPTIONS if f"--{one}" in action.option_strings), "")


def attach(actions: Iterable[argparse.Action]) -> None:
    """Let those of a command's options that have a variable say so in their help, and wait for :func:`fill`."""
    for action in actions:
        name = of_action(action)
        if name:
            action.help = f"{action.help} [env: {name}]"
            action.default = NotTyped(action, action.default)


def fill(given: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Give each option that was not typed its variable's value, else its default; :func:`said` tells them apart.

    Raises:
        UsageError: variables have bad values; all of them are named.
    """
    waiting = {name: value for name, value in vars(given).items() if isinstance(value, NotTyped)}
    typed = {name: value for name, value in vars(given).items() if name not in waiting}
    is_taken = any(typed.get(name) for name in _OWN_SCREEN) or any(_prints(typed.get(name)) for name in _PRINTED)
    given.variables = {}
    problems = []
    for name, one in waiting.items():
        setattr(given, name, one.default)
        word = environ.get(of_action(one.action), "")
        if not word:
            continue
        try:
            value = _value(one.action, word)
        except UsageError as error:
            problems.append(str(error))
            continue
        is_excluded = any(typed.get(taken) and name == other for taken, other in _ALSO_NOT_WITH.items())
        if not is_excluded and not (is_taken and name in _PRINTED and _prints(value)):
            setattr(given, name, value)
            given.variables[name] = of_action(one.action)
    if problems:
        raise UsageError("\n".join(problems))


def _prints(value: object) -> bool:
    return value is True or is_stdout(value)


def _value(action: argparse.Action, word: str) -> object:
    """What argparse would make of *word* as the option's value; of an option without one, a yes or no."""
    name = of_action(action)
    if action.nargs == 0:
        if word.lower() not in BOOLEANS:
            near = near_match(word.lower(), BOOLEANS)
            raise UsageError(f"{name}: {word!r} is neither yes (1, true, yes) nor no (0, false, no){near}")
        return BOOLEANS[word.lower()]
    try:
        value = action.type(word) if callable(action.type) else word
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{name}: {error}") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: {word!r} is no good value") from error
    if action.choices is not None and value not in action.choices:
        allowed = [str(one) for one in action.choices]
        raise UsageError(f"{name}: {word!r} is none of {', '.join(allowed)}{near_match(word, allowed)}")
    return value


def said(given: argparse.Namespace, option: str, value: object = None) -> str:
    """How an option was asked for, and with which value: ``--junit x.xml``, or ``NETNS_TW_JUNIT=x.xml``."""
    variables: dict[str, str] = getattr(given, "variables", {})
    name, between = (variables[option], "=") if option in variables else (f"--{option}", " ")
    return name if value is None else f"{name}{between}{value}"


def warnings(environ: Mapping[str, str]) -> list[str]:
    """A line for each variable that looks like ours and is not: a typo would otherwise go unseen."""
    ours = [*map(variable, OPTIONS), *OTHERS]
    strange = [name for name in environ if name.startswith(PREFIX) and name not in (*ours, *OF_TESTS) and environ[name]]
    return [f"warning: {name} is no variable of netns_tw{_near(name, ours)}" for name in sorted(strange)]


def _near(name: str, ours: list[str]) -> str:
    """The near match of a variable, by what follows the prefix: all are alike before."""
    found = near_match(name.removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in ours])
    return found.replace("'", f"'{PREFIX}", 1)
