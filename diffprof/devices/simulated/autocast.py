"""`torch.autocast("sim")`: the cast policy that CUDA has.

The lists are those of aten/src/ATen/autocast_mode.h: ops run in the lower precision, in float32, in float32
by their optional dtype argument, or in the widest type of their inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .tensor import NAME

LOWER = [
    "_convolution.deprecated",
    "_convolution",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_tbc",
    "conv_transpose1d",
    "conv_transpose2d.input",
    "conv_transpose3d.input",
    "convolution",
    "prelu",
    "addmm",
    "addmv",
    "addr",
    "matmul",
    "einsum",
    "mm",
    "mv",
    "linalg_vecdot",
    "linear",
    "addbmm",
    "baddbmm",
    "bmm",
    "chain_matmul",
    "linalg_multi_dot",
    "_thnn_fused_lstm_cell",
    "_thnn_fused_gru_cell",
    "lstm_cell",
    "gru_cell",
    "rnn_tanh_cell",
    "rnn_relu_cell",
    "_scaled_dot_product_flash_attention",
    "scaled_dot_product_attention",
]
FULL = [
    "acos",
    "asin",
    "cosh",
    "erfinv",
    "exp",
    "expm1",
    "log",
    "log10",
    "log2",
    "log1p",
    "reciprocal",
    "rsqrt",
    "sinh",
    "tan",
    "pow.Tensor_Scalar",
    "pow.Tensor_Tensor",
    "pow.Scalar",
    "softplus",
    "layer_norm",
    "native_layer_norm",
    "rms_norm",
    "group_norm",
    "frobenius_norm.dim",
    "nuclear_norm",
    "nuclear_norm.dim",
    "cosine_similarity",
    "poisson_nll_loss",
    "cosine_embedding_loss",
    "nll_loss",
    "nll_loss2d",
    "hinge_embedding_loss",
    "kl_div",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "mse_loss",
    "margin_ranking_loss",
    "multilabel_margin_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "multi_margin_loss",
    "binary_cross_entropy_with_logits",
    "dist",
    "pdist",
    "cdist",
    "renorm",
    "logsumexp",
    "upsample_nearest1d",
    "_upsample_nearest_exact1d",
    "upsample_nearest2d",
    "_upsample_nearest_exact2d",
    "upsample_nearest3d",
    "_upsample_nearest_exact3d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "_upsample_bilinear2d_aa",
    "upsample_trilinear3d",
    "upsample_bicubic2d",
    "_upsample_bicubic2d_aa",
]
FULL_BY_DTYPE = [
    "prod",
    "prod.dim_int",
    "softmax.int",
    "log_softmax.int",
    "cumprod",
    "cumsum",
    "linalg_vector_norm",
    "linalg_matrix_norm",
    "linalg_matrix_norm.str_ord",
    "sum",
    "sum.dim_IntList",
]
NORMS = ("norm.Scalar", "norm.ScalarOpt_dim")
"""Their float32 form is another overload, with a dtype."""
WIDEST = [
    "addcdiv",
    "addcmul",
    "atan2",
    "bilinear",
    "cross",
    "dot",
    "vdot",
    "grid_sampler",
    "index_put",
    "tensordot",
    "scatter_add",
]
BANNED = ("binary_cross_entropy",)

_EXCLUDED = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
_cache: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}


def cached() -> int:
    """Weights of which a cast copy is kept."""
    return len(_cache)


def clear_cache() -> None:
    """Forget the cast weights, as leaving the outermost autocast does."""
    _cache.clear()


def register(lib: torch.library.Library) -> None:
    """Register the policy's kernels."""
    for names, policy in (
        (LOWER, _lower),
        (FULL, _full),
        (FULL_BY_DTYPE, _full_by_dtype),
        (NORMS, _norm),
        (WIDEST, _widest),
        (BANNED, _banned),
    ):
        for name in names:
            base, _, overload = name.partition(".")
            packet = getattr(torch.ops.aten, base, None)
            func = getattr(packet, overload or "default", None)
            if func is not None:
                lib.impl(name, policy(func), "AutocastPrivateUse1")


