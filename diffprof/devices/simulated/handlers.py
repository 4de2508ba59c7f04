"""Ops that aren't ordinary: reads, shapes that depend on data, masks, factories, storage surgery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from . import copies
from .blocking import HOST_INDEX, INDEX_UPLOAD, VALUE_UPLOAD, WAITS, Wait
from .dispatch import HOST, META, SIM, UNKNOWN, compute, on_host, plain, scan
from .generators import is_on_device
from .inference import infer, mapped
from .observer import BlockingKind, TensorMeta, UnknownValue, dtype_name
from .ops import Op, argument
from .session import QUIET, SESSION, may_assume, tell_blocking
from .signatures import make_signature, signature_of, tell_op
from .subscripts import table_on_host
from .tensor import NAME, Cell, SimTensor, covers, inner_of, intern_meta, known, regeometry, unknown

Handler = Callable[[Op, tuple, dict[str, Any]], Any]

KEPT = 1 << 22
"""Elements. What a factory makes is known up to this size where weights are unknown."""


def handler_for(op: Op) -> Handler | None:
    """What runs an op, or None for an ordinary one."""
    if not op.native:
        return opaque
    found = _HANDLERS.get(op.base)
    if found is range_by_tensor and "Tensor" not in op.func._overloadname:
        return factory
    if found is not None:
        return found
    if op.like:
        return factory_like
    if op.overwrites:
        return overwrite
    wait = WAITS.get(op.base)
    if wait is not None and (op.base != "normal" or "Tensor" in op.func._overloadname):
        if wait.kind is BlockingKind.DATA_DEPENDENT_SHAPE:
            if op.base == "repeat_interleave" and op.func._overloadname != "Tensor":
                return None
            return data_dependent
        return checked
    if op.composite and op.base not in WHOLE:
        return decompose
    if op.device_at is not None and not any("Tensor" in str(a.type) for a in op.func._schema.arguments):
        return factory
    return None


def _tell(op: Op, wait: Wait, t: torch.Tensor, is_known: bool, assumed: Any = None, nbytes: int = 0) -> None:
    tell_blocking(
        wait.kind,
        op.name,
        wait.reason,
        wait.source,
        tuple(t.shape),
        t.dtype,
        nbytes=nbytes,
        known=is_known,
        assumed=assumed,
        waits=wait.waits,
        tensor=t,
    )


# --- values on the host ---------------------------------------------------------------------------


def read(op: Op, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`_local_scalar_dense`: one value as a Python number."""
    SESSION.ops += 1
    t = args[0]
    wait = WAITS["_local_scalar_dense"]
    if t.dim() == 0 and not t.is_floating_point() and table_on_host():
        wait = HOST_INDEX
    return read_scalar(t, op.name, wait)


def read_scalar(t: SimTensor, op: str, wait: Wait) -> Any:
    """The value of a one-element tensor; reported as a wait. Unknown: False or 0, where allowed."""
    is_known = t._cell.known
    value: Any
    if is_known:
        value = inner_of(t).item()
    else:
        value = False if t.dtype is torch.bool else (0.0 if t.dtype.is_floating_point else 0)
        if t.dtype.is_complex:
            value = 0j
    tell_blocking(
        wait.kind,
        op,
        wait.reason,
        wait.source,
        tuple(t.shape),
        t.dtype,
        nbytes=t.dtype.itemsize,
        known=is_known,
        assumed=None if is_known or SESSION.unknown_reads == "raise" else value,
        tensor=t,
    )
    if not is_known:
        may_assume(op, tuple(t.shape), t.dtype)
    return value


def equal(op: Op, args: tuple, kwargs: dict[str, Any]) -> bool:
    """`torch.equal`: unknown contents count as different."""
    SESSION.ops += 1
    tensors: list[Any] = []
    flags = scan(op, args, kwargs, [], tensors)
    if flags & HOST:
        raise RuntimeError(
            f"Cannot compare two tensors on different devices. Got: {args[0].device} and {args[1].device}"
        )
    subject = next(t for t in tensors if type(t) is SimTensor)
    if args[0].shape != args[1].shape:
        return False  # decided on the host: Equal.cpp compares sizes first
    if not flags & UNKNOWN:
        _tell(op, WAITS["equal"], subject, True, nbytes=1)
        return bool(op.func(*[on_host(t) for t in args]))
    _tell(op, WAITS["equal"], subject, False, _assumable(False), 1)
    may_assume(op.name, tuple(subject.shape), subject.dtype)
    return False


