"""One scan: which probes run, in what order, and the recording that comes of them, whole or partial."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import torch

from diffprof import __version__
from diffprof.analyzers.kernels.attention import AttentionCalls, attention_noted
from diffprof.analyzers.kernels.joining import SeenWait
from diffprof.analyzers.kernels.simulated import SimulatedKernels
from diffprof.analyzers.syncs.probe import Key, Noted, SyncObserver
from diffprof.devices import Device
from diffprof.devices.borrow import lent
from diffprof.devices.branches import as_unseen, branches_noted, device_type_branches
from diffprof.devices.simulated import Blocking, BlockingKind, values_unknown
from diffprof.devices.simulated.graphs import captured
from diffprof.gpu.memory_log import StorageNumbers
from diffprof.gpu.mode import current_mode
from diffprof.gpu.specs import GpuSpec
from diffprof.gpu.timeline_builder import Again, TimelineMark
from diffprof.judge.allowed import Blocks, open_blocks, watching_blocks
from diffprof.judge.comments import comments_in
from diffprof.judge.judging import make_report
from diffprof.judge.registry import find_analyzer, in_order
from diffprof.judge.short_steps import short_steps
from diffprof.judge.timeline import total_us
from diffprof.model.callsite import Place, file_of, importable_path, is_machinery, make_site, source_line
from diffprof.model.collection import paused_collection
from diffprof.model.errors import DiffprofError, TargetError, carrying
from diffprof.model.pipeline import Pipeline, components, offloaded
from diffprof.model.progress import Progress
from diffprof.model.recording import (
    INTERRUPTED,
    Allowance,
    Change,
    Environment,
    Recording,
    TargetInfo,
    Unseen,
)
from diffprof.model.units import plural
from diffprof.scanning.arguments import chosen_analyzers
from diffprof.targets import Options, Target
from diffprof.targets.calls import bound, outputs
from diffprof.targets.compiled import compiled_modules, own_mode
from diffprof.targets.components import components_of
from diffprof.targets.exits import ProcessExit
from diffprof.targets.guest_errors import next_step
from diffprof.targets.pipeline import Phase, PhaseTracker
from diffprof.targets.pipeline_call import PipelineCall, describe
from diffprof.targets.repeated_steps import repeating

if TYPE_CHECKING:
    from diffprof.model.analyzer import Analyzer

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "torchao", "numpy")


class Session:
    """Runs the probes of one scan and holds what they recorded."""

    def __init__(
        self,
        target: Target,
        device: Device,
        options: Options,
        analyzers: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        trace_folder: Path | None = None,
        allow: Sequence[Allowance] = (),
    ) -> None:
        """trace_folder: where the profiler's trace of a measured call is left. allow: what the configuration
        allows.

        Raises UsageError for an analyzer that is not there.
        """
        self.target = target
        self.device = device
        self.options = options
        self.settings = dict(settings or {})
        self.analyzers = chosen_analyzers(analyzers, {})
        self._chosen = tuple(find_analyzer(name) for name in in_order(self.analyzers))
        self.progress = progress or Progress()
        self.trace_folder = trace_folder
        self.allow = tuple(allow)
        self.blocks = Blocks()
        self.call: PipelineCall | None = None
        self.sections: dict[str, Any] = {}
        self.extra: dict[str, object] = {}
        """Sections of analyzers that other packages bring."""
        self.prepared: dict[str, Any] = {}
        self.unseen: list[Unseen] = []
        self.seen: tuple[SeenWait, ...] = ()
        self.seconds: dict[str, float] = {}
        self.steps: int | None = None
        self.attention: AttentionCalls | None = None
        """Of the watched call, on a CUDA device."""
        self.kernels: SimulatedKernels | None = None
        """Of the watched call, on a simulated device."""
        self.lends = target.kind == "object"
        """Whether the pipeline is put on the device for the scan, and given back after it."""
        self.changes: Collection[Change] | None = None
        """Changes of the set-up that are costed on a simulated device; None: all that may be asked for."""
        self.alone = False
        """Whether memory on a simulated device is the pipeline's alone, whatever else lies there."""
        self._started = time.perf_counter()

    def another(self) -> Session:
        """For another pipeline of the same target, with the same settings."""
        return Session(
            self.target,
            self.device,
            self.options,
            self.analyzers,
            self.settings,
            self.progress,
            allow=self.allow,
        )

    @property
    def times_kernels(self) -> bool:
        """Whether the kernels of the watched call are timed, for an analyzer that reads them."""
        return any(each.times_kernels for each in self._chosen)

    # --- running --------------------------------------------------------------------------------------

    def load_code(self) -> None:
        """Import the target's classes, which takes longer than all the rest."""
        with paused_collection():
            self.target.load_code()
        self._lap("import")

    def record(self, call: PipelineCall) -> Recording:
        """Run every probe on a pipeline call. What a probe saw before it failed stays in the session."""
        self.call = call
        self._lap("build")
        self.unseen.extend(_unseen_parts(call.pipe, self.device))
        self.unseen.extend(call.unseen)
        self.unseen.extend(Unseen(what="the pipeline's place", why=note, kind="note") for note in call.notes)
        with lent(call.pipe, self.device) if self.lends else nullcontext(), self._values_unknown():
            self._prepare(self._chosen)
            with eager_compiled_parts(), branches_noted() as asked:
                if any(each.watched for each in self._chosen):
                    # Only here: what `torch.compile` captures below must not see that anything watches.
                    with watching_blocks() as self.blocks:
                        watched_call(self, call)
                    self._lap("scan")
            self._probe(self._chosen)
        self.unseen.extend(captured())
        if self.device.kind != "cuda":
            self.unseen.extend(as_unseen([*asked, *device_type_branches(call.pipe)]))
        return self.recording()

    def record_more(self, analyzers: Sequence[str], settings: Mapping[str, Any]) -> Recording:
        """Run further analyzers beside the call that was watched: the pipeline is as it was then."""
        names = [name for name in chosen_analyzers(analyzers, {}) if name not in self.analyzers]
        further = [find_analyzer(name) for name in in_order(names)]
        self.analyzers = tuple(in_order((*self.analyzers, *names)))
        self.settings.update(settings)
        self._lap("between")
        with self._values_unknown():
            self._prepare(further)
            self._probe(further)
        return self.recording()

    def _values_unknown(self) -> AbstractContextManager[None]:
        """Of a pipeline that is offloaded: on a simulated device its weights take no memory anywhere."""
        assert self.call is not None
        if self.device.gpu is None or not offloaded(self.call.pipe):
            return nullcontext()
        self.call.weights = "none"
        parts = components(self.call.pipe).values()
        return values_unknown([part for part in parts if isinstance(part, torch.nn.Module)])

    def _prepare(self, analyzers: Iterable[Analyzer]) -> None:
        self.prepared.update({each.name: each.run(each.before, self) for each in analyzers if each.before})

    def _probe(self, analyzers: Iterable[Analyzer]) -> None:
        """What analyzers collect beside the watched call. Their code is imported when it is used."""
        for analyzer in analyzers:
            if analyzer.probe:
                with eager_compiled_parts() if analyzer.eager else nullcontext():
                    self.add(analyzer.run(analyzer.probe, self) or {}, analyzer.name.replace("-", " "))

    def add(self, sections: Mapping[str, Any], lap: str) -> None:
        """Record sections. lap: what the scan did since the last one, if it found anything."""
        self.unseen.extend(sections.get("unseen") or ())
        own = {name: rows for name, rows in sections.items() if name != "unseen"}
        for name, rows in own.items():
            if name in Recording.__struct_fields__:
                self.sections[name] = rows
            else:
                self.extra[name] = rows
        if sections:
            self._lap(lap)

    def _lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._started
        self._started = now

    @contextmanager
    def keeping_what_was_recorded(self) -> Iterator[None]:
        """Errors that leave the block carry the partial report as `.report`; what is not an error of ours
        becomes a TargetError that says where the target failed. So does an attempt to end the process: a call
        that was not made to its end has not passed."""
        try:
            with target_errors(self.target.spec):
                yield
        except (DiffprofError, KeyboardInterrupt) as error:
            if self.call is None:
                raise
            failure = error.what if isinstance(error, DiffprofError) else INTERRUPTED
            raise carrying(
                error, make_report(self.recording(partial=True, failure=failure))
            ) from error.__cause__

    # --- the result -----------------------------------------------------------------------------------

    def recording(self, *, partial: bool = False, failure: str | None = None) -> Recording:
        """What was recorded so far."""
        assert self.call is not None
        return Recording(
            target=self._target_info(self.call),
            device=self.device.info(),
            environment=environment(),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            analyzers=self.analyzers,
            settings=_storable(self.settings),
            seconds={name: round(value, 4) for name, value in self.seconds.items()},
            partial=partial,
            failure=failure,
            sources=_hashes([*self._user_files(), *_own_target(self.target)]),
            allowances=(*self.allow, *self.blocks.entered, *comments_in(self._files())),
            unseen=tuple(self.unseen),
            extra=msgspec.to_builtins(self.extra),
            **self.sections,
        )

    def _user_files(self) -> Iterator[str]:
        for section in ("syncs", "graph_breaks", "recompiles"):
            yield from (row.site.file for row in self.sections.get(section) or () if row.site.user_code)
        yield from (gap.site.file for gap in self.unseen if gap.site is not None and gap.site.user_code)

    def _files(self) -> Iterator[str]:
        """Where somebody may have allowed something: the places of what was found, and the target's own."""
        yield from _own_target(self.target)
        for section in ("syncs", "graph_breaks", "recompiles", "complex_numbers"):
            yield from (row.site.file for row in self.sections.get(section) or ())
        if self.call is not None:
            parts = [self.call.pipe, *components(self.call.pipe).values()]
            yield from own_files({type(part) for part in parts})

    def _target_info(self, call: PipelineCall) -> TargetInfo:
        makes, made = outputs(call.pipe, bound(call.pipe, call.args, call.kwargs))
        return TargetInfo(
            spec=self.target.spec,
            kind=self.target.kind,
            pipeline=type(call.pipe).__name__,
            components=components_of(call.pipe),
            call=call.describe_call(),
            dtypes=call.dtypes(),
            options=_plain(self.options),
            args=tuple(getattr(self.target, "args", ())) if self.target.kind == "script" else (),
            lost=_lost(self.options),
            steps=self.steps,
            card_steps=call.card_steps,
            makes=makes,
            made=made,
            weights=call.weights,
        )


