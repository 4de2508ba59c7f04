"""Predict a pipeline on GPUs that are not here: run once a batch, priced for every device and mode."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from diffprof.analyzers.kernels.simulated import SimulatedKernels
from diffprof.devices import resolve_device, sheet_of, simulated_sheet
from diffprof.devices.borrow import lent
from diffprof.devices.simulated.session import SESSION
from diffprof.gpu.assembly import Assembled, compiled_root, linears_in
from diffprof.gpu.attention import LIBRARIES
from diffprof.gpu.calibration import lent_sheet, load
from diffprof.gpu.cost import CostModel
from diffprof.gpu.families import COLLECTIVES
from diffprof.gpu.mode import Chooser, Mode, current_mode
from diffprof.gpu.offload import WeightsPlace
from diffprof.gpu.pricing import margin_of
from diffprof.gpu.products import product_of
from diffprof.gpu.quantized import SCHEMES, LinearScheme, saved_bytes
from diffprof.gpu.signatures import OpSignature, dtype_name
from diffprof.gpu.specs import GpuSpec, load_spec, spec_names
from diffprof.judge.steps import steps_of, with_asked_steps, with_steps
from diffprof.judge.timeline import by_kind_us, length_us, origin_shares
from diffprof.model.errors import UsageError
from diffprof.model.modes import check_modes
from diffprof.model.pipeline import with_role
from diffprof.model.prediction import Prediction
from diffprof.model.recording import Timeline, Unseen
from diffprof.model.units import place
from diffprof.scanning.repeats import asked_options, asked_steps, in_few_steps
from diffprof.scanning.session import SyncsAndKernels, eager_compiled_parts, target_errors
from diffprof.targets import Options, Target, from_object, resolve
from diffprof.targets.calls import bound as bound_arguments
from diffprof.targets.calls import outputs
from diffprof.targets.compiled import compiled_roots
from diffprof.targets.pipeline import PhaseTracker
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.repeated_steps import repeating
from diffprof.targets.undo import restored

HOST_SHARE = 0.9
"""A call whose device is busy for less than this share of it is bound by the CPU."""


UNFUSED = "unfused"
"""`attention` of processors that compute scores, softmax and product apart."""

GRAPHS = {
    "default": False,
    "max-autotune-no-cudagraphs": False,
    "reduce-overhead": True,
    "max-autotune": True,
}
"""`torch.compile`'s modes -> whether what is compiled is replayed as CUDA graphs."""

SHORT_NAMES = {
    "int8dq": "int8",
    "fp8dq": "fp8",
    "fp8dqrow": "fp8_row",
    "int8wo": "int8_weight_only",
    "fp8wo": "fp8_weight_only",
    "int4wo": "int4_weight_only",
    "int4dq": "int4_dynamic",
    "fp6": "fp6_weight_only",
    "fp6_e3m2": "fp6_weight_only",
    "fp5_e2m2": "fp5_weight_only",
    "fp4_e2m1": "fp4_weight_only",
    "qfloat8": "quanto_8bit",
    "qint8": "quanto_8bit",
    "qint4": "quanto_4bit",
}
"""Short names of schemes as published tables and their libraries have them."""

AUTOQUANT = "autoquant"
"""torchao's choice for each linear: INT8 where that is faster, compiled: so it times single layers."""

UNPRICED = {
    "sparsify": "Its 2:4 sparse products (cuSPARSELt) are in no table of kernels: a figure would be a guess."
}
"""Quantizations of published tables -> why they can't be priced."""

OFFLOADS = {"model": WeightsPlace.MODEL, "sequential": WeightsPlace.SEQUENTIAL}
"""`enable_model_cpu_offload` and `enable_sequential_cpu_offload`."""


