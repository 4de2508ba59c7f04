"""What the simulated device tells: one `Observer` per activation, called on the thread that runs the op."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import torch

from diffprof.gpu.memory_log import StorageNumbers
from diffprof.gpu.signatures import OpSignature, dtype_name
from diffprof.model.errors import DiffprofError


class UnknownValue(DiffprofError):
    """The CPU needs a value that the simulation doesn't have, and none may be assumed.

    op: the operation that asked. shape, dtype: of the tensor whose value was asked for.
    """

    def __init__(self, op: str, shape: tuple[int, ...], dtype: torch.dtype, why: str = "") -> None:
        self.op = op
        self.shape = shape
        self.dtype = dtype
        super().__init__(
            f"{op} needs the value of a {dtype_name(dtype)} tensor of shape {shape}, "
            f"which the simulated device doesn't have{': ' + why if why else ''}",
            "Run with known values (real or random weights), or allow assumed values "
            '(unknown_reads="assume").',
        )


class BlockingKind(enum.StrEnum):
    """How an operation makes the CPU wait for the device."""

    VALUE_READ = "value-read"
    HOST_INDEX = "host-index"
    DATA_DEPENDENT_SHAPE = "data-dependent-shape"
    DEVICE_TO_HOST = "device-to-host"
    HOST_TO_DEVICE = "host-to-device"
    STAGED_COPY = "staged-copy"
    TENSOR_FROM_DEVICE_SCALARS = "tensor-from-device-scalars"
    LIBRARY_CHECK = "library-check"
    SYNCHRONIZE = "synchronize"

    @property
    def gives_values(self) -> bool:
        """Whether the CPU is given something to decide by: an upload gives it nothing."""
        return self not in (self.HOST_TO_DEVICE, self.STAGED_COPY, self.SYNCHRONIZE)


@dataclass(frozen=True, slots=True)
class Blocking:
    """One wait of the CPU.

    op: the operation ("aten::nonzero", "Tensor.tolist"). bytes: moved between device and host, 0 if none.
    shape, dtype: of the tensor that is read or copied. known: whether its values are known. assumed: what
    stood in for an unknown value. waits: how often the CPU waits within this one op.
    reason, source: from the table in `blocking`.
    """

    kind: BlockingKind
    op: str
    reason: str
    source: str
    bytes: int
    shape: tuple[int, ...]
    dtype: str
    known: bool
    assumed: object = None
    waits: int = 1
    tensor: torch.Tensor | None = None
    """What is read or copied (for an upload: the CPU's tensor). Look at it in the callback only."""
    stream: int | None = None
    """The stream that is waited for, where the wait names one."""

    @property
    def reads(self) -> bool:
        """Whether the CPU was given values that are known."""
        return self.known and self.kind.gives_values


class Observer:
    """Base class: every method does nothing. Methods that aren't overridden cost nothing."""

    def op(self, signature: OpSignature) -> None:
        """Work is launched on the device (views and metadata changes are not told)."""

    def blocking(self, event: Blocking) -> None:
        """The CPU waits. The frame of the code that caused it is on the stack."""

    def alloc(self, nbytes: int, number: int) -> None:
        """A storage of so many bytes (in the caching allocator's 512-byte units) came to be; number: its own,
        in the order of birth."""

    def free(self, nbytes: int, number: int) -> None:
        """Such a storage was dropped."""

    def placeholder(self, shape: tuple[int, ...], dtype: torch.dtype, assumed: str) -> None:
        """Zeros, or what else is assumed, were handed to the CPU in place of unknown data: what is computed
        from them is made up."""

    def opaque(self, name: str) -> None:
        """An op that isn't PyTorch's own ran: what it does inside can't be seen."""

    # --- what was told once and comes again -----------------------------------------------------------

    def mark(self, storages: StorageNumbers) -> Any:
        """Here something begins that may come again."""

    def since(self, mark: Any) -> object:
        """What was told since; None: it can't be told again."""

    def reads(self, told: Any) -> bool:
        """Whether the CPU read values in it that are known, and so may differ."""
        return True

    def alike(self, one: Any, other: Any) -> bool:
        """Whether both were told the same."""
        return False

    def again(self, told: Any, storages: StorageNumbers) -> None:
        """It happens again, now."""