def watched_call(session: Session, call: PipelineCall) -> None:
    """One call under the observers of syncs and, on a simulated device, of kernels."""
    with observed_calls(session, call) as (observer, tracker), ExitStack() as stack:
        if session.device.gpu is not None and not session.settings.get("every_step"):
            stack.enter_context(repeating(call.pipe, observer, tracker))
        call.run()


@contextmanager
def observed_calls(session: Session, call: PipelineCall) -> Iterator[tuple[SyncObserver, PhaseTracker]]:
    """Calls of the pipeline inside are observed; what was seen is in the session when the block ends."""
    tracker = PhaseTracker(on_change=_shown(session.progress))
    with ExitStack() as stack:
        observer: SyncObserver
        gpu = session.device.gpu
        if gpu is not None and session.times_kernels:
            session.kernels = _simulated_kernels(session, gpu, call.pipe)
            observer = SyncsAndKernels(call.pipe, tracker, session.kernels)
            stack.enter_context(observer.kernels.following())
        else:
            observer = SyncsInOrder(call.pipe, tracker)
            stack.callback(lambda: setattr(session, "seen", observer.seen()))
            if session.device.kind == "cuda" and session.times_kernels:
                session.attention = stack.enter_context(attention_noted(call.pipe))
        stack.callback(_keep, session, observer)
        stack.enter_context(session.device.observed(observer, call.pipe))
        stack.enter_context(tracker.watching(call.pipe))
        yield observer, tracker


