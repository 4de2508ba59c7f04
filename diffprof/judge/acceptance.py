"""Whether a fix stays: a judgement on what was measured, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from diffprof.model.fix import Difference, Reason, Safety
from diffprof.model.recording import Grade

SIMULATED_NOISE = 0.001
"""A simulated time that differs by less than this share is the same: host code of a fix is not priced op by
op, and a shim's few operations are no loss."""

MEASURED_NOISE = 0.01
"""The same of a measured time, whatever the spread of its few passes says."""

NEAR = 0.25
"""A gain of less than this share is timed again, in turn with the state before."""

FAR = 2.0
"""A loss of more than this share is not: other load on the machine does not make it."""


LOSSY_GAIN = 0.01
"""Share of the call that a fix has to save that changes the picture."""

MAY_COST = 0.02
"""Share of the call that an exact fix may cost under the goal no-waits."""

EVEN_CALLS = 100
"""A fix that saves compiles may make each call slower if it takes so many calls to lose what it saved."""


@dataclass(frozen=True)
class Measured:
    """One state of a pipeline. ms: one call; spread_ms: half the interquartile range of the passes, None
    where simulated; passes: each of them, seconds. memory_bytes: the peak, on an accelerator."""

    ms: float
    grade: Grade
    spread_ms: float | None = None
    memory_bytes: int | None = None
    passes: tuple[float, ...] = field(default=())

    def noise(self, other: Measured) -> float:
        """A smaller difference between the two is none."""
        if self.grade is Grade.SIMULATED:
            return SIMULATED_NOISE * self.ms
        return max(self.spread_ms or 0.0, other.spread_ms or 0.0, MEASURED_NOISE * self.ms)


@dataclass(frozen=True)
class Seen:
    """What the scans before and after a fix found. in_loop: blocking operations in the denoising loop;
    compiles: how often compiled code is compiled again; breaks: distinct graph breaks; None where nobody
    looked. once_ms: of the compiles that the fix is for, once in a process; None where not timed."""

    in_loop_before: int | None = None
    in_loop_after: int | None = None
    compiles_before: int | None = None
    compiles_after: int | None = None
    breaks_before: int | None = None
    breaks_after: int | None = None
    once_ms: float | None = None
    resolved: tuple[str, ...] = ()
    remaining: tuple[str, ...] = ()


def too_close(before: Measured, after: Measured) -> bool:
    """Whether the two should be timed again: for a gain that is small, and for a loss."""
    if before.grade is not Grade.MEASURED:
        return False
    gained = before.ms - after.ms
    return -FAR * before.ms <= gained <= max(2.0 * before.noise(after), NEAR * before.ms)


@dataclass(frozen=True)
class Figures:
    """What a decision rests on; None and empty where it has no part in it. changed, allowed: largest
    absolute difference of the output (0..1), or of the latents if in_latents; rounding: of it what says
    nothing. why_unknown: why nothing was compared. fewer_compiles, calls: after how many calls what those
    took is lost."""

    before_ms: float = 0.0
    gained_ms: float = 0.0
    noise_ms: float = 0.0
    changed: float | None = None
    allowed: float | None = None
    in_latents: bool = False
    rounding: float = 0.0
    why_unknown: str = ""
    seen: Seen = field(default_factory=Seen)
    fewer_compiles: int = 0
    calls: int | None = None
    saved_bytes: int = 0
    of_bytes: int = 0


@dataclass(frozen=True)
class Decision:
    """Whether a fix stays, what decides, and the figures. unchecked: it would help, but nothing says what it
    does to the output; `keep` is then what the caller allowed."""

    keep: bool
    reason: Reason
    figures: Figures
    unchecked: bool = False


def accept(
    safety: Safety,
    tolerance: float | None,
    goal: str,
    before: Measured,
    after: Measured,
    difference: Difference,
    seen: Seen,
    own_noise: float = 0.0,
    *,
    keep_unchecked: bool = False,
) -> Decision:
    """Whether a fix stays. own_noise: a change of the output that says nothing, of run to run or of
    rounding. keep_unchecked: also where the output could not be compared."""
    gained = before.ms - after.ms
    noise = before.noise(after)
    if not _agree(before, after, gained):
        noise = max(noise, abs(gained))
    changed = _changed(difference)
    figures = Figures(
        before_ms=before.ms,
        gained_ms=gained,
        noise_ms=noise,
        changed=changed,
        allowed=tolerance if safety is Safety.NUMERIC else None,
        in_latents=difference.max_abs == 0.0 and bool(difference.latents_max_abs),
        rounding=0.0 if safety is Safety.LOSSY or difference.bit_equal is not False else own_noise,
        why_unknown=difference.why_not or "",
        seen=seen,
        fewer_compiles=_fewer_compiles(seen),
    )
    if _is_broken(safety, tolerance, difference, own_noise):
        return Decision(keep=False, reason=Reason.CHANGED, figures=figures)
    found = _memory(before, after, figures) if goal == "memory" else _time(safety, goal, figures)
    if found.keep and difference.why_not:
        return replace(found, keep=keep_unchecked, unchecked=True)
    return found


