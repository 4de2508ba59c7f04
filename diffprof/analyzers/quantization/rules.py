"""QNT: which linears are worth quantizing, and which are quantized at a loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diffprof.judge.half_types import is_float16_only
from diffprof.judge.rules import rule
from diffprof.model.finding import Finding, Severity
from diffprof.model.recording import Grade, LinearRow, Quantization, Recording, SchemeTiming

NEEDS = ("linears", "quantization")

LARGE_SHARE = 0.02
"""Share of the call's device time from which a shape in the loop is a high matter."""


def _shape(row: LinearRow) -> str:
    kind = "1x1 convolution" if row.kind == "conv1x1" else "linear"
    return f"{kind} {row.in_features} -> {row.out_features} on {row.m:,} rows of {row.dtype}"


def _who(row: LinearRow) -> str:
    first = row.modules[0] if row.modules else "?"
    more = len(row.modules) - 1
    return f"{first} and {more} more" if more > 0 else first


def _severity(row: LinearRow) -> Severity:
    if "denoise" not in row.phases:
        return Severity.LOW
    return Severity.HIGH if (row.share or 0.0) >= LARGE_SHARE else Severity.MEDIUM


def _finding(
    recording: Recording, code: str, name: str, row: LinearRow, message: str, **more: Any
) -> Finding:
    quantization = recording.quantization
    assert quantization is not None
    timing = row.timing(row.scheme, quantization.mode)
    return Finding(
        rule=code,
        name=name,
        kind=more.pop("kind", row.scheme or "none"),
        message=message,
        grade=timing.grade if timing else Grade(quantization.grade),
        severity=more.pop("severity", _severity(row)),
        phase=max(row.phases, key=lambda phase: row.phases[phase], default=None),
        in_loop="denoise" in row.phases,
        count=row.count,
        per_step=row.per_step,
        **more,
    )


def _clearly_slower(timing: SchemeTiming) -> bool:
    return timing.gain_us is not None and -timing.gain_us > (timing.gain_spread_us or 0.0)


def _saves_ms(row: LinearRow, quantization: Quantization) -> float | None:
    """Of the layers of the row that the choice quantizes with the row's scheme."""
    timing = row.timing(row.scheme, quantization.mode)
    if timing is None or timing.gain_us is None or not row.modules:
        return None
    chosen = {
        f"{selection.component}.{module}"
        for selection in quantization.selections
        if selection.scheme == row.scheme
        for module in selection.modules
    }
    part = sum(module in chosen for module in row.modules) / len(row.modules)
    return timing.gain_us * row.count * part / 1e3


@rule("QNT001", "unquantized-linear", needs=NEEDS)
def unquantized_linear(recording: Recording) -> Iterator[Finding]:
    """Linears of this shape would be faster quantized.

    What it does:
    Reports each (rows, in, out) whose layers the choice quantizes: a scheme was timed (or predicted) to be
    faster by more than the spread, activation quantization included, and keeps the accuracy floor. Not where
    the pipeline can only be in float16, whose range INT8's products leave before torchao scales them.

    Why it is slow:
    Large matrix products in 16 or 32 bits leave the integer or float8 units of the device unused, and read
    two to four times the bytes of weights.

    Example:
    pipe.unet.compile()  # all linears in bfloat16

    Use instead:
    quantize_(pipe.unet, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False), filter_fn)
    with the filter that the report prints, before compiling.

    Fix safety:
    Lossy: the image changes slightly; the signal-to-quantization-noise ratio of each layer is in the report.
    """
    quantization = recording.quantization
    assert quantization is not None
    for row in () if is_float16_only(recording) else recording.linears or ():
        if not row.worth_it:
            continue
        noise = f", noise ratio {min(row.sqnr_db.values()):.0f} dB" if row.sqnr_db else ""
        yield _finding(
            recording,
            "QNT001",
            "unquantized-linear",
            row,
            f"{_shape(row)} ({_who(row)}): {row.why}{noise}.",
            saves_ms=_saves_ms(row, quantization),
            cost_note=f"{quantization.mode}, device time of the layers alone",
            advice="Quantize these layers with the filter that `diffprof quantize-table` prints.",
            fixes=("quantize-linears",),
        )


@rule("QNT002", "linear-not-worth-quantizing", needs=NEEDS)
def linear_not_worth_quantizing(recording: Recording) -> Iterator[Finding]:
    """Quantizing linears of this shape would lose, or gain nothing that can be told from noise.

    What it does:
    Reports each (rows, in, out) for which no scheme was clearly faster, with the best one's figure.

    Why it is slow:
    Small or narrow products do not repay the passes over the activation that find its scales and round it,
    and a device without fast units for the type computes slower than before.

    Example:
    quantize_(pipe.unet, config)  # every linear, this one included

    Use instead:
    A filter that leaves these layers out.

    Fix safety:
    Exact: nothing changes.
    """
    for row in recording.linears or ():
        if row.worth_it is not False or row.adapter or row.quantized or _sensitive(row, recording):
            continue
        yield _finding(
            recording,
            "QNT002",
            "linear-not-worth-quantizing",
            row,
            f"{_shape(row)} ({_who(row)}): {row.why}.",
            severity=Severity.INFO,
            fact=True,
            advice="Leave these layers out of the filter.",
        )


