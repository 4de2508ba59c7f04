"""Stops a target before it takes the last of the machine's memory, which would end it without a word."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from diffprof.model.errors import TargetError
from diffprof.targets.room import room

RESERVE_SHARE = 0.04
"""Of the memory that the process may have: what is left to the rest of the machine."""

OWN_BYTES = 1 << 30
"""A target that took less has not taken the memory that is gone."""

LOOKED_AT = 1 << 28
"""Bytes. Smaller allocations are left to the regular look."""

LOOK_S = 0.1

MAKING = frozenset({"zeros", "ones", "full", "rand", "randn", "randint", "arange", "eye", "normal"})
"""Names of torch's functions that write all of what they make, so that memory is taken at once."""


class MemoryGone(BaseException):
    """The target was stopped. Not an Exception, so that it goes through what the target catches.

    what, hint: as of a DiffprofError."""

    hint = (
        "Scan it with --no-weights: models are then built from their configurations. What is made on "
        'device="cuda" of a simulated GPU takes no memory either.'
    )

    def __init__(self, what: str = "the machine's memory was about to be gone") -> None:
        super().__init__(what)
        self.what = what

    def as_error(self, who: str, at: str) -> TargetError:
        """The refusal that a person reads."""
        return TargetError(f"{who} was stopped{at}: {self.what}.", self.hint)


def refuse_large(name: str, args: tuple[object, ...], kwargs: dict[str, Any]) -> None:
    """Raises MemoryGone for a tensor on the CPU that the machine has no room for. name: one of MAKING."""
    dtype = kwargs.get("dtype") or (torch.int64 if name == "randint" else torch.get_default_dtype())
    size = kwargs.get("size") or (args[0] if args and isinstance(args[0], list | tuple) else args)
    numbers = [n for n in size if type(n) is int] if isinstance(size, list | tuple) else []
    nbytes = math.prod(numbers) * dtype.itemsize if numbers else 0
    if nbytes < LOOKED_AT:
        return
    available, _ = room()
    if nbytes > available:
        raise MemoryGone(
            f"torch.{name} asked for {nbytes / 2**30:.1f} GiB on the CPU, and {available / 2**30:.1f} GiB "
            "are available"
        )


@contextmanager
def memory_guarded(measure: Callable[[], tuple[int, int]] = room, own: int = OWN_BYTES) -> Iterator[None]:
    """Inside, this thread gets MemoryGone when what is available falls under the reserve and the process took
    more than `own` bytes of it."""
    ident, ended = threading.get_ident(), threading.Event()
    process = psutil.Process()
    before = process.memory_info().rss

    def look() -> None:
        while not ended.wait(LOOK_S):
            available, total = measure()
            if available < RESERVE_SHARE * total and process.memory_info().rss - before >= own:
                raised = ctypes.py_object(MemoryGone)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), raised)
                return

    watch = threading.Thread(target=look, daemon=True, name="diffprof-memory")
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()
