"""The only module that touches PyTorch's private backend API.

`register` makes `sim` a device of this process, once, on any build of PyTorch: a device module, a device
guard, kernels that make tensors from nothing or copy, a fallback for the rest, composites that stay whole.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

from diffprof.model.errors import DiffprofError

from . import autocast, copies, dispatch, handlers, runtime, tensor
from .ops import Op
from .session import SESSION
from .tensor import NAME, SimTensor, intern_meta, known, unknown

aten = torch.ops.aten

WHOLE_OPS = (
    "scaled_dot_product_attention",
    "linear",
    "matmul",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d.input",
    "conv_transpose3d.input",
    "layer_norm",
    "group_norm",
    "rms_norm",
    "softmax.int",
    "dropout",
    "lstm.input",
    "lstm.data",
    "gru.input",
    "gru.data",
    "rnn_tanh.input",
    "rnn_tanh.data",
    "rnn_relu.input",
    "rnn_relu.data",
    "lstm_cell",
    "gru_cell",
    "upsample_nearest2d.vec",
    "upsample_nearest3d.vec",
    "upsample_bilinear2d.vec",
    # Views: whole because one dispatch is cheaper than several.
    "reshape",
    "chunk",
    "flatten.using_ints",
    "unflatten.int",
    "expand_as",
)
"""Composites that a GPU runs as one kernel or as one library call, and views made of views."""

_lock = threading.Lock()
_libraries: list[object] = []


def register() -> torch.device:
    """Make `sim` a device of this process; after the first call it costs nothing.

    Raises DiffprofError where this PyTorch lacks the API, or another backend has the place.
    """
    if _libraries:
        return tensor.DEVICE
    with _lock:
        if not _libraries:
            _set_up()
    return tensor.DEVICE


def _set_up() -> None:
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as set_up
    except ImportError:
        raise DiffprofError(
            f"PyTorch {torch.__version__} can't have a device written in Python "
            "(_setup_privateuseone_for_python_backend is missing).",
            "Install torch 2.11 or newer, or scan on a real device (--device cuda).",
        ) from None
    name = torch._C._get_privateuse1_backend_name()
    if name not in ("privateuseone", NAME):
        raise DiffprofError(
            f"Another device backend, {name!r}, is registered in this process; PyTorch has room for one.",
            f"Run diffprof in a process that doesn't load {name!r}.",
        )

    class Hook(torch._C._acc.PrivateUse1Hooks):
        def is_available(self) -> bool:
            return SESSION.active

        def has_primary_context(self, device: int) -> bool:
            return SESSION.active

        def is_built(self) -> bool:
            return True

    module = runtime.SimModule(f"torch.{NAME}")
    set_up(NAME, backend_module=module, hook=Hook())
    tensor.DEVICE = torch.device(NAME, 0)
    tensor._dispatch = dispatch.run
    _register_kernels()


def _register_kernels() -> None:
    lib = torch.library.Library("aten", "IMPL")
    fallback = torch.library.Library("_", "IMPL")
    lib.impl("empty.memory_format", _empty, "PrivateUse1")
    lib.impl("empty_strided", _empty_strided, "PrivateUse1")
    lib.impl("scalar_tensor", _scalar_tensor, "PrivateUse1")
    lib.impl("_copy_from", copies.copy_from, "PrivateUse1")
    lib.impl("copy_", _copy_, "PrivateUse1")
    fallback.fallback(_fallback, "PrivateUse1")
    for name in WHOLE_OPS:
        base, _, overload = name.partition(".")
        func = getattr(getattr(aten, base), overload or "default")
        handlers.WHOLE.add(base)
        whole = _attention if base == "scaled_dot_product_attention" else _whole(func)
        lib.impl(name, whole, "AutogradPrivateUse1")
    fallback.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    autocast.register(lib)
    _libraries.extend((lib, fallback))


def _fallback(func: torch._ops.OpOverload, *args: object, **kwargs: object) -> object:
    return dispatch.run(func, args, kwargs)


def _copy_(dst: torch.Tensor, src: torch.Tensor, non_blocking: bool = False) -> object:
    return dispatch.run(aten.copy_.default, (dst, src, non_blocking), None)


def _whole(func: torch._ops.OpOverload) -> Any:
    """A kernel that doesn't take a composite apart, unless a gradient is wanted."""

    def kernel(*args: object, **kwargs: object) -> object:
        if torch.is_grad_enabled() and _wants_grad(args, kwargs):
            return func.decompose(*args, **kwargs)
        return _run_whole(func, args, kwargs)

    return kernel


