"""Predict a pipeline on several GPUs of one kind: diffusers' context parallelism of its denoisers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffusers import ContextParallelConfig
from msgspec.structs import replace

from diffprof.devices import sheet_of
from diffprof.gpu.assembly import assembled
from diffprof.gpu.cost import CostModel
from diffprof.gpu.course import Lengths, course_of
from diffprof.gpu.families import COLLECTIVES
from diffprof.gpu.mode import current_mode
from diffprof.gpu.nccl import COUNTS
from diffprof.gpu.parallel import MODES, Split, heads_left, held_by_ring, split_call
from diffprof.judge.timeline import origin_shares
from diffprof.model.errors import UsageError
from diffprof.model.prediction import Prediction
from diffprof.model.units import plural
from diffprof.scanning.fitting import Divided, Played, played_calls
from diffprof.scanning.predicting import an_image, grounds, shortage
from diffprof.scanning.recipes import Decoding
from diffprof.scanning.repeats import asked_options
from diffprof.targets import Options

TEXT = "encoder_hidden_states"


def predict_parallel(
    target: object,
    *,
    devices: Sequence[str] = ("h100",),
    gpus: Sequence[int] = (2, 4, 8),
    parallel: Sequence[str] = tuple(MODES),
    modes: Sequence[str] = ("eager",),
    steps: int | None = None,
    options: Options | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> tuple[Prediction, ...]:
    """A row for each device, mode, number of GPUs and way to split; one GPU first.

    gpus: of 2, 4 and 8. parallel: of ulysses, ring, unified (2 by half of them, from 4 on). modes: eager or
    compiled. Raises UsageError for others, and for a device whose collectives nobody measured.
    """
    for what, given, known in (
        ("number of GPUs", gpus, COUNTS),
        ("way to split", parallel, tuple(MODES)),
        ("mode here", modes, ("eager", "compiled")),
    ):
        for each in given:
            if each not in known:
                raise UsageError(
                    f"There is no {what} {each!r}.", f"Choose from: {', '.join(map(str, known))}."
                )
    specs = [sheet_of(device) for device in devices]
    chosen = asked_options(target, options, steps)
    (played, *_) = played_calls(target, chosen, specs[0], on_stage or (lambda _: None))
    if isinstance(played.divided, str):
        raise UsageError(f"{played.divided}.", "Leave out --gpus: it runs on one.")
    splits = [Split()] + [found for n in gpus for name in parallel if (found := MODES[name](n)) is not None]
    return tuple(
        _row(played, CostModel(spec), mode, split) for spec in specs for mode in modes for split in splits
    )


def tokens_left(divided: Divided, split: Split) -> str:
    """Of which input diffusers can't deal the tokens out evenly; empty where it can."""
    for name, count in sorted(divided):
        if count % split.gpus:
            whose = {TEXT: "text", "hidden_states": "latent"}.get(name, name)
            return f"{plural(count, f'{whose} token')} can't be divided by {split.gpus}"
    return ""


def _row(played: Played, model: CostModel, mode: str, split: Split) -> Prediction:
    roots = tuple(part.name for part in played.parts if part.role == "denoiser")
    call, beside = played.calls[Decoding.WHOLE]
    divided = played.divided if isinstance(played.divided, frozenset) else frozenset()
    text = any(name == TEXT for name, _ in divided)
    left = tokens_left(divided, split)
    if not left and (heads := heads_left(call, roots, split, text=text)):
        left = f"{heads} heads can't be divided by {split.ulysses}"
    how = f"{split.name}_anything"
    if left and hasattr(ContextParallelConfig, how):
        split, left = split._replace(anything=True), f"{left}: with {how}=True"
    ours = call if split.gpus == 1 else split_call(call, roots, split, text=text)
    model = model.in_mode(current_mode(compiled=roots if mode == "compiled" else (), graphs=False))
    timeline = assembled(ours, model)
    inside = [module is not None and module.startswith(roots) for module in call.modules]
    needed = max(
        need / split.gpus + ring if denoises else need
        for need, denoises, ring in zip(
            beside, inside, held_by_ring(call, roots, split, text=text), strict=True
        )
    )
    peak = (sum(part.nbytes for part in played.parts) + needed) / 2**30
    busy = sum(timeline.device_us)
    talking = sum(
        us for kind, us in zip(timeline.kind, timeline.device_us, strict=True)
        if kind >= 0 and timeline.kinds[kind].name in COLLECTIVES
    )  # fmt: skip
    spec = model.spec
    seconds = Lengths(model).seconds(course_of(ours, [0] * len(ours.items)), played.longer)
    row = Prediction(
        device=spec.key,
        gpu=spec.name,
        mode=mode,
        batch=1,
        steps=played.steps,
        makes=played.makes,
        peak_gib=peak,
        memory_gib=spec.capacity_gib,
        fits=peak <= spec.capacity_gib,
        gpus=split.gpus,
        parallel=None if split.gpus == 1 else split.name,
        communication=talking / busy if busy else None,
        why="; ".join(filter(None, (left, shortage(peak, spec) if peak > spec.capacity_gib else ""))),
    )
    if left and not split.anything:
        return replace(row, fits=False, communication=None, why=f"{left}: diffusers raises")
    if seconds is None:
        return replace(row, origin=origin_shares(timeline))
    return replace(row, **an_image(row, seconds, played.images, None), **grounds(timeline, seconds))
