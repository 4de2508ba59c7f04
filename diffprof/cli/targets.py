"""`diffprof targets`: what is built in."""

from __future__ import annotations

import click

from diffprof.cli.options import format_option
from diffprof.cli.output import emit, terminal
from diffprof.views.listing import LISTS

_COLUMNS = {"name": "name", "size": "parameters", "description": "what it is"}


@click.command("targets")
@format_option(LISTS)
def command(form: str) -> None:
    """List the built-in architectures with their parameter counts."""
    from diffprof.targets import builtin_targets
    from diffprof.views.listing import render_list
    from diffprof.views.words import parameters

    rows = [
        {
            "name": info.name,
            "description": info.description,
            "source": info.source,
            "parameters": info.parameters,
            "total": sum(info.parameters.values()),
            "size": parameters(sum(info.parameters.values())),
            "call": info.call,
        }
        for info in builtin_targets()
    ]
    screen = terminal()
    note = "Others: a checkpoint folder, a hub id, file.py:function, script.py (see `diffprof scan --help`)."
    emit(render_list(_COLUMNS, rows, form, width=screen.columns, colour=screen.colour, note=note))
