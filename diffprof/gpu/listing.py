"""The GPUs that can be simulated, as rows of a list."""

from __future__ import annotations

from .specs import GpuSpec, load_spec, spec_names
from .tables import table_names


def gpu_rows() -> list[dict[str, object]]:
    """One row a data sheet, by name: every figure, its source, and the tables it is priced from."""
    return [_row(load_spec(name)) for name in spec_names()]


def _row(spec: GpuSpec) -> dict[str, object]:
    return {
        "name": spec.key,
        "gpu": spec.name,
        "tflops": f"{_peak(spec, 'bf16')}, {_peak(spec, 'fp8')}",
        "memory": f"{spec.capacity_gib:.0f} GiB, {spec.bandwidth_gb_s:,.0f} GB/s",
        "kernels": _kernels(spec),
        "architecture": spec.architecture,
        "capability": ".".join(map(str, spec.capability)),
        "peak_tflops": dict(spec.peak),
        "sustained_share": spec.achievable,
        "memory_gib": spec.capacity_gib,
        "bandwidth_gb_s": spec.bandwidth_gb_s,
        "cache_mib": spec.cache_mib,
        "processors": spec.processors,
        "clock_ghz": spec.clock_ghz,
        "power_w": spec.power_w,
        "driver_names": list(spec.driver_names),
        "tables": list(table_names(spec.tables)) if spec.tables else [],
        "sibling": spec.sibling.key if spec.sibling else None,
        "sources": dict(spec.sources),
    }


def _peak(spec: GpuSpec, dtype: str) -> str:
    return f"{spec.peak[dtype]:,.0f}" if dtype in spec.peak else "none"


def _kernels(spec: GpuSpec) -> str:
    if spec.tables:
        return ", ".join(sorted({name.partition(".")[0] for name in table_names(spec.tables)}))
    return f"those of {spec.sibling.key}, scaled" if spec.sibling else "none: modelled"
