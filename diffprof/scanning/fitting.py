"""Will it fit: one run of a call, priced under every recipe that saves memory, on one device."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from msgspec.structs import replace

from diffprof.analyzers.kernels.simulated import SimulatedKernels
from diffprof.devices import resolve_device, sheet_of, simulated_sheet
from diffprof.devices.borrow import lent
from diffprof.devices.simulated.session import SESSION
from diffprof.gpu.altered import half_type
from diffprof.gpu.assembly import Call, Known, assembled, linears_in
from diffprof.gpu.cost import CostModel
from diffprof.gpu.course import Lengths, course_of
from diffprof.gpu.mode import Mode, current_mode
from diffprof.gpu.offload import ModelWeights, Mover, Unpacked, WeightsPlace, narrowed, needs, on_host
from diffprof.gpu.quantized import SCHEMES
from diffprof.gpu.signatures import dtype_name
from diffprof.gpu.specs import GpuSpec
from diffprof.model.errors import TargetError, UsageError
from diffprof.model.fitting import ROOM, FitCheck, FitRow, Fitted, Loss, choose
from diffprof.model.pipeline import Pipeline, offloaded, replaced, with_role
from diffprof.model.recording import Timeline, Unseen
from diffprof.scanning.fit_code import code_of
from diffprof.scanning.recipes import SCHEME_OF, Decoding, FitRecipe, losses, recipes
from diffprof.scanning.repeats import asked_options, asked_steps, in_few_steps, repeating_parts
from diffprof.scanning.session import SyncsAndKernels, eager_compiled_parts, target_errors
from diffprof.targets import Options, Target, from_object, resolve
from diffprof.targets.calls import bound, outputs
from diffprof.targets.pipeline import PhaseTracker
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.repeated_steps import repeating
from diffprof.targets.twin.building import Twin, twin_of
from diffprof.targets.twin.shrinking import NoTwin
from diffprof.targets.undo import restored
from diffprof.targets.weights import parts_of

if TYPE_CHECKING:
    from diffprof.devices import Device

AS_THEY_ARE = ("object", "script")
"""Kinds of target whose weights stay in the type that they have."""


class Checker(Protocol):
    """Runs the code of recipes on a small copy of their pipeline."""

    def of(self, row: FitRow) -> FitCheck: ...


Check = Callable[[PipelineCall, str], Checker]
"""(a call of the small copy, name of a data sheet) -> what checks on it."""


Divided = frozenset[tuple[str, int]]
"""Inputs by name, and how many tokens of each are dealt out to the GPUs."""


class Played(NamedTuple):
    """One call as it ran: what it launched by the way it decodes, and what each takes beside the weights."""

    calls: Mapping[Decoding, tuple[Call, list[int]]]
    parts: tuple[ModelWeights, ...]
    weights: str | None
    """Type of the denoisers' weights, where it is one."""
    compilable: bool
    images: int
    makes: str | None = None
    """What `images` counts: "image" or "clip"; None where unknown."""
    asked: int | None = None
    """Steps that the call was asked for; None: as many as the target makes by itself."""
    steps: int | None = None
    """Steps of the call that it tells."""
    twin: Twin | str = ""
    """Its small copy, on which code is checked, or why there is none."""
    left_out: tuple[Unseen, ...] = ()
    """What the user's code asks for and this call is without."""
    dtype: str | None = None
    """Where the target's weights were put in another type for this."""
    divided: Divided | str = frozenset()
    """What diffusers' context parallelism divides of the denoisers' inputs, or why it divides nothing."""

    @property
    def longer(self) -> int | None:
        """`steps` where more were asked for than ran."""
        return None if self.steps == self.asked else self.steps


