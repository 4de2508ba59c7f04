"""Which linears of a pipeline are worth quantizing on a device: inventory, timing, accuracy, choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from diffprof.analyzers.quantization import ANALYZER
from diffprof.analyzers.quantization.accuracy import SYNTHETIC, layer_sqnr, synthetic_sqnr
from diffprof.analyzers.quantization.bench import Bench
from diffprof.analyzers.quantization.cache import TimingCache, default_path, machine
from diffprof.analyzers.quantization.choice import (
    Candidate,
    SchemeChoice,
    choose,
    compare_published,
    gains,
    judged_rows,
    published_schemes,
    selections,
    whole_script,
)
from diffprof.analyzers.quantization.inventory import (
    EventStopwatch,
    HostStopwatch,
    Inventory,
    Key,
    Layer,
    Stopwatch,
    calls_by_phase,
    calls_by_step,
    per_step,
    take_inventory,
)
from diffprof.analyzers.quantization.layers import Unavailable, dtype_of, quantized_copy
from diffprof.analyzers.quantization.order import check_order, disorder, done, unfused_adapters
from diffprof.analyzers.quantization.published import published_list
from diffprof.analyzers.quantization.schemes import SCHEMES, Scheme, schemes_for
from diffprof.analyzers.quantization.source import Setting
from diffprof.analyzers.quantization.timing import Budget, Patience, compiled, compiled_as_recommended
from diffprof.devices.stopwatches import EventRunner, HostRunner, Runner
from diffprof.model.analyzer import Run
from diffprof.model.errors import UsageError
from diffprof.model.pipeline import Pipeline, components, role
from diffprof.model.recording import LinearRow, PublishedComparison, Quantization, SchemeTiming
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.undo import restored

if TYPE_CHECKING:
    from diffprof.analyzers.quantization.simulated import SimulatedCall
    from diffprof.model.progress import Progress

MIN_SQNR_DB = 20.0
"""Default floor: noise of a hundredth of the signal's power."""


@dataclass(frozen=True)
class Settings:
    """fuse_qkv: judge the pipeline with fused projections. compile: decide by compiled timings; None: where
    the device is a GPU or the pipeline is compiled. schemes: keys of those to try; None: all there are."""

    fuse_qkv: bool = False
    compile: bool | None = None
    schemes: tuple[str, ...] | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """From options by name. Raises UsageError for an unknown option or scheme."""
        known = cls.__dataclass_fields__
        for name in given:
            if name not in known:
                raise UsageError(
                    f"The quantization analyzer has no setting {name!r}.", f"It has: {', '.join(known)}."
                )
        values = dict(given)
        if values.get("schemes") is not None:
            wanted = values["schemes"]
            values["schemes"] = tuple(wanted.split(",") if isinstance(wanted, str) else wanted)
            for key in values["schemes"]:
                if key not in SCHEMES:
                    raise UsageError(f"There is no scheme {key!r}.", f"Choose from: {', '.join(SCHEMES)}.")
        return cls(**values)


@dataclass(frozen=True)
class Instruments:
    """What touches a clock, a device or a compiler; replaced in tests. None: the device's own."""

    clock: Callable[[], float] | None = None
    stopwatch: Stopwatch | None = None
    runner: Runner | None = None
    compiler: Callable[[Any], Any] | None = None
    build: Callable[[torch.nn.Module, Scheme], torch.nn.Module] = quantized_copy
    patience: Patience = field(default_factory=Patience)
    cache_path: Path | None = None


def of_run(run: Run) -> dict[str, object]:
    """Of a scan."""
    return probe_quantization(
        run.call,
        run.device,
        progress=run.progress,
        cache=run.settings.get("cache") is not False,
        **ANALYZER.given(run.settings),
    )


