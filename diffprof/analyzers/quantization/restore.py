"""Change the modules of a pipeline for a while, and give them back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from diffprof.pipeline import components

_TABLES = ("_parameters", "_buffers", "_modules")


def modules_of(pipe: Any) -> list[nn.Module]:
    """Every module of every component, once."""
    found: dict[int, nn.Module] = {}
    for part in components(pipe).values():
        if isinstance(part, nn.Module):
            found.update((id(module), module) for module in part.modules())
    return list(found.values())


@contextmanager
def restored(pipe: Any) -> Iterator[None]:
    """After the context, every module has the submodules, parameters, buffers and attributes that it had, and
    the pipeline its attributes.

    Tensors written in place are not restored.
    """
    own = dict(vars(pipe))
    before = []
    for module in modules_of(pipe):
        state = dict(vars(module))
        before.append((module, state, {name: dict(state[name]) for name in _TABLES if name in state}))
    try:
        yield
    finally:
        vars(pipe).clear()
        vars(pipe).update(own)
        for module, state, tables in before:
            vars(module).clear()
            vars(module).update(state)
            for name, table in tables.items():
                held = vars(module)[name]
                held.clear()
                held.update(table)
