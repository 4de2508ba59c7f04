"""Runs the cases of a sweep, each once, and prices them: rows into the store, as they come."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from diffprof.fleet.engine import Engine, Result, Task
from diffprof.fleet.gathering import Told, gather, there
from diffprof.fleet.grid import Case, merged, versions
from diffprof.fleet.store import Store
from diffprof.model.sweep import FAILED, OK, UNFIT, SweepRow

TABLE = "sweep"

MEMORY = 3 << 29
"""Bytes that a run takes: Python with torch and diffusers, and what a call holds in host memory."""

PRELOAD = ("diffprof.fleet.worker_imports",)


def sweep(
    cases: Sequence[Case],
    store: Store,
    engine: Engine,
    *,
    again: bool = False,
    told: Callable[[Told], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[SweepRow, ...]:
    """The rows of all cases, in their order; those that the store has already are not run again.

    again: run those that failed. Stopped at any time, what is done is in the store.
    """
    done = there(store, TABLE, SweepRow, again=again)
    left = {str(case): case for each in merged(cases) if (case := each.without(done)) is not None}
    tasks = [Task(name, run_case, (case,), MEMORY) for name, case in left.items()]

    def rows_of(result: Result) -> Sequence[SweepRow]:
        return result.value if result.error is None else failed_rows(left[result.key], result)

    gather(tasks, store, TABLE, engine, rows_of, told=told, clock=clock)
    by_key = {row.key: row for row in store.rows(TABLE, SweepRow)}
    keys = dict.fromkeys(cell[3] for case in cases for cell in case.cells())
    return tuple(by_key[key] for key in keys)


def run_case(case: Case) -> tuple[SweepRow, ...]:
    """The rows of one case, priced from one run; in a worker. Raises what the target or its settings do."""
    import torch

    from diffprof.fleet.fixing import fixing
    from diffprof.scanning.predicting import CallRun, priced, run_call, sheets
    from diffprof.scanning.repeats import asked_steps, in_few_steps
    from diffprof.targets import Options, resolve

    torch.set_num_threads(1)
    started = time.perf_counter()
    height, width = case.pixels
    options = Options(
        scheduler=case.scheduler or None,
        height=height,
        width=width,
        batch=None if case.batch == 1 else case.batch,
        dtype=case.dtype,
        call=case.call,
    )
    target = resolve(case.target)
    specs = dict(zip(case.devices, sheets(case.devices), strict=True))
    prepare = fixing(case.fix, target, options) if case.fix else None
    rows: list[SweepRow] = []
    runs: dict[int | None, CallRun] = {}

    def run(asked: Options) -> CallRun:
        if asked.steps not in runs:
            runs[asked.steps] = run_call(target, asked, prepare=prepare)
        return runs[asked.steps]

    for device, mode, count, key in case.cells():
        steps = asked_steps(target, dataclasses.replace(options, steps=count))
        told = in_few_steps(run, options, steps, CallRun.tells)
        row = priced(told, specs[device], mode, case.batch, steps, case.price)
        rows.append(_row(case, key, msgspec.structs.asdict(row), time.perf_counter() - started))
    return tuple(rows)


def _row(case: Case, key: str, figures: Mapping[str, Any], took: float | None, reason: str = "") -> SweepRow:
    own, torch, diffusers = versions()
    seconds = figures.get("seconds")
    status = FAILED if reason else UNFIT if seconds is None else OK
    price = case.price.get(figures["device"]) if isinstance(case.price, dict) else case.price
    return SweepRow(
        **{**figures, "dtype": case.dtype or ""},  # as it was asked for
        key=key,
        run=case.run,
        target=case.target,
        size=case.size,
        scheduler=case.scheduler,
        fixes=case.fix,
        status=status,
        reason=reason or figures.get("why", ""),
        cost=None if price is None or seconds is None else seconds / 3600 * price,
        took_s=took,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        diffprof=own,
        torch=torch,
        diffusers=diffusers,
    )


def failed_rows(case: Case, result: Result) -> tuple[SweepRow, ...]:
    """The same rows without figures, with the reason."""
    reason = " ".join((result.error or "").split())
    return tuple(
        _row(
            case,
            key,
            {"device": device, "gpu": "", "mode": mode, "batch": case.batch, "steps": steps},
            result.seconds,
            reason,
        )
        for device, mode, steps, key in case.cells()
    )
