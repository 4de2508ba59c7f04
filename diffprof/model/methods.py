"""Methods of a report that take a room above this one: showing it, and asserting on it. The package names the
functions where it is put together, in `diffprof/__init__.py`; each is imported when it is called."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

METHODS: dict[str, str] = {}
"""Name of a method -> "module:function", which takes the report first."""


def method(name: str) -> Callable[..., Any]:
    """The function of a method."""
    module, _, function = METHODS[name].partition(":")
    return getattr(import_module(module), function)
