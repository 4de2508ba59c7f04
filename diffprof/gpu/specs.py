"""GPU data sheets: peaks, memory, latencies. One file a GPU in `specs/`, each figure with its source."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from diffprof.model.errors import UsageError

from .calibration import calibrated
from .pricing import Origin

_FOLDER = Path(__file__).with_name("specs")

# Types without units of their own are computed in a wider one: (type, what it falls back to).
_FALLBACK = {"fp4": "fp8", "fp8": "bf16", "bf16": "fp32", "tf32": "fp32", "fp16": "fp32", "int8": "fp32"}

MEMORY_SHARE = 0.07
"""How far the memory that a driver reports may be from the sheet's: error correction and firmware keep up
to 6 %."""


@dataclass(frozen=True)
class GpuSpec:
    """One GPU. peak: 10^12 dense operations a second by type (fp32, tf32, fp16, bf16, int8, fp8, fp4)."""

    key: str
    name: str
    driver_names: tuple[str, ...]
    """What its driver calls it; parts of it (MIG), and boards that share its chip, have other names."""
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
    """Share of the tensor cores' peak that large matmuls hold over seconds; above one where a board's clock
    goes beyond the one that its peak is stated at."""
    achievable_fp32: float
    """The same of float32 without tensor cores."""
    clock_ghz: float
    """Of the processors, under load."""
    link_gb_s: float
    """Host link, one way."""
    pcie_peers: bool
    """Whether it reaches other GPUs through that link."""
    launch_latency_us: float
    """From the end of a launch call to the start of the kernel on an idle device."""
    sync_latency_us: float
    """From the end of the last kernel to the return of the waiting call."""
    tables: str | None = None
    """Kernel tables measured on this GPU (`diffprof.gpu.tables`)."""
    sibling: GpuSpec | None = None
    """The GPU of the same architecture whose tables are scaled to this one."""
    flash2: dict[int, float] = field(default_factory=dict)
    """10^12 operations a second of FlashAttention 2, by head size that heads are padded to."""
    efficient: dict[int, float] = field(default_factory=dict)
    """The same of the memory-efficient kernel."""
    ramp_us: float = 0.0
    """What an element-wise kernel of next to no elements takes longer than on an H100."""
    rates: dict[str, float] = field(default_factory=dict)
    """Elements a clock and processor as measured here, by name of `diffprof.gpu.pointwise.Addressing`."""
    convolution: float | None = None
    """Measured over modelled time of convolutions; None where none was measured here."""
    calibration: Path | None = None
    """Kernels measured on this machine (`diffprof.gpu.calibration`)."""
    measured_on: GpuSpec | None = None
    """The GPU of this architecture on which they were measured, where it is another one: what it is off from
    its model by holds here where there is no table."""
    sources: dict[str, str] = field(default_factory=dict)
    note: str = ""

    @cached_property
    def prices(self) -> dict[Any, Any]:
        """Kernels of operations that were costed on this GPU, by all that their costs depend on
        (`diffprof.gpu.cost`)."""
        return {}

    @property
    def measured(self) -> Origin:
        """Where times come from that its calibration says."""
        return Origin.MEASURED if self.measured_on is None else Origin.SIBLING

    @cached_property
    def uncalibrated(self) -> GpuSpec:
        """The same with kernels as they are modelled."""
        return replace(self, calibration=None, convolution=None)

    @property
    def memory_bytes(self) -> int:
        return int(self.capacity_gib * 1024**3)

    def flops(self, dtype: str) -> float:
        """Peak operations a second for a type; a type without units runs at the next wider one's speed."""
        return self.peak[self.runs_as(dtype)] * 1e12

    def runs_as(self, dtype: str) -> str:
        """The type whose units compute this one."""
        while dtype not in self.peak:
            dtype = _FALLBACK[dtype]
        return dtype

    def sustained(self, dtype: str) -> float:
        """Operations a second that large matmuls of a type hold."""
        share = self.achievable_fp32 if self.runs_as(dtype) == "fp32" else self.achievable
        return self.flops(dtype) * share

    def ceiling(self, dtype: str) -> float:
        """Operations a second that nothing exceeds: the peak, at the clock that the board really runs."""
        return max(self.flops(dtype), self.sustained(dtype))

    @property
    def half_rate(self) -> bool:
        """Whether tensor cores sum 16-bit products in 32 bits at half rate, as on GeForce boards."""
        return self.flops("fp16") < 768e9 * self.processors * self.clock_ghz

    @property
    def cycles_per_us(self) -> float:
        """Clocks of all processors together in a microsecond."""
        return self.processors * self.clock_ghz * 1e3

    @property
    def threads(self) -> int:
        """Threads that one processor holds [CUDA C++ programming guide, compute capabilities]."""
        if self.vendor != "nvidia" or self.capability in ((7, 0), (8, 0), (9, 0), (10, 0)):
            return 2048
        return 1024 if self.capability == (7, 5) else 1536

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
    """The data sheet of one GPU, by name (`a100-80gb`; `sim:` in front is accepted), with what was measured
    of it on this machine.

    Raises UsageError naming the nearest known ones.
    """
    return calibrated(shipped_spec(name))