def _attention(*args: object, **kwargs: object) -> Any:
    """Whole also where a gradient is wanted: CUDA's fused kernels have their own (derivatives.yaml)."""
    if not (torch.is_grad_enabled() and _wants_grad(args, kwargs)):
        return _run_whole(aten.scaled_dot_product_attention.default, args, kwargs)
    if all(type(a) is SimTensor and a._cell.known for a in args[:3]):
        return aten.scaled_dot_product_attention.default.decompose(*args, **kwargs)
    return _FusedAttention.apply(kwargs, *args)


class _FusedAttention(torch.autograd.Function):
    """Attention over (..., sequence, size), and the one kernel that computes its gradients."""

    @staticmethod
    def forward(ctx: Any, kwargs: dict[str, object], *args: object) -> object:
        out = dispatch.run(aten.scaled_dot_product_attention.default, args, kwargs)
        # float32, one a row of scores, kept for the gradients
        rows = torch.empty(out.shape[:-1], dtype=torch.float32, device=out.device)
        ctx.save_for_backward(*args[:3], out, rows)
        ctx.causal, ctx.more = bool(args[5] if len(args) > 5 else kwargs.get("is_causal")), len(args) - 3
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> object:
        q, k, v, out, rows = ctx.saved_tensors
        none = torch.empty(0, dtype=torch.int64, device=q.device)
        given = (grad, q, k, v, out, rows, none, none, q.shape[-2], k.shape[-2], 0.0, ctx.causal, none, none)
        grads = dispatch.run(aten._scaled_dot_product_flash_attention_backward.default, given, None)
        return (None, *grads, *(None,) * ctx.more)


def _wants_grad(args: Any, kwargs: dict[str, object]) -> bool:
    for a in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(a, torch.Tensor):
            if a.requires_grad:
                return True
        elif type(a) in (list, tuple) and _wants_grad(a, {}):
            return True
    return False


def _run_whole(func: torch._ops.OpOverload, args: tuple, kwargs: dict[str, object]) -> object:
    # matmul and linear fold differently where an operand requires a gradient, even under no_grad
    # (aten/src/ATen/native/LinearAlgebra.cpp, should_fold): the inner tensors say the same.
    if not torch.is_grad_enabled():
        for a in args:
            if type(a) is SimTensor and a.requires_grad:
                inner = a._inner
                if inner is not None and inner.is_leaf and not inner.requires_grad:
                    inner.requires_grad_(True)
        return dispatch.run(func, args, kwargs)
    with torch.no_grad():
        return dispatch.run(func, args, kwargs)


def _fits(size: object, dtype: torch.dtype) -> None:
    """Raises torch.OutOfMemoryError, before the host makes room, for what the device has no room for."""
    nbytes = torch.Size(size).numel() * dtype.itemsize
    if SESSION.capacity is not None and nbytes > SESSION.capacity:
        raise tensor.out_of_memory(nbytes, SESSION.capacity)


def _empty(
    size: object,
    dtype: torch.dtype | None = None,
    layout: object = None,
    device: torch.types.Device = None,
    pin_memory: object = None,
    memory_format: torch.memory_format | None = None,
) -> SimTensor:
    dtype = dtype or torch.get_default_dtype()
    memory_format = memory_format or torch.contiguous_format
    _fits(size, dtype)
    if SESSION.unknown and torch.Size(size).numel() > handlers.KEPT:
        like = torch.empty(size, dtype=dtype, memory_format=memory_format, device="meta")
        return unknown(intern_meta(like.shape, like.stride(), dtype, 0))
    return known(torch.empty(size, dtype=dtype, memory_format=memory_format, device="cpu"))


def _empty_strided(
    size: object,
    stride: Any,
    dtype: torch.dtype | None = None,
    layout: object = None,
    device: torch.types.Device = None,
    pin_memory: object = None,
) -> SimTensor:
    dtype = dtype or torch.get_default_dtype()
    _fits(size, dtype)
    if SESSION.unknown and torch.Size(size).numel() > handlers.KEPT:
        return unknown(intern_meta(torch.Size(size), tuple(stride), dtype, 0))
    return known(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def _scalar_tensor(
    value: object,
    dtype: torch.dtype | None = None,
    layout: object = None,
    device: torch.types.Device = None,
    pin_memory: object = None,
) -> SimTensor:
    return handlers.scalar_tensor(_scalar_op(), (value,), {"dtype": dtype})


def _scalar_op() -> Op:
    return dispatch.op_of(aten.scalar_tensor.default)
