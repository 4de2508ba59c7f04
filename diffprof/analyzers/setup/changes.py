"""What a simulated call would take with changes of its setup, alone and together: those that fixes make."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from diffprof.analyzers.setup.attention_modules import fusable
from diffprof.analyzers.setup.compiling import denoiser_calls_per_step
from diffprof.devices.simulated.relaid import NotRelaid
from diffprof.gpu.assembly import GUARD_SHARE, Relaid
from diffprof.gpu.whatif import WhatIf
from diffprof.judge.pricing import is_removed
from diffprof.judge.setup_costs import BUILT_ON, HALF_COMPILED, half_shows_compiled, most_first
from diffprof.judge.steps import steps_of
from diffprof.model.pipeline import Pipeline
from diffprof.model.recording import (
    Alternative,
    Change,
    Grade,
    KindCosts,
    SetupPart,
    SyncRow,
    Timeline,
    Unseen,
)

LAYOUT_SHARE = 0.02
"""Share of the device's time from which conversions of layout are looked into."""

CONVERSIONS = ("nchwToNhwc", "nhwcToNchw")
"""Kernels that cuDNN runs around convolutions of the other order."""

PLAIN = (Change.TF32, Change.SDPA, Change.ATTENTION, Change.QKV, Change.CHANNELS_LAST, Change.COMPILED)
LOSSY = (Change.HALF, *PLAIN[1:], Change.INT8)
"""What a plan makes together, in the order of application, without and with what changes the image."""


class Costed(NamedTuple):
    """Parts of the section `setup`, and what could not be told."""

    costs: KindCosts | None = None
    alternatives: tuple[Alternative, ...] | None = None
    unseen: tuple[Unseen, ...] = ()


def costed(
    kernels: Any,
    timeline: Timeline,
    pipe: Pipeline,
    parts: Sequence[SetupPart],
    roots: tuple[str, ...],
    syncs: Sequence[SyncRow] = (),
    card_steps: int | None = None,
    changes: Collection[Change] | None = None,
) -> Costed:
    """The call with each change made that a finding may ask for. changes: of those the ones to look at.

    kernels: of the simulated call, a SimulatedKernels. roots: components that are compiled when the pipeline
    is. syncs: its waits. card_steps: of the model card's call, where fewer were made.
    """
    asked = {change for change in _asked(parts) if changes is None or change in changes}
    relaid: tuple[Relaid, ...] | None = None
    unseen: tuple[Unseen, ...] = ()
    if Change.CHANNELS_LAST in asked and _converts(timeline):
        try:
            relaid = kernels.calls.relaid(kernels.names)
        except NotRelaid as error:
            unseen = (Unseen(what="what torch.channels_last would save", why=str(error)),)
    fused: tuple[Relaid, ...] = ()
    with suppress(NotRelaid):  # then by arithmetic alone
        fused = kernels.calls.fused(kernels.names)
    graphs = (denoiser_calls_per_step(timeline) or 1) == 1
    builder = kernels.builder
    apart = {f"{name}.{path}" if path else name for name, paths in fusable(pipe).items() for path in paths}
    whatif = WhatIf(builder.cut, builder.assembly, roots, apart, relaid, fused, graphs)
    compiled = timeline.mode != "eager"
    possible = [change for change in Change if change in asked and whatif.changes_anything(change)]
    more = max((card_steps or 0) - len(steps_of(timeline)), 0)
    found = {made: _alternative(whatif, made, syncs, more) for made in _alone(possible, compiled)}
    told = {made: each.ms for made, each in found.items()}
    if not compiled and Change.COMPILED in possible and half_shows_compiled(told):
        found[HALF_COMPILED] = _alternative(whatif, HALF_COMPILED, syncs, more)
    for made in _together(possible, compiled, _saved(found)):
        if made not in found:
            found[made] = _alternative(whatif, made, syncs, more)
    costs = KindCosts(
        grade=Grade.SIMULATED,
        half=str(whatif.altered.dtype).removeprefix("torch."),
        projections=whatif.projections,
        compiled_host_left=GUARD_SHARE if roots else 1.0,
    )
    return Costed(costs, tuple(found.values()), unseen)


