"""Why a fix was kept or undone, in words."""

from __future__ import annotations

from collections.abc import Callable

from diffprof.judge.acceptance import MAY_COST, Decision, Figures, fewer_waits
from diffprof.model.fix import Code, Reason
from diffprof.model.units import milliseconds, number, plural, size


def said(decision: Decision) -> str:
    """The reason with its figures, in sentences."""
    figures = decision.figures
    text = _WORDS[decision.reason](figures)
    if decision.unchecked:
        done = "Kept although that" if decision.keep else "Not kept: that"
        text += f" {done} could not be checked: {figures.why_unknown}."
        text += "" if decision.keep else " --keep-unchecked keeps it."
    elif decision.keep and figures.rounding and figures.changed is not None:
        text += f" The output changed by up to {figures.changed:.2g}: rounding alone makes "
        text += f"{figures.rounding:.2g}."
    return text


def python_said(ratio: float | None, code: Code) -> str:
    """What the Python of a fix costs, and how long it is where it interprets the code around it."""
    cost = "" if ratio is None else f" Python outside of the models takes {ratio:.2f} times what it took."
    return cost + (f" An interpreter of {plural(code.lines, 'line')} over private API." if code.shim else "")


def _changed(figures: Figures) -> str:
    if figures.why_unknown:
        return f"It changed the output: {figures.why_unknown}."
    by = "" if figures.changed is None else f" by up to {figures.changed:.2g}"
    if figures.allowed is not None:
        return f"It changed the output{by}, more than the {figures.allowed:g} that it may."
    by = f": the latents{by}" if figures.in_latents else by
    return f"It changed the output{by}, and should be bit-identical."


def _faster(figures: Figures) -> str:
    gained, before = figures.gained_ms, figures.before_ms
    share = f"{gained / before:.1%}" if before else "0%"
    return f"It saves {milliseconds(gained)} of {milliseconds(before)}, {share}.{_waits(figures)}"


def _slower(figures: Figures) -> str:
    return f"It is {milliseconds(-figures.gained_ms)} slower, of {milliseconds(figures.before_ms)}."


def _stated_cost(figures: Figures) -> str:
    return f"{_slower(figures)} To be rid of waits, it may cost {MAY_COST:.0%}.{_waits(figures)}"


def _no_cost(figures: Figures) -> str:
    found = f" {', '.join(figures.seen.resolved)} no longer found." if figures.seen.resolved else ""
    return f"No time gained, at no cost.{_waits(figures)}{found}"


def _waits(figures: Figures) -> str:
    seen = figures.seen
    if not fewer_waits(seen) or seen.in_loop_after is None:
        return ""
    left = plural(seen.in_loop_after, "blocking operation")
    return f" {left} in the loop, {seen.in_loop_before} before."


def _compiles(figures: Figures) -> str:
    seen = figures.seen
    took = "" if seen.once_ms is None else f", which took {milliseconds(seen.once_ms)}"
    return (
        f"{plural(figures.fewer_compiles, 'compile')} fewer in a process, {seen.compiles_after} left{took}."
    )


def _fewer_compiles(figures: Figures) -> str:
    if figures.gained_ms >= -figures.noise_ms:
        return f"A call takes as long; {_compiles(figures)}"
    return _compiles_lost(figures)


def _compiles_lost(figures: Figures) -> str:
    lost = f"A call takes {milliseconds(-figures.gained_ms)} longer; {_compiles(figures)}"
    if figures.calls is None:
        return f"{lost} Nothing says after how many calls that is lost."
    return f"{lost} That is lost after {plural(figures.calls, 'call')}."


def _more_breaks(figures: Figures) -> str:
    more = (figures.seen.breaks_after or 0) - (figures.seen.breaks_before or 0)
    text = _compiles(figures)
    return f"{text[0].upper()}{text[1:]} But the graph has {plural(more, 'more break')} instead."


def _saves_memory(figures: Figures) -> str:
    slower = figures.gained_ms < -figures.noise_ms
    cost = f", for {milliseconds(-figures.gained_ms)} more per call" if slower else ""
    return f"It saves {size(figures.saved_bytes)} of {size(figures.of_bytes)}{cost}."


_WORDS: dict[Reason, Callable[[Figures], str]] = {
    Reason.CHANGED: _changed,
    Reason.FASTER: _faster,
    Reason.SLOWER: _slower,
    Reason.STATED_COST: _stated_cost,
    Reason.NO_COST: _no_cost,
    Reason.STILL_FOUND: lambda _: "It gained no time, and what it is for is still found.",
    Reason.NO_GAIN: lambda figures: (
        f"It gained no time beyond {number(figures.noise_ms)} ms, and could change the output for nothing."
    ),
    Reason.TOO_LITTLE: lambda figures: (
        f"It saves {number(figures.gained_ms)} ms of {number(figures.before_ms)} ms, "
        f"{figures.gained_ms / figures.before_ms:.1%}: too little to change the picture for."
    ),
    Reason.FEWER_COMPILES: _fewer_compiles,
    Reason.COMPILES_LOST: _compiles_lost,
    Reason.MORE_BREAKS: _more_breaks,
    Reason.SAVES_MEMORY: _saves_memory,
    Reason.NO_MEMORY: lambda _: "It saves no memory.",
    Reason.MEMORY_UNKNOWN: lambda _: "Memory is not measured on this device, so nothing says that it helps.",
}
