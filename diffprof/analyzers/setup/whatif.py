"""What the operations of a simulated call would cost under another setup, without running the call again.

Each operation is costed once more by the same model: in half precision, with attention in one kernel, with
projections fused, as part of a compiled graph, quantized to INT8. Each change comes on top of those before.
The results are columns along the kinds of kernels of the timeline.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import groupby
from typing import Any

from diffprof.analyzers.setup.altered import Altered, half_type, is_cast
from diffprof.gpu.cost import CostModel, Kernel
from diffprof.gpu.families import base_name, family_of
from diffprof.gpu.fusion import chains, fuse, is_fusible
from diffprof.gpu.products import Product, product_of
from diffprof.gpu.signatures import OpSignature
from diffprof.gpu.timeline_builder import GUARD_SHARE
from diffprof.model.recording import Grade, KernelKind, KindCosts, Projection, Timeline

WORTH = 0.97
"""Share of its time under which a linear counts as faster in INT8; nearer ties are the model's error."""

COLUMNS = ("now", "half", "sdpa", "qkv", "compiled", "int8")

Launched = tuple[OpSignature, str | None]
"""An operation and the module that ran it."""


def kind_costs(
    operations: Iterable[Launched], timeline: Timeline, model: CostModel, roots: tuple[str, ...]
) -> KindCosts | None:
    """The costs of one call set up otherwise; None for a call that ran compiled.

    operations: what was launched, in order. model: what costed the timeline. roots: components that would be
    compiled.
    """
    if timeline.mode != "eager":
        return None
    return _Costing(timeline, model, roots).run(operations)


def root_of(module: str | None, roots: Sequence[str]) -> str | None:
    """The component, of some, that a module belongs to."""
    if module is None:
        return None
    return next((root for root in roots if module == root or module.startswith(root + ".")), None)


@dataclass
class _Op:
    """One operation: as it ran, and as it would after each change. fused: None where it is gone."""

    now: OpSignature
    module: str | None
    half: OpSignature
    fused: OpSignature | None = None
    qkv: float = 1.0
    """Ratio of the times with and without fused projections."""
    linear: tuple[OpSignature, str, float] | None = None
    """The fused projection that it is part of: operation, name, share of it."""


@dataclass(frozen=True)
class _InGraph:
    """What a compiled graph makes of an operation: its kernels by name, or a share of the kernel of the chain
    that it is part of."""

    share: float | None = None
    kernels: Mapping[str, float] = field(default_factory=dict)

    def of(self, name: str, us: float) -> float:
        """Time of one of the operation's kernels there; one that the graph has not is gone."""
        return us * self.share if self.share is not None else self.kernels.get(name, 0.0)


@dataclass
class _Sums:
    """Of a stretch of the call: device time by kind and column, and calls and times of linears."""

    kinds: dict[int, list[float]] = field(default_factory=dict)
    linears: dict[tuple[str, str, Product], list[float]] = field(default_factory=dict)

    def add(self, other: _Sums, times: int) -> None:
        for kind, values in other.kinds.items():
            _accumulate(self.kinds.setdefault(kind, [0.0] * len(values)), values, times)
        for linear, values in other.linears.items():
            _accumulate(self.linears.setdefault(linear, [0.0] * len(values)), values, times)


def _accumulate(held: list[float], values: Iterable[float], times: float = 1.0) -> None:
    for place, value in enumerate(values):
        held[place] += value * times


