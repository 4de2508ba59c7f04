"""What collectives of NCCL take between the GPUs of one machine, from measurements."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np

from diffprof.model.errors import UsageError

from .pricing import Origin
from .specs import GpuSpec, load_spec

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


PCIE = "rtx-pro-6000"
"""Measured boards that reach each other through PCIe, by the data sheet. The L40S's are no measure for
others: there four take seven times as long as two, and eight thirty times."""


def table_of(spec: GpuSpec) -> tuple[str, Origin, float]:
    """The GPU whose table holds, whether it is this one, and what times are multiplied by.

    Boards without a link of their own take the times of measured ones, as their PCIe is faster or slower.
    Raises UsageError where no relative was measured.
    """
    known = {gpu for gpu, _, _ in _tables()}
    for origin, each in ((Origin.MEASURED, spec), (Origin.SIBLING, spec.sibling)):
        if each is not None and each.tables in known and each.pcie_peers == spec.pcie_peers:
            return each.tables, origin, 1.0
    if spec.pcie_peers:
        board = load_spec(PCIE)
        return str(board.tables), Origin.MODELLED, board.link_gb_s / spec.link_gb_s
    raise UsageError(
        f"Collectives were measured neither on {spec.name} nor on a sibling.",
        f"Ask for one of: {', '.join(sorted(known))}, or for boards that share PCIe alone.",
    )


def collective_us(spec: GpuSpec, op: str, count: int, sent: float) -> tuple[float, Origin]:
    """Time of a collective and where it is from.

    op: alltoall or all_gather. sent: bytes that each GPU sends, or that each has after a gathering. Between
    points in log space; beyond the last in proportion. Raises UsageError for a number of GPUs that was not
    measured.
    """
    gpu, origin, scale = table_of(spec)
    points = _tables().get((gpu, op, count))
    if points is None:
        raise UsageError(
            f"{op} of {count} GPUs was not measured.", f"Choose from: {', '.join(map(str, COUNTS))}."
        )
    sizes, times = points
    if sent >= sizes[-1]:
        return scale * float(times[-1] * sent / sizes[-1]), origin
    found = float(np.exp(np.interp(np.log(max(sent, sizes[0])), np.log(sizes), np.log(times))))
    return scale * found, origin