def _sensitive(row: LinearRow, recording: Recording) -> dict[str, float]:
    """Layers that would gain with the row's scheme but for their noise ratio: name -> dB."""
    quantization = recording.quantization
    assert quantization is not None
    timing = row.timing(row.scheme, quantization.mode)
    if timing is None or (timing.gain_us or 0.0) <= (timing.gain_spread_us or 0.0):
        return {}
    return {name: noise for name, noise in row.sqnr_db.items() if noise < quantization.min_sqnr_db}


@rule("QNT003", "sensitive-linear", needs=NEEDS)
def sensitive_linear(recording: Recording) -> Iterator[Finding]:
    """Quantized, this linear would be faster, and too inaccurate.

    What it does:
    Reports layers that a scheme makes faster but whose output would have a signal-to-quantization-noise
    ratio under the floor (--min-sqnr), measured on the activations that the layer saw.

    Why it is slow:
    It stays in its own type: a few large values stretch the scale until the others are rounded away.

    Example:
    quantize_(pipe.unet, config)  # first, last and embedding layers included

    Use instead:
    The filter of the choice, which leaves it out; or a scheme with finer scales, or a lower --min-sqnr.

    Fix safety:
    Exact: nothing changes.
    """
    quantization = recording.quantization
    assert quantization is not None
    for row in recording.linears or ():
        low = _sensitive(row, recording)
        if not low or row.adapter or row.quantized:
            continue
        worst = min(low, key=lambda name: low[name])
        yield _finding(
            recording,
            "QNT003",
            "sensitive-linear",
            row,
            f"{worst}, {_shape(row)}: {row.scheme} would be faster, but its output has {low[worst]:.1f} dB, "
            f"under the floor of {quantization.min_sqnr_db:g} dB ({len(low)} of {len(row.modules)} layers).",
            severity=Severity.INFO,
            fact=True,
            advice="Leave it out of the filter, as the printed one does.",
        )


@rule("QNT004", "quantized-at-a-loss", needs=NEEDS)
def quantized_at_a_loss(recording: Recording) -> Iterator[Finding]:
    """A linear is quantized already, and slower for it.

    What it does:
    Reports quantized layers whose scheme was timed slower than the original type on the same shape.

    Why it is slow:
    Rounding the activation and scaling the result cost more than the faster product saves, or the device
    has no fast units for the type and emulates it.

    Example:
    quantize_(pipe.unet, Int8DynamicActivationInt8WeightConfig())  # not compiled, or on a CPU without VNNI

    Use instead:
    Leave these layers as they are; quantize only what `diffprof quantize-table` finds to gain.

    Fix safety:
    Numeric: the output comes closer to the unquantized model's.
    """
    quantization = recording.quantization
    assert quantization is not None
    for row in recording.linears or ():
        timing = row.timing(row.quantized, quantization.mode) if row.quantized else None
        if timing is None or not _clearly_slower(timing):
            continue
        assert timing.gain_us is not None
        slower = 1 / timing.speedup if timing.speedup else 0.0
        yield _finding(
            recording,
            "QNT004",
            "quantized-at-a-loss",
            row,
            f"{_shape(row)} ({_who(row)}) is quantized with {row.quantized}, which is {slower:.2f} times "
            "slower here than the original type.",
            kind=timing.scheme,
            saves_ms=-timing.gain_us * row.count / 1e3,
            cost_note=f"{quantization.mode}, device time of the layers alone",
            advice="Build the pipeline without quantizing these layers.",
        )


@rule("QNT005", "changes-out-of-order", needs=NEEDS)
def changes_out_of_order(recording: Recording) -> Iterator[Finding]:
    """LoRA, QKV fusion, swapped convolutions, quantization and compilation are not in their order.

    What it does:
    Reports signs that the known order was not kept: quantized LoRA adapters, adapters that were left on
    quantized weights.

    Why it is slow:
    Quantized adapters cost two small products a layer that gain nothing, and what comes too late fails or
    is left undone: quantized weights can't be merged or concatenated.

    Example:
    quantize_(pipe.unet, config); pipe.load_lora_weights(path); pipe.fuse_lora()  # raises

    Use instead:
    Fuse the LoRA, fuse QKV, swap 1x1 convolutions, quantize, compile: in this order.

    Fix safety:
    Numeric: the same computation, rounded at other places.
    """
    quantization = recording.quantization
    assert quantization is not None
    for sign in quantization.disorder:
        yield Finding(
            rule="QNT005",
            name="changes-out-of-order",
            kind="order",
            message=f"{sign}.",
            grade=quantization.grade,
            severity=Severity.MEDIUM,
            in_loop=False,
            advice="Build the pipeline again: fuse LoRA, fuse QKV, swap convolutions, quantize, compile.",
        )
