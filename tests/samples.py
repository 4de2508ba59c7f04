"""The recorded runs in traces/samples. Run: python -m tests.samples [NAME ...]

Each is scanned anew, cut down to what a clone may carry, and stored under a name instead of a time. Measured
figures change with the machine, so only what is named is made again.
"""

from __future__ import annotations

import gzip
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from diffprof.chrome_trace.storing import SUFFIX
from diffprof.judge.figures import call_ms
from diffprof.judge.judging import judge_again
from diffprof.judge.registry import names
from diffprof.judge.timeline import total_us
from diffprof.model.ladder import Ladder, save_ladder
from diffprof.model.recording import GapRow, Grade, KernelRow, Recording
from diffprof.model.report import REPORT_FILE, Report

FOLDER = Path(__file__).parent.parent / "traces" / "samples"

DIGITS = 4
"""Significant digits of a stored figure."""

SMALLEST_SHARE = 0.001
"""Of device time: kernels below it lose their module and are summed up by name and phase."""

SHORTEST_GAP_US = 50.0
"""Shorter ones of the same cause, phase and step are summed up."""

SHORTEST_OP_US = 2.0
"""Shorter operators are left out of a stored trace."""

TRACED_ARGS = ("External id", "Input Dims", "Input type", "Addr", "Bytes", "Device Id", "Device Type",
               "Total Allocated", "Total Reserved")  # fmt: skip
"""Of a trace's events; the others are the profiler's own numbers."""


@dataclass(frozen=True)
class Sample:
    """How a run is made: the arguments of `diffprof scan`."""

    name: str
    target: str
    device: str
    options: dict[str, Any] = field(default_factory=dict)
    analyzers: tuple[str, ...] = ("syncs", "kernels", "setup")
    fixed: str = ""
    """Name of the run after its fixes; without one, none are tried."""


SDXL = {"scheduler": "DDIMScheduler", "steps": 3, "dtype": "bfloat16"}

SAMPLES = (
    Sample("sdxl-ddim-a100", "sdxl", "sim:a100-80gb", SDXL, names(), fixed="sdxl-ddim-a100-fixed"),
    Sample("sdxl-ddim-h100", "sdxl", "sim:h100", SDXL),
    Sample("tiny-sdxl-cpu", "tiny-sdxl", "cpu", {"steps": 3}),
)


def scanned(sample: Sample) -> tuple[Report, bytes | None]:
    """(the run, whole; the profiler's trace of it, cut down, where one was measured)."""
    from diffprof.scanning.scan import scan_target
    from diffprof.targets import Options

    with tempfile.TemporaryDirectory() as scratch:
        report = scan_target(
            sample.target,
            device=sample.device,
            options=Options(**sample.options),
            analyzers=sample.analyzers,
            trace_folder=Path(scratch),
        )
        profiled = next(Path(scratch).glob("*.json"), None)
        return report, trimmed_trace(profiled.read_bytes()) if profiled else None


def fixed(report: Report) -> tuple[Report, Report]:
    """(the report with what became of its fixes, the scan after them)."""
    from diffprof.tuning.engine import tune

    tuned = tune(report)
    assert tuned.after is not None
    return tuned.report, tuned.after


def climbed() -> Ladder:
    """The ladder of SDXL on a simulated A100."""
    from diffprof.devices import resolve_device
    from diffprof.targets import Options, resolve
    from diffprof.tuning.ladder import climb

    return climb(resolve("sdxl"), resolve_device("sim:a100-80gb"), Options())


def trimmed(report: Report) -> Report:
    """The report in a form that a clone can carry, judged from what is left."""
    recording = report.recording
    if recording.kernels is not None:
        recording = replace(recording, kernels=tuple(_folded(recording.kernels)))
    if recording.gaps is not None:
        recording = replace(recording, gaps=tuple(_summed(recording.gaps)))
    whole = replace(report, recording=recording, path=None)
    rounded = msgspec.convert(_rounded(msgspec.to_builtins(whole)), Report)
    return judge_again(replace(rounded, recording=_as_long_as_its_timeline(rounded.recording)))


def _as_long_as_its_timeline(recording: Recording) -> Recording:
    """A simulated call is its timeline, whose events were rounded each by itself."""
    timing, timeline = recording.timing, recording.timeline
    if timing is None or timing.grade is not Grade.SIMULATED or timeline is None:
        return recording
    seconds = round(total_us(timeline) / 1e6, 6)
    return replace(recording, timing=replace(timing, seconds=(seconds,), median=seconds))


def ending_with(report: Report, after: Report) -> Report:
    """The last fix that was kept leaves the call of the scan after it."""
    outcomes = list(report.outcomes or ())
    last = max(n for n, outcome in enumerate(outcomes) if outcome.stays)
    outcomes[last] = replace(outcomes[last], after_ms=call_ms(after.recording))
    return replace(report, outcomes=tuple(outcomes))


