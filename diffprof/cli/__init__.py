"""The command line: one file a command, loaded when it is called."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `diffprof` script."""
    from diffprof.cli.app import app
    from diffprof.collection import leave_to_the_system

    try:
        app(prog_name="diffprof")
    finally:
        leave_to_the_system()
