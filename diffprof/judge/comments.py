"""`# diffprof: allow SYN001 the reason`, on the line that it is for, or alone on the line above."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

from diffprof.model.callsite import file_of, make_site
from diffprof.model.recording import Allowance

MARK = re.compile(r"#\s*diffprof:\s*allow\b\s*(?P<rules>[\w-]+(?:\s*,\s*[\w-]+)*)?\s*(?P<reason>.*)")


def comments_in(files: Iterable[str]) -> Iterator[Allowance]:
    """The allowances in files, by the names that sites have for them."""
    for name in dict.fromkeys(files):
        place = file_of(name)
        if place is not None:
            yield from _in_file(name, place)


def _in_file(name: str, place: Path) -> Iterator[Allowance]:
    text = place.read_text(encoding="utf-8", errors="replace")
    if "diffprof:" not in text:
        return
    for line, first, last, comment in _commented(text):
        if (found := MARK.match(comment)) is None:
            continue
        yield Allowance(
            rules=tuple(filter(None, re.split(r"[\s,]+", found["rules"] or ""))),
            reason=found["reason"].strip(" :-"),
            by="comment",
            site=make_site(((str(place), line, ""),), None),
            file=name,
            first=first,
            last=last,
        )


def _commented(text: str) -> Iterator[tuple[int, int, int, str]]:
    """(line of the comment, first and last line that it is for, the comment): of the statement that it stands
    in, else of the next one."""
    waiting: list[tuple[int, str]] = []
    first: int | None = None
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                waiting.append((token.start[0], token.string))
            elif token.type == tokenize.NEWLINE:
                last = token.start[0]
                yield from ((line, first or last, last, comment) for line, comment in waiting)
                waiting, first = [], None
            elif first is None and token.type not in _NO_CODE:
                first = token.start[0]
    except (tokenize.TokenError, IndentationError):
        return  # what is no Python has no statements


_NO_CODE = (tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER)
