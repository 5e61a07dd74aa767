"""Run by its folder: ``.venv/bin/python -P scripts/benchmarks``; scripts/bench sets up what it needs."""

import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder itself, whose modules are a package's
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.default_int_handler)
    from benchmarks.command import main

    sys.exit(main())
