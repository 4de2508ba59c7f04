"""Ops that aren't ordinary: reads, shapes that depend on data, masks, factories, storage surgery."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffprof.devices.simulated.signatures import make_signature, tell_op
from diffprof.gpu.signatures import TensorMeta, dtype_name

from . import copies
from .blocking import HOST_INDEX, WAITS
from .choices import assumption, give, guess_of, guessed_from
from .dispatch import HOST, META, SIM, UNKNOWN, compute, on_host, plain, scan
from .generators import is_on_device
from .indexing import index, index_put
from .inference import infer, mapped
from .observer import BlockingKind, UnknownValue
from .ops import Op, argument
from .reads import assumable, read_scalar, tell_wait
from .session import QUIET, SESSION, may_assume
from .subscripts import table_on_host
from .tensor import (
    NAME,
    Cell,
    SimTensor,
    covers,
    inner_of,
    intern_meta,
    known,
    meta_of,
    regeometry,
    unknown,
)

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
    if wait is not None and (op.base != "normal" or op.func._overloadname.endswith("_Tensor")):
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


# --- values on the CPU ---------------------------------------------------------------------------


def read(op: Op, args: tuple, kwargs: dict[str, object]) -> Any:
    """`_local_scalar_dense`: one value as a Python number."""
    SESSION.ops += 1
    t = args[0]
    wait = WAITS["_local_scalar_dense"]
    if t.dim() == 0 and not t.is_floating_point() and table_on_host():
        wait = HOST_INDEX
    return read_scalar(t, op.name, wait)


def equal(op: Op, args: tuple, kwargs: dict[str, object]) -> bool:
    """`torch.equal`: unknown contents count as different."""
    SESSION.ops += 1
    tensors: list[object] = []
    flags = scan(op, args, kwargs, [], tensors)
    if flags & HOST:
        raise RuntimeError(
            f"Cannot compare two tensors on different devices. Got: {args[0].device} and {args[1].device}"
        )
    subject = next(t for t in tensors if type(t) is SimTensor)
    if args[0].shape != args[1].shape:
        return False  # decided on the CPU: Equal.cpp compares sizes first
    if not WAITS["equal"].applies(args, kwargs):
        return True  # nothing to compare, or one memory
    if not flags & UNKNOWN:
        tell_wait(op, WAITS["equal"], subject, True, nbytes=1)
        return bool(op.func(*[on_host(t) for t in args]))
    tell_wait(op, WAITS["equal"], subject, False, assumable(False), 1)
    may_assume(op.name, tuple(subject.shape), subject.dtype)
    return False


def allclose(op: Op, args: tuple, kwargs: dict[str, object]) -> bool:
    """`torch.allclose`: what it consists of everywhere (native/TensorCompare.cpp), one read at the end."""
    return bool(torch.isclose(*args, **kwargs).all().item())


def range_by_tensor(op: Op, args: tuple, kwargs: dict[str, object]) -> object:
    """`linspace(start, end)` with device numbers: each is read back (native/RangeFactories.cpp)."""
    numbers = [
        read_scalar(a, op.name, WAITS["_local_scalar_dense"]) if type(a) is SimTensor else a for a in args
    ]
    numbers = [a.item() if isinstance(a, torch.Tensor) else a for a in numbers]
    return getattr(torch, op.base)(*numbers, **kwargs)


def checked(op: Op, args: tuple, kwargs: dict[str, object]) -> object:
    """An op that looks at a value on the CPU but whose result's shape doesn't depend on it.

    An error code of the CPU's stops nothing: whether a matrix that is nearly singular can be factorized hangs
    on how the device rounds.
    """
    wait = WAITS[op.base]
    tensors: list[object] = []
    flags = scan(op, args, kwargs, [], tensors)
    if flags & SIM and wait.applies(args, kwargs):
        subject = next(t for t in tensors if type(t) is SimTensor)
        tell_wait(op, wait, subject, not flags & UNKNOWN)
    if op.base == "_linalg_check_errors":
        SESSION.ops += 1
        return None
    return plain(op, args, kwargs)


def data_dependent(op: Op, args: tuple, kwargs: dict[str, object]) -> object:
    """An op whose result has as many elements as the data says."""
    wait = WAITS[op.base]
    tensors: list[object] = []
    flags = scan(op, args, kwargs, [], tensors)
    if flags & HOST and flags & SIM:
        plain(op, args, kwargs)  # raises
    SESSION.ops += 1
    subject = next((t for t in tensors if type(t) is SimTensor), None)
    waits = subject is not None and wait.applies(args, kwargs)
    if not flags & (UNKNOWN | META):
        if waits:
            tell_wait(op, wait, subject, True)  # type: ignore[arg-type]
        return compute(op, args, kwargs, tensors, None)
    assert subject is not None
    fill, text = _ASSUMED_CONTENTS[op.base]
    if waits:
        tell_wait(op, wait, subject, False, assumable(assumption(subject, text)))
        may_assume(op.name, tuple(subject.shape), subject.dtype)
    out = op.func(
        *[mapped(a, lambda t: _filled(t, fill)) for a in args],
        **{n: mapped(a, lambda t: _filled(t, fill)) for n, a in kwargs.items()},
    )
    fresh: list[TensorMeta] = []

    among = guessed_from(tensors)

    def blank(o: torch.Tensor) -> SimTensor:
        meta = intern_meta(o.shape, o.stride(), o.dtype, 0)
        fresh.append(meta)
        made = unknown(meta)
        if among:
            give(made, o, among)
        return made

    result = blank(out) if isinstance(out, torch.Tensor) else type(out)([blank(o) for o in out])
    tell_op(make_signature(op, args, kwargs, tensors, fresh))
    return result


_ASSUMED_CONTENTS = {
    "nonzero": ("one", "every element nonzero"),
    "masked_select": ("one", "every element selected"),
    "repeat_interleave": ("one", "each repeated once"),
    "bincount": ("zero", "all values zero"),
    "_unique": ("count", "all values different"),
    "_unique2": ("count", "all values different"),
    "unique_dim": ("count", "all values different"),
    "unique_consecutive": ("count", "all values different"),
    "unique_dim_consecutive": ("count", "all values different"),
}


def _filled(t: torch.Tensor, fill: str) -> torch.Tensor:
    if type(t) is SimTensor and t._cell.known:
        return inner_of(t)
    if type(t) is not SimTensor:
        return t
    if (guess := guess_of(t)) is not None:
        return guess
    if fill == "one":
        return torch.ones(t.shape, dtype=t.dtype)
    if fill == "zero":
        return torch.zeros(t.shape, dtype=t.dtype)
    return torch.arange(t.numel()).view(t.shape).to(t.dtype)


# --- factories and overwriting --------------------------------------------------------------------


def factory(op: Op, args: tuple, kwargs: dict[str, object]) -> object:
    """A factory without tensors (`arange`, `randperm`): made on the CPU, wrapped."""
    SESSION.ops += 1
    check_generator(args, kwargs)
    key: list[object] = [op]
    scan(op, args, kwargs, key, [])
    return compute(op, args, {k: v for k, v in kwargs.items() if k != "pin_memory"}, [], key)


def factory_like(op: Op, args: tuple, kwargs: dict[str, object]) -> object:
    """`zeros_like(x)`, `x.new_zeros(...)`: known values even where those of x aren't."""
    x = args[0]
    if type(x) is not SimTensor or x._cell.known or any(isinstance(a, torch.Tensor) for a in args[1:]):
        return plain(op, args, kwargs)
    size = args[1] if op.base.startswith("new_") else x.shape
    if torch.Size(size).numel() > KEPT:
        return plain(op, args, kwargs)
    SESSION.ops += 1
    stand_in = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    key: list[object] = [op]
    scan(op, args, kwargs, key, [])
    device = argument(args, kwargs, op.device_at) if op.device_at is not None else None
    host = {k: v for k, v in kwargs.items() if k not in ("device", "pin_memory")}
    if device is not None and torch.device(device).type != NAME:
        return op.func(stand_in, *args[1:], device=device, **host)
    out = op.func(stand_in, *args[1:], **host)
    tell_op(make_signature(op, args, kwargs, [x], [meta_of(out)]))
    return known(out)


