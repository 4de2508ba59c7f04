"""What it takes to run a call within a memory limit: recipes with their price, and the one that is taken."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from diffprof.model.recording import Unseen
from diffprof.model.results import load_result, save_result

FIT_FILE = "fit.json"


class Loss(enum.StrEnum):
    """What the picture loses."""

    ROUNDING = "rounding"
    """In the last bits: half precision in place of float32, other kernels."""
    TILES = "tiles"
    """The picture is decoded in pieces that are blended."""
    INT8 = "int8"
    FP8 = "fp8"
    INT8_WEIGHTS = "int8-weights"
    NF4_WEIGHTS = "nf4-weights"


ROOM = 0.95
"""Share of the device's memory that a call may take: the driver's context takes some 0.5 GiB, and the
allocator's blocks leave gaps."""

LOSSLESS = (Loss.ROUNDING,)
"""What nobody sees."""

MILDEST = (LOSSLESS, (*LOSSLESS, Loss.TILES))
"""What a picture may lose, the least first: all weights as they are, decoded in pieces at most."""


_WORDS = {
    "quantize:int8": "INT8, dynamic",
    "quantize:fp8": "FP8, dynamic",
    "quantize:int8-weights": "INT8 weights",
    "quantize:nf4-weights": "NF4 weights",
    "offload:text-encoders-streamed": "text encoders streamed",
    "offload:model": "model offload",
    "offload:block": "group offload, blocks",
    "offload:leaf": "group offload, leaves",
    "offload:block-low-cpu": "group offload, blocks, low_cpu_mem_usage",
    "offload:leaf-low-cpu": "group offload, leaves, low_cpu_mem_usage",
    "offload:sequential": "sequential offload",
    "vae:tiles": "VAE in tiles",
    "vae:slices": "VAE in slices",
    "compile:denoiser": "denoiser compiled",
}


class FitCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What a recipe's code did to a small copy of the pipeline with random weights.

    status: checked, changed (the output is not what the recipe says), failed, unchecked. why: it failed or
    could not be run. psnr_db: of the output against that without the recipe.
    """

    status: str
    why: str = ""
    bit_equal: bool | None = None
    psnr_db: float | None = None

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the code."""
        return self.status in ("checked", "unchecked")


class FitRow(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe and its price, simulated.

    recipe: what is done, in order, in a few words each. seconds: of one call once everything is warm.
    gpu_gib: at most in use; host_gib: of weights in host memory. fits: with `ROOM` of the memory to spare.
    phase: in which most is in use. frontier: no other that fits is better in every respect. code: of a module
    with `optimize(pipe)`. check: None where it was not asked for.
    """

    recipe: tuple[str, ...]
    seconds: float | None
    gpu_gib: float
    host_gib: float
    fits: bool
    loses: tuple[Loss, ...] = ()
    phase: str = ""
    frontier: bool = False
    code: str = ""
    check: FitCheck | None = None

    @property
    def usable(self) -> bool:
        """Whether it fits, has a time, and nothing speaks against its code."""
        return self.fits and self.seconds is not None and (self.check is None or self.check.holds)

    @property
    def words(self) -> str:
        """`INT8 weights, model offload`."""
        return ", ".join(_WORDS.get(each) or each.removeprefix("dtype:") for each in self.recipe) or (
            "nothing changed"
        )

    def has(self, word: str) -> bool:
        """Whether a step's name or words have this in them, as `leaves`, `offload:model`."""
        return any(word.lower() in f"{step} {_WORDS.get(step, '')}".lower() for step in self.recipe)

    @property
    def lossless(self) -> bool:
        """Whether nobody sees what the picture loses."""
        return all(loss in LOSSLESS for loss in self.loses)


def choose(rows: Sequence[FitRow], lossy: bool) -> FitRow | None:
    """The fastest that can be used of those that lose nothing one sees, else of those that lose no more than
    tiles, else of all. rows: fastest first."""
    fitting = [row for row in rows if row.usable]
    for lost in () if lossy else MILDEST:
        if found := next((row for row in fitting if set(row.loses) <= set(lost)), None):
            return found
    return next(iter(fitting), None)


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """All recipes for one call, fastest first, and the one that is taken; None where none fits. emulated: the
    type of the denoisers' weights, where the GPU has no units for it. halved: why no recipe has half
    precision, where the call failed in it. left_out: what the user's code asks for and no price has. options:
    what else the command was given, as `diffprof.cli.scan.make_options` takes it."""

    target: str
    device: str
    gpu: str
    limit_gib: float
    host_limit_gib: float | None = None
    steps: int | None = None
    emulated: str | None = None
    halved: str = ""
    left_out: tuple[Unseen, ...] = ()
    rows: tuple[FitRow, ...] = ()
    chosen: FitRow | None = None
    grade: str = "simulated"
    options: dict[str, Any] = {}

    @property
    def usable_gib(self) -> float:
        """Of the limit."""
        return ROOM * self.limit_gib

    @property
    def lacking_gib(self) -> float:
        """How much more than there is the recipe takes that takes least; negative where it fits."""
        return self.smallest.gpu_gib - self.usable_gib

    @property
    def smallest(self) -> FitRow:
        """The recipe that takes least memory."""
        return min(self.rows, key=lambda row: row.gpu_gib)

    @property
    def lightest(self) -> FitRow:
        """Of the recipes that the GPU has room for, the one that keeps least in host memory."""
        rows = [row for row in self.rows if row.gpu_gib <= self.usable_gib]
        return min(rows, key=lambda row: row.host_gib)


def save_fit(found: Fitted, folder: Path) -> Path:
    """Write `fit.json` into a folder that is there; returns its path.

    Raises DiffprofError when the disk does not take it.
    """
    return save_result(found, folder / FIT_FILE)


def load_fit(folder: Path) -> Fitted | None:
    """What `diffprof fit` stored in a folder; None where there is none.

    Raises UsageError when it can't be read.
    """
    return load_result(folder / FIT_FILE, Fitted, "fit")