@dataclasses.dataclass(frozen=True)
class CallSetting:
    """How a call is set up, beside its mode.

    attention: a backend of diffusers' dispatcher, or "unfused"; None: what PyTorch takes. tf32: float32
    products on the tensor cores; None: as PyTorch is set. quantization: of the denoiser's linears, and of the
    VAE's where it is compiled; in the modes "eager" and "compiled". quantize_text_encoders: of theirs too,
    which run eagerly. compile_mode: of `torch.compile`; None: "max-autotune". compiled_components: what is
    compiled, by names in the pipeline; None: the denoiser and the VAE. fuse_qkv, channels_last: done to the
    denoisers before the call. quantized_components: whose linears are quantized, by names in the pipeline, in
    place of all these. offload: "model" or "sequential", as diffusers' pipelines have it.
    """

    attention: str | None = None
    tf32: bool | None = None
    quantization: str | None = None
    compile_mode: str | None = None
    compiled_components: tuple[str, ...] | None = None
    fuse_qkv: bool = False
    channels_last: bool = False
    quantize_text_encoders: bool = False
    quantized_components: tuple[str, ...] | None = None
    offload: str | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for a name that is not there."""
        self._check("attention", self.attention, (*LIBRARIES, UNFUSED))
        if self.quantization in UNPRICED:
            raise UsageError(f"{self.quantization!r} has no price.", UNPRICED[self.quantization])
        self._check("quantization", self.quantization, (*SCHEMES, *SHORT_NAMES, AUTOQUANT))
        self._check("offload", self.offload, OFFLOADS)
        self._check("compile_mode", self.compile_mode, GRAPHS)

    def _check(self, name: str, value: str | None, known: Iterable[str]) -> None:
        if value is not None and value not in known:
            raise UsageError(f"There is no {name} {value!r}.", f"Choose from: {', '.join(known)}.")

    def check(self, modes: Sequence[str]) -> None:
        """Raises UsageError for modes that it does not go with."""
        if self.offload is not None and (tuple(modes) != ("eager",) or self.quantization is not None):
            raise UsageError(
                "Offloading is predicted in the mode eager, without quantization.",
                "`diffprof fit` prices both together.",
            )

    def scheme(self, mode: str) -> LinearScheme | None:
        """How linears are quantized in a mode; None where they are not."""
        if mode in SCHEMES:
            return SCHEMES[mode]
        if self.quantization is None:
            return None
        return SCHEMES[SHORT_NAMES.get(self.quantization, "int8" if self.autoquant else self.quantization)]

    @property
    def autoquant(self) -> bool:
        return self.quantization == AUTOQUANT

    def quantized(self, mode: str, run: CallRun) -> tuple[str, ...]:
        """Components whose linears are quantized where the mode quantizes any.

        Raises UsageError for one that the pipeline has not.
        """
        if self.quantized_components is not None:
            known = {name.partition(".")[0] for name in run.linears}
            for name in self.quantized_components:
                self._check("component with linears", name, sorted(known))
            return self.quantized_components
        own = self.compiled(mode, run) or run.denoisers
        return (*own, *run.text_encoders) if self.quantize_text_encoders else own

    def compiled(self, mode: str, run: CallRun) -> tuple[str, ...]:
        """Components that are compiled. Raises UsageError for one that can't be told compiled."""
        if mode == "eager":
            return ()
        for name in self.compiled_components or ():
            self._check("component to compile", name, (*run.roots, *run.text_encoders))
        return run.roots if self.compiled_components is None else self.compiled_components

    def mode(self, name: str, roots: tuple[str, ...], quantizes: Chooser | None = None) -> Mode:
        """How the operations run. roots: what is compiled, but in the mode "eager". quantizes: which linears
        are quantized where the mode quantizes any."""
        changes: dict[str, object] = {} if self.tf32 is None else {"matmul_tf32": self.tf32}
        if self.attention not in (None, UNFUSED):
            changes["attention"] = LIBRARIES[str(self.attention)]
        scheme = self.scheme(name)
        if scheme is not None:
            changes |= {"quantizes": quantizes, "scheme": scheme}
        if name == "eager":
            return current_mode(**changes)
        graphs = GRAPHS[self.compile_mode or "max-autotune"]
        return current_mode(compiled=roots, graphs=graphs, **changes)

    def prepare(self, call: PipelineCall) -> PipelineCall:
        """The pipeline as set up."""
        for model in with_role(call.pipe, "denoiser").values():
            if self.attention == UNFUSED and hasattr(model, "set_attn_processor"):
                from diffusers.models.attention_processor import AttnProcessor

                model.set_attn_processor(AttnProcessor())
            if self.fuse_qkv and callable(getattr(model, "fuse_qkv_projections", None)):
                model.fuse_qkv_projections()
            if self.channels_last:
                model.to(memory_format=torch.channels_last)
        return call


