"""What a diffusers pipeline is, told from what it has and does: its components, its denoising loop, the
phases of one call. Nothing here asks for a class by name."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

ROLES = ("denoiser", "scheduler", "vae", "text_encoder", "tokenizer", "other")


# --- components ----------------------------------------------------------------------------------------


def components(pipe: Any) -> dict[str, Any]:
    """Name -> component, absent ones left out; those of nested pipelines as `outer.inner`."""
    found: dict[str, Any] = {}
    try:
        named = dict(pipe.components)
    except (AttributeError, TypeError, ValueError):
        named = {k: v for k, v in vars(pipe).items() if not k.startswith("_")}
    for name, part in named.items():
        if part is None or isinstance(part, (bool, int, float, str, dict)):
            continue
        if is_pipeline(part):
            found.update({f"{name}.{inner}": value for inner, value in components(part).items()})
        else:
            found[name] = part
    return found


def is_pipeline(thing: Any) -> bool:
    """Something called with a prompt that has components of its own: not a module, callable."""
    return callable(thing) and hasattr(thing, "components") and not hasattr(thing, "named_modules")


def role(name: str, part: Any) -> str:
    """One of ROLES, by what the component can do."""
    if _is_module(part):
        if callable(getattr(part, "decode", None)) and not _takes_timestep(part):
            return "vae"
        if _takes_timestep(part):
            return "denoiser"
        last = name.rsplit(".", 1)[-1]
        if "encoder" in last and hasattr(part, "get_input_embeddings"):
            return "text_encoder"
        return "other"
    if callable(getattr(part, "step", None)) and callable(getattr(part, "set_timesteps", None)):
        return "scheduler"
    if callable(getattr(part, "decode", None)) and callable(part) and hasattr(part, "model_max_length"):
        return "tokenizer"
    return "other"


def with_role(pipe: Any, wanted: str) -> dict[str, Any]:
    """The components of one role, in the pipeline's order."""
    return {name: part for name, part in components(pipe).items() if role(name, part) == wanted}


def module_names(pipe: Any) -> dict[int, str]:
    """id(module) -> qualified name, such as `unet.mid_block.attentions.0`, for every module."""
    names: dict[int, str] = {}
    for name, part in components(pipe).items():
        if not _is_module(part):
            names.setdefault(id(part), name)
            continue
        for inner, module in part.named_modules():
            # What torch.compile wraps is found under `_orig_mod`, which is no part of the user's own path.
            inner = inner.replace("_orig_mod.", "").removesuffix("_orig_mod").rstrip(".")
            names.setdefault(id(module), f"{name}.{inner}" if inner else name)
    return names


def execution_device(pipe: Any) -> Any:
    """The device on which the pipeline computes (with offloading: where it will be moved to)."""
    device = getattr(pipe, "_execution_device", None)
    return device if device is not None else getattr(pipe, "device", None)


def offloaded(pipe: Any) -> bool:
    """Whether hooks move the pipeline's modules while it runs."""
    for part in components(pipe).values():
        if _is_module(part):
            for _, module in part.named_modules():
                registry = getattr(module, "_diffusers_hook", None)
                hooks = getattr(registry, "hooks", None) or {}
                if hasattr(module, "_hf_hook") or any("offload" in name for name in hooks):
                    return True
    return False


def _is_module(part: Any) -> bool:
    return callable(getattr(part, "named_modules", None)) and callable(getattr(part, "forward", None))


def _takes_timestep(module: Any) -> bool:
    """Denoisers are the models that are told how noisy their input is. One that passes on whatever it is
    given takes what its base classes take, or the model that it wraps."""
    cls: Any = type(module)
    taken = _forward_parameters(cls)
    if any(name.startswith("timestep") or name in {"t", "r", "sigma"} for name in taken):
        return True
    return not taken and any(map(_takes_timestep, module.children()))


