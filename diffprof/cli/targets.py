"""`diffprof targets`: what is built in."""

from __future__ import annotations

import click

from diffprof.cli.options import format_option
from diffprof.cli.output import emit, terminal
from diffprof.model.errors import UsageError
from diffprof.views.listing import LISTS

_COLUMNS = {"name": "name", "size": "parameters", "description": "what it is"}


@click.command("targets")
@click.option("--search", metavar="TEXT", default="", help="Only those that mention it.")
@format_option(LISTS)
def command(search: str, form: str) -> None:
    """List the built-in architectures with their parameter counts."""
    from diffprof.targets import builtin_targets, near_builtins
    from diffprof.views.listing import render_list
    from diffprof.views.words import parameters

    rows = [
        {
            "name": info.name,
            "description": info.description,
            "source": info.source,
            "aliases": info.aliases,
            "tiny": info.tiny,
            "pipeline": info.pipeline,
            "licence": info.licence,
            "dtype": info.dtype,
            "steps": info.steps,
            "parameters": info.parameters,
            "total": sum(info.parameters.values()),
            "size": parameters(sum(info.parameters.values())),
            "verified": info.verified,
            "checked_by": info.checked_by,
            "stated": info.stated,
            "call": info.call,
        }
        for info in builtin_targets()
        if info.mentions(search)
    ]
    if not rows:
        near = near_builtins(search)
        raise UsageError(
            f"No built-in architecture mentions {search!r}.",
            near or "`diffprof targets` lists all of them.",
        )
    screen = terminal()
    note = "Each has a small form with real values that any CPU runs: tiny-flux, tiny-sd15, ...\n"
    note += "Others: a checkpoint folder, a hub id, file.py:function, script.py (see `diffprof scan --help`)."
    emit(render_list(_COLUMNS, rows, form, width=screen.columns, colour=screen.colour, note=note))
