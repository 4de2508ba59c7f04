"""The table of linears: what was timed, what the choice is, and the code that makes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from diffprof.model.recording import LinearRow, PublishedComparison, Quantization, Recording, SchemeTiming
from diffprof.model.report import as_json
from diffprof.model.units import NOT_MEASURED, milliseconds, number, plural, size
from diffprof.views.listing import render_list
from diffprof.views.markdown_text import prose
from diffprof.views.page import Page
from diffprof.views.words import subject

FORMS = ("text", "json", "markdown", "python")

_COLUMNS = {
    "m": "rows",
    "in_features": "in",
    "out_features": "out",
    "kind": "kind",
    "count": "calls",
    "share_text": "share",
    "scheme": "best scheme",
    "speedup_text": "times as fast",
    "grade": "grade",
    "worth_it_text": "quantize",
    "published_text": "published",
    "noise_text": "dB",
}


def render_quantization(
    recording: Recording, form: str, *, width: int | None = None, colour: bool = False
) -> str:
    """The section of a recording in one of FORMS, ending in a newline."""
    quantization = recording.quantization
    if form == "json":
        return as_json(document(recording)).decode()
    if form == "python":
        return python_source(quantization)
    rows = [_cells(row, recording) for row in recording.linears or ()]
    script = quantization.script if quantization else None
    if form == "markdown":
        parts = ["\n\n".join(map(prose, summary(recording))) + "\n"]
        parts += [render_list(_COLUMNS, rows, form)] if rows else []
        parts += [f"```python\n{script}```\n"] if script else []
        return "\n".join(parts)
    head = Page(width, colour=colour)
    for sentence in summary(recording):
        head.flow(sentence)
    parts = [head.text()]
    parts += [render_list(_COLUMNS, rows, form, width=width, colour=colour)] if rows else []
    parts += [script] if script else []
    return "\n".join(parts)


def document(recording: Recording) -> dict[str, Any]:
    """What `--format json` prints: `shapes`, and the choice with the code of each selection."""
    quantization = recording.quantization
    return {
        "target": recording.target.spec,
        "device": recording.device.spec,
        "mode": quantization.mode if quantization else None,
        "shapes": [shape_entry(row, quantization) for row in recording.linears or ()],
        "choice": None if quantization is None else msgspec.to_builtins(quantization),
    }


def shape_entry(row: LinearRow, quantization: Quantization | None) -> dict[str, object]:
    """One shape. speedup: of the best scheme over the original, `null` where nothing was timed."""
    timing = _timing(row, quantization)
    return {
        "in_features": row.in_features,
        "out_features": row.out_features,
        "m": row.m,
        "count": row.count,
        "kind": row.kind,
        "dtype": row.dtype,
        "bias": row.bias,
        "share": row.share,
        "scheme": row.scheme,
        "speedup": timing.speedup if timing else None,
        "grade": timing.grade if timing else None,
        "worth_it": row.worth_it,
        "published": row.published,
        "why": row.why,
        "modules": list(row.modules),
        "sqnr_db": dict(row.sqnr_db),
        "timings": [{**msgspec.to_builtins(each), "speedup": each.speedup} for each in row.timings or ()],
    }


def python_source(quantization: Quantization | None) -> str:
    """The choice as a script for a pipeline called `pipe`; a comment where there is none."""
    script = quantization.script if quantization else None
    return script or "# No linear is worth quantizing here.\n"


def summary(recording: Recording) -> Iterator[str]:
    """What the choice gains, what it rests on and what was left out, in sentences."""
    choice = recording.quantization
    if choice is None:
        yield f"Quantization: {NOT_MEASURED}."
        return
    yield f"{subject(recording)}."
    if choice.selections:
        layers = sum(len(selection.modules) for selection in choice.selections)
        of = f" of {milliseconds(choice.call_ms)}" if choice.call_ms else ""
        part = f" ({choice.saves_ms / choice.call_ms:.1%})" if choice.call_ms else ""
        yield (
            f"Quantizing {plural(layers, 'layer')} saves {milliseconds(choice.saves_ms)}{of}{part} per call "
            f"and {size(choice.saves_bytes)} of weights ({choice.mode}, {choice.grade})."
        )
    else:
        yield f"No linear is worth quantizing here ({choice.mode}, {choice.grade})."
    yield from _instructions(recording)
    yield from (f"{note}." for note in choice.notes)
    yield f"Noise ratios (floor {choice.min_sqnr_db:g} dB): {choice.accuracy}."
    for scheme, why in choice.unavailable.items():
        yield f"Not available here: {scheme}, because {why.rstrip('.')}."
    for selection in choice.selections:
        if selection.no_torchao_config and selection.fqn_to_config:
            why = selection.no_torchao_config
            yield f"{selection.component}: diffusers' TorchAoConfig can't say this: {why}."
    if choice.left_out:
        yield f"The budget of {number(choice.budget_s or 0)} s left out: {'; '.join(choice.left_out)}."
    for sign in choice.disorder:
        yield f"Order: {sign}."
    if choice.published:
        yield from compared(choice.published, choice)


def _instructions(recording: Recording) -> Iterator[str]:
    """What a CPU has for INT8, on which torchao's dynamic scheme depends."""
    found = recording.device.details.get("int8_instructions")
    unused = recording.device.details.get("int8_unused")
    if found:
        yield f"This CPU multiplies INT8 with {', '.join(found)}."
    elif unused:
        yield (
            f"PyTorch does not use this CPU's instructions for INT8 products ({unused}); without them "
            "torchao's int8-dynamic has no fast path."
        )
    elif found is not None:
        yield (
            "This CPU has no instructions for INT8 products (VNNI, AMX); without them torchao's int8-dynamic "
            "has no fast path."
        )


