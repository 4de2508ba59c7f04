"""What can be done so that a call fits: each recipe a value, all of them for one pipeline and device."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from diffprof.gpu.offload import ModelWeights, WeightsPlace
from diffprof.gpu.specs import GpuSpec
from diffprof.model.fitting import Loss

WORTH_PACKING = 1 << 30
"""Bytes from which on a text encoder is quantized with the denoiser."""


class Decoding(enum.StrEnum):
    """How the VAE decodes."""

    WHOLE = "whole"
    TILES = "tiles"
    SLICES = "slices"

    @property
    def method(self) -> str:
        """`enable_tiling`, `enable_slicing`."""
        return {"tiles": "tiling", "slices": "slicing"}[self.value]


class Quantized(enum.StrEnum):
    """How the linears of denoisers and large text encoders are stored. dynamic: and computed."""

    INT8 = "int8"
    FP8 = "fp8"
    INT8_WEIGHTS = "int8-weights"
    NF4_WEIGHTS = "nf4-weights"

    @property
    def dynamic(self) -> bool:
        """Whether activations are quantized as well, which pays compiled."""
        return self in (Quantized.INT8, Quantized.FP8)


SCHEME_OF = {
    Quantized.INT8: "int8",
    Quantized.FP8: "fp8",
    Quantized.INT8_WEIGHTS: "int8_weight_only",
    Quantized.NF4_WEIGHTS: "nf4",
}
"""Names in `diffprof.gpu.quantized`."""


class Placement(enum.StrEnum):
    """Where weights are."""

    DEVICE = "device"
    TEXT = "text-encoders-streamed"
    """Text encoders leaf by leaf, all else on the device: nothing of them stands there in the loop."""
    MODEL = "model"
    BLOCK = "block"
    LEAF = "leaf"
    BLOCK_LOW = "block-low-cpu"
    LEAF_LOW = "leaf-low-cpu"
    SEQUENTIAL = "sequential"

    def places(self, parts: Sequence[ModelWeights]) -> dict[str, WeightsPlace]:
        """By model."""
        if self is Placement.DEVICE:
            return {}
        if self is Placement.TEXT:
            return {part.name: WeightsPlace.LEAF for part in parts if part.role == "text_encoder"}
        left = self.left_out(parts)
        return {part.name: WeightsPlace(self.value) for part in parts if part.name not in left}

    def left_out(self, parts: Sequence[ModelWeights]) -> tuple[str, ...]:
        """Models that stay on the device, as they do not run offloaded so."""
        return tuple(part.name for part in parts if self in STREAMS and not part.in_groups)


BLOCKS = (Placement.BLOCK, Placement.BLOCK_LOW)
LOW = (Placement.BLOCK_LOW, Placement.LEAF_LOW)
STREAMS = (Placement.BLOCK, Placement.LEAF, Placement.BLOCK_LOW, Placement.LEAF_LOW)


class FitRecipe(NamedTuple):
    """One of them. dtype: that weights are put in, where it is not the target's own."""

    dtype: str | None
    quantized: Quantized | None
    placement: Placement
    decoding: Decoding
    compiled: bool

    def steps(self) -> tuple[str, ...]:
        """As `key:value`, in the order in which they are done; none where nothing is changed."""
        named = {
            "dtype": self.dtype,
            "quantize": self.quantized,
            "offload": None if self.placement is Placement.DEVICE else self.placement,
            "vae": None if self.decoding is Decoding.WHOLE else self.decoding,
            "compile": "denoiser" if self.compiled else None,
        }
        return tuple(f"{key}:{value}" for key, value in named.items() if value is not None)

    def scheme(self, part: ModelWeights) -> Quantized | None:
        """With which the linears of a model would be quantized."""
        if self.quantized is not None and self.quantized.dynamic and part.role != "denoiser":
            return Quantized.INT8_WEIGHTS
        return self.quantized

    def quantizes(self, part: ModelWeights) -> bool:
        """Whether the linears of a model are quantized."""
        scheme = self.scheme(part)
        if scheme is None or not part.linears or overflows(scheme, part):
            return False
        if part.role != "text_encoder":
            return part.role == "denoiser"
        # Hooks of groups bring a tensor without asking it, and bitsandbytes' are packed when they are asked.
        streamed = self.placement is Placement.TEXT and self.quantized is Quantized.NF4_WEIGHTS
        return part.nbytes >= WORTH_PACKING and not streamed

    def comes(self, part: ModelWeights) -> bool:
        """Whether each layer of a model has its weights when it is called. A layer that the one before did
        not prefetch, as at its second call, or after a module's first call of two, is brought where its
        weight says that it is on the CPU; torchao's says the device of its first call
        (`GroupOffloadingHook.pre_forward`)."""
        leaves = self.placement.places((part,)).get(part.name) is WeightsPlace.LEAF
        return part.evenly or not leaves or not self.quantizes(part)

    def packing(self, part: ModelWeights) -> ModelWeights:
        """A model that is quantized, with the linears that this is done to. The type of weights in four bits
        is that of bytes, and a model makes its input of that type where it asks for a weight's."""
        if self.quantized is not Quantized.NF4_WEIGHTS:
            return part
        return replace(part, linears={p: w for p, w in part.linears.items() if p not in part.wide})


