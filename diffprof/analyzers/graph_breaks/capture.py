"""Run a call under Dynamo and take down what happened: graphs, breaks, skipped frames, recompiles.

For the child process only: it resets Dynamo. The source is the structured trace log (the one that `tlparse`
reads), which has every break; `torch._dynamo.explain` only has those that end a graph.
"""

from __future__ import annotations

import dis
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FunctionType, MappingProxyType
from typing import Any

import torch
import torch._dynamo
from torch._dynamo.convert_frame import register_bytecode_hook

from diffprof.analyzers.graph_breaks.dynamo_changes import leave_out_what_nobody_reads, write_exact_lines
from diffprof.model.callsite import Place, importable_path, is_machinery

FrameId = tuple[int | None, int | None]
"""(frame, compile of that frame): what Dynamo writes as `2/1`."""

_TRACE_LOG = "torch.__trace"
_FRAME = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>.+)$', re.MULTILINE)
_RESUMED = re.compile(r"^torch_dynamo_resume_in_(?P<name>\w+)_at_\d+$")
_SKIPPED = "Skipping the function and falling back to eager"
_WRITES = {"STORE_ATTR", "STORE_SUBSCR", "STORE_GLOBAL", "DELETE_ATTR", "DELETE_SUBSCR", "DELETE_GLOBAL"}


@dataclass(frozen=True)
class Break:
    """One break as Dynamo logged it. reason: its whole message; stack: innermost first, from the captured
    call on; skipped: the frame around it ran as plain Python; hidden_by: the site of a break that keeps
    Dynamo from coming here."""

    frame: FrameId
    reason: str
    stack: tuple[Place, ...]
    skipped: bool
    hidden_by: Place | None = None


@dataclass(frozen=True)
class ComplexUse:
    """Operations of one name and line that read or write complex tensors. stack: innermost first."""

    op: str
    stack: tuple[Place, ...]
    times: int = 1


@dataclass
class Graph:
    """One compiled piece. ops: its call nodes; runs: how often it ran; complex: its complex numbers, in one
    run."""

    frame: FrameId
    ops: int
    runs: int = 0
    complex: list[ComplexUse] = field(default_factory=list)


@dataclass(frozen=True)
class StandsFor:
    """What one call node stands for: that many, and those with complex numbers among them."""

    ops: int = 1
    complex: tuple[ComplexUse, ...] = ()


@dataclass(frozen=True)
class Compiled:
    """One compile of a frame. failure: why it failed, if it did; seconds: its time, without a backend's;
    resumed: it is the rest of a function after a break."""

    frame: FrameId
    place: Place
    failure: str | None
    recompile_reason: str | None
    seconds: float | None = None
    resumed: bool = False

    @property
    def again(self) -> bool:
        """It was compiled before. What the limit refuses is logged without a function: it is not compiled."""
        return bool(self.recompile_reason) and self.place[0] != "?"


@dataclass
class Capture:
    """What one or more calls made of it."""

    breaks: list[Break] = field(default_factory=list)
    graphs: list[Graph] = field(default_factory=list)
    compiles: list[Compiled] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    """Functions that hit the recompile limit, with the limit's name."""
    files: set[str] = field(default_factory=set)
    """Source files that went into graphs."""
    pure: bool = True
    """The compiled code changes no object that it did not make."""
    failure: str | None = None
    unsearched: list[tuple[Place, Place]] = field(default_factory=list)
    """Functions that were skipped, and the break that did it: not all that stands in them was looked at."""
    dry: bool = False
    """Graphs return tensors of the right form and compute nothing."""

    @property
    def ops(self) -> int:
        return sum(graph.ops for graph in self.graphs)

    @property
    def complex(self) -> list[ComplexUse]:
        """Complex numbers in one call, by line and operation."""
        times: Counter[tuple[str, tuple[Place, ...]]] = Counter()
        for graph in self.graphs:
            for use in graph.complex:
                times[use.op, use.stack] += use.times * max(1, graph.runs)
        return [ComplexUse(op, stack, count) for (op, stack), count in times.items()]

    @property
    def sources(self) -> set[str]:
        """Source files that were traced, also where no graph came of it."""
        traced = {compiled.place[0] for compiled in self.compiles}
        return self.files | traced | {file for each in self.breaks for file, _, _ in each.stack}

    @property
    def whole(self) -> bool:
        """One graph and nothing outside of it."""
        return not self.failure and len(self.graphs) == 1 and not self.breaks


