"""Where fixes are tried: a pipeline that is changed, timed, scanned and compared, on a real device or on a
simulated GPU with a twin beside it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace

from diffprof.analyzers.kernels.timing import COMPILED_WARMUPS, Clock, clean_passes
from diffprof.devices import Device
from diffprof.devices.borrow import borrowed
from diffprof.devices.simulated import Tf32Products, multiplying, place
from diffprof.gpu.mode import Mode, current_mode
from diffprof.gpu.operands import dtype_name
from diffprof.judge.acceptance import Measured
from diffprof.judge.registry import watched_names
from diffprof.model.fix import Code, Difference, Simulated
from diffprof.model.pipeline import Pipeline, components, with_role
from diffprof.model.progress import Progress
from diffprof.model.recording import (
    Change,
    Grade,
    MemoryKind,
    MemoryUse,
    Recording,
    Timeline,
)
from diffprof.scanning.session import Session
from diffprof.targets import Options, Target
from diffprof.targets.compiled import own_mode
from diffprof.targets.construct import random_values
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.twin.building import Twin, twin_of
from diffprof.targets.twin.shrinking import NoTwin
from diffprof.tuning.compiled_twin import NotRun, compiled_output
from diffprof.tuning.difference import TF32, Incomparable, Output, difference, image_of, output_of
from diffprof.tuning.own_python import charged_ms, cpu_seconds
from diffprof.tuning.subject import Mark, Subject

PASSES = 3
"""Clean passes of each state."""

ROUNDS = 2
"""How often near ties are timed again."""


Saved = Mapping[tuple[str, str | None], tuple[int, int]]
"""(component, type) -> bytes that its weights of that type lose, of how many."""


class RoundingUnknown(Exception):
    """What half precision does to the output could not be told; the message says why."""


@dataclass(frozen=True)
class _Look:
    """The scan of a state, and what it recorded."""

    session: Session
    seen: Recording


@dataclass(frozen=True)
class TrialMark:
    """A state of a trial."""

    subject: Mark
    twin: Mark | None
    modelled: tuple[Simulated, ...]
    compiled: bool
    compiling: tuple[tuple[str, Code], ...] = ()
    python: float | None = None
    looked: _Look | None = None


class Trial:
    """A real device: the pipeline's own output is compared, a clock times it."""

    def __init__(
        self,
        call: PipelineCall,
        device: Device,
        target: Target,
        options: Options,
        settings: Mapping[str, object],
        progress: Progress,
        clock: Clock | None = None,
    ) -> None:
        self.device = device
        self.target = target
        self.options = options
        self.settings = dict(settings)
        self.progress = progress
        self.clock = clock or device.clock
        self.subject = Subject(call, device.torch_device if device.allocator is not None else None)
        self.modelled: tuple[Simulated, ...] = ()
        self.compiled = False
        self.python: float | None = None
        """CPU time of the pipeline's and the scheduler's Python, as a share of what it was; None where it
        was not told."""
        self._incomparable = ""
        self._at: tuple[Mark, Mark | None] | None = None
        """The state as it is, of the pipeline and its twin, where nothing has changed them since it was
        recorded or restored."""

    @property
    def pipe(self) -> Pipeline:
        return self.subject.pipe

    # --- changing -------------------------------------------------------------------------------------

    def mark(self) -> TrialMark:
        self._at = self._at or self._taken()
        return TrialMark(*self._at, self.modelled, self.compiled)

    def _taken(self) -> tuple[Mark, Mark | None]:
        return self.subject.mark(), None

    def restore(self, mark: TrialMark) -> None:
        self.subject.restore(mark.subject)
        self._at = mark.subject, mark.twin
        self.modelled, self.compiled = mark.modelled, mark.compiled

    def apply(self, key: str, code: Code, modelled: Simulated | None) -> str | None:
        """Run the code of a fix; returns why its output can't be compared, if so. What it raises passes
        through."""
        self._at = None
        self.subject.apply(key, code)
        self.compiled = self.compiled or bool(modelled and modelled.compiled)
        return None

    # --- asking ---------------------------------------------------------------------------------------

    def output_after(self, modelled: Simulated | None) -> Output | None:
        """What the call gives now, right after a fix that is modelled as this."""
        return self.output()

    def measured(self) -> Measured:
        """Clean timed passes."""
        self.subject.park()
        timing = clean_passes(
            self.subject.call.run,
            self.device.synchronize,
            warmups=COMPILED_WARMUPS if self.compiled else 1,
            passes=PASSES,
            warm=self._warm,
            clock=self.clock,
        )
        allocator = self.device.allocator
        return _measured(timing.seconds, None if allocator is None else allocator.peak_bytes())

    def _warm(self) -> None:
        """The peak is that of the timed calls: what tuning kernels takes while it warms up is left out."""
        self.device.synchronize()
        if self.device.allocator is not None:
            self.device.allocator.collect()
            self.device.allocator.reset_peak()

    def timed_again(
        self, before: TrialMark, after: TrialMark, memory: tuple[int | None, int | None]
    ) -> tuple[Measured, Measured]:
        """Both states in turn, twice, so that what changes on the machine meets both; the second stays."""
        passes: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            for mark, found in zip((before, after), passes, strict=True):
                self.restore(mark)
                found.extend(self.measured().passes)
        return _measured(passes[0], memory[0]), _measured(passes[1], memory[1])

    def expect(self, analyzers: Sequence[str], changes: Collection[Change] | None) -> None:
        """What the states to come will be scanned for. changes: those of the set-up that it will be asked of;
        None: all."""

    def compiles_whole(self, key: str, code: Code) -> bool:
        """Whether this code of a fix, which compiles, is known to compile what it names in one graph each."""
        return False

    def look(self, analyzers: Sequence[str], settings: Mapping[str, object] | None = None) -> Recording:
        """Scan the pipeline as it is now. settings: of the scan, beside the report's."""
        self.subject.park()
        session = self._session(analyzers, settings or {})
        with session.keeping_what_was_recorded():
            return session.record(self.subject.call)

    def _session(self, analyzers: Sequence[str], settings: Mapping[str, object]) -> Session:
        chosen = {**self._settings(), **settings}
        session = Session(self.target, self.device, self.options, analyzers, chosen, self.progress)
        session.lends = False  # it stands there already
        return session

    def _settings(self) -> dict[str, object]:
        return self.settings

    def output(self) -> Output | None:
        """What the call gives now; None where nothing can be told."""
        return self._output_of(self.subject.call)

    def _output_of(self, call: PipelineCall) -> Output | None:
        try:
            return output_of(call)
        except Incomparable as error:
            self._incomparable = f"{error}"
            return None

    def rounding(self, output: Output | None) -> float:
        """How far the output is from that of the same pipeline in float32: what half precision itself does.

        0 where it is in float32. Changes the pipeline. Raises RoundingUnknown where the float32 pipeline does
        not run, for want of memory say.
        """
        pipe = self._compared.pipe if self._compared is not None else None
        modules = [m for m in components(pipe).values() if isinstance(m, torch.nn.Module)] if pipe else []
        half = (torch.float16, torch.bfloat16)
        if output is None or not any(p.dtype in half for m in modules for p in m.parameters()):
            return 0.0
        self._at = None
        try:
            for module in modules:
                module.to(torch.float32)
                self.subject.park()
            exact = self.output()
        except Exception as error:
            text = "it ran out of memory" if isinstance(error, torch.OutOfMemoryError | MemoryError) else None
            raise RoundingUnknown(text or f"it raised {type(error).__name__}") from error
        found = self.difference(output, exact).max_abs
        if found is None:
            raise RoundingUnknown(self.why_not_compared or "its output can't be compared")
        return found

    def output_again(self, output: Output) -> Output | None:
        """What the same call gives another time. output: what it gave."""
        return self.output()

    @property
    def _compared(self) -> Subject | None:
        """Whose output is compared."""
        return self.subject

    @property
    def compared_on(self) -> str:
        return f"{self.device.spec}, the pipeline itself"

    @property
    def why_not_compared(self) -> str:
        return self._incomparable

    def difference(self, before: Output | None, after: Output | None) -> Difference:
        if before is None or after is None:
            return Difference(compared_on=self.compared_on, why_not=self.why_not_compared)
        where = f", on {after.where}" if after.where else ""
        how = f", {after.how}" if after.how else ""
        return difference(before, after, self.compared_on + where + how)