@dataclasses.dataclass(frozen=True)
class CallRun:
    """One call, run once."""

    kernels: SimulatedKernels
    roots: tuple[str, ...]
    denoisers: tuple[str, ...]
    text_encoders: tuple[str, ...]
    held: int
    """Bytes that were allocated before the pipeline was built."""
    images: int
    peak: int
    """Bytes at the peak, those held before among them."""
    asked: int | None
    """Steps that it was asked for; None: as many as the target makes by itself."""
    makes: str | None
    """What a call makes: "image" or "clip"."""
    dtype: str | None = None
    """The denoiser's."""
    cut_short: Unseen | None = None
    """What it is without, where a value that is unknown cuts steps short."""

    @cached_property
    def assembled(self) -> Assembled:
        """Its timelines."""
        return Assembled(self.kernels.builder.call)

    @cached_property
    def layers(self) -> dict[str, OpSignature]:
        """The operation of each linear, by module."""
        return {
            module: op
            for op, module in self.kernels.builder.operations()
            if op.name == "aten::linear" and module is not None
        }

    @cached_property
    def linears(self) -> dict[str, tuple[int, int, int]]:
        """Depth, columns and bytes of a weight's element, of each linear, by module."""
        products = ((name, product_of(op), op.inputs[1].dtype.itemsize) for name, op in self.layers.items())
        return {name: (made.depth, made.columns, width) for name, made, width in products if made}

    def tells(self, steps: int | None) -> bool:
        """Whether a call asked for that many steps can be told from this one."""
        return with_asked_steps(self._timeline, self.asked, steps) is not None

    @cached_property
    def _timeline(self) -> Timeline:
        return self.assembled.timeline(self.kernels.builder.model)


def predict(
    target: Any,
    *,
    devices: Sequence[str] = ("a100-80gb",),
    modes: Sequence[str] = ("eager",),
    batches: Sequence[int] = (1,),
    steps: int | None = None,
    options: Options | None = None,
    price: float | Mapping[str, float] | None = None,
    attention: str | None = None,
    tf32: bool | None = None,
    quantization: str | None = None,
    compile_mode: str | None = None,
    compiled_components: Sequence[str] | None = None,
    fuse_qkv: bool = False,
    channels_last: bool = False,
    quantize_text_encoders: bool = False,
    quantized_components: Sequence[str] | None = None,
    offload: str | None = None,
    measured_from: str | Path | None = None,
    on_run: Callable[[int], None] | None = None,
    **call: object,
) -> tuple[Prediction, ...]:
    """Rows for every batch, device and mode, in that order.

    target: what `diffprof.scan` takes. devices: names of data sheets, or "all". steps: denoising steps of the
    call; None: the model card's of a built-in target, else the target's own. price: of one GPU hour, or by
    device. attention and the others up to offload: see CallSetting. measured_from: a file of `diffprof
    calibrate --export`: what was measured there prices that GPU, and those of its architecture. on_run: told
    of each batch before it is run. call: arguments of the call. Raises UsageError for an unknown device, mode
    or setting, TargetError where the target fails.
    """
    check_modes(modes)
    setting = CallSetting(
        attention,
        tf32,
        quantization,
        compile_mode,
        None if compiled_components is None else tuple(compiled_components),
        fuse_qkv,
        channels_last,
        quantize_text_encoders,
        None if quantized_components is None else tuple(quantized_components),
        offload,
    )
    setting.check(modes)
    specs = sheets(devices) if measured_from is None else lent_sheets(devices, Path(measured_from))
    found = resolve(target) if isinstance(target, str) else from_object(target, kwargs=call)
    chosen = asked_options(target, options, steps, call)
    asked, rows = asked_steps(found, chosen), list[Prediction]()
    for batch in batches:
        if on_run is not None:
            on_run(batch)
        own = dataclasses.replace(chosen, batch=None if batch == 1 else batch)
        if offload is not None:
            rows += offloaded(found, own, specs, batch, asked, price, setting)
            continue
        run = in_few_steps(partial(run_call, found, prepare=setting.prepare), own, asked, CallRun.tells)
        rows += [priced(run, spec, mode, batch, asked, price, setting) for spec in specs for mode in modes]
    return tuple(rows)


