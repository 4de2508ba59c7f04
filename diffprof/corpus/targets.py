"""Every case of the corpus as a factory: `diffprof scan diffprof/corpus/targets.py:sdxl_pag`.

Parts that a case would offload stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from diffprof.corpus import CASES, SEED

_BY_NAME = {name.replace("-", "_").replace(".", "_"): entry for name, entry in CASES.items()}


def __getattr__(name: str) -> Callable[[], tuple[object, dict[str, object]]]:
    if name not in _BY_NAME:
        raise AttributeError(name)
    return lambda: _made(name)


def _made(name: str) -> tuple[Any, dict[str, Any]]:
    """A pipeline and its call. One that draws its noise on the device uses the default generator there."""
    case = _BY_NAME[name].build()
    own = {"generator": torch.Generator("cpu").manual_seed(SEED)} if case.generator == "cpu" else {}
    return case.pipe, {**case.kwargs, **own}


def names() -> tuple[str, ...]:
    """Of all factories."""
    return tuple(_BY_NAME)
