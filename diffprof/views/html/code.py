"""Lines of Python as HTML, their words coloured by kind: spans and CSS, no script."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from diffprof.model.plain import clean, cut

MOST = 400
"""Characters of a line shown."""

_QUOTES = ('"""', "'''")
_KINDS = {
    "Token.Keyword": "k",
    "Token.Operator.Word": "k",
    "Token.Literal.String": "s",
    "Token.Literal.Number": "n",
    "Token.Comment": "c",
    "Token.Name.Function": "f",
    "Token.Name.Class": "f",
    "Token.Name.Decorator": "f",
    "Token.Name.Builtin": "b",
}
"""Pygments' kind of a word, or the beginning of it -> class in page.css."""


def code_lines(lines: Sequence[str], known: int | None = None) -> list[Markup]:
    """Each line, cleaned, cut and escaped. Of a piece that begins or ends within a string of several lines,
    the line that is `known` to be code says which is which; without one it has no colours."""
    shown = [cut(clean(line.expandtabs(4).rstrip()), MOST) for line in lines]
    open_ = next((quotes for quotes in _QUOTES if "\n".join(shown).count(quotes) % 2), "")
    if open_ and known is None:
        return [escape(line) for line in shown]
    if open_ and "\n".join(shown[:known]).count(open_) % 2:
        return _coloured("\n".join([open_, *shown]))[1:]
    return _coloured("\n".join(shown))


def diff_lines(lines: Sequence[str]) -> list[tuple[str, Markup]]:
    """(`add`, `del` or nothing, line) of a unified diff."""
    bodies = code_lines([" " + line[1:] if _is_code(line) else "" for line in lines])
    found = []
    for line, body in zip(lines, bodies, strict=True):
        if not _is_code(line):
            found.append(("", escape(cut(clean(line), MOST))))
        else:
            found.append(({"+": "add", "-": "del"}.get(line[:1], ""), escape(line[:1]) + body[1:]))
    return found


def _is_code(line: str) -> bool:
    return bool(line) and not line.startswith(("+++", "---", "@@", "\\", "diff "))


def _coloured(code: str) -> list[Markup]:
    from pygments.lexers.python import PythonLexer

    lines = [Markup()]
    for token, value in PythonLexer(stripnl=False, ensurenl=False).get_tokens(code):
        kind = next((mark for name, mark in _KINDS.items() if str(token).startswith(name)), "")
        for number, part in enumerate(value.split("\n")):
            if number:
                lines.append(Markup())
            if part:
                lines[-1] += Markup('<span class="{}">{}</span>').format(kind, part) if kind else escape(part)
    return lines
