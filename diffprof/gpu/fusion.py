"""What a compiler makes of a run of operations: chains of pointwise work, norms and copies in one kernel.

TorchInductor generates one Triton kernel for neighbouring operations that have no matmul, convolution or
attention between them; what one makes and the next one reads stays in registers. Without
`epilogue_fusion` nothing is fused into the matmuls themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from .cost import CostModel, Kernel, is_grouped
from .families import COLLECTIVES, base_name, family_of
from .memory import floor_us
from .operands import describe, touched
from .pointwise import statistics_us

if TYPE_CHECKING:
    from .signatures import OpSignature, TensorMeta

FUSIBLE = frozenset({"pointwise", "norm", "reduction", "copy", "memset"})

Key = tuple[int, int]
"""(elements, bytes of one): what is told of a value as it passes from op to op; views change its shape."""


def is_fusible(signature: OpSignature) -> bool:
    """Whether the compiler generates this op itself, instead of calling a library for it."""
    base = base_name(signature)
    return signature.direction is None and base not in COLLECTIVES and family_of(base) in FUSIBLE


def fuse(chain: Sequence[OpSignature], model: CostModel) -> Kernel:
    """One generated kernel for a chain of fusible ops, remembered with the GPU's sheet.

    It reads what no op of the chain has made, and writes what is left at its end. The input of a norm is
    written too: the residual stream, or the picture that a second pass normalizes.
    """
    key = (*chain, model.mode.graphs)
    found: Kernel | None = model.spec.prices.get(key)
    if found is None:
        found = model.spec.prices[key] = _fused(chain, model)
    return found


def _fused(chain: Sequence[OpSignature], model: CostModel) -> Kernel:
    made: Counter[Key] = Counter()
    waiting: dict[Key, float] = {}
    read = written = 0.0
    names: list[str] = []
    passes = 0
    for op in chain:
        base = base_name(op)
        names.append(base.strip("_"))
        family = family_of(base)
        grouped = is_grouped(base)
        for place, meta in enumerate(op.inputs):
            if meta.device == "cpu":
                continue
            key = (meta.numel, meta.dtype.itemsize)
            inside = made[key] > 0
            if inside:
                made[key] -= 1
            else:
                read += touched(meta)
            if family == "norm" and place == 0:
                written += touched(meta) if inside else 0.0
                if grouped:
                    # The statistics of a whole group need a pass of their own.
                    read += touched(meta)
                    passes += 1
        for meta in op.outputs[:1]:
            key = (meta.numel, meta.dtype.itemsize)
            made[key] += 1
            waiting[key] = float(touched(meta))
    written += sum(count * waiting[key] for key, count in made.items() if count > 0)
    last = chain[-1]
    moved = read + written
    fixed = model.fixed_us(True)
    # Statistics of whole groups: arithmetic, beside the bytes.
    grouped_elements = sum(op.inputs[0].numel for op in chain if is_grouped(base_name(op)))
    work = model.generated_us(moved) + statistics_us(model.spec, grouped_elements)
    return Kernel(
        name="triton_" + "_".join(dict.fromkeys(names))[:60],
        family="norm" if any(family_of(base_name(op)) == "norm" for op in chain) else _main_family(chain),
        device_us=work + fixed * (1 + passes),
        lower_bound_us=floor_us(model.spec, moved),
        bound="memory" if work > fixed else "fixed",
        flops=float(sum(op.outputs[0].numel for op in chain if op.outputs)),
        bytes=moved,
        dtype=_dtype(last.outputs[0] if last.outputs else last.inputs[0]),
        shape=describe(chain[0]),
    )


def _main_family(chain: Sequence[OpSignature]) -> str:
    families = [family_of(base_name(op)) for op in chain]
    for family in ("reduction", "pointwise"):
        if family in families:
            return family
    return families[0]


def _dtype(meta: TensorMeta) -> str:
    return str(meta.dtype).removeprefix("torch.")


def chains(
    ops: Iterable[tuple[OpSignature, int]],
    fusible: Callable[[OpSignature], bool] = is_fusible,
) -> Iterator[tuple[list[OpSignature], int]]:
    """Neighbouring fusible ops together, any other op alone; each with the place of its last one."""
    run: list[OpSignature] = []
    place = 0
    for op, where in ops:
        if fusible(op):
            run.append(op)
            place = where
            continue
        if run:
            yield run, place
            run = []
        yield [op], where
    if run:
        yield run, place
