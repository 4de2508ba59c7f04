from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from diffprof.gpu.cost import CostModel
from diffprof.gpu.families import family_of
from diffprof.gpu.mode import Mode, current_mode
from diffprof.gpu.operands import describe, is_channels_last, matmul_sizes, touched
from diffprof.gpu.signatures import TensorMeta
from diffprof.gpu.specs import load_spec, spec_names
from tests.devices.simulated.signatures import add, attention, conv, linear, meta, op

A100 = load_spec("a100-80gb")
MODEL = CostModel(A100, Mode(matmul_tf32=True))
STRICT = CostModel(A100, Mode(matmul_tf32=False))

SOME = [
    linear(8192, 640, 640),
    linear(154, 2048, 1280),
    linear(2, 1280, 1280),
    linear(2048, 1280, 10240, torch.float32),
    add(2, 4096, 640),
    add(1),
    attention(10, 4096, 4096, 64),
    attention(10, 4096, 77, 64),
    attention(1, 16384, 16384, 512),
    attention(8, 4096, 4096, 40, torch.float32),
    conv(last=False),
    conv(last=True, bias=False),
    op(
        "group_norm",
        [meta(2, 320, 128, 128), meta(320), meta(320)],
        meta(2, 320, 128, 128),
        scalars={"num_groups": 32},
    ),
    op("layer_norm", [meta(8192, 640), meta(640), meta(640)], meta(8192, 640)),
    op("softmax", [meta(20, 4096, 4096)], meta(20, 4096, 4096)),
    op("zeros_like", [meta(64, 64)], meta(64, 64)),
    op("_to_copy", [meta(64, 64, dtype=torch.float32)], meta(64, 64)),
    op("copy_", [meta(64, 64, device="cpu")], meta(64, 64), direction="h2d", nbytes=8192),
    op("embedding", [meta(49408, 768), meta(1, 77, dtype=torch.int64)], meta(1, 77, 768)),
    op("sort", [meta(4096)], meta(4096), meta(4096, dtype=torch.int64)),
]


@pytest.mark.parametrize("gpu", spec_names())
def test_nothing_beats_the_hardware(gpu: str) -> None:
    """Every kernel takes at least its operations at the peak, or its bytes at the bandwidth."""
    model = CostModel(load_spec(gpu), Mode(matmul_tf32=True))
    for signature in SOME:
        for compiled in (False, True):
            kernels = model.kernels(signature, compiled=compiled)
            assert kernels, signature.name
            for kernel in kernels:
                assert kernel.device_us >= kernel.lower_bound_us > -1e-9, (signature.name, kernel)
                assert kernel.bound in ("compute", "memory", "fixed")


@pytest.mark.parametrize("kind", ["linear", "conv2d", "bmm"])
def test_flops_are_those_of_pytorch(kind: str) -> None:
    a, b = torch.empty(3, 40, 16, device="meta"), torch.empty(24, 16, device="meta")
    image, filters = torch.empty(2, 8, 12, 12, device="meta"), torch.empty(6, 8, 3, 3, device="meta")
    with FlopCounterMode(display=False) as counter:
        if kind == "linear":
            torch.nn.functional.linear(a, b)
            signature = op("linear", [meta(3, 40, 16), meta(24, 16)], meta(3, 40, 24))
        elif kind == "bmm":
            torch.bmm(a, a.transpose(1, 2))
            signature = op("bmm", [meta(3, 40, 16), meta(3, 16, 40)], meta(3, 40, 40))
        else:
            torch.nn.functional.conv2d(image, filters, padding=1)
            signature = op("conv2d", [meta(2, 8, 12, 12), meta(6, 8, 3, 3)], meta(2, 6, 12, 12))
    ours = sum(k.flops for k in MODEL.kernels(signature) if k.family in ("gemm", "conv"))
    assert ours == counter.get_total_flops()


def test_a_large_matmul_reaches_what_was_measured() -> None:
    """267.9 TFLOPS is the best published matmul of an A100 SXM (6912 x 16384 x 2048)."""
    (kernel,) = MODEL.kernels(linear(6912, 2048, 16384))
    reached = kernel.flops / kernel.device_us / 1e6
    assert 0.85 * 267.9 < reached <= 267.9


def test_a_matmul_of_few_rows_is_bound_by_its_weights() -> None:
    (kernel,) = MODEL.kernels(linear(2, 4096, 16384))
    assert kernel.bound == "memory"
    assert kernel.device_us < 3 * kernel.lower_bound_us


def test_float32_matmuls_follow_the_tf32_setting() -> None:
    wide = linear(8192, 1280, 1280, torch.float32)
    with_tf32, without = MODEL.kernels(wide)[0], STRICT.kernels(wide)[0]
    assert (with_tf32.dtype, without.dtype) == ("tf32", "float32")
    assert without.device_us > 5 * with_tf32.device_us


def test_the_mode_of_the_moment_follows_torch() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert current_mode().matmul_tf32
        torch.set_float32_matmul_precision("highest")
        assert not current_mode().matmul_tf32
    finally:
        torch.set_float32_matmul_precision(before)


def test_layout_conversions_surround_nchw_convolutions_only() -> None:
    names = [k.name for k in MODEL.kernels(conv(last=False))]
    assert names == ["nchwToNhwc", "conv2d", "nhwcToNchw", "add_bias"]
    assert [k.name for k in MODEL.kernels(conv(last=True))] == ["conv2d", "add_bias"]
    assert [k.name for k in MODEL.kernels(conv(last=False), compiled=True)] == ["conv2d"]