def overwrite(op: Op, args: tuple, kwargs: dict[str, object]) -> object:
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


def random_on_device(op: Op, args: tuple, kwargs: dict[str, object]) -> object:
    """A random op that isn't a plain overwrite: the generator must be the device's."""
    check_generator(args, kwargs)
    if op.base in WAITS:
        return checked(op, args, kwargs)
    return plain(op, args, kwargs)


# --- storage and the rest -------------------------------------------------------------------------


def set_(op: Op, args: tuple, kwargs: dict[str, object]) -> object:
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
    alias = unknown(meta, y)
    if y._cell.known:
        inner_of(alias)
    regeometry(x, alias)
    return x


def resize_(op: Op, args: tuple, kwargs: dict[str, object]) -> object:
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


def nothing(op: Op, args: tuple, kwargs: dict[str, object]) -> Any:
    """Checks and markers without a result: they run on the device and never wait."""
    tensors: list[object] = []
    if not scan(op, args, kwargs, [], tensors) & UNKNOWN and op.base != "record_stream":
        op.func(*[mapped(a, on_host) for a in args], **kwargs)


def scalar_tensor(op: Op, args: tuple, kwargs: dict[str, object]) -> SimTensor:
    """One Python number as a tensor: on CUDA, indexing assignments keep it on the CPU."""
    cell = Cell(True, 0)
    cell.scalar = True
    inner = torch.scalar_tensor(args[0], dtype=kwargs.get("dtype"))
    cell.storage = inner.untyped_storage()
    return known(inner, cell=cell)


