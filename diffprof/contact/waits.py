"""Part 3: where the CPU waits, by four witnesses: the simulator, the dispatcher on the device, PyTorch's
sync debug mode, and the profiler's trace."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffprof.contact.parts import Place
from diffprof.contact.store import Work

if TYPE_CHECKING:
    from diffprof.model.recording import Recording, SyncRow
    from diffprof.targets import Options
    from diffprof.targets.pipeline_call import PipelineCall

SCHEDULERS = ("EulerDiscreteScheduler", "DDIMScheduler", "UniPCMultistepScheduler")

FLUX = f"{Path(__file__).with_name('pipelines.py')}:flux_third"

STEPS = 3


def items(place: Place) -> Iterator[tuple[str, Work]]:
    for target in ("tiny-sdxl",) if place.short else ("tiny-sdxl", "sdxl"):
        for scheduler in SCHEDULERS:
            yield f"{target} {scheduler}", partial(witnesses, place, target, scheduler)
    if not place.short:
        yield "flux-third", partial(witnesses, place, FLUX, None)


def witnesses(place: Place, target: str, scheduler: str | None) -> dict[str, object]:
    """Rows of [file:line, kind, count] by each witness; None of one that is not at hand."""
    from diffprof.scanning.scan import scan_target

    options = _options(target, scheduler)
    simulated = scan_target(target, device=place.simulated, options=options, analyzers=("syncs",)).recording
    with tempfile.TemporaryDirectory() as folder:
        seen = scan_target(
            target,
            device=place.device,
            options=options,
            analyzers=("syncs", "kernels") if place.real else ("syncs",),
            trace_folder=Path(folder),
        ).recording
    return {
        "simulator": rows(simulated.syncs),
        "dispatch": rows(seen.syncs),
        "debug_mode": warned(place, target, options) if place.real else None,
        "profiler": profiled(seen) if place.real else None,
        "call_s": seen.timing.median if seen.timing else None,
        "device_busy": seen.timing.device_busy if seen.timing else None,
    }


def _options(target: str, scheduler: str | None) -> Options:
    from diffprof.targets import Options

    if target == FLUX:
        return Options()
    size = 64 if target.startswith("tiny") else None
    dtype = None if target.startswith("tiny") else "bfloat16"
    return Options(scheduler=scheduler, steps=STEPS, height=size, width=size, dtype=dtype)


def rows(syncs: Sequence[SyncRow] | None) -> list[list[Any]]:
    found: Counter[tuple[str, str]] = Counter()
    for row in syncs or ():
        found[(f"{row.site.file}:{row.site.line}", str(row.kind))] += row.count
    return [[site, kind, count] for (site, kind), count in sorted(found.items())]


def profiled(recording: Recording) -> list[list[Any]]:
    """Sites whose waits the trace has: [file:line, kind, microseconds blocked]."""
    return sorted(
        [f"{row.site.file}:{row.site.line}", str(row.kind), row.blocked_us]
        for row in recording.syncs or ()
        if row.blocked_us is not None
    )


def warned(place: Place, target: str, options: Options) -> list[list[object]]:
    """Warnings of the sync debug mode in a call of its own: [file:line, None, count]."""
    import torch

    from diffprof.devices import resolve_device
    from diffprof.devices.cuda import sync_warnings
    from diffprof.model.callsite import importable_path, is_machinery, stack
    from diffprof.targets import resolve

    found: Counter[str] = Counter()

    def witness(message: str) -> None:
        for frame in stack():
            if not is_machinery(frame.f_code.co_filename):
                found[f"{importable_path(frame.f_code.co_filename)[0]}:{frame.f_lineno}"] += 1
                return

    def play(call: PipelineCall) -> None:
        call.run()
        with sync_warnings(witness):
            call.run()

    device = resolve_device(place.device)
    with device.active(), torch.no_grad():
        resolve(target).run(play, device, options)
    return [[site, None, count] for site, count in sorted(found.items())]
