"""Which family of kernels an op belongs to, by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .signatures import OpSignature

_GEMM = frozenset({"linear", "addmm", "mm", "bmm", "baddbmm", "matmul", "addbmm", "_int_mm"})
_GEMM |= {"_scaled_mm", "addmv", "mv", "dot", "vdot", "inner", "bilinear"}
_CONV = frozenset({"conv1d", "conv2d", "conv3d", "convolution", "_convolution"})
_CONV |= {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
_NORM = frozenset({"layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "rms_norm"})
_NORM |= {"batch_norm", "native_batch_norm", "instance_norm", "_fused_rms_norm"}
SOFTMAX = frozenset({"softmax", "_softmax", "log_softmax", "_log_softmax"})
_COPY = frozenset(
    {"clone", "contiguous", "_to_copy", "copy_", "copy", "cat", "stack", "repeat", "roll", "flip", "pad"}
)
_COPY |= {"reshape", "flatten", "constant_pad_nd", "reflection_pad2d", "replication_pad2d", "_unsafe_view"}
_COPY |= {"expand_copy", "tile", "repeat_interleave", "pixel_shuffle", "pixel_unshuffle", "unfold", "to"}
COLLECTIVES = frozenset({"alltoall", "all_gather"})
CASTS = frozenset({"_to_copy", "copy_", "to"})
GATHER = frozenset(
    {"embedding", "index", "index_select", "gather", "take", "take_along_dim", "_unsafe_index"}
)
SCATTER = frozenset({"index_put_", "index_put", "_index_put_impl_", "scatter", "scatter_", "scatter_add_"})
_FILL = frozenset({"zero_", "fill_", "zeros_like", "ones_like", "full_like", "zeros", "ones", "full"})
_FILL |= {"new_zeros", "new_ones", "new_full"}
_SORT = frozenset({"sort", "argsort", "topk", "unique", "_unique2", "unique_dim", "msort", "kthvalue"})
_REDUCE = frozenset(
    {"sum", "mean", "amax", "amin", "max", "min", "argmax", "argmin", "any", "all", "var", "std", "prod"}
)
_REDUCE |= {
    "norm",
    "linalg_vector_norm",
    "cumsum",
    "cumprod",
    "logsumexp",
    "var_mean",
    "nonzero",
    "bincount",
    "equal",
    "median",
}


def family_of(base: str) -> str:
    """The kernel family of an op, by its name without namespace and overload."""
    if base in _GEMM:
        return "gemm"
    if base in _CONV:
        return "conv"
    if "scaled_dot_product" in base or "flash_attention" in base or "efficient_attention" in base:
        return "attention"
    if base in _NORM:
        return "norm"
    if base in SOFTMAX or base in _REDUCE:
        return "reduction"
    if base in _COPY or base in GATHER or base in SCATTER:
        return "copy"
    if base in _FILL:
        return "memset"
    if base in _SORT:
        return "sort"
    if "fft" in base:
        return "fft"
    return "pointwise"


def base_name(signature: OpSignature) -> str:
    """`aten::_to_copy` -> `_to_copy`."""
    return signature.name.rpartition("::")[2]
