"""Scan a target for linears that are worth quantizing, and for nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import msgspec

from diffprof.analyzers.quantization.probe import MIN_SQNR_DB, probe_quantization
from diffprof.devices import Device, resolve_device
from diffprof.judge.judging import make_report
from diffprof.model.progress import Progress
from diffprof.model.recording import Recording
from diffprof.model.report import Report
from diffprof.scanning.session import Session
from diffprof.targets import Options, Target, resolve
from diffprof.targets.pipeline_call import PipelineCall


def quantization_report(
    spec: str | Target,
    *,
    args: Sequence[str] = (),
    device: str | None = None,
    options: Options | None = None,
    budget_s: float = 120.0,
    min_sqnr: float | None = None,
    cache: bool = True,
    settings: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Build a target and find which of its linears to quantize; the other arguments are probe_quantization's,
    with its default floor where min_sqnr is None.

    Raises UsageError for a request that can't be carried out and TargetError when the target fails.
    """
    where = resolve_device(device)
    target = resolve(spec, args) if isinstance(spec, str) else spec
    chosen = options or Options()
    half = half_precision(where) if _in_float32(target, chosen) else None
    if half is not None:
        chosen = dataclasses.replace(chosen, dtype=half)
    session = Session(target, where, chosen, (), progress=progress)

    def play(call: PipelineCall) -> Recording:
        session.call = call
        sections = probe_quantization(
            call,
            where,
            budget_s=budget_s,
            min_sqnr=MIN_SQNR_DB if min_sqnr is None else min_sqnr,
            cache=cache,
            progress=session.progress,
            settings=settings,
        )
        if half is not None:
            note = (
                f"Judged in {half}, which comes before quantization on a GPU; --dtype float32 keeps float32"
            )
            choice = sections["quantization"]
            sections["quantization"] = msgspec.structs.replace(choice, notes=(*choice.notes, note))
        session.sections.update(sections)
        return session.recording()

    with session.keeping_what_was_recorded(), where.active():
        recording = target.run(play, where, session.options)
    return make_report(recording)


def half_precision(device: Device) -> str | None:
    """The type that a pipeline is brought to on this device before anything is quantized: bfloat16 on GPUs
    that have it, else float16; None on a CPU, where neither is sure to be faster."""
    if device.gpu is not None:
        return "bfloat16" if "bf16" in device.gpu.peak else "float16"
    if device.kind == "cuda":
        return "bfloat16" if device.has_bf16 else "float16"  # type: ignore[attr-defined]
    return None


def _in_float32(target: Target, options: Options) -> bool:
    """Whether diffprof itself chooses the type, and would take float32."""
    if options.dtype is not None or target.kind not in ("builtin", "checkpoint"):
        return False
    return getattr(target, "dtype", None) is None