def probe_quantization(
    call: PipelineCall,
    device: Any,
    *,
    budget_s: float = 120.0,
    min_sqnr: float = MIN_SQNR_DB,
    cache: bool = True,
    progress: Progress | None = None,
    settings: Mapping[str, Any] | None = None,
    instruments: Instruments | None = None,
) -> dict[str, Any]:
    """The sections `linears` and `quantization` of a recording, from one pipeline call on an active device.

    budget_s: seconds for timing. min_sqnr: decibels, the floor for a chosen layer. cache: use and store
    timings of other scans. settings: see Settings. The pipeline is given back as it was.

    Raises UsageError for unknown settings, or where a setting comes too late for the pipeline.
    """
    chosen = Settings.of(settings or {})
    tools = instruments or Instruments()
    work = _Probe(call, device, chosen, tools, min_sqnr, progress)
    with restored(call.pipe):
        if chosen.fuse_qkv:
            fuse_qkv(call.pipe)
        return work.run(budget_s, cache)


def fuse_qkv(pipe: Pipeline) -> None:
    """Fuse the projections of a pipeline's attention. Raises UsageError where it can't, or comes too late."""
    if not hasattr(pipe, "fuse_qkv_projections"):
        raise UsageError(
            f"{type(pipe).__name__} has no fuse_qkv_projections().", "Leave the setting fuse_qkv out."
        )
    if "fuse-qkv" in done(pipe):
        return
    check_order(pipe, "fuse-qkv")
    with torch.no_grad():
        pipe.fuse_qkv_projections()


RowKey = tuple[Key, bool, str | None]


