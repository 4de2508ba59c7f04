"""The table of attention: each shape of a call under every kernel that the device has for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from diffprof.model.recording import AttentionRow, AttentionTiming, Recording
from diffprof.model.report import as_json
from diffprof.model.units import number
from diffprof.views.listing import render_list
from diffprof.views.table import Table

SETTERS = {
    "_native_flash": "SDPBackend.FLASH_ATTENTION",
    "_native_efficient": "SDPBackend.EFFICIENT_ATTENTION",
    "_native_math": "SDPBackend.MATH",
    "_native_cudnn": "SDPBackend.CUDNN_ATTENTION",
}
"""PyTorch's kernels by diffusers' names -> what `torch.nn.attention.sdpa_kernel` takes."""

NOTE = (
    "ms of all calls in one pipeline call; a dash: the kernel does not take this shape. Set for models of "
    "diffusers' dispatcher by set_attention_backend, else by sdpa_kernel"
)


def attention_table(rows: Sequence[AttentionRow]) -> Table:
    """A column a backend that any row was timed under."""
    backends = backends_of(rows)
    cells = tuple(
        (
            row.component,
            shape(row),
            row.dtype,
            f"{row.count:,}",
            number(row.now_us / 1e3),
            *(_ms(row, backend) for backend in backends),
        )
        for row in rows
    )
    heads = tuple(name.removeprefix("_").replace("native_", "") for name in backends)
    grades = sorted({each.grade for row in rows for each in row.timings})
    return Table(
        f"Attention ({', '.join(grades)})",
        ("part", "heads x queries x keys x size", "type", "calls", "now", *heads),
        cells,
        NOTE,
    )


def backends_of(rows: Sequence[AttentionRow]) -> tuple[str, ...]:
    """Those that some row was timed under, in the order of the rows."""
    return tuple(dict.fromkeys(each.backend for row in rows for each in row.timings if each.us is not None))


def shape(row: AttentionRow) -> str:
    """`48 x 4429 x 4429 x 64`, causal or masked where it is."""
    size = str(row.size) if row.size == row.value_size else f"{row.size}/{row.value_size}"
    more = (", causal" if row.causal else "") + (", masked" if row.masked else "")
    return f"{row.heads} x {row.queries} x {row.keys} x {size}{more}"


def _ms(row: AttentionRow, backend: str) -> str:
    found = next((each.us for each in row.timings if each.backend == backend), None)
    return "-" if found is None else number(found / 1e3)


def setter(component: str, backend: str, *, dispatched: bool) -> str:
    """The line that sets a backend: of the model where its attention goes through diffusers' dispatcher."""
    if backend in SETTERS and not dispatched:
        return f"with torch.nn.attention.sdpa_kernel({SETTERS[backend]}): pipe(...)"
    return f'pipe.{component}.set_attention_backend("{backend}")'


def render_attention(
    recording: Recording, form: str, *, width: int | None = None, colour: bool = False
) -> str:
    """As text, markdown or JSON (`shapes[]` with every figure, and the line that sets each backend)."""
    rows = recording.attention or ()
    if form == "json":
        return as_json(document(recording)).decode()
    table = attention_table(rows)
    keys = [str(n) for n in range(len(table.columns))]
    cells = [dict(zip(keys, row, strict=True)) for row in table.rows]
    columns = dict(zip(keys, table.columns, strict=True))
    return render_list(columns, cells, form, width=width, colour=colour, note=table.note)


def document(recording: Recording) -> dict[str, Any]:
    """What `--format json` prints."""
    parts = recording.setup.parts if recording.setup else ()
    dispatched = {part.name for part in parts if part.dispatched}
    return {
        "target": recording.target.spec,
        "device": recording.device.spec,
        "shapes": [_entry(row, row.component in dispatched) for row in recording.attention or ()],
    }


def _entry(row: AttentionRow, dispatched: bool) -> dict[str, object]:
    def timing(each: AttentionTiming) -> dict[str, object]:
        line = setter(row.component, each.backend, dispatched=dispatched)
        reachable = dispatched or each.backend in SETTERS
        return {**msgspec.to_builtins(each), "set_by": line if reachable and each.us is not None else None}

    return {**msgspec.to_builtins(row), "timings": [timing(each) for each in row.timings]}
