"""Rotary embeddings in complex and in real numbers, as diffusers has both."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from diffprof.analyzers.graph_breaks.complex_rules import complex_numbers
from diffprof.analyzers.graph_breaks.probe import probe_graph_breaks
from diffprof.model.finding import Finding
from diffprof.model.recording import ComplexRow
from tests.analyzers.graph_breaks.stateful import Often
from tests.analyzers.graph_breaks.tiny import TinyCall
from tests.builders import make_recording

QWEN = "diffusers/models/transformers/transformer_qwenimage.py"
LAYERS = 8


class Layer(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.query, self.key, self.value, self.norm = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        from diffusers.models.embeddings import apply_rotary_emb
        from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen

        if self.how == "complex":
            turned = apply_rotary_emb_qwen(x, torch.complex(cos, sin), use_real=False)
        else:
            both = [table.repeat_interleave(2, -1) for table in (cos, sin)]
            turned = apply_rotary_emb(x, tuple(both), sequence_dim=1)
        return self.norm(self.value(self.key(self.query(turned))))


class Turning(nn.Module):
    """Equal layers, enough of them to be folded."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(how) for _ in range(LAYERS))
        self.others = nn.ModuleList(nn.Identity() for _ in range(60))
        angle = torch.rand(3, 4)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return x


class Filtering(nn.Module):
    """As FreeU does to a UNet's features."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from diffusers.utils.torch_utils import fourier_filter

        return fourier_filter(x, threshold=1, scale=2)


@cache
def probed() -> tuple[tuple[ComplexRow, ...], dict[str, int], list[Finding]]:
    """Rows, blocks folded, and findings, of a model that is compiled whole, of one that is compiled layer by
    layer, and of one in real numbers."""
    regional = Turning("complex")
    for layer in regional.layers:
        layer.compile()
    parts = {"whole": Turning("complex"), "regional": regional, "real": Turning("real")}
    call = TinyCall(Often(2, **parts), {"x": torch.ones(1, 3, 2, 8)})
    found = probe_graph_breaks(call, None, cache=False)
    assert not found["unseen"]
    folded = next(row.folded for row in found["captures"] if row.component == "whole")
    return found["complex_numbers"], folded, list(complex_numbers(make_recording(**found)))


@pytest.mark.slow
@pytest.mark.parametrize("component", ["whole", "regional"])
def test_every_operation_on_complex_numbers_is_counted(component: str) -> None:
    """Inductor 2.13 makes an ATen call of each of these: view_as_complex, unsqueeze, mul, view_as_real."""
    rows, folded, _ = probed()
    assert folded == {"Layer": LAYERS}
    ops: dict[str, int] = {}
    for row in rows:
        if row.component == component and row.site.file == QWEN:
            assert row.site.function == "apply_rotary_emb_qwen"
            assert row.calls == 2
            ops.update(row.ops)
    assert ops == dict.fromkeys(("view_as_complex", "unsqueeze", "mul", "view_as_real"), LAYERS)


@pytest.mark.slow
def test_real_numbers_are_clean() -> None:
    rows, _, _ = probed()
    assert {row.component for row in rows} == {"whole", "regional"}


def test_a_filter_over_frequencies_is_another_source() -> None:
    """Its lines with complex numbers: there, shift, product, shift back, the real part of the way back."""
    call = TinyCall(Often(1, unet=Filtering()), {"x": torch.ones(1, 2, 8, 8)})
    found = probe_graph_breaks(call, None, cache=False)
    assert not found["unseen"]
    rows = sorted(found["complex_numbers"], key=lambda row: row.site.line)
    assert {row.site.function for row in rows} == {"fourier_filter"}
    assert [set(row.ops.values()) for row in rows] == [{1}] * 5
    assert [sorted(row.ops) for row in rows] == [
        *(["fft_fftn"], ["fft_fftshift"], ["mul"], ["fft_ifftshift"], ["fft_ifftn", "getattr"]),
    ]


@pytest.mark.slow
def test_a_finding_for_each_function() -> None:
    _, _, findings = probed()
    (turned,) = [f for f in findings if f.site and f.site.file == QWEN]
    assert turned.rule == "GRB015"
    assert turned.site is not None
    assert "view_as_real(" in dict(turned.site.excerpt)[turned.site.line]
    # Four operations a layer, in two calls of two models.
    assert turned.count == 4 * LAYERS * 2 * 2
    assert "(whole, regional)" in turned.message
    assert turned.saves_ms is None


def test_both_forms_are_the_same_rotation() -> None:
    x = torch.rand(1, 3, 2, 8)
    one, other = Turning("complex"), Turning("real")
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(x), other(x))
