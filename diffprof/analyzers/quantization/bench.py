"""Times every distinct linear under every scheme within a budget, largest share first."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch
from torch import nn

from diffprof.analyzers.quantization.cache import TimingCache
from diffprof.analyzers.quantization.inventory import Inventory, Key
from diffprof.analyzers.quantization.layers import (
    Unavailable,
    check_result,
    dtype_of,
    new_input,
    new_layer,
    quantized_copy,
    quietly,
    reason,
)
from diffprof.analyzers.quantization.schemes import ORIGINAL, Scheme
from diffprof.analyzers.quantization.timing import (
    Budget,
    Patience,
    SchemeTimings,
    clear_loss,
    compare,
    compiled,
    near_tie,
)
from diffprof.devices.stopwatches import Runner, Work
from diffprof.model.recording import Grade, SchemeTiming

FIRST_COMPILE_S = 25.0
"""Seconds that the first `torch.compile` of a process takes on a CPU; measured on torch 2.13, one core. It is
the first guess for a GPU too, until one was seen."""
COMPILE_S = 6.0
"""Seconds of each further one, a layer, until one was seen."""


@dataclass
class Bench:
    """What is needed to time layers on a device; what touches a clock or a compiler is injected."""

    device: torch.device
    runner: Runner
    budget: Budget
    schemes: Sequence[Scheme]
    patience: Patience = field(default_factory=Patience)
    compiler: Callable[[Any], Any] = compiled
    build: Callable[[nn.Module, Scheme], nn.Module] = quantized_copy
    cache: TimingCache | None = None
    on_key: Callable[[Key], None] = lambda key: None
    left_out: list[str] = field(default_factory=list)
    _compile_s: list[float] = field(default_factory=list)
    """Seconds that each compile of this process took so far."""

    def time_all(self, inventory: Inventory, modes: Sequence[str]) -> dict[Key, list[SchemeTiming]]:
        """Timings by key; a key that the budget did not reach is missing and named in `left_out`."""
        found: dict[Key, list[SchemeTiming]] = {}
        keys = timeable(inventory)
        for mode in modes:
            for key in keys:
                self.on_key(key)
                self._first_look(key, mode, inventory, found)
        for mode in modes:
            self._second_look(keys, mode, inventory, found)
        if self.cache is not None:
            self.cache.save()
        return found

    # --- one shape ------------------------------------------------------------------------------------

    def _first_look(
        self, key: Key, mode: str, inventory: Inventory, found: dict[Key, list[SchemeTiming]]
    ) -> None:
        cached, missing = self._from_cache(key, mode)
        if cached:
            found.setdefault(key, []).extend(cached)
        if not missing:
            return
        if mode == "compiled" and self.device.type == "cpu":
            missing = [s for s in missing if not _hopeless(found.get(key, ()), s.key, self.patience)]
        cost = self._compile_cost(len(missing) + 1) if mode == "compiled" else 0.0
        if self.budget.left <= cost:
            what = f"{_shape_words(key)} {mode}" if mode == "compiled" or cached else _shape_words(key)
            self.left_out.append(what)
            return
        timings = self._time(key, mode, missing, inventory, self.patience.most)
        found.setdefault(key, []).extend(timings)
        self._remember(key, timings)

    def _second_look(
        self, keys: Sequence[Key], mode: str, inventory: Inventory, found: dict[Key, list[SchemeTiming]]
    ) -> None:
        """Near ties are timed again, with more rounds, while the budget lasts."""
        for key in keys:
            again = [
                timing.scheme
                for timing in found.get(key, ())
                if timing.mode == mode and not timing.cached and near_tie(timing, self.patience.near)
            ]
            cost = self._compile_cost(len(again) + 1) if mode == "compiled" else 0.0
            if not again or self.budget.left <= cost:
                continue
            self.on_key(key)
            schemes = [scheme for scheme in self.schemes if scheme.key in again]
            better = {t.scheme: t for t in self._time(key, mode, schemes, inventory, self.patience.again)}
            found[key] = [
                _longer(timing, better.get(timing.scheme)) if timing.mode == mode else timing
                for timing in found[key]
            ]
            self._remember(key, [t for t in found[key] if t.scheme in again and t.mode == mode])

    def _time(
        self, key: Key, mode: str, schemes: Sequence[Scheme], inventory: Inventory, rounds: int
    ) -> list[SchemeTiming]:
        with torch.no_grad(), quietly(), torch.compiler.set_stance("default"):
            try:
                return self._contest(key, mode, schemes, inventory.image_side.get(key), rounds)
            except Exception as error:
                why = f"the original itself can't be timed: {reason(error)}"
                return [_not_available(scheme.key, mode, why) for scheme in schemes]

    def _contest(
        self, key: Key, mode: str, schemes: Sequence[Scheme], side: int | None, rounds: int
    ) -> list[SchemeTiming]:
        dtype = dtype_of(key.dtype)
        layer = new_layer(
            key.kind, key.in_features, key.out_features, bias=key.bias, dtype=dtype, device=self.device
        )
        given = new_input(key.kind, key.m, key.in_features, dtype=dtype, device=self.device, side=side)
        works: dict[str, Work] = {ORIGINAL: self._work(layer, given, mode)}
        works[ORIGINAL]()
        done: dict[str, SchemeTiming] = {}
        for scheme in schemes:
            try:
                changed = self.build(layer, scheme)
                settled = self._by_slice(key, mode, scheme.key, layer, changed, given, works[ORIGINAL])
                if settled is not None:
                    done[scheme.key] = settled
                    continue
                work = self._work(changed, given, mode)
                check_result(work())
                works[scheme.key] = work
            except Unavailable as error:
                done[scheme.key] = _not_available(scheme.key, mode, str(error))
            except Exception as error:
                done[scheme.key] = _not_available(scheme.key, mode, reason(error))
        if len(works) > 1:
            result = self._compare(works, rounds)
            for name in works:
                if name != ORIGINAL:
                    done[name] = result.timing(name, mode)
        return [done[scheme.key] for scheme in schemes if scheme.key in done]

    def _compare(self, works: Mapping[str, Work], rounds: int) -> SchemeTimings:
        slice_s = max(self.budget.left / 4, 0.0)
        begin = self.budget.spent
        return compare(
            works,
            self.runner,
            self.patience,
            rounds=rounds,
            may_go_on=lambda: self.budget.left > 0 and self.budget.spent - begin < slice_s,
        )

    def _by_slice(
        self,
        key: Key,
        mode: str,
        scheme: str,
        layer: nn.Module,
        changed: nn.Module,
        given: torch.Tensor,
        original: Work,
    ) -> SchemeTiming | None:
        """A loss that a slice of the rows proves: it takes longer there than the original on all rows."""
        rows = key.m // self.patience.slices
        if mode == "compiled" or key.kind != "linear" or rows < self.patience.smallest_slice:
            return None
        part = given[:rows]
        check_result(changed(part))
        whole_us = self._fastest(original)
        slice_us = self._fastest(lambda: changed(part))
        if slice_us <= whole_us:
            return None
        return SchemeTiming(
            scheme=scheme,
            mode=mode,
            grade=Grade.MEASURED,
            original_us=self._fastest(lambda: layer(part)),
            median_us=slice_us,
            gain_us=whole_us - slice_us,
            gain_spread_us=0.0,
            rounds=self.patience.sure,
            rows=rows,
        )

    def _fastest(self, work: Work) -> float:
        return min(self.runner.microseconds(work) for _ in range(self.patience.sure))

    def _work(self, module: nn.Module, given: torch.Tensor, mode: str) -> Work:
        if mode == "compiled":
            call = self.compiler(module)
            begin = self.budget.spent
            call(given)  # compiles, and on a GPU tries the kernels that there are
            self._compile_s.append(self.budget.spent - begin)
            return lambda: call(given)
        return lambda: module(given)

    def _compile_cost(self, layers: int) -> float:
        """Seconds that compiling so many layers will take, by those that were compiled: the first is dearer
        than all others, and is no measure of them."""
        if not self._compile_s:
            return layers * COMPILE_S + FIRST_COMPILE_S
        later = self._compile_s[1:]
        return layers * (statistics.median(later) if later else COMPILE_S)

    # --- cache ----------------------------------------------------------------------------------------

    def _from_cache(self, key: Key, mode: str) -> tuple[list[SchemeTiming], list[Scheme]]:
        if self.cache is None:
            return [], list(self.schemes)
        cached = {scheme.key: self.cache.get(key, scheme.key, mode) for scheme in self.schemes}
        return [t for t in cached.values() if t], [s for s in self.schemes if cached[s.key] is None]

    def _remember(self, key: Key, timings: Sequence[SchemeTiming]) -> None:
        if self.cache is not None:
            for timing in timings:
                self.cache.put(key, timing)


def timeable(inventory: Inventory) -> list[Key]:
    """Keys of layers that could be quantized: not those that only adapters or quantized layers have."""
    return [key for key in inventory.shapes() if any(not layer.adapter for layer in inventory.layers_of(key))]


def _hopeless(timings: Sequence[SchemeTiming], scheme: str, patience: Patience) -> bool:
    """Whether it lost by so much uncompiled that compiling it is not worth the time on this device."""
    for timing in timings:
        if timing.scheme == scheme and timing.mode == "eager":
            return bool(timing.why_not) or (
                clear_loss(timing) and (timing.speedup or 0.0) < 1 / patience.hopeless
            )
    return False


def _longer(old: SchemeTiming, new: SchemeTiming | None) -> SchemeTiming:
    """The timing of more rounds."""
    return new if new is not None and new.rounds > old.rounds else old


def _not_available(scheme: str, mode: str, why: str) -> SchemeTiming:
    return msgspec.convert(
        {"scheme": scheme, "mode": mode, "grade": "measured", "why_not": why}, SchemeTiming
    )


def _shape_words(key: Key) -> str:
    return f"M={key.m} K={key.in_features} N={key.out_features} {key.dtype}"
