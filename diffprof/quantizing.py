"""Scan a target for linears that are worth quantizing, and for nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffprof.analyzers.quantization.probe import MIN_SQNR_DB, probe_quantization
from diffprof.devices import resolve_device
from diffprof.progress import Progress
from diffprof.recording import Recording
from diffprof.report import Report, make_report
from diffprof.session import Session
from diffprof.targets import Options, Target, resolve
from diffprof.targets.scene import Scene


def quantization_report(
    spec: str | Target,
    *,
    args: Sequence[str] = (),
    device: str | None = None,
    options: Options | None = None,
    budget_s: float = 120.0,
    min_sqnr: float | None = None,
    cache: bool = True,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Build a target and find which of its linears to quantize; the other arguments are probe_quantization's,
    with its default floor where min_sqnr is None.

    Raises UsageError for a request that can't be carried out and TargetError when the target fails.
    """
    where = resolve_device(device)
    target = resolve(spec, args) if isinstance(spec, str) else spec
    session = Session(target, where, options or Options(), (), progress=progress)

    def play(scene: Scene) -> Recording:
        session.scene = scene
        sections = probe_quantization(
            scene,
            where,
            budget_s=budget_s,
            min_sqnr=MIN_SQNR_DB if min_sqnr is None else min_sqnr,
            cache=cache,
            progress=session.progress,
            settings=settings,
        )
        session.sections.update(sections)
        return session.recording()

    with session.keeping_what_was_recorded(), where.active():
        recording = target.run(play, where, session.options)
    return make_report(recording)
