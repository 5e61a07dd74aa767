"""completion: what Tab offers in bash, zsh and fish. The one module that knows argcomplete.

The shell's script runs the command itself with ``_ARGCOMPLETE`` set and the line so far in ``COMP_LINE``; argcomplete
walks the parser along that line and asks the completer of the argument under the cursor. So what Tab offers cannot
differ from what the parser takes.

Which completer an argument has is said by its metavar, its kind as the help names it: an argument of kind ``LAB`` gets
labs in whatever command. A new kind is a new row in COMPLETERS; an option that differs from its kind has its own row.

A Tab must be quick and never talk: completers list folders and read no experiment, a broken file is no reason to offer
less than the rest, and whatever goes wrong, nothing is printed. Without ``_ARGCOMPLETE`` this is not imported.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from netns_tw.commands import Add
from netns_tw.errors import EXIT_FAIL, EXIT_PASS, UsageError
from netns_tw.model import labs
from netns_tw.rules import TOPOLOGY
from netns_tw.runs import SUFFIX

SHELLS = {
    "bash": 'eval "$(netns-tw completion bash)"      in ~/.bashrc',
    "zsh": 'eval "$(netns-tw completion zsh)"       in ~/.zshrc, after compinit',
    "fish": "netns-tw completion fish | source       in ~/.config/fish/config.fish",
}
"""The shells, and the line that makes each complete."""
COMMAND = "netns-tw"
_OURS = re.compile(r"(?:^|[\s;&|(])(?=(?:\S*/)?(?:netns-tw|scripts/run)\s)")
"""Where a line calls us, by the names that completion is offered for."""

Completer = Callable[[str, argparse.Namespace], Iterable[str]]
"""What may stand where a word begins so, given what was typed before; what does not begin so is left out."""


def answer(parser: argparse.ArgumentParser) -> NoReturn:
    """Tell the shell, on fd 8, what may come next on its line; then exit. Nothing is ever printed."""
    try:
        from argcomplete import autocomplete
        from argcomplete.completers import SuppressCompleter

        _cut_to_our_call(os.environ)
        _attach(parser)
        autocomplete(parser, always_complete_options=False, default_completer=SuppressCompleter())  # exits
    except Exception:
        pass  # the user is typing: no completion is better than a traceback between the words
    os._exit(EXIT_FAIL)


def _cut_to_our_call(environ: MutableMapping[str, str]) -> None:
    """Take from the shell's line the part that calls us: of ``sudo scripts/run list``, what begins at scripts/run.

    zsh gives the whole line, fish the simple command with its ``sudo``, bash no more than what is ours.
    """
    line, point = environ["COMP_LINE"], int(environ["COMP_POINT"])
    start = max((found.end() for found in _OURS.finditer(line[:point])), default=0)
    environ["COMP_LINE"], environ["COMP_POINT"] = line[start:], str(point - start)


def _attach(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                _attach(one)
        elif (completer := completer_of(action)) is not None:
            vars(action)["completer"] = _as_argcomplete_asks(completer)


def completer_of(action: argparse.Action) -> Completer | None:
    """The completer of an argument, by its option's long name, else by its metavar."""
    keys = [*action.option_strings, action.metavar]
    return next((COMPLETERS[key] for key in keys if isinstance(key, str) and key in COMPLETERS), None)


def _as_argcomplete_asks(completer: Completer) -> Callable[..., list[str]]:
    def complete(prefix: str, action: argparse.Action, parsed_args: argparse.Namespace, **_: object) -> list[str]:
        found: list[str] = []
        is_one_word = not action.option_strings and action.nargs in (None, "?")
        if is_one_word and getattr(parsed_args, action.dest, None) is not None:
            return found  # argcomplete asks again for words that stand before a command's own words
        with suppress(Exception):  # a folder that cannot be read: what was found so far
            for one in completer(prefix, parsed_args):
                if one.startswith(prefix) and one.isprintable():
                    found.append(one)
        return found

    return complete


def _entries(prefix: str) -> Iterator[tuple[str, bool]]:
    """The paths that begin with *prefix*, as they would be typed, and whether each is a folder; none is no error."""
    folder, slash, start = prefix.rpartition("/")
    found: list[os.DirEntry[str]] = []
    with suppress(OSError), os.scandir(os.path.expanduser(folder + slash) or ".") as entries:
        found = sorted(entries, key=lambda one: one.name)
    for entry in found:
        if entry.name.startswith(start) and entry.name.startswith(".") <= start.startswith("."):
            yield f"{folder}{slash}{entry.name}", entry.is_dir()


def _folders(prefix: str, given: argparse.Namespace) -> Iterator[str]:
    return (f"{path}/" for path, is_folder in _entries(prefix) if is_folder)


def _files(prefix: str, given: argparse.Namespace) -> Iterator[str]:
    return (f"{path}/" if is_folder else path for path, is_folder in _entries(prefix))


def _anything(prefix: str, given: argparse.Namespace) -> Iterator[str]:
    """A word of the user's own: nothing is offered."""
    return iter(())


def _records(prefix: str, given: argparse.Namespace) -> Iterator[str]:
    return (one for one in _files(prefix, given) if one.endswith(("/", SUFFIX)))


def _labs(prefix: str, given: argparse.Namespace) -> Iterator[str]:
    """Labs by name, and folders once a path is begun; ``./mylab`` where a lab lies in this folder."""
    if prefix.startswith(("/", "~", ".")) or "/" in prefix:
        yield from _folders(prefix, given)
    else:
        yield from labs.shipped_names()
    if prefix in ("", "."):
        yield from (f"./{path}/" for path, is_folder in _entries("") if is_folder and labs.is_lab(path))


