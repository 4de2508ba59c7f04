"""Random generators of the simulated device."""

from __future__ import annotations

from typing import Any

import torch

from .tensor import NAME

_Base: Any = torch._C.Generator
_on_device: set[int] = set()


class SimGenerator(_Base):  # type: ignore[misc]
    """A CPU generator that says it is on the device: the numbers are those of the CPU."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """`sim:0`."""
        return torch.device(NAME, 0)

    def __new__(cls, device: torch.types.Device = None) -> Any:
        made = _Base.__new__(cls, device="cpu")
        # C++ hands the dispatcher another Python object for the same generator: known by address.
        _on_device.add(made._cdata)
        return made

    def __init__(self, device: torch.types.Device = None) -> None:
        pass

    def __del__(self, registered: set[int] = _on_device) -> None:
        registered.discard(self._cdata)

    def clone_state(self) -> object:
        """Another generator in the same state."""
        other = SimGenerator()
        other.set_state(self.get_state())
        return other

    def __reduce__(self) -> tuple:
        return _restored, (self.get_state(),)


def _restored(state: torch.Tensor) -> SimGenerator:
    made = SimGenerator()
    made.set_state(state)
    return made


def is_on_device(generator: torch.Generator) -> bool:
    """Whether a generator, as the dispatcher sees it, belongs to the simulated device."""
    return generator._cdata in _on_device
