"""Which parts of a pipeline `torch.compile` takes whole, where it breaks, and what makes it compile again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch

from diffprof.analyzers.graph_breaks import ANALYZER
from diffprof.analyzers.graph_breaks import cache as store
from diffprof.analyzers.graph_breaks.break_costs import Priced
from diffprof.analyzers.graph_breaks.breaks import break_rows, complex_rows, distinct_breaks
from diffprof.analyzers.graph_breaks.capture import plain_name
from diffprof.analyzers.graph_breaks.child import ChildJob, Send, can_fork, import_compiler, run_in_children
from diffprof.analyzers.graph_breaks.compiled_here import compile_times, compiles_here
from diffprof.analyzers.graph_breaks.component import CaptureResult, capture_part
from diffprof.analyzers.graph_breaks.costs import COLD, priced_breaks, priced_recompiles
from diffprof.analyzers.graph_breaks.observe import Compilable, observing
from diffprof.analyzers.graph_breaks.python_state import PythonState
from diffprof.analyzers.graph_breaks.recompiles import CURES, Varied, call_again, may_be_cured, recompile_rows
from diffprof.analyzers.graph_breaks.scopes import (
    CALL,
    COMPONENTS,
    SCOPES,
    STEP,
    capture_call,
    capture_step,
    loop_lines,
)
from diffprof.analyzers.graph_breaks.signature import Given, signature
from diffprof.analyzers.graph_breaks.variations import Variation, applied, variations
from diffprof.devices import Device
from diffprof.model.analyzer import Run
from diffprof.model.callsite import importable_path, make_site
from diffprof.model.errors import UsageError
from diffprof.model.pipeline import Pipeline, components
from diffprof.model.progress import Progress
from diffprof.model.recording import CaptureRow, ComplexRow, Grade, GraphBreakRow, RecompileRow, Unseen

WARM = "warm"
"""A model after a call of the pipeline; COLD is before the first one."""

SECTIONS = ("captures", "graph_breaks", "recompiles", "complex_numbers")
"""Of the recording."""

LIMIT_SECONDS = 600.0
"""For one component. The SDXL UNet takes 10; with breaks that hide others, a multiple."""


class OneCall(Protocol):
    """A pipeline and one call of it (see `diffprof.targets.pipeline_call.PipelineCall`)."""

    pipe: Pipeline
    args: tuple[Any, ...]
    kwargs: dict[str, object]
    around: Callable[[], AbstractContextManager[object]] | None

    def run(self) -> Any: ...


@dataclass
class _Task:
    """One capture: from the cache, or a job for a child. done: what to do with its result."""

    name: str
    work: Callable[[Send], Any]
    kind: type
    key: str | None
    done: Callable[[Any, float, bool], None]
    failed: Callable[[str], None]


@dataclass
class _Found:
    captures: list[CaptureRow] = field(default_factory=list)
    breaks: list[Priced] = field(default_factory=list)
    recompiles: list[RecompileRow] = field(default_factory=list)
    complex: list[ComplexRow] = field(default_factory=list)
    compiled_again: set[str] = field(default_factory=set)
    """Components of which more than one version was compiled, as the pipeline calls them."""
    unseen: list[Unseen] = field(default_factory=list)

    def tell_unsearched(self, name: str, result: CaptureResult) -> None:
        """Name the functions of a component in which there may be breaks that are not listed."""
        for function, skipped_at in result.capture.unsearched:
            row = Unseen(
                what=f"further graph breaks of {name} in {plain_name(function[2])}",
                why="Dynamo skips that function because of this break, and with its loops written out the "
                "call did not come to each of its lines: those listed are the fewest there are",
                site=make_site((skipped_at,), None),
            )
            if row not in self.unseen:
                self.unseen.append(row)


_NO_FORK = Unseen(
    what="graph breaks", why="captures run in a forked child process, which this system does not have"
)


def of_run(run: Run) -> dict[str, object]:
    """Of a scan."""
    return probe_graph_breaks(
        run.call,
        run.device,
        progress=run.progress,
        cold=run.prepared[ANALYZER.name],
        cache=run.settings.get("cache") is not False,
        cures=run.settings.get("cures") is not False,
        encoders=run.settings.get("encoders") is not False,
        **ANALYZER.given(run.settings),
    )


def state_before(run: Run) -> PythonState:
    """What the models hold before their first call."""
    return state_of(run.call.pipe)


def probe_graph_breaks(
    call: OneCall,
    device: Device,
    *,
    scope: str = COMPONENTS,
    vary: Mapping[str, Sequence[object]] | None = None,
    progress: Progress | None = None,
    cache: bool = True,
    cures: bool = True,
    encoders: bool = True,
    limit_seconds: float = LIMIT_SECONDS,
    cold: PythonState | None = None,
) -> dict[str, object]:
    """Run the call once to see what each component is given, then capture the components under
    Dynamo in child processes. To be called while the device is active.

    scope: components; call (also the scheduler's step, the body of the denoising loop, and the whole
    call). vary: call argument -> values to try, for recompiles. cache: keep results under the user's
    cache folder, and use those that are there. cures: try what would stop each recompile. encoders: also
    components that run before the denoising loop alone. cold: the components' state before the first call
    (see `state_of`); None: it has not been made. Returns sections of a Recording: captures, graph_breaks,
    recompiles, complex_numbers, and unseen for what could not be captured. Raises UsageError for an
    unknown scope or variation.
    """
    if scope not in SCOPES:
        raise UsageError(f"There is no compile scope {scope!r}.", f"Choose from: {', '.join(SCOPES)}.")
    if not can_fork():
        return {**dict.fromkeys(SECTIONS), "unseen": (_NO_FORK,)}
    import_compiler()
    show = progress or Progress()
    wanted = variations(call.pipe, call.kwargs, vary or {})
    show.stage("inputs of the components")
    cold = cold or state_of(call.pipe)
    parts = _observed(call)
    for part in parts:
        if isinstance(part.owner, torch.nn.Module):
            part.keeps_state = cold.changed(part.owner)
    varied = {v: _observed(call, v) for v in wanted}
    parts = _wanted(parts, scope, encoders)
    found = _Found()
    grade = device.grade if device is not None else Grade.MEASURED
    # Under the settings of the call, which the children inherit.
    with call.around() if call.around else nullcontext():
        _capture_parts(parts, cold, found, grade, show, cache, limit_seconds)
        if scope == CALL:
            _capture_whole(call, parts, found, grade, show, cache, limit_seconds)
        show.stage("cost of the breaks")
        breaks = priced_breaks(call.run, call.pipe, device, parts, found.breaks)
        tried = CURES if cures else ()
        _try_again(call, parts, varied, cold, found, grade, show, cache, tried, limit_seconds)
        recompiles = priced_recompiles(call.run, call.pipe, device, parts, found.recompiles)
    return {
        "captures": tuple(found.captures),
        "graph_breaks": breaks,
        "recompiles": recompiles,
        "complex_numbers": tuple(found.complex),
        "unseen": tuple(found.unseen),
    }


def _observed(call: OneCall, variation: Variation | None = None) -> list[Compilable]:
    """The components that one call of the pipeline uses, with their inputs. Compiled ones run as plain
    Python, so that neither their code nor Dynamo's caches change."""
    with applied(call, variation), torch.compiler.set_stance("force_eager"), observing(call.pipe) as parts:
        call.run()
    return parts


