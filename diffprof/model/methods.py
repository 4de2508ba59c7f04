"""What a room below asks of views, and a report of the rooms above it: showing it, the words of an assertion,
the page of a contact. The package names the functions where it is put together, in `diffprof/__init__.py`;
each is imported when it is called."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

METHODS: dict[str, str] = {}
"""Name -> "module:function"."""


def method(name: str) -> Callable[..., Any]:
    """The function of a name."""
    module, _, function = METHODS[name].partition(":")
    return getattr(import_module(module), function)
