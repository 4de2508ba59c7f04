"""What a pipeline is predicted to take on a GPU that is not here: one row a device, mode and batch."""

from __future__ import annotations

import msgspec


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Simulated figures of one call. seconds and what follows from it: None where nothing can be told, or the
    call does not fit the device; why says so.

    bound: what the call waits for most: compute, memory or host. origin: share of the device's time by where
    kernel times come from. range: seconds at least and at most, by that origin.
    """

    device: str
    gpu: str
    mode: str
    batch: int
    steps: int | None
    seconds: float | None = None
    per_step_ms: float | None = None
    images_per_s: float | None = None
    seconds_per_image: float | None = None
    peak_gib: float | None = None
    weights_gib: float | None = None
    memory_gib: float | None = None
    """Of the device."""
    fits: bool | None = None
    waits: int | None = None
    """Times that the host waits for the device, in the call and in its denoising loop."""
    waits_in_loop: int | None = None
    bound: str | None = None
    origin: dict[str, float] = {}
    range: tuple[float, float] | None = None
    per_thousand: float | None = None
    """Cost of 1,000 images, in the currency of the price."""
    gpus: int = 1
    parallel: str | None = None
    """How tokens are split over several GPUs: ulysses, ring or unified."""
    communication: float | None = None
    """Share of the device's time that collectives take."""
    why: str = ""
    grade: str = "simulated"