def test_workspace_of_a_convolution() -> None:
    size = 2 * 320 * 64 * 64 * 2
    assert MODEL.workspace(conv(last=False)) == 3 * size  # input and result in NHWC, and the result itself
    assert MODEL.workspace(conv(last=True)) == size
    assert MODEL.workspace(add(5)) == 0


def test_attention_kernels_by_type_and_head() -> None:
    flash = MODEL.kernels(attention(10, 4096, 4096, 64))[0]
    # FlashAttention-2's figures for head size 64 on an A100: 150 to 190 TFLOPS.
    assert 140 < flash.flops / flash.device_us / 1e6 < 190
    assert flash.name == "flash_attention"
    assert MODEL.kernels(attention(1, 16384, 16384, 512))[0].name == "efficient_attention"
    fp32 = MODEL.kernels(attention(10, 4096, 4096, 64, torch.float32))[0]
    assert fp32.device_us > 5 * flash.device_us
    causal = MODEL.kernels(attention(10, 4096, 4096, 64, is_causal=True))[0]
    assert causal.flops == flash.flops / 2


def test_int8_pays_for_deep_matmuls_and_not_for_shallow_ones() -> None:
    def times(rows: int, depth: int, columns: int) -> tuple[float, float]:
        signature = linear(rows, depth, columns)
        plain = sum(k.device_us for k in MODEL.kernels(signature, compiled=True))
        int8 = MODEL.kernels(signature, compiled=True, quantized=True)
        assert [k.name for k in int8] == ["quantize_activation", "linear"]
        return plain, sum(k.device_us for k in int8)

    plain, int8 = times(2048, 5120, 1280)
    assert int8 < plain
    plain, int8 = times(8192, 320, 320)
    assert int8 > plain


def test_copies_over_the_link() -> None:
    upload = op("copy_", [meta(1024, 1024, device="cpu")], meta(1024, 1024), direction="h2d", nbytes=1 << 21)
    (pageable,), (pinned,) = MODEL.kernels(upload), MODEL.kernels(upload, pinned=True)
    assert pageable.name == "Memcpy HtoD (Pageable -> Device)"
    assert pinned.name == "Memcpy HtoD (Pinned -> Device)"
    assert pageable.device_us > pinned.device_us > (1 << 21) / 31.5e3


def test_casts_are_named_by_their_types() -> None:
    cast = op("_to_copy", [meta(8, dtype=torch.float32)], meta(8))
    assert MODEL.kernels(cast)[0].name == "cast_float32_bfloat16"
    assert MODEL.kernels(op("_to_copy", [meta(8)], meta(8)))[0].name == "_to_copy"


def test_a_gather_does_not_read_the_whole_table() -> None:
    small = op("embedding", [meta(49408, 768), meta(1, 77, dtype=torch.int64)], meta(1, 77, 768))
    assert MODEL.kernels(small)[0].bytes < 4 * 77 * 768 * 2


def test_expanded_dimensions_are_read_once() -> None:
    expanded = TensorMeta(torch.Size((2, 320, 64, 64)), (320, 1, 0, 0), torch.bfloat16, 0, "sim")
    assert touched(expanded) == 2 * 320 * 2


def test_a_longer_chain_of_work_never_costs_less() -> None:
    """Monotone: more rows never make a matmul faster than waves allow, and larger tensors never cost less."""
    streaming = [MODEL.kernels(add(n))[0].device_us for n in (10, 1000, 10**5, 10**7)]
    assert streaming == sorted(streaming)
    rows = [MODEL.kernels(linear(n, 640, 640))[0].device_us for n in (1, 64, 512, 4096, 32768)]
    assert rows == sorted(rows)


@pytest.mark.parametrize(
    ("base", "family"),
    [
        ("linear", "gemm"),
        ("scaled_dot_product_attention", "attention"),
        ("_scaled_dot_product_flash_attention", "attention"),
        ("conv_transpose2d", "conv"),
        ("group_norm", "norm"),
        ("softmax", "reduction"),
        ("mean", "reduction"),
        ("cat", "copy"),
        ("fill_", "memset"),
        ("topk", "sort"),
        ("fft_fftn", "fft"),
        ("gelu", "pointwise"),
        ("some_custom_op", "pointwise"),
    ],
)
def test_families(base: str, family: str) -> None:
    assert family_of(base) == family


def test_matmul_sizes_of_every_form() -> None:
    a, b = meta(4, 10, 16), meta(4, 16, 20)
    assert matmul_sizes(op("bmm", [a, b], meta(4, 10, 20)), "bmm") == (4, 10, 20, 16)
    assert matmul_sizes(op("baddbmm", [meta(4, 10, 20), a, b], meta(4, 10, 20)), "baddbmm") == (4, 10, 20, 16)
    assert matmul_sizes(op("addmm", [meta(20), meta(10, 16), meta(16, 20)], meta(10, 20)), "addmm") == (
        1,
        10,
        20,
        16,
    )
    assert matmul_sizes(op("matmul", [a, meta(16, 20)], meta(4, 10, 20)), "matmul") == (1, 40, 20, 16)
    assert matmul_sizes(op("mv", [meta(10, 16), meta(16)], meta(10)), "mv") == (1, 10, 1, 16)


def test_channels_last_is_told_from_strides() -> None:
    assert is_channels_last(meta(2, 8, 4, 4, last=True))
    assert not is_channels_last(meta(2, 8, 4, 4))
    assert describe(linear(4, 2, 3)) == "4x2, 3x2"