class _Probe:
    def __init__(
        self,
        call: PipelineCall,
        device: Any,
        settings: Settings,
        tools: Instruments,
        min_sqnr: float,
        progress: Progress | None,
    ) -> None:
        self.call = call
        self.device = device
        self.settings = settings
        self.tools = tools
        self.min_sqnr = min_sqnr
        self.progress = progress
        self.simulated = device.gpu is not None
        self.compiled_already = "compile" in done(call.pipe)
        wanted = settings.schemes
        self.schemes = [s for s in schemes_for(device.kind) if wanted is None or s.key in wanted]

    @property
    def mode(self) -> str:
        """The mode whose timings decide."""
        if self.settings.compile is not None:
            return "compiled" if self.settings.compile else "eager"
        return "compiled" if self.compiled_already or self.device.kind != "cpu" else "eager"

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that are timed; on a CPU compiling takes seconds a layer, so only where asked for."""
        other = "eager" if self.mode == "compiled" else "compiled"
        if self.mode == "eager" and not self.simulated:
            return ("eager",)
        return (self.mode, other) if self.simulated else ("eager", "compiled")

    def run(self, budget_s: float, use_cache: bool) -> dict[str, Any]:
        self._say("quantization: one call to see the linears")
        if self.simulated:
            from diffprof.analyzers.quantization.simulated import SimulatedCall

            call = SimulatedCall(self.call, self.device)
            inventory = call.inventory()
            timings = call.timings(inventory, self.schemes, self.modes)
            return self._judge(inventory, timings, None, [], call)
        inventory = take_inventory(
            self.call.pipe, self.call.run, stopwatch=self._stopwatch(), sample=self.call.weights != "none"
        )
        budget = Budget(budget_s, self._clock)
        bench = self._bench(budget, use_cache, len(inventory.counts))
        timings = bench.time_all(inventory, self.modes)
        return self._judge(inventory, timings, budget, bench.left_out, None)

    # --- instruments ----------------------------------------------------------------------------------

    def _stopwatch(self) -> Stopwatch:
        if self.tools.stopwatch is not None:
            return self.tools.stopwatch
        if self.device.kind == "cuda":
            return EventStopwatch(self.device.index)
        return HostStopwatch(self._clock)

    def _runner(self) -> Runner:
        if self.tools.runner is not None:
            return self.tools.runner
        if self.device.kind == "cuda":
            return EventRunner(self.device.index)
        return HostRunner(self._clock)

    @property
    def _clock(self) -> Callable[[], float]:
        return self.tools.clock or self.device.clock

    @property
    def _compiler(self) -> Callable[[object], object]:
        return self.tools.compiler or (compiled_as_recommended if self.device.kind == "cuda" else compiled)

    def _bench(self, budget: Budget, use_cache: bool, shapes: int) -> Bench:
        info = self.device.info()
        stored = None
        if use_cache:
            # What a product of float32, or of 8-bit integers, is computed with.
            matmul = [each.matmul.fp32_precision for each in (torch.backends.cuda, torch.backends.mkldnn)]
            engine = torch.backends.quantized.engine
            facts = {"threads": torch.get_num_threads(), "matmul": matmul, "engine": engine}
            on = machine(info.name, {**info.details, **facts})
            stored = TimingCache(self.tools.cache_path or default_path(), on)
        self._say("quantization: timing shapes", shapes)
        return Bench(
            device=self.device.torch_device,
            runner=self._runner(),
            budget=budget,
            schemes=self.schemes,
            patience=self.tools.patience,
            compiler=self._compiler,
            build=self.tools.build,
            cache=stored,
            on_key=lambda key: self._step(f"{key.m} x {key.in_features} x {key.out_features}"),
        )

    def _say(self, what: str, total: int | None = None) -> None:
        if self.progress is not None:
            self.progress.stage(what, total)

    def _step(self, detail: str) -> None:
        if self.progress is not None:
            self.progress.step(detail)

    # --- judging --------------------------------------------------------------------------------------

    def _judge(
        self,
        inventory: Inventory,
        timings: Mapping[Key, Sequence[SchemeTiming]],
        budget: Budget | None,
        left_out: Sequence[str],
        call: SimulatedCall | None,
    ) -> dict[str, object]:
        rows, where = linear_rows(inventory, timings)
        called = [layer for layer in inventory.layers if layer.uses]
        candidates = [_candidate(layer, where) for layer in called]
        self._say("quantization: accuracy of the layers that would gain")
        accuracy = self._measure_noise(candidates, called, rows)
        choice = choose(candidates, rows, self.mode, self.min_sqnr, inventory.call_us)
        pipe = self.call.pipe
        everything: dict[str, list[Any]] = {}
        adapters: dict[str, list[str]] = {}
        for layer in inventory.layers:
            everything.setdefault(layer.component, []).append(layer.named)
            if layer.adapter:
                adapters.setdefault(layer.component, []).append(layer.name)
        setting = Setting(
            fuse_lora=False,
            fuse_qkv="fuse-qkv" in done(pipe),
            compile=self.mode == "compiled",
        )
        published = published_list()
        comparison = compare_published(
            rows, candidates, choice, self.mode, published, self._components("denoiser", "vae")
        )
        picked = selections(candidates, everything, choice, setting, adapters)
        judged = judged_rows(
            rows, candidates, choice, self.mode, published, self._components("denoiser", "vae")
        )
        call_us, saves_us = inventory.call_us, choice.saves_us
        if call is not None:
            call_us, saves_us, comparison = self._replayed(call, candidates, choice, rows, comparison)
        quantization = Quantization(
            grade=self.device.grade,
            mode=self.mode,
            min_sqnr_db=self.min_sqnr,
            accuracy=accuracy,
            selections=picked,
            script=whole_script(picked, everything, setting),
            saves_ms=saves_us / 1e3,
            saves_bytes=sum(selection.saves_bytes for selection in picked),
            call_ms=None if call_us is None else call_us / 1e3,
            fused_qkv=setting.fuse_qkv,
            swapped_convs=_swapped(inventory),
            adapters=unfused_adapters(pipe) is not None,
            budget_s=budget.seconds if budget else None,
            spent_s=budget.spent if budget else None,
            left_out=tuple(left_out),
            unavailable=unavailable(judged),
            disorder=tuple(disorder(pipe)),
            published=comparison,
        )
        return {"linears": judged, "quantization": quantization}

    def _components(self, *roles: str) -> list[str]:
        return [name for name, part in components(self.call.pipe).items() if role(name, part) in roles]

    def _replayed(
        self,
        call: SimulatedCall,
        candidates: Sequence[Candidate],
        choice: SchemeChoice,
        rows: Sequence[LinearRow],
        comparison: PublishedComparison | None,
    ) -> tuple[float, float, PublishedComparison | None]:
        """(call, saving, comparison) end to end: the simulated call replayed with the layers changed."""
        from diffprof.analyzers.quantization.simulated import changes_of

        before = call.total_us(self.mode)
        ours = changes_of(candidates, {i: gain.scheme for i, gain in choice.schemes.items()}, rows, self.mode)
        saves = before - call.total_us(self.mode, ours)
        if comparison is not None:
            recipe = published_schemes(candidates, published_list(), self._components("denoiser", "vae"))
            theirs = changes_of(candidates, recipe, rows, self.mode)
            lost = before - call.total_us(self.mode, theirs)
            comparison = msgspec.structs.replace(comparison, saves_ms=lost / 1e3)
        return before, saves, comparison

    def _measure_noise(
        self, candidates: Sequence[Candidate], layers: Sequence[Layer], rows: Sequence[LinearRow]
    ) -> str:
        """Fill in the SQNR of every layer for the schemes that would gain; says on what it was measured."""
        synthetic = self.simulated or self.call.weights == "none"
        for candidate, layer in zip(candidates, layers, strict=True):
            for gain in gains(candidate, rows, self.mode):
                if not gain.clear:
                    break
                if synthetic:
                    noise = synthetic_sqnr(gain.scheme, layer.in_features, layer.out_features)
                else:
                    try:
                        noise = layer_sqnr(layer, SCHEMES[gain.scheme])
                    except Unavailable:
                        continue
                candidate.sqnr_db[gain.scheme] = noise
                if noise >= self.min_sqnr and not synthetic:
                    break
        if synthetic:
            return f"synthetic values: {SYNTHETIC}"
        weights = "random weights" if self.call.weights == "random" else "the model's weights"
        return f"activations of the first and the last call of each layer, {weights}"


def linear_rows(
    inventory: Inventory, timings: Mapping[Key, Sequence[SchemeTiming]]
) -> tuple[list[LinearRow], dict[RowKey, int]]:
    """One row a shape (adapters and quantized layers in rows of their own), largest share first; and where
    the row of a layer's calls is."""
    users: dict[RowKey, list[Layer]] = {}
    for key in inventory.shapes():
        for layer in inventory.layers_of(key):
            users.setdefault(_row_key(layer, key), []).append(layer)
    rows: list[LinearRow] = []
    where: dict[RowKey, int] = {}
    for row_key, layers in users.items():
        key, adapter, quantized = row_key
        calls = sum(layer.uses[key] for layer in layers)
        part = calls / inventory.counts[key]
        by_step = calls_by_step(layers, key, inventory.steps)
        share = inventory.share(key)
        where[row_key] = len(rows)
        rows.append(
            LinearRow(
                m=key.m,
                in_features=key.in_features,
                out_features=key.out_features,
                dtype=key.dtype,
                bias=key.bias,
                kind=key.kind,
                modules=tuple(layer.path for layer in layers),
                count=calls,
                per_step=per_step(by_step, inventory.runs),
                by_step=by_step,
                phases=calls_by_phase(layers, key),
                share=None if share is None else share * part,
                adapter=adapter,
                quantized=quantized,
                timings=tuple(timings[key]) if key in timings and not adapter else None,
            )
        )
    return rows, where


