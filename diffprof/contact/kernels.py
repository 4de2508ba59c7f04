"""Part 4: kernels, predicted and measured: those of whole calls by family, and single ones by shape."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from diffprof.contact.parts import Place
from diffprof.contact.shapes import KernelShape, shapes
from diffprof.contact.store import Work, paired
from diffprof.model.recording import Recording

if TYPE_CHECKING:
    import torch

    from diffprof.devices.stopwatches import Runner

TOGETHER = 20
"""Shapes of one item."""

ROUNDS = 5


def items(place: Place) -> Iterator[tuple[str, Work]]:
    target = "tiny-sdxl" if place.short else "sdxl"
    yield f"call {target}", partial(call, place, target)
    every = shapes(place.short)
    for at in range(0, len(every), TOGETHER):
        group = every[at : at + TOGETHER]
        yield f"shapes {at + 1} to {at + len(group)}", partial(measured, place, group)
    yield "calibration", partial(calibrated, place)


CALIBRATION_S = 30.0


def calibrated(place: Place) -> dict[str, object]:
    """What `diffprof calibrate` measures: its figures, and its file as text, which the report writes out."""
    import base64
    import tempfile
    from pathlib import Path

    from diffprof.gpu.calibration import save
    from diffprof.scanning.calibrating import measured as calibration_of

    found = calibration_of(place.device, CALIBRATION_S, short=place.short)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "calibration.npz"
        save(found, file)
        text = base64.b64encode(file.read_bytes()).decode()
    return {
        "gpu": found.gpu,
        "sheet": dict(found.sheet),
        "rates": dict(found.rates),
        "about": dict(found.about),
        "tables": {name: list(us.shape) for name, (_, us) in found.tables.items()},
        "file": text,
    }


def call(place: Place, target: str) -> dict[str, Any]:
    """Milliseconds of a call and its kernels' by family: [family, predicted, measured]."""
    from diffprof.scanning.scan import scan_target
    from diffprof.targets import Options

    size = 64 if place.short else None
    options = Options(steps=3, height=size, width=size, dtype=None if place.short else "bfloat16")
    found = [
        scan_target(target, device=device, options=options, analyzers=("syncs", "kernels")).recording
        for device in (place.simulated, place.device)
    ]
    predicted, seen = found
    families = sorted({*_by_family(predicted), *_by_family(seen)})
    return {
        "call_ms": paired(_ms(predicted), _ms(seen)),
        "device_ms": paired(*(sum(_by_family(each).values()) for each in found)),
        "families": [
            {"family": name, **paired(*(_by_family(each).get(name) for each in found))} for name in families
        ],
        "launches": paired(*(sum(row.count for row in each.kernels or ()) for each in found)),
        "peak_bytes": paired(*(each.memory.peak_bytes if each.memory else None for each in found)),
    }


def _ms(recording: Recording) -> float | None:
    timing = recording.timing
    return None if timing is None or timing.median is None else timing.median * 1e3


def _by_family(recording: Recording) -> dict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    for row in recording.kernels or ():
        found[row.family] += row.device_us / 1e3
    return dict(found)


def measured(place: Place, group: Sequence[KernelShape]) -> dict[str, object]:
    """Each shape with microseconds measured and predicted; what can't run says why."""
    import torch

    from diffprof.devices import resolve_device
    from diffprof.devices.stopwatches import EventRunner, HostRunner

    device = resolve_device(place.device)
    rows = []
    guesses = predicted(place, group)
    with device.active() as where, torch.no_grad():
        runner = EventRunner(device.index) if place.real else HostRunner()  # type: ignore[attr-defined]
        for shape in group:
            row = {"family": shape.family, "op": shape.op, "dtype": shape.dtype, **dict(shape.fields)}
            row["predicted_us"] = guesses.get(shape.key)
            rows.append({**row, **_timed(shape, runner, where, 3 if place.short else ROUNDS)})
    return {"rows": rows, "torch": torch.__version__}


def _timed(shape: KernelShape, runner: Runner, where: torch.device, rounds: int) -> dict[str, object]:
    import torch

    def empty(size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device=where)

    try:
        work = shape.build(torch, empty)
        for _ in range(rounds - 2):
            work()
        taken = [runner.microseconds(work) for _ in range(rounds)]
    except (RuntimeError, ValueError) as error:
        return {"us": None, "why_not": (str(error).strip().splitlines() or [type(error).__name__])[0][:160]}
    return {"us": round(statistics.median(taken), 3), "least_us": round(min(taken), 3)}


def predicted(place: Place, group: Sequence[KernelShape]) -> dict[str, float]:
    """Shape -> microseconds of the device, by the model of the simulated GPU."""
    import torch

    from diffprof.analyzers.kernels.simulated import SimulatedKernels
    from diffprof.devices import resolve_device
    from diffprof.devices.simulated import observing
    from diffprof.devices.simulated import place as put

    def empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return put(torch.empty(shape, dtype=dtype, device="meta"), values="unknown")

    device = resolve_device(place.simulated)
    found = {}
    with device.active(), torch.no_grad():
        for shape in group:
            work = shape.build(torch, empty)
            kernels = SimulatedKernels(device.gpu, _NoPipeline())  # type: ignore[attr-defined, arg-type]
            with observing(kernels):
                work()
            found[shape.key] = sum(row.device_us for row in kernels.sections()["kernels"])
    return found


class _NoPipeline:
    """Of single kernels."""

    components: ClassVar[dict[str, object]] = {}