def sheets(devices: Sequence[str]) -> list[GpuSpec]:
    """The data sheets of these names, or of "all". Raises UsageError for one that is not there."""
    names = spec_names() if tuple(devices) == ("all",) else devices
    return [sheet_of(name) for name in names]


def lent_sheets(devices: Sequence[str], file: Path) -> list[GpuSpec]:
    """The same, priced by what was measured elsewhere where they are of that architecture.

    Raises UsageError where none is, or the file is no calibration.
    """
    plain = sheets(devices)
    found = [lent_sheet(spec, file) for spec in plain]
    if not any(found):
        mine = load(file).gpu
        raise UsageError(
            f"{str(file)!r} is of {load_spec(mine).name}, which says nothing of another architecture.",
            "`diffprof gpus` lists them; name one of its architecture, or leave the file out.",
        )
    return [sheet or spec for sheet, spec in zip(found, plain, strict=True)]


def offloaded(
    target: Target,
    options: Options,
    specs: Sequence[GpuSpec],
    batch: int,
    steps: int | None,
    price: float | Mapping[str, float] | None,
    setting: CallSetting,
) -> Iterator[Prediction]:
    """Eager calls with weights moved while they run, as `fit` prices them."""
    from diffprof.scanning.fitting import offloaded_call

    placement = OFFLOADS[str(setting.offload)]
    for spec, (timeline, seconds, peak, images) in zip(
        specs, offloaded_call(target, options, specs, placement, setting.prepare), strict=True
    ):
        row = Prediction(
            device=spec.key, gpu=spec.name, mode="eager", batch=batch, steps=steps,
            memory_gib=spec.capacity_gib, peak_gib=peak, fits=peak <= spec.capacity_gib,
        )  # fmt: skip
        if not row.fits or seconds is None:
            yield _told(row, why="its steps differ" if row.fits else shortage(peak, spec))
            continue
        yield _told(row, **an_image(row, seconds, images, price), **grounds(timeline, seconds))


