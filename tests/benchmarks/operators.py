"""Operators of real calls, with their shapes, strides and types, through the cost model: `ops-*.csv.gz`."""

from __future__ import annotations

import ast
import csv
import gzip
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from diffprof.gpu.cost import CostModel
from diffprof.gpu.families import family_of
from diffprof.gpu.mode import Mode
from diffprof.gpu.pricing import Origin
from diffprof.gpu.signatures import OTHER_IDS, OpSignature, TensorMeta
from diffprof.gpu.specs import load_spec

CALLS = {
    "h100-wan2.1-t2v-1.3b": "h100",
    "mi300-flux": "mi300x",
    "mi300-sd3.5": "mi300x",
    "mi300-hunyuanvideo": "mi300x",
}
"""File -> data sheet."""

START_US = 1.0
"""Of a kernel, which a profiler counts; the gap behind it, it does not."""

LONG_US = 20.0

TYPES = {
    "c10::BFloat16": torch.bfloat16,
    "c10::Half": torch.float16,
    "float": torch.float32,
    "double": torch.float64,
    "c10::complex<double>": torch.complex128,
    "c10::complex<float>": torch.complex64,
    "bool": torch.bool,
    "long int": torch.int64,
    "long": torch.int64,
    "int": torch.int32,
    "unsigned char": torch.uint8,
}
OTHERS_KERNELS = ("aiter", "ck_tile", "fmha", "triton", "xdit")
"""Parts of names of kernels that are not PyTorch's own."""


RESIZING = ("pad", "upsample", "interpolate")
"""Parts of names of operators whose result is of another size, which the files don't hold."""


class Operator(NamedTuple):
    """One distinct operator of a call: its kernels' time, and the model's, in microseconds."""

    family: str
    measured: float
    predicted: float
    calls: int


def operators(folder: Path, call: str) -> Iterator[Operator]:
    """Those that the model has a family for, of one file."""
    model = CostModel(load_spec(CALLS[call]), Mode())
    with gzip.open(folder / f"ops-{call}.csv.gz", "rt", newline="") as text:
        for row in csv.DictReader(text):
            signature = None if _is_others(row["kernels"]) else signature_of(row)
            if signature is None:
                continue
            kernels = model.kernels(signature)
            us = sum(
                each.device_us - model.fixed_us(False, Origin(each.origin)) + START_US for each in kernels
            )
            family = family_of(signature.name.partition("::")[2])
            yield Operator(family, float(row["us"]), us, int(row["calls"]))


def _is_others(kernels: str) -> bool:
    return any(name in kernels.lower() for name in OTHERS_KERNELS)


def signature_of(row: Mapping[str, str]) -> OpSignature | None:
    """The operation as the simulated device would tell it; None where its result can't be made out."""
    dims, types, strides = (ast.literal_eval(row[name]) for name in ("dims", "types", "strides"))
    if len(types) != len(dims) or len(strides) != len(dims):
        return None
    metas = [
        TensorMeta(torch.Size(shape), tuple(stride), TYPES[kind], 0, "sim")
        for shape, kind, stride in zip(dims, types, strides, strict=True)
        if kind in TYPES and _is_shape(shape) and len(shape) == len(stride) and shape and 0 not in shape
    ]
    base = row["op"].partition("::")[2]
    if not metas or "->" in base or row["category"] == "other":
        return None
    made = _made(base, metas, ast.literal_eval(row["inputs"]))
    if made is None:
        return None
    inputs, out, scalars = made
    return OpSignature(next(OTHER_IDS), f"aten::{base}", None, tuple(inputs), (out,), scalars)


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and all(isinstance(size, int) for size in shape)


Made = tuple[Sequence[TensorMeta], TensorMeta, dict[str, Any]]


