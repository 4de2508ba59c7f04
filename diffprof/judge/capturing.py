"""Whether the steps of a call can be captured as one CUDA graph: not where the CPU waits for the GPU.

While a stream is captured, what would make the CPU wait is an error (CUDA programming guide, "Prohibited and
unhandled operations"): reading a value, copying between host and device, asking for a size that the device
computes, `synchronize`. Python itself may decide what it likes: it runs once, the graph repeats what it did.
"""

from __future__ import annotations

from collections.abc import Iterator

from diffprof.model.recording import Recording, SyncRow
from diffprof.model.units import plural


def in_the_way(recording: Recording) -> list[SyncRow] | None:
    """Waits in the denoising loop, those of most steps first; None where no wait was looked for."""
    if recording.syncs is None:
        return None
    rows = [row for row in recording.syncs if row.in_loop]
    return sorted(rows, key=lambda row: (-sum(map(bool, row.by_step)), -row.count))


def capturable_said(recording: Recording) -> Iterator[str]:
    """In a sentence, with the line that stands in the way first; nothing where nobody can tell."""
    rows, steps = in_the_way(recording), recording.target.steps
    if rows is None or not steps:
        return
    what = f"{plural(steps, 'step')} as one CUDA graph"
    if not rows:
        yield f"{what}: capturable, no line in the loop makes the CPU wait."
        return
    first, others = rows[0], len({(row.site.file, row.site.line) for row in rows}) - 1
    more = f", and {plural(others, 'line')} more" if others else ""
    yield f"{what}: not capturable, because of {first.site.file}:{first.site.line} ({first.kind}){more}."
