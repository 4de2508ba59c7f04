"""`diffprof explain`: one rule's page."""

from __future__ import annotations

import click

from diffprof.cli.output import emit, terminal


@click.command("explain")
@click.argument("rule")
def command(rule: str) -> None:
    """Explain a rule: what it finds, why that is slow, what to write instead.

    RULE is a code or a name, such as SYN001 or value-read.
    """
    from diffprof.rules import find_rule
    from diffprof.views.rule_pages import render_rule

    screen = terminal()
    emit(render_rule(find_rule(rule), width=screen.columns, colour=screen.colour))
