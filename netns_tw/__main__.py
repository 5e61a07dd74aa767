"""``python -m netns_tw``: the command, and what a signal does to it at any moment.

The handlers are set before anything else is imported, so that the first milliseconds are no exception.
"""

import signal
import sys

EXIT_INTERRUPTED = 130
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run the command line; SIGINT, SIGTERM and SIGHUP end it with exit code 130, and leave nothing behind."""
    for signum in ENDING:
        signal.signal(signum, signal.default_int_handler)
    try:
        from netns_tw import cli

        code = cli.main()
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    for signum in ENDING:  # the result stands; Python's own way out is not to be interrupted
        signal.signal(signum, signal.SIG_IGN)
    if code == EXIT_INTERRUPTED:
        print("netns_tw: interrupted; nothing is left behind", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