def _alternative(whatif: WhatIf, made: frozenset[Change], syncs: Sequence[SyncRow], more: int) -> Alternative:
    def without_ms(rows: Sequence[int]) -> float:
        whole = [n for n in rows if is_removed(syncs[n])]
        return whatif.total_us(*made, waits=rows, reads=whole) / 1e3

    ms = whatif.total_us(*made) / 1e3
    moved = [n for n, row in enumerate(syncs) if row.offload]
    looped = [n for n, row in enumerate(syncs) if row.in_loop or row.offload]
    card_us = whatif.with_steps_us(*made, more=more) if more else None
    return Alternative(
        changes=tuple(change for change in Change if change in made),
        ms=ms,
        without_waits_ms=without_ms(looped) if looped else ms,
        without_offload_ms=without_ms(moved) if moved else None,
        card_ms=None if card_us is None else card_us / 1e3,
    )


def _converts(timeline: Timeline) -> bool:
    kinds = {n for n, kind in enumerate(timeline.kinds) if kind.name in CONVERSIONS}
    spent = sum(us for kind, us in zip(timeline.kind, timeline.device_us, strict=True) if kind in kinds)
    return spent > LAYOUT_SHARE * sum(timeline.device_us)


def _asked(parts: Sequence[SetupPart]) -> Iterator[Change]:
    """Changes that a finding may ask for."""
    if any(("float32" in part.dtypes and not part.quantized) or part.force_upcast for part in parts):
        yield Change.HALF
    yield from (Change.TF32, Change.CHANNELS_LAST)
    if any(part.unfused for part in parts):
        yield Change.SDPA
    yield Change.ATTENTION
    if any(part.fusable for part in parts):
        yield Change.QKV
    denoisers = [part for part in parts if part.role == "denoiser" and part.compiled is None]
    if denoisers:
        yield Change.COMPILED
        yield Change.INT8
    if any(part.repeated for part in denoisers):
        yield Change.COMPILED_BLOCKS


def _alone(possible: Sequence[Change], compiled: bool) -> Iterator[frozenset[Change]]:
    """None, and each alone. INT8 is for what is compiled, as the call may be."""
    yield frozenset()
    for change in possible:
        if compiled or change is not Change.INT8:
            yield frozenset({change})
    if {Change.COMPILED, Change.INT8} <= set(possible):
        yield frozenset({Change.COMPILED, Change.INT8})


def _saved(alone: Mapping[frozenset[Change], Alternative]) -> dict[Change, float]:
    """Change -> milliseconds that it saves alone, on top of what it is built on."""
    found: dict[Change, float] = {}
    for made, alternative in alone.items():
        for change in made:
            if made - {change} in alone and (len(made) == 1 or change in BUILT_ON):
                found.setdefault(change, alone[made - {change}].ms - alternative.ms)
    return found


def _together(
    possible: Sequence[Change], compiled: bool, saved: Mapping[Change, float]
) -> Iterator[frozenset[Change]]:
    """Those of a plan together: in the order in which they are applied, and in that in which they are listed,
    by what they save. With and without channels_last, which a plan leaves out where it compiles."""
    every = frozenset(possible)
    if {Change.HALF, Change.CHANNELS_LAST} <= every:
        yield frozenset({Change.HALF, Change.CHANNELS_LAST})
    for able in (every, every - {Change.CHANNELS_LAST}):
        plain = most_first([change for change in PLAIN if change in able], saved)
        kept = [change for change in plain if change in LOSSY]
        more = most_first([change for change in (Change.HALF, Change.INT8) if change in able], saved)
        for plan in (PLAIN, LOSSY, plain, [*kept, *more]):
            made = frozenset[Change]()
            for change in plan:
                if change in able and (change is not Change.INT8 or compiled or Change.COMPILED in made):
                    made |= {change}
                    yield made