def _agree(before: Measured, after: Measured, gained: float) -> bool:
    """Whether the fastest passes tell the same as the medians: other load on the machine makes passes slower,
    never faster."""
    if not (before.passes and after.passes):
        return True
    fastest = (min(before.passes) - min(after.passes)) * 1e3
    return abs(fastest) > MEASURED_NOISE * before.ms and (fastest > 0) == (gained > 0)


def _changed(difference: Difference) -> float | None:
    if difference.max_abs == 0.0 and difference.latents_max_abs:
        return difference.latents_max_abs
    return difference.max_abs if difference.max_abs is not None else difference.latents_max_abs


def _is_broken(safety: Safety, tolerance: float | None, difference: Difference, own_noise: float) -> bool:
    """Whether the change of the output is more than the fix may do."""
    if safety is Safety.LOSSY:
        return False
    if difference.why_not or difference.bit_equal is not False:
        return difference.bit_equal is False
    if safety is Safety.EXACT:
        largest = max(difference.max_abs or 0.0, difference.latents_max_abs or 0.0)
        return not (own_noise and largest <= own_noise)
    changed = difference.max_abs if difference.max_abs is not None else difference.latents_max_abs
    return tolerance is not None and changed is not None and not changed <= max(tolerance, own_noise)


def _time(safety: Safety, goal: str, figures: Figures) -> Decision:
    gained, noise, seen = figures.gained_ms, figures.noise_ms, figures.seen
    exact = safety is Safety.EXACT
    helps = bool(seen.resolved) or fewer_waits(seen)
    if gained <= noise and figures.fewer_compiles:
        return _once(figures)
    if safety is Safety.LOSSY and noise < gained < LOSSY_GAIN * figures.before_ms:
        return Decision(keep=False, reason=Reason.TOO_LITTLE, figures=figures)
    if gained > noise:
        return Decision(keep=True, reason=Reason.FASTER, figures=figures)
    if (
        goal == "no-waits"
        and exact
        and fewer_waits(seen)
        and -noise > gained >= -MAY_COST * figures.before_ms
    ):
        return Decision(keep=True, reason=Reason.STATED_COST, figures=figures)
    if gained < -noise:
        return Decision(keep=False, reason=Reason.SLOWER, figures=figures)
    if exact:
        return Decision(keep=helps, reason=Reason.NO_COST if helps else Reason.STILL_FOUND, figures=figures)
    return Decision(keep=False, reason=Reason.NO_GAIN, figures=figures)


def _once(figures: Figures) -> Decision:
    """A fix that keeps code from being compiled again: what that saves once, against what each call loses."""
    seen = figures.seen
    if (seen.breaks_after or 0) > (seen.breaks_before or 0):
        return Decision(keep=False, reason=Reason.MORE_BREAKS, figures=figures)
    if figures.gained_ms >= -figures.noise_ms:
        return Decision(keep=True, reason=Reason.FEWER_COMPILES, figures=figures)
    calls = None if seen.once_ms is None else int(seen.once_ms / -figures.gained_ms)
    keep = calls is not None and calls >= EVEN_CALLS
    reason = Reason.FEWER_COMPILES if keep else Reason.COMPILES_LOST
    return Decision(keep=keep, reason=reason, figures=replace(figures, calls=calls))


def _fewer_compiles(seen: Seen) -> int:
    if seen.compiles_before is None or seen.compiles_after is None:
        return 0
    return max(0, seen.compiles_before - seen.compiles_after)


def _memory(before: Measured, after: Measured, figures: Figures) -> Decision:
    if before.memory_bytes is None or after.memory_bytes is None:
        return Decision(keep=False, reason=Reason.MEMORY_UNKNOWN, figures=figures)
    saved = before.memory_bytes - after.memory_bytes
    figures = replace(figures, saved_bytes=saved, of_bytes=before.memory_bytes)
    saves = saved > before.memory_bytes * SIMULATED_NOISE
    return Decision(keep=saves, reason=Reason.SAVES_MEMORY if saves else Reason.NO_MEMORY, figures=figures)


def fewer_waits(seen: Seen) -> bool:
    """Whether fewer operations in the loop block the CPU than before."""
    return (
        seen.in_loop_before is not None
        and seen.in_loop_after is not None
        and seen.in_loop_after < seen.in_loop_before
    )
