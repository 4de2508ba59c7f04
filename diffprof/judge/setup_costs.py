"""What another setup would change in the timeline, as evidence for pricing: kinds and their new times."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from diffprof.model.finding import Evidence
from diffprof.model.recording import KernelKind, KindCosts, Recording

ORDER = ("now", "half", "sdpa", "qkv", "compiled", "int8")
"""Columns of `KindCosts`, each built on the one before."""


def column(costs: KindCosts, name: str) -> tuple[float, ...]:
    """Device time of one call of each kind after this change and those before it."""
    found: tuple[float, ...] = getattr(costs, f"{name}_us")
    return found


def evidence(recording: Recording, name: str) -> Evidence:
    """The kinds that a change makes faster, with the time that they take then.

    Each kind's time as recorded, times what the change makes of it once those before it in the order are
    made: so that ratios of several changes can be multiplied. Empty where nothing is known or gained.
    """
    timeline = recording.timeline
    costs = recording.setup.costs if recording.setup else None
    if timeline is None or costs is None:
        return Evidence()
    before = column(costs, ORDER[ORDER.index(name) - 1])
    after = column(costs, name)
    kinds, becomes = [], []
    for n, kind in enumerate(timeline.kinds):
        if after[n] < before[n] and kind.device_us:
            kinds.append(n)
            becomes.append(kind.device_us * after[n] / before[n])
    left = costs.compiled_host_left if name == "compiled" else 1.0
    return Evidence(kinds=tuple(kinds), becomes_us=tuple(becomes), host_left=left)


def along(costs: KindCosts, before: Sequence[KernelKind], after: Sequence[KernelKind]) -> KindCosts:
    """The costs with columns along the kinds of a later timeline, which has other kinds in another order.

    before: the kinds that the columns run along. A kind that is not among them takes the same time in each
    column: what a change would make of it is not known.
    """
    places = {_same(kind): n for n, kind in enumerate(before)}
    found = [(places.get(_same(kind)), kind.device_us or 0.0) for kind in after]
    columns = {name: column(costs, name) for name in ORDER}
    return replace(
        costs,
        **{
            f"{name}_us": tuple(own if n is None else values[n] for n, own in found)
            for name, values in columns.items()
            if values
        },
    )


def _same(kind: KernelKind) -> tuple[str, ...]:
    """What tells a kind from others, apart from its times."""
    return kind.name, kind.op, kind.family, kind.shape, kind.dtype
