"""`diffprof rules`: the registry as a table."""

from __future__ import annotations

import click

from diffprof.cli.options import format_option
from diffprof.cli.output import emit, terminal
from diffprof.views.listing import LISTS


@click.command("rules")
@format_option(LISTS)
def command(form: str) -> None:
    """List every rule, by analyzer."""
    from diffprof.judge.rules import all_rules
    from diffprof.views.rule_pages import render_rules

    screen = terminal()
    emit(render_rules(all_rules(), form, width=screen.columns, colour=screen.colour))
