"""What a run's event files say: scalars, texts, pictures, histograms, and a row of hparams for each fix.

Every tag names the grade of its figures, so that measured and simulated ones never share a curve. A figure
that nobody measured has no point.
"""

from __future__ import annotations

import datetime
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diffprof.judge.figures import device_busy
from diffprof.judge.plan import make_plan
from diffprof.judge.steps import steps_of
from diffprof.judge.timeline import Replay, replay
from diffprof.model.fix import Outcome, Plan, PlanStep
from diffprof.model.ladder import Ladder
from diffprof.model.recording import Recording, Timeline
from diffprof.model.report import Report, slug
from diffprof.views.markdown_text import prose
from diffprof.views.tensorboard import picture, texts
from diffprof.views.tensorboard.event_file import EventFile, Value
from diffprof.views.tensorboard.picture import Picture

BUCKETS = 40
"""Of a histogram, each as much wider than the last as the durations need."""


@dataclass(frozen=True)
class RunContents:
    """All that is known of a run. after: the scan after its fixes. pictures: what the pipeline made, by when:
    before, after."""

    report: Report
    ladder: Ladder | None = None
    after: Report | None = None
    pictures: Mapping[str, Picture] = field(default_factory=dict)


def event_files(run: RunContents) -> dict[str, bytes]:
    """Folder below the run's, `` for its own -> content of the event file there; each other pipeline of a
    script has a folder with its own below."""
    files = _event_files(run)
    for number, (name, each) in enumerate(zip(run.report.names, run.report.alone, strict=True), 1):
        if number > 1:
            own = _event_files(RunContents(each))
            files |= {f"{number}-{slug(name)}/{below}".rstrip("/"): data for below, data in own.items()}
    return files


def _event_files(run: RunContents) -> dict[str, bytes]:
    """Of the first pipeline."""
    recording = run.report.recording
    at = _seconds(recording.created)
    main = EventFile(at)
    plan = run.report.plan or make_plan(run.report)
    texts.write(main, run.report, plan, run.ladder)
    _call(main, recording)
    if recording.timeline is not None and recording.timeline.host_us:
        played = replay(recording.timeline)
        _steps(main, recording, recording.timeline, played)
        _durations(main, recording.timeline)
        _timelines(main, recording, played, 0)
    later = run.after.recording if run.after is not None else None
    if later is not None and later.timeline is not None and later.timeline.host_us:
        _timelines(main, later, replay(later.timeline), 1)
    where = next((o.difference.compared_on for o in run.report.outcomes or () if o.difference), "")
    for step, when in enumerate(("before", "after")):
        if when in run.pictures:
            about = prose(f"{when} the fixes" + (f", on {where}" if where else ""))
            main.image("output", run.pictures[when].png, run.pictures[when].size, step, about=about)
    if run.ladder is not None:
        _ladder(main, run.ladder)
    files = {}
    if run.report.outcomes:
        _outcomes(main, run.report.outcomes)
        files.update(_rows(main, at, recording, [_tried(each) for each in run.report.outcomes]))
    elif plan.steps:
        _plan(main, plan)
        files.update(_rows(main, at, recording, [_planned(each, plan.before_ms) for each in plan.listed]))
    return {"": main.data(), **files}


def ladder_file(ladder: Ladder, at: float) -> bytes:
    """The event file of a ladder that stands alone. at: when it was climbed, seconds since 1970."""
    file = EventFile(float(int(at)))
    file.text("report/5 ladder", texts.ladder_text(ladder))
    _ladder(file, ladder)
    return file.data()


def _seconds(created: str) -> float:
    try:
        return datetime.datetime.fromisoformat(created).timestamp()
    except ValueError:
        return 0.0


# --- scalars -------------------------------------------------------------------------------------------


def _call(file: EventFile, recording: Recording) -> None:
    if timing := recording.timing:
        for number, seconds in enumerate(timing.seconds):
            file.scalar(f"call ({timing.grade})/time of each pass, s", seconds, number)
        if (busy := device_busy(recording)) is not None:
            file.scalar(f"call ({timing.grade})/device busy, %", busy * 100)
    if (memory := recording.memory) and memory.peak_bytes is not None:
        file.scalar(f"call ({memory.grade})/peak memory, GiB", memory.peak_bytes / 2**30)


