"""What compiling a component took in this process, where its user compiled it: Dynamo keeps the times."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch

from diffprof.analyzers.graph_breaks.capture import is_code_of, plain_name
from diffprof.analyzers.graph_breaks.observe import Compilable
from diffprof.model.callsite import Place


@dataclass(frozen=True)
class Timed:
    """One compile with its backend. frame: Dynamo's number of the function, the same for its versions."""

    place: Place
    frame: str
    seconds: float


def compiles_here() -> list[Timed]:
    """Compiles of this process that went well, as far back as Dynamo keeps them (64 of them)."""
    found = []
    for each in torch._dynamo.utils.get_compilation_metrics():
        if each.co_filename and each.entire_frame_compile_time_s and not each.fail_type:
            place = (each.co_filename, each.co_firstlineno or 0, plain_name(each.co_name or ""))
            frame = (each.compile_id or "").rpartition("/")[0]
            found.append(Timed(place, frame, each.entire_frame_compile_time_s))
    return found


def compile_times(parts: Sequence[Compilable], seen: Iterable[Timed]) -> dict[str, float]:
    """Milliseconds of one compile of each part that was compiled, by name: of every function of it that was
    compiled, one version. A function that several parts share says nothing about any of them."""
    codes = {part.name: _codes(part) for part in parts}
    of: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in seen:
        owners = [name for name, own in codes.items() if any(is_code_of(code, each.place) for code in own)]
        if len(owners) == 1:
            of[owners[0]][each.frame].append(each.seconds)
    return {
        name: 1e3 * sum(sum(times) / len(times) for times in frames.values()) for name, frames in of.items()
    }


def _codes(part: Compilable) -> set[CodeType]:
    """Of what the part's call runs through: its method and the forwards of its submodules, below their
    decorators."""
    owner: object = part.owner
    methods = {getattr(type(owner), "forward" if part.method == "__call__" else part.method, None)}
    if isinstance(owner, torch.nn.Module) and part.method == "__call__":
        methods |= {type(module).forward for module in owner.modules()}
    return {code for method in methods for code in _unwrapped(method)}


def _unwrapped(function: Any) -> Iterable[CodeType]:
    while function is not None:
        function = inspect.unwrap(function, stop=lambda f: hasattr(f, "__code__"))
        code = getattr(function, "__code__", None)
        if code is not None:
            yield code
        function = getattr(function, "__wrapped__", None)
