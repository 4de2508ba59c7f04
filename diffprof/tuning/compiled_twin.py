"""Make the call of a twin with compiled code, in a child process: Dynamo's state here is left as it is."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import torch
from torch._dynamo.convert_frame import register_bytecode_hook
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from diffprof.analyzers.graph_breaks.capture import writes
from diffprof.analyzers.graph_breaks.child import ChildJob, Send, can_fork, run_in_children
from diffprof.analyzers.graph_breaks.dynamo_changes import leave_out_what_nobody_reads
from diffprof.analyzers.graph_breaks.observe import WORTH_COMPARING
from diffprof.analyzers.graph_breaks.probe import prepared
from diffprof.analyzers.graph_breaks.python_state import PythonState
from diffprof.analyzers.graph_breaks.repeats import RepeatedModules, Repeats, equal_blocks
from diffprof.devices.simulated import Tf32Products
from diffprof.model.fix import Code
from diffprof.model.pipeline import replaced
from diffprof.targets.construct import random_values
from diffprof.tuning.difference import TF32, Incomparable, Output, output_of
from diffprof.tuning.subject import Subject

LIMIT_SECONDS = 180.0
"""CPU time for capturing and three steps. SDXL's UNet and decoder take 10 to 25 on one core."""

HOW = "captured by torch.compile, run with Inductor's decompositions"


class NotRun(Exception):
    """The compiled twin could not be called; the message says why."""


def compiled_output(subject: Subject, codes: Sequence[tuple[str, Code]]) -> Output:
    """The output of a subject's call after this code, by the name of its fix, which compiles parts of it.

    The code runs as it is, but for the backend, and with it Inductor's options. The subject stays as it was.
    Raises NotRun where it fails, or takes longer than LIMIT_SECONDS; Incomparable as `output_of` does.
    """
    if not can_fork():
        raise NotRun("compiled code runs in a forked child process, which this system does not have")

    def work(send: Send) -> Output | Incomparable:
        torch._dynamo.reset()
        torch.compiler.set_stance("default")
        leave_out_what_nobody_reads(reasons=False)
        gc.disable()  # Dynamo makes classes by the thousand; the process ends soon
        if hasattr(torch._dynamo.config, "run_gc_after_compile"):
            torch._dynamo.config.run_gc_after_compile = False
        compiled: list[tuple[Any, dict[str, Any]]] = []
        with with_backend(compiled):
            with random_values(None):
                for key, code in codes:
                    subject.apply(key, code)
            try:
                whole = all(how.get("fullgraph") for _, how in compiled)
                found = _called(subject, compiled)
                return replace(found, how=HOW, where=TF32 if _decomposed().seen else "", whole=whole)
            except Incomparable as error:
                return error

    job = ChildJob("compiled twin", prepared(work))
    run_in_children([job], at_once=1, limit_seconds=LIMIT_SECONDS)
    found = job.received[-1] if job.received else None
    if isinstance(found, Incomparable):
        raise found
    if not isinstance(found, Output):
        raise NotRun(f"the compiled twin could not be called: {job.failure or 'it sent no output'}")
    return found


class _Decomposed(Tf32Products):
    """Operations that Inductor takes apart before it fuses them run as the parts."""

    def __init__(self) -> None:
        from torch._inductor.decomposition import select_decomp_table

        super().__init__()
        self._rules = select_decomp_table()
        self._parts: dict[object, Callable[..., object] | None] = {}
        """Of each operation, what computes it of its parts; None where it has none."""

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func not in self._parts:
            self._parts[func] = self._rules.get(func) or (func.decompose if func._can_decompose() else None)
        parts = self._parts[func]
        if parts is not None:
            with self:
                found = parts(*args, **kwargs)
            if found is not NotImplemented:
                return found
        return super().__torch_dispatch__(func, types, args, kwargs)


@cache
def _decomposed() -> _Decomposed:
    return _Decomposed()


def decomposing(graph: torch.fx.GraphModule, inputs: Sequence[object]) -> Callable[..., object]:
    """A backend of torch.compile: the graph that Dynamo captures, operation by operation, with Inductor's
    decompositions. Inductor's own kernels would be the CPU's, not the GPU's, and take minutes to compile;
    tracing the graph again with AOTAutograd takes as long as Dynamo, and computes the same."""
    mode = _decomposed()

    def run(*given: object) -> Any:
        with mode:
            return graph(*given)

    return run


