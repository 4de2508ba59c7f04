"""The attention of a real call, by shape, timed under every kernel that the device has for it."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from diffprof.devices.stopwatches import Runner
from diffprof.gpu.attention_table import LIBRARIES
from diffprof.gpu.signatures import dtype_name
from diffprof.gpu.timeline_builder import ModuleStack
from diffprof.model.pipeline import Pipeline, module_names
from diffprof.model.recording import AttentionRow, AttentionTiming, Grade

KERNELS = {
    "_native_flash": SDPBackend.FLASH_ATTENTION,
    "_native_cudnn": SDPBackend.CUDNN_ATTENTION,
    "_native_efficient": SDPBackend.EFFICIENT_ATTENTION,
    "_native_math": SDPBackend.MATH,
}

ROUNDS = 5
SHAPES = 24
"""Most shapes that are timed: those with most work."""


class AttentionCall(NamedTuple):
    """Geometry of one call: (batch, heads, tokens, size) each."""

    query: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]
    mask: tuple[int, ...] | None
    causal: bool
    dtype: torch.dtype

    @property
    def work(self) -> int:
        return torch.Size(self.query).numel() * self.key[-2]


class AttentionCalls(TorchFunctionMode):
    """Counts the calls of `scaled_dot_product_attention` while it is open, by component and geometry."""

    def __init__(self, modules: ModuleStack) -> None:
        super().__init__()
        self.modules = modules
        self.counts: Counter[tuple[str, AttentionCall]] = Counter()

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            component = (self.modules.path or "call").partition(".")[0]
            self.counts[component, _call(*args, **kwargs)] += 1
        return func(*args, **kwargs)


@contextmanager
def attention_noted(pipe: Pipeline) -> Iterator[AttentionCalls]:
    """The attention of the calls inside."""
    modules = ModuleStack(module_names(pipe))
    with modules.following(), AttentionCalls(modules) as calls:
        yield calls


def _call(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **_: object,
) -> AttentionCall:
    mask = None if attn_mask is None else tuple(attn_mask.shape)
    q, k, v = (tuple(each.shape) for each in (query, key, value))
    return AttentionCall(q, k, v, mask, is_causal, query.dtype)


def measured_attention(
    counts: Counter[tuple[str, AttentionCall]], device: torch.device, runner: Runner
) -> tuple[AttentionRow, ...]:
    """Rows of what a call ran, timed on this device with random values; what takes longest first."""
    largest = sorted(counts, key=lambda each: -each[1].work * counts[each])[:SHAPES]
    rows = [_row(component, call, counts[component, call], device, runner) for component, call in largest]
    return tuple(sorted(rows, key=lambda row: -row.now_us))


def _row(
    component: str, call: AttentionCall, count: int, device: torch.device, runner: Runner
) -> AttentionRow:
    given = [
        torch.randn(shape, dtype=call.dtype, device=device) for shape in (call.query, call.key, call.value)
    ]
    mask = None if call.mask is None else torch.zeros(call.mask, dtype=call.dtype, device=device)

    def own() -> Any:
        return torch.nn.functional.scaled_dot_product_attention(*given, attn_mask=mask, is_causal=call.causal)

    timings = [_timed(name, own, sdpa_kernel(kernel), count, runner) for name, kernel in KERNELS.items()]
    timings += [_library(name, given, mask, call, count, runner) for name in installed()]
    now = _timed("native", own, nullcontext(), count, runner)
    return AttentionRow(
        component=component,
        heads=torch.Size(call.query[:-2]).numel(),
        queries=call.query[-2],
        keys=call.key[-2],
        size=call.query[-1],
        value_size=call.value[-1],
        causal=call.causal,
        masked=call.mask is not None,
        dtype=dtype_name(call.dtype),
        count=count,
        now_us=now.us or 0.0,
        timings=tuple(timings),
    )


def installed() -> tuple[str, ...]:
    """Backends of diffusers' dispatcher whose package is there."""
    return tuple(
        name for name, (_, package) in LIBRARIES.items() if importlib.util.find_spec(package) is not None
    )


def _library(
    name: str,
    given: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    call: AttentionCall,
    count: int,
    runner: Runner,
) -> AttentionTiming:
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    # (batch, tokens, heads, size), as diffusers' processors hand them over
    q, k, v = (each.transpose(1, 2) for each in given)

    def work() -> torch.Tensor:
        return dispatch_attention_fn(q, k, v, attn_mask=mask, is_causal=call.causal, backend=name)

    return _timed(name, work, nullcontext(), count, runner)


def _timed(
    name: str, work: Callable[[], object], how: AbstractContextManager[object], count: int, runner: Runner
) -> AttentionTiming:
    try:
        with how, torch.no_grad():
            work()
            us = min(runner.microseconds(work) for _ in range(ROUNDS))
    except (RuntimeError, ValueError, ImportError, TypeError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        return AttentionTiming(backend=name, grade=Grade.MEASURED, why_not=why)
    return AttentionTiming(backend=name, grade=Grade.MEASURED, us=count * us)