def decompose(op: Op, args: tuple, kwargs: dict[str, object]) -> object:
    """A composite that arrived whole (under inference mode): run what it consists of."""
    return op.func.decompose(*args, **kwargs)


def opaque(op: Op, args: tuple, kwargs: dict[str, object]) -> object:
    """An op that isn't PyTorch's own: computed on the CPU where values are known, else its fake kernel."""
    if op.composite:
        return decompose(op, args, kwargs)
    if SESSION.on_opaque is not None and not QUIET.depth:
        SESSION.on_opaque(op.name)
    SESSION.ops += 1
    tensors: list[object] = []
    key: list[object] = [op]
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

_allowing: dict[tuple[str, ...], Op] = {}


def attention(op: Op, args: tuple, kwargs: dict[str, object]) -> Any:
    """`scaled_dot_product_attention`, by the kernels that the process allows, in the order in which it would
    try them (`torch.nn.attention.sdpa_kernel`)."""
    order = tuple(torch._C._get_sdp_priority_order())
    if order == SDPA_ORDER and all(on() for _, on in SDPA_SWITCHES.values()):
        return plain(op, args, kwargs)
    allowed = tuple(
        name for name, on in (SDPA_SWITCHES[each] for each in order if each in SDPA_SWITCHES) if on()
    )
    if allowed not in _allowing:
        _allowing[allowed] = copy.copy(op)
        _allowing[allowed].settings = {"sdpa": allowed}
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):  # the CPU has no others
        return plain(_allowing[allowed], args, kwargs)


SDPA_ORDER = tuple(torch._C._get_sdp_priority_order())
"""That of PyTorch, as it is when a process begins."""

SDPA_SWITCHES = {
    int(SDPBackend.FLASH_ATTENTION): ("flash2", torch.backends.cuda.flash_sdp_enabled),
    int(SDPBackend.EFFICIENT_ATTENTION): ("efficient", torch.backends.cuda.mem_efficient_sdp_enabled),
    int(SDPBackend.MATH): ("math", torch.backends.cuda.math_sdp_enabled),
    int(SDPBackend.CUDNN_ATTENTION): ("cudnn", torch.backends.cuda.cudnn_sdp_enabled),
}
"""Kernels, by the names of `diffprof.gpu.attention.Backend`, and whether they are on."""

_HANDLERS: dict[str, Handler] = {
    "scaled_dot_product_attention": attention,
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
