"""What a simulated call would take set up otherwise: its operations with a change made, costed again.

A change rewrites the operations of the call (in half precision, attention in one kernel, projections fused,
convolutions in channels_last) or how they are run (TF32, compiled, INT8). The timeline is built anew from
what comes of it, by what built the call's own, so that host and device overlap as they would.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from itertools import accumulate, groupby, pairwise
from typing import Any

import torch

from diffprof.gpu.altered import altered, half_type, is_cast
from diffprof.gpu.assembly import (
    Assembled,
    Assembly,
    Launched,
    LaunchedWait,
    Relaid,
    Stretch,
    compiled_root,
)
from diffprof.gpu.attention_table import attention_rows, fastest, is_attention, kernels_in_order
from diffprof.gpu.cost import CostModel, Kernel
from diffprof.gpu.families import base_name, family_of
from diffprof.gpu.mode import Mode
from diffprof.gpu.products import Product, product_of
from diffprof.gpu.quantized import SCHEMES
from diffprof.gpu.signatures import OpSignature
from diffprof.gpu.variant_times import VariantTimes
from diffprof.judge.steps import nearly_repeats
from diffprof.model.recording import Change, Projection

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


SETTLED = 3
"""Steps that come once more, after which a further one adds what the last one added: by then the CPU is as
far ahead of the device as it stays."""


class WhatIf:
    """One call, and what becomes of it under changes.

    cut: the call, in stretches. own: what it launches as it was. roots: components that are compiled when the
    pipeline is. fusable: paths of the attention modules whose projections can be fused. relaid: the calls of
    modules with convolutions, run in channels_last; None where that is not known. fused: calls of models, run
    with their projections fused; of others that is told by arithmetic. graphs: whether what is compiled can
    be replayed as CUDA graphs.
    """

    def __init__(
        self,
        cut: Assembled,
        own: Assembly,
        roots: tuple[str, ...],
        fusable: Collection[str] = (),
        relaid: Sequence[Relaid] | None = None,
        fused: Sequence[Relaid] = (),
        graphs: bool = True,
    ) -> None:
        self.cut = cut
        self.model = own.model
        self.roots = roots
        self.fusable = frozenset(fusable)
        self.relaid = relaid
        self.graphs = graphs
        self.altered = altered(half_type(self.model.spec))
        self._own = cut.parts
        self._relaid = _in_their_places(self._own, relaid or ())
        self._fused = _in_their_places(self._own, fused)
        self._parts: dict[frozenset[Change], list[Stretch]] = {frozenset(): self._own}
        self._assemblies: dict[Mode, Assembly] = {self.model.mode: own}
        self._times: dict[Assembly, VariantTimes] = {}
        self._models: dict[Mode, CostModel] = {}
        self._int8: dict[tuple[str | None, int, int, str], bool] = {}

    # --- asking ---------------------------------------------------------------------------------------

    def total_us(
        self, *changes: Change, waits: Collection[int] = (), reads: Collection[int] = (), more: int = 0
    ) -> float:
        """How long the call takes with these changes made, and without these waits; `reads` are gone with
        all that they launch. Both are rows of Recording.syncs. more: how often the step that `repeats` comes
        once more."""
        assembly = self._assembly(self._mode(frozenset(changes)))
        parts = self.parts(*changes)
        if more and self.repeats is not None:
            parts = [
                *parts[: self.repeats.stop],
                *parts[self.repeats.start : self.repeats.stop] * more,
                *parts[self.repeats.stop :],
            ]
        columns = assembly.columns(parts)
        times = self._times.setdefault(assembly, VariantTimes(assembly))
        return times.total_us(columns, frozenset(waits), frozenset(reads))

    def with_steps_us(self, *changes: Change, more: int) -> float | None:
        """How long the call takes with the step that `repeats` so often more: what one adds once some were
        there is what every further one adds. None where no step repeats."""
        if self.repeats is None:
            return None
        if more <= SETTLED:
            return self.total_us(*changes, more=more)
        before, settled = (self.total_us(*changes, more=n) for n in (SETTLED - 1, SETTLED))
        return settled + (more - SETTLED) * (settled - before)

    @cached_property
    def repeats(self) -> range | None:
        """The parts of the last denoising step that is the one before it again, or nearly; None without one,
        and where there are several loops."""
        phases = sorted(self.cut.call.phases, key=lambda phase: phase[0])
        step_at: dict[int, int | None] = {first: step for first, _, step, *_ in phases}
        begins = sorted({0, *step_at})[: len(self._own)]  # a last phase may launch nothing
        steps = [
            (step, [n for n, _ in own])
            for step, own in groupby(enumerate(begins), key=lambda each: step_at.get(each[1]))
            if step is not None
        ]
        if [step for step, _ in steps] != list(range(len(steps))):
            return None
        for (_, before), (_, own) in reversed(list(pairwise(steps))):
            if [self._own[n] for n in own] == [self._own[n] for n in before]:
                return range(own[0], own[-1] + 1)
        columns = list(self._assembly(self.model.mode).columns(self._own))
        sums = [
            (sum(float(columns[n].host.sum()) for n in own), sum(float(columns[n].device.sum()) for n in own))
            for _, own in steps
        ]
        near = nearly_repeats(sums)
        return None if near is None else range(steps[near][1][0], steps[near][1][-1] + 1)

    def changes_anything(self, change: Change) -> bool:
        """Whether the call has something that the change is about."""
        if change in (Change.COMPILED, Change.COMPILED_BLOCKS):
            return bool(self.roots) and not self.model.mode.compiled
        if change is Change.INT8:
            return bool(self.roots) and self.model.mode.quantizes is None and bool(self.gaining)
        if change is Change.TF32:
            return not self.model.mode.matmul_tf32 and "tf32" in self.model.spec.peak and self._has_float32()
        return any(new is not old for new, old in zip(self.parts(change), self._own, strict=True))

    def parts(self, *changes: Change) -> list[Stretch]:
        """The operations with these changes made."""
        made = frozenset(change for change in changes if change in _REWRITES)
        if Change.QKV in made:
            made |= {Change.SDPA}  # diffusers puts processors in the place that use it
        return self._with(made)

    def _with(self, made: frozenset[Change]) -> list[Stretch]:
        found = self._parts.get(made)
        if found is None:
            last = [change for change in _REWRITES if change in made][-1]
            before = self._with(made - {last})
            after = {part: _REWRITES[last](self, part) for part in dict.fromkeys(before)}
            found = self._parts[made] = [after[part] for part in before]
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
            self._models[mode] = self.model.in_mode(mode)
        return self._models[mode]

    def _assembly(self, mode: Mode) -> Assembly:
        if mode not in self._assemblies:
            self._assemblies[mode] = self.cut.assembly(self._model(mode))
        return self._assemblies[mode]

    def _has_float32(self) -> bool:
        ops = {op for part in dict.fromkeys(self._own) for op in part.items if isinstance(op, OpSignature)}
        return any(
            family_of(base_name(op)) == "gemm" and op.inputs[0].dtype == torch.float32
            for op in ops
            if op.inputs
        )

    # --- INT8 -----------------------------------------------------------------------------------------

    def _chosen(self, module: str | None, depth: int, columns: int, kind: str) -> bool:
        key = (module, depth, columns, kind)
        found = self._int8.get(key)
        if found is None:
            root = compiled_root(module, self.roots)
            found = self._int8[key] = (
                module is not None
                and root is not None
                and (root, kind, pattern_of(_within(module, root)), depth, columns) in self.gaining
            )
        return found

    @cached_property
    def gaining(self) -> frozenset[Identity]:
        """Layers that INT8 makes faster in a compiled graph, all activations that they see together."""
        sums: dict[Identity, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for each in self.projections:
            name = (each.component, each.kind, each.pattern, each.in_features, each.out_features)
            sums[name][0] += each.now_us
            sums[name][1] += each.int8_us
        return frozenset(name for name, (now, int8) in sums.items() if int8 < WORTH * now)

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        """The linears and 1x1 convolutions of what would be compiled, apart and fused, in half precision and
        in INT8."""
        counts: Counter[tuple[OpSignature, str]] = Counter()
        products: dict[OpSignature, Product | None] = {}
        for parts in (self.parts(Change.HALF), self.parts(Change.HALF, Change.QKV)):
            for part, times in Counter(parts).items():
                for item, module in _items(part):
                    if module is None or isinstance(item, LaunchedWait):
                        continue
                    if item not in products:
                        products[item] = product_of(item)
                    if products[item] is not None:
                        counts[item, module] += times
        graph = self._model(self._mode(frozenset({Change.COMPILED})))
        rows: dict[tuple[str, str, Product], list[float]] = {}
        for (op, module), times in counts.items():
            root = compiled_root(module, self.roots)
            product = products[op] if "lora_" not in module else None
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

    def _in_channels_last(self, part: Stretch) -> Stretch:
        return _rewritten(part, self._relaid.get(part, {}))

    def _in_half(self, part: Stretch) -> Stretch:
        out: dict[int, Sequence[Launched]] = {}
        in_half = self.altered.in_half
        for place, (item, module) in enumerate(_items(part)):
            if isinstance(item, LaunchedWait):
                continue
            half = in_half(item)
            if half is not item:
                gone = is_cast(item) and not is_cast(half) and item.direction is None
                out[place] = () if gone else ((half, module),)
        return _rewritten(part, out)

    def _attention_fused(self, part: Stretch) -> Stretch:
        """Scores, softmax and product of one module become one operation, and the copies go that lay out
        query, key and value for them, and the one that puts the heads together again: the fused kernel
        writes them beside each other."""
        out: dict[int, Sequence[Launched]] = {}
        pending: dict[str, list[int]] = defaultdict(list)
        scores: dict[str, tuple[int, OpSignature]] = {}
        softmaxes: set[int] = set()
        results: dict[str, int] = {}
        changed = False
        for place, (item, module) in enumerate(_items(part)):
            if module is None or isinstance(item, LaunchedWait) or compiled_root(module, self.roots) is None:
                continue
            base = base_name(item)
            waiting = pending[module]
            if results.pop(module, None) == item.outputs[0].numel and family_of(base) == "copy":
                out[place] = ()
            elif base in ("baddbmm", "bmm") and module not in scores:
                scores[module] = place, item
            elif base == "bmm":
                first, product = scores.pop(module)
                if softmaxes.intersection(waiting):
                    changed = True
                    results[module] = item.outputs[0].numel
                    out[place] = ((self.altered.attention(product, item), module),)
                    for each in (first, *waiting):
                        out[each] = ()
                pending[module] = []
            elif base.endswith("softmax") or family_of(base) == "copy":
                waiting.append(place)
                if base.endswith("softmax"):
                    softmaxes.add(place)
            elif module not in scores:
                waiting.clear()
        return _rewritten(part, out) if changed else part

    def _attention_chosen(self, part: Stretch) -> Stretch:
        """All attention tries the kernel first that is the fastest for the call as it is."""
        if self._attention is None:
            return part
        order = kernels_in_order(self._attention)
        out: dict[int, Sequence[Launched]] = {
            place: ((self.altered.preferring(item, order), module),)
            for place, (item, module) in enumerate(_items(part))
            if isinstance(item, OpSignature) and is_attention(item)
        }
        return _rewritten(part, out)

    @cached_property
    def _attention(self) -> str | None:
        launched: Counter[tuple[OpSignature, str | None]] = Counter()
        for part, times in Counter(self._own).items():
            for item, module in _items(part):
                if isinstance(item, OpSignature) and is_attention(item):
                    launched[item, module] += times
        return fastest(attention_rows(launched, self.model))

    def _projections_fused(self, part: Stretch) -> Stretch:
        """The three read the same tensor in self-attention; key and value alone in cross-attention."""
        if part in self._fused:
            return _rewritten(part, self._fused[part])
        out: dict[int, Sequence[Launched]] = {}
        groups: dict[tuple[str, int, int], dict[str, int]] = defaultdict(dict)
        changed = False
        for place, (item, module) in enumerate(_items(part)):
            parent, _, leaf = (module or "").rpartition(".")
            kind = next((n for n, names in enumerate(PROJECTIONS) if leaf in names), None)
            if kind is None or parent not in self.fusable or not isinstance(item, OpSignature):
                continue
            if item.name != "aten::linear":
                continue
            letter = PROJECTIONS[kind][leaf]
            group = groups[parent, kind, id(item.inputs[0])]
            group[letter] = place
            if letter == "v" and "k" in group:
                places = sorted(group.values())
                group.clear()
                name = FUSED[kind][0 if len(places) == 3 else 1]
                fused = self._together([part.items[each] for each in places])
                for each in places:
                    out[each] = ()
                out[places[0]] = ((fused, f"{parent}.{name}"),)
                changed = True
        return _rewritten(part, out) if changed else part

    def _together(self, apart: Sequence[Any]) -> OpSignature:
        x, weight = apart[0].inputs[:2]
        depth = weight.shape[1]
        wide = sum(op.inputs[1].shape[0] for op in apart)
        return self.altered.linear(x.numel // depth, wide, depth, x.dtype)


_REWRITES: Mapping[Change, Callable[[WhatIf, Stretch], Stretch]] = {
    Change.CHANNELS_LAST: WhatIf._in_channels_last,
    Change.QKV: WhatIf._projections_fused,
    Change.HALF: WhatIf._in_half,
    Change.SDPA: WhatIf._attention_fused,
    Change.ATTENTION: WhatIf._attention_chosen,
}
"""Changes of the operations themselves, in the order in which they are made."""


# --- stretches of a call -----------------------------------------------------------------------------------

Replaced = Mapping[int, Sequence[Launched]]
"""Place in a stretch -> what is launched there instead."""


def _items(stretch: Stretch) -> Iterator[Launched]:
    return zip(stretch.items, stretch.modules, strict=True)


def _rewritten(stretch: Stretch, out: Replaced) -> Stretch:
    """The stretch with other items in these places; itself where there is none."""
    if not out:
        return stretch
    items: list[OpSignature | LaunchedWait] = []
    modules: list[str | None] = []
    at = 0
    for place in sorted(out):
        items.extend(stretch.items[at:place])
        modules.extend(stretch.modules[at:place])
        for item, module in out[place]:
            items.append(item)
            modules.append(module)
        at = place + 1
    return Stretch((*items, *stretch.items[at:]), (*modules, *stretch.modules[at:]))


def _in_their_places(
    parts: Sequence[Stretch], relaid: Iterable[Relaid]
) -> dict[Stretch, dict[int, Sequence[Launched]]]:
    """What calls of modules launch in channels_last, by the place in their stretch. A call that goes on over
    the end of a phase is left as it is."""
    found: dict[Stretch, dict[int, Sequence[Launched]]] = defaultdict(dict)
    begins = [0, *accumulate(len(part.items) for part in parts)]
    for each in relaid:
        n = bisect_right(begins, each.first) - 1
        if n < len(parts) and each.last <= begins[n + 1]:
            first, last = each.first - begins[n], each.last - begins[n]
            found[parts[n]].update(dict.fromkeys(range(first, last), ()))
            found[parts[n]][first] = each.items
    return found


def _within(module: str, root: str) -> str:
    return module.removeprefix(root).lstrip(".").replace(".base_layer", "")


@cache
def pattern_of(name: str) -> str:
    """The name with `*` for every index: `blocks.3.to_out.0` -> `blocks.*.to_out.*`."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _us(kernels: Iterable[Kernel]) -> float:
    return sum(kernel.device_us for kernel in kernels)