def _cached_cast(dtype: torch.dtype, a: object) -> object:
    """cached_cast: eligible are floating tensors of the device, float64 aside."""
    if isinstance(a, torch.Tensor):
        if a.dtype is dtype or not _eligible(a):
            return a
        cacheable = (
            torch.is_autocast_cache_enabled()
            and dtype is torch.get_autocast_dtype(NAME)
            and a.dtype is torch.float32
            and a.requires_grad
            and a.is_leaf
            and not a._is_view()
        )
        if not cacheable:
            return a.to(dtype)
        hit = _cache.get(id(a))
        if hit is not None and hit[0] is a:
            return hit[1]
        cast = a.to(dtype)
        _cache[id(a)] = a, cast  # no weak reference: PyTorch moves no parameter that has one
        return cast
    if type(a) is list or type(a) is tuple:
        return type(a)(_cached_cast(dtype, b) for b in a)
    return a


def _tensors(a: object) -> list[torch.Tensor]:
    if isinstance(a, torch.Tensor):
        return [a]
    if isinstance(a, (list, tuple)):
        return [t for b in a for t in _tensors(b)]
    return []


def _cast_to(
    dtype_of: Callable[[tuple, dict[str, object]], torch.dtype], func: torch._ops.OpOverload
) -> Callable[..., object]:
    def kernel(*args: object, **kwargs: object) -> object:
        with torch._C._ExcludeDispatchKeyGuard(_EXCLUDED):
            dtype = dtype_of(args, kwargs)
            return func(
                *[_cached_cast(dtype, a) for a in args],
                **{k: _cached_cast(dtype, a) for k, a in kwargs.items()},
            )

    return kernel


def _lower(func: torch._ops.OpOverload) -> Callable[..., object]:
    return _cast_to(lambda args, kwargs: torch.get_autocast_dtype(NAME), func)


def _full(func: torch._ops.OpOverload) -> Callable[..., object]:
    return _cast_to(lambda args, kwargs: torch.float32, func)


def _widest(func: torch._ops.OpOverload) -> Callable[..., object]:
    """The widest of the lower precision and the eligible inputs (promote_type; float64 isn't eligible)."""

    def dtype_of(args: tuple, kwargs: dict[str, object]) -> torch.dtype:
        lower = torch.get_autocast_dtype(NAME)
        dtypes = {t.dtype for t in _tensors([*args, *kwargs.values()]) if _eligible(t)}
        return lower if dtypes <= {lower} else torch.float32

    return _cast_to(dtype_of, func)


def _eligible(t: object) -> bool:
    """Floating, on the device, not float64 (is_eligible in aten/src/ATen/autocast_mode.h)."""
    return (
        isinstance(t, torch.Tensor)
        and t.is_floating_point()
        and t.dtype is not torch.float64
        and t.device.type == NAME
    )


def _full_by_dtype(func: torch._ops.OpOverload) -> Callable[..., object]:
    place = next(k for k, a in enumerate(func._schema.arguments) if a.name == "dtype")
    by_name = func._schema.arguments[place].kwarg_only

    def kernel(*args: object, **kwargs: object) -> object:
        with torch._C._ExcludeDispatchKeyGuard(_EXCLUDED):
            given = kwargs.get("dtype") if by_name or len(args) <= place else args[place]
            if given is None and _eligible(args[0]):
                if by_name or len(args) <= place:
                    kwargs = {**kwargs, "dtype": torch.float32}
                else:
                    args = (*args[:place], torch.float32, *args[place + 1 :])
            return func(*args, **kwargs)

    return kernel


def _norm(func: torch._ops.OpOverload) -> Callable[..., Any]:
    def kernel(x: torch.Tensor, p: object = 2, *rest: object, **kwargs: object) -> object:
        with torch._C._ExcludeDispatchKeyGuard(_EXCLUDED):
            if not _eligible(x):
                return func(x, p, *rest, **kwargs)
            if rest or kwargs:
                return torch.ops.aten.norm.ScalarOpt_dim_dtype(x, p, *rest, **kwargs, dtype=torch.float32)
            return torch.ops.aten.norm.ScalarOpt_dtype(x, p, dtype=torch.float32)

    return kernel


def _banned(func: torch._ops.OpOverload) -> Callable[..., object]:
    def kernel(*args: object, **kwargs: object) -> object:
        raise RuntimeError(
            "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast.\n"
            "Many models use a sigmoid layer right before the binary cross entropy layer.\n"
            "In this case, combine the two layers using "
            "torch.nn.functional.binary_cross_entropy_with_logits\n"
            "or torch.nn.BCEWithLogitsLoss.  binary_cross_entropy_with_logits and BCEWithLogits are\n"
            "safe to autocast."
        )

    return kernel
