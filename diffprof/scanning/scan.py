"""The whole flow: target, device, probes, recording, rules, report. Read this first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec

from diffprof.devices import resolve_device
from diffprof.gpu.hosts import on_host
from diffprof.judge.judging import make_report
from diffprof.judge.schedulers import SchedulerRow, scheduler_row
from diffprof.judge.source_edit.stored import with_source_edits
from diffprof.model.collection import paused_collection
from diffprof.model.errors import DiffprofError
from diffprof.model.pipeline import Pipeline, execution_device
from diffprof.model.progress import Progress
from diffprof.model.recording import Allowance, Recording
from diffprof.model.report import Report
from diffprof.scanning.arguments import sorted_out
from diffprof.scanning.session import Session
from diffprof.targets import Options, Target, from_object, resolve
from diffprof.targets.calls import names as argument_names
from diffprof.targets.calls import scheduler_names, swap_scheduler
from diffprof.targets.factory import FunctionTarget, is_factory
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.script import ScriptTarget


def scan_target(
    spec: str | Target,
    *,
    args: Sequence[str] = (),
    device: str | None = None,
    options: Options | None = None,
    analyzers: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    progress: Progress | None = None,
    trace_folder: Path | None = None,
    allow: Sequence[Allowance] = (),
) -> Report:
    """Build a target, run one call of it under the analyzers, and judge what they recorded.

    spec: a target's name, path or hub id, or a Target. args: a script's own arguments. settings: of the
    analyzers, by name. trace_folder: where a measured call leaves the profiler's trace, `trace.json`.
    allow: what the configuration allows.
    Raises UsageError for a request that can't be carried out and TargetError when the target fails; that
    error, and a KeyboardInterrupt, carries what was recorded until then as `.report`.
    """
    where = resolve_device(device)
    target = resolve(spec, args) if isinstance(spec, str) else spec
    chosen = options or Options()
    session = Session(target, where, chosen, analyzers, settings or {}, progress, trace_folder, allow)
    pause = nullcontext() if where.wants_values else paused_collection()
    with session.keeping_what_was_recorded(), where.active(), pause:
        session.load_code()
        session.progress.stage("building the pipeline")
        first, *others = _recorded(session)
        session.progress.stage("judging what was recorded")
        return msgspec.structs.replace(_judged(first), pipelines=tuple(map(_judged, others)))


def _recorded(session: Session) -> Iterator[Recording]:
    """Of the target's call; of a script, of the first call of each of its pipelines."""
    target = session.target
    if not isinstance(target, ScriptTarget):
        yield target.run(session.record, session.device, session.options)
        return

    def further(call: PipelineCall) -> Recording:
        again = session.another()
        try:
            with again.keeping_what_was_recorded():
                return again.record(call)
        except DiffprofError as error:
            partial: Report | None = getattr(error, "report", None)
            if partial is None:
                raise
            return partial.recording

    recorded, left = target.run_each(session.record, further, session.device, session.options)
    recorded[0] = msgspec.structs.replace(recorded[0], unseen=(*recorded[0].unseen, *left))
    yield from recorded


def _judged(recording: Recording) -> Report:
    return with_source_edits(make_report(recording))


def scan(
    pipe_or_target: Any,
    *,
    device: str | None = None,
    host: str | None = None,
    options: Options | None = None,
    analyzers: str | Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    allow: Sequence[Allowance] = (),
    args: Sequence[str] = (),
    progress: Progress | None = None,
    **named: object,
) -> Report:
    """Scan a live pipeline or a target, as `diffprof scan` does.

    pipe_or_target: a pipeline, a function that makes one, alone or with the arguments of its call, or what
    `diffprof scan` takes. named: every option of the command by its name (`steps`, `vary`, `no_weights`,
    ...), and the arguments of the call that is scanned; what a live pipeline's call takes itself is its
    argument. allow: what is allowed on purpose. args: a script's own. A pipeline is given back as it was.
    """
    pipe = None if isinstance(pipe_or_target, str) or is_factory(pipe_or_target) else pipe_or_target
    asked = sorted_out(
        named,
        options=options,
        analyzers=analyzers,
        settings=settings,
        of_call=() if pipe is None else argument_names(pipe)[0],
    )
    target: Target
    if isinstance(pipe_or_target, str):
        target = resolve(pipe_or_target, args)
    elif pipe is None:
        target = FunctionTarget.of(pipe_or_target)
    else:
        target = from_object(pipe, kwargs=asked.options.call)
        asked = dataclasses.replace(asked, options=dataclasses.replace(asked.options, call={}))
        device = device or cuda_device_of(pipe)
    with on_host(host):
        return scan_target(
            target,
            device=device,
            options=asked.options,
            analyzers=asked.analyzers,
            settings=asked.settings,
            progress=progress,
            allow=allow,
        )


def cuda_device_of(pipe: Pipeline) -> str | None:
    """The GPU that a live pipeline is on, on a machine with several; None for one that is on none."""
    place = execution_device(pipe)
    return str(place) if getattr(place, "type", None) == "cuda" else None


def scheduler_table(
    spec: str,
    *,
    device: str | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> tuple[SchedulerRow, ...]:
    """One call of a target with each of diffusers' schedulers: what blocks the CPU in each.

    The pipeline is built once. A scheduler that can't be made from the target's configuration, or whose call
    fails, gets a row that says why.
    """
    where = resolve_device(device)
    target = resolve(spec)
    chosen = options or Options()
    shown = progress or Progress()

    def play(call: PipelineCall) -> tuple[SchedulerRow, ...]:
        rows = []
        names = scheduler_names(call.pipe)
        shown.stage("schedulers", total=len(names))
        own = call.pipe.scheduler
        for name in names:
            shown.step(name)
            try:
                swap_scheduler(call.pipe, name)
                session = Session(target, where, chosen)
                with session.keeping_what_was_recorded():
                    again = dataclasses.replace(call)
                    rows.append(scheduler_row(name, make_report(session.record(again))))
            except DiffprofError as error:
                rows.append(SchedulerRow(scheduler=name, error=" ".join(error.what.split())))
            finally:
                call.pipe.scheduler = own
        return tuple(rows)

    with where.active():
        return target.run(play, where, chosen)
