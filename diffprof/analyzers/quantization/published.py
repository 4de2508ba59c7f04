"""The published hand-made list of linears for SDXL on an A100, read from its data file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class PublishedList:
    """Which (in_features, out_features) a published recipe quantizes. gain: of the whole call, 0..1."""

    source: str
    setup: str
    scheme: str
    gain: float
    left_out: frozenset[tuple[int, int]]
    smallest_in_features: int
    convolution_channels: int
    seen: frozenset[tuple[int, int]]
    """Shapes of the pipeline that it was made for, left out or not."""

    def quantizes(self, in_features: int, out_features: int, kind: str = "linear") -> bool:
        """What the recipe's filter says, for a shape that it knew or not."""
        if kind == "conv1x1" and self.convolution_channels not in (in_features, out_features):
            return False
        return in_features >= self.smallest_in_features and (in_features, out_features) not in self.left_out

    def verdict(self, in_features: int, out_features: int, kind: str = "linear") -> bool | None:
        """As `quantizes`, but None for a shape that the pipeline it was made for does not have."""
        if (in_features, out_features) not in self.seen:
            return None
        return self.quantizes(in_features, out_features, kind)


@cache
def published_list() -> PublishedList:
    """The one published list there is."""
    data = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
    left_out = _shapes(data["left_out"])
    return PublishedList(
        source=data["source"],
        setup=data["setup"],
        scheme=data["scheme"],
        gain=1 - data["seconds_after"] / data["seconds_before"],
        left_out=left_out,
        smallest_in_features=data["largest_in_features_left_out"] + 1,
        convolution_channels=data["convolution_channels"],
        seen=left_out | _shapes(data["seen_quantized"]),
    )


def _shapes(pairs: Iterable[Iterable[int]]) -> frozenset[tuple[int, int]]:
    return frozenset((int(k), int(n)) for k, n in pairs)
