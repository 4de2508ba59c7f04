"""The memory of a simulated call as PyTorch's memory snapshot."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from diffprof.analyzers.kernels.simulated import SimulatedKernels
from diffprof.chrome_trace.memory_snapshot import BlockEvent, snapshot
from diffprof.devices import resolve_device
from diffprof.gpu.memory_log import MemoryLog
from diffprof.gpu.mode import current_mode
from diffprof.model.errors import UsageError
from diffprof.model.recording.whole_file import write_whole
from diffprof.scanning.session import target_errors
from diffprof.targets import Options, resolve
from diffprof.targets.pipeline_call import PipelineCall


def export_memory(target: str, path: Path, *, device: str, options: Options | None = None) -> int:
    """Run a call on a simulated GPU and write its memory snapshot; the most bytes that were in use.

    `time_us` of its events counts operations. Weights come first, under their model's name. Raises UsageError
    for a device that is not simulated, TargetError where the target fails, OSError where the file can't be
    written.
    """
    where = resolve_device(device)
    gpu = where.gpu
    if gpu is None:
        raise UsageError(
            f"{device} is no simulated GPU.", "On a real one call torch.cuda.memory._dump_snapshot(path)."
        )

    def play(call: PipelineCall) -> MemoryLog:
        kernels = SimulatedKernels(gpu, call.pipe, current_mode())
        with torch.no_grad(), kernels.following(), where.observed(kernels, call.pipe):
            call.run()
        return kernels.builder.memory_log

    with target_errors(target), where.active():
        log = resolve(target).run(play, where, dataclasses.replace(options or Options()))
    data = snapshot(events_of(log))
    write_whole(path, pickle.dumps(data, protocol=4))
    return log.peak


def events_of(log: MemoryLog) -> Iterator[BlockEvent]:
    """What the log was told, weights first."""
    for number, component, nbytes, _ in log.weights:
        yield BlockEvent(0, nbytes, number, ((f"weights of {component}", 0, component),))
    for at, nbytes, number in log.events():
        yield BlockEvent(at, nbytes, number, _frames(log, number) if nbytes > 0 else ())


def _frames(log: MemoryLog, number: int) -> tuple[tuple[str, int, str], ...]:
    site, _, module = log.made_by(number)
    inner: tuple[Any, ...] = () if site is None else ((site.file, site.line, site.function),)
    return (*inner, (f"module {module}", 0, module)) if module else inner
