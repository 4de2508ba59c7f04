"""The ladder of published optimizations, rung by rung: predicted or measured, beside what was published."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from diffprof.model.errors import TargetError, UsageError
from diffprof.model.ladder import Ladder, RungResult
from diffprof.targets.baseline import RUNGS, Rung, tf32_matmuls

if TYPE_CHECKING:
    from diffprof.devices import Device
    from diffprof.targets import Options, Target

DEFAULT_STEPS = 30
"""Of the published runs."""

GIB = 1024**3


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """Published figures of one target, by rung."""

    checkpoint: str
    source: str
    seconds: dict[str, float]
    memory_gib: dict[str, float]
    scheduler: str | None = None


@cache
def published() -> tuple[dict[str, object], dict[str, Published]]:
    """(conditions, target -> figures)."""
    data = tomllib.loads(Path(__file__).with_name("published.toml").read_text(encoding="utf-8"))
    conditions = data.pop("conditions")
    return conditions, {name: msgspec.convert(entry, Published) for name, entry in data.items()}


def published_for(target: str) -> Published | None:
    """The figures published for a target, by its built-in name or checkpoint id."""
    _, entries = published()
    for name, entry in entries.items():
        if target in (name, entry.checkpoint):
            return entry
    return None


def comparable(device: str, options: Options) -> bool:
    """Whether a run under these conditions may stand beside the published one."""
    conditions, _ = published()
    changed = (options.height, options.width, options.batch, options.guidance_scale, options.dtype)
    return (
        device == f"sim:{conditions['gpu']}"
        and options.steps == conditions["steps"]
        and all(value is None for value in changed)
        and not options.call
    )


def choose_rungs(names: Sequence[str]) -> tuple[Rung, ...]:
    """Rungs by name, in the ladder's order; all when none is named.

    Raises UsageError for an unknown one.
    """
    known = {rung.name for rung in RUNGS}
    for name in names:
        if name not in known:
            raise UsageError(
                f"There is no rung {name!r}.", f"Choose from: {', '.join(r.name for r in RUNGS)}."
            )
    return tuple(rung for rung in RUNGS if not names or rung.name in names)


def climb(
    target: Target,
    device: Device,
    options: Options,
    rungs: Sequence[Rung] = RUNGS,
    on_rung: Callable[[Rung], None] | None = None,
) -> Ladder:
    """Run the rungs on a device: simulated ones predict, others measure.

    options.steps: denoising steps of the figures. options.dtype is ignored: rungs have their own. A measured
    rung that fails, for want of memory say, is kept with what it raised beside those that ran.

    Raises TargetError where none came to its end.
    """
    steps = options.steps or DEFAULT_STEPS
    options = replace(options, steps=steps)
    figures = published_for(target.spec)
    notes = []
    if figures is not None and figures.scheduler and options.scheduler is None:
        options = replace(options, scheduler=figures.scheduler)
        notes.append(f"Scheduler: {figures.scheduler}, as in the published runs.")
    beside = figures if figures is not None and comparable(device.spec, options) else None
    with tf32_matmuls():
        results = [
            _with_published(result, beside) for result in _results(target, device, options, rungs, on_rung)
        ]
    _raise_if_none_ran(target, results)
    return Ladder(
        target=target.spec,
        device=device.spec,
        steps=steps,
        rungs=tuple(results),
        source=beside.source if beside else None,
        notes=tuple(notes),
    )


def _raise_if_none_ran(target: Target, results: Sequence[RungResult]) -> None:
    failed = [rung for rung in results if rung.failed is not None]
    if failed and all(rung.seconds is None for rung in results):
        raise TargetError(
            f"No rung of {target.spec} came to its end; {failed[0].name} failed: {failed[0].failed}.",
            "Call it smaller (--height, --width, --batch), or see with `diffprof scan` where it fails.",
        )


def _results(
    target: Target,
    device: Device,
    options: Options,
    rungs: Sequence[Rung],
    on_rung: Callable[[Rung], None] | None,
) -> Iterator[RungResult]:
    if device.gpu is not None:
        from diffprof.tuning.ladder.predicted import PredictedRungs

        predictions = PredictedRungs(target, device, options)
        measure: Callable[[Rung], RungResult] = predictions.of
    else:
        from diffprof.tuning.ladder.measured import measured_rung

        def measure(rung: Rung) -> RungResult:
            return measured_rung(target, device, options, rung)

    for rung in rungs:
        if on_rung is not None:
            on_rung(rung)
        yield measure(rung)


def _with_published(result: RungResult, figures: Published | None) -> RungResult:
    if figures is None:
        return result
    seconds, memory = figures.seconds.get(result.name), figures.memory_gib.get(result.name)
    return msgspec.structs.replace(
        result,
        published_seconds=seconds,
        published_memory_gb=memory,
        error=_error(result.seconds, seconds),
        memory_error=_error(result.memory_gb, memory),
    )


def _error(value: float | None, reference: float | None) -> float | None:
    return None if value is None or reference is None else value / reference - 1.0
