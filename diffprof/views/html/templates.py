"""The HTML templates. What they show is cleaned and escaped, whatever it is; only markup made here is not."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from diffprof.model.plain import clean, clean_lines

POLICY = Markup("default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'")
"""Of a page without scripts."""


@cache
def templates() -> Environment:
    made = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else clean(value),
        keep_trailing_newline=True,
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters |= {"prose": prose, "lines": lambda value: Markup("\n").join(clean_lines(value))}
    return made


def part(name: str, *values: object) -> Markup:
    """One macro of `parts.html`."""
    macro = getattr(templates().get_template("parts.html").module, name)
    return Markup(macro(*values))


def resource(name: str) -> Markup:
    """A style or script that comes with diffprof, as it is."""
    return Markup(files(__package__).joinpath(name).read_text(encoding="utf-8"))


def prose(value: object) -> Markup:
    """Several lines; code between backticks is set as code."""
    return Markup("<br>").join(map(_line, clean_lines(value)))


def _line(line: str) -> Markup:
    parts = line.split("`")
    if len(parts) % 2 == 0:
        return escape(line)
    code = Markup("<code>{}</code>")
    return Markup().join(
        code.format(piece) if number % 2 and piece else escape(piece) for number, piece in enumerate(parts)
    )
