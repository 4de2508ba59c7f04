"""Operations that make the CPU wait for the device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from diffprof.model.recording.row import Row
from diffprof.model.recording.site import Site


class SyncRow(Row, frozen=True, kw_only=True):
    """All blocking operations of one kind at one site."""

    kind: str
    op: str
    reason: str
    source: str
    """Where PyTorch decides that the CPU waits (file and function)."""
    site: Site
    phase: str
    """encode, prepare, denoise, decode or postprocess."""
    part: str | None = None
    """Within a denoising step: denoiser, scheduler, callback, or None."""
    in_loop: bool
    count: int
    per_step: float = 0.0
    """Steady state: the median count of the steps between the first and the last; 0 outside the loop."""
    by_step: tuple[int, ...] = ()
    first_step_only: bool = False
    bytes: int = 0
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    values_known: bool = True
    assumed: str | None = None
    """The value that stood in for an unknown one, if any."""
    owner: str | None = None
    """`object.attribute` that lives on the wrong side, where that could be told."""
    owner_device: str | None = None
    """Where that attribute lives: `cpu` or `device`."""
    index: str | None = None
    """The device tensor that indexes a host table, as written at the site."""
    read: str | None = None
    """The local device tensor that Python reads, by its name at the site; None where it is an attribute's."""
    from_timesteps: bool | None = None
    """Whether the value that Python reads was computed from a scheduler's timesteps; None: unknown, as on a
    real device."""
    modules: tuple[str, ...] = ()
    """The modules in whose code it happened; `*` stands for numbers."""
    offload: bool = False
    """A hook of an offloading scheme moved it."""
    constant: bool | None = None
    """Whether every copy from this site carried the same bytes; None: once only, or too large to tell."""
    blocked_us: float | None = None
    """Host time spent in these waits, where a clock saw them."""
    witnesses: tuple[str, ...] = ()
    """Instruments that saw it: `dispatch`, `set_sync_debug_mode`, `trace`."""


def steady_per_step(rows: Iterable[SyncRow]) -> float:
    """Blocking operations in a step once the loop runs steadily: the median, over the steps between the
    first and the last, of what all these rows together do in a step."""
    steps: list[int] = []
    for row in rows:
        steps += [0] * (len(row.by_step) - len(steps))
        for step, count in enumerate(row.by_step):
            steps[step] += count
    return median(steady(steps)) if steps else 0.0


def steady(steps: Sequence[int]) -> Sequence[int]:
    """The steps between the first and the last; of two steps the second, of one that one."""
    return steps[1:-1] or steps[1:] or steps


def median(values: Iterable[float]) -> float:
    """The middle value, or the mean of the two in the middle. (`statistics` takes 20 ms to import.)"""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return float(ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2)
