"""What a simulated call would take set up otherwise: its operations with a change made, costed again.

A change rewrites the operations of the call (in half precision, attention in one kernel, projections fused,
convolutions in channels_last) or how they are run (TF32, compiled, INT8). The timeline is built anew from
what comes of it, by what built the call's own, so that host and device overlap as they would.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

from diffprof.gpu.altered import Altered, half_type, is_cast
from diffprof.gpu.cost import CostModel, Kernel
from diffprof.gpu.families import base_name, family_of
from diffprof.gpu.mode import Mode
from diffprof.gpu.products import Product, product_of
from diffprof.gpu.quantized import SCHEMES
from diffprof.gpu.signatures import OpSignature
from diffprof.gpu.timeline_builder import Call, Launched, Relaid, Wait, alike, assembled, compiled_root
from diffprof.judge.timeline import with_steps
from diffprof.model.recording import Change, Projection, Timeline

WORTH = 0.97
"""Share of its time under which a linear counts as faster in INT8; nearer ties are the model's error."""

PROJECTIONS = (
    {"to_q": "q", "to_k": "k", "to_v": "v"},
    {"add_q_proj": "q", "add_k_proj": "k", "add_v_proj": "v"},
)
"""Linears that diffusers' `fuse_projections` puts together: all three, or key and value
(`AttentionModuleMixin` in diffusers/models/attention.py)."""

FUSED = ("to_qkv", "to_kv"), ("to_added_qkv", "to_added_kv")
"""What they become, for three and for two."""

Identity = tuple[str, str, str, int, int]
"""Component, linear or conv1x1, pattern of the name, in_features, out_features."""