def _in_labs(prefix: str, inside: Callable[[str], Iterable[str]]) -> Iterator[str]:
    """LAB/SOMETHING of the labs that *prefix* may mean."""
    lab = prefix.rpartition("/")[0]
    if lab and labs.is_lab(os.path.expanduser(lab)):
        yield from (f"{lab}/{one}" for one in inside(os.path.expanduser(lab)))
    elif prefix.count("/") <= 1:
        for name in labs.shipped_names():
            if name.startswith(lab or prefix):
                yield from (f"{name}/{one}" for one in inside(labs.folder_of(name)))


def _claims_in(folder: str) -> list[str]:
    return sorted(path.stem for path in Path(folder, labs.EXPERIMENTS).glob("*.toml"))


def _nodes_in(folder: str) -> list[str]:
    with suppress(OSError, ValueError):  # another lab's nodes are offered all the same
        return list(tomllib.loads(Path(folder, TOPOLOGY).read_text(encoding="utf-8")).get("nodes", {}))
    return []


def _claims(prefix: str, given: argparse.Namespace) -> Iterator[str]:
    """Claims of the lab that is typed already; of all labs where none is."""
    lab = getattr(given, "lab", None)
    for folder in [labs.folder_of(os.path.expanduser(lab))] if lab else map(labs.folder_of, labs.shipped_names()):
        yield from _claims_in(folder)


def _labs_and_claims(prefix: str, given: argparse.Namespace) -> Iterator[str]:
    yield from _labs(prefix, given)
    if prefix:  # else the labs alone: one more letter asks for their claims
        yield from _in_labs(prefix, _claims_in)


def _labs_nodes(prefix: str, given: argparse.Namespace) -> Iterator[str]:
    if "/" in prefix or not prefix:
        yield from (one for one in _labs(prefix, given) if one.endswith("/"))
    yield from _in_labs(prefix, _nodes_in)


def _labs_and_folders(prefix: str, given: argparse.Namespace) -> Iterator[str]:
    yield from _labs(prefix, given)
    yield from _folders(prefix, given)


def _up(prefix: str, given: argparse.Namespace) -> Iterator[str]:
    """Labs that are up, by their entries; whether each still lives is not asked: that takes locks, and removes."""
    return (name for name, _ in _entries_of_labs())


def _nodes_up(prefix: str, given: argparse.Namespace) -> Iterator[str]:
    """Nodes of the lab that is typed already."""
    return (node for name, nodes in _entries_of_labs() if name == getattr(given, "name", None) for node in nodes)


def _entries_of_labs() -> Iterator[tuple[str, list[str]]]:
    from netns_tw.standing import entry, roster

    folder = roster.folder()
    if os.stat(folder).st_uid == os.geteuid():
        for path in sorted(folder.iterdir()):
            with suppress(UsageError):
                found = entry.read(path)
                yield found.name, found.nodes


COMPLETERS: dict[str, Completer] = {
    "LAB": _labs,
    "LAB[/CLAIM]": _labs_and_claims,
    "LAB/NODE": _labs_nodes,
    "CLAIM": _claims,
    "PATH": _labs_and_folders,
    "RECORD": _records,
    "A": _records,
    "B": _records,
    "DIR": _folders,
    "FILE": _files,
    "ANSWERS": _files,
    "NAME": _up,
    "NODE": _nodes_up,
    "--name": _anything,
}
"""By an argument's metavar or, before it, an option's name."""


def declare(add: Add) -> None:
    """Add the command."""
    command = add(
        "completion",
        "python -m netns_tw completion bash",
        _completion,
        json=False,
    )
    checkout = 'eval "$(scripts/run completion bash scripts/run)"      in a checkout'
    lines = "\n".join(f"  {line}" for line in (*SHELLS.values(), checkout))
    command.description = f"{command.description}\n\n{lines}"
    command.add_argument("shell", choices=list(SHELLS), metavar="SHELL", help=f"one of {', '.join(SHELLS)}")
    word = f"complete for these commands, such as scripts/run, with the answers of this one (default: {COMMAND})"
    command.add_argument("words", nargs="*", default=[], metavar="WORD", help=word)


def _completion(given: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode

    own = str(_own_path()) if given.words else None
    if own and given.shell == "fish":  # quoted by argcomplete for the others
        own = shlex.quote(own)
    words = given.words or [COMMAND]
    if given.shell != "bash":  # zsh and fish look a relative path up as an absolute one
        words = [os.path.abspath(one) if "/" in one else one for one in words]
    # without "-o default": where nothing fits, a file's name would not fit either
    print(shellcode(words, shell=given.shell, complete_arguments=["-o", "nospace"], argcomplete_script=own))
    return EXIT_PASS


def _own_path() -> Path:
    """The file that runs this very netns_tw: the console script, or the checkout's scripts/run.

    Raises:
        UsageError: there is none.
    """
    checkout = Path(__file__).resolve().parents[2]
    beside_python = Path(sys.executable).parent / COMMAND
    for path in (checkout / "scripts" / "run", Path(sys.argv[0]).absolute(), beside_python):
        if path.name in ("run", COMMAND) and os.access(path, os.X_OK):
            return path
    raise UsageError(f"no {COMMAND} script lies beside {sys.executable}; leave WORD out")
