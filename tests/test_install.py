"""``pip install .`` gives a netns-tw command that finds its labs; the checkout stays clean."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.netns


def run(*argv: str | Path, cwd: Path) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{argv}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_an_installed_netns_tw_lists_and_replays_its_labs(tmp_path: Path) -> None:
    """From a wheel, in a fresh virtual environment, in a folder that is no checkout."""
    source = tmp_path / "source"
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    venv.create(tmp_path / "venv", symlinks=True)
    into = tmp_path / "venv" / "bin" / "python"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", into, "--disable-pip-version-check"]
    run(*pip, "install", "-q", source, cwd=tmp_path)
    command = tmp_path / "venv" / "bin" / "netns-tw"
    shown = run(command, "list", cwd=tmp_path)
    assert [word for word in ("crowd", "direct", "lb3ports", "scale") if f"\n{word}: " not in f"\n{shown}"] == []
    replayed = run(command, "replay", "lb3ports/keepalive-requests-is-a-budget", "-q", cwd=tmp_path)
    assert "1 pass" in replayed