def fit(
    target: Any,
    *,
    device: str = "rtx4090",
    memory_gib: float | None = None,
    host_gib: float | None = None,
    steps: int | None = None,
    lossy: bool = False,
    check: Check | None = None,
    every: bool = False,
    options: Options | None = None,
    on_stage: Callable[[str], None] | None = None,
    **call: object,
) -> Fitted:
    """Recipes under which a call fits a device, fastest first, and the one to take.

    target: what `diffprof.scan` takes. device: name of a data sheet; `cuda`: that of the GPU here.
    memory_gib: a limit of its own, in place of the device's memory; host_gib: of host memory for weights.
    steps: denoising steps; None: those of the model card, else the target's own. lossy: the fastest is taken,
    whatever the picture loses; else the fastest of those that lose nothing one sees, if any fits. check:
    `diffprof.tuning.fit_checks.Checks`, to run the code of recipes of the frontier, or with every of all that
    fit, on a small copy of the pipeline; what fails there, or changes more than it says, is not taken.
    on_stage: told what is done. Raises UsageError for an unknown device, TargetError where the target fails.
    """
    spec = sheet_of(device)
    say = on_stage or (lambda _: None)
    found = resolve(target) if isinstance(target, str) else from_object(target, kwargs=call)
    chosen = asked_options(target, options, steps, call)
    limit = _limit(spec, memory_gib)
    rows: list[FitRow] = []
    calls: list[Played] = []
    halved = ""
    try:
        for played in _played(found, chosen, spec, say, twin=check is not None):
            say("pricing recipes")
            rows += _rows(played, spec, limit, host_gib)
            calls.append(played)
    except TargetError as error:
        if not rows:
            raise
        halved = error.what.splitlines()[0]
    rows = with_frontier(sorted(rows, key=lambda row: (row.seconds is None, row.seconds or 0.0)))
    if check is not None:
        say("making a small copy")
        checker = _checker(calls[0].twin, spec, check)
        rows = checked(rows, checker, lambda row: row.fits if every else row.frontier, say)
    return Fitted(
        target=found.spec,
        device=spec.key,
        gpu=spec.name,
        limit_gib=limit,
        host_limit_gib=host_gib,
        steps=asked_steps(found, chosen),
        emulated=next(filter(None, (_emulated(each.weights, spec) for each in calls)), None),
        halved=halved,
        left_out=calls[0].left_out,
        rows=tuple(rows),
        chosen=choose(rows, lossy),
    )


def _limit(spec: GpuSpec, memory_gib: float | None) -> float:
    """GiB that a call may take. Raises UsageError where that is nothing."""
    limit = spec.capacity_gib if memory_gib is None else memory_gib
    if limit <= 0:
        raise UsageError(
            f"A limit of {limit:g} GiB fits nothing.", "Give the memory of the GPU, such as 16GiB."
        )
    return limit


def _emulated(dtype: str | None, spec: GpuSpec) -> str | None:
    """A half-width type, where the GPU multiplies it no faster than float32."""
    return dtype if dtype == "bfloat16" != dtype_name(half_type(spec)) else None


def recheck(
    found: Fitted,
    *,
    check: Check,
    options: Options,
    wanted: Callable[[FitRow], bool],
    lossy: bool = False,
    on_stage: Callable[[str], None] | None = None,
) -> Fitted:
    """The stored recipes of a target, the one that is taken of those that are wanted checked; the next one
    where its code fails.

    Raises TargetError where the target fails.
    """
    device = resolve_device(f"sim:{found.device}")
    with target_errors(found.target), device.active():
        SESSION.capacity = None
        twin = resolve(found.target).run(_twin, device, dataclasses.replace(options, steps=None))
    checker = _checker(twin, simulated_sheet(device), check)
    say = on_stage or (lambda _: None)
    rows: Sequence[FitRow] = found.rows
    while (chosen := choose([*filter(wanted, rows)], lossy)) is not None and chosen.check is None:
        rows = checked(rows, checker, chosen.__eq__, say)
    return replace(found, rows=tuple(rows), chosen=chosen)


class _Unchecked(NamedTuple):
    """Where there is no small copy."""

    why: str

    def of(self, row: FitRow) -> FitCheck:
        return FitCheck(status="unchecked", why=self.why)


def _checker(twin: Twin | str, spec: GpuSpec, check: Check) -> Checker:
    return _Unchecked(twin) if isinstance(twin, str) else check(twin.call, spec.key)


def checked(
    rows: Sequence[FitRow], checker: Checker, wanted: Callable[[FitRow], bool], say: Callable[[str], None]
) -> list[FitRow]:
    """With what came of the code of those that are wanted. What fails is in nobody's way, so that others may
    be wanted then."""
    rows, done = list(rows), 0
    while todo := [n for n, row in enumerate(rows) if row.check is None and wanted(row)]:
        for count, n in enumerate(todo, done + 1):
            say(f"checking code {count} of {done + len(todo)}: {rows[n].words}")
            rows[n] = replace(rows[n], check=checker.of(rows[n]))
        done += len(todo)
        rows = with_frontier(rows)
    return rows


