"""The values of a built-in architecture's call, which its file can only describe.

{"image": [width, height]}                       an RGB picture
{"image": [width, height], "mode": "RGBA"}       one of another mode
{"mask": [width, height]}                        a picture of one channel, all of it to be filled
{"tensor": [1, 512, 4096]}                       random values in the type of the denoiser, on the device
{"tensor": [1, 512], "dtype": "int64"}           ones of that type
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from diffprof.model.pipeline import Pipeline, with_role


def call_values(call: Mapping[str, object], pipe: Pipeline, device: torch.device) -> dict[str, object]:
    """The arguments of the call, with what is described made."""
    return {name: _value(value, pipe, device) for name, value in call.items()}


def _value(value: object, pipe: Pipeline, device: torch.device) -> Any:
    match value:
        case {"image": [width, height], **more}:
            return _ramp(width, height).convert(more.get("mode", "RGB"))
        case {"mask": [width, height]}:
            return _ramp(width, height).point(lambda _: 255)
        case {"tensor": shape, "dtype": dtype}:
            return torch.ones(shape, dtype=getattr(torch, dtype), device=device)
        case {"tensor": shape}:
            return torch.randn(shape, dtype=_dtype(pipe), device=device)
        case list():
            return [_value(each, pipe, device) for each in value]
    return value


def _dtype(pipe: Pipeline) -> torch.dtype:
    return next(iter(with_role(pipe, "denoiser").values())).dtype


def _ramp(width: int, height: int) -> Any:
    from PIL import Image

    return Image.linear_gradient("L").resize((width, height))
