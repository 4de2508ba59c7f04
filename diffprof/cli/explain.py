"""`diffprof explain`: one rule's page."""

from __future__ import annotations

import click

from diffprof.cli.output import emit, terminal


@click.command("explain")
@click.argument("rule")
def command(rule: str) -> None:
    """Explain a rule: what it finds, why that is slow, what to write instead.

    RULE is a code or a name, such as SYN001 or value-read; the beginning of codes, such as SYN, lists them.
    """
    from diffprof.judge.rules import all_rules, find_rule
    from diffprof.views.rule_pages import render_rule, render_rules

    screen = terminal()
    group = [each for each in all_rules() if each.code.startswith(rule.strip().upper())]
    if len(group) > 1:
        emit(render_rules(tuple(group), "text", width=screen.columns, colour=screen.colour))
        return
    emit(render_rule(find_rule(rule), width=screen.columns, colour=screen.colour))
