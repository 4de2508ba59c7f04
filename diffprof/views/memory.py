"""Who holds the device's memory when most is in use, and how much is in use over the call."""

from __future__ import annotations

from collections.abc import Sequence

from diffprof.model.recording import MemoryHolder, MemoryKind, MemoryUse, Recording
from diffprof.model.units import number, place, plural, size
from diffprof.views.table import MOST_ROWS, Table
from diffprof.views.words import spark

CURVE = 60
"""Cells of the curve."""

KINDS = {
    MemoryKind.WEIGHTS: "weights",
    MemoryKind.IDLE_WEIGHTS: "weights, idle then",
    MemoryKind.ACTIVATIONS: "activations",
    MemoryKind.WORKSPACE: "workspace",
    MemoryKind.AUTOCAST: "autocast's copies of weights",
    MemoryKind.OTHER: "there before, no model's",
}

COLUMNS = ("size", "what", "module", "made in", "tensor", "line")


def memory_table(recording: Recording) -> Table | None:
    """The peak, by who holds it."""
    memory = recording.memory
    if memory is None or not memory.at_peak:
        return None
    rows = tuple(holder_row(each) for each in memory.at_peak[:MOST_ROWS])
    rest = memory.at_peak[MOST_ROWS:]
    note = f"at most {size(memory.peak_bytes)}, {peak_words(memory)} ({memory.grade})"
    if rest:
        note += f"; {plural(len(rest), 'smaller row')}, {size(sum(each.bytes for each in rest))}, not shown"
    if memory.host_bytes:
        note += f"; the host keeps {size(memory.host_bytes)} of weights"
    if memory.curve:
        note += f"; over the call: {curve(memory)}"
    return Table("Memory at the peak", COLUMNS, rows, note)


def peak_words(memory: MemoryUse) -> str:
    """`in decode, while vae.decoder.conv_out ran`."""
    if memory.peak_phase is None:
        return "in all that was recorded"
    step = "" if memory.peak_step is None else f", step {memory.peak_step + 1}"
    module = "" if memory.peak_module is None else f", while {memory.peak_module} ran"
    return f"in {memory.peak_phase}{step}{module}"


def holder_row(holder: MemoryHolder) -> tuple[str, ...]:
    """As COLUMNS has it."""
    return (
        size(holder.bytes),
        KINDS[holder.kind],
        holder.module or "",
        holder.phase or "",
        _tensor(holder),
        place(holder.site) if holder.site else "",
    )


def _tensor(holder: MemoryHolder) -> str:
    shape = "" if holder.shape is None else " " + "x".join(map(str, holder.shape))
    if holder.count > 1 and not holder.dtype:
        return plural(holder.count, "block")
    count = f"{number(holder.count)} of " if holder.count > 1 else ""
    return f"{count}{holder.dtype or ''}{shape}".strip()


def curve(memory: MemoryUse) -> str:
    """Bytes in use over the call, the most of each stretch."""
    return spark(_stretched([point.bytes for point in memory.curve], CURVE))


def _stretched(values: Sequence[int], cells: int) -> list[int]:
    if len(values) <= cells:
        return list(values)
    return [max(values[n * len(values) // cells : (n + 1) * len(values) // cells]) for n in range(cells)]
