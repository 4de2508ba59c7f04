"""Let code that names CUDA run on another device: `"cuda"` means the device that is scanned."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from diffprof.devices import branches
from diffprof.devices.simulated import runtime
from diffprof.devices.simulated.cuda_api import TENSOR_TYPES, stand_ins, tensor_type
from diffprof.devices.simulated.host_placeholders import (
    is_weight_stand_in,
    placeholder,
    stands_for_unknown,
    weight_stand_in,
)
from diffprof.devices.simulated.tensor import SimTensor
from diffprof.targets.device_names import asked_by_user, called_cuda
from diffprof.targets.load_arguments import CUDA, everywhere
from diffprof.targets.memory_guard import MAKING, refuse_large
from diffprof.targets.process import installed

if TYPE_CHECKING:
    from diffprof.devices import Device

COMPILER = ("torch._dynamo", "torch._functorch", "torch._inductor", "triton")
"""Packages that go on seeing the machine as it is: they make code, and keys of caches, for it."""

ASKING = ("is_available", "is_initialized", "device_count")
"""Answered as the device would to the user's own lines. Libraries go on seeing the machine as it is: they
keep the answer, and choose CUDA-only code by it."""


@contextmanager
def cuda_redirect(device: Device) -> Iterator[Callable[[], AbstractContextManager[object]]]:
    """Inside, whatever names `cuda` gets `device.torch_device` (asked for each time, so it may change).

    Does nothing on a CUDA device. The user's own lines are told that a simulated GPU is CUDA. Covers tensor
    functions and methods, modules, generators, autocast, the default device, `torch.load`, the functions of
    `torch.cuda`, and the offloading and loading of pipelines. Costs about 2 us per torch function called
    while it is open.

    Gives a function that makes what another thread has to be in for the same.
    """
    if device.kind == "cuda":
        yield lambda: torch.cuda.device(device.torch_device)
        return
    names = Names(device)
    with ExitStack() as stack:
        patches = stack.enter_context(_patches())
        _patch_torch(patches, names)
        _patch_cuda(patches, names)
        _patch_pipelines(patches, names, device)
        if device.gpu is not None:
            _patch_accelerate(patches, names)
            patches(SimTensor, "is_cuda", property(lambda tensor: asked_by_user(names)))
            stack.enter_context(called_cuda(names))
        stack.enter_context(CudaNames(names))
        try:
            yield lambda: CudaNames(names)
        finally:
            names.open = False


_CONVERTING = (
    torch.Tensor.to,
    torch.Tensor.cpu,
    torch.Tensor.half,
    torch.Tensor.bfloat16,
    torch.Tensor.float,
    torch.Tensor.double,
)


_GEOMETRY = re.compile(
    r"(as_strided|detach|rename|requires_grad|resize|resize_as|set|share_memory|squeeze|swapaxes|swapdims|t"
    r"|transpose|unsqueeze)_"
)
_OPERATORS = ("__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__", "__setitem__")

_WRITING = frozenset(
    getattr(torch.Tensor, name)
    for name in dir(torch.Tensor)
    if name in _OPERATORS
    or (name.endswith("_") and not name.startswith("_") and not _GEOMETRY.fullmatch(name))
)
"""Methods that write to their tensor. Where that stands for a weight nobody made, nothing is written."""

_JOINING = (torch.cat, torch.concat, torch.concatenate, torch.stack)
"""They make one tensor of several, of weights when projections are fused."""


class Names:
    """Tells which values name CUDA, and what they mean instead. open: False once the redirect is over, for
    modules that hold on to a wrapper."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.open = True

    @property
    def meant(self) -> torch.device:
        return self.device.torch_device

    def is_cuda(self, value: Any) -> bool:
        kind = type(value)
        if kind is str:
            return CUDA.fullmatch(value) is not None
        return kind is torch.device and value.type == "cuda"

    def instead(self, value: object) -> Any:
        """The device that is meant, where `value` names CUDA; else the value."""
        return self.meant if self.open and self.is_cuda(value) else value


