"""One structured log of PyTorch's compiler as a row."""

from __future__ import annotations

import msgspec


class BreakLine(msgspec.Struct, frozen=True, kw_only=True):
    """Graph breaks at one line for one reason. count: compiles that met it."""

    line: str
    reason: str
    count: int


class RecompileLine(msgspec.Struct, frozen=True, kw_only=True):
    """A guard of a function that did not hold, so that it was compiled again, so many times."""

    function: str
    guard: str
    count: int


class CompileRow(msgspec.Struct, frozen=True, kw_only=True):
    """One log of TORCH_TRACE. compiles: of frames; seconds: all of them took. phases: seconds that were
    spent in dynamo, aot_autograd and inductor, each without the next. cache: hits, misses and
    bypasses."""

    key: str
    path: str
    folder: str
    bytes: int
    compiles: int = 0
    seconds: float = 0.0
    phases: dict[str, float] = {}
    cache: dict[str, int] = {}
    breaks: tuple[BreakLine, ...] = ()
    recompiles: tuple[RecompileLine, ...] = ()
    torch: str = ""
    damaged: int = 0
    """Lines that could not be read."""
    status: str = "ok"
    reason: str = ""
    took_s: float | None = None
    diffprof: str = ""
