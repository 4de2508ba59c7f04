"""Device time by kernel, op, shape, module and phase."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import msgspec
import numpy as np

from diffprof.chrome_trace.events import EventTable, Trace, kernel_family
from diffprof.chrome_trace.links import Links
from diffprof.chrome_trace.phases import Phases
from diffprof.model.recording import KernelKind, KernelRow

DTYPES = {
    "float": "float32",
    "double": "float64",
    "c10::Half": "float16",
    "c10::BFloat16": "bfloat16",
    "c10::Float8_e4m3fn": "float8_e4m3fn",
    "c10::Float8_e5m2": "float8_e5m2",
    "long": "int64",
    "long int": "int64",
    "int": "int32",
    "signed char": "int8",
    "unsigned char": "uint8",
    "bool": "bool",
    "c10::complex<float>": "complex64",
}
_NO_DTYPE = ("", "Scalar", "ScalarList", "TensorList", "GenericList", "Device")


@dataclass
class Kinds:
    """Distinct device operations. of_work: index for each piece of device work."""

    kinds: tuple[KernelKind, ...]
    of_work: np.ndarray


@functools.lru_cache(maxsize=4096)
def shape_text(shapes: bytes) -> str:
    """`Input Dims` of an op as text: `2x4096x640, 640x640`; "" if not recorded or none."""
    try:
        dims = msgspec.json.decode(shapes) if shapes else []
    except msgspec.DecodeError:
        return ""
    if not isinstance(dims, list):
        return ""
    flat = [d for d in dims if isinstance(d, list) and d and all(isinstance(n, int) for n in d)]
    return ", ".join("x".join(map(str, each)) for each in flat)


@functools.lru_cache(maxsize=4096)
def dtype_text(dtypes: bytes) -> str:
    """The first tensor type of `Input type`, by PyTorch's Python name; "" if none."""
    try:
        names = msgspec.json.decode(dtypes) if dtypes else []
    except msgspec.DecodeError:
        return ""
    for name in names if isinstance(names, list) else ():
        if isinstance(name, str) and name not in _NO_DTYPE:
            return DTYPES.get(name, name.removeprefix("c10::"))
    return ""


def find_kinds(trace: Trace, links: Links) -> Kinds:
    """Group device work by kernel name, op and the op's shapes."""
    work, ops = trace.work, trace.ops
    op = links.op_of_work
    has = op >= 0
    safe = np.maximum(op, 0)
    op_name = np.where(has, ops.name[safe], -1) if len(ops) else np.full(len(work), -1)
    detail = np.where(has, ops.detail[safe], -1) if len(ops) else np.full(len(work), -1)
    keys = np.stack([work.name.astype(np.int64), op_name, detail], axis=1)
    unique, of_work = np.unique(keys, axis=0, return_inverse=True)
    of_work = of_work.reshape(-1)
    table: np.ndarray = np.zeros(len(unique), np.int8)
    table[of_work] = work.table
    means = np.bincount(of_work, work.dur, len(unique)) / np.maximum(
        1, np.bincount(of_work, minlength=len(unique))
    )
    kinds = tuple(
        _kind(trace, name, code, detail, int(kind), mean)
        for (name, code, detail), kind, mean in zip(unique.tolist(), table, means.tolist(), strict=True)
    )
    return Kinds(kinds, of_work)


def _kind(trace: Trace, name: int, op: int, detail: int, table: int, mean: float) -> KernelKind:
    op_name = trace.names[op] if op >= 0 else ""
    kernel = short_name(trace.names[name])
    family = {EventTable.COPY: "copy", EventTable.SET: "memset"}.get(EventTable(table))
    return KernelKind(
        name=kernel,
        op=op_name,
        family=family or kernel_family(trace.names[name], op_name),
        shape=shape_text(trace.details[detail].shapes) if detail >= 0 else "",
        dtype=dtype_text(trace.details[detail].dtypes) if detail >= 0 else "",
        device_us=round(mean, 3),
    )


_NAMESPACES = re.compile(
    r"\b(?:at::native::|at::|c10::|std::|cuda::|\(anonymous namespace\)::|\{lambda.*?\}::)"
)


@functools.lru_cache(maxsize=4096)
def short_name(name: str) -> str:
    """A kernel's name without `void`, namespaces and the argument list."""
    if name.startswith(("Memcpy", "Memset")):
        return name
    text = _NAMESPACES.sub("", name.removeprefix("void "))
    depth = 0
    for at, char in enumerate(text):
        depth += {"<": 1, ">": -1}.get(char, 0)
        if char == "(" and depth == 0 and at:
            return text[:at].strip()
    return text.strip()


