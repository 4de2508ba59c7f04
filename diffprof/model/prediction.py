"""What a pipeline is predicted to take on a GPU that is not here: one row a device, mode and batch; and where
that is stored."""

from __future__ import annotations

from pathlib import Path

import msgspec

from diffprof.model.results import load_result, save_result

PREDICTION_FILE = "prediction.json"


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Simulated figures of one call. seconds and what follows from it: None where nothing can be told, or the
    call does not fit the device; why says so.

    bound: what the call waits for most: compute, memory, host, or link (to the host or to other GPUs).
    origin: share of the device's time by where kernel times come from. range: seconds at least and at most,
    by that origin.
    """

    device: str
    gpu: str
    mode: str
    batch: int
    steps: int | None
    """Denoising steps that the call was asked for; None: its own."""
    makes: str | None = None
    """What a call makes: "image" or "clip"; None where it is neither, or unknown."""
    dtype: str | None = None
    """The denoiser's, as the target has it; a mode may quantize its linears."""
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
    """Times that the CPU waits for the device, in the call and in its denoising loop."""
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


class Predictions(msgspec.Struct, frozen=True, kw_only=True):
    """What one command predicted."""

    target: str
    rows: tuple[Prediction, ...] = ()

    @property
    def device(self) -> str:
        """All of them."""
        return ", ".join(dict.fromkeys(row.device for row in self.rows))


def save_predictions(predictions: Predictions, folder: Path) -> Path:
    """Write `prediction.json` into a folder that is there; returns its path.

    Raises DiffprofError when the disk does not take it.
    """
    return save_result(predictions, folder / PREDICTION_FILE)


def load_predictions(folder: Path) -> Predictions | None:
    """The predictions that are stored in a folder; None where there are none.

    Raises UsageError when they can't be read.
    """
    return load_result(folder / PREDICTION_FILE, Predictions, "predict")
