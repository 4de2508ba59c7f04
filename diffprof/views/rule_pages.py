"""Rules as a table and as pages: the docstring of each, the same text everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from diffprof.judge.rules import HEADINGS, Rule
from diffprof.views.listing import render_list
from diffprof.views.page import Page

_COLUMNS = {"code": "code", "name": "name", "analyzer": "analyzer", "summary": "what it finds"}


def render_rules(rules: Sequence[Rule], form: str, *, width: int | None = None, colour: bool = False) -> str:
    """The table of rules."""
    rows = [
        {
            "code": rule.code,
            "name": rule.name,
            "analyzer": rule.analyzer,
            "summary": rule.summary,
            "needs": rule.needs,
            "sections": rule.sections,
        }
        for rule in rules
    ]
    return render_list(_COLUMNS, rows, form, width=width, colour=colour)


def render_rule(rule: Rule, *, width: int | None = None, colour: bool = False) -> str:
    """One rule's page. Its text is kept line by line: it holds code."""
    page = Page(width, colour=colour)
    page.raw(("code", rule.code), " ", ("bold", rule.name), ("dim", f"  ({rule.analyzer})"))
    page.flow(rule.summary)
    for heading in HEADINGS:
        if heading in rule.sections:
            page.heading(heading)
            for line in rule.sections[heading].splitlines():
                page.raw(line, indent=2)
    page.blank()
    page.flow(("dim", f"Reads: {', '.join(rule.needs) or 'nothing but the target'}"))
    return page.text()
