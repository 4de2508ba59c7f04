"""Predict a pipeline on GPUs that are not here: run once a batch, priced for every device and mode."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import torch

from diffprof.analyzers.kernels.simulated import SimulatedKernels
from diffprof.devices import resolve_device
from diffprof.devices.simulated.session import SESSION
from diffprof.gpu.cost import CostModel
from diffprof.gpu.mode import Mode, current_mode
from diffprof.gpu.pricing import margin_of
from diffprof.gpu.quantized import SCHEMES
from diffprof.gpu.specs import GpuSpec, load_spec, spec_names
from diffprof.judge.timeline import origin_shares, replay, steps_of, with_steps
from diffprof.model.modes import check_modes
from diffprof.model.prediction import Prediction
from diffprof.model.recording import Timeline
from diffprof.targets import Options, Target, from_object, resolve
from diffprof.targets.calls import bound as bound_arguments
from diffprof.targets.calls import outputs
from diffprof.targets.compiled import compiled_roots
from diffprof.targets.pipeline import PhaseTracker
from diffprof.targets.pipeline_call import Scene

RUN_STEPS = 4
"""Steps that are run; steady ones are repeated for longer calls."""

HOST_SHARE = 0.9
"""A call whose device is busy for less than this share of it is bound by the host."""


class Run(NamedTuple):
    """One call, run once."""

    kernels: SimulatedKernels
    roots: tuple[str, ...]
    held: int
    """Bytes that were allocated before the pipeline was built."""
    images: int


def predict(
    target: Any,
    *,
    devices: Sequence[str] = ("a100-80gb",),
    modes: Sequence[str] = ("eager",),
    batches: Sequence[int] = (1,),
    steps: int | None = None,
    options: Options | None = None,
    price: float | Mapping[str, float] | None = None,
    on_run: Callable[[int], None] | None = None,
    **call: Any,
) -> tuple[Prediction, ...]:
    """Rows for every batch, device and mode, in that order.

    target: what `diffprof.scan` takes. devices: names of data sheets, or "all". steps: denoising steps of the
    call; None: the target's own. price: of one GPU hour, or by device. on_run: told of each batch before it
    is run. call: arguments of the call. Raises UsageError for an unknown device or mode, TargetError where
    the target fails.
    """
    check_modes(modes)
    specs = sheets(devices)
    found = resolve(target) if isinstance(target, str) else from_object(target, kwargs=call)
    chosen = options or Options()
    if isinstance(target, str) and call:
        chosen = dataclasses.replace(chosen, call={**chosen.call, **call})
    rows: list[Prediction] = []
    for batch in batches:
        if on_run is not None:
            on_run(batch)
        run = run_call(found, dataclasses.replace(chosen, batch=None if batch == 1 else batch), steps)
        rows += [priced(run, spec, mode, batch, steps, price) for spec in specs for mode in modes]
    return tuple(rows)


def sheets(devices: Sequence[str]) -> list[GpuSpec]:
    """The data sheets of these names, or of "all". Raises UsageError for one that is not there."""
    names = spec_names() if tuple(devices) == ("all",) else devices
    return [load_spec(name.removeprefix("sim:")) for name in names]


def run_call(
    target: Target,
    options: Options,
    steps: int | None,
    *,
    prepare: Callable[[Scene], Scene] | None = None,
) -> Run:
    """The call, run once. steps: RUN_STEPS of them at most are run; None: as the options say.

    prepare: changes the pipeline or the call before. Raises TargetError where the target fails.
    """
    device = resolve_device("sim:a100-80gb")
    own = options if steps is None else dataclasses.replace(options, steps=min(steps, RUN_STEPS))

    def play(scene: Scene) -> Run:
        scene = scene if prepare is None else prepare(scene)
        kernels = SimulatedKernels(device.gpu, scene.pipe, current_mode())  # type: ignore[attr-defined]
        tracker = PhaseTracker(on_change=kernels.phase)
        watched = tracker.watching(scene.pipe), device.observed(kernels, scene.pipe)
        with torch.no_grad(), kernels.following(), watched[0], watched[1]:
            scene.call()
        _, images = outputs(scene.pipe, bound_arguments(scene.pipe, scene.args, scene.kwargs))
        return Run(kernels, compiled_roots(scene.pipe), held, images)

    with device.active():
        held = SESSION.allocated
        return target.run(play, device, own)


def _mode(name: str, roots: tuple[str, ...]) -> Mode:
    if name == "eager":
        return current_mode()
    if name == "compiled":
        return current_mode(compiled=roots)
    return current_mode(
        compiled=roots, quantizes=lambda module, depth, columns, kind: kind == "linear", scheme=SCHEMES[name]
    )


def tells(run: Run, steps: int) -> bool:
    """Whether a call of that many steps can be told from the one that was run."""
    return with_steps(run.kernels.builder.finish(), steps) is not None


def priced(
    run: Run,
    spec: GpuSpec,
    mode: str,
    batch: int,
    steps: int | None,
    price: float | Mapping[str, float] | None,
) -> Prediction:
    """The call on one device and in one mode. steps: None for those that were run."""
    row = Prediction(
        device=spec.key, gpu=spec.name, mode=mode, batch=batch, steps=steps, memory_gib=spec.capacity_gib
    )
    if mode in ("int8", "fp8") and mode not in spec.peak:
        return _told(row, why=f"{spec.name} has no units for {mode}")
    builder = run.kernels.builder
    builder.model = CostModel(spec, _mode(mode, run.roots))
    memory = builder.memory(run.kernels.weights)
    peak = ((memory.peak_bytes or 0) - run.held) / 2**30
    weights = (run.kernels.weights - run.held) / 2**30
    row = _told(row, peak_gib=peak, weights_gib=weights, fits=peak <= spec.capacity_gib)
    if not row.fits:
        lacking = peak - spec.capacity_gib
        return _told(
            row, why=f"does not fit: {lacking:.1f} GiB more than the {spec.capacity_gib:g} there are"
        )
    timeline = builder.finish()
    whole = timeline if steps is None else with_steps(timeline, steps)
    if whole is None:
        return _told(row, why=f"its steps differ, so a call of {steps} can't be told from one of {RUN_STEPS}")
    return _timed(row, whole, run, price)


def _timed(
    row: Prediction, timeline: Timeline, run: Run, price: float | Mapping[str, float] | None
) -> Prediction:
    call = replay(timeline)
    seconds = call.total_us / 1e6
    longer = with_steps(timeline, len(steps_of(timeline)) + 10)
    origin = origin_shares(timeline) or {}
    margin = margin_of(origin) if origin else None
    hourly = price.get(row.device) if isinstance(price, Mapping) else price
    return _told(
        row,
        seconds=seconds,
        per_step_ms=None if longer is None else (replay(longer).total_us - call.total_us) / 1e4,
        waits=sum(sync != -1 for sync in timeline.sync),
        waits_in_loop=sum(
            sync != -1 for first, last in steps_of(timeline) for sync in timeline.sync[first:last]
        ),
        images_per_s=run.images / seconds,
        seconds_per_image=seconds / run.images,
        bound=_bound(timeline, call.device_busy_us / call.total_us),
        origin=origin,
        range=None if margin is None else (seconds * (1 - margin), seconds * (1 + margin)),
        per_thousand=None if hourly is None else 1000 * seconds / run.images / 3600 * hourly,
    )


def _bound(timeline: Timeline, busy: float) -> str:
    """What most of the call's time goes to: the host where the device often idles, else what bounds the
    kernels that take most of the device's time."""
    if busy < HOST_SHARE:
        return "host"
    shares: dict[str, float] = defaultdict(float)
    for kind, spent in zip(timeline.kind, timeline.device_us, strict=True):
        if kind >= 0:
            shares[timeline.kinds[kind].bound or "memory"] += spent
    return max(("compute", "memory"), key=lambda each: shares[each])


def _told(row: Prediction, **figures: Any) -> Prediction:
    return msgspec.structs.replace(row, **figures)