def _wanted(parts: list[Compilable], scope: str, encoders: bool) -> list[Compilable]:
    if not encoders:
        parts = [part for part in parts if part.per_step or part.phase == "decode"] or parts
    return [part for part in parts if scope == CALL or part.role != "scheduler"]


def state_of(pipe: Pipeline) -> PythonState:
    """What the pipeline's models hold now."""
    return PythonState(part for part in components(pipe).values() if isinstance(part, torch.nn.Module))


# --- captures ------------------------------------------------------------------------------------------


def _capture_parts(
    parts: Sequence[Compilable],
    cold: PythonState,
    found: _Found,
    grade: Grade,
    show: Progress,
    cache: bool,
    limit_seconds: float,
) -> None:
    rows: dict[tuple[str, str], tuple[CaptureRow, tuple[Priced, ...]]] = {}

    def task(part: Compilable, state: str) -> _Task:
        start = cold if state == COLD else None

        def work(send: Send) -> CaptureResult:
            return capture_part(part, cold=start, say=send)

        def done(result: CaptureResult, seconds: float, cached: bool) -> None:
            known = _Known(part.name, part.count, part.per_step, part.phase, grade)
            rows[part.name, state] = _rows(known, result, seconds, cached)
            found.tell_unsearched(part.name, result)
            if state == WARM or not part.keeps_state:
                found.complex += complex_rows(**known._asdict(), result=result)
            if result.recompiles:
                found.compiled_again.add(part.name)

        def failed(why: str) -> None:
            rows[part.name, state] = (_failed(part.name, why, part.count, part.per_step), ())

        key = _key(part, start, part.calls[0].inputs.key, part.no_grad) if cache else None
        return _Task(part.name, work, CaptureResult, key, done, failed)

    # The largest first: the others fit in beside it.
    order = sorted(parts, key=lambda p: -len(p.blocks))
    states = {part.name: (COLD, WARM) if part.keeps_state else (COLD,) for part in parts}
    _run([task(part, state) for part in order for state in states[part.name]], show, limit_seconds)
    for part in parts:
        first, later = rows[part.name, COLD], rows.get((part.name, WARM))
        capture, breaks = first if later is None else cold_and_warm(first, later)
        capture = _replace(capture, compiled=part.compiled, keeps_state=part.keeps_state)
        found.captures.append(capture)
        found.breaks += breaks
        if capture.failure:
            found.unseen.append(Unseen(what=f"graph capture of {part.name}", why=capture.failure))


