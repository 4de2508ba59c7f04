"""What many traces say together: lines by their share, outliers, trends, and the ranks of one run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

from diffprof.model.traces import (
    READ,
    Fleet,
    HostGap,
    LineCost,
    Outlier,
    Rank,
    RankGroup,
    TraceRow,
    Trend,
)

FAR = 3.5
"""Robust deviations from the median beyond which a value is an outlier (Iglewicz and Hoaglin, 1993)."""
DEVIATION = 1.4826
"""Standard deviations of normal values in one median absolute deviation."""
ENOUGH = 5
"""Traces of one kind that have a middle to be far from."""
NOTICEABLE = 0.02
"""Share of the median below which neither an outlier nor a trend matters."""
SLOWEST = 0.02
"""Of a rank's step: the others wait this much longer than it does where it holds them up."""


def fleet(rows: Sequence[TraceRow]) -> Fleet:
    """All of it."""
    read = [row for row in rows if row.status == READ]
    return Fleet(
        traces=len(read),
        failed=len(rows) - len(read),
        window_us=sum(row.window_us or 0.0 for row in read),
        busy_us=sum(row.busy_us or 0.0 for row in read),
        idle_us=_summed(row.idle_us for row in read),
        families=_summed(row.families for row in read),
        lines=line_costs(read),
        outliers=outliers(read),
        trends=trends(read),
        hosts=host_gaps(read),
        ranks=rank_groups(read),
    )


