"""The whole flow: target, device, probes, recording, rules, report. Read this first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from diffprof.devices import resolve_device
from diffprof.progress import Progress
from diffprof.report import Report, make_report
from diffprof.session import DEFAULT_ANALYZERS, Session, Watch
from diffprof.targets import Options, Target, from_object, resolve


def scan_target(
    spec: str | Target,
    *,
    args: Sequence[str] = (),
    device: str | None = None,
    options: Options | None = None,
    analyzers: Sequence[str] = DEFAULT_ANALYZERS,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Build a target, run one call of it under the analyzers, and judge what they recorded.

    spec: a target's name, path or hub id, or a Target. args: a script's own arguments. settings: of the
    analyzers, by name. Raises UsageError for a request that can't be carried out and TargetError when the
    target fails; that error, and a KeyboardInterrupt, carries what was recorded until then as `.report`.
    """
    where = resolve_device(device)
    target = resolve(spec, args) if isinstance(spec, str) else spec
    session = Session(target, where, options or Options(), analyzers, settings or {}, progress)
    with session.keeping_what_was_recorded(), where.active():
        recording = target.run(session.record, where, session.options)
    return make_report(recording)


def scan(
    pipe_or_target: Any,
    *,
    device: str | None = None,
    options: Options | None = None,
    analyzers: Sequence[str] = DEFAULT_ANALYZERS,
    settings: Mapping[str, Any] | None = None,
    **call: Any,
) -> Report:
    """Scan a live pipeline or a target, as `diffprof scan` does.

    pipe_or_target: a pipeline, or anything that `diffprof scan` takes. call: the arguments of the call that
    is scanned; a target's own are kept where none is given. A pipeline is given back as it was.
    """
    if isinstance(pipe_or_target, str):
        chosen = options or Options(call=call)
        return scan_target(
            pipe_or_target, device=device, options=chosen, analyzers=analyzers, settings=settings
        )
    target = from_object(pipe_or_target, kwargs=call)
    return scan_target(target, device=device, options=options, analyzers=analyzers, settings=settings)


@contextmanager
def watch(pipe: Any, *, device: str | None = None) -> Iterator[Watch]:
    """Watch every call of a pipeline inside the block; `watch.report` judges them.

    On a simulated device the pipeline stands there, without values, until the block ends.
    """
    where = resolve_device(device)
    watching = Watch(pipe, where)
    with where.active(), watching.calls():
        yield watching
