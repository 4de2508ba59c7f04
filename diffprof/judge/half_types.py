"""Half-precision types: which one a pipeline is in, and which the device computes fast and its code takes."""

from __future__ import annotations

import re

from diffprof.model.recording import Recording, SetupPart, SyncRow

AS_IT_IS = re.compile(r"\.numpy\(")
CAST = re.compile(r"\.(?:float|half|double)\(|\.(?:to|type|type_as)\((?![\"']c)|dtype=")
"""On a line: a tensor becomes an array of NumPy, and takes a type of its own before."""


def half_types(recording: Recording) -> tuple[str, ...]:
    """Half-precision types that the device computes fast and the pipeline can run in, the safer one first."""
    fast = _fast_types(recording)
    return tuple(name for name in fast if name != "bfloat16") if as_numpy(recording) else fast


def _fast_types(recording: Recording) -> tuple[str, ...]:
    device = recording.device
    peaks = device.details.get("peak_tflops") or {}
    capability = str(device.details.get("capability", ""))
    if peaks:
        return tuple(name for short, name in (("bf16", "bfloat16"), ("fp16", "float16")) if short in peaks)
    if device.kind == "cuda" and capability[:1].isdigit() and int(capability.split(".")[0]) < 8:
        return ("float16",)
    return ("bfloat16",) if device.kind == "cpu" else ("bfloat16", "float16")


def as_numpy(recording: Recording) -> SyncRow | None:
    """Where what the models compute is copied to the host and made an array in its own type: NumPy has no
    bfloat16, and `.numpy()` raises on it. None where the recording shows no such line."""
    for row in recording.syncs or ():
        line = dict(row.site.excerpt).get(row.site.line, "")
        if row.kind != "device-to-host" or row.dtype not in ("float32", "float16"):
            continue
        if AS_IT_IS.search(line) and not CAST.search(line) and row.part != "scheduler":
            return row
    return None


def leaves_float16(recording: Recording) -> bool:
    """Whether the pipeline has to leave float16 for INT8: torchao rounds products to the type of the model
    before it scales them by the weights' steps, so that where a row's largest weight is 0.1 a result of 52 is
    infinite (int8_tensor.py, `y_dot_scaled`; diffusion-fast, issue 1)."""
    parts = recording.setup.parts if recording.setup else ()
    return any(part.role == "denoiser" and mainly(part) == "float16" for part in parts)


def is_float16_only(recording: Recording) -> bool:
    """Whether it has to, and neither the device nor its code takes bfloat16."""
    return leaves_float16(recording) and "bfloat16" not in half_types(recording)


def mainly(part: SetupPart) -> str | None:
    """The type of most of its weights."""
    return max(part.dtypes, key=lambda dtype: part.dtypes[dtype], default=None)