def _steps(file: EventFile, recording: Recording, timeline: Timeline, run: Replay) -> None:
    """One point a denoising step."""
    group = f"denoising steps ({timeline.grade})"
    spans = steps_of(timeline)
    for number, (first, last) in enumerate(spans):
        if last <= first:
            continue
        events = range(first, last)
        waited = sum(run.host_end[i] - run.wait_start[i] for i in events if run.wait_start[i] >= 0.0)
        figures = {
            "host time, ms": (run.host_end[last - 1] - run.host_start[first]) / 1e3,
            "device time, ms": sum(timeline.device_us[first:last]) / 1e3,
            "CPU blocked, ms": waited / 1e3,
            "device operations": sum(1 for i in events if timeline.device_us[i] > 0.0),
        }
        for name, value in figures.items():
            file.scalar(f"{group}/{name}", value, number)
    looped = [row for row in recording.syncs or () if row.in_loop]
    if recording.syncs is not None:
        for number in range(len(spans)):
            count = sum(row.by_step[number] for row in looped if number < len(row.by_step))
            file.scalar(f"{group}/blocking operations", count, number)
    if recording.memory is not None:
        for number, live in enumerate(recording.memory.by_step[: len(spans)]):
            file.scalar(
                f"denoising steps ({recording.memory.grade})/memory at the end, GiB", live / 2**30, number
            )


def _ladder(file: EventFile, ladder: Ladder) -> None:
    """One point a rung."""
    names = ", ".join(f"{number} {rung.title}" for number, rung in enumerate(ladder.rungs))
    about = f"{prose(ladder.target)} on {prose(ladder.device)}: {prose(names)}"
    for number, rung in enumerate(ladder.rungs):
        figures = {
            f"ladder ({rung.grade})/time of a call, s": rung.seconds,
            "ladder (published)/time of a call, s": rung.published_seconds,
            f"ladder ({rung.grade})/peak memory, GiB": rung.memory_gb,
            "ladder (published)/peak memory, GiB": rung.published_memory_gb,
        }
        for tag, value in figures.items():
            if value is not None:
                file.scalar(tag, value, number, about=about)


def _outcomes(file: EventFile, outcomes: Sequence[Outcome]) -> None:
    """The call after each fix that was kept: a curve that goes down. Step 0 is before the first."""
    kept = [each for each in outcomes if each.stays]
    tag = "fixes ({})/time of a call, ms"
    for number, each in enumerate(kept):
        if number == 0 and each.before_ms is not None:
            file.scalar(tag.format(each.grade), each.before_ms, 0, about="step 0: before the first fix")
        if each.after_ms is not None:
            file.scalar(tag.format(each.grade), each.after_ms, number + 1)
        for when, count in ((number, each.in_loop_before), (number + 1, each.in_loop_after)):
            if count is not None and (when > 0 or number == 0):
                file.scalar("fixes/blocking operations in the loop", count, when)
        if each.memory_after_bytes is not None:
            file.scalar("fixes/peak memory, GiB", each.memory_after_bytes / 2**30, number + 1)


def _plan(file: EventFile, plan: Plan) -> None:
    """What the selected fixes are expected to save, each alone."""
    for number, step in enumerate(step for step in plan.steps if step.selected):
        if step.saves_ms is not None:
            file.scalar(f"fixes planned ({step.grade})/saves alone, ms", step.saves_ms, number)


# --- histograms and pictures ---------------------------------------------------------------------------


def _durations(file: EventFile, timeline: Timeline) -> None:
    """Device times by family, over the call."""
    found: dict[str, list[float]] = defaultdict(list)
    for kind, duration in zip(timeline.kind, timeline.device_us, strict=True):
        if kind >= 0 and duration > 0.0:
            found[timeline.kinds[kind].family].append(duration)
    for family, durations in sorted(found.items()):
        file.histogram(f"kernel durations, us ({timeline.grade})/{family}", buckets(durations))


