"""The command line: one file a command, loaded when it is called."""

from __future__ import annotations

import sys

from diffprof.model.errors import ExitCode


def main() -> None:
    """Entry point of the `diffprof` script."""
    from diffprof.targets.exits import keep_exits_back

    exits = keep_exits_back()
    try:
        try:
            from diffprof.cli.app import app
            from diffprof.model.collection import leave_to_the_system
        except ImportError as error:
            # Python's own status for this, 1, would say that something was found.
            sys.stderr.write(f"error: {error}.\nInstall diffprof with what it needs: pip install diffprof\n")
            sys.exit(ExitCode.INTERNAL)

        try:
            app(prog_name="diffprof")
        except SystemExit as end:
            exits.decided = int(end.code or 0)
            raise
        finally:
            leave_to_the_system()
    except KeyboardInterrupt:
        # Before a command has begun, or after it has ended: see `Commands.invoke` for the time between.
        exits.decided = int(ExitCode.INTERRUPTED)
        sys.stderr.write("error: stopped by Ctrl-C.\n")
        sys.exit(ExitCode.INTERRUPTED)
