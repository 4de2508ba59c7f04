"""Capture more than a component: the body of the denoising loop, or the whole call.

The components stand in it as single operations with the results that they had: their own breaks are found by
their own captures, and what is left is the pipeline's code between them, in full size and in seconds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any, cast

import torch

from diffprof.analyzers.graph_breaks.capture import Capture, captured
from diffprof.analyzers.graph_breaks.component import (
    CaptureResult,
    counting,
    forget_compiled,
    restore,
    worth_counting,
)
from diffprof.analyzers.graph_breaks.hidden import add_hidden_breaks
from diffprof.analyzers.graph_breaks.observe import Compilable
from diffprof.analyzers.graph_breaks.repeats import marker
from diffprof.analyzers.graph_breaks.rewrite import body_apart
from diffprof.analyzers.graph_breaks.signature import Skeleton, signature
from diffprof.analyzers.graph_breaks.storageless import Emptier, Storageless
from diffprof.model.pipeline import Pipeline, components, replaced
from diffprof.targets.pipeline import PhaseTracker

RUNNER = "__diffprof_run_loop_body__"

DEPTH = 3
"""Levels of modules that pipelines name, as in `unet.encoder_hid_proj.image_projection_layers[0]`."""

COMPONENTS, STEP, CALL = "components", "step", "call"
"""What is compiled as one. The names of the last two are those of their captures as well."""

SCOPES = (COMPONENTS, CALL)
"""What is captured: the components alone, or the loop's body and the whole call as well."""


def capture_call(
    pipe: Pipeline,
    args: object,
    kwargs: object,
    parts: Sequence[Compilable],
    say: Callable[[str], None] = lambda text: None,
) -> CaptureResult:
    """Capture the whole pipeline call. For the child."""
    say("call")

    def capture(given: Any) -> Capture:
        into, run = captured()
        run(pipe, "__call__", *given())
        if into.breaks:
            say("call: what its breaks hide")
            add_hidden_breaks(into, lambda again: again(pipe, "__call__", *given()))
        return into

    return _captured_with_parts_apart(pipe, args, kwargs, parts, capture)


def capture_step(
    pipe: Pipeline,
    args: object,
    kwargs: object,
    parts: Sequence[Compilable],
    say: Callable[[str], None] = lambda text: None,
) -> CaptureResult:
    """Capture the body of the pipeline's denoising loop: the rest of the call runs as plain Python.

    For the child. Raises LookupError for a pipeline without such a loop in its call.
    """
    say("denoising loop's body")
    function = call_function(pipe)
    lines = loop_lines(pipe, parts)
    if lines is None:
        raise LookupError(f"{type(pipe).__name__}.__call__ has no denoising loop of its own")
    code = body_apart(function.__code__, *lines[1:], RUNNER)
    if code is None:
        raise LookupError("the loop's body returns or yields, so that it can't be captured apart")

    def capture(given: Any) -> Capture:
        into, run = captured()
        function.__globals__[RUNNER] = lambda body: run(body, "__call__", (), {})
        original, function.__code__ = function.__code__, code
        try:
            given_args, given_kwargs = given()
            pipe(*given_args, **given_kwargs)
        except Exception as error:
            into.failure = into.failure or f"{type(error).__name__}: {error}".split("\n", 1)[0]
        finally:
            function.__code__ = original
            del function.__globals__[RUNNER]
        return into

    return _captured_with_parts_apart(pipe, args, kwargs, parts, capture)


def loop_lines(pipe: Pipeline, parts: Sequence[Compilable]) -> tuple[str, int, int] | None:
    """File, first and last line of the denoising loop in the pipeline's `__call__`, if it has one. parts: as
    one call was seen to use them."""
    code = getattr(call_function(pipe), "__code__", None)
    if code is None:
        return None
    own = (code.co_filename, code.co_qualname)
    loops = (loop for part in parts for loop in part.loops if (loop.file, loop.function) == own)
    loop = next(loops, None)
    return (loop.file, loop.first, loop.last) if loop else None


def call_function(pipe: Pipeline) -> FunctionType:
    """The innermost function of the pipeline's `__call__`, below its decorators."""
    function = type(pipe).__call__
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return cast(FunctionType, function)


