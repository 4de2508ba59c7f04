"""Copies between the host and the simulated device."""

from __future__ import annotations

import torch

from diffprof.devices.simulated.signatures import signature_of, tell_op
from diffprof.gpu.signatures import TensorMeta

from .blocking import ASSIGNS_ON_DEVICE, D2H, D2H_PAGEABLE, H2D, SCALAR_ASSIGNED, STAGED, Wait
from .choices import assumption, guess_of
from .dispatch import plain
from .host_placeholders import PLACEHOLDER, placeholder, stands_for_unknown
from .ops import Op
from .session import SESSION, tell_blocking, tell_placeholder
from .tensor import NAME, SimTensor, covers, host_meta, inner_of, intern_meta, unknown

PINNED = "_diffprof_pinned"
"""Attribute of a CPU storage that counts as page-locked."""


def mark_pinned(t: torch.Tensor) -> torch.Tensor:
    """Let the storage of a CPU tensor count as page-locked."""
    setattr(t.untyped_storage(), PINNED, True)
    return t


def is_pinned(t: torch.Tensor) -> bool:
    """Whether a CPU tensor's storage counts as page-locked."""
    return bool(getattr(t.untyped_storage(), PINNED, False))


def copy_(op: Op, args: tuple, kwargs: dict[str, object]) -> object:
    """`dst.copy_(src, non_blocking)`, in any direction."""
    dst, src = args[0], args[1]
    non_blocking = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    to_device, from_device = type(dst) is SimTensor, type(src) is SimTensor
    if to_device and from_device:
        if src._cell.scalar and dst.dim() == 0 and not ASSIGNS_ON_DEVICE:
            report(op, SCALAR_ASSIGNED, src._meta, src._cell.known, src)
        if not dst._cell.known and src._cell.known and _fits(dst) and learn(dst, inner_of(src)):
            SESSION.ops += 1
            tell_op(signature_of(op, (dst._meta, src._meta), (dst._meta,), {}, "d2d", src._meta.nbytes))
            return dst
        return plain(op, args, kwargs)
    if to_device:
        return _upload(op, dst, src, non_blocking)
    return _download_into(op, dst, src, non_blocking)


def _fits(t: SimTensor) -> bool:
    return t._meta.numel <= 1 << 22 and not t.requires_grad


def learn(t: SimTensor, values: torch.Tensor) -> bool:
    """Make all of an unknown storage known by overwriting it with `values`. False if `t` isn't all of it."""
    if not covers(t):
        return False
    fresh = torch.empty_strided(t._meta.shape, t._meta.stride, dtype=t.dtype, device="cpu")
    fresh.copy_(values)
    t._cell.learn(fresh.untyped_storage())
    t._inner = fresh
    t._epoch = t._cell.epoch
    return True


def _upload(op: Op, dst: SimTensor, src: torch.Tensor, non_blocking: bool) -> SimTensor:
    SESSION.ops += 1
    if src.device.type == "meta":
        dst._cell.taint()
        return dst
    torch.broadcast_shapes(dst.shape, src.shape)
    if dst._meta.numel:
        tell_upload(op, src, dst._meta, non_blocking)
    if stands_for_unknown(src):
        dst._cell.taint()
    elif dst._cell.known:
        inner_of(dst).copy_(src)
        dst._cell.writes += 1
    elif _fits(dst):
        learn(dst, src)
    return dst


def tell_upload(op: Op, src: torch.Tensor, dst: TensorMeta, non_blocking: bool, wait: Wait = H2D) -> None:
    """Report a host-to-device copy: the op, then the wait unless it is asynchronous."""
    meta = host_meta(src)
    where: dict[str, object] = {"stream": SESSION.stream} if SESSION.stream and non_blocking else {}
    tell_op(signature_of(op, (meta,), (dst,), where, "h2d", meta.nbytes))
    if not non_blocking:
        report(op, wait, meta, tensor=src)
    elif not is_pinned(src):
        report(op, STAGED, meta, tensor=src)


def report(
    op: Op, wait: Wait, meta: TensorMeta, known: bool = True, tensor: torch.Tensor | None = None
) -> None:
    """Report the wait for a copy of a tensor of that geometry."""
    tell_blocking(
        wait.kind,
        op.name,
        wait.reason,
        wait.source,
        meta.shape,
        meta.dtype,
        nbytes=meta.nbytes,
        known=known,
        waits=wait.waits,
        tensor=tensor,
    )