def run_call(
    target: Target,
    options: Options,
    *,
    prepare: Callable[[PipelineCall], PipelineCall] | None = None,
) -> CallRun:
    """The call, run once. prepare: changes the pipeline or the call before. Raises TargetError where the
    target fails."""
    device = resolve_device("sim:a100-80gb")

    def play(call: PipelineCall) -> CallRun:
        with nullcontext() if prepare is None else restored(call.pipe):
            chosen = call if prepare is None else prepare(call)
            with lent(chosen.pipe, device) if chosen.target.kind == "object" else nullcontext():
                return observed(chosen)

    def observed(call: PipelineCall) -> CallRun:
        kernels = SimulatedKernels(simulated_sheet(device), call.pipe, current_mode())
        tracker = PhaseTracker()
        observer = SyncsAndKernels(call.pipe, tracker, kernels)
        with (
            torch.no_grad(),
            eager_compiled_parts(),
            kernels.following(),
            tracker.watching(call.pipe),
            device.observed(observer, call.pipe),
            repeating(call.pipe, observer, tracker),
        ):
            call.run()
        makes, images = outputs(call.pipe, bound_arguments(call.pipe, call.args, call.kwargs))
        peak = kernels.builder.memory(kernels.weights).peak_bytes or 0
        denoisers, encoders = (with_role(call.pipe, role) for role in ("denoiser", "text_encoder"))
        weights = (p for model in denoisers.values() for p in model.parameters() if p.is_floating_point())
        dtype = next((dtype_name(p.dtype) for p in weights), None)
        return CallRun(
            kernels, compiled_roots(call.pipe), tuple(denoisers), tuple(encoders), held, images, peak,
            options.steps, makes, dtype, observer.steps_cut_short(),
        )  # fmt: skip

    with target_errors(target.spec), device.active():
        held = SESSION.allocated
        return target.run(play, device, options)


def chosen_linears(run: CallRun, spec: GpuSpec, setting: CallSetting, parts: tuple[str, ...]) -> set[str]:
    """Modules of the quantized linears of these components."""
    there = {name for name in run.linears if compiled_root(name, parts)}
    if not setting.autoquant:
        return there
    model = CostModel(spec, current_mode(compiled=parts, scheme=SCHEMES["int8"]))

    def us(name: str, quantized: bool) -> float:
        found = model.kernels(run.layers[name], compiled=True, quantized=quantized)
        return sum(kernel.device_us for kernel in found)

    return {name for name in there if us(name, True) < us(name, False)}


def saved_weights(run: CallRun, scheme: LinearScheme, chosen: Collection[str]) -> int:
    """Bytes that the weights of these linears take less, quantized."""
    return sum(saved_bytes(scheme, *run.linears[name]) for name in chosen)


def priced(
    run: CallRun,
    spec: GpuSpec,
    mode: str,
    batch: int,
    steps: int | None,
    price: float | Mapping[str, float] | None,
    setting: CallSetting | None = None,
) -> Prediction:
    """The call on one device and in one mode. steps: None for those that were run. Raises ValueError where
    the run does not tell a call of so many."""
    setting = setting or CallSetting()
    row = Prediction(
        device=spec.key,
        gpu=spec.name,
        mode=mode,
        batch=batch,
        steps=steps,
        makes=run.makes,
        dtype=run.dtype,
        memory_gib=spec.capacity_gib,
    )
    scheme = setting.scheme(mode)
    if scheme is not None and scheme.kind is not None and scheme.kind not in spec.peak:
        return _told(row, why=f"{spec.name} has no units for {scheme.kind}")
    parts = setting.quantized(mode, run)
    chosen = set() if scheme is None else chosen_linears(run, spec, setting, parts)
    saved = 0 if scheme is None else saved_weights(run, scheme, chosen)
    peak = (run.peak - run.held - saved) / 2**30
    weights = (run.kernels.weights - run.held - saved) / 2**30
    row = _told(row, peak_gib=peak, weights_gib=weights, fits=peak <= spec.capacity_gib)
    if not row.fits:
        return _told(row, why=shortage(peak, spec))
    quantizes = chooser_of(chosen) if setting.autoquant else linears_in(parts)
    how = setting.mode(mode, setting.compiled(mode, run), quantizes)
    whole = _whole(run, CostModel(spec, how), steps)
    row = _timed(row, whole, run, price)
    if scheme is None or row.range is None:
        return row
    took = [length_us(whole)]
    if mode == "eager" and scheme.before is not None:
        # Which version of its library runs is not known.
        earlier = dataclasses.replace(how, scheme=scheme.before)
        took.append(length_us(_whole(run, CostModel(spec, earlier), steps)))
    margin = half_width(row.origin, scheme, mode)
    return _told(row, range=(min(took) / 1e6 * (1 - margin), max(took) / 1e6 * (1 + margin)))


