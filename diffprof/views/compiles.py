"""Logs of PyTorch's compiler as text or markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from diffprof.model.compiles import CompileRow
from diffprof.model.plain import clean
from diffprof.model.units import number, plural
from diffprof.views.listing import render_list

MOST = 12
_BREAKS = {"line": "graph break at", "reason": "reason", "count": "compiles"}
_RECOMPILES = {"function": "compiled again", "guard": "because", "count": "times"}


def render_compiles(
    rows: Sequence[CompileRow], form: str, *, width: int | None = None, colour: bool = False
) -> str:
    """All logs together: seconds by phase, caches, breaks and recompiles."""
    look: dict[str, object] = {"width": width, "colour": colour}
    phases, caches = Counter[str](), Counter[str]()
    breaks, again = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for row in rows:
        phases.update(row.phases)  # type: ignore[arg-type]
        caches.update(row.cache)
        breaks.update({(each.line, each.reason): each.count for each in row.breaks})
        again.update({(each.function, each.guard): each.count for each in row.recompiles})
    total = sum(row.seconds for row in rows)
    spent = ", ".join(f"{name} {number(seconds)} s" for name, seconds in phases.items())
    compiled = plural(sum(row.compiles for row in rows), "compile")
    lines = [f"{plural(len(rows), 'log')}: {compiled}, {number(total)} s (measured): {spent}"]
    if caches:
        lines.append("caches: " + ", ".join(f"{name} {count}" for name, count in caches.most_common()))
    lines += [clean(f"failed: {row.path}: {row.reason}") for row in rows if row.status != "ok"]
    blocks = ["".join(f"{line}\n" for line in lines)]
    if breaks:
        blocks.append(_table(_BREAKS, breaks, form, look))
    if again:
        blocks.append(_table(_RECOMPILES, again, form, look))
    return "\n".join(blocks)


def _table(columns: dict[str, str], counts: Counter[tuple[str, str]], form: str, look: dict[str, Any]) -> str:
    first, second, last = columns
    cells = [
        {first: clean(one), second: clean(other), last: f"{count:,}"}
        for (one, other), count in counts.most_common(MOST)
    ]
    return render_list(columns, cells, form, **look)
