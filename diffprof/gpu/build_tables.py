"""Build the kernel tables from the measurements that NVIDIA published for ai-dynamo/aiconfigurator.

    python -m diffprof.gpu.build_tables SOURCE [--out FOLDER]

SOURCE: a clone of github.com/ai-dynamo/aiconfigurator at COMMIT (parquet files; needs pyarrow), or a folder
of `GPU-gemm.csv.gz`, `GPU-attention.csv.gz` and `GPU-nccl.csv.gz` with the same columns and times in
microseconds (of collectives: in milliseconds). Needs no GPU; takes about a minute.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import itertools
import math
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .attention import TREND_SHARE, block_area
from .families import COLLECTIVES
from .kriging import filled
from .matmul import MEMORY_SHARE
from .nccl import TABLE
from .specs import load_spec, spec_names
from .tables import FOLDER, packed

COMMIT = "095f58a51c4ca8e61b66ec108d86f223f8d559ce"
DATA = "aic-core/src/aiconfigurator_core/systems/data"


class Point(NamedTuple):
    """One measurement: table it belongs to, coordinates, microseconds."""

    table: str
    place: tuple[float, ...]
    us: float


GPUS = {
    "a100_sxm": ("sglang/0.5.10", "trtllm/1.0.0"),
    "h100_sxm": ("vllm/0.24.0",),
    "h200_sxm": ("vllm/0.24.0",),
    "b200_sxm": ("vllm/0.24.0",),
    "gb200": ("vllm/0.24.0",),
    "l40s": ("vllm/0.24.0",),
    "rtx_pro_6000_server": ("vllm/0.24.0",),
}
"""GPU -> whose measurements of it are taken (framework and version). Times of one kernel by two frameworks
differ by up to 7 %; a table holds one framework's."""

FRAMEWORKS = {"a100_sxm": {"bfloat16": "SGLang"}}
"""GPU -> type -> the framework, where several measured it."""

MATMULS = {
    "bfloat16": "bf16",
    "fp8": "fp8",
    "nvfp4": "nvfp4",
    "sq": "int8",
    "int8_wo": "int8_weight_only",
    "int4_wo": "int4_weight_only",
}
ATTENTION = ("fa2", "fa3", "fa4", "flash_attention")
LENGTHS = {"matmul": (2.0, 4.0, 8.0), "attention": (2.0, 2.0, 2.0)}
"""Kind -> how far along each axis, in logarithms, times resemble one another before a table says so."""

SHARE = {"matmul": 0.2, "attention": 0.5}
"""Kind -> what that weighs beside what the table says: a table of attention has fewer points. By leaving
points out."""