def _whole(run: CallRun, model: CostModel, steps: int | None) -> Timeline:
    """The timeline of a call of so many steps."""
    whole = with_asked_steps(run.assembled.timeline(model, eager=False), run.asked, steps)
    if whole is None:
        raise ValueError(f"A call of {steps} steps can't be told from one of {run.asked}.")
    return whole


def chooser_of(modules: Collection[str]) -> Chooser:
    """Chooses these linears."""
    return lambda module, depth, columns, kind: kind == "linear" and module in modules


def _timed(
    row: Prediction, timeline: Timeline, run: CallRun, price: float | Mapping[str, float] | None
) -> Prediction:
    whole = length_us(timeline)
    seconds = whole / 1e6
    longer = with_steps(timeline, len(steps_of(timeline)) + 10)
    return _told(
        row,
        **an_image(row, seconds, run.images, price),
        per_step_ms=None if longer is None else (length_us(longer) - whole) / 1e4,
        waits=sum(sync != -1 for sync in timeline.sync),
        waits_in_loop=sum(
            sync != -1 for first, last in steps_of(timeline) for sync in timeline.sync[first:last]
        ),
        **grounds(timeline, seconds),
        why="" if run.cut_short is None else _without(run.cut_short),
    )


def _without(cut: Unseen) -> str:
    return f"without {cut.what}{f' ({place(cut.site)})' if cut.site else ''}: {cut.why}"


def half_width(origin: Mapping[str, float], scheme: LinearScheme | None, mode: str) -> float:
    """How far the time of a call may be off, as a share of it. mode: as in `diffprof.model.modes`."""
    if scheme is not None and ("eager" if mode == "eager" else "compiled") in scheme.unsure:
        return scheme.margin
    return margin_of(origin)


def grounds(timeline: Timeline, seconds: float) -> dict[str, object]:
    """What a call of so many seconds is bound by, where its kernels' times come from, and the range that
    follows. timeline: of the call, or of one with fewer steps."""
    origin = origin_shares(timeline)
    margin = margin_of(origin) if origin else None
    return {
        "bound": _bound(timeline, sum(timeline.device_us) / length_us(timeline)),
        "origin": origin,
        "range": None if margin is None else (seconds * (1 - margin), seconds * (1 + margin)),
    }


def shortage(peak_gib: float, spec: GpuSpec) -> str:
    """Of memory, in a few words."""
    lacking = peak_gib - spec.capacity_gib
    return f"does not fit: {lacking:.1f} GiB more than the {spec.capacity_gib:g} there are"


def an_image(
    row: Prediction, seconds: float, images: int, price: float | Mapping[str, float] | None
) -> dict[str, float | None]:
    """Figures of one call that takes so long and makes so many of what it makes."""
    hourly = price.get(row.device) if isinstance(price, Mapping) else price
    return {
        "seconds": seconds,
        "images_per_s": images / seconds,
        "seconds_per_image": seconds / images,
        "per_thousand": None if hourly is None else 1000 * seconds / images / 3600 * hourly,
    }


def _bound(timeline: Timeline, busy: float) -> str:
    """What most of the call's time goes to: the CPU where the device often idles, else what bounds the
    kernels that take most of the device's time, the link to the host or to other GPUs among it."""
    if busy < HOST_SHARE:
        return "host"
    shares: dict[str, float] = defaultdict(float)
    for kind, spent in zip(timeline.kinds, by_kind_us(timeline), strict=True):
        linked = kind.name in COLLECTIVES or kind.crosses_link
        shares["link" if linked else kind.bound or "memory"] += spent
    return max(("compute", "memory", "link"), key=lambda each: shares[each])


def _told(row: Prediction, **figures: object) -> Prediction:
    return msgspec.structs.replace(row, **figures)
