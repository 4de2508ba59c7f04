"""The command line: one file a command, loaded when it is called."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `diffprof` script."""
    from diffprof.cli.app import app

    app(prog_name="diffprof")