def _never_compiled(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook that stays plain Python: around a compiled module Dynamo compiles hooks as well."""
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo.disable(hook) if dynamo is not None else hook


@functools.cache
def _forward_parameters(cls: type) -> frozenset[str]:
    """Names that `forward` takes, in the class or, where it passes arguments on, in a base class."""
    names: set[str] = set()
    for base in cls.__mro__:
        if "forward" not in vars(base):
            continue
        try:
            parameters = list(inspect.signature(vars(base)["forward"]).parameters.values())[1:]
        except (TypeError, ValueError):
            break
        passed_on = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        names |= {p.name for p in parameters if p not in passed_on}
        if not passed_on:
            break
    return frozenset(names)


# --- the denoising loop --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loop:
    """Line range of a denoising loop in its file; index: the name of its step counter, if it has one."""

    first: int
    last: int
    index: str | None


def denoising_loops(code: CodeType, denoisers: frozenset[str]) -> tuple[Loop, ...]:
    """The innermost `for` and `while` loops of a function that call a scheduler's `step` or a denoiser.

    denoisers: attribute names of the pipeline's denoisers.
    """
    if not ({"step", *denoisers} & set(code.co_names)):
        return ()
    return _parse_loops(code, denoisers)


@functools.lru_cache(maxsize=512)
def _parse_loops(code: CodeType, denoisers: frozenset[str]) -> tuple[Loop, ...]:
    try:
        lines, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError, TypeError):
        return ()
    shift = max(first, 1) - 1
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, (ast.For, ast.While)) or not _denoises(node.body, denoisers):
            continue
        inner = (n for part in node.body for n in ast.walk(part) if isinstance(n, (ast.For, ast.While)))
        if any(_denoises(loop.body, denoisers) for loop in inner):
            continue
        head = node.body[0].lineno if isinstance(node, ast.For) else node.lineno
        found.append(Loop(head + shift, (node.end_lineno or head) + shift, _counter(node)))
    return tuple(found)


def _denoises(body: list[ast.stmt], denoisers: frozenset[str]) -> bool:
    for statement in body:
        for node in ast.walk(statement):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            called, owner = node.func.attr, node.func.value
            if called.startswith("step") and "sched" in ast.unparse(owner).lower():
                return True
            if called in denoisers and isinstance(owner, ast.Name) and owner.id == "self":
                return True
    return False


def _counter(loop: ast.For | ast.While) -> str | None:
    """`i` of `for i, t in enumerate(...)` or of `for i in range(...)`."""
    if not (isinstance(loop, ast.For) and isinstance(loop.iter, ast.Call)):
        return None
    called = ast.unparse(loop.iter.func)
    target = loop.target
    if "range" in called and isinstance(target, ast.Name):
        return target.id
    if isinstance(target, ast.Tuple) and isinstance(target.elts[0], ast.Name):
        inner = "".join(ast.unparse(arg) for arg in loop.iter.args)
        if "enumerate" in called + inner:
            return target.elts[0].id
    return None


@dataclass(frozen=True)
class LoopPosition:
    """Where in a denoising loop a frame stands. index: its counter's value, if it has one."""

    code: CodeType
    loop: Loop
    index: int | None


def loop_position(frames: list[FrameType], denoisers: frozenset[str]) -> LoopPosition | None:
    """The outermost denoising loop that a stack is in, or None. frames: innermost first."""
    for frame in reversed(frames):
        code = frame.f_code
        for loop in denoising_loops(code, denoisers):
            if not loop.first <= frame.f_lineno <= loop.last:
                continue
            if code.co_name == "forward" and _is_module(frame.f_locals.get("self")):
                continue
            value = frame.f_locals.get(loop.index) if loop.index else None
            return LoopPosition(code, loop, value if isinstance(value, int) else None)
    return None


# --- the phases of one call ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """encode, prepare, denoise (with step and part: denoiser, scheduler or None), decode, postprocess."""

    name: str
    step: int | None = None
    part: str | None = None


@dataclass
class PhaseTracker:
    """Follows one call through its phases by wrapping what the pipeline calls: text encoders and
    `encode_*`, the denoisers, `scheduler.step` and `set_timesteps`, the VAE's `decode`, `postprocess`.

    on_change: told each new phase. steps_done: `scheduler.step` calls since the last `set_timesteps`;
    steps_total: the most there were in one loop.
    """

    on_change: Callable[[Phase], None] | None = None
    current: Phase = field(default_factory=lambda: Phase("prepare"))
    steps_done: int = 0
    steps_total: int = 0
    denoising: bool = False
    denoiser_calls: int = 0
    after: str = "prepare"
    """The phase of what runs between the parts: before the loop, after a decoding, after the last of all."""
    _nested: list[Phase] = field(default_factory=list)
    _wrapped: set[tuple[Any, str]] = field(default_factory=set)

    def _set(self, phase: Phase) -> None:
        if phase != self.current:
            self.current = phase
            if self.on_change:
                self.on_change(phase)

    def _base(self) -> Phase:
        if self.denoising:
            return Phase("denoise", self.steps_done)
        return Phase(self.after)

    def enter(self, name: str, part: str | None = None) -> None:
        """A phase begins within the current one."""
        self._nested.append(self.current)
        if name == "denoise":
            self.denoising = True
            self.denoiser_calls += part == "denoiser"
            self._set(Phase("denoise", self.steps_done, part))
        elif self.denoising and name == "encode":
            self._set(self.current)
        else:
            if name in ("decode", "postprocess"):
                self.denoising, self.after = False, name
            self._set(Phase(name))

    def leave(self, part: str | None = None) -> None:
        """It ends; the phase around it goes on."""
        outer = self._nested.pop() if self._nested else None
        if part == "scheduler" and not any(p.part == "scheduler" for p in self._nested):
            self.steps_done += 1
            self.steps_total = max(self.steps_total, self.steps_done)
        nested = bool(self._nested) and outer is not None
        self._set(outer if nested and outer is not None else self._base())

    def restart(self) -> None:
        """A new set of timesteps: a loop is about to begin."""
        self.steps_done = 0
        self.denoising = False
        self.after = "prepare"

    @contextmanager
    def watching(self, pipe: Any) -> Iterator[PhaseTracker]:
        """Wrap the pipeline's parts while the context is open; every wrapper is gone after it."""
        with ExitStack() as undo:
            for each in (pipe, *_nested_pipelines(pipe)):
                self._watch_methods(each, undo)
            for name, part in components(pipe).items():
                self._watch_component(role(name, part), part, undo)
            yield self

    def _watch_methods(self, pipe: Any, undo: ExitStack) -> None:
        for name in dir(type(pipe)):
            if name.startswith(("encode_", "_encode_")) and callable(getattr(pipe, name, None)):
                self._wrap(pipe, name, "encode", None, undo)
        for part in vars(pipe).values():
            for method in ("postprocess", "postprocess_video"):
                if callable(getattr(part, method, None)):
                    self._wrap(part, method, "postprocess", None, undo)

    def _watch_component(self, what: str, part: Any, undo: ExitStack) -> None:
        if what == "scheduler":
            self._wrap(part, "step", "denoise", "scheduler", undo)
            self._wrap(part, "set_timesteps", "", None, undo)
        elif what == "denoiser":
            self._hook(part, "denoise", "denoiser", undo)
        elif what == "text_encoder":
            self._hook(part, "encode", None, undo)
        elif what == "vae":
            self._wrap(part, "decode", "decode", None, undo)

    def _hook(self, module: Any, phase: str, part: str | None, undo: ExitStack) -> None:
        def before(*_: Any) -> None:
            self.enter(phase, part)

        def after(*_: Any) -> None:
            self.leave(part)

        hooks = _never_compiled(before), _never_compiled(after)
        undo.callback(module.register_forward_pre_hook(hooks[0], prepend=True).remove)
        undo.callback(module.register_forward_hook(hooks[1], always_call=True).remove)

    def _wrap(self, owner: Any, name: str, phase: str, part: str | None, undo: ExitStack) -> None:
        # On the class, so that a copy of the component made during the call is followed too and never
        # bound to the original; on the object only where it has an attribute of its own, bound as that is.
        own = name in vars(owner)
        place = owner if own else type(owner)
        if not own and (place, name) in self._wrapped:
            return
        self._wrapped.add((place, name))
        original = getattr(place, name)
        bound = own and getattr(original, "__self__", None) is owner
        if bound:
            original = original.__func__

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not phase:
                self.restart()
                return original(*args, **kwargs)
            self.enter(phase, part)
            try:
                return original(*args, **kwargs)
            finally:
                self.leave(part)

        undo.enter_context(replaced(place, name, types.MethodType(wrapped, owner) if bound else wrapped))
        undo.callback(self._wrapped.discard, (place, name))


def _nested_pipelines(pipe: Any) -> Iterator[Any]:
    for part in vars(pipe).values():
        if is_pipeline(part):
            yield part
            yield from _nested_pipelines(part)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of an object or a class while the context is open; after it, it is as it was.

    Inherited and absent attributes are absent again, not set to what was inherited.
    """
    absent = object()
    before = vars(owner).get(name, absent)
    place = type if isinstance(owner, type) else object
    place.__setattr__(owner, name, value)
    try:
        yield
    finally:
        if before is not absent:
            place.__setattr__(owner, name, before)
        elif name in vars(owner):
            place.__delattr__(owner, name)
