"""Why the device had nothing to do."""

from __future__ import annotations

from collections.abc import Sequence

from diffprof.judge.steps import phase_of_events
from diffprof.judge.timeline import Replay
from diffprof.model.recording import GapRow, Timeline


def find_gaps(timeline: Timeline, run: Replay, *, at_least_us: float = 1.0) -> tuple[GapRow, ...]:
    """Stretches in which the device had nothing to do, each with its cause.

    sync: the CPU had waited for the device since the last launch. copy: the next work is a transfer from
    or to the host. python: an event without an operation took most of the host's time. launch: the host
    was issuing operations, each too short to keep the device fed. tail: the CPU went on after the last
    kernel.
    """
    import numpy as np

    began, ended = np.array(run.device_start), np.array(run.device_end)
    order = np.argsort(began, kind="stable")
    order = order[np.count_nonzero(began < 0.0) :]
    ends = np.maximum.accumulate(ended[order])
    frees = np.concatenate(([0.0], ends))
    lasts = np.maximum.accumulate(np.where(ended[order] > frees[:-1], np.arange(len(order)), -1))
    phases = phase_of_events(timeline)
    names = [k.name for k in timeline.kinds]
    gaps: list[GapRow] = []

    def after(place: int) -> int | None:
        """The event whose end was the latest, of those up to this place."""
        return int(order[lasts[place]]) if place >= 0 and lasts[place] >= 0 else None

    for place in np.flatnonzero(began[order] - frees[:-1] >= at_least_us).tolist():
        event, last, free = int(order[place]), after(place - 1), float(frees[place])
        duration = run.device_start[event] - free
        cause, sync = _cause(timeline, run, 0 if last is None else last + 1, event, free)
        span = phases[event]
        gaps.append(
            GapRow(
                cause=cause,
                start_us=free,
                duration_us=duration,
                phase=span.name if span else None,
                step=span.step if span else None,
                after=_kind_name(timeline, names, last),
                before=_kind_name(timeline, names, event),
                sync=sync,
            )
        )
    last, free = after(len(order) - 1), float(frees[-1])
    if run.total_us - free >= at_least_us:
        gaps.append(
            GapRow(
                cause="tail",
                start_us=free,
                duration_us=run.total_us - free,
                after=_kind_name(timeline, names, last),
            )
        )
    return tuple(gaps)


def _cause(
    timeline: Timeline, run: Replay, first: int, event: int, idle_from: float
) -> tuple[str, int | None]:
    longest_python = 0.0
    for i in range(first, event):
        if run.wait_start[i] >= 0.0 and run.host_end[i] > idle_from:
            return "sync", (timeline.sync[i] if timeline.sync[i] >= 0 else None)
        if timeline.kind[i] < 0:
            longest_python = max(longest_python, run.host_end[i] - max(run.host_start[i], idle_from))
    before = first - 1
    if before >= 0 and run.wait_start[before] >= 0.0:
        return "sync", (timeline.sync[before] if timeline.sync[before] >= 0 else None)
    if timeline.kind[event] >= 0 and timeline.kinds[timeline.kind[event]].family == "copy":
        return "copy", None
    if longest_python * 2.0 > run.device_start[event] - idle_from:
        return "python", None
    return "launch", None


def _kind_name(timeline: Timeline, names: Sequence[str], event: int | None) -> str | None:
    if event is None or timeline.kind[event] < 0:
        return None
    return names[timeline.kind[event]]