def _measured(seconds: Sequence[float], memory: int | None) -> Measured:
    from statistics import median

    from diffprof.analyzers.kernels.timing import spread

    found = spread(list(seconds))
    return Measured(
        ms=median(seconds) * 1e3,
        grade=Grade.MEASURED,
        spread_ms=None if found is None else found * 1e3,
        memory_bytes=memory,
        passes=tuple(seconds),
    )


class SimulatedTrial(Trial):
    """A simulated GPU: times come from its timeline, outputs are compared on a twin. What can't run there
    (compiling, quantizing) is modelled. The twin is compiled for the comparison alone, and goes on
    without: tracing it takes longer than all the rest.

    The twin's call runs on the simulated GPU too, with values: there the code of fixes meets device tensors,
    while on the CPU much of it has nothing to do. Its kernels are the CPU's, so both give the same bits.

    compiling: code of fixes that compile, by their name.
    """

    _original: Timeline | None = None
    """Of the first state that was timed."""
    _cpu_seconds: float | None = None
    """Of the twin's call without its models, before the first fix that brings Python of its own."""
    _changes: Collection[Change] | None = None
    """Of the set-up, those that are costed; None: all."""

    def __init__(self, call: PipelineCall, *args: Any, **kwargs: Any) -> None:
        super().__init__(call, *args, **kwargs)
        self.twin: Twin | None = None
        self.no_twin = ""
        self._has_values: bool | None = None
        """Whether the twin's call runs on the simulated GPU; None before it was tried."""
        self._elsewhere = "the CPU"
        self.compiling: tuple[tuple[str, Code], ...] = ()
        self._twin: Subject | None = None
        self._looked: _Look | None = None
        """Of the state as it is, if there was one."""
        self._expected: tuple[str, ...] = ()
        self._compiled: tuple[tuple[tuple[str, Code], ...], Output | Exception | None] = (), None
        """What the twin, as it is, gave or raised when it was compiled last, by which code."""
        try:
            self.twin = twin_of(call, few_blocks=True)
            self._twin = Subject(self.twin.call)
        except NoTwin as error:
            self.no_twin = str(error)

    def mark(self) -> TrialMark:
        found = super().mark()
        return dataclasses.replace(found, compiling=self.compiling, python=self.python, looked=self._looked)

    def _taken(self) -> tuple[Mark, Mark | None]:
        return self.subject.mark(), self._twin.mark() if self._twin else None

    def restore(self, mark: TrialMark) -> None:
        super().restore(mark)
        self._compiled = (), None
        if self._twin is not None and mark.twin is not None:
            self._twin.restore(mark.twin)
        self.compiling, self.python, self._looked = mark.compiling, mark.python, mark.looked

    def apply(self, key: str, code: Code, modelled: Simulated | None) -> str | None:
        self._looked = None
        if modelled is None:
            self._at, self._compiled = None, ((), None)
            self.subject.apply(key, code)
            if self._twin is not None:
                brings_python = bool(code.definitions or code.around)
                if brings_python and self._cpu_seconds is None:
                    self._cpu_seconds = cpu_seconds(self._twin.call)
                with random_values(None):  # also of the layers that the fix makes
                    self._twin.apply(key, code)
                if brings_python and self._cpu_seconds is not None:
                    self.python = cpu_seconds(self._twin.call) / self._cpu_seconds
            return self.no_twin or None
        self.modelled = (*self.modelled, modelled)
        if modelled.compiled:
            self.compiled = True
            self.compiling = (*self.compiling, (key, code))
        if self._twin is None:
            return self.no_twin
        if not modelled.int8:
            return None
        self._at, self._compiled = None, ((), None)
        with random_values(None):
            return _quantized(self._twin.pipe, modelled.int8)

    def measured(self) -> Measured:
        seen = self._recording()
        assert seen.timing is not None
        assert seen.timing.median is not None
        return Measured(
            ms=seen.timing.median * 1e3 + self._own_python_ms(seen),
            grade=Grade.SIMULATED,
            memory_bytes=seen.memory.peak_bytes if seen.memory else None,
        )

    def _own_python_ms(self, seen: Recording) -> float:
        """What the fixes' Python adds to the call."""
        if self._original is None:
            self._original = seen.timeline
        if self.python is None or seen.timeline is None or self._original is None:
            return 0.0
        models = [name for name, part in components(self.pipe).items() if isinstance(part, torch.nn.Module)]
        return charged_ms(seen.timeline, self._original, self.python, models)

    def expect(self, analyzers: Sequence[str], changes: Collection[Change] | None) -> None:
        self._expected, self._changes = tuple(analyzers), changes

    def compiles_whole(self, key: str, code: Code) -> bool:
        """On the twin, unless its small picture is in one piece where the pipeline's is not. What it gives is
        kept: the fix that is tried next is this one."""
        if self._twin is None or any(map(_in_pieces, with_role(self.pipe, "vae").values())):
            return False
        codes = (*self.compiling, (key, code))
        try:
            found = compiled_output(self._twin, codes)
        except (Incomparable, NotRun) as error:
            self._compiled = codes, error
            return False
        self._compiled = codes, found
        return found.whole

    def look(self, analyzers: Sequence[str], settings: Mapping[str, object] | None = None) -> Recording:
        """On a simulated GPU all comes of one call, which is kept until something changes."""
        if self._looked is None:
            wanted = dict.fromkeys((*watched_names(), *analyzers))
            session = self._session(tuple(wanted), settings or {})
            session.alone, session.changes = True, self._changes
            with session.keeping_what_was_recorded():
                seen = self._with_int8(session.record(self.subject.call))
            self._looked = _Look(session, seen)
            return seen
        session, seen = self._looked.session, self._looked.seen
        again = "setup" if session.changes is not None and self._changes is None else ""
        if further := [name for name in analyzers if name not in seen.analyzers or name == again]:
            if again in further:
                session.changes, known = None, session.analyzers
                session.analyzers = tuple(name for name in known if name != again)
            with session.keeping_what_was_recorded():
                more = session.record_more(further, settings or {})
            self._looked = _Look(session, replace(more, memory=self._looked.seen.memory))
        return self._looked.seen

    def _recording(self) -> Recording:
        """The scan of the state as it is; where there is none yet, for all that it will be looked at for."""
        return self._looked.seen if self._looked is not None else self.look(self._expected)

    def _with_int8(self, seen: Recording) -> Recording:
        """With INT8 weights at their size."""
        chosen = self._int8()
        if seen.memory is None or not chosen:
            return seen
        return replace(seen, memory=_with_smaller_weights(seen.memory, _saved_by_int8(self.pipe, chosen)))

    def _int8(self) -> frozenset[str]:
        return frozenset(name for each in self.modelled for name in each.int8)

    def _mode(self) -> Mode:
        compiled = [each for each in self.modelled if each.compiled]
        chosen = self._int8()
        own = own_mode(self.pipe, as_if=bool(compiled) or bool(self.settings.get("compiled")))
        if compiled:
            own["graphs"] = all(each.graphs for each in compiled)
        with self.subject.call.surroundings():
            return current_mode(
                **own,
                quantizes=(lambda module, depth, columns, kind: module in chosen) if chosen else None,
            )

    def _settings(self) -> dict[str, object]:
        return {**self.settings, "mode": self._mode()}

    def output(self) -> Output | None:
        if self._twin is None:
            return None
        if self._has_values is not False and not self._int8():  # torchao's tensors can't be placed
            try:
                products = Tf32Products()
                with borrowed(self._twin.pipe), multiplying(products):
                    place(self._twin.pipe, values="known")
                    found = self._output_of(self._twin.call)
            except Exception as error:
                if self._has_values:
                    raise
                self._has_values = False
                text = (str(error).strip().splitlines() or ["without a word"])[0]
                self._elsewhere = (
                    f"the CPU, where what a fix does to device tensors is not seen "
                    f"(on {self.device.spec} it raised {type(error).__name__}: {text})"
                )
            else:
                self._has_values = True
                return found and _on(found, f"{self.device.spec} with values", products)
        with Tf32Products() as products:
            found = self._output_of(self._twin.call)
        return found and _on(found, self._elsewhere, products)

    def output_again(self, output: Output) -> Output | None:
        """Of the twin, which was called once to see that it can be."""
        assert self.twin is not None
        image = image_of(self.twin.call.output)
        same = image is not None and output.image is not None and np.array_equal(image, output.image)
        return output if same else self.output()

    def output_after(self, modelled: Simulated | None) -> Output | None:
        if self._twin is None or modelled is None or not modelled.compiled:
            return self.output()
        codes, found = self._compiled
        try:
            if codes != self.compiling or found is None:
                found = compiled_output(self._twin, self.compiling)
            if isinstance(found, Exception):
                raise found
            return dataclasses.replace(found, where=f"the CPU{found.where}")
        except (Incomparable, NotRun) as error:
            self._incomparable = str(error)
            return None

    @property
    def _compared(self) -> Subject | None:
        return self._twin

    @property
    def compared_on(self) -> str:
        return self.twin.said if self.twin is not None else "nothing"

    @property
    def why_not_compared(self) -> str:
        return self.no_twin or self._incomparable


