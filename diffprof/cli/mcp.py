"""`diffprof mcp`: tools for agents."""

from __future__ import annotations

from pathlib import Path

import click

from diffprof.cli.options import traces_option
from diffprof.model.errors import UsageError


@click.command("mcp")
@traces_option(written=True)
def command(traces: Path) -> None:
    """Serve scan, show, explain, compare and the plan of fixes to an agent, by the Model Context Protocol.

    On stdin and stdout; needs diffprof[mcp]. Reads only: scans are stored in --traces, and nothing else is
    written. A scan runs the code of its target.
    """
    try:
        from diffprof.guard.mcp_server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mcp":
            raise
        raise UsageError(
            "The Model Context Protocol's SDK is not installed, or older than 2.",
            "pip install 'diffprof[mcp]'",
        ) from error
    serve(traces)
