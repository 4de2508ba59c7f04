"""What collectives of NCCL take between the GPUs of one machine, from measurements."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np

from diffprof.model.errors import UsageError

from .pricing import Origin
from .specs import GpuSpec

TABLE = Path(__file__).with_name("tables") / "nccl.csv"
"""gpu, op, GPUs, bytes, microseconds: bytes that each GPU sends, or that all have after a gathering. From
ai-dynamo/aiconfigurator (see NOTICE there)."""

COUNTS = (2, 4, 8)
"""GPUs that were measured together."""


@cache
def _tables() -> dict[tuple[str, str, int], tuple[np.ndarray, np.ndarray]]:
    rows: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    with TABLE.open(encoding="utf-8") as file:
        for gpu, op, count, sent, us in csv.reader(file):
            rows.setdefault((gpu, op, int(count)), []).append((float(sent), float(us)))
    return {key: tuple(map(np.array, zip(*sorted(points), strict=True))) for key, points in rows.items()}  # type: ignore[misc]


def table_of(spec: GpuSpec) -> tuple[str, Origin]:
    """The GPU whose table holds, and whether it is this one. Raises UsageError where no relative was
    measured."""
    known = {gpu for gpu, _, _ in _tables()}
    for origin, each in ((Origin.MEASURED, spec), (Origin.SIBLING, spec.sibling)):
        if each is not None and each.tables in known:
            return each.tables, origin
    raise UsageError(
        f"Collectives were measured neither on {spec.name} nor on a sibling.",
        f"Ask for one of: {', '.join(sorted(known))}.",
    )


def collective_us(spec: GpuSpec, op: str, count: int, sent: float) -> tuple[float, Origin]:
    """Time of a collective and where it is from.

    op: alltoall or all_gather. sent: bytes that each GPU sends, or that each has after a gathering. Between
    points in log space; beyond the last in proportion. Raises UsageError for a number of GPUs that was not
    measured.
    """
    gpu, origin = table_of(spec)
    points = _tables().get((gpu, op, count))
    if points is None:
        raise UsageError(
            f"{op} of {count} GPUs was not measured.", f"Choose from: {', '.join(map(str, COUNTS))}."
        )
    sizes, times = points
    if sent >= sizes[-1]:
        return float(times[-1] * sent / sizes[-1]), origin
    return float(np.exp(np.interp(np.log(max(sent, sizes[0])), np.log(sizes), np.log(times)))), origin
