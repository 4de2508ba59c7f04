"""Attention of a call, by shape, under every kernel that the device has for it."""

from __future__ import annotations

from diffprof.model.recording.row import Grade, Row


class AttentionTiming(Row, frozen=True, kw_only=True):
    """What one kernel takes for all calls of a shape."""

    backend: str
    """As diffusers' dispatcher names it: `_native_cudnn`, `_flash_3`."""
    grade: Grade
    us: float | None = None
    """All calls in one pipeline call; None where it can't compute them."""
    why_not: str | None = None
    installed: bool = True
    """PyTorch has it, or its library was found here."""


class AttentionRow(Row, frozen=True, kw_only=True):
    """Calls of scaled dot product attention by one component that are alike."""

    component: str
    heads: int
    """Of all sequences together."""
    queries: int
    """Tokens of one sequence."""
    keys: int
    size: int
    """Of a head of queries and keys."""
    value_size: int
    causal: bool = False
    masked: bool = False
    dtype: str
    count: int
    """Calls in one pipeline call."""
    now_us: float
    """All of them, as the call ran them."""
    kernel: str | None = None
    """What computed them, where that is known."""
    timings: tuple[AttentionTiming, ...] = ()

    def us(self, backend: str) -> float:
        """All calls under a backend; as they ran where it can't compute them."""
        found = next((each.us for each in self.timings if each.backend == backend), None)
        return self.now_us if found is None else found
