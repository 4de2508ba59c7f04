"""What a child changes in Dynamo: lines of generated functions as they are in the source, and no work that
nobody reads.

torch 2.13 counts the step to a line twice where an instruction longer than eight code units begins that line,
such as the method call in a chain that is broken over several lines
(torch/_dynamo/bytecode_transformation.py, `linetable_311_writer`). The rest of a function after a break is
generated code: from there on its lines are wrong, and so is all that Dynamo logs of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch._dynamo import bytecode_transformation, guards, symbolic_convert

LONGEST = 8
"""Code units that one entry of the table can stand for (CPython, Objects/locations.md)."""

_Update = Callable[[Any, int], None]


def write_exact_lines() -> None:
    """Make Dynamo write each step once. For the child: it stays so."""
    writer = getattr(bytecode_transformation, "linetable_311_writer", None)
    if writer is None or hasattr(writer, "exact"):
        return

    def exact(first_line: int) -> tuple[list[int], _Update]:
        table, update = writer(first_line)

        def in_pieces(positions: object, size: int) -> None:
            for at in range(0, size, LONGEST):
                update(positions, min(LONGEST, size - at))

        return table, in_pieces

    exact.exact = True  # type: ignore[attr-defined]
    bytecode_transformation.linetable_311_writer = exact


def leave_out_what_nobody_reads(*, reasons: bool = True) -> None:
    """Keep Dynamo from work that only its debug logs show, a fifth of a capture on torch 2.13. It reads every
    traced file token by token for the class around a line (torch/_dynamo/funcname_cache.py), and empties the
    CPU's caches after each compile to time the guards (torch/_dynamo/guards.py, `CheckFunctionManager`).
    For the child: it stays so.

    reasons: whether somebody reads why code is compiled again; else guards are written without their lines.
    """
    unread: list[tuple[object, str, Callable[..., object]]] = [
        (symbolic_convert, "get_funcname", lambda *_: None),
        (guards, "profile_guard_manager", lambda *_: 0.0),
    ]
    if not reasons:
        unread.append((guards, "get_verbose_code_part", lambda code_part, guard: code_part))
    for module, name, instead in unread:
        if hasattr(module, name):
            setattr(module, name, instead)