def _captured_with_parts_apart(
    pipe: Pipeline,
    args: object,
    kwargs: object,
    parts: Sequence[Compilable],
    capture: Callable[[object], Capture],
) -> CaptureResult:
    started = time.perf_counter()
    gc.disable()
    given = signature((args, kwargs))
    emptier = Emptier()
    for part in parts:
        forget_compiled(part.owner)
    emptier.empty(pipe)

    def again() -> Any:
        for part in parts:
            restore(part, emptier)
        return given.values(emptier)

    with torch.no_grad(), Storageless(), _parts_apart(parts) as apart:
        with ExitStack() as pruned:
            for model in apart:
                _prune(model, pruned)
                pruned.enter_context(replaced(model, "named_modules", _listed(model)))
            result = _captured(pipe, again, capture)
        if result.capture.failure:
            result = _captured(pipe, again, capture)
    result.seconds = time.perf_counter() - started
    return result


def _captured(
    pipe: Pipeline, given: Callable[[], Any], capture: Callable[[object], Capture]
) -> CaptureResult:
    into = capture(given)
    result = CaptureResult(into)
    if into.breaks:
        tracker = PhaseTracker()
        lines = worth_counting(into, above=True)
        with (
            tracker.watching(pipe),
            counting(components(pipe), lines, result, lambda: tracker.current.name),
        ):
            try:
                args, kwargs = given()
                pipe(*args, **kwargs)
            except Exception:
                result.passed.clear()
    return result


@contextmanager
def _parts_apart(parts: Sequence[Compilable]) -> Iterator[list[torch.nn.Module]]:
    """Inside, a component's call is one operation with the result that it had. Components whose results
    differed in form, or hold more than tensors, stay as they are. Gives the models none of which runs."""
    apart: dict[int, torch.nn.Module] = {}
    running: set[int] = set()
    with ExitStack() as stack:
        for part in parts:
            forms = {tuple(str(t) for t in c.shape.tensors) if c.shape else None for c in part.calls}
            if len(forms) != 1 or None in forms or not isinstance(part.owner, torch.nn.Module):
                running.add(id(part.owner))
                continue
            apart[id(part.owner)] = part.owner
            # accelerate wraps `forward` and keeps the model's own as `_old_forward`: its hooks stay.
            inner = "_old_forward" if "_old_forward" in vars(part.owner) else "forward"
            method = inner if part.method == "__call__" else part.method
            stack.enter_context(replaced(part.owner, method, _opaque(part.calls[0].shape)))
        yield [model for each, model in apart.items() if each not in running]


def _prune(model: torch.nn.Module, stack: ExitStack) -> None:
    """Leave out, until the stack closes, what stands deeper in a model than pipelines look by name. They do
    ask for its device and type again and again, and Dynamo traces each walk through all modules."""
    modules = dict(model.named_modules())
    if any(_is_hooked(module) for module in modules.values() if module is not model):
        return
    path, _ = next(model.named_parameters(), ("", None))
    for name, module in modules.items():
        if name.count(".") < DEPTH - 1 or not module._modules:
            continue
        # The first parameter is the one that says where the model is.
        on_way = path.startswith(f"{name}.") and path.removeprefix(f"{name}.").partition(".")[0]
        kept = {child: inner for child, inner in module._modules.items() if child == on_way}
        stack.enter_context(replaced(module, "_modules", kept))


def _listed(model: torch.nn.Module) -> Callable[..., Iterator[tuple[str, torch.nn.Module]]]:
    """The model's `named_modules` from a list: Dynamo traces the generators of a walk module by module."""
    walk, found = model.named_modules, list(model.named_modules())

    def named_modules(
        memo: object = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, torch.nn.Module]]:
        if memo is None and not prefix and remove_duplicate:
            return iter(found)
        return walk(memo, prefix, remove_duplicate)

    return named_modules


def _is_hooked(module: torch.nn.Module) -> bool:
    """Whether something was added to it that code may look for."""
    held = vars(module)
    return bool(module._forward_hooks or module._forward_pre_hooks) or any(
        name in held for name in ("forward", "_hf_hook", "_diffusers_hook")
    )


def _opaque(form: Skeleton) -> Callable[..., object]:
    put = [marker(tensor) for tensor in form.tensors]
    build = form.build

    def forward(*args: object, **kwargs: object) -> object:
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        tensors += [a for a in kwargs.values() if isinstance(a, torch.Tensor)]
        return build([each(*tensors) for each in put])

    return forward
