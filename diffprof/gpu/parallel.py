"""A call with its tokens split over several GPUs, as diffusers' context parallelism splits them: what one of
the GPUs launches, made of the call as it ran on one.

`TemplatedUlyssesAttention`, `TemplatedRingAttention` and `TemplatedUnifiedAttention` in
diffusers/models/attention_dispatch.py. Nothing overlaps there: collectives are waited for by what follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch

from .assembly import Call, LaunchedWait, Phase
from .families import base_name, family_of
from .signatures import OTHER_IDS, OpSignature, TensorMeta

COLLECTIVE_OPS = 5
"""Eager operations whose host time a collective takes beside its own: `nccl:all_to_all` keeps the CPU 95 us
in the median of an A100's trace (training-a100 of facebookresearch/HolisticTraceAnalysis), where `aten::mul`
takes 14, or 18 with its Python (`hosts/cloud.toml`)."""

SHARE_OPS = 20
"""Eager operations whose host time it takes to cut the keys, or values, of another GPU out of what was
gathered and to lay them out. That is an `AsyncCollectiveTensor`: slice, `reshape_as`, `transpose` and
`contiguous` each pass through Python, which unwraps it and wraps what comes out. 19 to 22, against `op_us`
measured beside it (`tests/gpu/test_parallel.py`); of a plain tensor 1."""

CHUNK_OPS = 9
"""The same for `chunk` of what was gathered; 9 to 10."""

ASKED = LaunchedWait(("parallel", "sizes"), 1, 0)
"""The CPU reads how large the shares of the others are."""


class Split(NamedTuple):
    """GPUs among which heads are split inside an attention (ulysses), and those round which keys and values
    go (ring). anything: shares of unequal size (`ulysses_anything`, `ring_anything`): each GPU asks the
    others for theirs."""

    ulysses: int = 1
    ring: int = 1
    anything: bool = False

    @property
    def gpus(self) -> int:
        return self.ulysses * self.ring

    @property
    def name(self) -> str:
        """ulysses, ring or unified."""
        if self.ulysses > 1 and self.ring > 1:
            return "unified"
        return "ring" if self.ring > 1 else "ulysses"


MODES: dict[str, Callable[[int], Split | None]] = {
    "ulysses": lambda gpus: Split(ulysses=gpus),
    "ring": lambda gpus: Split(ring=gpus),
    "unified": lambda gpus: Split(2, gpus // 2) if gpus >= 4 and gpus % 2 == 0 else None,
}
"""Ways to split over so many GPUs; None where there is none."""


def token_counts(call: Call, roots: Collection[str], *, text: bool = True) -> frozenset[int]:
    """Lengths of the sequences that denoisers work on: tokens of every linear's input and of attention. text:
    whether it is divided; else without those that others only attend to."""
    found: set[int] = set()
    asking: set[int] = set()
    asked: set[int] = set()
    for item, module in zip(call.items, call.modules, strict=True):
        if not isinstance(item, OpSignature) or not _within(module, roots):
            continue
        if item.name == "aten::linear" and len(item.inputs[0].shape) == 3:
            found.add(item.inputs[0].shape[1])
        elif family_of(base_name(item)) == "attention":
            found.add(item.inputs[0].shape[-2])
            asking.add(item.inputs[0].shape[-2])
            asked.add(item.inputs[1].shape[-2])
    whole = set() if text else asked - asking
    return frozenset(count for count in found - whole if count >= 64)


def heads_left(call: Call, roots: Collection[str], split: Split, *, text: bool = True) -> int:
    """Heads of an attention that can't be dealt out evenly, which `TemplatedUlyssesAttention` does; 0 where
    all can."""
    tokens = token_counts(call, roots, text=text)
    return next(
        (
            item.inputs[0].shape[1]
            for item, module in zip(call.items, call.modules, strict=True)
            if isinstance(item, OpSignature)
            and _within(module, roots)
            and _is_split(item, tokens)
            and item.inputs[0].shape[1] % split.ulysses
        ),
        0,
    )


def held_by_ring(call: Call, roots: Collection[str], split: Split, *, text: bool = True) -> list[int]:
    """Bytes that a ring's attention holds on one GPU beside its share, by item of the call: keys and values
    of all of the ring, gathered at its begin and kept to its end (`kv_buffer`), and four results in float32
    while two are merged."""
    tokens = token_counts(call, roots, text=text)
    return [
        _gathered(item, split)
        if split.ring > 1
        and isinstance(item, OpSignature)
        and _within(module, roots)
        and _is_split(item, tokens)
        else 0
        for item, module in zip(call.items, call.modules, strict=True)
    ]


def _gathered(attention: OpSignature, split: Split) -> int:
    batch, heads, queries, size = attention.inputs[0].shape
    a_token = batch * math.ceil(heads / split.ulysses) * size
    keys = split.ring * math.ceil(attention.inputs[1].shape[-2] / split.ring)
    merged = 4 * math.ceil(queries / split.ring) * torch.float32.itemsize
    return a_token * (2 * keys * attention.inputs[0].dtype.itemsize + merged)


def _is_split(op: OpSignature, tokens: Collection[int]) -> bool:
    """Whether it is an attention over the tokens that are split."""
    return family_of(base_name(op)) == "attention" and op.inputs[1].shape[-2] in tokens


def _within(module: str | None, roots: Collection[str]) -> bool:
    return module is not None and any(module == root or module.startswith(f"{root}.") for root in roots)


def split_call(call: Call, roots: Collection[str], split: Split, *, text: bool = True) -> Call:
    """What one GPU launches. roots: paths of the denoisers. text: whether its tokens are divided."""
    tokens = token_counts(call, roots, text=text)
    known: dict[int, tuple[OpSignature | LaunchedWait, ...]] = {}
    items: list[OpSignature | LaunchedWait] = []
    modules: list[str | None] = []
    starts: dict[int, int] = {}
    for index, (item, module) in enumerate(zip(call.items, call.modules, strict=True)):
        starts[index] = len(items)
        made: tuple[OpSignature | LaunchedWait, ...] = (item,)
        if isinstance(item, OpSignature) and _within(module, roots) and item.direction is None:
            if item.id not in known:
                known[item.id] = tuple(_split(item, tokens, split))
            made = known[item.id]
        items += made
        modules += [module] * len(made)
    phases: list[Phase] = [(starts.get(first, len(items)), *rest) for first, *rest in call.phases]  # type: ignore[misc]
    return Call(items, modules, phases)


def _split(op: OpSignature, tokens: Collection[int], split: Split) -> Iterator[OpSignature | LaunchedWait]:
    if _is_split(op, tokens):
        yield from _attention(op, split)
        return
    inputs = tuple(_fewer(meta, tokens, split.gpus) for meta in op.inputs)
    outputs = tuple(_fewer(meta, tokens, split.gpus) for meta in op.outputs)
    same = all(a is b for a, b in zip((*inputs, *outputs), (*op.inputs, *op.outputs), strict=True))
    yield op if same else replace(op, id=next(OTHER_IDS), inputs=inputs, outputs=outputs)


def _fewer(meta: TensorMeta, tokens: Collection[int], gpus: int) -> TensorMeta:
    """A tensor with its share of the tokens: of any axis but the batch and the features."""
    shape = list(meta.shape)
    axes = (0,) if len(shape) == 2 else range(1, len(shape) - 1)
    axis = next((n for n in axes if shape[n] in tokens), None)
    if axis is None:
        return meta
    shape[axis] = math.ceil(shape[axis] / gpus)
    return _dense(shape, meta.dtype)


def _dense(shape: list[int], dtype: torch.dtype) -> TensorMeta:
    size = torch.Size(shape)
    return TensorMeta(size, torch.empty(size, device="meta").stride(), dtype, 0, "sim")


def _op(
    name: str, inputs: tuple[TensorMeta, ...], outputs: tuple[TensorMeta, ...], **scalars: object
) -> OpSignature:
    return OpSignature(next(OTHER_IDS), f"aten::{name}", None, inputs, outputs, dict(scalars))


def _attention(op: OpSignature, split: Split) -> Iterator[OpSignature | LaunchedWait]:
    batch, heads, queries, size = op.inputs[0].shape
    keys = op.inputs[1].shape[-2]
    dtype = op.inputs[0].dtype
    own = _dense([batch, heads, math.ceil(queries / split.gpus), size], dtype)
    own_keys = _dense([batch, heads, math.ceil(keys / split.gpus), size], dtype)
    if split.ulysses > 1:
        for each in (own, own_keys, own_keys):
            yield from _exchanged(each, split)
    share = math.ceil(heads / split.ulysses)
    q = _dense([batch, share, math.ceil(queries / split.ring), size], dtype)
    k = _dense([batch, share, math.ceil(keys / split.ring), size], dtype)
    if split.ring > 1:
        if split.anything:
            yield from _asked(split.ring)
        pair = _dense([2 * k.numel], dtype)
        yield _op("cat", (k, k), (pair,))
        gathered = _dense([2 * k.numel * split.ring], dtype)
        taken = {"host_ops": COLLECTIVE_OPS, "eager_ops": CHUNK_OPS}
        yield _op("all_gather", (pair,), (gathered,), gpus=split.ring, **taken)
    for turn in range(split.ring):
        one = replace(op, id=next(OTHER_IDS), inputs=(q, k, k, *op.inputs[3:]), outputs=(q,))
        yield from _turn(one, first=turn == 0) if split.ring > 1 else (one,)
    if split.ring > 1:
        yield _op("_to_copy", (_dense(list(q.shape), torch.float32),), (q,))
    if split.ulysses > 1:
        yield from _exchanged(own, split)


def _exchanged(own: TensorMeta, split: Split) -> Iterator[OpSignature | LaunchedWait]:
    """Laid out by receiver, sent, laid out again."""
    yield _laid_out(own)
    if split.anything:
        yield from _asked(split.ulysses)
    yield _op("alltoall", (own,), (own,), gpus=split.ulysses, host_ops=COLLECTIVE_OPS)
    yield _laid_out(own)


def _asked(gpus: int) -> Iterator[OpSignature | LaunchedWait]:
    """The sizes of all shares, gathered and read on the CPU (`gather_size_by_comm`)."""
    sizes = (_dense([count], torch.int64) for count in (1, gpus))
    yield _op("all_gather", (next(sizes),), (next(sizes),), gpus=gpus, host_ops=COLLECTIVE_OPS)
    yield ASKED


def _laid_out(meta: TensorMeta, **scalars: object) -> OpSignature:
    turned = TensorMeta(meta.shape, meta.stride[::-1], meta.dtype, 0, "sim")
    return _op("clone", (turned,), (meta,), **scalars)


def _turn(attention: OpSignature, *, first: bool) -> Iterator[OpSignature]:
    """One share of keys: what the kernel wants and gives laid out anew (`_cudnn_attention_forward_op`,
    `_native_flash_attention_forward_op`; the default attention gives no log-sum-exp), and its result merged
    with those before it in float32: `out - sigmoid(...) * (out - new)`, `lse - logsigmoid(...)`."""
    q = attention.inputs[0]
    wide = _dense(list(q.shape), torch.float32)
    row = _dense([*q.shape[:-1], 1], torch.float32)
    wrapped = 0 if first else SHARE_OPS - 1
    yield _laid_out(q)
    yield from (_laid_out(each, eager_ops=wrapped) for each in attention.inputs[1:3])
    yield attention
    yield from map(_laid_out, (q, row))
    yield _op("_to_copy", (q,), (wide,))
    if first:
        return
    merged = (("sub", row), ("sigmoid", row), ("sub", wide), ("mul", wide), ("sub", wide))
    for name, meta in (*merged, ("sub", row), ("log_sigmoid_forward", row), ("sub", row)):
        others = () if "sigmoid" in name else (meta,)
        yield _op(name, (row if name == "mul" else meta, *others), (meta,))