def _key(part: Compilable, start: PythonState | None, *more: object) -> str | None:
    """Of a component that is captured from that state on."""
    with start.applied() if start is not None and part.keeps_state else nullcontext():
        return store.key_of(part.owner, part.method, part.compiled, part.next_calls(), *more)


def _capture_whole(
    call: OneCall,
    parts: Sequence[Compilable],
    found: _Found,
    grade: Grade,
    show: Progress,
    cache: bool,
    limit_seconds: float,
) -> None:
    steps = max((part.steps for part in parts), default=0)
    loop = loop_lines(call.pipe, parts)

    def task(label: str, capture: Callable[..., CaptureResult]) -> _Task:
        calls, per_step = (steps, 1.0) if label == STEP else (1, 0.0)

        def work(send: Send) -> CaptureResult:
            return capture(call.pipe, call.args, call.kwargs, parts, send)

        def done(result: CaptureResult, seconds: float, cached: bool) -> None:
            # Lines are counted over the whole call here.
            known = _Known(label, 1, 0.0, "denoise" if label == STEP else None, grade)
            row, breaks = _rows(known, result, seconds, cached)
            found.tell_unsearched("the pipeline's call", result)
            found.captures.append(_replace(row, calls=calls, per_step=per_step))
            found.breaks += [replace(b, row=_in_loop(b.row, loop, steps)) for b in breaks]
            if row.failure:
                failed(row.failure)

        def failed(why: str) -> None:
            if not any(row.component == label for row in found.captures):
                found.captures.append(_failed(label, why, calls, per_step))
            what = "denoising loop's body" if label == STEP else "whole call"
            found.unseen.append(Unseen(what=f"graph capture of the {what}", why=why))

        key = store.key_of(call.pipe, label, given) if given is not None else None
        return _Task(label, work, CaptureResult, key, done, failed)

    given = _given(call, parts) if cache else None
    _run([task(STEP, capture_step), task(CALL, capture_call)], show, limit_seconds)


def _given(call: OneCall, parts: Sequence[Compilable]) -> list[object] | None:
    """What a capture of the pipeline's own code depends on beside the pipeline: the call's arguments, and
    what the components were given and gave. None for what can't be compared between processes."""
    arguments = store.lasting((call.args, call.kwargs))
    states = [store.lasting(part.state) for part in parts]
    if arguments is None or None in states:
        return None
    values = [
        leaf.values.tolist() if isinstance(leaf, Given) and leaf.values is not None else None
        for leaf in signature((call.args, call.kwargs)).leaves
    ]
    inner = [(p.name, p.order, [(c.inputs.key, c.output.key) for c in p.calls]) for p in parts]
    return [arguments, values, states, inner]


class _Known(NamedTuple):
    """What is known of something that was captured: its calls in one of the pipeline, in each step, and the
    phase of these."""

    component: str
    calls: int
    per_step: float
    phase: str | None
    grade: Grade


def _rows(
    known: _Known, result: CaptureResult, seconds: float, cached: bool
) -> tuple[CaptureRow, tuple[Priced, ...]]:
    capture = result.capture
    distinct = distinct_breaks(result)
    rows = break_rows(found=distinct, result=result, **known._asdict())
    breaks = tuple(map(Priced, distinct, rows))
    failure = capture.failure
    row = CaptureRow(
        component=known.component,
        graphs=len(capture.graphs),
        ops=capture.ops,
        breaks=len(breaks),
        fullgraph_ready=capture.whole,
        calls=known.calls,
        per_step=known.per_step,
        regions_per_call=sum(graph.runs for graph in capture.graphs),
        folded=dict(_summed(result.folded)),
        seconds=round(seconds, 2),
        cached=cached,
        failure=failure,
    )
    return row, breaks


_Rows = tuple[CaptureRow, tuple[Priced, ...]]


