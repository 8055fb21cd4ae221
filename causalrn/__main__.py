"""The command line, `causalrn-export` and `python -m causalrn`."""

from __future__ import annotations

import sys

from causalrn.interrupts import EXIT_INTERRUPTED, end_process, raise_interrupts


def main() -> None:
    """Entry point: interrupts are heard before anything else is imported, for that takes a while."""
    raise_interrupts()
    try:
        from causalrn.cli import main as run_command

        run_command()
    except KeyboardInterrupt:
        print("Error: interrupted", file=sys.stderr)
        end_process(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