START_US = 4.0
"""Start of a kernel in the times that products are held against; no more than where the curve bends."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    for gpu in GPUS:
        arrays: dict[str, np.ndarray] = {}
        for name, points in grouped(measurements(options.source, gpu)).items():
            axes, values = grid(points)
            for number, axis in enumerate(axes):
                arrays[f"{name}.{number}"] = axis.astype(np.int32)
            arrays[f"{name}.us"] = packed(complete(gpu, name, axes, values))
        np.savez_compressed(options.out / f"{gpu}.npz", **arrays)  # type: ignore[arg-type]
    if any(options.source.glob("*-nccl.csv.gz")):
        collectives(options.source, options.out / TABLE.name)


def collectives(source: Path, out: Path) -> None:
    """The table of `diffprof.gpu.nccl`: gpu, op, GPUs, bytes, microseconds. Sizes are told in elements."""
    rows = []
    for gpu in GPUS:
        times: dict[tuple[str, int, int], list[float]] = defaultdict(list)
        with gzip.open(source / f"{gpu}-nccl.csv.gz", "rt", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["op_name"] in COLLECTIVES:
                    size = int(row["message_size"]) * {"half": 2, "int8": 1}[row["nccl_dtype"]]
                    place = row["op_name"], int(row["num_gpus"]), size
                    times[place].append(float(row["latency"]) * 1e3)
        for place, found in sorted(times.items()):
            rows.append(",".join(map(str, (gpu, *place, f"{np.mean(found):.4g}"))))
    out.write_text("\n".join(rows) + "\n", encoding="utf-8")


def grouped(points: Iterable[Point]) -> dict[str, dict[tuple[float, ...], float]]:
    """Table -> place -> mean of the logarithms of the times there."""
    found: dict[str, dict[tuple[float, ...], list[float]]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        found[point.table][point.place].append(float(np.log(point.us)))
    return {
        table: {place: float(np.mean(logs)) for place, logs in places.items()}
        for table, places in found.items()
    }


def grid(points: dict[tuple[float, ...], float]) -> tuple[list[np.ndarray], np.ndarray]:
    """(axes, values with NaN where nothing was measured)."""
    places = np.array(list(points))
    axes = [np.unique(column) for column in places.T]
    values = np.full([len(axis) for axis in axes], np.nan)
    index = [np.searchsorted(axis, column) for axis, column in zip(axes, places.T, strict=True)]
    values[tuple(index)] = list(points.values())
    return axes, values


def complete(gpu: str, name: str, axes: Sequence[np.ndarray], values: np.ndarray) -> np.ndarray:
    """The table without holes: what is filled in is the time over what physics says."""
    kind = name.partition(".")[0]
    physics = _physics(gpu, name, axes)
    logs = [np.log(axis) for axis in axes]
    return filled(values - physics, logs, LENGTHS[kind], SHARE[kind]) + physics


def _physics(gpu: str, name: str, axes: Sequence[np.ndarray]) -> np.ndarray:
    """Logarithms of the times of products by arithmetic and bytes, and of the part of attention's that goes
    in steps."""
    spec = next(sheet for sheet in map(load_spec, spec_names()) if sheet.tables == gpu)
    kind, _, held = name.partition(".")
    if kind == "attention":
        trend = block_area(spec)
        logs = [math.log(trend(*point)) for point in itertools.product(*(axis.tolist() for axis in axes))]
        return TREND_SHARE * np.array(logs).reshape([len(axis) for axis in axes])
    unit, width = UNITS.get(held, ("bf16", 2.0))
    rows, columns, depth = np.meshgrid(*axes, indexing="ij")
    arithmetic = 2e6 * rows * columns * depth / spec.sustained(unit)
    moved = (rows + columns) * depth * width + rows * columns * 2.0
    return np.log(np.hypot(arithmetic, moved / (spec.bytes_per_us * MEMORY_SHARE)) + START_US)


UNITS = {"fp8": ("fp8", 1.0), "int8": ("int8", 1.0), "nvfp4": ("fp4", 0.5)}
"""Table of products -> type of the units, bytes of an element."""


def measurements(source: Path, gpu: str) -> Iterator[Point]:
    """The points of one GPU that make tables."""
    for row in _rows(source, gpu, "gemm"):
        point = _matmul(gpu, row)
        if point is not None:
            yield point
    for row in _rows(source, gpu, "attention"):
        point = _attention(row)
        if point is not None:
            yield point


def _matmul(gpu: str, row: dict[str, Any]) -> Point | None:
    kind = MATMULS.get(row["gemm_dtype"])
    wanted = FRAMEWORKS.get(gpu, {}).get(row["gemm_dtype"])
    if kind is None or (wanted is not None and row["framework"] != wanted):
        return None
    place = (float(row["m"]), float(row["n"]), float(row["k"]))
    return Point(f"matmul.{kind}", place, float(row["us"]))


def _attention(row: dict[str, Any]) -> Point | None:
    """A point of a prefill or an encoder's attention: (sequences times heads, tokens, head size)."""
    source = row["kernel_source"]
    kernel = next((name for name in ATTENTION if source.endswith(name)), None)
    if kernel is None or int(row["head_dim"]) > 256:
        return None
    kernel = "fa2" if kernel == "flash_attention" else kernel
    causal = "causal_" if int(row["causal"]) else ""
    heads = float(row["batch_size"]) * float(row["num_heads"])
    return Point(
        f"attention.{causal}{kernel}", (heads, float(row["tokens"]), float(row["head_dim"])), float(row["us"])
    )


# --- where the rows come from ---------------------------------------------------------------------------


def _rows(source: Path, gpu: str, kind: str) -> Iterator[dict[str, Any]]:
    file = source / f"{gpu}-{kind}.csv.gz"
    if file.exists():
        with gzip.open(file, "rt", newline="") as text:
            yield from csv.DictReader(text)
        return
    for version in GPUS[gpu]:
        for folder, name, causal in _PARQUET[kind]:
            yield from _parquet(source, f"{DATA}/{gpu}/{folder}/{version}/{name}_perf.parquet", causal)


_PARQUET = {
    "gemm": (("gemm", "gemm", None),),
    "attention": (("attention", "context_attention", 1), ("encoder_attention", "encoder_attention", 0)),
}
"""Kind -> (folder, file, whether its attention is causal)."""


def _parquet(repository: Path, path: str, causal: int | None) -> Iterator[dict[str, object]]:
    """Rows of one file of the clone, read from its commit whatever is checked out; none where there is no
    such file."""
    shown = subprocess.run(
        ["git", "-C", repository, "show", f"{COMMIT}:{path}"], capture_output=True, check=False
    )
    if shown.returncode:
        return
    from pyarrow import parquet

    for row in parquet.read_table(io.BytesIO(shown.stdout)).to_pylist():
        if causal is not None and not _plain(row):
            continue
        yield {**row, "tokens": row.get("isl"), "causal": causal, "us": row["latency"] * 1e3}


def _plain(row: dict[str, object]) -> bool:
    """Attention with a key head for each query head, over a whole sequence, with a cache of the same type."""
    alike = row.get("num_key_value_heads", row["num_heads"]) == row["num_heads"]
    cached = row.get("kv_cache_dtype", row["attn_dtype"]) == row["attn_dtype"] == "bfloat16"
    return alike and cached and not row.get("step") and not row.get("window_size")


if __name__ == "__main__":
    main()