def _simulated_kernels(session: Session, gpu: GpuSpec, pipe: Pipeline) -> SimulatedKernels:
    mode = session.settings.get("mode")
    if mode is None:
        mode = current_mode(**own_mode(pipe, as_if=bool(session.settings.get("compiled"))))
    return SimulatedKernels(gpu, pipe, mode, session.alone)


class SyncsInOrder(SyncObserver):
    """Waits of a real call, in the order in which they came: so they are found again in its trace."""

    def __init__(self, pipe: Pipeline, tracker: PhaseTracker) -> None:
        super().__init__(pipe, tracker)
        self.order: list[tuple[Key, str, Phase]] = []

    def blocking(self, event: Blocking) -> None:
        key = self.note(event)
        if event.kind != BlockingKind.STAGED_COPY:
            self.order += [(key, event.op, self.tracker.current)] * event.waits

    def seen(self) -> tuple[SeenWait, ...]:
        """Every wait, with its row in `sync_rows`."""
        numbers = self.row_numbers()
        return tuple(
            SeenWait(row=numbers[key], op=op, phase=phase.name, step=phase.step, part=phase.part)
            for key, op, phase in self.order
        )


class _Stretch(NamedTuple):
    """A part of a call that may come again: what it launches, where the CPU waits in it, and how many
    blocks that allow waits were open around it."""

    work: Again
    waits: tuple[Noted, ...]
    outside: int


