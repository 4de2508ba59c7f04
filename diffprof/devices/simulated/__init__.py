"""The simulated GPU: a device in pure Python on which real pipeline code runs, with or without values.

    with simulated_gpu(observer) as device:
        place(pipe, values="unknown")
        pipe("a prompt")

Names are loaded when they are first used, so that importing the package doesn't import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .activation import (
        follows_from,
        is_known,
        is_simulated,
        multiplying,
        observing,
        same_storage,
        simulated_gpu,
    )
    from .host_placeholders import placeholder, values_unknown
    from .observer import Blocking, BlockingKind, Observer, UnknownValue
    from .placement import empty_weights, place
    from .session import suspended
    from .tf32 import Tf32Products

_HOMES = {
    "Blocking": "observer",
    "BlockingKind": "observer",
    "Observer": "observer",
    "Tf32Products": "tf32",
    "UnknownValue": "observer",
    "empty_weights": "placement",
    "follows_from": "activation",
    "placeholder": "host_placeholders",
    "is_known": "activation",
    "is_simulated": "activation",
    "multiplying": "activation",
    "observing": "activation",
    "place": "placement",
    "same_storage": "activation",
    "simulated_gpu": "activation",
    "suspended": "session",
    "values_unknown": "host_placeholders",
}

__all__ = [
    "Blocking",
    "BlockingKind",
    "Observer",
    "Tf32Products",
    "UnknownValue",
    "empty_weights",
    "follows_from",
    "is_known",
    "is_simulated",
    "multiplying",
    "observing",
    "place",
    "placeholder",
    "same_storage",
    "simulated_gpu",
    "suspended",
    "values_unknown",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