def cold_and_warm(cold: _Rows, warm: _Rows) -> _Rows:
    """One row for a component that was captured in both states, with the breaks of both. What a single state
    has says so; a cold one comes once in a process."""
    (cold_row, cold_breaks), (warm_row, warm_breaks) = cold, warm
    in_cold, in_warm = ({_same_break(b.row) for b in breaks} for breaks in (cold_breaks, warm_breaks))
    first = [
        replace(b, row=_of_one_call(b.row, cold_row.calls))
        for b in cold_breaks
        if _same_break(b.row) not in in_warm
    ]
    later = [
        b if _same_break(b.row) in in_cold else replace(b, row=_replace(b.row, state=WARM))
        for b in warm_breaks
    ]
    row = _replace(
        warm_row,
        breaks=len(first) + len(later),
        fullgraph_ready=cold_row.fullgraph_ready and warm_row.fullgraph_ready,
        seconds=cold_row.seconds + warm_row.seconds,
        cached=cold_row.cached and warm_row.cached,
        failure=warm_row.failure or cold_row.failure,
    )
    return row, (*first, *later)


def _of_one_call(row: GraphBreakRow, calls: int) -> GraphBreakRow:
    """A break that only the first of the component's calls has."""
    once = None if row.count is None else row.count // calls
    return _replace(row, state=COLD, count=once, per_step=None if row.per_step is None else 0.0)


def _same_break(row: GraphBreakRow) -> tuple[str, int, str]:
    return (row.site.file, row.site.line, row.code or row.cause)


def _failed(name: str, why: str, calls: int, per_step: float) -> CaptureRow:
    return CaptureRow(component=name, calls=calls, per_step=per_step, failure=why)


