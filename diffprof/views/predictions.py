"""Predictions as a table or as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from diffprof.model.prediction import Prediction
from diffprof.model.report import as_json
from diffprof.model.units import gib, number, share
from diffprof.views.listing import render_list

_COLUMNS = {
    "device": "device",
    "mode": "mode",
    "batch": "batch",
    "steps": "steps",
    "gpus": "GPUs",
    "communication": "communication",
    "time": "seconds",
    "rate": "{}s/s",
    "memory": "GiB of",
    "bound": "bound by",
    "origin": "kernel times",
    "note": "",
}
OPTIONAL = ("note", "gpus", "communication")
"""Columns that are left out where they would be empty."""
SHARED = ("mode", "batch", "steps")
"""Settings that are said once where all rows have the same."""
NOTE = "Simulated: the range follows from where kernel times come from (`diffprof docs accuracy`)."

COMPILED = "Compiled: the denoiser and the VAE, by max-autotune, with CUDA graphs."
COMPILED_SPLIT = "Compiled: the denoiser, without CUDA graphs."
"""On several GPUs collectives stand between what is compiled."""
OVERFLOWS = "INT8 in float16 is a speed alone: its products leave float16's range before torchao scales them."


def render_predictions(
    rows: Sequence[Prediction], form: str, *, width: int | None = None, colour: bool = False
) -> str:
    """As text, markdown or JSON (`rows[]` with every figure)."""
    if form == "json":
        return as_json({"rows": [msgspec.to_builtins(row) for row in rows]}).decode()
    of_all = _said_of_all(rows)
    shown = [_cells(row) | ({"note": ""} if of_all else {}) for row in rows]
    used = {key for key in _COLUMNS if key not in OPTIONAL or any(row[key] for row in shown)}
    same = {key: shown[0][key] for key in SHARED if len({row[key] for row in shown}) == 1}
    made = next((row.makes for row in rows if row.makes), "call")
    columns = {key: head.format(made) for key, head in _COLUMNS.items() if key in used.difference(same)}
    said = [value if key == "mode" else f"{key} {value}" for key, value in same.items() if value]
    said += sorted({row.dtype for row in rows if row.dtype})
    shared = ", ".join(said)
    notes = [f"{shared[:1].upper()}{shared[1:]}."] if said else []
    if any(row.mode != "eager" for row in rows):
        notes.append(COMPILED_SPLIT if any(row.gpus > 1 for row in rows) else COMPILED)
    if any(row.mode == "int8" and row.dtype == "float16" for row in rows):
        notes.append(OVERFLOWS)
    note = " ".join(filter(None, (*notes, of_all, NOTE)))
    return render_list(columns, shown, form, width=width, colour=colour, note=note)


def _said_of_all(rows: Sequence[Prediction]) -> str:
    """What is said of every row that has a time, as a sentence, where all have one."""
    said = {row.why for row in rows if row.seconds is not None}
    why = said.pop() if len(said) == 1 and all(row.seconds is not None for row in rows) else ""
    return f"{why[:1].upper()}{why[1:]}." if why else ""


def _shares(origin: Mapping[str, float]) -> str:
    ranked = sorted(origin.items(), key=lambda item: -item[1])
    return ", ".join(f"{share:.0%} {name}" for name, share in ranked if share >= 0.005)


def _cells(row: Prediction) -> dict[str, Any]:
    spread = (
        ""
        if row.range is None or row.seconds is None
        else f" ± {100 * (row.range[1] / row.seconds - 1):.0f} %"
    )
    cost = f"{row.per_thousand:.2f} for 1,000" if row.per_thousand is not None else ""
    return {
        "device": row.device,
        "mode": row.mode,
        "batch": str(row.batch),
        "steps": "" if row.steps is None else str(row.steps),
        "gpus": "" if row.gpus == 1 else f"{row.gpus} {row.parallel}",
        "communication": "" if not row.communication else share(row.communication),
        "time": "-" if row.seconds is None else f"{number(row.seconds)}{spread}",
        "rate": "-" if row.images_per_s is None else number(row.images_per_s),
        "memory": "-" if row.peak_gib is None else f"{gib(row.peak_gib)} of {row.memory_gib:g}",
        "bound": row.bound or "",
        "origin": "" if row.origin is None else _shares(row.origin),
        "note": row.why or cost,
    }
