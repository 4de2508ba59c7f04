"""Every linear, and every 1x1 convolution that could be one, with the shapes that it sees in a call."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from diffprof.analyzers.quantization.layers import dtype_word, scheme_of, weights_are_quantized
from diffprof.analyzers.quantization.order import adapter_names
from diffprof.analyzers.quantization.source import Named
from diffprof.devices import cuda_runtime
from diffprof.model.pipeline import Pipeline, components
from diffprof.targets.pipeline import PhaseTracker

SAMPLE_ROWS = 48
"""Activation rows kept of the first and of the last call of a layer, for its accuracy."""


@dataclass(frozen=True)
class Key:
    """What makes two calls of linears cost the same. m: rows of the activation."""

    m: int
    in_features: int
    out_features: int
    dtype: str
    bias: bool
    kind: str

    @property
    def flops(self) -> float:
        return 2.0 * self.m * self.in_features * self.out_features


@dataclass
class Layer:
    """One module. uses: key -> calls; when: (key, phase, denoising step) -> calls; samples: activations seen,
    rows x in_features."""

    component: str
    name: str
    module: nn.Module
    in_features: int
    out_features: int
    kind: str
    adapter: bool
    quantized: str | None
    uses: Counter[Key] = field(default_factory=Counter)
    when: Counter[tuple[Key, str, int | None]] = field(default_factory=Counter)
    samples: list[torch.Tensor] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"{self.component}.{self.name}" if self.name else self.component

    @property
    def named(self) -> Named:
        return Named(self.name, self.in_features, self.out_features, self.kind)


class Stopwatch(Protocol):
    """Device time of a piece of work, in microseconds."""

    def start(self) -> Any: ...

    def stop(self, mark: Any) -> Any: ...

    def microseconds(self, span: Any) -> float:
        """After the work is done."""


class HostStopwatch:
    """For devices that work in step with Python."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock

    def start(self) -> float:
        return self.clock()

    def stop(self, mark: float) -> float:
        return self.clock() - mark

    def microseconds(self, span: float) -> float:
        return span * 1e6


class EventStopwatch:
    """CUDA events on the current stream."""

    def __init__(self, index: int) -> None:
        self.index = index

    def start(self) -> cuda_runtime.Event:
        return cuda_runtime.RUNTIME.event(self.index)

    def stop(self, mark: cuda_runtime.Event) -> tuple[cuda_runtime.Event, cuda_runtime.Event]:
        return mark, cuda_runtime.RUNTIME.event(self.index)

    def microseconds(self, span: tuple[cuda_runtime.Event, cuda_runtime.Event]) -> float:
        span[1].synchronize()
        return span[0].elapsed_time(span[1]) * 1e3


@dataclass
class Inventory:
    """What one call of a pipeline used. call_us: device time of the call; counts: key -> calls; spent_us:
    device time by key; image_side: height of a convolution's input; steps: denoising steps; runs: those of
    each run of a denoising loop."""

    layers: list[Layer]
    call_us: float | None = None
    counts: Counter[Key] = field(default_factory=Counter)
    spent_us: dict[Key, float] = field(default_factory=dict)
    image_side: dict[Key, int] = field(default_factory=dict)
    steps: int = 0
    runs: tuple[tuple[int, ...], ...] = ()

    def shapes(self) -> list[Key]:
        """Every distinct shape that a layer saw, largest share of the time first."""
        weight = {key: self.spent_us.get(key) or key.flops * count for key, count in self.counts.items()}
        return sorted(weight, key=lambda key: -weight[key])

    def share(self, key: Key) -> float | None:
        """Of the call's device time, as it ran."""
        if not self.call_us or key not in self.spent_us:
            return None
        return self.spent_us[key] / self.call_us

    def layers_of(self, key: Key) -> list[Layer]:
        return [layer for layer in self.layers if key in layer.uses]


def list_layers(pipe: Pipeline) -> list[Layer]:
    """All linears and 1x1 convolutions of a pipeline, called or not; a module in two places counts once."""
    found: dict[int, Layer] = {}
    for component, part in components(pipe).items():
        if not isinstance(part, nn.Module):
            continue
        adapters = adapter_names(part)
        for name, module in part.named_modules():
            features = _features(module)
            if features is None or id(module) in found:
                continue
            kind, in_features, out_features = features
            found[id(module)] = Layer(
                component=component,
                name=name,
                module=module,
                in_features=in_features,
                out_features=out_features,
                kind=kind,
                adapter=name in adapters,
                quantized=scheme_of(module),
            )
    return list(found.values())


def _features(module: nn.Module) -> tuple[str, int, int] | None:
    """(kind, in, out) of a layer that is a matrix product, or None."""
    if isinstance(module, nn.Linear):
        return "linear", module.in_features, module.out_features
    if isinstance(module, nn.Conv2d):
        plain = module.kernel_size == (1, 1) and module.stride == (1, 1) and module.groups == 1
        if plain and module.padding in ((0, 0), "valid", "same"):
            return "conv1x1", module.in_channels, module.out_channels
        return None
    if weights_are_quantized(module) and hasattr(module, "in_features") and hasattr(module, "out_features"):
        return "linear", int(module.in_features), int(module.out_features)
    return None


def calls_by_phase(layers: Iterable[Layer], key: Key) -> dict[str, int]:
    """Phase -> calls of these layers with this key."""
    found: Counter[str] = Counter()
    for layer in layers:
        for (each, phase, _), calls in layer.when.items():
            if each == key:
                found[phase] += calls
    return dict(sorted(found.items()))


