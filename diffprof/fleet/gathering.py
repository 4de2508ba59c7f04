"""Tasks to rows of a table, written as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from diffprof.fleet.engine import Engine, Result, Task
from diffprof.fleet.store import Store

FAILED = "failed"
"""`status` of a row whose task gave nothing."""

FLUSH_S, WRITING = 1.0, 0.05
"""Rows are written together that come within this time, and so seldom that writing takes this share of it:
opening the file takes longer than reading a small trace."""


class Told(msgspec.Struct, frozen=True):
    """How far it is. last: the task that ended. left_s: seconds until the end, by the rate until now."""

    last: str
    done: int
    total: int
    failed: int
    left_s: float


def gather(
    tasks: Sequence[Task],
    store: Store,
    table: str,
    engine: Engine,
    rows_of: Callable[[Result], Sequence[Any]],
    *,
    told: Callable[[Told], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run the tasks and write what `rows_of` makes of each result, `status` FAILED where it is an error.

    Stopped at any time, what was done is in the store.
    """
    if not tasks:
        return
    started = written = clock()
    failed, pause, rows = 0, FLUSH_S, list[Any]()
    try:
        for done, result in enumerate(engine.results(tasks), start=1):
            fresh = rows_of(result)
            rows.extend(fresh)
            failed += any(row.status == FAILED for row in fresh)
            now = clock()
            if now - written >= pause:
                store.add(table, rows)
                rows, written = [], clock()
                pause = max(FLUSH_S, (written - now) / WRITING)
            if told is not None:
                left = (now - started) / done * (len(tasks) - done)
                told(Told(result.key, done, len(tasks), failed, left))
    finally:
        store.add(table, rows)


def there(store: Store, table: str, kind: Any, *, again: bool) -> set[str]:
    """Keys of the rows that need no task. again: those that failed do."""
    if not again:
        return store.keys(table, kind)
    return {row.key for row in store.rows(table, kind) if row.status != FAILED}
