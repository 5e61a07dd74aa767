"""How the user called us, for command lines that are to be pasted back."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[2]


def called() -> str:
    """The words that call this command again: ``sudo scripts/run``, ``netns-tw``, ``python -m netns_tw``."""
    sudo = "sudo " if os.environ.get("SUDO_UID") and os.geteuid() == 0 else ""
    own = Path(sys.argv[0])
    if own.name == "netns-tw":
        return f"{sudo}{shlex.quote(str(own)) if sudo else own.name}"
    script = _CHECKOUT / "scripts" / "run"
    if Path(sys.executable).is_relative_to(_CHECKOUT / ".venv") and os.access(script, os.X_OK):
        return f"{sudo}{shlex.quote('scripts/run' if _is_here() else str(script))}"
    return f"{sudo}{shlex.quote(sys.executable)} -P -m netns_tw"


def _is_here() -> bool:
    try:
        return Path.cwd() == _CHECKOUT
    except OSError:  # it was removed
        return False
