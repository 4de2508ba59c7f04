"""Which operators on real device tensors make the CPU wait: the simulated GPU's table, asked of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from diffprof.devices.simulated.blocking import COPIES, HOST_INDEX, INDEX_UPLOAD, VALUE_UPLOAD, WAITS, Wait
from diffprof.devices.simulated.observer import Blocking
from diffprof.gpu.signatures import dtype_name

IsDevice = Callable[[torch.Tensor], bool]

_COPIES = ("copy_", "_to_copy", "_copy_from")
_INDEXED = ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put")


def classify(
    func: torch._ops.OpOverload, args: tuple, kwargs: dict[str, object], is_device: IsDevice
) -> tuple[Blocking, ...]:
    """The waits of one call of an ATen operator; empty when the CPU just goes on.

    func: an OpOverload. is_device: whether a tensor lies on the device.
    """
    base = func._schema.name.split("::")[1]
    if base in _COPIES:
        wait, tensor = _copy(base, args, kwargs, is_device)
        return (_event(func, wait, tensor),) if wait is not None else ()
    if base in _INDEXED:
        return tuple(_event(func, wait, tensor) for wait, tensor in _indexing(base, args, is_device))
    known = WAITS.get(base)
    subject = next((t for t in _tensors((args, kwargs)) if is_device(t)), None)
    if known is None or subject is None or not known.applies(args, kwargs):
        return ()
    return (_event(func, known, subject),)


def _copy(
    base: str, args: tuple, kwargs: dict[str, object], is_device: IsDevice
) -> tuple[Wait | None, torch.Tensor]:
    if base == "_to_copy":
        source = args[0]
        asked = kwargs.get("device")
        target = source.device if asked is None else torch.device(asked)
        to_device = is_device(source) if target == source.device else target.type != "cpu"
        pinned_end = bool(kwargs.get("non_blocking"))  # the result is made in pinned memory then
    else:
        target_tensor, source = (args[1], args[0]) if base == "_copy_from" else (args[0], args[1])
        to_device = is_device(target_tensor)
        pinned_end = not to_device and target_tensor.is_pinned()
    non_blocking = bool(
        kwargs.get("non_blocking", args[2] if base != "_to_copy" and len(args) > 2 else False)
    )
    from_device = is_device(source)
    if to_device == from_device or not source.numel():
        return None, source
    if to_device:
        if not non_blocking:
            return COPIES["blocking host to device"], source
        return (None if source.is_pinned() else COPIES["pageable host to device"]), source
    if not non_blocking:
        return COPIES["blocking device to host"], source
    return (None if pinned_end else COPIES["device to pageable host"]), source


def _indexing(base: str, args: tuple, is_device: IsDevice) -> Iterator[tuple[Wait, torch.Tensor]]:
    table, indices = args[0], args[1]
    for index in indices:
        if index is None:
            continue
        if is_device(table):
            if not is_device(index):
                if index.dim():
                    yield INDEX_UPLOAD, index
            elif index.dtype in (torch.bool, torch.uint8) and not _fills(base, args):
                yield WAITS["index" if "put" not in base else "index_put_"], index
        elif is_device(index):
            yield HOST_INDEX, index
    if (
        "put" in base
        and is_device(table)
        and not is_device(args[2])
        and not _fills_mask(base, args, is_device)
    ):
        yield VALUE_UPLOAD, args[2]


def _fills(base: str, args: tuple) -> bool:
    """`x[mask] = number`, which is a masked_fill."""
    return "put" in base and args[2].numel() == 1 and args[2].device.type == "cpu" and not any(args[3:4])


def _fills_mask(base: str, args: tuple, is_device: IsDevice) -> bool:
    given = [index for index in args[1] if index is not None]
    masks = [index for index in given if index.dtype in (torch.bool, torch.uint8) and is_device(index)]
    return len(given) == len(masks) == 1 and _fills(base, args)


def _event(func: torch._ops.OpOverload, wait: Wait, tensor: torch.Tensor) -> Blocking:
    return Blocking(
        kind=wait.kind,
        op=f"{func._schema.name}",
        reason=wait.reason,
        source=wait.source,
        bytes=tensor.nbytes if "copied" in wait.reason or "copy" in wait.reason else 0,
        shape=tuple(tensor.shape),
        dtype=dtype_name(tensor.dtype),
        known=True,
        waits=wait.waits,
        tensor=tensor,
    )


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