class SyncsAndKernels(SyncObserver):
    """Both analyzers of one simulated call: waits go to both, operations to the kernels alone."""

    def __init__(self, pipe: Pipeline, tracker: PhaseTracker, kernels: SimulatedKernels) -> None:
        super().__init__(pipe, tracker)
        self.kernels = kernels
        # Bound directly: these are called for every operation, some 2,000 times a step.
        self.op = kernels.op  # type: ignore[method-assign]
        self.alloc, self.free = kernels.alloc, kernels.free  # type: ignore[method-assign]
        shown = tracker.on_change

        def changed(phase: Phase) -> None:
            kernels.phase(phase)
            if shown:
                shown(phase)

        tracker.on_change = changed

    def blocking(self, event: Blocking) -> None:
        self.kernels.wait(self.note(event), event)

    def steps_cut_short(self) -> Unseen | None:
        """What a call that a value cuts short is without, which is unknown without weights."""
        timeline = self.kernels.builder.finish()
        now = total_us(timeline) / 1e3
        found = short_steps(timeline, self.sync_rows(), now)
        if found is None:
            return None
        return Unseen(
            kind="left-out",
            what=f"most of {found.steps} of {plural(found.of, 'step')}",
            why="how many are cut short there hangs on values that are unknown without weights; with whole "
            f"steps the call takes {found.whole_ms / now:.1f} times as long, eager and all on the device",
            site=found.site,
        )

    def mark(self, storages: StorageNumbers) -> tuple[int, int, TimelineMark]:
        return len(self.log), len(open_blocks()), self.kernels.builder.mark(storages)

    def since(self, mark: tuple[int, int, TimelineMark]) -> _Stretch | None:
        waits, outside, begin = mark
        work = self.kernels.builder.since(begin)
        return None if work is None else _Stretch(work, tuple(self.log[waits:]), outside)

    def reads(self, told: _Stretch) -> bool:
        copied = (getattr(item, "direction", None) == "d2h" for item in told.work.items)
        return any(wait.reads for wait in told.waits) or any(copied)

    def alike(self, one: _Stretch, other: _Stretch) -> bool:
        return one.waits == other.waits and one.work.alike(other.work)

    def again(self, told: _Stretch, storages: StorageNumbers) -> None:
        keys = {wait.key: self.note_again(wait, told.outside) for wait in told.waits}
        self.kernels.repeat(told.work, storages, keys)

    def sections(self) -> dict[str, Any]:
        found = super().sections()
        found["ops"] = self.kernels.builder.counted().total()
        return {**found, **self.kernels.sections(self.row_numbers())}


def _keep(session: Session, observer: SyncObserver) -> None:
    session.progress.stage("summing up the call")
    session.sections.update(observer.sections())
    session.unseen.extend(observer.unseen())
    session.steps = observer.steps_seen()


def _shown(progress: Progress) -> Callable[[Phase], None]:
    def show(phase: Phase) -> None:
        if phase.part == "denoiser" or phase.step is None:
            progress.stage(phase.name if phase.step is None else f"denoising, step {phase.step + 1}")

    return show


# --- what the probes pass over -------------------------------------------------------------------------


@contextmanager
def eager_compiled_parts() -> Iterator[None]:
    """Functions under `torch.compile` run as plain Python inside, so that what they do can be seen."""
    with torch.compiler.set_stance("force_eager"):
        yield


def _unseen_parts(pipe: Pipeline, device: Device) -> Iterator[Unseen]:
    compiled: dict[str, list[str]] = {}
    for name, path in compiled_modules(pipe):
        compiled.setdefault(name, []).append(path)
    for name, paths in compiled.items():
        if device.gpu is None:
            lost = "its times are those of the compiled code"
        elif name in own_mode(pipe).get("compiled", ()):
            lost = "its times are predicted for compiled code, as if it had no graph break"
        else:
            lost = "what the compiled code does is not in this evidence"
        where = name if "" in paths else f"{name}.{paths[0]} and {len(paths) - 1} more"
        yield Unseen(
            what=f"torch.compile of {where}",
            why=f"it ran uncompiled here, so that its waits could be seen; {lost}",
        )


