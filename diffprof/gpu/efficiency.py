"""How much of a GPU's peaks kernels reach: the constants of the cost model, and where each comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Efficiency:
    """How much of the peaks kernels of each family reach.

    [MAMF] best measured matmuls, github.com/stas00/ml-engineering, compute/accelerator: in `specs/`.
    [NV-MM] docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication: tile and wave
    quantization, smaller tiles reach less.
    [FA2] FlashAttention-2, arXiv:2307.08691, figure 5: 0.5 to 0.62 of an A100's peak at head size 64.
    [FIT] no published measurement: set once, to the three published runs of SDXL, SSD-1B and SD 1.5 on
    an A100 (`diffprof/ladder/published.toml`), all rungs of all three together.
    """

    prologue_k: int = 96
    """Elements along K that a tile's start and end cost, as if they were computed. [FIT]"""
    gemm_memory: float = 0.75
    """Bandwidth that a matmul bound by memory reaches. [FIT]"""
    conv: float = 0.85
    """Implicit-GEMM convolutions against a matmul of the same size. [FIT]"""
    int8: float = 0.9
    """INT8 matmuls that Inductor generates, against the matmul ceiling. [FIT], with int8_prologue_k, to what
    INT8 changed in the three published runs: SDXL -94 ms, SSD-1B -63 ms, SD 1.5 +31 ms."""
    int8_prologue_k: int = 800
    """As prologue_k: at a tile's end the integer sums are scaled by rows and by columns and cast. That is
    why short K (SD 1.5) loses. [FIT]"""
    attention: float = 0.60
    """Flash kernels, of the matmul ceiling times peak. [FA2]"""
    attention_large_head: float = 0.25
    """The memory-efficient kernel, for heads that flash kernels don't take. [FIT]"""
    attention_fp32: float = 0.9
    """FP32 attention, of the FP32 peak without tensor cores. [FIT] to the FP32 runs with SDPA"""
    stream: float = 0.85
    """Streaming kernels on types of 4 bytes, of the bandwidth: BabelStream on an A100 reaches 0.85 to 0.9."""
    stream_narrow: float = 0.65
    """The same on types of 2 bytes, loaded 8 bytes at a time before github.com/pytorch/pytorch/pull/145746.
    [FIT]"""
    triton: float = 0.80
    """Kernels that Inductor generates. [FIT]"""
    layout: float = 0.5
    """cuDNN's NCHW <-> NHWC conversions around a convolution, on types of 4 bytes; they move elements one
    by one, so types of 2 bytes reach half of it. [FIT]"""
    copy: float = 0.55
    """Copies that change the order of elements. [FIT]"""
    norm: float = 0.65
    """Layer norm: one pass, a reduction inside. [FIT]"""
    softmax_elements_per_us_sm: float = 1900.0
    """Elements that one processor normalizes in a microsecond: softmax of 2-byte types is bound by
    arithmetic, not bandwidth. [FIT]"""
    fixed_us: float = 2.5
    """Start, ramp and end of a kernel, and the gap to the next one: gaps between queued kernels have a
    median of 2 us in the A100 traces of facebookresearch/HolisticTraceAnalysis."""
    graph_fixed_us: float = 2.0
    """The same inside a CUDA graph, where nothing has to be fetched between kernels.
    [developer.nvidia.com/blog/constant-time-launch-for-straight-line-cuda-graphs]"""


EFFICIENCY = Efficiency()

TILES = ((256, 128, 1.0), (128, 128, 0.95), (128, 64, 0.8), (64, 64, 0.6))
"""(rows, columns, share of the best rate) of the output tiles that matmul kernels use. [NV-MM]"""
