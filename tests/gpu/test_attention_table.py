"""The table of attention: each shape under every kernel, predicted and measured, and what rests on it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from msgspec import structs

from diffprof.analyzers.kernels.attention import AttentionCall, measured_attention
from diffprof.analyzers.setup.precision import attention_backend
from diffprof.analyzers.setup.rules import best_backend
from diffprof.gpu.attention_table import attention_rows, fastest
from diffprof.gpu.cost import CostModel
from diffprof.gpu.mode import Mode
from diffprof.gpu.specs import load_spec
from diffprof.model.fix import Code
from diffprof.model.recording import AttentionRow
from diffprof.views.attention import attention_table, document
from tests.analyzers.setup.examples import denoiser, recorded
from tests.devices.simulated import signatures


def rows(gpu: str, **mode: object) -> tuple[AttentionRow, ...]:
    plain = signatures.attention(24, 4429, 4429, 64)
    single = signatures.attention(20, 77, 77, 64, torch.float32)
    launched = [(plain, "transformer.blocks.0"), (plain, "transformer.blocks.1"), (single, "text_encoder")]
    return attention_rows(Counter(launched), CostModel(load_spec(gpu), Mode(**mode)))  # type: ignore[arg-type]


def test_every_shape_stands_under_every_kernel_that_takes_it() -> None:
    first, second = rows("h100")
    assert (first.component, first.count, first.heads, first.kernel) == ("transformer", 2, 48, "flash2")
    took = {each.backend: each.us or 0.0 for each in first.timings}
    assert took["_native_flash"] == first.now_us
    assert took["_flash_3"] < took["_native_flash"] < took["_native_efficient"] < took["_native_math"]
    assert not next(each for each in first.timings if each.backend == "_flash_3").installed
    left = {each.backend for each in second.timings if each.us is None}
    assert left == {"_native_flash", "_native_cudnn", "_flash_3", "sage"}, "float32"
    assert all(each.why_not for each in second.timings if each.us is None)


def test_cudnn_is_faster_on_hopper_alone_and_taken_already_from_pytorch_2_11_on() -> None:
    assert fastest(rows("h100")) == "_native_cudnn"
    assert fastest(rows("h100", cudnn_first=True)) is None
    assert fastest(rows("a100-80gb")) is None


def test_the_fix_prefers_what_the_table_says_and_leaves_the_others_behind_it() -> None:
    recording = structs.replace(recorded(denoiser()), attention=rows("h100"))
    assert best_backend(recording) == "_native_cudnn"
    code = attention_backend(recording, ())
    assert isinstance(code, Code)
    assert code.around == (
        "sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, "
        "SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH], set_priority=True)"
    )


def test_views_say_milliseconds_and_the_line_that_sets_each() -> None:
    found = rows("h100")
    table = attention_table(found)
    assert table.rows[0][1] == "48 x 4429 x 4429 x 64"
    assert table.rows[1][table.columns.index("cudnn")] == "-"
    shapes = document(structs.replace(recorded(denoiser()), attention=found))["shapes"]
    lines = {each["backend"]: each["set_by"] for each in shapes[0]["timings"]}
    assert lines["_native_math"] == "with torch.nn.attention.sdpa_kernel(SDPBackend.MATH): pipe(...)"
    assert lines["_flash_3"] is None, "it needs diffusers' dispatcher"


class Counting:
    """Each work takes a microsecond more than the one before."""

    def __init__(self) -> None:
        self.us = 0.0

    def microseconds(self, work: object) -> float:
        self.us += 1.0
        return self.us


def test_what_is_measured_is_told_for_all_calls_and_what_fails_says_why() -> None:
    shape = (1, 2, 8, 16)
    calls = Counter({("unet", AttentionCall(shape, shape, shape, None, False, torch.float32)): 3})
    (row,) = measured_attention(calls, torch.device("cpu"), Counting())
    took = {each.backend: each.us for each in row.timings}
    assert took["_native_flash"] == pytest.approx(3 * 1.0)
    assert took["_native_cudnn"] is None
    assert next(each.why_not for each in row.timings if each.backend == "_native_cudnn")
    assert (row.heads, row.queries, row.size, row.count) == (2, 8, 16, 3)