def _candidate(layer: Layer, where: Mapping[RowKey, int]) -> Candidate:
    """A layer that is called, with how often it has the product of each row."""
    return Candidate(
        component=layer.component,
        layer=layer.named,
        uses={where[_row_key(layer, key)]: calls for key, calls in layer.uses.items()},
        itemsize=dtype_of(next(iter(layer.uses)).dtype).itemsize,
        adapter=layer.adapter,
        quantized=layer.quantized,
    )


def _row_key(layer: Layer, key: Key) -> RowKey:
    return key, layer.adapter, layer.quantized


def unavailable(rows: Sequence[LinearRow]) -> dict[str, str]:
    """Schemes that no shape could use, with the first reason."""
    reasons: dict[str, str] = {}
    used: set[str] = set()
    for row in rows:
        for timing in row.timings or ():
            if timing.why_not:
                reasons.setdefault(timing.scheme, timing.why_not)
            else:
                used.add(timing.scheme)
    return {scheme: why for scheme, why in reasons.items() if scheme not in used}


def _swapped(inventory: Inventory) -> bool:
    """Whether some 1x1 convolution was swapped for a linear already (torchao calls that linear `mod`)."""
    return any(layer.name.endswith(".mod") and layer.kind == "linear" for layer in inventory.layers)