def with_frontier(rows: Sequence[FitRow]) -> list[FitRow]:
    """Marked where no other that can be used is at least as good in every respect."""

    def figures(row: FitRow) -> tuple[float, ...]:
        """The less, the better."""
        return (
            row.seconds or 0.0,
            round(row.gpu_gib, 2),
            round(row.host_gib, 2),
            len(set(row.loses) - {Loss.ROUNDING}),
        )

    fitting = [row for row in rows if row.usable]
    found = []
    for row in rows:
        mine = figures(row)
        better = (
            other is not row
            and figures(other) != mine
            and all(a <= b for a, b in zip(figures(other), mine, strict=True))
            for other in fitting
        )
        found.append(replace(row, frontier=row in fitting and not any(better)))
    return found


def played_calls(
    target: Any, options: Options, spec: GpuSpec, say: Callable[[str], None]
) -> Iterator[Played]:
    """A target's call as it ran on one GPU; then in half precision, where `fit` would try that."""
    found = resolve(target) if isinstance(target, str) else from_object(target)
    return _played(found, options, spec, say)


def offloaded_call(
    target: Target,
    options: Options,
    specs: Sequence[GpuSpec],
    place: WeightsPlace,
    prepare: Callable[[PipelineCall], PipelineCall],
) -> Iterator[tuple[Timeline, float | None, float, int]]:
    """(timeline of the steps that ran, seconds, GiB at the peak, images) of a call on each of these GPUs with
    all weights in one place. It is run once. seconds: None where so many steps can't be told from those.

    prepare: changes the pipeline before. Raises TargetError where the target fails.
    """
    played = _told(partial(_run, target, spec=specs[0], prepare=prepare), target, options)
    course = course_of(*played.calls[Decoding.WHOLE], {})
    for spec in specs:
        there = Mover(played.parts, {part.name: place for part in played.parts}).run(course)
        model = CostModel(spec, current_mode())
        seconds = Lengths(model).seconds(there.course, played.longer)
        yield assembled(there.course.call(), model), seconds, there.peak / 2**30, played.images


# --- one call -------------------------------------------------------------------------------------------


def _played(
    target: Target,
    options: Options,
    spec: GpuSpec,
    say: Callable[[str], None],
    *,
    twin: bool = False,
) -> Iterator[Played]:
    """The call as it is; and in half precision, where its weights are in float32 and no type is asked for."""
    say("running the call")
    own = _told(partial(_run, target, spec=spec, twin=twin), target, options)
    yield own
    if options.dtype is None and own.weights == "float32" and target.kind not in AS_THEY_ARE:
        half = dtype_name(half_type(spec))
        say(f"running the call in {half}")
        other = _told(partial(_run, target, spec=spec), target, dataclasses.replace(options, dtype=half))
        yield other._replace(dtype=half, twin=own.twin)


def _told(run: Callable[[Options], Played], target: Target, options: Options) -> Played:
    """A run that tells the call that is asked for."""
    steps = asked_steps(target, options)
    return in_few_steps(run, options, steps, _tells)._replace(steps=steps)


def _tells(played: Played, steps: int) -> bool:
    return course_of(*played.calls[Decoding.WHOLE]).tells(played.asked, steps)


def _run(
    target: Target,
    options: Options,
    *,
    spec: GpuSpec,
    twin: bool = False,
    prepare: Callable[[PipelineCall], PipelineCall] | None = None,
) -> Played:
    def play(call: PipelineCall) -> Played:
        if prepare is None and offloaded(call.pipe):
            raise UsageError(
                f"{target.spec} offloads its weights already: what its hooks copy would be in every time.",
                "Leave out its enable_..._offload(); `diffprof fit` tries that, too.",
            )
        with nullcontext() if prepare is None else restored(call.pipe):
            return _play(call if prepare is None else prepare(call), device, twin)

    device = resolve_device(f"sim:{spec.key}")
    with target_errors(target.spec), device.active():
        SESSION.capacity = None  # what does not fit is found by pricing
        played: Played = target.run(play, device, options)
    return played._replace(asked=options.steps)


def _play(call: PipelineCall, device: Device, small: bool) -> Played:
    twin = _twin(call) if small else ""
    with lent(call.pipe, device) if call.target.kind == "object" else nullcontext():
        left_out = tuple(row for row in call.unseen if row.kind == "left-out")
        played = _watched(call, device)
        return played._replace(twin=twin, left_out=(*left_out, *played.left_out))


