"""Make the call of a twin with compiled code, in a child process: Dynamo's state here is left as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffprof.analyzers.graph_breaks.child import ChildJob, Send, can_fork, run_in_children
from diffprof.analyzers.graph_breaks.probe import prepared
from diffprof.model.fix import Code
from diffprof.model.pipeline import replaced
from diffprof.tuning.difference import Incomparable, Output, output_of
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
        with with_backend():
            for key, code in codes:
                subject.apply(key, code)
            try:
                return output_of(subject.scene)
            except Incomparable as error:
                return error

    job = ChildJob("compiled twin", prepared(work))
    run_in_children([job], at_once=1, limit_seconds=LIMIT_SECONDS)
    found = job.received[-1] if job.received else None
    if isinstance(found, Incomparable):
        raise found
    if not isinstance(found, Output):
        raise NotRun(f"the compiled twin could not be called: {job.failure or 'it sent no output'}")
    return replace(found, how=HOW)


class _Decomposed(TorchDispatchMode):
    """Operations that Inductor takes apart before it fuses them run as the parts."""

    def __init__(self) -> None:
        from torch._inductor.compile_fx import select_decomp_table

        super().__init__()
        self._rules = select_decomp_table()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:
            found = self._rules.get(func, func.decompose)(*args, **kwargs)
        return func(*args, **kwargs) if found is NotImplemented else found


def decomposing(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
    """A backend of torch.compile: the graph that Dynamo captures, operation by operation, with Inductor's
    decompositions. Inductor's own kernels would be the CPU's, not the GPU's, and take minutes to compile;
    tracing the graph again with AOTAutograd takes as long as Dynamo, and computes the same."""
    mode = _Decomposed()

    def run(*given: Any) -> Any:
        with mode:
            return graph(*given)

    return run


def with_backend() -> AbstractContextManager[None]:
    """Inside, `torch.compile` and what uses it compile with `decomposing`, whatever options are given."""
    compile_ = torch.compile

    def compiled(model: Callable[..., Any] | None = None, **given: Any) -> Any:
        kept = {name: given[name] for name in ("fullgraph", "dynamic") if name in given}
        return compile_(model, backend=decomposing, **kept)

    return replaced(torch, "compile", compiled)
