"""A node that is up: what a lab, its programs and its observers hold of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from netns_tw.measure.observer import Observer

if TYPE_CHECKING:
    import subprocess


class RunningNode:
    """A node that is up: its folder, its effective sysctls, its observer, its program."""

    def __init__(self, name: str, folder: str, observer: Observer) -> None:
        self.name = name
        self.folder = folder
        self.observer = observer
        self.sysctls: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self._log_at = 0

    @property
    def log(self) -> str:
        """What the node's program wrote."""
        return f"{self.folder}/log"

    def new_log_lines(self) -> list[str]:
        """Return the whole lines that the program logged since the last call."""
        if not os.path.exists(self.log):
            return []
        with open(self.log, "rb") as log:
            log.seek(self._log_at)
            whole, newline, _ = log.read().rpartition(b"\n")
        self._log_at += len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines()