def compared(published: PublishedComparison, choice: Quantization) -> Iterator[str]:
    """The choice beside the published list, in sentences."""
    yield f"Published list: {published.setup} ({published.source})."
    yield (
        f"Agreement over (in, out): precision {_percent(published.precision)}, recall "
        f"{_percent(published.recall)}; weighted by time {_percent(published.precision_by_time)} and "
        f"{_percent(published.recall_by_time)}."
    )
    if published.only_ours:
        yield f"Only here: {_pairs(published.only_ours)}."
    if published.only_published:
        yield f"Only published: {_pairs(published.only_published)}."
    if published.saves_ms is not None and choice.call_ms:
        gain = published.saves_ms / choice.call_ms
        told = (
            f"; its authors published {published.published_gain:.1%} on theirs"
            if published.published_gain
            else ""
        )
        verb = "saves" if published.saves_ms >= 0 else "costs"
        yield (
            f"By the same timings the published list {verb} {milliseconds(abs(published.saves_ms))} "
            f"({abs(gain):.1%}) on this target{told}."
        )


def _pairs(shapes: tuple[tuple[int, int], ...]) -> str:
    return ", ".join(f"{k} -> {n}" for k, n in shapes)


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.0%}"


def _timing(row: LinearRow, quantization: Quantization | None) -> SchemeTiming | None:
    return row.timing(row.scheme, quantization.mode) if quantization else None


def _cells(row: LinearRow, recording: Recording) -> dict[str, Any]:
    timing = _timing(row, recording.quantization)
    speedup = timing.speedup if timing else None
    return {
        "m": row.m,
        "in_features": row.in_features,
        "out_features": row.out_features,
        "kind": row.kind,
        "count": row.count,
        "share_text": None if row.share is None else f"{row.share:.1%}",
        "scheme": row.scheme,
        "speedup_text": None if speedup is None else f"{speedup:.2f}",
        "grade": timing.grade if timing else NOT_MEASURED,
        "worth_it_text": _yes(row.worth_it, "not timed"),
        "published_text": _yes(row.published, ""),
        "noise_text": f"{min(row.sqnr_db.values()):.0f}" if row.sqnr_db else None,
    }


def _yes(value: bool | None, unknown: str) -> str:
    return unknown if value is None else "yes" if value else "no"
