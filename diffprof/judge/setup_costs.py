"""What changes of the setup would make of the call, as it was recorded: for pricing findings and plans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from msgspec.structs import replace

from diffprof.model.finding import Evidence
from diffprof.model.recording import Alternative, Change, Recording

T = TypeVar("T")

BUILT_ON = {Change.INT8: Change.COMPILED}
"""Changes that show in what another one makes."""

INCLUDES = {Change.QKV: Change.SDPA}
"""Changes that make another one as well: processors of fused projections compute attention in one kernel."""

HALF_COMPILED = frozenset({Change.COMPILED, Change.HALF})

LITTLE = 0.02
"""Share of the call from which half precision is told to save by itself."""

UNCOVERED = 0.01
"""Share of the compiled call from which waits that compiling uncovers are told."""

COLUMNS = {
    Change.HALF: ("now", "half"),
    Change.SDPA: ("half", "sdpa"),
    Change.QKV: ("sdpa", "qkv"),
    Change.COMPILED: ("qkv", "compiled"),
    Change.COMPILED_BLOCKS: ("qkv", "compiled"),
    Change.INT8: ("compiled", "int8"),
}
"""Columns of `KindCosts` before and after a change, in recordings of 0.1.0."""


def most_first(changes: Iterable[Change], saved: Mapping[Change, float]) -> list[Change]:
    """By what they save, a change after the one that it is built on or makes as well."""
    return after_their_base(
        sorted(changes, key=lambda change: -saved.get(change, 0.0)), lambda change: change
    )


def after_their_base(order: Iterable[T], change_of: Callable[[T], Change | None]) -> list[T]:
    """In this order, but each after what its change is built on or makes as well."""
    order = list(order)
    place = {change: each for each in order if (change := change_of(each)) is not None}
    for change, base in (*BUILT_ON.items(), *INCLUDES.items()):
        if change in place and base in place and order.index(place[change]) < order.index(place[base]):
            order.remove(place[change])
            order.insert(order.index(place[base]) + 1, place[change])
    return order


def with_changes(recording: Recording, changes: Iterable[Change]) -> Alternative | None:
    """The call with these changes made; None where one of them was not costed.

    Where all of them together were not, those that were (of as many, those that save most: what waits cost
    depends on them most), and each further one by what it makes of the call alone.
    """
    setup = recording.setup
    if setup is None or setup.alternatives is None:
        return None
    known = {frozenset(each.changes): each for each in setup.alternatives}
    left = frozenset(changes)
    together = (made for made in known if made <= left)
    first = max(together, key=lambda made: (len(made), -known[made].ms), default=None)
    if first is None:
        return None
    ratio, at_card = 1.0, known[first].card_ms
    for change in left - first:
        before = frozenset(base_of(recording, change))
        if before not in known or before | {change} not in known:
            return None
        without, made = known[before], known[before | {change}]
        ratio *= loaded_ms(made) / loaded_ms(without)
        card, base = made.card_ms, without.card_ms
        at_card = at_card * card / base if at_card and card and base else None
    found = known[first]
    alone, loaded = found.without_waits_ms, found.without_offload_ms
    return replace(
        found,
        ms=found.ms + (ratio - 1.0) * loaded_ms(found),
        without_waits_ms=None if alone is None else alone * ratio,
        without_offload_ms=None if loaded is None else loaded * ratio,
        card_ms=at_card,
    )


def base_of(recording: Recording, change: Change) -> tuple[Change, ...]:
    """What has to be made before it so that it shows; nothing where the call was recorded like that."""
    if recording.timeline is not None and recording.timeline.mode != "eager":
        return ()
    if change is Change.HALF and recording.setup is not None:
        told = {frozenset(each.changes): each.ms for each in recording.setup.alternatives or ()}
        return (Change.COMPILED,) if half_shows_compiled(told) and HALF_COMPILED in told else ()
    return (BUILT_ON[change],) if change in BUILT_ON else ()


def half_shows_compiled(told: Mapping[frozenset[Change], float]) -> bool:
    """Whether half precision saves so little of the eager call that the casts which it adds may outweigh it:
    only a run in half precision has them. told: milliseconds by changes."""
    now, half = told.get(frozenset()), told.get(frozenset({Change.HALF}))
    return now is not None and half is not None and now - half < LITTLE * now


def before_changes_ms(recording: Recording) -> float:
    """The call as it was recorded, as it was costed; nothing where it was not."""
    plain = with_changes(recording, ())
    return 0.0 if plain is None else plain.ms


def saved_ms(recording: Recording, change: Change) -> tuple[float, float] | None:
    """(what a change saves, of a call this long); None where it was not costed. Less than nothing where the
    call gets longer."""
    base = base_of(recording, change)
    before = with_changes(recording, base)
    after = with_changes(recording, (*base, change))
    return None if before is None or after is None else (before.ms - after.ms, before.ms)


def loaded_ms(call: Alternative) -> float:
    """How long a call takes with all weights on the device."""
    return call.ms if call.without_offload_ms is None else call.without_offload_ms


def cost_of_waits(call: Alternative) -> float:
    """Milliseconds that the waits of the loop add to a call, all of them together; offloading's apart."""
    return 0.0 if call.without_waits_ms is None else loaded_ms(call) - call.without_waits_ms


