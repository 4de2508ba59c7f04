"""What is indexed by the expression that runs now.

A device number used as an index is read back in C++, where the table can't be seen; it is found by evaluating
the name before the bracket.
"""

from __future__ import annotations

import ast
import functools
import linecache
import os
import sys
from types import CodeType, FrameType
from typing import Any

import torch

from diffprof.model.callsite import values_in

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def caller() -> FrameType | None:
    """The innermost frame that isn't the simulated device's own."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return frame


def table_on_host() -> bool:
    """Whether the running expression indexes a CPU tensor. Only names and attributes are evaluated."""
    frame = caller()
    if frame is None:
        return False
    expression = _table(frame.f_code, frame.f_lasti)
    if expression is None:
        return False
    try:
        table = _evaluate(expression, frame)
    except (AttributeError, KeyError, LookupError, TypeError):
        return False
    return isinstance(table, torch.Tensor) and table.device.type == "cpu"


def _evaluate(node: ast.expr, frame: FrameType) -> object:
    if isinstance(node, ast.Name):
        local = values_in(frame)
        return local[node.id] if node.id in local else frame.f_globals[node.id]
    if isinstance(node, ast.Attribute):
        owner = _evaluate(node.value, frame)
        # Properties run code, which may have effects: only what is stored is looked at.
        stored = getattr(owner, "__dict__", {})
        if node.attr in stored:
            return stored[node.attr]
        if isinstance(owner, torch.nn.Module):
            return owner._buffers[node.attr] if node.attr in owner._buffers else owner._parameters[node.attr]
        if isinstance(getattr(type(owner), node.attr, None), property):
            raise AttributeError(node.attr)
        return getattr(owner, node.attr)
    raise TypeError(type(node).__name__)


@functools.lru_cache(maxsize=4096)
def _table(code: CodeType, instruction: int) -> ast.expr | None:
    """The expression before the bracket, if the instruction subscripts."""
    positions = next(_skip(code.co_positions(), instruction // 2), None)
    if positions is None or None in positions:
        return None
    first, last, start, end = positions
    lines = [linecache.getline(code.co_filename, n) for n in range(first, last + 1)]  # type: ignore[arg-type]
    if not all(lines):
        return None
    lines[-1] = lines[-1].encode()[:end].decode(errors="ignore")
    lines[0] = lines[0].encode()[start:].decode(errors="ignore")
    try:
        tree = ast.parse("(" + "".join(lines) + ")", mode="eval")
    except SyntaxError:
        return None
    return tree.body.value if isinstance(tree.body, ast.Subscript) else None


def _skip(positions: Any, n: int) -> Any:
    for _ in range(n):
        next(positions, None)
    return positions