def shipped_spec(name: str) -> GpuSpec:
    """The same as it is shipped."""
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
    return _sheet(key, tomllib.loads((_FOLDER / f"{key}.toml").read_text(encoding="utf-8")))


def _sheet(key: str, data: dict[str, Any]) -> GpuSpec:
    major, minor = data["capability"]
    chip, memory, link = data["chip"], data["memory"], data["host"]
    attention = data.get("attention", {})
    sibling = data.get("tables", {}).get("sibling")
    return GpuSpec(
        key=key,
        name=data["name"],
        driver_names=tuple(data["driver_names"]),
        vendor=data["vendor"],
        architecture=data["architecture"],
        capability=(major, minor),
        power_w=data["power_w"],
        peak=data["peak"],
        bandwidth_gb_s=memory["bandwidth_gb_s"],
        capacity_gib=memory["capacity_gib"],
        cache_mib=memory["cache_mib"],
        processors=chip["processors"],
        achievable=chip["achievable"],
        achievable_fp32=chip["achievable_fp32"],
        clock_ghz=chip["clock_ghz"],
        link_gb_s=link["link_gb_s"],
        pcie_peers=link.get("peers") == "pcie",
        launch_latency_us=link["launch_latency_us"],
        sync_latency_us=link["sync_latency_us"],
        tables=data.get("tables", {}).get("own"),
        sibling=load_spec(sibling) if sibling else None,
        flash2={int(size): rate for size, rate in attention.get("flash2", {}).items()},
        efficient={int(size): rate for size, rate in attention.get("efficient", {}).items()},
        ramp_us=chip.get("ramp_us", 0.0),
        rates=data.get("rates", {}),
        sources=data["sources"],
        note=data.get("note", ""),
    )


def spec_of_device(
    name: str, memory_bytes: int | None = None, processors: int | None = None
) -> GpuSpec | None:
    """The data sheet of a real device; None for one without a sheet, or for a part of a chip.

    name: as its driver gives it, word for word: `NVIDIA H100 PCIe` is no `NVIDIA H100 80GB HBM3`, and a
    laptop's chip or a MIG slice is none of them. memory_bytes, processors: what the driver says of them,
    where it is known; a device that has less than the sheet is not the sheet's.
    """
    wanted = " ".join(name.lower().split())
    for key in spec_names():
        spec = load_spec(key)
        if wanted not in (known.lower() for known in spec.driver_names):
            continue
        if memory_bytes is not None and abs(memory_bytes / spec.memory_bytes - 1.0) > MEMORY_SHARE:
            continue
        if processors is None or processors == spec.processors:
            return spec
    return None
