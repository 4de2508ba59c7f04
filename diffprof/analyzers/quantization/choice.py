"""Which linears to quantize with which scheme: the best predicted total above the accuracy floor."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from diffprof.analyzers.quantization.published import PublishedList
from diffprof.analyzers.quantization.schemes import SCHEMES, Scheme
from diffprof.analyzers.quantization.source import (
    Named,
    QuantizeCall,
    Setting,
    filter_source,
    fqn_to_config_source,
    plain_name,
    script,
    skipped_by_diffusers,
    torchao_config_source,
)
from diffprof.model.recording import LinearRow, PublishedComparison, SchemeTiming, Selection


@dataclass
class Candidate:
    """One layer. uses: index of a row -> calls in one pipeline call. sqnr_db: scheme -> measured noise ratio,
    for the schemes that were measured."""

    component: str
    layer: Named
    uses: dict[int, int]
    itemsize: int
    adapter: bool = False
    quantized: str | None = None
    sqnr_db: dict[str, float] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"{self.component}.{self.layer.name}" if self.layer.name else self.component


@dataclass(frozen=True)
class Gain:
    """What quantizing one layer with one scheme saves in a pipeline call, in microseconds."""

    scheme: str
    us: float
    spread_us: float

    @property
    def clear(self) -> bool:
        return self.us > 0 and self.us > self.spread_us


def gains(candidate: Candidate, rows: Sequence[LinearRow], mode: str) -> list[Gain]:
    """Every scheme that was timed for all shapes of a layer, best first."""
    if candidate.adapter or candidate.quantized or not candidate.uses:
        return []
    found = []
    for key in SCHEMES:
        total = noise = 0.0
        for index, calls in candidate.uses.items():
            timing = rows[index].timing(key, mode)
            if timing is None or timing.gain_us is None:
                break
            total += calls * timing.gain_us
            noise += calls * (timing.gain_spread_us or 0.0)
        else:
            found.append(Gain(key, total, noise))
    return sorted(found, key=lambda gain: -gain.us)


@dataclass
class SchemeChoice:
    """The outcome. schemes: index of the candidate -> its scheme; refused: index -> (scheme, dB) of layers
    that would gain but are too sensitive; small: that would gain, but too little to be worth code."""

    schemes: dict[int, Gain] = field(default_factory=dict)
    refused: dict[int, tuple[str, float]] = field(default_factory=dict)
    small: set[int] = field(default_factory=set)

    @property
    def saves_us(self) -> float:
        return sum(gain.us for gain in self.schemes.values())


SMALLEST_PART = 0.001
"""Of the call: a component and scheme that saves less is not worth a line of code."""


def choose(
    candidates: Sequence[Candidate],
    rows: Sequence[LinearRow],
    mode: str,
    min_sqnr_db: float,
    call_us: float | None = None,
) -> SchemeChoice:
    """For each layer the scheme that saves most among those that clearly save and keep the floor.

    Layers do not depend on each other, so the best set is the best scheme of each; but a scheme that saves
    less than SMALLEST_PART of the call in a component is not used there. A scheme without a measured noise
    ratio is not chosen.
    """
    unused: set[tuple[str, str]] = set()
    while True:
        choice = _best_of_each(candidates, rows, mode, min_sqnr_db, unused)
        saved: dict[tuple[str, str], float] = {}
        for index, gain in choice.schemes.items():
            part = (candidates[index].component, gain.scheme)
            saved[part] = saved.get(part, 0.0) + gain.us
        small = [part for part, us in saved.items() if us < SMALLEST_PART * (call_us or 0.0)]
        if not small:
            return choice
        unused.add(min(small, key=lambda part: saved[part]))


def _best_of_each(
    candidates: Sequence[Candidate],
    rows: Sequence[LinearRow],
    mode: str,
    min_sqnr_db: float,
    unused: set[tuple[str, str]],
) -> SchemeChoice:
    choice = SchemeChoice()
    for index, candidate in enumerate(candidates):
        for gain in gains(candidate, rows, mode):
            noise = candidate.sqnr_db.get(gain.scheme)
            if not gain.clear or noise is None:
                continue
            if noise < min_sqnr_db:
                choice.refused.setdefault(index, (gain.scheme, noise))
            elif (candidate.component, gain.scheme) not in unused:
                choice.schemes[index] = gain
                choice.refused.pop(index, None)
                break
            else:
                choice.small.add(index)
    return choice


# --- rows with their verdicts --------------------------------------------------------------------------


def judged_rows(
    rows: Sequence[LinearRow],
    candidates: Sequence[Candidate],
    choice: SchemeChoice,
    mode: str,
    published: PublishedList,
    components: Sequence[str],
) -> tuple[LinearRow, ...]:
    """The rows with scheme, verdict and reason. components: those that the published list is about."""
    users: dict[int, list[int]] = {}
    for number, candidate in enumerate(candidates):
        for index in candidate.uses:
            users.setdefault(index, []).append(number)
    return tuple(
        _judged(row, users.get(index, []), candidates, choice, mode, published, components)
        for index, row in enumerate(rows)
    )


def _judged(
    row: LinearRow,
    users: Sequence[int],
    candidates: Sequence[Candidate],
    choice: SchemeChoice,
    mode: str,
    published: PublishedList,
    components: Sequence[str],
) -> LinearRow:
    chosen = [number for number in users if number in choice.schemes]
    refused = [number for number in users if number in choice.refused]
    small = any(number in choice.small and number not in choice.schemes for number in users)
    best = best_timing(row, mode)
    scheme = choice.schemes[chosen[0]].scheme if chosen else best.scheme if best else None
    noises = {
        candidates[number].path: candidates[number].sqnr_db[scheme]
        for number in users
        if scheme is not None and scheme in candidates[number].sqnr_db
    }
    worth_it: bool | None = bool(chosen)
    if row.timings is None or best is None:
        worth_it = None
    return msgspec.structs.replace(
        row,
        scheme=scheme,
        worth_it=worth_it,
        why=_why(row, users, chosen, [choice.refused[n] for n in refused], best, small),
        sqnr_db=noises,
        published=published.verdict(row.in_features, row.out_features, row.kind)
        if not row.adapter and any(candidates[number].component in components for number in users)
        else None,
    )


def best_timing(row: LinearRow, mode: str) -> SchemeTiming | None:
    """The scheme that saves most (or costs least) in a mode."""
    timed = [t for t in row.timings or () if t.mode == mode and t.gain_us is not None]
    return max(timed, key=lambda t: (t.rows is None, t.gain_us or 0.0), default=None)


def _why(
    row: LinearRow,
    users: Sequence[int],
    chosen: Sequence[int],
    refused: Sequence[tuple[str, float]],
    best: SchemeTiming | None,
    small: bool,
) -> str:
    if row.adapter:
        return "part of a LoRA adapter: fuse it into the weights instead of quantizing it"
    if row.quantized:
        return f"quantized already ({row.quantized})"
    if row.timings is None:
        return "not timed: the time budget was spent on shapes with a larger share"
    if best is None:
        reasons = sorted({t.why_not for t in row.timings if t.why_not})
        return "no scheme is available here: " + "; ".join(reasons) if reasons else "no scheme was timed"
    told = describe(best)
    if chosen and len(chosen) == len(users):
        return told
    if chosen:
        return f"{told}; {len(users) - len(chosen)} of {len(users)} layers left out"
    if refused:
        worst = min(noise for _, noise in refused)
        return f"{told}, but its noise ratio is {worst:.1f} dB, under the floor"
    if small:
        return f"{told}, but all such layers together save less than {SMALLEST_PART:.1%} of the call"
    return told


def describe(timing: SchemeTiming) -> str:
    """`int8-dynamic is 1.42 times as fast (saves 120 us a call)`."""
    speedup = timing.speedup or 0.0
    gain = timing.gain_us or 0.0
    noise = timing.gain_spread_us or 0.0
    sliced = f" (settled on {timing.rows} rows)" if timing.rows else ""
    if gain > noise and gain > 0:
        return f"{timing.scheme} is {speedup:.2f} times as fast: {gain:,.1f} us less a call"
    if -gain > noise or timing.rows:
        slower = 1 / speedup if speedup else float("inf")
        return f"no gain: the best scheme, {timing.scheme}, is {slower:.2f} times slower{sliced}"
    return (
        f"no clear gain: {timing.scheme} differs by {gain:,.1f} us a call, less than its spread of "
        f"{noise:,.1f}"
    )


# --- the choice in writing -----------------------------------------------------------------------------


def selections(
    candidates: Sequence[Candidate],
    everything: Mapping[str, Sequence[Named]],
    choice: SchemeChoice,
    setting: Setting,
    adapters: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Selection, ...]:
    """One selection for each component and scheme, the one that saves most first.

    everything: component -> all its linears and 1x1 convolutions, called or not. adapters: component -> names
    of those that belong to LoRA adapters.
    """
    grouped: dict[tuple[str, str], list[int]] = {}
    for index, gain in choice.schemes.items():
        grouped.setdefault((candidates[index].component, gain.scheme), []).append(index)
    found = []
    for (component, key), indexes in grouped.items():
        chosen = [candidates[index].layer for index in indexes]
        scheme = SCHEMES[key]
        every = everything[component]
        library, why_not = _torchao_config(
            scheme, chosen, every, setting, bool(adapters and adapters.get(component))
        )
        found.append(
            Selection(
                component=component,
                scheme=key,
                modules=tuple(layer.name for layer in chosen),
                config=scheme.config,
                filter_source=filter_source(chosen, every),
                snippet=script([_part_of(component, scheme, chosen, every)], setting),
                fqn_to_config=_fqn_to_config(scheme, chosen),
                torchao_config=library,
                no_torchao_config=why_not,
                saves_ms=sum(choice.schemes[index].us for index in indexes) / 1e3,
                saves_bytes=sum(saved_bytes(candidates[index], scheme) for index in indexes),
            )
        )
    return tuple(sorted(found, key=lambda selection: -selection.saves_ms))


def whole_script(
    picked: Sequence[Selection], everything: Mapping[str, Sequence[Named]], setting: Setting
) -> str | None:
    """All selections in one script, in the known order; None where there is none."""
    parts = []
    for selection in picked:
        every = everything[selection.component]
        wanted = set(selection.modules)
        chosen = [layer for layer in every if layer.name in wanted]
        parts.append(_part_of(selection.component, SCHEMES[selection.scheme], chosen, every))
    return script(parts, setting) if parts else None


def _part_of(component: str, scheme: Scheme, chosen: Sequence[Named], every: Sequence[Named]) -> QuantizeCall:
    return QuantizeCall(
        component=component,
        scheme=scheme.key,
        chosen=chosen,
        everything=every,
        config=scheme.config,
        imports=scheme.imports,
        apply=scheme.apply,
    )


def saved_bytes(candidate: Candidate, scheme: Scheme) -> int:
    """Bytes of weights less, not counting the scales (one a row or group)."""
    weights = candidate.layer.in_features * candidate.layer.out_features
    return int(weights * (candidate.itemsize - scheme.weight_bits / 8))


def _fqn_to_config(scheme: Scheme, chosen: Sequence[Named]) -> str | None:
    if scheme.family != "torchao":
        return None
    return fqn_to_config_source([_name_when_quantized(layer) for layer in chosen], scheme.config)


def _name_when_quantized(layer: Named) -> str:
    return f"{layer.name}.mod" if layer.kind == "conv1x1" else layer.name


def _torchao_config(
    scheme: Scheme, chosen: Sequence[Named], every: Sequence[Named], setting: Setting, adapted: bool
) -> tuple[str | None, str | None]:
    """diffusers' form, or why it can't say the same. It quantizes while loading, before anything is fused."""
    if scheme.family != "torchao":
        return None, "diffusers quantizes with torchao only at loading"
    if setting.fuse_qkv:
        return None, "it quantizes at loading, before the projections can be fused"
    if adapted or setting.fuse_lora:
        return None, "it quantizes at loading, before a LoRA can be fused"
    if any(layer.kind == "conv1x1" for layer in chosen):
        return None, "it quantizes at loading, before convolutions can be swapped"
    wanted = {layer.name for layer in chosen}
    kept = [plain_name(layer.name) for layer in every if layer.kind == "linear" and layer.name not in wanted]
    lost = [name for name in sorted(wanted) if skipped_by_diffusers(name, kept)]
    if lost:
        return None, f"modules_to_not_convert matches parts of names, and would leave out {lost[0]} too"
    return torchao_config_source(scheme.config, kept), None


# --- beside the published list -------------------------------------------------------------------------


def _part(agreed: float, other: float) -> float | None:
    return agreed / (agreed + other) if agreed + other else None


def _original_us(row: LinearRow, mode: str) -> float:
    """Time of one call of the original, as timed beside the schemes; by slice or not at all: 0."""
    times = [t.original_us for t in row.timings or () if t.mode == mode and t.original_us and t.rows is None]
    return times[0] if times else 0.0


def published_schemes(
    candidates: Sequence[Candidate], published: PublishedList, components: Sequence[str]
) -> dict[int, str]:
    """Candidate -> scheme, for the layers that the published recipe quantizes in these components."""
    return {
        index: published.scheme
        for index, candidate in enumerate(candidates)
        if candidate.component in components
        and not candidate.adapter
        and published.quantizes(
            candidate.layer.in_features, candidate.layer.out_features, candidate.layer.kind
        )
    }


def compare_published(
    rows: Sequence[LinearRow],
    candidates: Sequence[Candidate],
    choice: SchemeChoice,
    mode: str,
    published: PublishedList,
    components: Sequence[str],
) -> PublishedComparison | None:
    """The choice and the published list over the (K, N) of these components; None where no shape is known.

    A (K, N) counts as chosen where most of its calls are of chosen layers. saves_ms is the sum over layers.
    """
    votes: Counter[tuple[int, int]] = Counter()
    time: defaultdict[tuple[bool, bool], float] = defaultdict(float)
    theirs: set[tuple[int, int]] = set()
    recipe = published_schemes(candidates, published, components)
    total, timed = 0.0, False
    for index, candidate in enumerate(candidates):
        if candidate.component not in components or candidate.adapter or not candidate.uses:
            continue
        shape = (candidate.layer.in_features, candidate.layer.out_features)
        calls = sum(candidate.uses.values())
        votes[shape] += calls if index in choice.schemes else -calls
        spent = sum(n * _original_us(rows[row], mode) for row, n in candidate.uses.items())
        time[index in choice.schemes, index in recipe] += spent
        if index in recipe:
            theirs.add(shape)
            here = [gain.us for gain in gains(candidate, rows, mode) if gain.scheme == recipe[index]]
            total, timed = total + sum(here), timed or bool(here)
    ours = {shape for shape, vote in votes.items() if vote > 0}
    if not published.seen & set(votes):
        return None
    agreed = ours & theirs
    return PublishedComparison(
        source=published.source,
        setup=published.setup,
        agreed=tuple(sorted(agreed)),
        only_ours=tuple(sorted(ours - theirs)),
        only_published=tuple(sorted(theirs - ours)),
        precision=len(agreed) / len(ours) if ours else None,
        recall=len(agreed) / len(theirs) if theirs else None,
        precision_by_time=_part(time[True, True], time[True, False]),
        recall_by_time=_part(time[True, True], time[False, True]),
        saves_ms=total / 1e3 if timed else None,
        published_gain=published.gain,
    )