def _download_into(op: Op, dst: torch.Tensor, src: SimTensor, non_blocking: bool) -> torch.Tensor:
    SESSION.ops += 1
    if dst.device.type == "meta":
        return dst
    meta = src._meta
    torch.broadcast_shapes(dst.shape, src.shape)
    if meta.numel:
        tell_op(signature_of(op, (meta,), (host_meta(dst),), {}, "d2h", meta.nbytes))
        if not non_blocking:
            report(op, D2H, meta, src._cell.known, src)
        elif not is_pinned(dst):
            report(op, D2H_PAGEABLE, meta, src._cell.known, src)
    if src._cell.known:
        dst.copy_(inner_of(src))
    else:
        tell_placeholder(src.shape, src.dtype, assumption(src, "zeros"))
        guess = guess_of(src)
        dst.zero_() if guess is None else dst.copy_(guess)
        if dst.numel() * dst.element_size() == dst.untyped_storage().nbytes():
            setattr(dst.untyped_storage(), PLACEHOLDER, True)
    return dst


def to_copy(op: Op, args: tuple, kwargs: dict[str, object]) -> object:
    """`_to_copy`: a copy of a tensor to another device, type or layout."""
    src = args[0]
    device = kwargs.get("device")
    if device is not None and not isinstance(device, torch.device):
        device = torch.device(device)
    if type(src) is not SimTensor:
        return _new_on_device(op, src, kwargs)
    if device is None or device.type == NAME:
        kwargs = {k: v for k, v in kwargs.items() if k not in ("device", "non_blocking", "pin_memory")}
        return plain(op, args, kwargs)
    if device.type == "meta":
        return torch.empty_strided(
            src.shape, src.stride(), dtype=kwargs.get("dtype") or src.dtype, device="meta"
        )
    return _download(op, src, kwargs)


def _download(op: Op, src: SimTensor, kwargs: dict[str, object]) -> torch.Tensor:
    SESSION.ops += 1
    non_blocking = bool(kwargs.get("non_blocking"))
    host = {k: v for k, v in kwargs.items() if k not in ("pin_memory", "non_blocking")}
    host["device"] = torch.device("cpu")
    if src._cell.known:
        inner = inner_of(src)
        out = op.func(inner.resolve_conj().resolve_neg(), **host)
    else:
        dtype = kwargs.get("dtype") or src.dtype
        layout = kwargs.get("memory_format") or torch.preserve_format
        like = torch.empty_strided(src.shape, src.stride(), dtype=src.dtype, device="meta")
        out = placeholder(torch.empty_like(like, dtype=dtype, memory_format=layout))
        if (guess := guess_of(src)) is not None:
            out.copy_(guess)
        tell_placeholder(src.shape, src.dtype, assumption(src, "zeros"))
    if src._meta.numel:
        tell_op(signature_of(op, (src._meta,), (host_meta(out),), {}, "d2h", src._meta.nbytes))
        # With non_blocking=True the destination is made in pinned memory:
        # aten/src/ATen/native/TensorConversions.cpp, _to_copy (pin_out).
        if non_blocking:
            mark_pinned(out)
        else:
            report(op, D2H, src._meta, src._cell.known, src)
    return out


def _new_on_device(op: Op, src: torch.Tensor, kwargs: dict[str, object]) -> object:
    """A CPU tensor that arrives at `_to_copy` whole: as the composite does it, `empty` and `copy_`."""
    non_blocking = bool(kwargs.get("non_blocking"))
    dtype = kwargs.get("dtype") or src.dtype
    layout = kwargs.get("memory_format") or torch.preserve_format
    if src.device.type == "meta":
        like = torch.empty_like(src, dtype=dtype, memory_format=layout)
        return unknown(intern_meta(like.shape, like.stride(), dtype, 0))
    out = torch.empty_like(src, dtype=dtype, device=f"{NAME}:0", memory_format=layout)
    return out.copy_(src, non_blocking)


def copy_from(src: torch.Tensor, dst: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """The registered `_copy_from`: C++ copies through it where a backend is involved."""
    from .dispatch import op_of

    copy_(op_of(torch.ops.aten.copy_.default), (dst, src, non_blocking), {})
    return dst
