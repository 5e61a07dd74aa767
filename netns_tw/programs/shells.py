"""A shell of the user's with a prompt that says where it is.

Each shell is asked in its own words to read its usual start-up files first and to put lab and node before the prompt
that comes out of them. bash takes a file, zsh a folder: both lie in the lab's own files. A shell that is not known gets
a plain prompt by PS1.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePath

LAB, NODE = "NETNS_TW_LAB", "NETNS_TW_NODE"
"""Variables that whatever is run on a node finds set."""
FOLDER = Path("/run/netns_tw/.shells")
"""In a lab: what shells read. Nowhere else is such a folder."""
FALLBACKS = ("bash", "sh")
NO_SHELLS = ("nologin", "false", "true")
"""What passwd(5) gives those who are not to log in."""
_ZDOTDIR = "_NETNS_TW_ZDOTDIR"
"""Where the user's own files for zsh lie, while it is shown ours; .zshenv may choose another place (zsh(1))."""
_PREFIX = f"[${LAB}:${NODE}] "
_FILES = {
    "bashrc": f'[ -r ~/.bashrc ] && . ~/.bashrc\nPS1="{_PREFIX}$PS1"\n',
    ".zshenv": (
        f"_netns_tw=$ZDOTDIR ZDOTDIR=${{{_ZDOTDIR}:-$HOME}}\n"
        "[ -r $ZDOTDIR/.zshenv ] && . $ZDOTDIR/.zshenv\n"
        f"{_ZDOTDIR}=$ZDOTDIR ZDOTDIR=$_netns_tw\n"
    ),
    ".zshrc": (
        f"ZDOTDIR=${_ZDOTDIR}\nunset {_ZDOTDIR} _netns_tw\n"
        f'[ -r $ZDOTDIR/.zshrc ] && . $ZDOTDIR/.zshrc\nPROMPT="{_PREFIX}$PROMPT"\n'
    ),
}
_FISH = (
    "functions -c fish_prompt __netns_tw_prompt;"
    f" function fish_prompt; echo -n '['${LAB}':'${NODE}'] '; __netns_tw_prompt; end"
)


def write() -> None:
    """Write what the shells read; inside a lab."""
    FOLDER.mkdir()
    for name, text in _FILES.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def command(shell: str, lab: str, node: str) -> tuple[list[str], dict[str, str]]:
    """The argv of the user's *shell* (``$SHELL``; bash or sh where that is not there), and variables to set for it."""
    wanted = (shell,) if PurePath(shell).name not in NO_SHELLS else ()
    path = next((one for one in (*wanted, *FALLBACKS) if one and shutil.which(one)), FALLBACKS[-1])
    name = PurePath(path).name
    if name == "bash":
        return [path, "--rcfile", os.fspath(FOLDER / "bashrc"), "-i"], {}
    if name == "zsh":
        return [path, "-i"], {"ZDOTDIR": os.fspath(FOLDER), _ZDOTDIR: os.environ.get("ZDOTDIR", "")}
    if name == "fish":
        return [path, "--interactive", "--init-command", _FISH], {}
    return [path, "-i"], {"PS1": f"[{lab}:{node}] $ "}