class _Costing:
    def __init__(self, timeline: Timeline, model: CostModel, roots: tuple[str, ...]) -> None:
        self.timeline = timeline
        self.model = model
        self.roots = roots
        self.altered = Altered(half_type(model.spec))
        self.eager = CostModel(model.spec, replace(model.mode, compiled=(), int8=None))
        self.graph = CostModel(model.spec, replace(model.mode, compiled=roots or ("",), int8=None))
        self.kinds = {_kind_key(kind): n for n, kind in enumerate(timeline.kinds)}
        self._own: dict[int, list[tuple[int, float]]] = {}
        self._half: dict[int, list[float]] = {}
        self._eager_us: dict[int, float] = {}
        self._linear_us: dict[int, tuple[float, float, float]] = {}
        self._chains: dict[tuple[int, ...], _InGraph] = {}

    def run(self, operations: Iterable[Launched]) -> KindCosts:
        """Stretches of the call that are alike, such as the denoiser's steps, are costed once."""
        counts: Counter[tuple[tuple[int, str | None], ...]] = Counter()
        examples: dict[tuple[tuple[int, str | None], ...], list[Launched]] = {}
        roots: dict[str | None, str | None] = {}
        unlike = _Unlike()

        def root(launched: Launched) -> str | None:
            module = launched[1]
            if module not in roots:
                roots[module] = root_of(module, self.roots)
            return roots[module]

        for _, group in groupby(operations, key=root):
            stretch = [(unlike.of(op), module) for op, module in group]
            key = tuple((op.id, module) for op, module in stretch)
            counts[key] += 1
            examples.setdefault(key, stretch)
        sums = _Sums()
        for key, times in counts.items():
            sums.add(self._stretch(examples[key]), times)
        means: dict[str, tuple[float, ...]] = {}
        for place, name in enumerate(COLUMNS, 1):
            held = (sums.kinds.get(kind) for kind in range(len(self.timeline.kinds)))
            means[f"{name}_us"] = tuple(values[place] / values[0] if values else 0.0 for values in held)
        return KindCosts(
            grade=Grade.SIMULATED,
            half=str(self.altered.dtype).removeprefix("torch."),
            projections=_rows(sums.linears),
            compiled_host_left=GUARD_SHARE if self.roots else 1.0,
            **means,
        )

    def _stretch(self, launched: Sequence[Launched]) -> _Sums:
        sums = _Sums()
        root = root_of(launched[0][1], self.roots)
        ops = [_Op(op, module, self.altered.in_half(op)) for op, module in launched]
        for op in ops:
            op.fused = op.half
        if root is not None:
            self._fuse_attention(ops)
            self._fuse_projections(ops)
        in_graph = self._compiled(ops) if root is not None else {}
        for n, op in enumerate(ops):
            own = self._kernels(op.now)
            half = self._in_half(op, own)
            sdpa = self._replaced(op, half)
            int8 = self._int8(op, root, sums)
            graph = in_graph.get(n)
            names = self._names(op, own)
            for (kind, now), name, us, fused in zip(own, names, half, sdpa, strict=True):
                within = fused if graph is None else graph.of(name, fused)
                row = (now, us, fused, fused * op.qkv, within * op.qkv, within * op.qkv * int8)
                _accumulate(sums.kinds.setdefault(kind, [0.0] * (1 + len(row))), (1.0, *row))
        return sums

    # --- one operation ---------------------------------------------------------------------------------

    def _kernels(self, op: OpSignature) -> list[tuple[int, float]]:
        """(kind, device time) of the kernels of an operation as it ran."""
        known = self._own.get(op.id)
        if known is not None:
            return known
        own: list[tuple[int, float]] = []
        for pinned in (False, True):
            kernels = self.model.kernels(op, pinned=pinned)
            found = [(self.kinds.get(_kernel_key(kernel)), kernel.device_us) for kernel in kernels]
            if all(kind is not None for kind, _ in found):
                own = [(kind, us) for kind, us in found if kind is not None]
                break
        self._own[op.id] = own
        return own

    def _in_half(self, op: _Op, own: Sequence[tuple[int, float]]) -> list[float]:
        known = self._half.get(op.now.id)
        if known is not None:
            return known
        now = [us for _, us in own]
        if op.half is op.now:
            half = now
        elif is_cast(op.now) and not is_cast(op.half):
            half = [0.0] * len(own)
        else:
            half = _spread(self.eager.kernels(op.half), now)
        self._half[op.now.id] = half
        return half

    def _names(self, op: _Op, own: Sequence[tuple[int, float]]) -> list[str]:
        """Names of the operation's kernels in half precision, which may be others (attention's), along its
        own."""
        if op.half is not op.now:
            kernels = self.eager.kernels(op.half)
            if len(kernels) == len(own):
                return [kernel.name for kernel in kernels]
        return [self.timeline.kinds[kind].name for kind, _ in own]

    def _replaced(self, op: _Op, half: list[float]) -> list[float]:
        if op.fused is op.half:
            return half
        return [0.0] * len(half) if op.fused is None else _spread(self.eager.kernels(op.fused), half)

    # --- attention -------------------------------------------------------------------------------------

    def _fuse_attention(self, ops: Sequence[_Op]) -> None:
        """Scores, softmax and product of one module become one operation, and the copies go that lay out
        query, key and value for them."""
        pending: dict[str, list[_Op]] = defaultdict(list)
        scores: dict[str, _Op] = {}
        for op in ops:
            if op.module is None:
                continue
            base = base_name(op.half)
            waiting = pending[op.module]
            if base in ("baddbmm", "bmm") and op.module not in scores:
                scores[op.module] = op
            elif base == "bmm":
                first = scores.pop(op.module)
                if any(base_name(each.half).endswith("softmax") for each in waiting):
                    op.fused = self.altered.attention(first.half, op.half)
                    for each in (first, *waiting):
                        each.fused = None
                pending[op.module] = []
            elif base.endswith("softmax") or family_of(base) == "copy":
                waiting.append(op)
            elif op.module not in scores:
                waiting.clear()

    # --- projections -----------------------------------------------------------------------------------

    def _fuse_projections(self, ops: Sequence[_Op]) -> None:
        """The three read the same tensor in self-attention; key and value alone in cross-attention."""
        groups: dict[tuple[str, int], dict[str, _Op]] = defaultdict(dict)
        for op in ops:
            parent, _, leaf = (op.module or "").rpartition(".")
            if leaf not in ("to_q", "to_k", "to_v") or op.half.name != "aten::linear":
                continue
            group = groups[parent, id(op.half.inputs[0])]
            group[leaf] = op
            if leaf == "to_v" and "to_k" in group:
                name = f"{parent}.{'to_qkv' if 'to_q' in group else 'to_kv'}"
                self._fuse([group.pop(each) for each in list(group)], name)

    def _fuse(self, apart: Sequence[_Op], name: str) -> None:
        x, weight = apart[0].half.inputs[:2]
        depth = weight.shape[1]
        wide = sum(op.half.inputs[1].shape[0] for op in apart)
        together = self.altered.linear(x.numel // depth, wide, depth, x.dtype)
        now = sum(self._alone(op.half) for op in apart)
        for op in apart:
            op.qkv = self._alone(together) / now if now else 1.0
            op.linear = (together, name, 1.0 / len(apart))

    # --- as a compiled graph ---------------------------------------------------------------------------

    def _compiled(self, ops: Sequence[_Op]) -> dict[int, _InGraph]:
        """Place of an operation -> what a compiled graph makes of it."""
        found: dict[int, _InGraph] = {}
        left = [(op.fused, n) for n, op in enumerate(ops) if op.fused is not None]
        at = 0
        for chain, _ in chains(left):
            places = [n for _, n in left[at : at + len(chain)]]
            at += len(chain)
            kept = ops[places[0]].fused is ops[places[0]].half
            key = (kept, *(op.id for op in chain))
            in_graph = self._chains.get(key)
            if in_graph is None:
                in_graph = self._chains[key] = self._in_graph(chain, kept)
            found.update(dict.fromkeys(places, in_graph))
        return found

    def _in_graph(self, chain: Sequence[OpSignature], kept: bool) -> _InGraph:
        """Of neighbouring operations that become one kernel, or of a single one. kept: it is one of the
        call's own, not one that stands for several."""
        eager = sum(map(self._alone, chain))
        if len(chain) > 1 or is_fusible(chain[0]):
            return _InGraph(share=fuse(chain, self.graph).device_us / eager if eager else 1.0)
        kernels = self.graph.kernels(chain[0], compiled=True)
        if kept:
            return _InGraph(kernels={kernel.name: kernel.device_us for kernel in kernels})
        return _InGraph(share=_us(kernels) / eager if eager else 1.0)

    def _alone(self, op: OpSignature) -> float:
        """Device time of an operation that runs eagerly."""
        found = self._eager_us.get(op.id)
        if found is None:
            found = self._eager_us[op.id] = _us(self.eager.kernels(op))
        return found

    # --- INT8 ------------------------------------------------------------------------------------------

    def _int8(self, op: _Op, root: str | None, sums: _Sums) -> float:
        """Ratio of the times of a linear of a compiled component, 1.0 where INT8 does not gain.

        What it would be with and without its projections fused is noted for both.
        """
        if root is None or op.module is None or "lora_" in op.module:
            return 1.0
        product = product_of(op.half)
        if product is None:
            return 1.0
        alone = self._note(op.half, product, op.module, root, 1.0, sums)
        if op.linear is None:
            return alone
        together, name, share = op.linear
        whole = product_of(together)
        assert whole is not None
        return self._note(together, whole, name, root, share, sums)

    def _note(
        self, op: OpSignature, product: Product, module: str, root: str, calls: float, sums: _Sums
    ) -> float:
        known = self._linear_us.get(op.id)
        if known is None:
            known = self._linear_us[op.id] = self._product_us(op, product)
        now, best, int8 = known
        name = module.removeprefix(root).lstrip(".").replace(".base_layer", "")
        key = (root, pattern_of(name), product)
        held = sums.linears.setdefault(key, [0.0, 0.0, 0.0])
        _accumulate(held, (1.0, best, int8), calls)
        return int8 / now if int8 < WORTH * best else 1.0

    def _product_us(self, op: OpSignature, product: Product) -> tuple[float, float, float]:
        """(as it runs, as what is faster, in INT8) in a graph. With max-autotune Inductor tries a 1x1
        convolution as a matmul too (torch/_inductor/kernel/conv.py, aten_conv1x1_via_mm)."""
        now = _us(self.graph.kernels(op, compiled=True))
        linear = op
        if product.kind == "conv1x1":
            weight = op.inputs[1]
            linear = self.altered.linear(product.rows, product.columns, product.depth, weight.dtype)
        best = min(now, _us(self.graph.kernels(linear, compiled=True)))
        return now, best, _us(self.graph.kernels(linear, compiled=True, int8=True))


class _Unlike:
    """One operation for all that differ only in where their data lies, such as `timesteps[i]`."""

    def __init__(self) -> None:
        self._by_id: dict[int, OpSignature] = {}
        self._by_look: dict[tuple[Any, ...], OpSignature] = {}

    def of(self, op: OpSignature) -> OpSignature:
        found = self._by_id.get(op.id)
        if found is None:
            look = (
                *(op.name, op.direction, op.nbytes, repr(op.scalars)),
                *((m.shape, m.stride, m.dtype, m.device, m.bits) for m in (*op.inputs, *op.outputs)),
                len(op.inputs),
            )
            found = self._by_id[op.id] = self._by_look.setdefault(look, op)
        return found


@cache
def pattern_of(name: str) -> str:
    """The name with `*` for every index: `blocks.3.to_out.0` -> `blocks.*.to_out.*`."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _rows(linears: Mapping[tuple[str, str, Product], Sequence[float]]) -> tuple[Projection, ...]:
    return tuple(
        Projection(
            component=component,
            pattern=pattern,
            in_features=product.depth,
            out_features=product.columns,
            rows=product.rows,
            count=round(calls),
            now_us=half,
            int8_us=int8,
            kind=product.kind,
        )
        for (component, pattern, product), (calls, half, int8) in linears.items()
    )


def _us(kernels: Iterable[Kernel]) -> float:
    return sum(kernel.device_us for kernel in kernels)


def _spread(kernels: Sequence[Kernel], over: Sequence[float]) -> list[float]:
    """Times of kernels along those that they replace: one by one, or in proportion where there are more or
    fewer."""
    if len(kernels) == len(over):
        return [kernel.device_us for kernel in kernels]
    before = sum(over)
    return [us * (_us(kernels) / before if before else 1.0) for us in over]


def _kind_key(kind: KernelKind) -> tuple[Any, ...]:
    return (kind.name, kind.family, kind.shape, kind.dtype, kind.flops, kind.bytes, kind.device_us)


def _kernel_key(kernel: Kernel) -> tuple[Any, ...]:
    return (
        kernel.name,
        kernel.family,
        kernel.shape,
        kernel.dtype,
        kernel.flops,
        kernel.bytes,
        kernel.device_us,
    )