def recipes(
    parts: Sequence[ModelWeights],
    spec: GpuSpec,
    dtype: str | None,
    decodings: Collection[Decoding],
    *,
    compilable: bool,
) -> Iterator[FitRecipe]:
    """All that make sense together. dtype: what the weights were put in for this run."""
    for quantized in (None, *_schemes(parts, spec)):
        for placement in _placements(parts, quantized):
            for compiled in (False, True) if compilable else (False,):
                if not _go_together(quantized, placement, compiled):
                    continue
                for decoding in decodings:
                    recipe = FitRecipe(dtype, quantized, placement, decoding, compiled)
                    if all(recipe.comes(part) for part in parts):
                        yield recipe


def _schemes(parts: Sequence[ModelWeights], spec: GpuSpec) -> Iterator[Quantized]:
    denoisers = [part for part in parts if part.role == "denoiser" and part.linears]
    for each in Quantized if denoisers else ():
        units = not each.dynamic or each.value in spec.peak
        if units and not any(overflows(each, part) for part in denoisers):
            yield each


def overflows(scheme: Quantized, part: ModelWeights) -> bool:
    """Whether products leave the range of their type. torchao multiplies by the integers of INT8 and rounds
    to the type of the input before it scales: where a row's largest weight is 0.1, a result of 52 is infinite
    in float16 (diffusion-fast, issue 1: "you overflow the fp16 range before the rescale")."""
    return part.float16 and scheme in (Quantized.INT8, Quantized.INT8_WEIGHTS)


def _placements(parts: Sequence[ModelWeights], quantized: Quantized | None) -> Iterator[Placement]:
    for placement in Placement:
        if placement is Placement.TEXT and not any(part.role == "text_encoder" for part in parts):
            continue
        if placement in BLOCKS and not all(part.in_blocks for part in parts):
            continue
        if placement in STREAMS and not all(part.in_groups for part in parts if part.role == "denoiser"):
            continue
        if placement is Placement.SEQUENTIAL and not all(part.in_layers for part in parts):
            continue
        # bitsandbytes' weights stay where they were packed: hooks move models of them whole.
        if quantized is Quantized.NF4_WEIGHTS and placement in (*STREAMS, Placement.SEQUENTIAL):
            continue
        # accelerate moves parameter by parameter and knows nothing of tensors that wrap others; to keep their
        # host copies unpinned, diffusers keeps the parameters themselves, which then go to the device.
        if quantized is not None and placement in (Placement.SEQUENTIAL, *LOW):
            continue
        yield placement


def _go_together(quantized: Quantized | None, placement: Placement, compiled: bool) -> bool:
    if quantized is not None and quantized.dynamic and not compiled:
        return False
    return not (compiled and (placement in STREAMS or placement is Placement.SEQUENTIAL))


def losses(recipe: FitRecipe) -> tuple[Loss, ...]:
    """What the picture loses."""
    found: list[Loss] = []
    if recipe.dtype is not None or recipe.compiled or recipe.decoding is Decoding.SLICES:
        found.append(Loss.ROUNDING)
    if recipe.quantized is not None:
        found.append(Loss(recipe.quantized.value))
    if recipe.decoding is Decoding.TILES:
        found.append(Loss.TILES)
    return tuple(found)
