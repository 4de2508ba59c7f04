"""The page of a contact: what was tried on a GPU, what agreed and what didn't."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffprof.views.html.templates import POLICY, resource, templates

LONGEST = 2000
"""Characters of a value on the page."""

SHOWN = 400
"""Rows of a table on the page; the JSON has all."""


def render_contact(document: Mapping[str, object], parts: Mapping[str, object]) -> str:
    """The report as one page without scripts and without anything to load."""
    title = "Rehearsal of first contact" if document["rehearsal"] else "First contact"
    return (
        templates()
        .get_template("contact.html")
        .render(
            policy=POLICY,
            title=title,
            style=resource("page.css"),
            document=document,
            parts=list(parts.values()),
            about=_about(document),
            most=SHOWN,
            value=_value,
        )
    )


def _about(document: Mapping[str, object]) -> str:
    if document["rehearsal"]:
        return (
            "The CPU stands in for the GPU: its times are compared with nothing, and what the device's "
            "dispatcher sees is told by the simulator with the CPU's values."
        )
    return "Times are compared where both are known: 25 % apart is a disagreement."


def _value(value: object) -> tuple[Sequence[str], Sequence[Sequence[Any]]] | str:
    """A table, as its heads and rows, or a line."""
    if isinstance(value, dict):
        return ("", ""), list(value.items())
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        names = list(dict.fromkeys(name for each in value for name in each))
        return names, [[each.get(name) for name in names] for each in value]
    if isinstance(value, list) and value and all(isinstance(each, list) for each in value):
        return (), value
    return _short(value)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return ", ".join(_short(each) for each in value)
    text = "not measured" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{len(text):,} characters, in contact.json"
