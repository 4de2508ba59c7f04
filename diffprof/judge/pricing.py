"""What each finding costs: host time blocked, and end-to-end time that removing it would save.

Both come from running the recorded timeline again, whole and without what the finding rests on. They differ
where queued device work hides a wait.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from msgspec.structs import replace

from diffprof.judge.setup_costs import base_of, before_changes_ms, saved_ms
from diffprof.judge.timeline import Replay, Without, events_of_syncs, replay, total_us, waits_in
from diffprof.model.finding import Evidence, Finding
from diffprof.model.recording import Change, Grade, Recording, SyncRow, Timeline

HIDDEN = "Hidden behind queued GPU work: removing it alone saves little."

GOES_WHOLE = "Without the wait, its copy and what is launched with it are removed too."
"""Why more is saved than was waited for."""

UNEXPLAINED = (
    "Nothing in the trace held it up for most of that time: what it waited for began before, or ran on a "
    "device or queue that was not recorded. So much is saved only where that need not be waited for."
)
"""Of a measured wait that went on although all recorded work was done."""

UNEXPLAINED_MS = 1.0
"""From which a wait is asked what it waited for; an interrupt alone takes some 0.05 ms."""

HIDDEN_SHARE = 0.05
"""A wait is called hidden when removing it saves less than this share of the time blocked."""

MAY_BE_CASTS = 0.05
"""Share of a call bound by launches up to which what half precision saves is not told: casts are launches."""

READS = frozenset({"value-read", "host-index", "tensor-from-device-scalars"})
"""Waits that exist for a value alone: without the wait there is nothing left to do."""


def price(findings: Iterable[Finding], recording: Recording) -> tuple[Finding, ...]:
    """The findings with `blocked_ms`, `saves_ms` and `cost_note`, per call; unchanged where the recording
    has no timeline, or the finding nothing in it."""
    found = tuple(findings)
    timeline = recording.timeline
    if timeline is None or not timeline.host_us:
        return tuple(_with_measured_wait(finding, recording) for finding in found)
    run = replay(timeline)
    seen: dict[Evidence, tuple[float | None, float]] = {}
    priced = []
    for finding in found:
        if finding.saves_ms is not None:
            priced.append(replace(finding, alone=True))
            continue
        if finding.evidence.change is not None:
            priced.append(_with_change(finding, finding.evidence.change, recording))
            continue
        without = removal(finding.evidence, recording)
        if not without:
            priced.append(_with_measured_wait(finding, recording))
            continue
        costs = seen.get(finding.evidence)
        if costs is None:
            saved = max(0.0, run.total_us - total_us(timeline, without))
            blocked = blocked_us(recording, run, finding.evidence.syncs) if finding.evidence.syncs else None
            costs = seen[finding.evidence] = (blocked, saved)
        priced.append(
            _with_costs(
                finding,
                *costs,
                reads=bool(without.events),
                unexplained=_is_unexplained(timeline, run, finding.evidence.syncs),
            )
        )
    return tuple(priced)


class Together(NamedTuple):
    """What several findings cost together, per call, in milliseconds; total_ms: the whole call."""

    blocked_ms: float
    saves_ms: float
    total_ms: float


def waits_together(recording: Recording) -> Together | None:
    """The cost of all waits in the denoising loop taken together, offloading's apart: each alone may be
    hidden behind the next.

    None without a timeline, or without such waits.
    """
    timeline = recording.timeline
    rows = tuple(n for n, row in enumerate(recording.syncs or ()) if row.in_loop and not row.offload)
    if timeline is None or not timeline.host_us or not rows:
        return None
    run = replay(timeline)
    without = removal(Evidence(syncs=rows), recording)
    blocked = blocked_us(recording, run, rows)
    saved = max(0.0, run.total_us - total_us(timeline, without))
    return Together(blocked / 1e3, saved / 1e3, run.total_us / 1e3)


def removal(evidence: Evidence, recording: Recording) -> Without:
    """What to leave out of the recording's timeline when a finding is gone."""
    timeline = recording.timeline
    return Without() if timeline is None else left_out(evidence, timeline, recording.syncs or ())


