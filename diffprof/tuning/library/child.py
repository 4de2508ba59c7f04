"""Run in a process of its own, which imports a copy of diffusers: what pipelines give there, and how often
they wait. A job comes as JSON on standard input, what was found goes to standard output as JSON.

    python -m diffprof.tuning.library.child < job.json
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffprof.model.pipeline import Pipeline

if TYPE_CHECKING:
    import torch

SWAPPED = "sdxl"
"""The pipeline of the corpus that is called with each scheduler that changed."""


def main() -> None:
    """Do the job of standard input."""
    answer = os.dup(1)
    os.dup2(2, 1)  # libraries print
    job = json.load(sys.stdin)
    found: dict[str, Any] = {"pipelines": {}, "target": None}
    for name, build in _cases(job):
        result = _ran(build, job["files"])
        if result is not None:
            found["pipelines"][name] = result
    if job["report"]:
        found["target"] = _scanned(Path(job["report"]))
    os.write(answer, json.dumps(found).encode())


def _cases(job: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    from diffprof.corpus import CASES

    for name, entry in CASES.items():
        if job["cases"] is None or name in job["cases"]:
            yield name, entry.build
    for scheduler in job["schedulers"]:
        yield f"{SWAPPED} with {scheduler}", lambda scheduler=scheduler: _with_scheduler(scheduler)


def _with_scheduler(name: str) -> object:
    import diffusers

    from diffprof.corpus import CASES
    from diffprof.targets.calls import swap_scheduler

    case = CASES[SWAPPED].build()
    swap_scheduler(case.pipe, name)
    case.pipe.scheduler = getattr(diffusers, name).from_config(case.pipe.scheduler.config)
    case.kwargs["num_inference_steps"] = 4
    return case


def _ran(build: Any, files: list[str]) -> dict[str, object] | None:
    """Output and waits of a pipeline that runs code of these files; None of another one."""
    import torch

    from diffprof.analyzers.syncs.probe import SyncObserver
    from diffprof.devices.simulated import observing, place, simulated_gpu
    from diffprof.targets.pipeline import PhaseTracker

    torch.set_num_threads(1)
    with simulated_gpu() as device:
        case = build()
        if not _uses(case.pipe, files):
            return None
        place(case.pipe, values="known")
        tracker = PhaseTracker()
        observer = SyncObserver(case.pipe, tracker)
        try:
            with observing(observer), tracker.watching(case.pipe), torch.no_grad():
                output = case.call(device)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}
        rows = [row for row in observer.sync_rows() if row.in_loop]
        return {
            "digest": [_digest(each) for each in output],
            "waits": sum(row.count for row in rows),
            "here": sum(row.count for row in rows if row.site.file in files),
        }


def _uses(pipe: Pipeline, files: list[str]) -> bool:
    """Whether the pipeline, or a component of it, is of a class that stands in one of the files."""
    for part in (pipe, *pipe.components.values()):
        for cls in type(part).__mro__:
            place = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
            if any(place.endswith(f"/{file}") for file in files):
                return True
    return False


def _digest(tensor: torch.Tensor) -> str:
    import torch

    data = tensor.contiguous()
    head = f"{data.dtype} {tuple(data.shape)}".encode()
    return hashlib.sha256(head + data.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def _scanned(file: Path) -> dict[str, Any]:
    """The target of a stored report, scanned again: waits in its loop, and its length, ms."""
    from diffprof.model.report import from_json
    from diffprof.scanning.scan import scan_target
    from diffprof.tuning.engine import rebuilt

    report = from_json(file.read_bytes())
    target, options = rebuilt(report)
    device = report.recording.device
    spec = device.spec if device.kind == "sim" else "sim"
    found = scan_target(target, device=spec, options=options, analyzers=("syncs", "kernels")).recording
    timing = found.timing.median if found.timing is not None else None
    return {
        "waits": sum(row.count for row in found.syncs or () if row.in_loop),
        "ms": None if timing is None else timing * 1e3,
    }


if __name__ == "__main__":
    main()