def _twin(call: PipelineCall) -> Twin | str:
    """The small copy of a pipeline, wide enough for products in float8 where one is, or why there is none."""
    with suppress(NoTwin):
        return twin_of(call, wanted=_takes_float8)
    try:
        return twin_of(call)
    except NoTwin as error:
        return str(error)


def _takes_float8(pipe: Pipeline) -> bool:
    """Whether torchao packs a linear of its denoisers: both of its widths are multiples of 16."""
    linears = (
        module
        for denoiser in with_role(pipe, "denoiser").values()
        for module in denoiser.modules()
        if isinstance(module, torch.nn.Linear)
    )
    return any(each.in_features % 16 == 0 and each.out_features % 16 == 0 for each in linears)


def _watched(call: PipelineCall, device: Device) -> Played:
    kernels = SimulatedKernels(simulated_sheet(device), call.pipe, current_mode())
    tracker = PhaseTracker()
    observer = SyncsAndKernels(call.pipe, tracker, kernels)
    decodes = _Decodes(call.pipe, device, kernels)
    denoisers = with_role(call.pipe, "denoiser").values()
    divided = _Divided(denoisers)
    with (
        torch.no_grad(),
        eager_compiled_parts(),
        divided.noted(),
        decodes.noted(),
        kernels.following(),
        tracker.watching(call.pipe),
        device.observed(observer, call.pipe),
        repeating(call.pipe, observer, tracker),
    ):
        call.run()
    cut = observer.steps_cut_short()
    whole = kernels.builder.call, _needs(kernels)
    calls = {Decoding.WHOLE: whole, **dict(decodes.in_place(*whole))}
    parts = tuple(
        dataclasses.replace(part, in_groups=part.in_groups and part.name not in decodes.cast)
        for part in parts_of(call.pipe, kernels.modules, set(kernels.builder.call.modules))
    )
    types = {dtype_name(p.dtype) for model in denoisers for p in model.parameters() if p.is_floating_point()}
    makes, images = outputs(call.pipe, bound(call.pipe, call.args, call.kwargs))
    weights = types.pop() if len(types) == 1 else None
    return Played(
        calls,
        parts,
        weights,
        bool(denoisers),
        images,
        makes,
        left_out=() if cut is None else (cut,),
        divided=divided.found,
    )


class _Divided:
    """What is divided by the plans of denoisers (`_cp_plan`), as their call gives it to the modules."""

    def __init__(self, denoisers: Iterable[torch.nn.Module]) -> None:
        self.tokens: set[tuple[str, int]] = set()
        self.undivided = ""
        """Why nothing is divided."""
        self._hooked: list[tuple[torch.nn.Module, Mapping[Any, Any]]] = []
        for model in denoisers:
            plan = getattr(model, "_cp_plan", None)
            if not plan:
                self.undivided = (
                    f"diffusers has no plan (`_cp_plan`) to divide the tokens of {type(model).__name__}"
                )
                return
            for path, module in model.named_modules():
                self._hooked += [
                    (module, inputs)
                    for pattern, inputs in plan.items()
                    if isinstance(inputs, dict)
                    and re.fullmatch(re.escape(pattern).replace(r"\*", "[^.]+"), path)
                ]

    @contextmanager
    def noted(self) -> Iterator[None]:
        """The call happens inside."""
        with ExitStack() as undo:
            for module, inputs in () if self.undivided else self._hooked:
                hook = partial(self._note, inputs)
                undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            yield

    def _note(
        self, inputs: Mapping[Any, Any], module: torch.nn.Module, args: tuple, kwargs: dict[str, object]
    ) -> None:
        """As diffusers' `ContextParallelSplitHook` takes them, but outputs: of those it divides the tables of
        positions, which are as long as the tokens."""
        given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        for name, how in inputs.items():
            value = given.get(name)
            if isinstance(value, torch.Tensor) and how.expected_dims in (None, value.dim()):
                self.tokens.add((name, value.shape[how.split_dim]))

    @property
    def found(self) -> Divided | str:
        return self.undivided or frozenset(self.tokens)


def _needs(kernels: SimulatedKernels) -> list[int]:
    builder = kernels.builder
    workspace = {op.id: builder.model.workspace(op) for op in {op for op, _ in builder.operations()}}
    return needs(builder.memory_log, builder.call, workspace)


