"""Keeping Python's garbage collector from walking what was there before.

With torch, diffusers and transformers imported, one full collection walks over a million objects and takes as
long as half of a scan.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def settled() -> Iterator[None]:
    """Leave the objects that exist now out of garbage collections while the context is open."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
