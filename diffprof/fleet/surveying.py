"""Every pipeline that diffprof can build, scanned on the simulated GPU: a row each."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from diffprof.fleet.engine import Engine, Result, Task
from diffprof.fleet.gathering import FAILED, Told, gather, there
from diffprof.fleet.grid import versions
from diffprof.fleet.store import Store
from diffprof.model.recording import Recording, Site
from diffprof.model.survey import SurveyLine, SurveyRow
from diffprof.targets import builtin_targets
from diffprof.targets.names import CORPUS

TABLE = "survey"
DEVICE = "sim:a100-80gb"
MEMORY = 3 << 29
SCANNED = ("syncs", "kernels")
SETTINGS = {"cures": False, "encoders": False}
"""A row tells what breaks and is compiled again in the denoiser and the decoder, which are worth compiling,
not what would stop it."""


def names() -> tuple[str, ...]:
    """The targets of a survey: the corpus, tiny, and the built-in architectures at full size."""
    from diffprof.corpus import CASES

    return (*(CORPUS + name for name in CASES), *(info.name for info in builtin_targets()))


def survey(
    targets: Sequence[str],
    store: Store,
    engine: Engine,
    *,
    breaks: bool = True,
    again: bool = False,
    told: Callable[[Told], None] | None = None,
) -> tuple[SurveyRow, ...]:
    """The rows of these targets, in their order; those that the store has of these versions are not run.

    breaks: whether graph breaks and recompiles are looked for.
    """
    keys = {target: key_of(target, breaks) for target in targets}
    done = there(store, TABLE, SurveyRow, again=again)
    tasks = [Task(t, survey_row, (t, breaks), MEMORY) for t, key in keys.items() if key not in done]

    def rows_of(result: Result) -> list[SurveyRow]:
        if result.error is None:
            return [result.value]
        reason = " ".join(result.error.split())
        return [_row(result.key, breaks, status=FAILED, reason=reason, took_s=result.seconds)]

    gather(tasks, store, TABLE, engine, rows_of, told=told)
    rows = {row.key: row for row in store.rows(TABLE, SurveyRow)}
    return tuple(rows[key] for key in keys.values())


def key_of(target: str, breaks: bool) -> str:
    """Names the row of a target with the installed versions."""
    return hashlib.sha256("\0".join((target, str(breaks), *versions())).encode()).hexdigest()[:24]


def _row(target: str, breaks: bool, /, **figures: Any) -> SurveyRow:
    own, torch, diffusers = versions()
    return SurveyRow(
        key=key_of(target, breaks), target=target, diffprof=own, torch=torch, diffusers=diffusers, **figures
    )


def survey_row(target: str, breaks: bool) -> SurveyRow:
    """One scan as a row; in a worker. Graph breaks are looked for in tiny pipelines: of one at full size
    capturing takes a minute. Raises what the scan does."""
    import torch

    from diffprof.scanning.scan import scan_target

    torch.set_num_threads(1)
    started = time.perf_counter()
    analyzers = (*SCANNED, "graph-breaks") if breaks and target.startswith(CORPUS) else SCANNED
    report = scan_target(target, device=DEVICE, analyzers=analyzers, settings=SETTINGS)
    return _row(target, breaks, **figures_of(report.recording), took_s=time.perf_counter() - started)


def figures_of(recording: Recording) -> dict[str, object]:
    """What a row has of a scan's evidence."""
    syncs, breaks, again = recording.syncs, recording.graph_breaks, recording.recompiles
    idle = [gap.duration_us for gap in recording.gaps or () if gap.cause in ("python", "launch")]
    steps = recording.memory.by_step if recording.memory else ()
    return {
        "pipeline": recording.target.pipeline,
        "waits": None if syncs is None else sum(row.count for row in syncs),
        "in_loop": None if syncs is None else sum(row.per_step for row in syncs if row.in_loop),
        "breaks": None if breaks is None else len(breaks),
        "recompiles": None if again is None else len(again),
        "grows_bytes": steps[-1] - steps[1] if len(steps) > 2 else None,
        "host_us": None if recording.gaps is None else sum(idle),
        "lines": tuple(lines_of(recording)),
    }


def lines_of(recording: Recording) -> Iterator[SurveyLine]:
    """Waits in the loop, graph breaks and recompiles, by line."""
    for wait in recording.syncs or ():
        if wait.in_loop:
            yield _line("wait", wait.site, f"{wait.kind} {wait.op}", wait.per_step)
    for each in recording.graph_breaks or ():
        yield _line("break", each.site, each.code or each.cause, 1)
    for row in recording.recompiles or ():
        yield _line("recompile", row.site, f"{row.kind} {row.variation}", row.count)


def _line(what: str, site: Site, kind: str, count: float) -> SurveyLine:
    code = next((text.strip() for number, text in site.excerpt if number == site.line), "")
    return SurveyLine(what=what, file=site.file, line=site.line, code=code, kind=kind, count=count)
