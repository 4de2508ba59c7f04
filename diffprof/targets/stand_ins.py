"""Parts that stand in for what is no part of diffusers, or has a vocabulary that is not there."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from diffprof.targets.tokenizer import StandInTokenizer


class StandInSafetyChecker:
    """Finds everything safe, and takes no time: for pipelines that are not made or called without one."""

    is_stand_in = "finds everything safe, in no time"

    @classmethod
    def from_pretrained(cls, folder: str) -> StandInSafetyChecker:
        return cls()

    def to(self, *where: object, **more: object) -> StandInSafetyChecker:
        return self

    def check_text_safety(self, text: str) -> bool:
        return True

    def check_video_safety(self, frames: object) -> object:
        return frames


class transforms:
    """torchvision's module of that name, as far as masks are resized with it in models."""

    class InterpolationMode:
        NEAREST = "nearest"

    class functional:
        @staticmethod
        def resize(image: torch.Tensor, size: Sequence[int], interpolation: str) -> torch.Tensor:
            return torch.nn.functional.interpolate(image, size=list(size), mode=interpolation)


def supply(missing: Mapping[str, str]) -> None:
    """Give modules what they import only where a library is installed that is not. missing: what a module
    lacks then, as `package.module.name` -> what stands in, of this module."""
    for place, name in missing.items():
        module, _, attribute = place.rpartition(".")
        owner = importlib.import_module(module)
        if not hasattr(owner, attribute):
            setattr(owner, attribute, globals()[name])


class StandInProcessor:
    """Pictures as the model's own image processor prepares them, words as `StandInTokenizer` does.

    The mark of a picture in the text becomes as many tokens as its patches are merged to.
    """

    is_stand_in = "made-up token ids: no vocabulary files"

    def __init__(self, folder: Path, tokenizer: StandInTokenizer, mark: str = "<|image_pad|>") -> None:
        from transformers import AutoImageProcessor

        self.image_processor = AutoImageProcessor.from_pretrained(str(folder))
        self.tokenizer = tokenizer
        self.config = json.loads((folder / "preprocessor_config.json").read_text())
        self.image_token = mark

    def __call__(
        self,
        images: object = None,
        text: str | Sequence[str] = (),
        return_tensors: str | None = None,
        **more: Any,
    ) -> Any:
        from transformers import BatchFeature

        texts = [text] if isinstance(text, str) else list(text)
        seen: dict[str, Any] = {}
        if images is not None:
            seen = dict(self.image_processor(images=images, return_tensors=return_tensors))
            merged = [
                math.prod(map(int, grid)) // self.image_processor.merge_size**2
                for grid in seen["image_grid_thw"]
            ]
            texts = self._marked(texts, merged)
        more.pop("videos", None)
        return BatchFeature({**self.tokenizer(texts, return_tensors=return_tensors, **more), **seen})

    def _marked(self, texts: Sequence[str], counts: Sequence[int]) -> list[str]:
        """The texts with each mark of a picture repeated, by the pictures in their order."""
        left = iter(counts)
        return [
            "".join(
                part * next(left) if part == self.image_token else part
                for part in _around(text, self.image_token)
            )
            for text in texts
        ]

    def batch_decode(self, *ids: Any, **more: Any) -> list[str]:
        return self.tokenizer.batch_decode(*ids, **more)


def _around(text: str, mark: str) -> list[str]:
    """A text split around the marks in it, which are kept."""
    parts = [piece for part in text.split(mark) for piece in (mark, part)]
    return parts[1:]
