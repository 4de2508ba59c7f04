"""From a trace that someone recorded elsewhere to a report."""

from __future__ import annotations

import datetime
import platform
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from diffprof import __version__
from diffprof.chrome_trace.embedded_recording import recording_in
from diffprof.chrome_trace.events import ACCELERATORS, Trace, accelerator_of
from diffprof.chrome_trace.memory_snapshot import is_snapshot, read_snapshot
from diffprof.chrome_trace.nsight import read_any
from diffprof.chrome_trace.reader import STOPPED
from diffprof.chrome_trace.sections import Sections, device_property, memory_of, sections_of
from diffprof.gpu.specs import spec_of_device
from diffprof.model.recording import INTERRUPTED, DeviceInfo, Environment, Recording, TargetInfo

if TYPE_CHECKING:
    from diffprof.model.report import Report

_PIPELINE_FRAME = re.compile(r"(?:^|/)pipelines/.*?(pipeline_\w+)\.py\(\d+\): __call__$")


def import_trace(
    path: str | Path,
    *,
    progress: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Report:
    """A report on a Kineto trace (`.json`, `.json.gz`); needs no torch.

    progress: called with the bytes of JSON read so far. stop: asked now and then; once true, the report is on
    what was read until then, and partial.
    Raises UsageError for a file that is no trace of PyTorch's profiler.
    """
    from diffprof.judge.judging import make_report

    return make_report(record_trace(path, progress=progress, stop=stop))


def record_trace(
    path: str | Path,
    *,
    progress: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Recording:
    """The trace's evidence as a recording; of a scan's own trace, the recording that it carries."""
    if Path(path).is_file() and is_snapshot(Path(path)):
        return record_snapshot(Path(path))
    started = time.perf_counter()
    trace = read_any(path, progress=progress, stop=stop)
    read = time.perf_counter()
    sections = sections_of(trace)
    done = time.perf_counter()
    seconds = {"read": round(read - started, 3), "analyse": round(done - read, 3)}
    return recording_of(trace, sections, seconds)


def recording_of(trace: Trace, sections: Sections, seconds: dict[str, float]) -> Recording:
    """A trace that was read, with its sections, as a recording; the one that it carries, if it does."""
    carried, unread = recording_in(trace.meta, sections.kernels)
    if carried is not None:
        return carried
    return Recording(
        target=_target(trace, sections),
        device=_device(trace, sections),
        environment=Environment(
            diffprof=__version__, python=platform.python_version(), packages={}, platform=platform.platform()
        ),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=seconds,
        ops=len(trace.work) or len(trace.ops),
        partial=bool(trace.truncated),
        failure=_failure(trace),
        syncs=sections.syncs,
        unseen=(*sections.unseen, *unread),
        timing=sections.timing,
        timeline=sections.timeline,
        kernels=sections.kernels,
        gaps=sections.gaps,
        memory=sections.memory,
    )


def record_snapshot(path: Path) -> Recording:
    """The evidence of a memory snapshot (`torch.cuda.memory._dump_snapshot`): memory alone.

    Raises UsageError for a file that is none.
    """
    started = time.perf_counter()
    memory = read_snapshot(path)
    return Recording(
        target=TargetInfo(spec=path.name, kind="trace", pipeline="unknown"),
        device=DeviceInfo(spec="snapshot", kind="cuda", name="GPU of a memory snapshot", grade=memory.grade),
        environment=Environment(
            diffprof=__version__, python=platform.python_version(), packages={}, platform=platform.platform()
        ),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds={"read": round(time.perf_counter() - started, 3)},
        memory=memory,
    )


def _failure(trace: Trace) -> str | None:
    if trace.truncated == STOPPED:
        return INTERRUPTED
    return f"The trace is cut short: {trace.truncated}." if trace.truncated else None


def _target(trace: Trace, sections: Sections) -> TargetInfo:
    pipeline = next((m.group(1) for name in trace.names if (m := _PIPELINE_FRAME.search(name))), "")
    marker = trace.meta.get("diffprof")
    if isinstance(marker, dict) and isinstance(marker.get("target"), str):
        pipeline = marker["target"]
    return TargetInfo(
        spec=trace.path.name,
        kind="trace",
        pipeline=pipeline,
        steps=sections.phases.steps or None,
    )


def _accelerator(trace: Trace) -> str | None:
    """What kind of device worked, by the categories of its calls and work: cuda, hip, xpu, mtia, ...; what
    nobody named yet goes by its own word. None: nothing but the CPU is in the trace."""
    found = Counter(
        {name: count for category, count in trace.categories.items() if (name := accelerator_of(category))}
    )
    if any(trace.names[name].startswith("hip") for name in set(trace.calls.name.tolist())):
        return "hip"
    if found:
        return found.most_common(1)[0][0]
    return "cuda" if len(trace.calls) or len(trace.work) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _device(trace: Trace, sections: Sections) -> DeviceInfo:
    device = sections.device
    accelerator = _accelerator(trace)
    runtime = ACCELERATORS.get(accelerator or "", accelerator or "")
    # HIP's devices are PyTorch's "cuda".
    kind = {"hip": "cuda", None: "cpu"}.get(accelerator, accelerator or "cpu")
    if device is None:
        name = "no GPU events" if kind in ("cuda", "cpu") else f"{runtime}, without events of the device"
        return DeviceInfo(spec="trace", kind=kind, name=name, grade=sections.grade)
    told = device_property(trace, device, "name")
    memory = memory_of(trace, device)
    label = trace.labels.get(device)
    unnamed = f"device {device}" if kind == "cuda" else f"{runtime} device {device}"
    details: dict[str, object] = {"runtime": runtime, "events": trace.events}
    for key in ("computeMajor", "computeMinor", "numSms"):
        if (value := device_property(trace, device, key)) is not None:
            details[key] = value
    sheet = spec_of_device(str(told or ""), memory, _whole(details.get("numSms")))
    if sheet is not None:
        details["peak_tflops"] = dict(sheet.peak)
        details["bandwidth_gb_s"] = sheet.bandwidth_gb_s
    if sections.window_us is not None and sections.busy_us is not None:
        details["window_us"] = round(sections.window_us, 3)
        details["busy_us"] = round(sections.busy_us, 3)
    return DeviceInfo(
        spec="trace",
        kind="sim" if trace.simulated else kind,
        name=str(told or label or unnamed),
        grade=sections.grade,
        memory_bytes=memory,
        details=details,
    )