def kernel_rows(trace: Trace, links: Links, phases: Phases, kinds: Kinds) -> tuple[KernelRow, ...]:
    """One row per kind, module and phase, heaviest first."""
    work = trace.work
    if not len(work):
        return ()
    modules, module_of_call = links.modules
    call = links.call_of_work
    module = _per_call(module_of_call, call, 0)
    phase_names, phase = _phase_codes(trace, links, phases)
    unique, group = np.unique(np.stack([kinds.of_work, module, phase], axis=1), axis=0, return_inverse=True)
    group = group.reshape(-1)
    counts = np.bincount(group, minlength=len(unique))
    device = np.bincount(group, work.dur, len(unique))
    host = np.bincount(group, _per_call(trace.calls.dur, call, 0.0), len(unique))
    whole = float(device.sum())
    rows = [
        KernelRow(
            name=(kind := kinds.kinds[kind_index]).name,
            op=kind.op,
            family=kind.family,
            module=modules[module_index] or None,
            phase=phase_names[phase_index],
            count=int(counts[i]),
            device_us=round(float(device[i]), 3),
            host_us=round(float(host[i]), 3),
            shape=kind.shape,
            dtype=kind.dtype,
            share=float(device[i]) / whole if whole else None,
        )
        for i, (kind_index, module_index, phase_index) in enumerate(unique.tolist())
    ]
    return tuple(sorted(rows, key=lambda row: (-row.device_us, row.name, row.module or "")))


def host_rows(trace: Trace, links: Links, phases: Phases) -> tuple[KernelRow, ...]:
    """The ops of a CPU run as its kernels: each op's own time, without that of the ops it calls."""
    ops = trace.ops
    parent = links.op_nest.parent
    own = ops.dur - np.bincount(parent[parent >= 0], ops.dur[parent >= 0], len(ops))
    own = np.maximum(own, 0.0)
    found = phases.at(ops.ts)
    names = [phases.spans[index][2].name if index >= 0 else None for index in found.tolist()]
    codes = {name: code for code, name in enumerate(dict.fromkeys(names))}
    phase = np.array([codes[name] for name in names], dtype=np.int64)
    modules, module = links.modules_of(ops)
    keys = np.stack([ops.name.astype(np.int64), ops.detail, module, phase], axis=1)
    unique, group = np.unique(keys, axis=0, return_inverse=True)
    group = group.reshape(-1)
    counts = np.bincount(group, minlength=len(unique))
    time = np.bincount(group, own, len(unique))
    whole = float(time.sum())
    back = list(codes)
    rows = [
        KernelRow(
            name=trace.names[name],
            op=trace.names[name],
            family=kernel_family("", trace.names[name]),
            module=modules[module_index] or None,
            phase=back[code],
            count=int(counts[i]),
            device_us=round(float(time[i]), 3),
            shape=shape_text(trace.details[detail].shapes),
            dtype=dtype_text(trace.details[detail].dtypes),
            share=float(time[i]) / whole if whole else None,
        )
        for i, (name, detail, module_index, code) in enumerate(unique.tolist())
    ]
    return tuple(sorted(rows, key=lambda row: (-row.device_us, row.name, row.module or "")))


def _per_call(values: np.ndarray, call: np.ndarray, default: float) -> np.ndarray:
    if not len(values):
        return np.full(len(call), default)
    return np.where(call >= 0, values[np.maximum(call, 0)], default)


def _phase_codes(trace: Trace, links: Links, phases: Phases) -> tuple[list[str | None], np.ndarray]:
    """(names, for each piece of device work the index): the phase in which it was launched."""
    call = links.call_of_work
    launched = _per_call(trace.calls.ts, call, -np.inf)
    found = np.where(call >= 0, phases.at(launched), -1)
    names: list[str | None] = [None]
    codes = {None: 0}
    of_span: np.ndarray = np.zeros(len(phases.spans) + 1, dtype=np.int64)
    for index, (_, _, phase) in enumerate(phases.spans):
        if phase.name not in codes:
            codes[phase.name] = len(names)  # type: ignore[index]
            names.append(phase.name)
        of_span[index] = codes[phase.name]  # type: ignore[index]
    return names, of_span[found]