def _on(output: Output, where: str, products: Tf32Products) -> Output:
    return dataclasses.replace(output, where=where + (TF32 if products.seen else ""))


def _in_pieces(vae: object) -> bool:
    """Whether it goes through a picture tile by tile, or through a batch one after the other."""
    return bool(getattr(vae, "use_tiling", False) or getattr(vae, "use_slicing", False))


def _saved_by_int8(pipe: Pipeline, chosen: frozenset[str]) -> Saved:
    """By each weight that becomes INT8, a scale a row kept."""
    held: Counter[tuple[str, str | None]] = Counter()
    saved: Counter[tuple[str, str | None]] = Counter()
    for name, part in components(pipe).items():
        if not isinstance(part, torch.nn.Module):
            continue
        for tensor in (*part.parameters(), *part.buffers()):
            held[name, dtype_name(tensor.dtype)] += tensor.nbytes
        for inner, module in part.named_modules():
            weight = getattr(module, "weight", None)
            if f"{name}.{inner}" in chosen and weight is not None:
                size, rows = weight.element_size(), weight.shape[0]
                saved[name, dtype_name(weight.dtype)] += weight.numel() * (size - 1) - rows * size
    return {key: (saved[key], held[key]) for key in saved}


def _with_smaller_weights(memory: MemoryUse, saved: Saved) -> MemoryUse:
    """The same call with smaller weights: those that lie on the device all along in every figure, those that
    are moved there where they are at the peak."""
    holders, stays, moved = [], 0, 0
    for each in memory.at_peak or ():
        weights = each.kind in (MemoryKind.WEIGHTS, MemoryKind.IDLE_WEIGHTS)
        off, of = saved.get(((each.module or "").partition(".")[0], each.dtype), (0, 1))
        off = min(off, round(off * each.bytes / of)) if weights else 0  # the device rounds sizes up
        stays, moved = (stays + off, moved) if each.phase == "before" else (stays, moved + off)
        holders.append(replace(each, bytes=each.bytes - off))
    peak = None if memory.peak_bytes is None else memory.peak_bytes - stays - moved
    phases = {name: size - stays for name, size in memory.by_phase.items()}
    if memory.peak_phase is not None and peak is not None:
        phases[memory.peak_phase] = peak
        peak = max(phases.values())
    return replace(
        memory,
        peak_bytes=peak,
        weights_bytes=None if memory.weights_bytes is None else memory.weights_bytes - stays,
        by_phase=phases,
        by_step=tuple(size - stays for size in memory.by_step),
        at_peak=tuple(sorted(holders, key=lambda each: -each.bytes)),
        curve=tuple(replace(p, bytes=min(p.bytes - stays, peak or p.bytes)) for p in memory.curve),
    )