def left_out(evidence: Evidence, timeline: Timeline, syncs: Sequence[SyncRow]) -> Without:
    """What to leave out of a timeline when a finding is gone.

    A read that only serves the CPU's curiosity, and a copy of weights that offloading makes, are removed
    whole in a simulated timeline, where the CPU's time of an event is its own; in a measured one that time
    holds all that the CPU did since the last launch, so only the wait is. Another copy stays and no longer
    waits. Kinds take the times that the finding names in `becomes_us`, or vanish.
    """
    present = waits_in(timeline) if evidence.syncs else ()
    waits = frozenset(row for row in evidence.syncs if row in present)
    whole = [row for row in waits if row < len(syncs) and is_removed(syncs[row])]
    events = {event for event in evidence.events if event < len(timeline.host_us)}
    if timeline.grade is Grade.SIMULATED:
        events.update(events_of_syncs(timeline, whole))
    after = evidence.becomes_us or (0.0,) * len(evidence.kinds)
    fewer = evidence.with_modules and timeline.grade is Grade.SIMULATED
    return Without(
        waits=waits,
        events=frozenset(events),
        whole=frozenset((*events, *_inside(events, timeline)) if fewer else ()),
        kind_us=dict(zip(evidence.kinds, after, strict=True)),
        kind_host=dict.fromkeys(evidence.kinds, evidence.host_left) if evidence.host_left < 1.0 else {},
    )


def _inside(events: Collection[int], timeline: Timeline) -> Iterator[int]:
    """Events that begin a call of a module right inside one that these events are of, as of the layer inside
    an adapter's wrapper."""
    names = timeline.modules
    wrappers = {names[timeline.module[event]] for event in events if timeline.module[event] >= 0}
    inner = {
        n for n, name in enumerate(names) if name not in wrappers and name.rpartition(".")[0] in wrappers
    }
    for event, (before, module) in enumerate(pairwise((-1, *timeline.module))):
        if module in inner and module != before:
            yield event


def is_removed(row: SyncRow) -> bool:
    """Whether all that is launched with a wait goes with it: a read exists for its value alone, and without
    offloading no weights are copied."""
    return row.kind in READS or row.offload


def blocked_us(recording: Recording, run: Replay, rows: Iterable[int]) -> float:
    """How long the CPU stood in these waits: what a clock saw, else what the replay says."""
    known = recording.syncs or ()
    return sum(
        run.blocked_us.get(row, 0.0) if (seen := _measured_us(known, row)) is None else seen for row in rows
    )


def _with_change(finding: Finding, change: Change, recording: Recording) -> Finding:
    """Priced by the call that was costed with a change of the setup."""
    found = saved_ms(recording, change)
    if found is None:
        return finding
    saved, before = found
    base = base_of(recording, change)
    if change is Change.HALF and base and saved < MAY_BE_CASTS * before_changes_ms(recording):
        note = "Too little to be told: the casts that half precision adds may take as long."
        return replace(finding, cost_note=f"{finding.cost_note} {note}" if finding.cost_note else note)
    return replace(
        finding,
        saves_ms=max(0.0, saved),
        alone=True,
        compiled_ms=before if base else finding.compiled_ms,
    )


def _measured_us(rows: Sequence[SyncRow], row: int) -> float | None:
    return rows[row].blocked_us if 0 <= row < len(rows) else None


def _with_measured_wait(finding: Finding, recording: Recording) -> Finding:
    """A finding that no replay can price, with what a clock saw."""
    times = [_measured_us(recording.syncs or (), row) for row in finding.evidence.syncs]
    seen = [us for us in times if us is not None]
    if finding.blocked_ms is not None or not seen:
        return finding
    return replace(finding, blocked_ms=sum(seen) / 1e3)


def _is_unexplained(timeline: Timeline, run: Replay, rows: Iterable[int]) -> bool:
    """Whether these waits mostly went on after the end of all recorded work."""
    if not timeline.settle_us:
        return False
    wanted = set(rows)
    events = [event for event, row in enumerate(timeline.sync) if row in wanted]
    beyond = sum(timeline.settle_us[event] for event in events)
    spent = sum(run.host_end[event] - run.wait_start[event] for event in events)
    return beyond > UNEXPLAINED_MS * 1e3 and beyond * 2 > spent


def _with_costs(
    finding: Finding, blocked_us: float | None, saved_us: float, *, reads: bool, unexplained: bool
) -> Finding:
    note = finding.cost_note
    if unexplained:
        note = f"{note} {UNEXPLAINED}" if note else UNEXPLAINED
    elif blocked_us and saved_us < blocked_us * HIDDEN_SHARE:
        note = f"{note} {HIDDEN}" if note else HIDDEN
    elif blocked_us and reads and saved_us > blocked_us:
        note = f"{note} {GOES_WHOLE}" if note else GOES_WHOLE
    return replace(
        finding,
        blocked_ms=finding.blocked_ms if blocked_us is None else blocked_us / 1e3,
        saves_ms=saved_us / 1e3,
        alone=True,
        cost_note=note,
    )
