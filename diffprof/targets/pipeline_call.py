"""One pipeline call, ready to be made again and again with the same outcome."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from diffprof.model.pipeline import Pipeline, with_role

if TYPE_CHECKING:
    from diffprof.model.recording import Unseen
    from diffprof.targets import Target


@dataclass
class PipelineCall:
    """A pipeline and the arguments of one call. weights: real, random or none; notes: what was done to get
    here that the user did not write."""

    pipe: Pipeline
    args: tuple[Any, ...]
    kwargs: dict[str, object]
    target: Target
    weights: str
    notes: list[str] = field(default_factory=list)
    seed: int | None = None
    """Seeds the default generators of every call; None: as they were when this was made."""
    around: Callable[[], AbstractContextManager[object]] | None = None
    """Makes a context manager that is open during every call."""
    unseen: list[Unseen] = field(default_factory=list)
    """What was asked for while it was built, and is not in it."""
    keeps_output: bool = False
    """Whether what the first call gives is kept, as `output`, for a script that goes on with it."""
    output: Any = None
    card_steps: int | None = None
    """Steps of the model card's call, where this one makes fewer without having been asked to."""

    def __post_init__(self) -> None:
        self._generators = [(g, g.get_state()) for g in _generators((self.args, self.kwargs))]
        self._defaults = _DefaultGenerators(self.seed)
        self._schedulers: dict[int, tuple[object, dict[str, object]]] = {}

    def run(self) -> Any:
        """Make the call. Every one starts from the same generator and scheduler states; the caller's default
        generators are as before afterwards."""
        for scheduler in with_role(self.pipe, "scheduler").values():
            # Kept with its attributes: an id is its own only while the object lives.
            self._schedulers.setdefault(id(scheduler), (scheduler, _copied(_state(scheduler))))
        self.rewind()
        with self._defaults.applied(), self.surroundings():
            given = self.pipe(*self.args, **self.kwargs)
        if self.keeps_output and self.output is None:
            self.output = given
        return given

    def surroundings(self) -> AbstractContextManager[object]:
        """What is open during a call: for asking what holds there, such as the precision of products."""
        return self.around() if self.around else nullcontext()

    def rewind(self) -> None:
        """Generators and schedulers are as before the first call."""
        for scheduler, attributes in self._schedulers.values():
            for name in _state(scheduler):
                del vars(scheduler)[name]
            vars(scheduler).update(_copied(attributes))
        for generator, state in self._generators:
            generator.set_state(state)

    def changed(
        self, kwargs: dict[str, object], around: Callable[[], AbstractContextManager[object]] | None = None
    ) -> PipelineCall:
        """The same call on a pipeline that was changed since, with these arguments, all by name. It starts
        from the same states of generators, and from the schedulers as they are now."""
        other = copy.copy(self)
        other.args, other.kwargs, other.around = (), kwargs, around
        known = {id(generator): state for generator, state in self._generators}
        other._generators = [(g, known.get(id(g), g.get_state())) for g in _generators(kwargs)]
        other._schedulers = {}
        return other

    def describe_call(self) -> dict[str, object]:
        """The call's arguments as plain values; tensors, images and functions as a short description."""
        from diffprof.targets.calls import bound

        return {name: describe(value) for name, value in bound(self.pipe, self.args, self.kwargs).items()}

    def dtypes(self) -> dict[str, str]:
        """Of the arguments that are tensors, by name: `float32` and the like."""
        from diffprof.targets.calls import bound

        given = bound(self.pipe, self.args, self.kwargs).items()
        return {name: _name_of(value.dtype) for name, value in given if isinstance(value, torch.Tensor)}


def _state(scheduler: object) -> dict[str, object]:
    """Its attributes, without functions in the place of its methods: these belong to who put them there, an
    observer of one call or a fix."""
    return {name: value for name, value in vars(scheduler).items() if not callable(value)}


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def describe(value: Any) -> object:
    """A value as JSON can hold it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        shape = "x".join(map(str, value.shape)) or "scalar"
        return f"tensor {shape} {_name_of(value.dtype)} on {value.device}"
    if isinstance(value, torch.Generator):
        return f"generator on {value.device}, seed {value.initial_seed()}"
    if isinstance(value, np.ndarray):
        return f"array {'x'.join(map(str, value.shape))} {value.dtype}"
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if hasattr(value, "getbands") and hasattr(value, "size"):
        return f"image {value.size[0]}x{value.size[1]} {value.mode}"
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if callable(value):
        return f"function {getattr(value, '__qualname__', type(value).__qualname__)}"
    return f"{type(value).__qualname__} object"


class _DefaultGenerators:
    """The state of the default generators: Python's, numpy's, the CPU's and the accelerators'."""

    def __init__(self, seed: int | None) -> None:
        self.seed = seed
        self.state = None if seed is not None else _read_defaults()

    @contextmanager
    def applied(self) -> Iterator[None]:
        before = _read_defaults()
        if self.seed is not None:
            random.seed(self.seed)
            np.random.seed(self.seed)
            torch.manual_seed(self.seed)
        else:
            _write_defaults(self.state)
        try:
            yield
        finally:
            _write_defaults(before)


def _read_defaults() -> object:
    modules = [m for m in _accelerators() if m.is_initialized()]
    devices = [(m, index, m.get_rng_state(index)) for m in modules for index in range(m.device_count())]
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), devices


def _write_defaults(state: Any) -> None:
    python, numpy, cpu, devices = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    for module, index, value in devices:
        module.set_rng_state(value, index)


def _accelerators() -> list[Any]:
    """Device modules with default generators of their own: CUDA's, and that of an added backend."""
    modules = [torch.cuda]
    name = torch._C._get_privateuse1_backend_name()
    if hasattr(torch, name):
        modules.append(getattr(torch, name))
    return [m for m in modules if hasattr(m, "get_rng_state") and m.is_available()]


def _copied(attributes: dict[str, object]) -> dict[str, object]:
    """Attributes with what a call may write in place copied: containers and tensors on the CPU."""
    return {
        name: value.clone()
        if isinstance(value, torch.Tensor) and value.device.type == "cpu"
        else copy.copy(value)
        if type(value) in (list, dict, set) or isinstance(value, np.ndarray)
        else value
        for name, value in attributes.items()
    }


def _generators(value: object) -> Iterator[torch.Generator]:
    if isinstance(value, torch.Generator):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _generators(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _generators(item)