class WhatIf:
    """One call, and what becomes of it under changes.

    call: as it was launched. model: what costed it. roots: components that are compiled when the pipeline is.
    fusable: paths of the attention modules whose projections can be fused. relaid: the calls of modules with
    convolutions, run in channels_last; None where that is not known. graphs: whether what is compiled can be
    replayed as CUDA graphs. rows: key of a wait -> index into Recording.syncs.
    """

    def __init__(
        self,
        call: Call,
        model: CostModel,
        roots: tuple[str, ...],
        fusable: Collection[str] = (),
        relaid: Sequence[Relaid] | None = None,
        graphs: bool = True,
        rows: Mapping[Hashable, int] | None = None,
    ) -> None:
        self.model = model
        self.roots = roots
        self.fusable = frozenset(fusable)
        self.relaid = relaid
        self.graphs = graphs
        self.rows = rows or {}
        self.altered = Altered(half_type(model.spec))
        self._whole = call._replace(items=alike(call.items))
        self._models: dict[Mode, CostModel] = {}
        self._gaining: frozenset[Identity] | None = None
        self._take(_shortened(self._whole))

    def _take(self, short: _Short) -> None:
        """Work on this part of the call."""
        self._short = short
        self._calls: dict[frozenset[Change], Call] = {frozenset(): short.call}

    # --- asking ---------------------------------------------------------------------------------------

    def timeline(self, *changes: Change) -> Timeline:
        """The call with these changes made."""
        model = self._model(self._mode(frozenset(changes)))
        found = with_steps(assembled(self.call(*changes), model, self.rows), self._short.steps)
        if found is None:  # steps that launch the same, and yet don't take the same time
            self._take(_Short(self._whole, self._short.steps))
            found = assembled(self.call(*changes), model, self.rows)
        return found

    def changes_anything(self, change: Change) -> bool:
        """Whether the call has something that the change is about."""
        if change in (Change.COMPILED, Change.COMPILED_BLOCKS):
            return bool(self.roots) and not self.model.mode.compiled
        if change is Change.INT8:
            return bool(self.roots) and self.model.mode.quantizes is None and bool(self.gaining())
        if change is Change.TF32:
            return not self.model.mode.matmul_tf32 and "tf32" in self.model.spec.peak and self._has_float32()
        return self.call(change) is not self._short.call

    def call(self, *changes: Change) -> Call:
        """The operations with these changes made."""
        made = frozenset(change for change in changes if change in _REWRITES)
        if Change.QKV in made:
            made |= {Change.SDPA}  # diffusers puts processors in the place that use it
        found = self._calls.get(made)
        if found is None:
            last = [change for change in _REWRITES if change in made][-1]
            before = self.call(*(made - {last}))
            found = self._calls[made] = _REWRITES[last](self, before)
        return found

    # --- how the operations are run -------------------------------------------------------------------

    def _mode(self, made: frozenset[Change]) -> Mode:
        own = self.model.mode
        if Change.TF32 in made:
            own = replace(own, matmul_tf32=True)
        if made & {Change.COMPILED, Change.COMPILED_BLOCKS}:
            own = replace(own, compiled=self.roots, graphs=self.graphs and Change.COMPILED in made)
        if Change.INT8 in made:
            own = replace(own, quantizes=self._chosen, scheme=SCHEMES["int8"])
        return own

    def _model(self, mode: Mode) -> CostModel:
        if mode not in self._models:
            self._models[mode] = CostModel(self.model.spec, mode, self.model.host)
        return self._models[mode]

    def _has_float32(self) -> bool:
        return any(
            family_of(base_name(op)) == "gemm" and str(op.inputs[0].dtype) == "torch.float32"
            for op, _ in _launched(self._short.call)
            if op.inputs
        )

    # --- INT8 -----------------------------------------------------------------------------------------

    def _chosen(self, module: str | None, depth: int, columns: int, kind: str) -> bool:
        root = compiled_root(module, self.roots)
        if module is None or root is None:
            return False
        return (root, kind, pattern_of(_within(module, root)), depth, columns) in self.gaining()

    def gaining(self) -> frozenset[Identity]:
        """Layers that INT8 makes faster in a compiled graph, all activations that they see together."""
        if self._gaining is None:
            sums: dict[Identity, list[float]] = defaultdict(lambda: [0.0, 0.0])
            for each in self.projections():
                name = (each.component, each.kind, each.pattern, each.in_features, each.out_features)
                sums[name][0] += each.now_us
                sums[name][1] += each.int8_us
            self._gaining = frozenset(name for name, (now, int8) in sums.items() if int8 < WORTH * now)
        return self._gaining

    def projections(self) -> tuple[Projection, ...]:
        """The linears and 1x1 convolutions of what would be compiled, apart and fused, in half precision and
        in INT8."""
        counts: Counter[tuple[OpSignature, str]] = Counter()
        half = self.call(Change.HALF)
        for call in (half, self.call(Change.HALF, Change.QKV)):
            weights = self._short.weights(call)
            counts |= Counter(
                {
                    (item, module): times
                    for (item, module), times in _counted(call, weights).items()
                    if isinstance(item, OpSignature) and module is not None
                }
            )
        graph = self._model(self._mode(frozenset({Change.COMPILED})))
        rows: dict[tuple[str, str, Product], list[float]] = {}
        for (op, module), times in counts.items():
            root = compiled_root(module, self.roots)
            product = product_of(op) if root is not None and "lora_" not in module else None
            if root is None or product is None:
                continue
            now, int8 = self._product_us(op, product, graph)
            held = rows.setdefault((root, pattern_of(_within(module, root)), product), [0.0, 0.0, 0.0])
            for place, value in enumerate((1.0, now, int8)):
                held[place] += value * times
        return tuple(
            Projection(
                component=root,
                pattern=pattern,
                in_features=product.depth,
                out_features=product.columns,
                rows=product.rows,
                count=round(times),
                now_us=now,
                int8_us=int8,
                kind=product.kind,
            )
            for (root, pattern, product), (times, now, int8) in rows.items()
        )

    def _product_us(self, op: OpSignature, product: Product, graph: CostModel) -> tuple[float, float]:
        """(as what is faster, in INT8) in a graph. With max-autotune Inductor tries a 1x1 convolution as a
        matmul too (torch/_inductor/kernel/conv.py, aten_conv1x1_via_mm)."""
        linear = op
        if product.kind == "conv1x1":
            linear = self.altered.linear(product.rows, product.columns, product.depth, op.inputs[1].dtype)
        now = min(_us(graph.kernels(each, compiled=True)) for each in (op, linear))
        return now, _us(graph.kernels(linear, compiled=True, quantized=True))

    # --- rewriting the operations ---------------------------------------------------------------------

    def _in_channels_last(self, call: Call) -> Call:
        if not self.relaid:
            return call
        out: list[list[Launched]] = [[each] for each in _items(call)]
        for first, last, items in self._short.places(self.relaid):
            out[first:last] = [list(items), *[[]] * (last - first - 1)]
        return _rewritten(call, out)

    def _in_half(self, call: Call) -> Call:
        out: list[list[Launched]] = []
        changed = False
        for item, module in _items(call):
            if isinstance(item, Wait):
                out.append([(item, module)])
                continue
            half = self.altered.in_half(item)
            changed = changed or half is not item
            gone = half is not item and is_cast(item) and not is_cast(half) and item.direction is None
            out.append([] if gone else [(half, module)])
        return _rewritten(call, out) if changed else call

    def _attention_fused(self, call: Call) -> Call:
        """Scores, softmax and product of one module become one operation, and the copies go that lay out
        query, key and value for them, and the one that puts the heads together again: the fused kernel
        writes them beside each other."""
        out: list[list[Launched]] = [[each] for each in _items(call)]
        pending: dict[str, list[int]] = defaultdict(list)
        scores: dict[str, tuple[int, OpSignature]] = {}
        softmaxes: set[int] = set()
        results: dict[str, int] = {}
        changed = False
        for place, (item, module) in enumerate(_items(call)):
            if module is None or isinstance(item, Wait) or compiled_root(module, self.roots) is None:
                continue
            base = base_name(item)
            waiting = pending[module]
            if results.pop(module, None) == item.outputs[0].numel and family_of(base) == "copy":
                out[place] = []
            elif base in ("baddbmm", "bmm") and module not in scores:
                scores[module] = place, item
            elif base == "bmm":
                first, product = scores.pop(module)
                if softmaxes.intersection(waiting):
                    changed = True
                    results[module] = item.outputs[0].numel
                    out[place] = [(self.altered.attention(product, item), module)]
                    for each in (first, *waiting):
                        out[each] = []
                pending[module] = []
            elif base.endswith("softmax") or family_of(base) == "copy":
                waiting.append(place)
                if base.endswith("softmax"):
                    softmaxes.add(place)
            elif module not in scores:
                waiting.clear()
        return _rewritten(call, out) if changed else call

    def _projections_fused(self, call: Call) -> Call:
        """The three read the same tensor in self-attention; key and value alone in cross-attention."""
        out: list[list[Launched]] = [[each] for each in _items(call)]
        groups: dict[tuple[str, int, int], dict[str, int]] = defaultdict(dict)
        changed = False
        for place, (item, module) in enumerate(_items(call)):
            parent, _, leaf = (module or "").rpartition(".")
            kind = next((n for n, names in enumerate(PROJECTIONS) if leaf in names), None)
            if kind is None or parent not in self.fusable or not isinstance(item, OpSignature):
                continue
            if item.name != "aten::linear":
                continue
            part = PROJECTIONS[kind][leaf]
            group = groups[parent, kind, id(item.inputs[0])]
            group[part] = place
            if part == "v" and "k" in group:
                places = sorted(group.values())
                group.clear()
                name = FUSED[kind][0 if len(places) == 3 else 1]
                fused = self._together([call.items[each] for each in places])
                for each in places:
                    out[each] = []
                out[places[0]] = [(fused, f"{parent}.{name}")]
                changed = True
        return _rewritten(call, out) if changed else call

    def _together(self, apart: Sequence[Any]) -> OpSignature:
        x, weight = apart[0].inputs[:2]
        depth = weight.shape[1]
        wide = sum(op.inputs[1].shape[0] for op in apart)
        return self.altered.linear(x.numel // depth, wide, depth, x.dtype)


_REWRITES: Mapping[Change, Callable[[WhatIf, Call], Call]] = {
    Change.CHANNELS_LAST: WhatIf._in_channels_last,
    Change.HALF: WhatIf._in_half,
    Change.SDPA: WhatIf._attention_fused,
    Change.QKV: WhatIf._projections_fused,
}
"""Changes of the operations themselves, in the order in which they are made."""


# --- stretches of a call -----------------------------------------------------------------------------------


class _Short(NamedTuple):
    """A call with neighbouring steps that are alike left out but for two; steps: how many it had.

    cut: items [first, last) of the original that are left out, after the second of those that are alike.
    """

    call: Call
    steps: int
    cut: tuple[int, int] = (0, 0)

    def weights(self, call: Call) -> Callable[[int], int]:
        """How often each item of a rewritten call stands in the whole."""
        if self.cut[0] == self.cut[1]:
            return lambda place: 1
        step = _step_spans(call)
        first, last = step[self._repeated()]
        times = 1 + self.steps - len(step)
        return lambda place: times if first <= place < last else 1

    def _repeated(self) -> int:
        """Number of the step that stands for those that were left out."""
        return next(step for step, (_, last) in _step_spans(self.call).items() if last == self.cut[0])

    def places(self, relaid: Iterable[Relaid]) -> Iterator[Relaid]:
        """The same by the items that are left."""
        first, last = self.cut
        for each in relaid:
            if each.last <= first:
                yield each
            elif each.first >= last:
                shift = last - first
                yield Relaid(each.first - shift, each.last - shift, each.items)


def _shortened(call: Call) -> _Short:
    spans = _step_spans(call)
    steps = len(spans)
    numbers = list(spans)
    at = [spans[n] for n in numbers]
    content = [(call.items[a:b], call.modules[a:b]) for a, b in at]
    same = [one == other and a[1] == b[0] for (one, a), (other, b) in pairwise(zip(content, at, strict=True))]
    end = len(same)
    while end and not same[end - 1]:
        end -= 1
    begin = end
    while begin and same[begin - 1]:
        begin -= 1
    if end - begin < 2:
        return _Short(call, steps)
    cut = (at[begin + 1][1], at[end][1])
    gone = set(numbers[begin + 2 : end + 1])
    shift, fewer = cut[1] - cut[0], len(gone)
    phases = [
        phase if phase[0] < cut[0] else (phase[0] - shift, phase[1], phase[2] and phase[2] - fewer, phase[3])
        for phase in call.phases
        if phase[2] not in gone and not cut[0] <= phase[0] < cut[1]
    ]
    left = Call(
        [*call.items[: cut[0]], *call.items[cut[1] :]],
        [*call.modules[: cut[0]], *call.modules[cut[1] :]],
        phases,
    )
    return _Short(left, steps, cut)


def _step_spans(call: Call) -> dict[int, tuple[int, int]]:
    """Step -> its items [first, last), for steps in which a part of the pipeline ran. The last one ends where
    another phase begins."""
    firsts: dict[int, int] = {}
    lasts: dict[int, int] = {}
    worked: set[int] = set()
    for (first, _, step, part), (last, *_) in pairwise([*call.phases, (len(call.items), "", None, None)]):
        if step is None:
            continue
        firsts.setdefault(step, first)
        lasts[step] = last
        if part is not None:
            worked.add(step)
    return {step: (firsts[step], lasts[step]) for step in sorted(worked)}


def _items(call: Call) -> Iterator[Launched]:
    return zip(call.items, call.modules, strict=True)


def _launched(call: Call) -> Iterator[tuple[OpSignature, str | None]]:
    for item, module in _items(call):
        if isinstance(item, OpSignature):
            yield item, module


def _counted(call: Call, weight: Callable[[int], int]) -> Counter[Launched]:
    found: Counter[Launched] = Counter()
    for place, launched in enumerate(_items(call)):
        found[launched] += weight(place)
    return found


def _rewritten(call: Call, out: Sequence[Sequence[Launched]]) -> Call:
    """The call with other items in the place of each; phases begin where they began."""
    starts = [0]
    for each in out:
        starts.append(starts[-1] + len(each))
    flat = [launched for each in out for launched in each]
    phases = [(starts[first], *rest) for first, *rest in call.phases]
    return Call([item for item, _ in flat], [module for _, module in flat], phases)  # type: ignore[arg-type]


def _within(module: str, root: str) -> str:
    return module.removeprefix(root).lstrip(".").replace(".base_layer", "")


@cache
def pattern_of(name: str) -> str:
    """The name with `*` for every index: `blocks.3.to_out.0` -> `blocks.*.to_out.*`."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _us(kernels: Iterable[Kernel]) -> float:
    return sum(kernel.device_us for kernel in kernels)