class _Decodes:
    """The decodings of a call by its one VAE, and what the first launches in tiles and in slices. kernels:
    told of the call itself."""

    def __init__(self, pipe: Pipeline, device: Device, kernels: SimulatedKernels) -> None:
        self.pipe = pipe
        self.device = device
        self.kernels = kernels
        self.count = 0
        self.cast: tuple[str, ...] = ()
        """The VAE's name, where the call puts it in another type to decode."""
        self.others: dict[Decoding, SimulatedKernels] = {}

    def noted(self) -> AbstractContextManager[object]:
        """The call happens inside. Other ways are tried right after the call's own, with the VAE in the types
        that it has then: pipelines cast it to float32 for decoding alone."""
        vaes = with_role(self.pipe, "vae")
        if len(vaes) != 1:
            return nullcontext()
        ((name, vae),) = vaes.items()
        original, before = vae.decode, vae.dtype

        def decode(*args: object, **kwargs: object) -> object:
            self.count += 1
            if self.count == 1:
                self.cast = (name,) if vae.dtype != before else ()
                several = any(
                    len(each) > 1
                    for each in (*args, *kwargs.values())
                    if isinstance(each, torch.Tensor) and each.ndim
                )
                ways = (Decoding.TILES, Decoding.SLICES) if several else (Decoding.TILES,)
                self._otherwise(vae, ways, lambda: original(*args, **kwargs))
            with repeating_parts(vae, self.kernels):
                return original(*args, **kwargs)

        return replaced(vae, "decode", decode)

    def _otherwise(
        self, vae: torch.nn.Module, ways: Sequence[Decoding], decode: Callable[[], object]
    ) -> None:
        for how in ways:
            switch = getattr(vae, f"enable_{how.method}", None)
            back = getattr(vae, f"disable_{how.method}", None)
            if switch is None or back is None or getattr(vae, f"use_{how.method}", False):
                continue
            try:
                switch()
            except NotImplementedError:  # it has the method of all VAEs, and no tiles of its own
                continue
            kernels = self.others[how] = SimulatedKernels(
                simulated_sheet(self.device), self.pipe, current_mode()
            )
            with (
                kernels.following(),
                self.device.observed(kernels, self.pipe),
                repeating_parts(vae, kernels),
            ):
                decode()
            back()

    def in_place(self, call: Call, beside: list[int]) -> Iterator[tuple[Decoding, tuple[Call, list[int]]]]:
        """The call with its one decoding done otherwise, where that launches something else."""
        span = _decode_span(call) if self.count == 1 else None
        if span is None:
            return
        first, last = span
        before = beside[first - 1] if first else 0
        for how, kernels in self.others.items():
            other = kernels.builder.call
            if len(other.items) > last - first:
                needed = [before + each for each in _needs(kernels)]
                yield how, _spliced(call, beside, span, other, needed)


def _decode_span(call: Call) -> tuple[int, int] | None:
    """Items of the one decoding; None where there are several, or none."""
    spans = []
    ends = [first for first, *_ in call.phases[1:]] + [len(call.items)]
    for (first, name, *_), last in zip(call.phases, ends, strict=True):
        if name == "decode" and last > first:
            spans.append((first, last))
    return spans[0] if len(spans) == 1 else None


def _spliced(
    call: Call, beside: list[int], span: tuple[int, int], other: Call, needed: list[int]
) -> tuple[Call, list[int]]:
    first, last = span
    longer = len(other.items) - (last - first)
    phases = [(at if at <= first else at + longer, *rest) for at, *rest in call.phases]
    made = Call(
        [*call.items[:first], *other.items, *call.items[last:]],
        [*call.modules[:first], *other.modules, *call.modules[last:]],
        phases,  # type: ignore[arg-type]
    )
    return made, [*beside[:first], *needed, *beside[last:]]


# --- pricing --------------------------------------------------------------------------------------------


def _rows(played: Played, spec: GpuSpec, limit: float, host_limit: float | None) -> Iterator[FitRow]:
    pricing = _Pricing(played, spec)
    for recipe in recipes(played.parts, spec, played.dtype, played.calls, compilable=played.compilable):
        if recipe.decoding is not Decoding.WHOLE and not pricing.decoding_matters(recipe):
            continue
        seconds, gpu, host, phase = pricing.of(recipe)
        host_gib = host / 2**30
        fits = gpu <= ROOM * limit and (host_limit is None or host_gib <= host_limit)
        yield FitRow(
            recipe=recipe.steps(),
            seconds=seconds,
            gpu_gib=gpu,
            host_gib=host_gib,
            fits=fits,
            loses=losses(recipe),
            phase=phase,
            code=code_of(recipe, played.parts),
        )