def buckets(values: Sequence[float]) -> list[tuple[float, float, float]]:
    """(left, right, count), edges in geometric progression: kernels last from one to a million microseconds.

    values: positive.
    """
    low, high = min(values), max(values)
    if high <= low * 1.000001:
        return [(low * 0.99, low * 1.01, float(len(values)))]
    ratio = (high / low) ** (1 / BUCKETS)
    counts = [0] * BUCKETS
    for value in values:
        counts[min(BUCKETS - 1, int(math.log(value / low) / math.log(ratio)))] += 1
    edges = [low * ratio**n for n in range(BUCKETS)] + [high]
    return [(edges[n], edges[n + 1], float(count)) for n, count in enumerate(counts)]


def _timelines(file: EventFile, recording: Recording, run: Replay, number: int) -> None:
    about = "before the fixes" if number == 0 else "after the fixes"
    call = picture.call_picture(recording, run)
    file.image("timeline/call", call.png, call.size, number, about=about)
    step = picture.step_picture(recording, run)
    if step is not None:
        file.image("timeline/denoising step", step.png, step.size, number, about=about)


# --- hparams -------------------------------------------------------------------------------------------

METRICS = {
    "fix/before, ms": "before, ms",
    "fix/after, ms": "after, ms",
    "fix/largest difference of the output": "largest difference",
    "fix/waits in the loop before": "waits in loop before",
    "fix/waits in the loop after": "waits in loop after",
    "fix/saves, ms": "saves, ms",
    "fix/memory before, GiB": "memory before, GiB",
    "fix/memory after, GiB": "memory after, GiB",
}
"""Tag -> heading; TensorBoard shows the first five."""
HPARAMS = ("fix", "status", "safety", "grade", "target", "device")


@dataclass(frozen=True)
class _Row:
    fix: str
    hparams: Mapping[str, Value]
    metrics: Mapping[str, float | None]


def _tried(each: Outcome) -> _Row:
    saved = None if each.before_ms is None or each.after_ms is None else each.before_ms - each.after_ms
    return _Row(
        each.fix,
        {"status": str(each.status), "safety": str(each.safety), "grade": str(each.grade or "not measured")},
        {
            "before, ms": each.before_ms,
            "after, ms": each.after_ms,
            "saves, ms": saved,
            "largest difference of the output": each.max_abs_diff,
            "waits in the loop before": each.in_loop_before,
            "waits in the loop after": each.in_loop_after,
            "memory before, GiB": _gibibytes(each.memory_before_bytes),
            "memory after, GiB": _gibibytes(each.memory_after_bytes),
        },
    )


def _planned(step: PlanStep, before_ms: float | None) -> _Row:
    status = "planned" if step.selected else "advice" if step.is_advice else "left out"
    return _Row(
        step.fix,
        {"status": status, "safety": str(step.safety), "grade": str(step.grade or "not measured")},
        {
            "before, ms": before_ms if step.saves_ms is not None else None,
            "after, ms": None if step.saves_ms is None or before_ms is None else before_ms - step.saves_ms,
            "saves, ms": step.saves_ms,
        },
    )


def _gibibytes(size: int | None) -> float | None:
    return None if size is None else size / 2**30


def _rows(main: EventFile, at: float, recording: Recording, rows: Sequence[_Row]) -> dict[str, bytes]:
    """Each row is a run of its own, as TensorBoard wants it. All columns are declared, whether this run has
    figures for them or not: of several runs, TensorBoard asks the first."""
    main.hparams_columns(HPARAMS, METRICS)
    files = {}
    for number, row in enumerate(rows, 1):
        file = EventFile(at)
        named = {"fix": row.fix, "target": recording.target.spec, "device": recording.device.spec}
        file.hparams_row(
            f"{number} {row.fix}, {recording.device.spec}, {recording.created}", {**named, **row.hparams}
        )
        for tag in METRICS:
            value = row.metrics.get(_name(tag))
            if value is not None:
                file.scalar(tag, value)
        files[f"fixes/{number:02d}-{slug(row.fix)}"] = file.data()
    return files


def _name(tag: str) -> str:
    return tag.partition("/")[2]
