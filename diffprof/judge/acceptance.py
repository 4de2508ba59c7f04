"""Whether a fix stays: a judgement on what was measured, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffprof.model.fix import Difference, Safety
from diffprof.model.recording import Grade
from diffprof.views.words import milliseconds, number, plural, size

SIMULATED_NOISE = 0.001
"""A simulated time that differs by less than this share is the same: host code of a fix is not priced op by
op, and a shim's few operations are no loss."""

MEASURED_NOISE = 0.01
"""The same of a measured time, whatever the spread of its few passes says."""

NEAR = 0.25
"""A gain of less than this share is timed again, in turn with the state before."""

FAR = 2.0
"""A loss of more than this share is not: other load on the machine does not make it."""


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


def judged(
    safety: Safety,
    tolerance: float | None,
    goal: str,
    before: Measured,
    after: Measured,
    difference: Difference,
    seen: Seen,
    own_noise: float = 0.0,
) -> tuple[bool, str]:
    """(keep it, why). own_noise: a change of the output that says nothing, of run to run or of rounding."""
    broken = _output(safety, tolerance, difference, own_noise)
    if broken:
        return False, broken
    noise = before.noise(after)
    gained = before.ms - after.ms
    if not _agree(before, after, gained):
        noise = max(noise, abs(gained))
    if goal == "memory":
        keep, why = _memory(before, after, gained, noise)
    else:
        keep, why = _time(safety, gained, noise, before, seen)
    if keep and difference.why_not and safety is not Safety.LOSSY:
        why += f" That the output is {_claim(safety, tolerance)} rests on nothing: {difference.why_not}."
    if keep and own_noise and difference.bit_equal is False and safety is not Safety.LOSSY:
        changed = difference.max_abs if difference.max_abs is not None else difference.latents_max_abs
        why += f" The output changed by up to {changed:.2g}: rounding alone makes {own_noise:.2g}."
    return keep, why


def _agree(before: Measured, after: Measured, gained: float) -> bool:
    """Whether the fastest passes tell the same as the medians: other load on the machine makes passes slower,
    never faster."""
    if not (before.passes and after.passes):
        return True
    fastest = (min(before.passes) - min(after.passes)) * 1e3
    return abs(fastest) > MEASURED_NOISE * before.ms and (fastest > 0) == (gained > 0)


def _output(safety: Safety, tolerance: float | None, difference: Difference, own_noise: float) -> str:
    """Why the change of the output is more than the fix may do; empty where it is not."""
    if safety is Safety.LOSSY:
        return ""
    if difference.bit_equal is False and difference.why_not:
        return f"It changed the output: {difference.why_not}."
    if difference.why_not or difference.bit_equal:
        return ""
    changed = difference.max_abs if difference.max_abs is not None else difference.latents_max_abs
    if safety is Safety.EXACT:
        if own_noise and max(difference.max_abs or 0.0, difference.latents_max_abs or 0.0) <= own_noise:
            return ""
        how = "" if changed is None else f" by up to {changed:.2g}"
        if difference.max_abs == 0.0 and difference.latents_max_abs:
            how = f": the latents by up to {difference.latents_max_abs:.2g}"
        return f"It changed the output{how}, and should be bit-identical."
    if tolerance is not None and changed is not None and not changed <= max(tolerance, own_noise):
        return f"It changed the output by up to {changed:.2g}, more than the {tolerance:g} that it may."
    return ""


def _claim(safety: Safety, tolerance: float | None) -> str:
    return "bit-identical" if safety is Safety.EXACT else f"within {tolerance:g}"


def _time(safety: Safety, gained: float, noise: float, before: Measured, seen: Seen) -> tuple[bool, str]:
    share = f"{gained / before.ms:.1%}" if before.ms else "0%"
    fewer = _fewer_compiles(seen)
    if gained <= noise and fewer:
        return _once(gained, noise, fewer, seen)
    if gained > noise:
        return True, f"It saves {milliseconds(gained)} of {milliseconds(before.ms)}, {share}.{_waits(seen)}"
    if gained < -noise:
        return False, f"It is {milliseconds(-gained)} slower, of {milliseconds(before.ms)}."
    if safety is Safety.EXACT and (seen.resolved or _fewer(seen)):
        found = f" {', '.join(seen.resolved)} no longer found." if seen.resolved else ""
        return True, f"No time gained, at no cost.{_waits(seen)}{found}"
    if safety is Safety.EXACT:
        return False, "It gained no time, and what it is for is still found."
    return False, f"It gained no time beyond {number(noise)} ms, and could change the output for nothing."


def _once(gained: float, noise: float, fewer: int, seen: Seen) -> tuple[bool, str]:
    """A fix that keeps code from being compiled again: what that saves once, against what each call loses."""
    took = "" if seen.once_ms is None else f", which took {milliseconds(seen.once_ms)}"
    saved = f"{plural(fewer, 'compile')} fewer in a process, {seen.compiles_after} left{took}."
    more = (seen.breaks_after or 0) - (seen.breaks_before or 0)
    if more > 0:
        return False, f"{saved[0].upper()}{saved[1:]} But the graph has {plural(more, 'more break')} instead."
    if gained >= -noise:
        return True, f"A call takes as long; {saved}"
    lost = f"A call takes {milliseconds(-gained)} longer; {saved}"
    calls = None if seen.once_ms is None else int(seen.once_ms / -gained)
    if calls is None:
        return False, f"{lost} Nothing says after how many calls that is lost."
    return calls >= EVEN_CALLS, f"{lost} That is lost after {plural(calls, 'call')}."


def _fewer_compiles(seen: Seen) -> int:
    if seen.compiles_before is None or seen.compiles_after is None:
        return 0
    return max(0, seen.compiles_before - seen.compiles_after)


def _memory(before: Measured, after: Measured, gained: float, noise: float) -> tuple[bool, str]:
    if before.memory_bytes is None or after.memory_bytes is None:
        return False, "Memory is not measured on this device, so nothing says that it helps."
    saved = before.memory_bytes - after.memory_bytes
    cost = f", for {milliseconds(-gained)} more per call" if gained < -noise else ""
    if saved <= before.memory_bytes * SIMULATED_NOISE:
        return False, "It saves no memory."
    return True, f"It saves {size(saved)} of {size(before.memory_bytes)}{cost}."


def _fewer(seen: Seen) -> bool:
    return (
        seen.in_loop_before is not None
        and seen.in_loop_after is not None
        and seen.in_loop_after < seen.in_loop_before
    )


def _waits(seen: Seen) -> str:
    if not _fewer(seen):
        return ""
    assert seen.in_loop_after is not None
    left = plural(seen.in_loop_after, "blocking operation")
    return f" {left} in the loop, {seen.in_loop_before} before."