class _Pricing:
    """Prices recipes of one call on one device; what several of them share is made once."""

    def __init__(self, played: Played, spec: GpuSpec) -> None:
        self.played = played
        self.base = CostModel(spec, current_mode())
        parts: Known = {}
        self._courses = {how: course_of(*call, parts) for how, call in played.calls.items()}
        self._packed: dict[object, _Packed] = {}
        self._movers: dict[object, Mover] = {}
        self._lengths: dict[object, Lengths] = {}
        self._known: dict[FitRecipe, tuple[float | None, float, int, str]] = {}

    def of(self, recipe: FitRecipe) -> tuple[float | None, float, int, str]:
        """(seconds, GiB on the device, bytes in host memory, phase of the peak)."""
        if recipe not in self._known:
            self._known[recipe] = self._priced(recipe)
        return self._known[recipe]

    def decoding_matters(self, recipe: FitRecipe) -> bool:
        """Whether another way to decode takes less memory at the peak."""
        _, whole, _, phase = self.of(recipe._replace(decoding=Decoding.WHOLE))
        return phase == "decode" and self.of(recipe)[1] < whole - 0.01

    def _priced(self, recipe: FitRecipe) -> tuple[float | None, float, int, str]:
        names = frozenset(part.name for part in self.played.parts if recipe.quantizes(part))
        packed = self._packed.get((recipe.quantized, names))
        if packed is None:
            packed = self._packed[recipe.quantized, names] = _Packed.of(self.played.parts, recipe, names)
        course = self._courses[recipe.decoding]
        if packed.unpacked is not None:
            course = course.mapped(packed.unpacked.of)
        places = recipe.placement.places(packed.parts)
        key = recipe.placement, recipe.quantized
        mover = self._movers.get(key) or self._movers.setdefault(key, Mover(packed.parts, places))
        there = mover.run(course)
        seconds = self._length(recipe).seconds(there.course, self.played.longer)
        host = sum(on_host(part, places.get(part.name, WeightsPlace.DEVICE)) for part in packed.parts)
        return seconds, there.peak / 2**30, host, there.phase

    def _length(self, recipe: FitRecipe) -> Lengths:
        dynamic = recipe.quantized is not None and recipe.quantized.dynamic
        key = recipe.compiled, recipe.quantized if dynamic else None
        if key not in self._lengths:
            self._lengths[key] = Lengths(self.base.in_mode(_mode(recipe, self.played.parts)))
        return self._lengths[key]


class _Packed(NamedTuple):
    """Models with weights as a recipe packs them, and what unpacks them."""

    parts: tuple[ModelWeights, ...]
    unpacked: Unpacked | None

    @staticmethod
    def of(parts: tuple[ModelWeights, ...], recipe: FitRecipe, packed: frozenset[str]) -> _Packed:
        """packed: the models. Weights of denoisers that are computed in the type in which they are packed are
        not unpacked."""
        if recipe.quantized is None:
            return _Packed(parts, None)
        parts = tuple(recipe.packing(part) if part.name in packed else part for part in parts)
        bits = SCHEMES[SCHEME_OF[recipe.quantized]].bits
        dynamic = recipe.quantized.dynamic
        widened = {
            path
            for part in parts
            if part.name in packed and not (dynamic and part.role == "denoiser")
            for path in part.linears
        }
        narrow = tuple(narrowed(part, bits) if part.name in packed else part for part in parts)
        return _Packed(narrow, Unpacked(widened, bits))


def _mode(recipe: FitRecipe, parts: Sequence[ModelWeights]) -> Mode:
    if not recipe.compiled:
        return current_mode()
    roots = tuple(part.name for part in parts if part.role == "denoiser")
    if recipe.quantized is None or not recipe.quantized.dynamic:
        return current_mode(compiled=roots, graphs=False)
    return current_mode(
        compiled=roots,
        graphs=False,
        quantizes=linears_in(roots),
        scheme=SCHEMES[SCHEME_OF[recipe.quantized]],
    )