def _made(base: str, metas: list[TensorMeta], given: Sequence[str]) -> Made | None:
    """(inputs, result, other arguments) of an operation."""
    first = metas[0]
    if "attention" in base:
        return metas[:3], first, {}
    if base in ("mm", "addmm", "bmm", "baddbmm"):
        a, b = metas[-2:]
        return metas, _dense((*a.shape[:-1], b.shape[-1]), a.dtype), {}
    if base == "convolution":
        return _convolution(metas, given)
    if base == "copy_":
        return metas[:2], first, {}
    if base == "cat":
        shape = (sum(each.numel for each in metas),)
        return metas, _dense(shape, first.dtype), {}
    if family_of(base) == "norm":
        return metas, _dense(first.shape, first.dtype), {}
    if family_of(base) == "reduction":
        return metas, _dense(_summed(first.shape, given), first.dtype), {}
    if family_of(base) == "pointwise" and not any(word in base for word in RESIZING):
        whole = _broadcast(metas[:2])
        if whole is None:
            return None
        likes = [torch.empty_strided(m.shape, m.stride, dtype=m.dtype, device="meta") for m in metas]
        full = next((each for each in likes if each.shape == whole), torch.empty(whole, device="meta"))
        result = torch.empty_like(full, dtype=torch.result_type(likes[0], likes[-1]))
        return metas, TensorMeta(result.shape, result.stride(), result.dtype, 0, "sim"), {}
    return None


def _summed(shape: Sequence[int], given: Sequence[str]) -> list[int]:
    """The shape without the dimensions that a reduction was given: the last one where it was given none."""
    lists = [text for text in given if text.startswith("[") and text != "[]"]
    gone = [axis % len(shape) for axis in ast.literal_eval(lists[0])] if lists else [len(shape) - 1]
    return [size for axis, size in enumerate(shape) if axis not in gone]


def _broadcast(metas: Sequence[TensorMeta]) -> torch.Size | None:
    try:
        return torch.Size(np.broadcast_shapes(*(m.shape for m in metas)))
    except ValueError:  # no elementwise operation
        return None


def _convolution(metas: list[TensorMeta], given: Sequence[str]) -> Made:
    x, weight = metas[:2]
    stride, padding, dilation = (ast.literal_eval(text) for text in given[3:6])
    transposed, groups = given[6] == "True", int(given[8])
    like = [torch.empty_strided(m.shape, m.stride, dtype=m.dtype, device="meta") for m in (x, weight)]
    extra = ast.literal_eval(given[7])
    out = torch.convolution(like[0], like[1], None, stride, padding, dilation, transposed, extra, groups)
    result = TensorMeta(out.shape, out.stride(), out.dtype, 0, "sim")
    return metas[:3], result, {"groups": groups, "transposed": transposed, "padding": tuple(padding)}


def _dense(shape: Sequence[int], dtype: torch.dtype) -> TensorMeta:
    like = torch.empty(tuple(shape), device="meta")
    return TensorMeta(like.shape, like.stride(), dtype, 0, "sim")


def summary(found: Sequence[Operator]) -> tuple[str, str, str, str, list[str]]:
    """(seconds, error of the sum, median and ninth decile over long operators, errors of the families that
    take a hundredth of the time)."""
    whole = sum(each.measured * each.calls for each in found)
    total = sum(each.predicted * each.calls for each in found)
    errors = [abs(each.predicted / each.measured - 1) for each in found if each.measured > LONG_US]
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for each in found:
        sums[each.family][0] += each.measured * each.calls
        sums[each.family][1] += each.predicted * each.calls
    families = [
        f"{family} {100 * (predicted / measured - 1):+.0f}%"
        for family, (measured, predicted) in sorted(sums.items(), key=lambda item: -item[1][0])
        if measured > 0.01 * whole
    ]
    return (
        f"{whole / 1e6:.2f}",
        f"{100 * (total / whole - 1):+.1f}%",
        f"{100 * np.median(errors):.1f}%",
        f"{100 * np.percentile(errors, 90):.1f}%",
        families,
    )
