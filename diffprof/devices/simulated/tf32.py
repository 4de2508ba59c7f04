"""Matrix products of float32 in TF32, as tensor cores compute them, on the CPU.

The operands keep 10 bits of mantissa and products are summed in float32 (NVIDIA A100 Tensor Core GPU
Architecture, 2020, "TensorFloat-32"). What is left is cut off, not rounded: no unit is coarser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_OPERANDS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "matmul", "linear"), (0, 1)),
    **dict.fromkeys(("addmm", "addmv", "addbmm", "baddbmm"), (1, 2)),
    "scaled_dot_product_attention": (0, 1, 2),
    "_scaled_dot_product_flash_attention_for_cpu": (0, 1, 2),
}
"""Products by the name of their operation -> which of the arguments are multiplied."""

_KEPT = -1 << 13
"""Of float32's 23 bits of mantissa, the first 10."""


class Tf32Products(TorchDispatchMode):
    """Cuts operands where the process lets float32 products run in TF32. As a mode, of the CPU's operations
    inside of it. seen: whether any was."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def cut(self, name: str, arguments: Sequence[object]) -> Sequence[object]:
        """The arguments of an operation, as a tensor core reads them."""
        operands = _OPERANDS.get(name)
        if operands is None or torch.backends.cuda.matmul.fp32_precision != "tf32":
            return arguments
        self.seen = True
        return [_cut(each) if n in operands else each for n, each in enumerate(arguments)]

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        return func(*self.cut(_name(func), args), **(kwargs or {}))


def _name(func: object) -> str:
    return func._schema.name.partition("::")[2] if isinstance(func, torch._ops.OpOverload) else ""


def _cut(value: object) -> object:
    plain = type(value) in (
        torch.Tensor,
        torch.nn.Parameter,
    )  # a quantized weight says float32, and holds none
    if not plain or not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return value
    return (value.view(torch.int32) & _KEPT).view(torch.float32)
