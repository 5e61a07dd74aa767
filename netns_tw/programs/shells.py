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
FALLBACKS = ("bash", "sh")
_PREFIX = f"[${LAB}:${NODE}] "
_FILES = {
    "bashrc": f'[ -r ~/.bashrc ] && . ~/.bashrc\nPS1="{_PREFIX}$PS1"\n',
    ".zshenv": "[ -r ~/.zshenv ] && . ~/.zshenv\n",
    ".zshrc": f'ZDOTDIR=~\n[ -r ~/.zshrc ] && . ~/.zshrc\nPROMPT="{_PREFIX}$PROMPT"\n',
}
_FISH = (
    "functions -c fish_prompt __netns_tw_prompt;"
    f" function fish_prompt; echo -n '['${LAB}':'${NODE}'] '; __netns_tw_prompt; end"
)


def write(folder: Path) -> None:
    """Write what the shells read to a new *folder*."""
    folder.mkdir()
    for name, text in _FILES.items():
        (folder / name).write_text(text, encoding="ascii")


def command(shell: str, folder: Path, lab: str, node: str) -> tuple[list[str], dict[str, str]]:
    """The argv of the user's *shell* (``$SHELL``; bash or sh where that is not there), and variables to set for it."""
    path = next((one for one in (shell, *FALLBACKS) if one and shutil.which(one)), FALLBACKS[-1])
    name = PurePath(path).name
    if name == "bash":
        return [path, "--rcfile", os.fspath(folder / "bashrc"), "-i"], {}
    if name == "zsh":
        return [path, "-i"], {"ZDOTDIR": os.fspath(folder)}
    if name == "fish":
        return [path, "--interactive", "--init-command", _FISH], {}
    return [path, "-i"], {"PS1": f"[{lab}:{node}] $ "}
