"""What breaks and recompiles cost in one call on a simulated GPU, or why that is not known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from diffprof.analyzers.graph_breaks.break_costs import Priced, break_costs, eager_costs
from diffprof.analyzers.graph_breaks.observe import Compilable
from diffprof.analyzers.graph_breaks.scopes import CALL, COMPONENTS, STEP
from diffprof.devices import Device
from diffprof.model.pipeline import Pipeline
from diffprof.model.recording import GraphBreakRow, RecompileCost, RecompileRow

COLD = "cold"
"""State of a break that only the first call has."""

ELSEWHERE = "scan with --device sim:a100-80gb, or another one"


def priced_breaks(
    call: Callable[[], object],
    pipe: Pipeline,
    device: Device,
    parts: Sequence[Compilable],
    breaks: Sequence[Priced],
) -> tuple[GraphBreakRow, ...]:
    """The rows of the breaks, each with its cost or why it has none. call: makes the pipeline's call; device:
    active."""
    if not _simulated(device):
        why = f"breaks are costed on a simulated GPU: {ELSEWHERE}"
        return tuple(replace(each.row, uncosted=why) for each in breaks)
    groups: dict[str, list[Priced]] = {}
    for each in breaks:
        if each.row.state != COLD:
            groups.setdefault(_scope(each), []).append(each)
    found = break_costs(call, pipe, device, groups, _roots(parts))
    costs = {scope: iter(those) for scope, those in found.items()}
    rows = []
    for each in breaks:
        if each.row.state == COLD:
            why = "it comes once in a process, in the call that compiles"
            rows.append(replace(each.row, uncosted=why))
            continue
        cost = next(costs[_scope(each)])
        if each.found.hidden_by:
            why = "it costs nothing until the break that hides it is gone"
            rows.append(replace(each.row, uncosted=why))
        elif each.row.count is None:
            rows.append(replace(each.row, uncosted="the plain run of the call did not pass the line"))
        elif not cost.call_ms:
            rows.append(replace(each.row, uncosted=f"nothing of the call ran on {device.spec}"))
        else:
            rows.append(replace(each.row, cost=cost))
    return tuple(rows)


def priced_recompiles(
    call: Callable[[], object],
    pipe: Pipeline,
    device: Device,
    parts: Sequence[Compilable],
    rows: Sequence[RecompileRow],
) -> tuple[RecompileRow, ...]:
    """The rows, those beyond the recompile limit with what it costs that the component runs as plain Python,
    or why that is not known."""
    beyond = [_root(row.component) for row in rows if _may_be_priced(row)]
    costs: dict[str, tuple[float, float]] = {}
    if beyond and _simulated(device):
        names = list(dict.fromkeys(map(_root, beyond)))
        costs = eager_costs(call, pipe, device, names, _roots(parts))
    return tuple(_beyond(row, costs) for row in rows)


def _may_be_priced(row: RecompileRow) -> bool:
    return row.limit_hit and not (row.cost and row.cost.unpriced)


def _beyond(row: RecompileRow, costs: Mapping[str, tuple[float, float]]) -> RecompileRow:
    if not _may_be_priced(row):
        return row
    cost = row.cost or RecompileCost()
    known = costs.get(_root(row.component))
    if known is None:
        why = f"a compiled call is modelled on a simulated GPU: {ELSEWHERE}"
        return replace(row, cost=replace(cost, unpriced=why))
    eager_ms, compiled_ms = known
    return replace(row, cost=replace(cost, eager_ms=eager_ms, compiled_ms=compiled_ms))


def _simulated(device: Device) -> bool:
    return device is not None and device.gpu is not None


def _scope(each: Priced) -> str:
    return each.row.component if each.row.component in (STEP, CALL) else COMPONENTS


def _root(component: str) -> str:
    return component.partition(".")[0]


def _roots(parts: Sequence[Compilable]) -> tuple[str, ...]:
    """Names of the components that are compiled."""
    return tuple(dict.fromkeys(_root(part.name) for part in parts))