def _summed(folded: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    for name in dict.fromkeys(name for name, _ in folded):
        yield name, sum(times for other, times in folded if other == name)


def _replace(row: Any, **changes: object) -> Any:
    import msgspec

    return msgspec.structs.replace(row, **changes)


def _in_loop(row: GraphBreakRow, loop: tuple[str, int, int] | None, steps: int) -> GraphBreakRow:
    """With its passes in each step, where the denoising loop stands on its stack."""
    if loop is None or not steps or row.count is None:
        return row
    file, first, last = loop
    places = [(row.site.file, row.site.line), *((frame.file, frame.line) for frame in row.site.chain)]
    if any(importable_path(file)[0] == where and first <= line <= last for where, line in places):
        return _replace(row, per_step=row.count / steps)
    return row


# --- recompiles ----------------------------------------------------------------------------------------


def _try_again(
    call: OneCall,
    parts: Sequence[Compilable],
    varied: Mapping[Variation, Sequence[Compilable]],
    cold: PythonState,
    found: _Found,
    grade: Grade,
    show: Progress,
    cache: bool,
    settings: Sequence[str],
    limit_seconds: float,
) -> None:
    """Call again what is called more than once, or in a variation; try cures, these settings, for what
    recompiles."""
    by_label = {v.label: v for v in varied}
    others = {
        part.name: [(v.label, p) for v, all_ in varied.items() for p in all_ if p.name == part.name]
        for part in parts
    }
    chosen = [part for part in parts if others[part.name] or _may_recompile(part, found)]
    plain: dict[str, Varied] = {}
    cures: dict[str, list[Varied]] = {}

    def applying(label: str) -> AbstractContextManager[None]:
        return applied(call, by_label[label])

    def task(part: Compilable, setting: str) -> _Task:
        before = plain.get(part.name)
        tried = [x for x in others[part.name] if before is None or before.by_variation.get(x[0])]

        def work(send: Send) -> Varied:
            send(f"{part.name} again{f', {setting}' if setting else ''}")
            return call_again(part, tried, setting=setting, applying=applying, cold=cold)

        def done(result: Varied, seconds: float, cached: bool) -> None:
            if setting:
                cures.setdefault(part.name, []).append(result)
            else:
                plain[part.name] = result
                if result.failure:
                    failed(result.failure)
                else:
                    _note_tried(found, part.name, result)

        def failed(why: str) -> None:
            if setting:
                cures.setdefault(part.name, []).append(Varied(setting, failure=why))
            else:
                found.unseen.append(Unseen(what=f"recompiles of {part.name}", why=why))

        key = _key_again(part, cold, setting, tried) if cache else None
        return _Task(part.name, work, Varied, key, done, failed)

    _run([task(part, "") for part in chosen], show, limit_seconds)
    again = [p for p in chosen if p.name in plain and any(plain[p.name].by_variation.values())]
    curable = [p for p in again if may_be_cured(plain[p.name])]
    _run([task(part, setting) for part in curable for setting in settings], show, limit_seconds)
    _add_rows(found, parts, again, plain, cures, grade)


def _add_rows(
    found: _Found,
    parts: Sequence[Compilable],
    again: Sequence[Compilable],
    plain: Mapping[str, Varied],
    cures: Mapping[str, Sequence[Varied]],
    grade: Grade,
) -> None:
    """The rows of those that are compiled again, with what was tried as a cure, in its order."""
    import torch._dynamo

    limit = torch._dynamo.config.recompile_limit
    timed = compile_times(parts, compiles_here())
    for part in again:
        ordered = sorted(cures.get(part.name, []), key=lambda v: CURES.index(v.setting))
        found.recompiles += recompile_rows(
            part, plain[part.name], ordered, limit=limit, grade=grade, compile_ms=timed.get(part.name)
        )


def _key_again(
    part: Compilable, cold: PythonState, setting: str, tried: Sequence[tuple[str, Compilable]]
) -> Any:
    """Of the answer in the cache."""
    inputs = [(label, [c.inputs.key for c in p.calls], p.order) for label, p in tried]
    own = ([c.inputs.key for c in part.calls], part.order, part.no_grad)
    return _key(part, cold, "again", setting, own, inputs)


def _note_tried(found: _Found, name: str, result: Varied) -> None:
    for at, row in enumerate(found.captures):
        if row.component == name:
            tried = tuple(label for label in result.by_variation if label not in result.refused)
            found.captures[at] = _replace(row, tried=tried)


def _may_recompile(part: Compilable, found: _Found) -> bool:
    """Different inputs within one call, an object with a state of its own, a model that keeps something, or
    one that was compiled again when it was called as the pipeline does."""
    known = len(part.calls) > 1 or part.keeps_state or part.name in found.compiled_again
    return known or (part.count > 1 and not isinstance(part.owner, torch.nn.Module))


# --- running -------------------------------------------------------------------------------------------


def _run(tasks: Sequence[_Task], show: Progress, limit_seconds: float) -> None:
    """Take results from the cache, and the others from children, as many at once as there are cores."""
    if not tasks:
        return
    show.stage("capturing graphs", len(tasks))
    jobs: dict[str, tuple[ChildJob, _Task]] = {}
    for number, task in enumerate(tasks):
        kept = store.load(task.key, task.kind)
        if kept is not None:
            show.step(task.name)
            task.done(kept, getattr(kept, "seconds", 0.0), True)
            continue
        name = f"{number} {task.name}"
        jobs[name] = (ChildJob(name, prepared(task.work)), task)

    def on_message(job: ChildJob, message: Any) -> None:
        said = isinstance(message, str)
        show.step(message if said else jobs[job.name][1].name, 0 if said else 1)

    waiting = [job for job, _ in jobs.values()]
    run_in_children(waiting, at_once=_cores(), limit_seconds=limit_seconds, on_message=on_message)
    for job, task in jobs.values():
        result = next((m for m in reversed(job.received) if not isinstance(m, str)), None)
        if result is None:
            task.failed(job.failure or "the child sent no result")
            continue
        task.done(result, job.seconds, False)
        if not _failure(result):
            store.store(task.key, result, _files(result))


def _cores() -> int:
    """Children at a time: one a core, and not more than four, for each may take a gigabyte."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, 4))


def prepared(work: Callable[[Send], object]) -> Callable[[Send], None]:
    """Work for a child that may use PyTorch; it sends what it returns."""

    def start(send: Send) -> None:
        # OpenMP's threads did not come along through the fork; a parallel region would wait for them forever.
        torch.set_num_threads(1)
        _without_cuda()
        _without_our_modes()
        send(work(send))

    return start


def _without_cuda() -> None:
    """In the child: CUDA that the parent has begun to use can't be used here, and must not be asked for."""
    usable = torch.cuda.is_available() and not torch.cuda.is_initialized()
    torch.cuda.is_available = lambda: usable


def _without_our_modes() -> None:
    """In the child: Dynamo would trace the modes that send a script's devices elsewhere."""
    modes = [torch._C._pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())]
    for mode in reversed(modes):
        if not type(mode).__module__.startswith("diffprof."):
            torch._C._push_on_torch_function_stack(mode)


def _failure(result: Any) -> str | None:
    return result.capture.failure if isinstance(result, CaptureResult) else result.failure


def _files(result: Any) -> set[str]:
    return result.capture.sources if isinstance(result, CaptureResult) else result.files