def calls_by_step(layers: Iterable[Layer], key: Key, steps: int) -> tuple[int, ...]:
    """Calls of these layers with this key in each denoising step."""
    found = [0] * steps
    for layer in layers:
        for (each, _, step), calls in layer.when.items():
            if each == key and step is not None and step < steps:
                found[step] += calls
    return tuple(found)


def per_step(by_step: Sequence[int], runs: Iterable[Sequence[int]]) -> float:
    """Calls in a step of the denoising loops in which there are any: the median."""
    counts = [[by_step[step] for step in run] for run in runs]
    own = [count for run in counts if any(run) for count in run]
    return statistics.median(own) if own else 0.0


class Recorder:
    """Forward hooks on layers that count, time and sample their calls."""

    def __init__(
        self, inventory: Inventory, tracker: PhaseTracker, stopwatch: Stopwatch | None, sample: bool
    ) -> None:
        self.inventory = inventory
        self.tracker = tracker
        self.stopwatch = stopwatch
        self.sample = sample
        self.calls: list[tuple[Layer, Key]] = []
        """Of layers, in order."""
        self._marks: dict[int, object] = {}
        self._spans: list[tuple[Key, object]] = []

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks stand while the context is open; device times are read when it closes."""
        with ExitStack() as undo:
            for layer in self.inventory.layers:
                before = self._before(layer)
                after = self._after(layer)
                if self.stopwatch is not None:
                    undo.callback(layer.module.register_forward_pre_hook(before).remove)
                undo.callback(layer.module.register_forward_hook(after, prepend=True).remove)
            yield
        for key, span in self._spans:
            assert self.stopwatch is not None
            spent = self.stopwatch.microseconds(span)
            self.inventory.spent_us[key] = self.inventory.spent_us.get(key, 0.0) + spent
        self._spans.clear()

    def _before(self, layer: Layer) -> Callable[..., None]:
        def before(*_: object) -> None:
            assert self.stopwatch is not None
            self._marks[id(layer)] = self.stopwatch.start()

        return before

    def _after(self, layer: Layer) -> Callable[..., None]:
        def after(module: nn.Module, args: tuple[object, ...], result: torch.Tensor) -> None:
            span = None
            if self.stopwatch is not None and id(layer) in self._marks:
                span = self.stopwatch.stop(self._marks.pop(id(layer)))
            if not args or not isinstance(args[0], torch.Tensor):
                return
            key = key_of(layer, module, args[0])
            self.count(layer, key)
            if key.kind == "conv1x1":
                self.inventory.image_side.setdefault(key, int(args[0].shape[-2]))
            if span is not None:
                self._spans.append((key, span))
            if self.sample:
                keep_sample(layer, args[0])

        return after

    def count(self, layer: Layer, key: Key) -> None:
        """A layer is called, now."""
        phase = self.tracker.current
        self.calls.append((layer, key))
        layer.uses[key] += 1
        layer.when[key, phase.name, phase.step if phase.name == "denoise" else None] += 1
        self.inventory.counts[key] += 1


def key_of(layer: Layer, module: nn.Module, given: torch.Tensor) -> Key:
    """The key of a call with this activation: (..., features), or (N, C, H, W) for a convolution."""
    return Key(
        m=given.numel() // layer.in_features,
        in_features=layer.in_features,
        out_features=layer.out_features,
        dtype=dtype_word(given.dtype),
        bias=has_bias(module),
        kind=layer.kind,
    )


def has_bias(module: nn.Module) -> bool:
    bias = getattr(module, "bias", None)
    return bias is not None and (not callable(bias) or bias() is not None)


def keep_sample(layer: Layer, given: torch.Tensor) -> None:
    """Keep rows of this activation as the layer's latest sample; the first call's are kept too.

    The rows that hold the largest and the smallest value are among them, so that a scale for the whole
    tensor comes out as it would have.
    """
    rows = activation_rows(given, layer.kind).detach()
    count = rows.shape[0]
    if count > SAMPLE_ROWS:
        spaced = torch.linspace(0, count - 1, SAMPLE_ROWS - 2, device=rows.device).long()
        extremes = torch.stack([rows.amax(dim=1).argmax(), rows.amin(dim=1).argmin()])
        rows = rows.index_select(0, torch.cat([extremes, spaced]))
    del layer.samples[1:]
    layer.samples.append(rows.clone())


def activation_rows(given: torch.Tensor, kind: str) -> torch.Tensor:
    """An activation as a matrix of rows x features."""
    if kind == "conv1x1":
        image = given if given.dim() == 4 else given.unsqueeze(0)
        return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])
    return given.reshape(-1, given.shape[-1])


def take_inventory(
    pipe: Pipeline,
    call: Callable[[], object],
    *,
    stopwatch: Stopwatch | None = None,
    sample: bool = False,
    watching: Callable[[PhaseTracker, Recorder], Any] | None = None,
) -> Inventory:
    """Make one call of a pipeline and list what its linears saw.

    stopwatch: times each layer's calls and the whole; None: no times (a simulated device has none). sample:
    keep activations. watching: a context around the call, given what follows its phases and its layers. Parts
    under `torch.compile` run uncompiled; hooks and stance are gone afterwards.
    """
    inventory = Inventory(list_layers(pipe))
    tracker = PhaseTracker()
    recorder = Recorder(inventory, tracker, stopwatch, sample)
    with ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        if watching is not None:
            stack.enter_context(watching(tracker, recorder))
        stack.enter_context(tracker.watching(pipe))
        stack.enter_context(recorder.hooked())
        mark = stopwatch.start() if stopwatch else None
        call()
        if stopwatch:
            inventory.call_us = stopwatch.microseconds(stopwatch.stop(mark))
    inventory.steps = tracker.steps.total
    inventory.runs = tracker.steps.runs(range(inventory.steps))
    return inventory
