"""Part 5: rungs of the ladder, predicted and measured, and the denoiser's blocks compiled."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from diffprof.contact.parts import Place
from diffprof.contact.store import Work, paired

if TYPE_CHECKING:
    from diffprof.targets import Options
    from diffprof.targets.pipeline_call import PipelineCall

EAGER = ("fp32", "bf16", "sdpa")

STEPS = 5


def items(place: Place) -> Iterator[tuple[str, Work]]:
    target = "tiny-sdxl" if place.short else "sdxl"
    for rung in EAGER if not place.short else EAGER[:2]:
        yield f"rung {rung}", partial(climbed, place, target, rung)
    if place.real or not place.short:
        yield "blocks compiled", partial(blocks, place, target)
        yield "rung compile", partial(climbed, place, target, "compile")


def climbed(place: Place, target: str, rung: str) -> dict[str, object]:
    """Seconds and GiB of one rung: [predicted, measured]."""
    from diffprof.devices import resolve_device
    from diffprof.targets import resolve
    from diffprof.tuning.ladder import choose_rungs, climb

    rungs = choose_rungs([rung])
    both = [
        climb(resolve(target), resolve_device(device), _options(place), rungs).rungs[0]
        for device in (place.simulated, place.device)
    ]
    return {
        "seconds": paired(*(each.seconds for each in both)),
        "gib": paired(*(each.memory_gb for each in both)),
        "why_not": paired(*(each.skipped or each.failed for each in both)),
    }


def _options(place: Place) -> Options:
    from diffprof.targets import Options

    size = 64 if place.short else None
    return Options(steps=2 if place.short else STEPS, height=size, width=size)


def blocks(place: Place, target: str) -> dict[str, object]:
    """Seconds of a call before and after the denoiser's repeated blocks are compiled, and of compiling."""
    import dataclasses

    import torch

    from diffprof.analyzers.kernels.timing import clean_passes
    from diffprof.devices import resolve_device
    from diffprof.model.pipeline import with_role
    from diffprof.targets import resolve

    device = resolve_device(place.device)

    def play(call: PipelineCall) -> dict[str, Any]:
        before = clean_passes(call.run, device.synchronize, clock=device.clock)
        for module in with_role(call.pipe, "denoiser").values():
            module.compile_repeated_blocks(fullgraph=True)
        begin = time.perf_counter()
        call.run()
        device.synchronize()
        taken = time.perf_counter() - begin
        after = clean_passes(call.run, device.synchronize, clock=device.clock)
        medians = [statistics.median(each.seconds) for each in (before, after)]
        return {"before_s": medians[0], "after_s": medians[1], "first_call_s": taken}

    options = dataclasses.replace(_options(place), dtype="bfloat16")
    with device.active(), torch.no_grad():
        return resolve(target).run(play, device, options)
