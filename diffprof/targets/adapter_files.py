"""LoRA files that are not here, where a pipeline is built without weights: adapters of assumed shapes."""

from __future__ import annotations

import functools
import inspect
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from diffprof.devices.simulated.host_placeholders import weight_stand_in
from diffprof.model.callsite import asked_at
from diffprof.model.pipeline import Pipeline, replaced
from diffprof.model.recording import Unseen

RANK = 64
"""Of an adapter whose file is not here: what distilled weights of few steps are published with."""
ADAPTED = ("to_q", "to_k", "to_v", "to_out.0")
"""Linears that it changes: what diffusers' training scripts adapt where they are told nothing."""

Load = Callable[..., Any]


@contextmanager
def loras_stand_in(unseen: list[Unseen], *, empty: bool) -> Iterator[None]:
    """Inside, `load_lora_weights` of a file that can't be had loads an adapter of RANK on ADAPTED instead,
    which `unseen` then tells. empty: whether its weights take no memory."""
    from diffusers.loaders import lora_pipeline

    with ExitStack() as undo:
        for owner in vars(lora_pipeline).values():
            load = vars(owner).get("load_lora_weights") if isinstance(owner, type) else None
            if load is not None:
                undo.enter_context(
                    replaced(owner, "load_lora_weights", _or_stand_in(load, unseen, empty=empty))
                )
        yield


def _or_stand_in(load: Load, unseen: list[Unseen], *, empty: bool) -> Load:
    named = list(inspect.signature(load).parameters)[1]

    @functools.wraps(load)
    def load_lora_weights(self: Pipeline, *args: object, **kwargs: object) -> object:
        weights, args = (args[0], args[1:]) if args else (kwargs.pop(named), ())
        try:
            return load(self, weights, *args, **kwargs)
        except Exception as error:
            made = _adapter(self, empty=empty) if _is_absent(weights, error) else {}
            if not made:
                raise
        file = kwargs.get("weight_name")
        why = (
            f"{file or 'its file'} is not on this machine, and the hub does not give it: the one that stands "
            f"in changes {len(made) // 2} linears of attention; with the file in the cache it is loaded"
        )
        what = f"the LoRA {weights}, for which one of rank {RANK} stands in"
        unseen.append(Unseen(what=what, why=why, site=asked_at(), kind="left-out"))
        return load(self, made, *args, **kwargs)

    return load_lora_weights


def _is_absent(weights: object, error: Exception) -> bool:
    """Whether reading a file that is no local one failed."""
    reading = any(frame.name == "_fetch_state_dict" for frame in traceback.extract_tb(error.__traceback__))
    return reading and isinstance(weights, str | os.PathLike) and not os.path.exists(weights)


def _adapter(pipe: Pipeline, *, empty: bool) -> dict[str, torch.Tensor]:
    """What a file holds of an adapter for the denoiser that the pipeline's loader looks at."""
    prefix: str = getattr(pipe, "transformer_name", "") or getattr(pipe, "unet_name", "unet")
    denoiser = getattr(pipe, prefix, None)
    if denoiser is None:
        return {}
    linears = {
        path.removesuffix(".base_layer"): module
        for path, module in denoiser.named_modules()
        if isinstance(module, torch.nn.Linear) and path.removesuffix(".base_layer").endswith(ADAPTED)
    }
    make = _stand_in if empty else torch.randn
    return {
        f"{prefix}.{path}.lora_{side}.weight": make(shape, dtype=denoiser.dtype)
        for path, linear in linears.items()
        for side, shape in (("A", (RANK, linear.in_features)), ("B", (linear.out_features, RANK)))
    }


def _stand_in(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    return weight_stand_in(torch.empty(shape, dtype=dtype, device="meta"))
