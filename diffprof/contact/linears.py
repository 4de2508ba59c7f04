"""Part 6: a linear under each quantization scheme, eager and compiled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from diffprof.contact.parts import Place
from diffprof.contact.store import Work

SHAPES = ((4096, 1280, 5120), (1024, 1280, 1280), (4608, 3072, 12288))
"""(rows, in, out): SDXL's feed-forward and attention, Flux's feed-forward."""


def items(place: Place) -> Iterator[tuple[str, Work]]:
    from diffprof.analyzers.quantization.schemes import schemes_for

    modes = ("eager", "compiled") if place.real else ("eager",)
    for mode in modes:
        for rows, width, out in ((64, 128, 128),) if place.short else SHAPES:
            for scheme in schemes_for("cuda" if place.real else "cpu"):
                key = f"{scheme.key} {mode} {rows}x{width}x{out}"
                yield key, partial(timed, place, scheme, mode, rows, width, out)


def timed(place: Place, scheme: Any, mode: str, rows: int, width: int, out: int) -> dict[str, object]:
    import msgspec
    import torch

    from diffprof.analyzers.quantization.bench import Bench
    from diffprof.analyzers.quantization.inventory import Inventory, Key, Layer
    from diffprof.analyzers.quantization.timing import Budget, compiled, compiled_as_recommended
    from diffprof.devices import resolve_device
    from diffprof.devices.stopwatches import EventRunner, HostRunner

    device = resolve_device(place.device)
    dtype = "bfloat16" if place.real else "float32"
    key = Key(m=rows, in_features=width, out_features=out, dtype=dtype, bias=True, kind="linear")
    layer = Layer("unet", "layer", torch.nn.Linear(1, 1), width, out, "linear", False, None)
    layer.uses[key] = 1
    with device.active() as where:
        bench = Bench(
            device=where,
            runner=EventRunner(device.index) if place.real else HostRunner(),  # type: ignore[attr-defined]
            budget=Budget(600.0),
            schemes=[scheme],
            compiler=compiled_as_recommended if place.real else compiled,
        )
        (timing,) = bench.time_all(Inventory([layer], counts=Counter([key])), [mode])[key]
    return {**msgspec.to_builtins(timing), "speedup": timing.speedup}
