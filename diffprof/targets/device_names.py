"""What the user's own lines are told of the simulated device: that it is CUDA.

`torch.device` is written in C, which lets nothing of it be set; what a Python keeps elsewhere than CPython
3.11 to 3.13 do stays as it is.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

import torch

from diffprof.targets.process import installed

_AS_TEXT = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)
_POINTER = ctypes.sizeof(ctypes.c_void_p)
_SLOT = object.__basicsize__ + 15 * _POINTER
"""Bytes in a type before `tp_str`: an object's head, a size and 14 fields (Include/cpython/object.h)."""
_WRAPPED = object.__basicsize__ + 4 * _POINTER
"""Bytes in a slot's wrapper before the function (Include/cpython/descrobject.h)."""


class MeantDevice(Protocol):
    """Which device is meant by "cuda", and whether it is now."""

    open: bool

    @property
    def meant(self) -> torch.device: ...


def asked_by_user(names: MeantDevice) -> bool:
    """Whether a line of the user's reads an attribute; called by what answers it."""
    return names.open and not installed(sys._getframe(2).f_code.co_filename)


@contextmanager
def called_cuda(names: MeantDevice) -> Iterator[None]:
    """Inside, `device.type` and `str(device)` of the simulated device say "cuda" in the user's own lines:
    dtypes, waits and more hang on it there."""
    own, simulated = vars(torch.device)["type"], names.meant.type

    def kind(device: torch.device) -> str:
        said: str = own.__get__(device)
        return "cuda" if said == simulated and asked_by_user(names) else said

    def text(device: torch.device) -> str:
        said = plain(device)
        told = said.partition(":")[0] == simulated and asked_by_user(names)
        return said.replace(simulated, "cuda", 1) if told else said

    with ExitStack() as stack:
        stack.enter_context(_attribute_replaced(torch.device, "type", property(kind)))
        plain = stack.enter_context(_text_replaced(torch.device, text))
        yield


@contextmanager
def _attribute_replaced(owner: type, name: str, value: object) -> Iterator[None]:
    attributes = next((each for each in gc.get_referents(vars(owner)) if isinstance(each, dict)), None)
    if attributes is None:
        yield
        return
    before = attributes[name]

    def put(new: object) -> None:
        attributes[name] = new
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(owner))

    put(value)
    try:
        yield
    finally:
        put(before)


@contextmanager
def _text_replaced(owner: type, text: Callable[[torch.device], str]) -> Iterator[Callable[[object], str]]:
    """What `str` of an object calls. Gives what it called before."""
    slot = ctypes.c_void_p.from_address(id(owner) + _SLOT)
    before, wrapper = slot.value, vars(owner).get("__str__")
    if before is None or before != ctypes.c_void_p.from_address(id(wrapper) + _WRAPPED).value:
        yield str
        return
    called = _AS_TEXT(text)
    slot.value = ctypes.cast(called, ctypes.c_void_p).value
    try:
        yield _AS_TEXT(before)
    finally:
        slot.value = before