def _summed(each: Iterable[dict[str, float]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for one in each:
        total.update(one)  # type: ignore[arg-type]
    return dict(total.most_common())


def line_costs(rows: Sequence[TraceRow]) -> tuple[LineCost, ...]:
    """Lines by what removing their findings would save of all traces' time, then by time blocked."""
    window = sum(row.window_us or 0.0 for row in rows) or 1.0
    blocked: dict[str, float] = defaultdict(float)
    saves: dict[str, float] = defaultdict(float)
    count: Counter[str] = Counter()
    inside: dict[str, set[str]] = defaultdict(set)
    rules: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for wait in row.waits:
            blocked[wait.line] += wait.blocked_us or 0.0
            count[wait.line] += wait.count
            inside[wait.line].add(row.key)
        for finding in row.findings:
            saves[finding.line] += finding.saves_us or 0.0
            rules[finding.line].add(finding.rule)
            inside[finding.line].add(row.key)
    found = [
        LineCost(
            line=line,
            traces=len(keys),
            count=count[line],
            blocked_share=blocked[line] / window,
            saves_share=saves[line] / window,
            rules=tuple(sorted(rules[line])),
        )
        for line, keys in inside.items()
    ]
    return tuple(sorted(found, key=lambda each: (-each.saves_share, -each.blocked_share, each.line)))


FIGURES = ("window_us", "idle_share")


def kind_of(row: TraceRow) -> str:
    """Traces of one kind are held against each other: the same pipeline on the same GPU; where no pipeline
    is told, the same folder."""
    return f"{row.folder if row.pipeline in ('', 'unknown') else row.pipeline} on {row.gpu}"


def figure(row: TraceRow, name: str) -> float | None:
    """window_us, or the share of it in which the device did nothing."""
    if name == "window_us" or row.window_us is None:
        return row.window_us
    return None if row.busy_us is None or not row.window_us else 1 - row.busy_us / row.window_us


def _by_kind(rows: Sequence[TraceRow], name: str) -> dict[str, list[tuple[float, TraceRow]]]:
    groups: dict[str, list[tuple[float, TraceRow]]] = defaultdict(list)
    for row in rows:
        value = figure(row, name)
        if value is not None:
            groups[kind_of(row)].append((value, row))
    return {kind: each for kind, each in groups.items() if len(each) >= ENOUGH}


def outliers(rows: Sequence[TraceRow]) -> tuple[Outlier, ...]:
    """Traces with more than is usual of their kind, farthest first."""
    found = []
    for name in FIGURES:
        for kind, group in _by_kind(rows, name).items():
            middle = median(value for value, _ in group)
            spread = DEVIATION * median(abs(value - middle) for value, _ in group)
            least = NOTICEABLE * (middle if name == "window_us" else 1.0)
            for value, row in group:
                score = (value - middle) / max(spread, least / FAR)
                if score > FAR:
                    found.append(
                        Outlier(
                            path=row.path, kind=kind, figure=name, value=value, median=middle, score=score
                        )
                    )
    return tuple(sorted(found, key=lambda each: -each.score))


def trends(rows: Sequence[TraceRow]) -> tuple[Trend, ...]:
    """Figures of one kind whose later half is not the earlier one's, by more than their scatter explains."""
    found = []
    for name in FIGURES:
        for kind, group in _by_kind([row for row in rows if row.created], name).items():
            values = [value for value, row in sorted(group, key=lambda each: each[1].created)]
            before, after = values[: len(values) // 2], values[len(values) // 2 :]
            if _apart(before, after, name):
                first, second = median(before), median(after)
                found.append(Trend(kind=kind, figure=name, traces=len(values), before=first, after=second))
    return tuple(found)


def host_gaps(rows: Sequence[TraceRow]) -> tuple[HostGap, ...]:
    """Hosts whose traces differ from those of the others of their kind by more than scatter explains."""
    found = []
    for name in FIGURES:
        for kind, group in _by_kind([row for row in rows if row.host], name).items():
            for host in dict.fromkeys(row.host for _, row in group):
                here = [value for value, row in group if row.host == host]
                others = [value for value, row in group if row.host != host]
                if _apart(others, here, name):
                    found.append(
                        HostGap(
                            kind=kind,
                            host=host,
                            figure=name,
                            traces=len(here),
                            here=median(here),
                            others=median(others),
                        )
                    )
    return tuple(found)


def _apart(some: Sequence[float], more: Sequence[float], name: str) -> bool:
    """Whether the medians of both, each of ENOUGH traces, differ by more than scatter and what matters."""
    if min(len(some), len(more)) < ENOUGH:
        return False
    least = NOTICEABLE * (median(some) if name == "window_us" else 1.0)
    return abs(median(more) - median(some)) > max(2 * max(_scatter(some), _scatter(more)), least)


def _scatter(values: Sequence[float]) -> float:
    middle = median(values)
    return DEVIATION * median(abs(value - middle) for value in values)


# --- ranks ---------------------------------------------------------------------------------------------


def rank_groups(rows: Sequence[TraceRow]) -> tuple[RankGroup, ...]:
    """Traces of one folder whose files name different ranks of one world size. Of several with one rank, as
    of a run that was profiled again, those that began together are one group."""
    groups: dict[tuple[str, int, int], list[TraceRow]] = defaultdict(list)
    seen: Counter[tuple[str, int, int]] = Counter()
    for row in sorted(rows, key=lambda each: each.created):
        if row.rank is not None and row.world_size is not None and row.world_size > 1:
            one = (row.folder, row.world_size, row.rank)
            groups[(row.folder, row.world_size, seen[one])].append(row)
            seen[one] += 1
    return tuple(
        _group(folder, size, sorted(each, key=lambda row: row.rank or 0))
        for (folder, size, _), each in sorted(groups.items())
        if len(each) > 1
    )


def _group(folder: str, size: int, rows: Sequence[TraceRow]) -> RankGroup:
    waits, holds = waited(rows), held(rows)
    ranks = tuple(
        _rank(row, *((None, None) if waits is None or holds is None else (waits[n], holds[n])))
        for n, row in enumerate(rows)
    )
    there = {row.rank for row in rows}
    late = [
        (rank.holds_us, rank.rank)
        for rank, row in zip(ranks, rows, strict=True)
        if rank.holds_us is not None and rank.holds_us > SLOWEST * (row.window_us or 0.0)
    ]
    return RankGroup(
        folder=folder,
        world_size=size,
        ranks=ranks,
        missing=tuple(rank for rank in range(size) if rank not in there),
        stragglers=tuple(rank for _, rank in sorted(late, reverse=True)),
    )


def _collectives(rows: Sequence[TraceRow]) -> list[tuple[float, ...]] | None:
    """Lengths of each collective on all ranks. None where the ranks tell different numbers of them."""
    counts = {len(row.collectives) for row in rows}
    if len(counts) != 1 or counts == {0}:
        return None
    return list(zip(*(row.collectives for row in rows), strict=True))


def waited(rows: Sequence[TraceRow]) -> list[float] | None:
    """Of each rank, how much longer its collectives ran than the shortest of each: a collective begins on a
    rank when that rank is ready, and ends with the last."""
    found = _collectives(rows)
    if found is None:
        return None
    return [sum(each[rank] - min(each) for each in found) for rank in range(len(rows))]


def held(rows: Sequence[TraceRow]) -> list[float] | None:
    """Of each rank, how long it was the last to come to a collective: what all others would wait less, were
    it as early as the one before it."""
    found = _collectives(rows)
    if found is None:
        return None
    holds = [0.0] * len(rows)
    for lengths in found:
        first, second = sorted(lengths)[:2]
        holds[lengths.index(first)] += second - first
    return holds


def _rank(row: TraceRow, waits: float | None, holds: float | None) -> Rank:
    shared = row.communication_us
    hidden = None if shared is None or row.exposed_us is None else shared - row.exposed_us
    return Rank(
        rank=row.rank or 0,
        path=row.path,
        step_us=median(row.step_us) if row.step_us else None,
        computation_us=row.computation_us,
        communication_us=shared,
        overlap=None if not shared or hidden is None else hidden / shared,
        waits_us=waits,
        holds_us=holds,
    )