class _TraceLog(logging.Handler):
    """Takes breaks and compiles from Dynamo's structured log."""

    def __init__(self, into: Capture) -> None:
        super().__init__(logging.DEBUG)
        self.into = into

    def emit(self, record: logging.LogRecord) -> None:
        data: dict[str, Any] = getattr(record, "metadata", {})
        frame = (data.get("frame_id"), data.get("frame_compile_id"))
        if data.get("artifact", {}).get("name") == "dynamo_graph_break_reason":
            found = parse_break(str(getattr(record, "payload", "")), frame)
            if found:
                self.into.breaks.append(found)
        elif "compilation_metrics" in data:
            of = data["compilation_metrics"]
            name = of.get("co_name") or "?"
            self.into.compiles.append(
                Compiled(
                    frame,
                    (of.get("co_filename") or "?", of.get("co_firstlineno") or 0, plain_name(name)),
                    f"{of['fail_type']}: {of.get('fail_reason') or ''}" if of.get("fail_type") else None,
                    of.get("recompile_reason"),
                    of.get("entire_frame_compile_time_s"),
                    plain_name(name) != name,
                )
            )


class _LimitLog(logging.Handler):
    """Takes the warning that a function hit the recompile limit; Dynamo has no structured event for it."""

    def __init__(self, into: Capture) -> None:
        super().__init__(logging.WARNING)
        self.into = into

    def emit(self, record: logging.LogRecord) -> None:
        if "hit config." in str(record.msg) and isinstance(record.args, tuple) and len(record.args) > 2:
            self.into.limits.append(f"{record.args[2]}: {record.args[0]} = {record.args[1]}")


def parse_break(text: str, frame: FrameId) -> Break | None:
    """A break out of the log's text; None for a text that names no line."""
    head, found, trace = text.partition("User code traceback:")
    if not found:
        head, found, trace = text.partition("The graph break occurred in the following user code:")
    if not found:
        return None
    trace = trace.partition("Traceback (most recent call last)")[0]
    stack = _stack(trace)
    if not stack:
        return None
    reason = head.partition("Graph Break Reason: ")[2] or head
    reason = reason.partition("\nStack variable source attribution:")[0]
    return Break(frame, reason.strip(), stack, _SKIPPED in head or "results in a skip" in head)


def _stack(trace: str) -> tuple[Place, ...]:
    """The frames that a trace names below the captured call, innermost first."""
    frames = [(m["file"], int(m["line"]), plain_name(m["name"])) for m in _FRAME.finditer(trace)]
    ours = [at for at, (file, _, _) in enumerate(frames) if file == __file__]
    return tuple(reversed(frames[ours[-1] + 1 :] if ours else frames))


def site_place(stack: Sequence[Place]) -> Place:
    """The innermost line that a person would edit; the innermost of all when none is. A hook of accelerate's
    is its own site: the lines that call hooked modules are not at fault."""
    if in_accelerate_hook(stack):
        return stack[0]
    return next((p for p in stack if not is_machinery(p[0])), stack[0])


def in_accelerate_hook(stack: Sequence[Place]) -> bool:
    """Whether the innermost line is one of accelerate's hooks."""
    return importable_path(stack[0][0])[0] == "accelerate/hooks.py"


def is_code_of(code: CodeType, place: Place) -> bool:
    """Whether a function's code is the one that was compiled as `place`: all of it, or the rest of it after a
    break, which begins further down."""
    file, line, name = place
    if code.co_name != name or code.co_filename != file or code.co_firstlineno > line:
        return False
    return code.co_firstlineno == line or line <= max(n for *_, n in code.co_lines() if n is not None)


def plain_name(name: str) -> str:
    """The function's own name where Dynamo named the rest of it after a break."""
    while match := _RESUMED.match(name):
        name = match["name"]
    return name


_ONE = StandsFor()


def _complex_uses(node: torch.fx.Node) -> tuple[ComplexUse, ...]:
    """Of one node of a graph."""
    values = [node.meta.get("example_value"), *(n.meta.get("example_value") for n in node.all_input_nodes)]
    if not any(isinstance(v, torch.Tensor) and v.is_complex() for v in values):
        return ()
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return (ComplexUse(name, _stack(node.meta.get("stack_trace") or "")),)


class _Backend:
    """Keeps each graph's size and runs it as it is. weights: what one call of a function stands for, where it
    is not one."""

    def __init__(self, into: Capture, weights: Mapping[object, StandsFor]) -> None:
        self.into = into
        self.weights = weights

    def __call__(self, module: torch.nn.Module, example_inputs: object) -> Callable[..., object]:
        nodes = [node for node in module.graph.nodes if node.op.startswith("call_")]
        ops = sum(self.weights.get(node.target, _ONE).ops for node in nodes)
        used: list[ComplexUse] = []
        for node in nodes:
            stands = self.weights.get(node.target)
            used += _complex_uses(node) if stands is None else stands.complex
        compiling = torch._guards.CompileContext.current_compile_id()
        frame = (compiling.frame_id, compiling.frame_compile_id) if compiling else (None, None)
        graph = Graph(frame, ops, complex=used)
        self.into.graphs.append(graph)
        self.into.files.update(code.co_filename for code in torch._dynamo.utils.get_traced_code() or ())
        forward = module.forward

        def run(*args: object) -> Any:
            graph.runs += 1
            return _results(module) if self.into.dry else forward(*args)

        return run


