"""What a report comes to: what a call costs, what it would cost, and what to do for it, in order."""

from __future__ import annotations

import msgspec

from diffprof.model.fix import Safety
from diffprof.model.recording import Grade, Site


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do. findings: indexes into Report.findings, the one that costs most first.

    fix: what `diffprof fix` applies; None where it has to be done by hand. saves_ms: what it shortens the
    call by after the actions before it; alone_ms: by itself. after_ms: the call with it and all before it.
    """

    findings: tuple[int, ...]
    rule: str
    title: str
    """Imperative."""
    place: str = ""
    """`file:line`, of a change at several lines `file:line, line`, with the number of further places; empty:
    it is how the pipeline is set up."""
    fix: str | None = None
    short: str = ""
    """What the fix is called in a sentence."""
    patch: bool = False
    """Whether the line stands in the user's own file, where `diffprof fix --patch` edits it."""
    safety: Safety | None = None
    saves_ms: float | None = None
    alone_ms: float | None = None
    after_ms: float | None = None
    grade: Grade | None = None
    once_ms: float | None = None
    """What is spent once in a process, not in every call: it is no part of `saves_ms`."""
    makes_room: bool = False
    """Of a call that does not fit: whether it is for its memory; its time is of no call that runs now."""
    once_compiled: bool = False
    """Saves nothing as long as the pipeline runs eagerly."""

    @property
    def changes_picture(self) -> bool:
        return self.safety is Safety.LOSSY


class Rest(msgspec.Struct, frozen=True, kw_only=True):
    """Findings that no action stands for: each saves less than `below_ms`, or an unknown amount."""

    findings: tuple[int, ...] = ()
    saves_ms: float | None = None
    """Of all whose saving is known, together; None where none is."""
    unknown: int = 0
    """Findings whose saving is not known."""
    hints: int = 0
    """Findings that are no defect, such as another model to take."""
    below_ms: float = 0.0


class ShortSteps(msgspec.Struct, frozen=True, kw_only=True):
    """Steps that the denoiser cuts short by a value that is unknown without weights, as what stood in for it
    decides."""

    site: Site
    """Where it is read."""
    steps: int
    of: int
    """Steps of the call."""
    whole_ms: float
    """The call if none were cut short, in milliseconds."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict, as data. Times are of one call, in milliseconds; None: no clock or timeline tells."""

    about: tuple[str, ...] = ()
    """Codes of rules, or their beginnings, that were asked for; empty: all."""
    call_ms: float | None = None
    kept_ms: float | None = None
    """With every action that leaves the picture as it is, or within a stated tolerance."""
    card_ms: float | None = None
    """As it is, at the steps of the model card, where the scan made fewer."""
    card_kept_ms: float | None = None
    """`kept_ms` at the steps of the model card."""
    lossy_ms: float | None = None
    """With those that change the picture as well; None where there is none."""
    card_lossy_ms: float | None = None
    """`lossy_ms` at the steps of the model card."""
    short_steps: ShortSteps | None = None
    """What decides how long the call is, where the times are those of one extreme."""
    margin: float | None = None
    """Of a simulated call: how far its time may be off either way, as a share, in nine of ten cases."""
    grade: Grade | None = None
    fits: bool | None = None
    """Whether the call fits into the device's memory; where it does not, its times are none that this device
    reaches. None: memory was not recorded."""
    needs_bytes: int | None = None
    lacks_bytes: int | None = None
    phase: str | None = None
    """Of a call that does not fit: what it needs at its peak, how much of that the device lacks, and where
    the peak is."""
    waits_in_loop: int | None = None
    """Operations in the denoising loop that make the CPU wait, per call; None: not looked for."""
    finding: int | None = None
    """Index into Report.findings of what the verdict is about; None where nothing was found."""
