"""``python -m netns_tw``."""

import sys

from netns_tw.cli import main

if __name__ == "__main__":
    sys.exit(main())