def trimmed_trace(data: bytes) -> bytes:
    """A trace of PyTorch's profiler in a form that a clone can carry, gzipped: tenths of microseconds since
    its beginning, without short operators and without names of the machine, its processes and addresses."""
    document = msgspec.json.decode(data)
    events = [event for event in document["traceEvents"] if "ts" in event]
    start = min(event["ts"] for event in events)
    numbers: dict[str, dict[Any, int]] = defaultdict(dict)

    def numbered(kind: str, value: Any) -> Any:
        return numbers[kind].setdefault(value, len(numbers[kind]) + 1) if isinstance(value, int) else value

    kept = []
    for event in events:
        if event.get("cat") == "cpu_op" and event["dur"] < SHORTEST_OP_US:
            continue
        first = event["ts"] - start
        event["ts"] = round(first, 1)
        if "dur" in event:
            event["dur"] = round(round(first + event["dur"], 1) - event["ts"], 1)
        for key in ("pid", "tid"):
            event[key] = numbered(key, event.get(key))
        if event["ph"] == "M" and isinstance(name := event["args"].get("name"), str):
            event["args"]["name"] = re.sub(r"\d+", lambda found: str(numbered("tid", int(found[0]))), name)
        elif "args" in event:
            event["args"] = {key: event["args"][key] for key in TRACED_ARGS if key in event["args"]}
            if "Addr" in event["args"]:
                event["args"]["Addr"] = numbered("Addr", event["args"]["Addr"])
        kept.append(event)
    whole = {key: document[key] for key in ("schemaVersion", "deviceProperties", "displayTimeUnit")}
    return gzip.compress(msgspec.json.encode({**whole, "traceEvents": kept}), 9, mtime=0)


def _summed(gaps: tuple[GapRow, ...]) -> list[GapRow]:
    kept = [gap for gap in gaps if gap.duration_us >= SHORTEST_GAP_US]
    short: dict[tuple[Any, ...], list[GapRow]] = defaultdict(list)
    for gap in gaps:
        if gap.duration_us < SHORTEST_GAP_US:
            short[gap.cause, gap.phase, gap.step].append(gap)
    for (cause, phase, step), group in short.items():
        kept.append(
            GapRow(
                cause=cause,
                start_us=group[0].start_us,
                duration_us=sum(gap.duration_us for gap in group),
                phase=phase,
                step=step,
                count=sum(gap.count for gap in group),
            )
        )
    return sorted(kept, key=lambda gap: gap.start_us)


def _folded(rows: tuple[KernelRow, ...]) -> list[KernelRow]:
    kept = [row for row in rows if row.share is None or row.share >= SMALLEST_SHARE]
    small: dict[tuple[str, ...], list[KernelRow]] = defaultdict(list)
    for row in rows:
        if row.share is not None and row.share < SMALLEST_SHARE:
            small[row.name, row.op, row.family, row.phase or ""].append(row)
    for (name, op, family, phase), group in small.items():
        kept.append(
            KernelRow(
                name=name,
                op=op,
                family=family,
                phase=phase or None,
                count=sum(row.count for row in group),
                device_us=sum(row.device_us for row in group),
                host_us=_sum(row.host_us for row in group),
                flops=_sum(row.flops for row in group),
                bytes=_sum(row.bytes for row in group),
                share=_sum(row.share for row in group),
            )
        )
    return sorted(kept, key=lambda row: -row.device_us)


def _sum(values: Any) -> float | None:
    found = list(values)
    return None if any(value is None for value in found) else sum(found)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def store(report: Report, folder: Path, trace: bytes | None = None) -> None:
    """Without indentation, which doubles the size."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if trace is not None:
        name = f"{folder.name}{SUFFIX}"
        (folder / name).write_bytes(trace)
        report = replace(report, recording=replace(report.recording, trace_file=name))
    (folder / REPORT_FILE).write_bytes(msgspec.json.encode(report) + b"\n")


def make(sample: Sample) -> None:
    report, trace = scanned(sample)
    if not sample.fixed:
        store(trimmed(report), FOLDER / sample.name, trace)
        return
    report, after = map(trimmed, fixed(report))
    store(after, FOLDER / sample.fixed)
    store(ending_with(replace(report, after=sample.fixed), after), FOLDER / sample.name, trace)


def make_ladder() -> None:
    ladder = msgspec.convert(_rounded(msgspec.to_builtins(climbed())), Ladder)
    (FOLDER / "sdxl-ladder-a100").mkdir(parents=True, exist_ok=True)
    save_ladder(ladder, FOLDER / "sdxl-ladder-a100")


NAMES = {*(sample.name for sample in SAMPLES), *(sample.fixed for sample in SAMPLES if sample.fixed)}
"""Of the reports; what is made together with another is not in MAKERS."""

MAKERS: dict[str, Callable[[], None]] = {
    **{sample.name: (lambda sample=sample: make(sample)) for sample in SAMPLES},
    "sdxl-ladder-a100": make_ladder,
}


def main(names: list[str]) -> None:
    for name in names or MAKERS:
        MAKERS[name]()
        size = sum(path.stat().st_size for path in (FOLDER / name).iterdir())
        print(f"{name}: {size / 1e3:,.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