def uncovered_ms(recording: Recording) -> float | None:
    """What the waits of the loop cost once the call is compiled, where that is more than now by UNCOVERED of
    that call: it has less work queued to hide them."""
    now, compiled = with_changes(recording, ()), with_changes(recording, (Change.COMPILED,))
    if now is None or compiled is None:
        return None
    if now.without_offload_ms is None and any(row.offload for row in recording.syncs or ()):
        return None  # recorded before offloading was told apart: its waits are among them
    then = cost_of_waits(compiled)
    return then if then - cost_of_waits(now) > UNCOVERED * compiled.ms else None


def compile_fixes(recording: Recording) -> tuple[str, ...]:
    """The fixes that compile the denoisers, the one to try first in front; none where no denoiser is known to
    run eagerly."""
    parts = [part for part in recording.setup.parts if part.role == "denoiser"] if recording.setup else []
    eager = [part for part in parts if part.compiled is None]
    if not eager or (recording.timeline and recording.timeline.mode != "eager"):
        return ()
    repeated = any(part.repeated for part in eager)
    whole_first = recording.device.kind != "cpu" or not repeated
    return (*(("compile",) if whole_first else ()), *(("compile-blocks",) if repeated else ()))


def best_share(recording: Recording, change: Change) -> float | None:
    """The largest share of the call that a change saves, alone or on top of others; None where it was not
    costed."""
    alternatives = recording.setup.alternatives if recording.setup else None
    known = {frozenset(each.changes): each.ms for each in alternatives or ()}
    shares = [
        1.0 - ms / known[made - {change}]
        for made, ms in known.items()
        if change in made and known.get(made - {change})
    ]
    return max(shares, default=None)


def evidence(recording: Recording, change: Change) -> Evidence:
    """What a finding rests on that a change of the setup resolves. Empty where nothing is known of it."""
    if saved_ms(recording, change) is not None:
        return Evidence(change=change)
    return _of_columns(recording, change)


def _of_columns(recording: Recording, change: Change) -> Evidence:
    """In recordings of 0.1.0: the kinds that a change makes faster, with the time that they take then."""
    timeline = recording.timeline
    costs = recording.setup.costs if recording.setup else None
    if timeline is None or costs is None or change not in COLUMNS:
        return Evidence()
    before, after = (getattr(costs, f"{name}_us") for name in COLUMNS[change])
    if len(before) != len(timeline.kinds) or len(after) != len(timeline.kinds):
        return Evidence()
    kinds, becomes = [], []
    for n, kind in enumerate(timeline.kinds):
        if after[n] < before[n] and kind.device_us:
            kinds.append(n)
            becomes.append(kind.device_us * after[n] / before[n])
    left = costs.compiled_host_left if "compiled" in COLUMNS[change][1] else 1.0
    return Evidence(kinds=tuple(kinds), becomes_us=tuple(becomes), host_left=left)
