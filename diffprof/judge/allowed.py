"""`with diffprof.allowed("SYN", reason=...)`: what is inside is meant to be there.

Costs a function call when nothing watches, and needs no torch. `torch.compile` sees a `nullcontext`.
"""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType

from diffprof.model.callsite import importable_path, make_site
from diffprof.model.recording import Allowance


class Blocks:
    """The blocks that were entered while something watched."""

    def __init__(self) -> None:
        self.entered: dict[Allowance, None] = {}


_WATCHING: list[Blocks] = []
_OPEN: list[str] = []
"""Places of the blocks that are open now, outermost first."""


def allowed(*rules: str, reason: str) -> AbstractContextManager[None]:
    """A context manager: findings of these rules are allowed inside of it, and in what is called there.

    rules: codes, names, or beginnings of codes such as "SYN". reason: why; a report lists it.
    """
    if not _WATCHING:
        return nullcontext()
    return _noted(sys._getframe(1), rules, reason)


@contextmanager
def watching_blocks() -> Iterator[Blocks]:
    """Inside, blocks that are entered are noted."""
    blocks = Blocks()
    _WATCHING.append(blocks)
    try:
        yield blocks
    finally:
        _WATCHING.remove(blocks)


def open_blocks() -> tuple[str, ...]:
    """The places of the blocks that are open now."""
    return tuple(_OPEN)


@contextmanager
def _noted(frame: FrameType, rules: tuple[str, ...], reason: str) -> Iterator[None]:
    file, line = frame.f_code.co_filename, frame.f_lineno
    first, last = _extent(file, line)
    place = importable_path(file)[0]
    allowance = Allowance(
        rules=rules,
        reason=reason.strip(),
        by="block",
        site=make_site(((file, line, frame.f_code.co_qualname),), None),
        file=place,
        first=first,
        last=last,
    )
    for each in _WATCHING:
        each.entered[allowance] = None
    _OPEN.append(f"{place}:{first}")
    try:
        yield
    finally:
        _OPEN.remove(f"{place}:{first}")


def _extent(file: str, line: int) -> tuple[int, int]:
    """First and last line of the with statement at a line; the line alone where there is none."""
    source = "".join(linecache.getlines(file))
    found = [
        (node.lineno, node.end_lineno or node.lineno)
        for node in (ast.walk(ast.parse(source)) if source else ())
        if isinstance(node, ast.With | ast.AsyncWith)
        and node.lineno <= line < node.body[0].lineno + (node.lineno == node.body[0].lineno)
    ]
    return max(found, default=(line, line))