def allclose(op: Op, args: tuple, kwargs: dict[str, Any]) -> bool:
    """`torch.allclose`: what it consists of everywhere (native/TensorCompare.cpp), one read at the end."""
    return bool(torch.isclose(*args, **kwargs).all().item())


def range_by_tensor(op: Op, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`linspace(start, end)` with device numbers: each is read back (native/RangeFactories.cpp)."""
    numbers = [
        read_scalar(a, op.name, WAITS["_local_scalar_dense"]) if type(a) is SimTensor else a for a in args
    ]
    numbers = [a.item() if isinstance(a, torch.Tensor) else a for a in numbers]
    return getattr(torch, op.base)(*numbers, **kwargs)


def _assumable(value: Any) -> Any:
    return None if SESSION.unknown_reads == "raise" else value


def checked(op: Op, args: tuple, kwargs: dict[str, Any]) -> Any:
    """An op that looks at a value on the host but whose result's shape doesn't depend on it."""
    wait = WAITS[op.base]
    tensors: list[Any] = []
    flags = scan(op, args, kwargs, [], tensors)
    if flags & SIM and wait.applies(args, kwargs):
        subject = next(t for t in tensors if type(t) is SimTensor)
        _tell(op, wait, subject, not flags & UNKNOWN)
    if op.base == "_linalg_check_errors":
        SESSION.ops += 1
        if not flags & UNKNOWN:
            op.func(*[mapped(a, on_host) for a in args], **kwargs)
        return None
    return plain(op, args, kwargs)


def data_dependent(op: Op, args: tuple, kwargs: dict[str, Any]) -> Any:
    """An op whose result has as many elements as the data says."""
    wait = WAITS[op.base]
    tensors: list[Any] = []
    flags = scan(op, args, kwargs, [], tensors)
    if flags & HOST and flags & SIM:
        plain(op, args, kwargs)  # raises
    SESSION.ops += 1
    subject = next((t for t in tensors if type(t) is SimTensor), None)
    waits = subject is not None and wait.applies(args, kwargs)
    if not flags & (UNKNOWN | META):
        if waits:
            _tell(op, wait, subject, True)  # type: ignore[arg-type]
        return compute(op, args, kwargs, tensors, None)
    assert subject is not None
    fill, text = _ASSUMED_CONTENTS[op.base]
    if waits:
        _tell(op, wait, subject, False, _assumable(text))
        may_assume(op.name, tuple(subject.shape), subject.dtype)
    out = op.func(
        *[mapped(a, lambda t: _filled(t, fill)) for a in args],
        **{n: mapped(a, lambda t: _filled(t, fill)) for n, a in kwargs.items()},
    )
    fresh: list[TensorMeta] = []

    def blank(o: torch.Tensor) -> SimTensor:
        meta = intern_meta(o.shape, o.stride(), o.dtype, 0)
        fresh.append(meta)
        return unknown(meta)

    result = blank(out) if isinstance(out, torch.Tensor) else type(out)([blank(o) for o in out])
    tell_op(make_signature(op, args, kwargs, tensors, fresh))
    return result


_ASSUMED_CONTENTS = {
    "nonzero": ("one", "every element is nonzero"),
    "masked_select": ("one", "every element is selected"),
    "repeat_interleave": ("one", "each is repeated once"),
    "bincount": ("zero", "all values are zero"),
    "_unique": ("count", "all values differ"),
    "_unique2": ("count", "all values differ"),
    "unique_dim": ("count", "all values differ"),
    "unique_consecutive": ("count", "all values differ"),
    "unique_dim_consecutive": ("count", "all values differ"),
}


def _filled(t: torch.Tensor, fill: str) -> torch.Tensor:
    if type(t) is SimTensor and t._cell.known:
        return inner_of(t)
    if type(t) is not SimTensor:
        return t
    if fill == "one":
        return torch.ones(t.shape, dtype=t.dtype)
    if fill == "zero":
        return torch.zeros(t.shape, dtype=t.dtype)
    return torch.arange(t.numel()).view(t.shape).to(t.dtype)


# --- indexing -------------------------------------------------------------------------------------


def index(op: Op, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`x[indices]`: a mask on the device is counted first, an index on the CPU is uploaded first."""
    x, indices = args[0], args[1]
    if type(x) is not SimTensor:
        _refuse_device_index()
    plan, unknown_mask = _indices(op, x, indices, WAITS["index"])
    if plan is None:
        return plain(op, args, kwargs)
    if unknown_mask is not None:
        may_assume(op.name, tuple(unknown_mask.shape), unknown_mask.dtype)
    return plain(op, (x, plan, *args[2:]), kwargs)


def _refuse_device_index() -> None:
    raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")


def _indices(
    op: Op, x: SimTensor, indices: Any, mask_wait: Wait | None
) -> tuple[list | None, SimTensor | None]:
    """Report what the indices cost. Returns them with masks as integers, and the mask that isn't known."""
    plan: list[Any] = []
    unknown_mask = None
    masks = False
    for i in indices:
        if i is None:
            plan.append(None)
            continue
        on_device = type(i) is SimTensor
        if i.dtype is torch.bool or i.dtype is torch.uint8:
            masks = True
            if on_device:
                assumed = None
                if not i._cell.known:
                    unknown_mask = i
                    assumed = _assumable("every element is selected")
                if mask_wait is not None:
                    _tell(op, mask_wait, i, i._cell.known, assumed)
                host = inner_of(i) if i._cell.known else torch.ones(i.shape, dtype=torch.bool)
            else:
                host = i
                _upload_index(op, i)
            plan += [known(y) for y in host.bool().nonzero(as_tuple=True)]
        else:
            if not on_device and i.device.type == "cpu":
                _upload_index(op, i)
            plan.append(i)
    return (plan if masks else None), unknown_mask


def _upload_index(op: Op, i: torch.Tensor) -> None:
    copies.tell_upload(op, i, intern_meta(i.shape, i.stride(), i.dtype, 0), False, INDEX_UPLOAD)


def index_put(op: Op, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`x[indices] = values`: a mask with one CPU number is a masked fill, which doesn't wait."""
    x, indices, values = args[0], args[1], args[2]
    if type(x) is not SimTensor:
        tensors: list[Any] = []
        flags = scan(op, args, kwargs, [], tensors)
        if any(type(i) is SimTensor for i in indices if i is not None):
            _refuse_device_index()
        if flags & SIM:  # a device value for a CPU tensor
            if values.dim() == 0:
                values = torch.tensor(
                    read_scalar(values, op.name, WAITS["_local_scalar_dense"]), dtype=values.dtype
                )
                return op.func(x, indices, values, *args[3:], **kwargs)
            raise RuntimeError(
                f"expected self and values to be on the same device, but got {x.device} and {NAME}:0"
            )
    accumulate = bool(args[3] if len(args) > 3 else kwargs.get("accumulate", False))
    on_device = type(values) is SimTensor
    number = values.numel() == 1 and (not on_device or values._cell.scalar) and not accumulate
    masked_fill = number and _single_mask(indices)
    if not on_device and values.dim() and not masked_fill:
        raise RuntimeError(
            f"expected self and values to be on the same device, but got {NAME}:0 and {values.device}"
        )
    if not on_device and values.dim() == 0 and not masked_fill:
        copies.tell_upload(
            op, values, intern_meta(values.shape, values.stride(), values.dtype, 0), False, VALUE_UPLOAD
        )
    plan, _ = _indices(op, x, indices, None if masked_fill else WAITS["index_put_"])
    SESSION.ops += 1
    tensors = []
    key: list[Any] = [op]
    flags = scan(op, args, kwargs, key, tensors)
    if not flags & UNKNOWN:
        return compute(op, args, kwargs, tensors, key)
    if plan is None:
        return infer(op, args, kwargs, tensors, tuple(key))
    # With a mask the geometry of the result is that of x, whatever is selected.
    signature = make_signature(op, args, kwargs, tensors, [] if op.writes else [x._meta])
    tell_op(signature)
    if op.writes:
        x._cell.taint()
        return x
    return unknown(intern_meta(x.shape, torch.empty_like(x, device="meta").stride(), x.dtype, 0))


def _single_mask(indices: Any) -> bool:
    """The condition of canDispatchToMaskedFill: one mask on the device, and otherwise full slices."""
    given = [i for i in indices if i is not None]
    return len(given) == 1 and given[0].dtype in (torch.bool, torch.uint8) and type(given[0]) is SimTensor


# --- factories and overwriting --------------------------------------------------------------------


def factory(op: Op, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A factory without tensors (`arange`, `randperm`): made on the CPU, wrapped."""
    SESSION.ops += 1
    check_generator(args, kwargs)
    key: list[Any] = [op]
    scan(op, args, kwargs, key, [])
    return compute(op, args, {k: v for k, v in kwargs.items() if k != "pin_memory"}, [], key)


def factory_like(op: Op, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`zeros_like(x)`, `x.new_zeros(...)`: known values even where those of x aren't."""
    x = args[0]
    if type(x) is not SimTensor or x._cell.known or any(isinstance(a, torch.Tensor) for a in args[1:]):
        return plain(op, args, kwargs)
    size = args[1] if op.base.startswith("new_") else x.shape
    if torch.Size(size).numel() > KEPT:
        return plain(op, args, kwargs)
    SESSION.ops += 1
    stand_in = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    key: list[Any] = [op]
    scan(op, args, kwargs, key, [])
    device = argument(args, kwargs, op.device_at) if op.device_at is not None else None
    host = {k: v for k, v in kwargs.items() if k not in ("device", "pin_memory")}
    if device is not None and torch.device(device).type != NAME:
        return op.func(stand_in, *args[1:], device=device, **host)
    out = op.func(stand_in, *args[1:], **host)
    result = known(out)
    if op.launches and SESSION.on_op is not None and not QUIET.depth and out.numel():
        tell_op(signature_of(op, (), (result._meta,), {}))
    return result


def overwrite(op: Op, args: tuple, kwargs: dict[str, Any]) -> Any:
    """An in-place op that leaves nothing of the old values: unknown memory becomes known."""
    check_generator(args, kwargs)
    x = args[0]
    if type(x) is not SimTensor:
        if op.base == "fill_" and type(args[1]) is SimTensor:
            # native/Fill.cpp: a value on another device is read back
            return x.fill_(read_scalar(args[1], op.name, WAITS["_local_scalar_dense"]))
        return plain(op, args, kwargs)
    if x._cell.known or x._meta.numel > KEPT or x._cell.nbytes == 0 or not covers(x):
        return plain(op, args, kwargs)
    if x.requires_grad or any(type(a) is SimTensor and not a._cell.known for a in args[1:]):
        return plain(op, args, kwargs)
    inner = torch.empty_strided(x._meta.shape, x._meta.stride, dtype=x.dtype)
    x._cell.learn(inner.untyped_storage())
    x._inner, x._epoch = inner, x._cell.epoch
    return plain(op, args, kwargs)


def check_generator(args: tuple, kwargs: dict[str, Any]) -> None:
    """The error that CUDA gives for a generator of another device."""
    generator = kwargs.get("generator")
    if generator is None:
        generator = next((a for a in args if isinstance(a, torch._C.Generator)), None)
    if generator is not None and not is_on_device(generator):
        raise RuntimeError(
            f"Expected a '{NAME}' device type for generator but found '{generator.device.type}'"
        )


def random_on_device(op: Op, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A random op that isn't a plain overwrite: the generator must be the device's."""
    check_generator(args, kwargs)
    if op.base in WAITS:
        return checked(op, args, kwargs)
    return plain(op, args, kwargs)


# --- storage and the rest -------------------------------------------------------------------------


def set_(op: Op, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`x.set_(y)`: x becomes an alias of y; `x.set_()`: x becomes empty."""
    x = args[0]
    if len(args) == 1:
        regeometry(x, known(torch.empty(0, dtype=x.dtype)))
        return x
    y = args[1]
    if type(y) is not SimTensor:
        if len(args) > 2 and isinstance(y, torch.Tensor) and type(x) is not SimTensor:
            return op.func(*args, **kwargs)
        raise RuntimeError(
            f'Attempted to set the storage of a tensor on device "{x.device}" to a storage on different '
            f'device "{y.device}". This is no longer allowed; the devices must match.'
        )
    if len(args) == 2:
        meta = y._meta
    else:
        size = torch.Size(args[3])
        stride = args[4] if len(args) > 4 and args[4] else torch.empty(size, device="meta").stride()
        meta = intern_meta(size, tuple(stride), y.dtype, args[2])
    alias = unknown(meta, y._cell)
    if y._cell.known:
        inner_of(alias)
    regeometry(x, alias)
    return x


def resize_(op: Op, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`x.resize_(size)`: keeps the elements, in storage order."""
    x, size = args[0], torch.Size(args[1])
    if x.shape == size:
        return x
    cell = x._cell
    if cell.known:
        inner = inner_of(x).detach().clone(memory_format=torch.contiguous_format).resize_(size)
        regeometry(x, known(inner))
    else:
        regeometry(x, unknown(intern_meta(size, torch.empty(size, device="meta").stride(), x.dtype, 0)))
    return x


def nothing(op: Op, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Checks and markers without a result: they run on the device and never wait."""
    tensors: list[Any] = []
    if not scan(op, args, kwargs, [], tensors) & UNKNOWN and op.base != "record_stream":
        op.func(*[mapped(a, on_host) for a in args], **kwargs)


def scalar_tensor(op: Op, args: tuple, kwargs: dict[str, Any]) -> SimTensor:
    """One Python number as a tensor: on CUDA, indexing assignments keep it on the CPU."""
    cell = Cell(True, 0)
    cell.scalar = True
    inner = torch.scalar_tensor(args[0], dtype=kwargs.get("dtype"))
    cell.storage = inner.untyped_storage()
    return known(inner, cell)


def decompose(op: Op, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A composite that arrived whole (under inference mode): run what it consists of."""
    return op.func.decompose(*args, **kwargs)


def opaque(op: Op, args: tuple, kwargs: dict[str, Any]) -> Any:
    """An op that isn't PyTorch's own: computed on the CPU where values are known, else its fake kernel."""
    if op.composite:
        return decompose(op, args, kwargs)
    if SESSION.on_opaque is not None and not QUIET.depth:
        SESSION.on_opaque(op.name)
    SESSION.ops += 1
    tensors: list[Any] = []
    key: list[Any] = [op]
    flags = scan(op, args, kwargs, key, tensors)
    try:
        if flags & (UNKNOWN | META):
            return infer(op, args, kwargs, tensors, tuple(key))
        return compute(op, args, kwargs, tensors, None)
    except UnknownValue:
        raise
    except (NotImplementedError, RuntimeError) as error:
        subject = next((t for t in tensors if type(t) is SimTensor), None)
        shape = () if subject is None else tuple(subject.shape)
        dtype = torch.float32 if subject is None else subject.dtype
        if flags & (UNKNOWN | META):
            raise UnknownValue(
                op.name, shape, dtype, "the custom op has no fake kernel (torch.library.register_fake)"
            ) from error
        raise RuntimeError(
            f"{op.name} has no kernel that runs on the CPU, so it can't be simulated on "
            f"{dtype_name(dtype)} {shape}: {error}"
        ) from error


WHOLE: set[str] = set()
"""Composites that aren't taken apart; filled by `backend.register`."""

_HANDLERS: dict[str, Handler] = {
    "_local_scalar_dense": read,
    "equal": equal,
    "allclose": allclose,
    "linspace": range_by_tensor,
    "logspace": range_by_tensor,
    "copy_": copies.copy_,
    "_to_copy": copies.to_copy,
    "index": index,
    "_unsafe_index": index,
    "index_put": index_put,
    "index_put_": index_put,
    "_index_put_impl_": index_put,
    "_unsafe_index_put": index_put,
    "set_": set_,
    "resize_": resize_,
    "record_stream": nothing,
    "_assert_async": nothing,
    "_assert_tensor_metadata": nothing,
    "_assert_scalar": nothing,
    "scalar_tensor": scalar_tensor,
    "multinomial": random_on_device,
    "bernoulli": random_on_device,
    "randperm": factory,
    "poisson": random_on_device,
    "native_dropout": random_on_device,
    "rrelu_with_noise": random_on_device,
}
