"""The output of a call, and how far one output is from another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np
import torch

from diffprof.model.fix import Difference
from diffprof.model.pipeline import Pipeline, replaced, with_role
from diffprof.targets.pipeline_call import PipelineCall

WINDOW = 7
"""Pixels; side of the window in which SSIM compares."""
K1, K2 = 0.01, 0.03
"""Constants of SSIM: Wang et al., Image quality assessment, IEEE TIP 13(4), 2004."""


TF32 = ", the operands of float32 products cut to TF32's 10 bits of mantissa"
"""How an output came about on the CPU where the process lets products run in TF32."""


class Incomparable(Exception):
    """What a call gave holds no numbers; the message says what it is."""


@dataclass(frozen=True)
class Output:
    """image: values in 0..1, or None where the call gives latents; latents: what the VAE was given last, or
    the call's result where it is latents; how: in words, where not the pipeline as it is made it; where: what
    it ran on, where that is not the trial's device; whole: what was compiled for it is one graph each."""

    image: np.ndarray | None
    latents: torch.Tensor | None
    how: str = ""
    where: str = ""
    whole: bool = False

    @property
    def finite(self) -> bool:
        """Whether all of it is numbers."""
        return all(each is None or np.isfinite(np.asarray(each)).all() for each in (self.image, self.latents))


def output_of(call: PipelineCall) -> Output:
    """Make the call once, and keep what came of it.

    Raises Incomparable where the result holds nothing to compare.
    """
    with _decoded(call.pipe) as decoded:
        result = call.run()
    found = _values(result)
    if call.kwargs.get("output_type") == "latent":
        return Output(None, torch.as_tensor(found).detach().float().cpu())
    return Output(found, decoded[-1] if decoded else None)


def image_of(result: object) -> np.ndarray | None:
    """What `output_of` keeps of a call's result; None where that holds nothing to compare."""
    try:
        return _values(result)
    except Incomparable:
        return None


@contextmanager
def _decoded(pipe: Pipeline) -> Iterator[list[torch.Tensor]]:
    """Collects what the VAE decodes."""
    seen: list[torch.Tensor] = []

    def watching(decode: Callable[..., object]) -> object:
        def wrapped(latents: torch.Tensor, *args: object, **kwargs: object) -> object:
            if isinstance(latents, torch.Tensor):
                seen[:] = [latents.detach().float().cpu().clone()]
            return decode(latents, *args, **kwargs)

        return wrapped

    with ExitStack() as stack:
        for vae in with_role(pipe, "vae").values():
            stack.enter_context(replaced(vae, "decode", watching(vae.decode)))
        yield seen


def _values(result: object) -> np.ndarray:
    """The first thing in a pipeline's output that holds numbers, as an array in 0..1 or its own units."""
    kind = type(result).__name__
    if isinstance(result, torch.Tensor):
        return result.detach().float().cpu().numpy()
    if isinstance(result, np.ndarray):
        return np.asarray(result, dtype=np.float64)
    if hasattr(result, "getbands"):
        return np.asarray(result, dtype=np.float64) / 255.0
    if isinstance(result, list) and result:
        return np.stack([_values(each) for each in result]) if len(result) > 1 else _values(result[0])
    if is_dataclass(result) and not isinstance(result, type | dict):
        result = vars(result)
    parts = result.values() if isinstance(result, dict) else result if isinstance(result, tuple) else ()
    for part in parts:
        with suppress(Incomparable):
            return _values(part)
    raise Incomparable(f"the call gave a {kind}, which holds nothing to compare")


def difference(before: Output, after: Output, compared_on: str) -> Difference:
    """How far `after` is from `before`. PSNR is infinite, and left out, where they are equal."""
    if (before.image is None) != (after.image is None) or (
        before.image is not None and after.image is not None and before.image.shape != after.image.shape
    ):
        return Difference(
            compared_on=compared_on, bit_equal=False, why_not="the outputs are not of the same shape"
        )
    equal = []
    found: dict[str, Any] = {}
    if before.image is not None and after.image is not None:
        equal.append(np.array_equal(before.image, after.image, equal_nan=True))
        one: np.ndarray = before.image.astype(np.float64)
        other: np.ndarray = after.image.astype(np.float64)
        found["max_abs"] = _max_abs(one, other)
        found["psnr_db"] = psnr(one, other, 1.0)
        found["ssim"] = ssim(one, other, 1.0)
    if before.latents is not None and after.latents is not None:
        if before.latents.shape != after.latents.shape:
            equal.append(False)
        else:
            one, other = before.latents.double().numpy(), after.latents.double().numpy()
            equal.append(np.array_equal(one, other, equal_nan=True))
            found["latents_max_abs"] = _max_abs(one, other)
            peak = float(np.ptp(one[np.isfinite(one)])) if np.isfinite(one).any() else 0.0
            found["latents_psnr_db"] = psnr(one, other, peak)
            found["latents_ssim"] = ssim(np.moveaxis(one, 1, -1), np.moveaxis(other, 1, -1), peak)
    if not equal:
        return Difference(compared_on=compared_on, why_not="the call gives nothing that can be compared")
    return Difference(compared_on=compared_on, bit_equal=all(equal), **found)


def _max_abs(one: np.ndarray, other: np.ndarray) -> float:
    """Infinite where only one of two values is a number."""
    if (np.isfinite(one) != np.isfinite(other)).any():
        return math.inf
    return float(np.abs(np.nan_to_num(one) - np.nan_to_num(other)).max(initial=0.0))


def psnr(one: np.ndarray, other: np.ndarray, peak: float) -> float | None:
    """Peak signal-to-noise ratio, dB; None where it is infinite or can't be told."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()) or peak <= 0.0:
        return None
    error = float(np.mean((one - other) ** 2))
    return None if error == 0.0 else 10.0 * math.log10(peak**2 / error)


def ssim(one: np.ndarray, other: np.ndarray, peak: float) -> float | None:
    """Mean structural similarity over windows of 7x7 pixels, uniformly weighted; channels last, averaged.

    Wang et al. 2004, with the unbiased estimates of scikit-image. None for what is no image, or too small.
    """
    if one.ndim < 3 or min(one.shape[-3], one.shape[-2]) < WINDOW or peak <= 0.0:
        return None
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    planes = [
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(a.reshape(-1, *a.shape[-3:]), -1, 1))).double()
        for a in (one, other)
    ]
    x, y = (p.reshape(-1, 1, *p.shape[-2:]) for p in planes)

    def mean(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(values, WINDOW, stride=1)

    samples = WINDOW**2
    unbiased = samples / (samples - 1)
    mx, my = mean(x), mean(y)
    vx = unbiased * (mean(x * x) - mx * mx)
    vy = unbiased * (mean(y * y) - my * my)
    covariance = unbiased * (mean(x * y) - mx * my)
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    score = ((2 * mx * my + c1) * (2 * covariance + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(score.mean())
