"""Measure what this machine's CPU takes for an operation and for a module call of a pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from torch.overrides import TorchFunctionMode

from diffprof.model.errors import UNREADABLE

from .hosts import THIS, HostSheet

SECONDS = 3.0
CALLS_OF_A_MODULE = 2.0
"""A module call takes as long as so many operations: its Python is that of `Module.__call__` and of
`forward`."""


def this_host(seconds: float = SECONDS, *, store: Path | None = None) -> HostSheet:
    """The sheet of this machine: measured once for a CPU and a torch, remembered in the user's cache
    folder."""
    file = store if store is not None else _store()
    key = f"{_cpu()}, torch {torch.__version__.partition('+')[0]}"
    known = _read(file)
    if key not in known:
        known[key] = measured_op_us(seconds)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.encode(known))
    op_us = known[key]
    return HostSheet(THIS, key, op_us, CALLS_OF_A_MODULE * op_us, "measured on this machine")


def measured_op_us(seconds: float = SECONDS, clock: Callable[[], float] = time.process_time) -> float:
    """CPU time of one operation with its share of the Python around it: a UNet of SDXL's structure so
    narrow that arithmetic hardly counts, over its operations and twice its module calls."""
    model, inputs = _narrow_unet()
    with torch.no_grad():
        units = _units(model, inputs)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return _fastest(lambda: model(*inputs), seconds, clock) * 1e6 / units
        finally:
            torch.set_num_threads(threads)


def _fastest(call: Callable[[], object], seconds: float, clock: Callable[[], float]) -> float:
    """The shortest call of as many as fit: what else the machine does only adds to the others."""
    call()
    best, end = float("inf"), clock() + seconds
    while best == float("inf") or clock() < end:
        before = clock()
        call()
        best = min(best, clock() - before)
    return best


class _Launches(TorchFunctionMode):
    """Counts calls of torch whose result is a tensor of its own, as those that launch a kernel are."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel() > 1:
            given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
            self.count += result.untyped_storage().data_ptr() not in given
        return result


def _units(model: torch.nn.Module, inputs: tuple[object, ...]) -> float:
    calls = 0

    def entered(*_: object) -> None:
        nonlocal calls
        calls += 1

    hooks = [module.register_forward_pre_hook(entered) for module in model.modules()]
    try:
        with _Launches() as launches:
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return launches.count + CALLS_OF_A_MODULE * calls


def _narrow_unet() -> tuple[torch.nn.Module, tuple[object, ...]]:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        norm_num_groups=4,
        transformer_layers_per_block=(1, 4),
        attention_head_dim=2,
        cross_attention_dim=8,
        use_linear_projection=True,
    )
    return model.eval(), (torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 4, 8))


def _cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    import platform

    return platform.processor() or platform.machine() or "unknown CPU"


def _store() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("diffprof") / "hosts.json"


def _read(file: Path) -> dict[str, float]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, float])
    except (OSError, *UNREADABLE):
        return {}
