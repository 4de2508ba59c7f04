"""Cyclic garbage collection, kept away from where it costs much and finds nothing.

torch, transformers and diffusers leave hundreds of thousands of objects that live as long as the process.
Each full collection walks them all: while they are imported, during a scan, and as the interpreter ends.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


@contextmanager
def collection(enabled: bool) -> Iterator[None]:
    """Cyclic collection inside or not; what becomes garbage where there is none is collected later."""
    was = gc.isenabled()
    _switch(enabled)
    try:
        yield
    finally:
        _switch(was)


def _switch(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()


def paused_collection() -> AbstractContextManager[None]:
    """No cyclic collection inside."""
    return collection(False)


def leave_to_the_system() -> None:
    """Take all that lives now out of the collections at the end of the process. Reference counts, `atexit`
    functions and finalizers work as ever; only cycles are not looked for.

    Does nothing where a library bound with nanobind is loaded (triton of PyTorch 2.15): it counts what is
    left at the end, and prints it as leaks.
    """
    if not any(metaclass.__name__.startswith("nb_") for metaclass in type.__subclasses__(type)):
        gc.freeze()


def living() -> list[object]:
    """All objects that the collector knows, with those that were taken out of its collections: servers freeze
    what they imported, and so does a scan on a simulated GPU."""
    frozen = gc.get_freeze_count()
    if frozen:
        gc.unfreeze()
    try:
        return gc.get_objects()
    finally:
        if frozen:
            gc.freeze()