class CudaNames(TorchFunctionMode):
    """Rewrites device arguments of torch functions. A mode and not patched functions: Dynamo tells torch's
    functions by identity."""

    def __init__(self, names: Names) -> None:
        super().__init__()
        self.names = names
        self.wants_values = names.device.wants_values

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if func is torch.Tensor.cuda:
            tensor, _, non_blocking, *_ = (*args, None, False) if len(args) == 1 else (*args, False)
            more = {"non_blocking": non_blocking, **(kwargs or {}), "device": self.names.meant}
            return torch.Tensor.to(tensor, **more)
        if func in _CONVERTING and not self.wants_values and self.names.open and _left_out(args[0]):
            args = tuple(self.names.instead(each) for each in args)
            more = {name: self.names.instead(value) for name, value in (kwargs or {}).items()}
            return self._converted(func, args, more)
        if getattr(func, "__name__", None) in MAKING and self.names.open and self._on_cpu(kwargs):
            refuse_large(func.__name__, args, kwargs or {})
        if func in _JOINING and not self.wants_values and self.names.open and any(map(_is_weight, args[0])):
            metas = [part.to("meta") for part in args[0]]
            return weight_stand_in(func(metas, *args[1:], **(kwargs or {})))
        if func in _WRITING and not self.wants_values and self.names.open and _is_weight(args[0]):
            return args[0]
        if func is torch.Tensor.type and len(args) > 1 and self.names.open:
            dtype = _dtype_of_type(args[1])
            if dtype is not None:
                return torch.Tensor.to(args[0], self.names.meant, dtype)
        if func is torch.device:
            named = args[0] if args else (kwargs or {}).get("type", (kwargs or {}).get("device"))
            return self.names.meant if self.names.is_cuda(named) else func(*args, **(kwargs or {}))
        for value in args:
            kind = type(value)
            if kind is str or kind is torch.device:
                args = tuple(self.names.instead(each) for each in args)
                break
        if not kwargs:
            return func(*args)
        if "device" in kwargs:
            value = kwargs["device"]
            meant = self.names.meant if type(value) is int else self.names.instead(value)
            return func(*args, **{**kwargs, "device": meant})
        return func(*args, **kwargs)

    def _on_cpu(self, kwargs: dict[str, object] | None) -> bool:
        """Whether a function that makes a tensor makes it on the CPU."""
        named = (kwargs or {}).get("device")
        return torch.device(torch.get_default_device() if named is None else named).type == "cpu"

    def _converted(
        self, func: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        """A weight that was left out, in another dtype or on the CPU: zeros again that stand for it."""
        weight = args[0]
        like = torch.empty_strided(weight.shape, weight.stride(), dtype=weight.dtype, device="meta")
        copied = False
        if func is torch.Tensor.to:
            if any(self._elsewhere(value) for value in (*args[1:], *kwargs.values())):
                return func(*args, **kwargs)
            copied = bool(kwargs.get("copy"))
            kwargs = {name: value for name, value in kwargs.items() if name != "copy"}
            _, dtype, _, layout = torch._C._nn._parse_to(*args[1:], **kwargs)
            made = like.to(dtype or like.dtype, memory_format=layout or torch.preserve_format)
        else:
            made = like if func is torch.Tensor.cpu else func(like, *args[1:], **kwargs)
        same = made.dtype == weight.dtype and made.stride() == weight.stride()
        return (
            weight if same and not copied else (weight_stand_in if _is_weight(weight) else placeholder)(made)
        )

    def _elsewhere(self, value: object) -> bool:
        if isinstance(value, torch.Tensor):
            return True
        named = self.names.instead(value)
        return isinstance(named, str | torch.device) and torch.device(named).type != "cpu"


def _is_weight(value: torch.Tensor) -> bool:
    """A weight that was never made, on the CPU."""
    plain = type(value) in (torch.Tensor, torch.nn.Parameter)
    return plain and value.device.type == "cpu" and is_weight_stand_in(value)


def _left_out(value: torch.Tensor) -> bool:
    """A weight of a model that was built without values, on the CPU."""
    return type(value) in (torch.Tensor, torch.nn.Parameter) and (
        value.device.type == "cpu" and value.numel() > 1 and stands_for_unknown(value)
    )


Patch = Callable[[Any, str, Any], None]

_ABSENT = object()


@contextmanager
def _patches() -> Iterator[Patch]:
    """A function that sets an attribute until the context closes."""
    done: list[tuple[object, str, object]] = []

    def patch(owner: object, name: str, value: object) -> None:
        done.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, value)

    try:
        yield patch
    finally:
        for owner, name, value in reversed(done):
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def _patch_torch(patch: Patch, names: Names) -> None:
    patch(torch, "Generator", _generator_type(torch.Generator, names))
    patch(torch, "Stream", _replacement(torch.Stream, runtime.Stream, names))
    patch(torch, "Event", _replacement(torch.Event, runtime.SimulatedEvent, names))
    patch(torch, "set_default_tensor_type", _default_type(torch.set_default_tensor_type, names))
    if names.meant.type == "cpu":
        patch(torch.Tensor, "record_stream", lambda self, s: None)
    patch(torch, "set_default_device", _first_argument(torch.set_default_device, "device", names))
    patch(torch.autocast, "__init__", _device_type(torch.autocast.__init__, names))
    load = torch.load

    @functools.wraps(load)
    def loading(f: object, map_location: object = None, *args: Any, **kwargs: Any) -> Any:
        return load(f, names.instead(map_location), *args, **kwargs)

    patch(torch, "load", loading)


