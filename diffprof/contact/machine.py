"""Part 1: what the machine is."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from diffprof.contact.parts import Place
from diffprof.contact.store import Work

PACKAGES = (
    *(
        "torch",
        "triton",
        "diffusers",
        "transformers",
        "accelerate",
        "peft",
        "torchao",
        "numpy",
        "safetensors",
    ),
    *("msgspec", "click", "libcst", "rich", "textual"),
)

ASKED = (
    *("name", "driver_version", "vbios_version", "memory.total", "power.limit", "power.max_limit"),
    *("clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem", "persistence_mode", "mig.mode.current"),
    *("temperature.gpu", "utilization.gpu", "pcie.link.gen.current", "pcie.link.width.current"),
)
"""Of nvidia-smi's --query-gpu."""


def items(place: Place) -> Iterator[tuple[str, Work]]:
    yield "device", lambda: _device(place)
    yield "driver", _driver
    yield "software", _software
    yield "profiler", lambda: _profiler(place)


def _device(place: Place) -> dict[str, Any]:
    import msgspec

    from diffprof.devices import resolve_device

    info = resolve_device(place.device).info()
    return {**msgspec.to_builtins(info), "simulated_beside": place.simulated, "processors": os.cpu_count()}


def _driver() -> dict[str, object]:
    """What nvidia-smi says of each GPU; nothing where it is not installed."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {"nvidia-smi": None}
    query = [tool, f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    rows = [[word.strip() for word in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
    return {"gpus": [dict(zip(ASKED, row, strict=False)) for row in rows]}


def _software() -> dict[str, object]:
    import torch

    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": found,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
    }


def _profiler(place: Place) -> dict[str, Any]:
    """Whether the profiler sees kernels (CUPTI may be missing, or kept from users by the driver)."""
    import torch
    from torch.profiler import profile

    from diffprof.chrome_trace.reader import read_trace
    from diffprof.devices import cuda_runtime, resolve_device

    device = resolve_device(place.device)
    runtime = cuda_runtime.RUNTIME
    with tempfile.TemporaryDirectory() as folder, device.active() as where:
        matrix = torch.ones(256, 256, device=where)
        activities = runtime.activities() if place.real else None
        with profile(activities=activities) as profiler:
            matrix @ matrix
            device.synchronize()
        file = Path(folder) / "trace.json"
        runtime.export_trace(profiler, file)
        trace = read_trace(file)
        works = len(trace.work) > 0 if place.real else None
        return {"works": works, "device_work": len(trace.work), "host_calls": len(trace.calls)}
