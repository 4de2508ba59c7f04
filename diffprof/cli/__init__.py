"""The command line: one file a command, loaded when it is called."""

from __future__ import annotations

import sys

from diffprof.model.errors import ExitCode


def main() -> None:
    """Entry point of the `diffprof` script."""
    try:
        from diffprof.cli.app import app
        from diffprof.model.collection import leave_to_the_system

        try:
            app(prog_name="diffprof")
        finally:
            leave_to_the_system()
    except KeyboardInterrupt:
        # Before a command has begun, or after it has ended: see `Commands.invoke` for the time between.
        sys.stderr.write("error: stopped by Ctrl-C.\n")
        sys.exit(ExitCode.INTERRUPTED)
