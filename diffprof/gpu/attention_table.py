"""The attention of a simulated call, by shape, under every kernel that the GPU has for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from diffprof.gpu.attention import ORDER, Backend, takes
from diffprof.gpu.cost import CostModel, attention_shape, attention_type
from diffprof.gpu.families import base_name
from diffprof.gpu.signatures import OTHER_IDS, OpSignature, dtype_name
from diffprof.model.recording import AttentionRow, AttentionTiming, Grade

NATIVE: Mapping[str, Backend] = {
    "_native_flash": Backend.FLASH2,
    "_native_cudnn": Backend.CUDNN,
    "_native_efficient": Backend.EFFICIENT,
    "_native_math": Backend.MATH,
}
"""PyTorch's own kernels, by diffusers' names."""

LIBRARIES: Mapping[str, tuple[Backend, str]] = {
    "_flash_3": (Backend.FLASH3, "flash_attn_interface"),
    "sage": (Backend.SAGE, "sageattention"),
}
"""Those of libraries that are faster somewhere, with the package that has to be installed."""

FASTER = 0.97
"""Share of its time under which attention counts as faster; nearer ties are the model's error."""


def is_attention(op: OpSignature) -> bool:
    """Whether it is a whole scaled dot product attention, forward."""
    return base_name(op) == "scaled_dot_product_attention"


def attention_rows(
    launched: Mapping[tuple[OpSignature, str | None], int], model: CostModel, packages: Sequence[str] = ()
) -> tuple[AttentionRow, ...]:
    """One row a component and shape, what takes longest first. launched: how often each module launched each
    operation. packages: libraries that are installed."""
    counts: Counter[tuple[str, OpSignature]] = Counter()
    for (op, module), times in launched.items():
        if is_attention(op):
            counts[(module or "call").partition(".")[0], op] += times
    rows = [_row(component, op, count, model, packages) for (component, op), count in counts.items()]
    return tuple(sorted(rows, key=lambda row: -row.now_us))


def _row(
    component: str, op: OpSignature, count: int, model: CostModel, packages: Sequence[str]
) -> AttentionRow:
    shape = attention_shape(op)
    timings = [_timing(name, backend, op, count, model) for name, backend in NATIVE.items()]
    timings += [
        _timing(name, backend, op, count, model, installed=package in packages)
        for name, (backend, package) in LIBRARIES.items()
    ]
    return AttentionRow(
        component=component,
        **shape._asdict(),
        dtype=dtype_name(op.inputs[0].dtype),
        count=count,
        now_us=count * attention_us(op, model),
        kernel=str(model.backend(op)),
        timings=tuple(timings),
    )


def _timing(
    name: str, backend: Backend, op: OpSignature, count: int, model: CostModel, installed: bool = True
) -> AttentionTiming:
    if not takes(model.spec, backend, attention_shape(op), attention_type(op)):
        why = "this GPU, type, mask or head size has no such kernel"
        return AttentionTiming(backend=name, grade=Grade.SIMULATED, why_not=why, installed=installed)
    alone = replace(op, id=next(OTHER_IDS), scalars={**op.scalars, "sdpa": (backend,)})
    us = count * attention_us(alone, model)
    return AttentionTiming(backend=name, grade=Grade.SIMULATED, us=us, installed=installed)


def attention_us(op: OpSignature, model: CostModel) -> float:
    """Device time of one attention."""
    return sum(kernel.device_us for kernel in model.kernels(op))


def kernels_in_order(backend: str) -> tuple[Backend, ...]:
    """What PyTorch tries where one of its kernels is preferred to the others."""
    first = NATIVE[backend]
    return (first, *(each for each in ORDER if each is not first))


def fastest(rows: Iterable[AttentionRow], backends: Iterable[str] = NATIVE) -> str | None:
    """The backend under which all rows together take least, if that is clearly less than now."""
    known = list(rows)
    now = sum(row.now_us for row in known)
    best = min(backends, key=lambda name: sum(row.us(name) for row in known), default=None)
    if best is None or sum(row.us(best) for row in known) >= FASTER * now:
        return None
    return best