# --- facts about this run ------------------------------------------------------------------------------


def _plain(options: Options) -> dict[str, object]:
    """The options that were given, as stored."""
    given = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    return {
        name: describe(value)
        for name, value in given.items()
        if value is not None and value != {} and not (name == "weights" and value)
    }


def _lost(options: Options) -> tuple[str, ...]:
    """Call arguments whose stored form is a description, not the value."""
    return tuple(name for name, value in options.call.items() if not _same_value(value, describe(value)))


def _same_value(value: Any, stored: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_same_value(each, stored[str(key)]) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(_same_value(each, other) for each, other in zip(value, stored, strict=True))
    return value is stored


def _storable(settings: Mapping[str, Any]) -> dict[str, object]:
    """The settings that were given, as plain values."""
    given = {name: value for name, value in settings.items() if value not in (None, False)}
    return {name: describe(value) for name, value in given.items() if _same_value(value, describe(value))}


def environment() -> Environment:
    """Versions of what the evidence depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Environment(
        diffprof=__version__,
        python=platform.python_version(),
        packages=found,
        platform=f"{platform.system()} {platform.machine()}",
    )


def _own_target(target: Target) -> Iterator[str]:
    """The file of a factory or a script."""
    if target.kind in ("factory", "script"):
        yield target.spec.rpartition(":")[0] if target.kind == "factory" else target.spec


def own_files(classes: Iterable[type]) -> Iterator[str]:
    """The files, of the user's own, that classes are defined in."""
    modules = {sys.modules.get(each.__module__) for each in classes}
    for file in sorted({file for module in modules if (file := getattr(module, "__file__", None))}):
        name, own = importable_path(file)
        if own:
            yield name


def _hashes(files: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the user's own files, as the scan read them."""
    return {
        file: hashlib.sha256(place.read_bytes()).hexdigest()
        for file in sorted(set(files))
        if (place := file_of(file)) is not None and place.is_file()
    }


@contextmanager
def target_errors(spec: str) -> Iterator[None]:
    """What leaves the block and is no error of ours becomes a TargetError: where the target failed."""
    try:
        yield
    except (DiffprofError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if isinstance(error, Exception) and our_own(error):
            raise
        raise target_failure(spec, error) from error


def target_failure(spec: str, error: BaseException) -> TargetError:
    """An exception out of the target as one clear error: what was raised, on which line, the chain to it."""
    frames = [f for f in walk_traceback(error) if not is_machinery(f[0])]
    site = make_site(tuple(frames), None) if frames else None
    where = f" at {site.file}:{site.line} in {site.function}" if site else ""
    source = f"\n    {source_line(frames[0][0], site.line)}" if site else ""
    if isinstance(error, SystemExit | ProcessExit):
        how = error.how if isinstance(error, ProcessExit) else f"sys.exit({error.code!r})"
        return TargetError(
            f"{spec} ended the process with {how}{where}, before its call was over.{source}",
            "Only a call that comes to its end can be judged: take the exit out, or go around it.",
        )
    return TargetError(
        f"{spec} failed{where}: {type(error).__name__}: {error}{source}",
        f"{next_step(error)} --debug shows the whole traceback.",
    )


def our_own(error: BaseException) -> bool:
    """Whether diffprof itself failed. What the simulated device raises is what a device would raise, and a
    call that a wrapper passes on fails in the wrapper's line when its arguments don't fit, or PyTorch refuses
    them."""
    innermost = Path(walk_traceback(error)[0][0])
    own = Path(__file__).parents[1]
    passes_on = [own / "targets" / name for name in ("pipeline.py", "redirect.py")]
    stands_in = innermost.is_relative_to(own / "devices") or innermost in passes_on
    return innermost.is_relative_to(own) and not stands_in


def walk_traceback(error: BaseException) -> list[Place]:
    """The frames of an exception, innermost first."""
    found: list[Place] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        found.append((code.co_filename, trace.tb_lineno, code.co_qualname.replace(".<locals>", "")))
        trace = trace.tb_next
    return found[::-1]