def _quantized(pipe: Pipeline, chosen: Sequence[str]) -> str | None:
    """Quantize the twin's layers of these names, as the code does for the real ones; why it can't be told
    what that does, if so."""
    from diffprof.analyzers.quantization.layers import Unavailable, quantize_in_place, quietly
    from diffprof.analyzers.quantization.schemes import SCHEMES

    wanted = set(chosen)
    touched = 0
    for name, part in components(pipe).items():
        if not isinstance(part, torch.nn.Module):
            continue

        def is_chosen(module: torch.nn.Module, fqn: str, name: str = name) -> bool:
            nonlocal touched
            found = isinstance(module, torch.nn.Linear) and f"{name}.{fqn.removesuffix('.mod')}" in wanted
            touched += found
            return found

        def is_convolution(module: torch.nn.Module, fqn: str, name: str = name) -> bool:
            one = isinstance(module, torch.nn.Conv2d) and module.kernel_size == (1, 1)
            return one and f"{name}.{fqn}" in wanted

        try:
            with quietly():
                from torchao.quantization import swap_conv2d_1x1_to_linear

                swap_conv2d_1x1_to_linear(part, is_convolution)
                quantize_in_place(part, SCHEMES["int8-dynamic"], is_chosen)
        except Unavailable as error:
            return f"INT8 does not run on the twin: {error}"
    return None if touched else "none of the chosen layers is in the twin"


def trial_for(device: Device) -> type[Trial]:
    """The kind of trial for a device."""
    return SimulatedTrial if device.gpu is not None else Trial