def with_backend(compiled: list[tuple[object, dict[str, object]]]) -> AbstractContextManager[None]:
    """Inside, `torch.compile` and what uses it compile with `decomposing`, whatever options are given.

    compiled: gets each object whose method, or which itself, is compiled, and how.
    """
    compile_ = torch.compile

    def instead(model: Callable[..., object] | None = None, **given: object) -> Any:
        kept: dict[str, object] = {name: given[name] for name in ("fullgraph", "dynamic") if name in given}
        compiled.append((getattr(model, "__self__", model), kept))
        return compile_(model, backend=decomposing, **kept)

    return replaced(torch, "compile", instead)


# --- equal blocks, captured once -------------------------------------------------------------------------


def _called(subject: Subject, compiled: Sequence[tuple[object, dict[str, object]]]) -> Output:
    """The output of the call, equal blocks captured once each. Where they can't be, as when one of them
    breaks the graph, all is captured as it is written."""
    with ExitStack() as folds:
        if folded(subject, compiled, folds):
            try:
                return output_of(subject.call)
            except Exception:
                torch._dynamo.reset()
    return output_of(subject.call)


def folded(subject: Subject, compiled: Sequence[tuple[object, dict[str, object]]], folds: ExitStack) -> bool:
    """Make the call without compiling, and let the blocks that it calls alike be compiled by themselves, as
    long as the context is open. Whether there are any."""
    large = {
        id(owner): (owner, how)
        for owner, how in compiled
        if isinstance(owner, torch.nn.Module) and sum(1 for _ in owner.modules()) >= WORTH_COMPARING
    }
    if not large:
        return False
    followed = [(Repeats(owner), how) for owner, how in large.values()]
    with torch.compiler.set_stance("force_eager"):
        subject.call.run()
    found = False
    for repeats, how in followed:
        repeats.close()
        for block in equal_blocks(repeats.seen.values(), told_apart_by=_kind):
            if not any("forward" in vars(each) for each in block.modules):
                folds.enter_context(_compiled_once(block, how))
                found = True
    return found


def _kind(module: torch.nn.Module) -> object:
    """Modules of different kinds don't share code. Whether those of one kind do, Dynamo's guards tell."""
    return tuple(map(type, module.modules()))


class WritesState(Exception):
    """A block changes objects: what is traced around it may read them."""


@contextmanager
def _compiled_once(block: RepeatedModules, how: dict[str, object]) -> Iterator[None]:
    """Inside, each of the modules is one operation of what is captured around it, which calls it compiled.
    They share the code as long as its guards hold."""
    cls = type(block.modules[0])
    plain = cls.forward
    checked: list[torch.nn.Module] = []
    single, like = block.output.spec.is_leaf(), block.output.leaves

    def plainly(module: Any, args: Any, kwargs: Any) -> object:
        return plain(module, *args, **kwargs)

    # Code of its own: what Dynamo compiles is kept, and counted, by code.
    body = FunctionType(plainly.__code__.replace(), globals(), closure=plainly.__closure__)
    run = torch.compile(body, **{**how, "fullgraph": True}, backend=decomposing)

    def look(code: CodeType, made: CodeType) -> None:
        if code is body.__code__ and writes(made):
            raise WritesState

    def operation(number: torch.Tensor, *args: object, **kwargs: object) -> object:
        if isinstance(number, FakeTensor):
            found = tuple(None if x is None else _made_like(x, number.device) for x in like)
            return found[0] if single else found
        module = block.modules[int(number)]
        with _disable_current_modes():
            before = None if checked else PythonState([module])
            result = run(module, args, kwargs)
            if before is not None and before.changed(module):
                raise WritesState
        checked.append(module)
        return result

    operation = torch._dynamo.allow_in_graph(operation)

    def forward(self: Any, *args: object, **kwargs: object) -> object:
        return operation(self.number_of_equal_block, *args, **kwargs)

    # A class, and a tensor of each, by which code that holds several such blocks can't tell them apart.
    stand_in = type(cls.__name__, (cls,), {"forward": forward, "__module__": cls.__module__})
    with ExitStack() as stack:
        stack.callback(register_bytecode_hook(look).remove)
        for number, module in enumerate(block.modules):
            module.__class__ = stand_in
            vars(module)["number_of_equal_block"] = torch.tensor(number)
            stack.callback(vars(module).pop, "number_of_equal_block")
            stack.callback(setattr, module, "__class__", cls)
        yield


def _made_like(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.empty_strided(value.shape, value.stride, dtype=value.dtype, device=device)
