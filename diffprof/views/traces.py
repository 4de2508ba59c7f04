"""Many traces as text, markdown or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from diffprof.model.compiles import CompileRow
from diffprof.model.plain import clean
from diffprof.model.report import as_json
from diffprof.model.traces import FAILED, Fleet, Outlier, Rank, RankGroup, TraceRow, Trend
from diffprof.model.units import number, plural
from diffprof.views.listing import render_list

MOST = 12
"""Rows of a table that are shown."""
FAR = 20
"""Traces that failed of which each is named."""

_LINES = {"line": "line", "saves": "would save", "blocked": "blocks", "traces": "in traces", "rules": "rules"}
_OUTLIERS = {"path": "trace", "figure": "", "value": "here", "median": "median", "kind": "of"}
_TRENDS = {
    "kind": "of",
    "figure": "",
    "before": "earlier half",
    "after": "later half",
    "traces": "traces",
}
_HOSTS = {
    "host": "host",
    "figure": "",
    "here": "here",
    "others": "other hosts",
    "traces": "traces",
    "kind": "of",
}
_FIGURES = {"window_us": "length", "idle_share": "idle"}


def render_fleet(
    fleet: Fleet,
    rows: Sequence[TraceRow],
    form: str,
    *,
    compiled: Sequence[CompileRow] = (),
    width: int | None = None,
    colour: bool = False,
    rate: float | None = None,
) -> str:
    """JSON: `fleet`, `rows[]` and `compiles[]` with every figure. rate: traces read in a second."""
    if form == "json":
        told = msgspec.to_builtins({"fleet": fleet, "rows": rows, "compiles": compiled})
        return as_json(told).decode()
    look = {"width": width, "colour": colour}
    blocks = [f"{line}\n" for line in _top(fleet, rate)]
    blocks += [block for part in _PARTS for block in part(fleet, form, look)]
    blocks += list(_failures(rows))
    return "\n".join(blocks)


def _top(fleet: Fleet, rate: float | None) -> Iterator[str]:
    read = plural(fleet.traces, "trace")
    failed = f", {fleet.failed:,} could not be read" if fleet.failed else ""
    speed = f", {number(rate)} a second" if rate else ""
    length = f"{number(fleet.window_us / 1e6)} s, device busy {_share(fleet.busy_us, fleet)}"
    yield f"{read}{failed}{speed}: {length}"
    idle = [f"{cause} {_share(us, fleet)}" for cause, us in fleet.idle_us.items()]
    if idle:
        yield f"idle by cause: {', '.join(idle)}"
    busy = sum(fleet.families.values())
    if busy:
        kernels = [f"{name} {100 * us / busy:.0f} %" for name, us in list(fleet.families.items())[:8]]
        yield f"device time by kernel family: {', '.join(kernels)}"


def _share(us: float, fleet: Fleet) -> str:
    return f"{100 * us / fleet.window_us:.1f} %" if fleet.window_us else "-"


def _lines(fleet: Fleet, form: str, look: Mapping[str, Any]) -> Iterator[str]:
    shown = [each for each in fleet.lines if each.saves_share > 0.0005 or each.blocked_share > 0.0005]
    if not shown:
        return
    cells = [
        {
            "line": each.line,
            "saves": f"{100 * each.saves_share:.1f} %",
            "blocked": f"{100 * each.blocked_share:.1f} %",
            "traces": f"{each.traces:,}",
            "rules": " ".join(each.rules),
        }
        for each in shown[:MOST]
    ]
    more = _more(len(shown))
    yield "lines by their share of all traces' time" + more + "\n" + render_list(_LINES, cells, form, **look)


def _more(count: int) -> str:
    return f", the first {MOST} of {count:,}" if count > MOST else ""


def _outliers(fleet: Fleet, form: str, look: Mapping[str, Any]) -> Iterator[str]:
    if fleet.outliers:
        cells = [_outlier(each) for each in fleet.outliers[:MOST]]
        title = f"outliers{_more(len(fleet.outliers))}\n"
        yield title + render_list(_OUTLIERS, cells, form, **look)


def _outlier(each: Outlier) -> dict[str, str]:
    return {
        "path": each.path,
        "figure": _FIGURES[each.figure],
        "value": _value(each.figure, each.value),
        "median": _value(each.figure, each.median),
        "kind": each.kind,
    }


def _value(figure: str, value: float) -> str:
    return f"{number(value / 1e3)} ms" if figure == "window_us" else f"{100 * value:.1f} %"


def _trends(fleet: Fleet, form: str, look: Mapping[str, Any]) -> Iterator[str]:
    if fleet.trends:
        yield "over time\n" + render_list(_TRENDS, [_trend(each) for each in fleet.trends], form, **look)


def _hosts(fleet: Fleet, form: str, look: Mapping[str, Any]) -> Iterator[str]:
    if fleet.hosts:
        cells = [
            {
                "host": each.host,
                "figure": _FIGURES[each.figure],
                "here": _value(each.figure, each.here),
                "others": _value(each.figure, each.others),
                "traces": f"{each.traces:,}",
                "kind": each.kind,
            }
            for each in fleet.hosts[:MOST]
        ]
        yield f"by host{_more(len(fleet.hosts))}\n" + render_list(_HOSTS, cells, form, **look)


def _trend(each: Trend) -> dict[str, str]:
    return {
        "kind": each.kind,
        "figure": _FIGURES[each.figure],
        "before": _value(each.figure, each.before),
        "after": _value(each.figure, each.after),
        "traces": f"{each.traces:,}",
    }


def _ranks(fleet: Fleet, form: str, look: Mapping[str, Any]) -> Iterator[str]:
    for group in fleet.ranks:
        cells = [_rank(each) for each in group.ranks]
        yield _group_title(group) + "\n" + render_list(_RANK_COLUMNS, cells, form, **look)


_RANK_COLUMNS = {
    "rank": "rank",
    "step": "step",
    "computes": "computes",
    "shares": "communicates",
    "overlap": "beside computing",
    "waits": "waits for others",
    "holds": "holds up others",
}


def _group_title(group: RankGroup) -> str:
    """The ranks, who is slow, and who is missing."""
    told = [f"{group.folder}: {len(group.ranks)} of {group.world_size} ranks"]
    if group.stragglers:
        told.append(f"the others wait for rank {_listed(group.stragglers)}")
    if group.missing:
        told.append(f"missing: {_listed(group.missing)}")
    return clean("; ".join(told))


def _listed(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks[:MOST])) + (", ..." if len(ranks) > MOST else "")


def _rank(rank: Rank) -> dict[str, str]:
    return {
        "rank": str(rank.rank),
        "step": _ms(rank.step_us),
        "computes": _ms(rank.computation_us),
        "shares": _ms(rank.communication_us),
        "overlap": "-" if rank.overlap is None else f"{100 * rank.overlap:.1f} %",
        "waits": _ms(rank.waits_us),
        "holds": _ms(rank.holds_us),
    }


def _ms(us: float | None) -> str:
    return "-" if us is None else f"{number(us / 1e3)} ms"


def _failures(rows: Sequence[TraceRow]) -> Iterator[str]:
    failed = [row for row in rows if row.status == FAILED]
    for row in failed[:FAR]:
        yield clean(f"failed: {row.path}: {row.reason}") + "\n"
    if len(failed) > FAR:
        yield f"and {len(failed) - FAR:,} more: SELECT path, reason FROM traces WHERE status = 'failed'\n"


_PARTS = (_lines, _outliers, _trends, _hosts, _ranks)