def _results(module: torch.nn.Module) -> list[object]:
    """What a graph returns, by its form alone."""
    (returned,) = next(n for n in module.graph.nodes if n.op == "output").args
    values = [n.meta["example_value"] if isinstance(n, torch.fx.Node) else n for n in returned]
    return [
        torch.empty_strided(v.shape, v.stride(), dtype=v.dtype) if isinstance(v, torch.Tensor) else v
        for v in values
    ]


def captured(
    weights: Mapping[object, StandsFor] = MappingProxyType({}),
    *,
    dynamic: bool | None = None,
    as_compiled: bool = False,
) -> tuple[Capture, Callable[..., Any]]:
    """A capture, and a function `run(owner, method, args, kwargs)` that makes a call and adds what it did.

    Calls through the same function share compiled code, as calls of one `torch.compile`d function do.
    dynamic: as in torch.compile. as_compiled: the call is plain Python, and what the user compiled inside of
    it is captured, each submodule as it was compiled. Dynamo starts afresh.
    """
    torch._dynamo.reset()
    write_exact_lines()
    leave_out_what_nobody_reads()
    into = Capture()
    if as_compiled:
        torch.compiler.set_stance("default", force_backend=_Backend(into, weights))
        return into, _running(into, _call)
    torch.compiler.set_stance("default")
    body = FunctionType(_call.__code__.replace(), _call.__globals__, "captured_call")
    compiled = torch.compile(body, backend=_Backend(into, weights), dynamic=dynamic)

    def call(owner: object, method: str, args: tuple, kwargs: dict[str, object]) -> Any:
        if method == "__call__" and _has_own_call(owner):
            return _compiled_inside(owner, compiled, args, kwargs)
        return compiled(owner, method, args, kwargs)

    return into, _running(into, call)


def _running(into: Capture, call: Callable[..., object]) -> Callable[..., object]:
    """The call with what happens in it recorded; an exception is its failure."""

    def run(owner: object, method: str, args: object, kwargs: object) -> Any:
        with _listening(into):
            try:
                return call(owner, method, args, kwargs)
            except Exception as error:
                into.failure = _explained(error)
                return None

    return run


def _has_own_call(owner: object) -> bool:
    return isinstance(owner, torch.nn.Module) and type(owner).__call__ is not torch.nn.Module.__call__


def _compiled_inside(
    owner: torch.nn.Module, compiled: Callable[..., object], args: tuple, kwargs: dict[str, object]
) -> object:
    """A model whose class has a `__call__` of its own: that stays outside of what `model.compile()` compiles
    (torch/nn/modules/module.py, `_wrapped_call_impl`)."""
    before = owner._compiled_call_impl
    owner._compiled_call_impl = lambda *a, **k: compiled(owner, "_call_impl", a, k)
    try:
        return owner(*args, **kwargs)
    finally:
        owner._compiled_call_impl = before


def _call(owner: Callable[..., object], method: str, args: tuple, kwargs: dict[str, object]) -> object:
    if method == "__call__":
        return owner(*args, **kwargs)
    return getattr(owner, method)(*args, **kwargs)


@contextmanager
def _listening(into: Capture) -> Iterator[None]:
    trace, dynamo = logging.getLogger(_TRACE_LOG), logging.getLogger("torch._dynamo.convert_frame")
    structured, limit = _TraceLog(into), _LimitLog(into)
    hook = register_bytecode_hook(_watch_writes(into))
    trace.addHandler(structured)
    trace.setLevel(logging.DEBUG)
    dynamo.addHandler(limit)
    try:
        yield
    finally:
        trace.removeHandler(structured)
        dynamo.removeHandler(limit)
        hook.remove()


def _watch_writes(into: Capture) -> Callable[[CodeType, CodeType], None]:
    def look(code: CodeType, out: CodeType) -> None:
        if writes(out):
            into.pure = False

    return look


def writes(code: CodeType) -> bool:
    """Whether it changes an object that it did not make."""
    return any(step.opname in _WRITES for step in dis.get_instructions(code))


def _explained(error: BaseException) -> str:
    """An exception that came out of a captured call, in a line."""
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
