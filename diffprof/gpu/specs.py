"""GPU data sheets: peaks, memory, latencies. One file a GPU in `specs/`, each figure with its source."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from diffprof.model.errors import UsageError

_FOLDER = Path(__file__).with_name("specs")

# Types without units of their own are computed in a wider one: (type, what it falls back to).
_FALLBACK = {"fp8": "bf16", "bf16": "fp32", "tf32": "fp32", "fp16": "fp32", "int8": "fp32"}


@dataclass(frozen=True)
class GpuSpec:
    """One GPU. peak: 10^12 dense operations a second by type (fp32, tf32, fp16, bf16, int8, fp8)."""

    key: str
    name: str
    vendor: str
    architecture: str
    capability: tuple[int, int]
    power_w: float
    peak: dict[str, float]
    bandwidth_gb_s: float
    capacity_gib: float
    cache_mib: float
    """The last cache before memory."""
    processors: int
    """Streaming multiprocessors, or compute units."""
    achievable: float
    """Share of the peak that the best large matmuls reach."""
    link_gb_s: float
    """Host link, one way."""
    launch_latency_us: float
    """From the end of a launch call to the start of the kernel on an idle device."""
    sync_latency_us: float
    """From the end of the last kernel to the return of the waiting call."""
    host_op_us: float
    """Host time to issue one eager operation: Python, dispatch, launch."""
    host_module_us: float
    """Host time of one module call around it."""
    sources: dict[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def memory_bytes(self) -> int:
        return int(self.capacity_gib * 1024**3)

    def flops(self, dtype: str) -> float:
        """Peak operations a second for a type; a type without units runs at the next wider one's speed."""
        while dtype not in self.peak:
            dtype = _FALLBACK[dtype]
        return self.peak[dtype] * 1e12

    @property
    def bytes_per_us(self) -> float:
        return self.bandwidth_gb_s * 1e3

    @property
    def link_bytes_per_us(self) -> float:
        return self.link_gb_s * 1e3


def spec_names() -> tuple[str, ...]:
    """Names that `sim:NAME` accepts."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.toml")))


@cache
def load_spec(name: str) -> GpuSpec:
    """The data sheet of one GPU, by name (`a100-80gb`; `sim:` in front is accepted).

    Raises UsageError naming the nearest known ones.
    """
    key = name.strip().lower().removeprefix("sim:")
    names = spec_names()
    if key not in names:
        squeezed = key.replace("-", "").replace("_", "").replace(" ", "")
        near = [n for n in names if n.replace("-", "").startswith(squeezed)] if squeezed else []
        near = near or get_close_matches(key, names, n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join('sim:' + n for n in near)}? " if near else ""
        raise UsageError(
            f"There is no simulated GPU {key!r}.",
            f"{hint}Known ones: {', '.join(names)}.",
        )
    data = tomllib.loads((_FOLDER / f"{key}.toml").read_text(encoding="utf-8"))
    major, minor = data["capability"]
    return GpuSpec(
        key=key,
        name=data["name"],
        vendor=data["vendor"],
        architecture=data["architecture"],
        capability=(major, minor),
        power_w=data["power_w"],
        peak=data["peak"],
        bandwidth_gb_s=data["memory"]["bandwidth_gb_s"],
        capacity_gib=data["memory"]["capacity_gib"],
        cache_mib=data["memory"]["cache_mib"],
        processors=data["chip"]["processors"],
        achievable=data["chip"]["achievable"],
        link_gb_s=data["host"]["link_gb_s"],
        launch_latency_us=data["host"]["launch_latency_us"],
        sync_latency_us=data["host"]["sync_latency_us"],
        host_op_us=data["host"]["op_us"],
        host_module_us=data["host"]["module_us"],
        sources=data["sources"],
        note=data.get("note", ""),
    )


def spec_of_device(name: str, memory_bytes: int | None = None) -> GpuSpec | None:
    """The data sheet of a real device, by the name that its driver gives it; None for one without a sheet.

    memory_bytes: tells variants of one chip apart.
    """
    words = re.findall(r"[a-z]+\d+[a-z]*|\d+", name.lower())
    found = []
    for key in spec_names():
        chip = re.sub(r"^rtx", "", key.partition("-")[0])
        if chip in words and (not key.startswith("rtx") or "rtx" in name.lower()):
            found.append(load_spec(key))
    if memory_bytes is None:
        return found[0] if found else None
    return min(found, key=lambda spec: abs(spec.memory_bytes - memory_bytes), default=None)
