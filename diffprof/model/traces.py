"""One trace of many as a row, and what all of them together say."""

from __future__ import annotations

import msgspec

READ, FAILED = "ok", "failed"


class WaitLine(msgspec.Struct, frozen=True, kw_only=True):
    """Waits of the host at one line. blocked_us: None where no clock saw them."""

    line: str
    kind: str
    count: int
    blocked_us: float | None = None


class FindingLine(msgspec.Struct, frozen=True, kw_only=True):
    """A finding. saves_us: what the call would take less without it."""

    rule: str
    line: str
    message: str
    saves_us: float | None = None


class TraceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One trace. Times in microseconds; None: the trace does not tell.

    key: of the file as it was read, by path, size and time. folder: where it lies, without the name. created:
    when it was recorded. window_us: from the first to the last of the call. idle_us: by cause. families:
    device time by kernel family. communication_us: in which collectives ran; exposed_us: and
    nothing else did.
    collectives: length of each, in order, of one stream. step_us: of each step.
    """

    key: str
    path: str
    folder: str
    bytes: int
    rank: int | None = None
    world_size: int | None = None
    host: str = ""
    gpu: str = ""
    grade: str = ""
    pipeline: str = ""
    mode: str = ""
    created: str = ""
    events: int | None = None
    kernels: int | None = None
    window_us: float | None = None
    busy_us: float | None = None
    idle_us: dict[str, float] = {}
    families: dict[str, float] = {}
    waits: tuple[WaitLine, ...] = ()
    findings: tuple[FindingLine, ...] = ()
    peak_bytes: int | None = None
    computation_us: float | None = None
    communication_us: float | None = None
    exposed_us: float | None = None
    collectives: tuple[float, ...] = ()
    step_us: tuple[float, ...] = ()
    status: str = READ
    reason: str = ""
    took_s: float | None = None
    diffprof: str = ""


class HostGap(msgspec.Struct, frozen=True, kw_only=True):
    """A host whose traces differ from those of the other hosts of their kind: medians of both."""

    kind: str
    host: str
    figure: str
    traces: int
    here: float
    others: float


class LineCost(msgspec.Struct, frozen=True, kw_only=True):
    """What one line costs in all traces: shares of their time, 0..1."""

    line: str
    traces: int
    count: int
    blocked_share: float
    saves_share: float
    rules: tuple[str, ...]


class Outlier(msgspec.Struct, frozen=True, kw_only=True):
    """A trace far from the others of its kind. score: deviations from their median, in robust units."""

    path: str
    kind: str
    figure: str
    value: float
    median: float
    score: float


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of one kind of trace that is not what it was: medians of the earlier and the later half."""

    kind: str
    figure: str
    traces: int
    before: float
    after: float


class Rank(msgspec.Struct, frozen=True, kw_only=True):
    """One rank of a run. step_us: the median. waits_us: its collectives beyond the shortest of each: time in
    which it waited for the slowest rank. holds_us: in which all others waited for it alone."""

    rank: int
    path: str
    step_us: float | None
    computation_us: float | None
    communication_us: float | None
    overlap: float | None
    waits_us: float | None
    holds_us: float | None


class RankGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The ranks of one run. stragglers: ranks that the others wait for, worst first. missing: not found."""

    folder: str
    world_size: int
    ranks: tuple[Rank, ...]
    missing: tuple[int, ...]
    stragglers: tuple[int, ...]


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """All traces together."""

    traces: int
    failed: int
    window_us: float
    busy_us: float
    idle_us: dict[str, float]
    families: dict[str, float]
    lines: tuple[LineCost, ...]
    outliers: tuple[Outlier, ...]
    trends: tuple[Trend, ...]
    hosts: tuple[HostGap, ...]
    ranks: tuple[RankGroup, ...]
