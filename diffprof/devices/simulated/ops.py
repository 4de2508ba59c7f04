"""What an op's schema says, once per op: what it writes, what it returns, how its arguments count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Locator = tuple[int, str]
"""Where an argument is: its position, its name."""

FACTORIES_LIKE = frozenset(
    {
        "zeros_like",
        "ones_like",
        "full_like",
        "empty_like",
        "rand_like",
        "randn_like",
        "randint_like",
        "new_zeros",
        "new_ones",
        "new_full",
        "new_empty",
        "new_empty_strided",
    }
)
"""Ops that take only geometry from their tensor: what they make is known whatever the tensor holds."""

OVERWRITES = frozenset(
    {
        "zero_",
        "fill_",
        "copy_",
        "normal_",
        "uniform_",
        "random_",
        "bernoulli_",
        "exponential_",
        "log_normal_",
        "cauchy_",
        "geometric_",
    }
)
"""In-place ops that leave nothing of the old values."""

NO_LAUNCH = frozenset(
    {
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "resize_",
        "resize_as_",
        "set_",
        "record_stream",
        "scalar_tensor",
        "lift",
        "lift_fresh",
        "_assert_tensor_metadata",
        "_assert_scalar",
    }
)
"""Ops that make or change tensors without work on the device."""

HOST_ARGUMENTS = frozenset(
    {
        "index",
        "index_put",
        "index_put_",
        "_index_put_impl_",
        "_unsafe_index",
        "_unsafe_index_put",
        "copy_",
        "_to_copy",
        "_pack_padded_sequence",
        "_pad_packed_sequence",
        "lstm",
        "gru",
        "rnn_tanh",
        "rnn_relu",
        "_ctc_loss",
        "ctc_loss",
        "tensor_split",
        "set_",
        "segment_reduce",
    }
)
"""Ops that take CPU tensors beside device tensors on CUDA too."""

CHOOSES = {
    "topk": 1,
    "sort": 1,
    "argsort": 0,
    "argmax": 0,
    "argmin": 0,
    "max": 1,
    "min": 1,
    "multinomial": 0,
}
"""Ops that choose from a dimension, the last one where none is given: which result has the indices."""

HOST_RESULTS = {"_pack_padded_sequence": (1,)}
"""Results that are on the CPU wherever the inputs are."""


class Op:
    """One op overload. handler: what runs it, where it isn't an ordinary one."""

    __slots__ = (
        "base",
        "chooses",
        "composite",
        "device_at",
        "draws",
        "func",
        "handler",
        "host_ok",
        "host_results",
        "inplace_view",
        "launches",
        "like",
        "name",
        "names",
        "native",
        "overwrites",
        "pointwise",
        "returns",
        "settings",
        "writes",
    )

    def __init__(self, func: torch._ops.OpOverload) -> None:
        schema = func._schema
        self.func = func
        self.name: str = schema.name
        namespace, _, self.base = schema.name.partition("::")
        self.native = namespace in ("aten", "prims", "prim")
        arguments = schema.arguments
        self.names = tuple(a.name for a in arguments)
        written = [
            (k, a) for k, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write
        ]
        self.writes: tuple[Locator, ...] = tuple((k, a.name) for k, a in written)
        returns: list[Locator | None] = []
        for r in schema.returns:
            place = None
            if r.alias_info is not None and r.alias_info.is_write:
                names = set(r.alias_info.before_set) | set(r.alias_info.after_set)
                for k, a in written:
                    if set(a.alias_info.before_set) & names:
                        place = (k, a.name)
            returns.append(place)
        self.returns = tuple(returns)
        """For each result: the written argument that it is, or None."""
        tags = func.tags
        self.inplace_view = torch.Tag.inplace_view in tags
        self.pointwise = torch.Tag.pointwise in tags
        self.like = self.base in FACTORIES_LIKE
        self.overwrites = self.base in OVERWRITES and bool(self.writes)
        seeded = torch.Tag.nondeterministic_seeded in tags
        self.draws = seeded and (self.like or "generator" in self.names)
        self.launches = self.base not in NO_LAUNCH
        self.host_ok = self.base in HOST_ARGUMENTS or not self.native
        self.chooses = CHOOSES.get(self.base) if len(schema.returns) > CHOOSES.get(self.base, 0) else None
        self.host_results = HOST_RESULTS.get(self.base, ())
        self.device_at: Locator | None = next(
            ((k, a.name) for k, a in enumerate(arguments) if a.name == "device"), None
        )
        self.composite = torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), "CompositeImplicitAutograd"
        )
        self.handler: Callable[[Op, tuple, dict[str, object]], object] | None = None
        self.settings: dict[str, object] = {}
        """What the process decides, told with the arguments that aren't tensors."""


def argument(args: tuple, kwargs: dict[str, object], place: Locator, default: object = None) -> Any:
    """The argument at a place, given by position or by name."""
    k, name = place
    return args[k] if k < len(args) else kwargs.get(name, default)


def scalars_of(op: Op, args: tuple, kwargs: dict[str, object]) -> dict[str, object]:
    """The arguments that aren't tensors, by name, as plain values; None is left out."""
    found = {}
    for name, value in [*zip(op.names, args, strict=False), *kwargs.items()]:
        if value is None or isinstance(value, (torch.Tensor, torch.Generator)):
            continue
        if isinstance(value, (list, tuple)):
            if any(isinstance(v, torch.Tensor) for v in value):
                continue
            value = tuple(value)
        elif not isinstance(value, (int, float, bool, str, complex)):
            value = str(value)
        found[name] = value
    return found | op.settings
