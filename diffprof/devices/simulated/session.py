"""What is active now: one observer at a time, and the counters that outlive it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from diffprof.gpu.signatures import OpSignature, dtype_name
from diffprof.model.callsite import Place, function_name, is_machinery, stack

from .blocking import SYNCHRONIZE, Wait
from .observer import Blocking, BlockingKind, Observer, UnknownValue
from .tf32 import Tf32Products

ASSUMED_LIMIT = 20_000
"""Assumed reads in one activation before a loop is taken to wait for a value that never comes."""


class SimulatedSession:
    """State of the simulated device. `SESSION` is the only instance; callbacks are None when not wanted."""

    __slots__ = (
        "active",
        "allocated",
        "assumed",
        "capacity",
        "capture",
        "changes",
        "drained",
        "forgotten",
        "guessed",
        "hits",
        "made_up",
        "misses",
        "observer",
        "on_alloc",
        "on_blocking",
        "on_free",
        "on_op",
        "on_opaque",
        "on_placeholder",
        "ops",
        "peak",
        "placeholder_bytes",
        "spec",
        "stream",
        "tf32",
        "unknown",
        "unknown_reads",
    )

    def __init__(self) -> None:
        self.active = False
        self.allocated = 0
        """Live bytes of device storages, over activations."""
        self.peak = 0
        self.forgotten = 0
        """Number up to which storages are no longer counted."""
        self.ops = 0
        self.drained = 0
        """`ops` at the last wait: what was launched up to there is done."""
        self.changes = 0
        """How often a tensor got another geometry or storage, or one that is held other known values."""
        self.hits = 0
        self.misses = 0
        self.unknown = False
        """Whether any unknown value was made in this activation."""
        self.guessed = False
        """Whether there is a guess of any."""
        self.spec: Any = None
        self.capacity: int | None = None
        """Bytes that one allocation may have; None: any number."""
        self.stream = 0
        """Into which work is launched; 0: the default one."""
        self.capture: Any = None
        """The CUDA graph that is being captured."""
        self.tf32: Tf32Products | None = None
        """What known operands of products are given to before they are multiplied."""
        self.made_up: tuple[str, Place | None] | None = None
        """The last read of an unknown value: the operation, and the line that asked. It outlives a call that
        fails, which it may be the reason of."""
        self.clear()

    def clear(self) -> None:
        """No observer: the device still works, and tells nobody."""
        self.observer: Observer | None = None
        self.unknown_reads = "assume"
        self.assumed = 0
        self.placeholder_bytes = 0
        self.on_op: Callable[[OpSignature], None] | None = None
        self.on_blocking: Callable[[Blocking], None] | None = None
        self.on_alloc: Callable[[int, int], None] | None = None
        self.on_free: Callable[[int, int], None] | None = None
        self.on_placeholder: Callable[[tuple[int, ...], torch.dtype, str], None] | None = None
        self.on_opaque: Callable[[str], None] | None = None

    def watch(self, observer: Observer | None) -> None:
        """Send what happens to `observer`; a method it doesn't override is never called."""
        self.observer = observer
        for name in ("op", "blocking", "alloc", "free", "placeholder", "opaque"):
            told = getattr(observer, name, None)
            wanted = getattr(told, "__func__", told) is not getattr(Observer, name)
            setattr(self, f"on_{name}", told if wanted else None)


SESSION = SimulatedSession()


class _Quiet(threading.local):
    depth = 0


QUIET = _Quiet()


@contextmanager
def suspended() -> Iterator[None]:
    """Operations of this thread inside the block tell the observer nothing (memory is still counted)."""
    QUIET.depth += 1
    try:
        yield
    finally:
        QUIET.depth -= 1


def tell_blocking(
    kind: BlockingKind,
    op: str,
    reason: str,
    source: str,
    shape: tuple[int, ...] = (),
    dtype: torch.dtype | None = None,
    *,
    nbytes: int = 0,
    known: bool = True,
    assumed: object = None,
    waits: int = 1,
    tensor: torch.Tensor | None = None,
    stream: int | None = None,
) -> None:
    """Report one wait of the CPU."""
    SESSION.drained = SESSION.ops
    if QUIET.depth:
        return
    if SESSION.capture is not None:
        SESSION.capture.waits(str(kind), op)
    callback = SESSION.on_blocking
    if callback is None:
        return
    callback(
        Blocking(
            kind=kind,
            op=op,
            reason=reason,
            source=source,
            bytes=nbytes,
            shape=tuple(shape),
            dtype="" if dtype is None else dtype_name(dtype),
            known=known,
            assumed=assumed,
            waits=waits,
            tensor=tensor,
            stream=stream,
        )
    )


def tell_synchronize(op: str, wait: Wait = SYNCHRONIZE, stream: int | None = None) -> None:
    """Report that the program asks to wait; stream: for one alone."""
    tell_blocking(wait.kind, op, wait.reason, wait.source, stream=stream)


def may_assume(op: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Count one assumed read; raises UnknownValue where values may not be assumed, or too many were."""
    if SESSION.unknown_reads == "raise":
        raise UnknownValue(op, tuple(shape), dtype)
    SESSION.assumed += 1
    _remember(op)
    if SESSION.assumed > ASSUMED_LIMIT:
        raise UnknownValue(
            op,
            tuple(shape),
            dtype,
            f"after {ASSUMED_LIMIT} assumed reads, a loop seems to wait for a value that can't come",
        )


def _remember(op: str) -> None:
    frame = next((f for f in stack() if not is_machinery(f.f_code.co_filename)), None)
    SESSION.made_up = (
        op,
        None if frame is None else (frame.f_code.co_filename, frame.f_lineno, function_name(frame)),
    )


def tell_placeholder(shape: tuple[int, ...], dtype: torch.dtype, assumed: str) -> None:
    """Report that the CPU was given something in place of unknown data, as zeros."""
    _remember("cpu")
    callback = SESSION.on_placeholder
    if callback is not None and not QUIET.depth:
        callback(tuple(shape), dtype, assumed)