def _generator_type(original: Any, names: Names) -> object:
    """A stand-in for torch.Generator, of which its instances count as instances."""

    class Type(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, original)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, original)

        def __call__(cls, device: torch.types.Device = "cpu") -> object:
            return original(names.instead(device))

    return Type("Generator", (), {"__module__": "torch", "__doc__": original.__doc__})


def _default_type(function: Callable[..., object], names: Names) -> object:
    """`torch.set_default_tensor_type(torch.cuda.FloatTensor)`: a default dtype and a default device."""

    @functools.wraps(function)
    def call(kind: object) -> None:
        dtype = _dtype_of_type(kind)
        if dtype is None or not names.open:
            function(kind)
        else:
            torch.set_default_dtype(dtype)
            torch.set_default_device(names.meant)

    return call


def _dtype_of_type(kind: object) -> torch.dtype | None:
    """Of `torch.cuda.FloatTensor` or its name, else None."""
    name = (
        kind
        if isinstance(kind, str)
        else f"{getattr(kind, '__module__', '')}.{getattr(kind, '__name__', '')}"
    )
    return TENSOR_TYPES.get(name.removeprefix("torch.cuda.")) if name.startswith("torch.cuda.") else None


def _first_argument(function: Callable[..., object], name: str, names: Names) -> object:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if args:
            args = (names.instead(args[0]), *args[1:])
        elif name in kwargs:
            kwargs = {**kwargs, name: names.instead(kwargs[name])}
        return function(*args, **kwargs)

    return call


def _device_type(init: Callable[..., object], names: Names) -> object:
    @functools.wraps(init)
    def __init__(self: object, device_type: str, *args: Any, **kwargs: Any) -> None:
        init(self, names.meant.type if names.open and device_type == "cuda" else device_type, *args, **kwargs)

    return __init__


def _patch_cuda(patch: Patch, names: Names) -> None:
    """Give `torch.cuda` and its parts what stands in for them: without a GPU, most of their own raise."""
    from diffprof.devices.simulated.backend import register

    sim = torch.get_device_module(register())
    for module, name, own in stand_ins(sim):
        original = getattr(module, name)
        if name in ASKING:
            # Where "cuda" means the CPU, CUDA is there if it is there.
            if names.meant.type != "cpu":
                patch(module, name, _for_user(original, own, names))
        elif inspect.isclass(own) or not callable(own):
            patch(module, name, own)
        elif not torch.cuda.is_available() or hasattr(sim, name):
            patch(module, name, _while_open(original, own, names))
    for name, dtype in TENSOR_TYPES.items():
        patch(torch.cuda, name, tensor_type(name, dtype, lambda: names.meant))


def _replacement(original: Any, own: Any, names: Names) -> object:
    """A stand-in for a class of torch's that takes a device: for CUDA it makes `own`."""

    class Type(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, original | own)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, original | own)

        def __call__(cls, device: torch.types.Device = None, *args: Any, **kwargs: Any) -> object:
            cuda = names.is_cuda(device) or (device is None or type(device) is int)
            if names.open and cuda:
                return own(*args, **kwargs)
            return original(*(() if device is None else (device,)), *args, **kwargs)

    return Type(original.__name__, (), {"__module__": "torch", "__doc__": original.__doc__})


def _for_user(original: Any, own: Any, names: Names) -> object:
    @functools.wraps(original)
    def ask() -> object:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename == branches.__file__:
            frame = frame.f_back  # it notes who asks
        by_user = names.open and frame is not None and not installed(frame.f_code.co_filename)
        return own() if by_user else original()

    return ask


def _while_open(original: Callable[..., object], own: Callable[..., object], names: Names) -> object:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        stand_in = names.open and not caller.startswith(COMPILER)
        return (own if stand_in else original)(*args, **kwargs)

    return call


def _patch_accelerate(patch: Patch, names: Names) -> None:
    """`Accelerator().device`, which it chooses once in a process and keeps."""
    from accelerate.state import AcceleratorState, PartialState

    cuda, original = torch.device("cuda", 0), PartialState.default_device
    patch(
        PartialState,
        "default_device",
        property(lambda state: cuda if names.open else original.__get__(state)),
    )
    for state in (PartialState, AcceleratorState):
        patch(state, "_shared_state", {})


def _patch_pipelines(patch: Patch, names: Names, device: Device) -> None:
    import diffusers
    from transformers import PreTrainedModel

    root = diffusers.DiffusionPipeline
    for name in ("enable_model_cpu_offload", "enable_sequential_cpu_offload"):
        patch(root, name, _offloading(getattr(root, name), names))
    patch(root, "to", _moving(root.to, names, device))
    for owner in (root, diffusers.ModelMixin, PreTrainedModel):
        patch(owner, "from_pretrained", _unmapped(owner, names, device))


def _offloading(enable: Callable[..., object], names: Names) -> object:
    """Offloading looks for an accelerator of a kind it knows: name the device."""

    @functools.wraps(enable)
    def call(self: object, gpu_id: int | None = None, device: torch.types.Device = None) -> Any:
        target = names.meant if device is None else names.instead(device)
        # An index may be given once: with gpu_id, or in the device.
        chosen = gpu_id is not None and isinstance(target, torch.device)
        return enable(self, gpu_id=gpu_id, device=target.type if chosen else target)

    return call


def _moving(move: Callable[..., object], names: Names, device: Device) -> object:
    """Moving a whole pipeline to CUDA places it on the device, where values may not be wanted."""

    @functools.wraps(move)
    def to(self: Any, *args: Any, **kwargs: Any) -> Any:
        from diffprof.model.pipeline import offloaded

        cuda = any(names.is_cuda(value) for value in (*args, *kwargs.values()))
        if not cuda or not names.open:
            return move(self, *args, **kwargs)
        rest = [value for value in args if not names.is_cuda(value)]
        named = {name: value for name, value in kwargs.items() if not names.is_cuda(value)}
        if offloaded(self):
            return move(self, names.meant, *rest, **named)
        if any(isinstance(value, torch.dtype) for value in (*rest, *named.values())):
            move(self, *rest, **named)
        device.place(self)
        return self

    return to


def _unmapped(owner: object, names: Names, device: Device) -> object:
    """Loading with a device map that names CUDA: what is loaded is put there whole."""
    load = vars(owner)["from_pretrained"].__func__

    @functools.wraps(load)
    def from_pretrained(cls: object, *args: Any, **kwargs: Any) -> object:
        if not (names.open and everywhere(kwargs.get("device_map"))):
            return load(cls, *args, **kwargs)
        loaded = load(cls, *args, **{name: value for name, value in kwargs.items() if name != "device_map"})
        device.place(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded

    return classmethod(from_pretrained)
