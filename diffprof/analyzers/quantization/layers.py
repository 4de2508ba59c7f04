"""Linears to time and to measure: made, quantized by the libraries as a user would, and checked."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from diffprof.analyzers.quantization.schemes import ConfigArgument, Scheme
from diffprof.targets.load_arguments import QUANTIZED_PACKAGES

"""Packages whose tensors and modules hold quantized weights."""


class Unavailable(Exception):
    """A scheme can't be used here; the text says why."""


@contextmanager
def quietly() -> Iterator[None]:
    """torchao imported and used without its notes about libraries for other devices, and without
    deprecation notes of the libraries; log levels and filters are as before after it."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def torchao_config(scheme: Scheme) -> object:
    """The scheme's torchao configuration object. Raises Unavailable where this torchao has no such thing."""
    import torchao.quantization as library

    try:
        arguments = {
            key: getattr(library, value.name)() if isinstance(value, ConfigArgument) else value
            for key, value in scheme.arguments.items()
        }
        return getattr(library, scheme.cls)(**arguments)
    except (AttributeError, TypeError, ValueError, AssertionError) as error:
        raise Unavailable(reason(error)) from error


def quantized_copy(module: nn.Module, scheme: Scheme) -> nn.Module:
    """A quantized copy of a linear, or of a 1x1 convolution as a linear; the module is as before.

    Raises Unavailable with the reason where the scheme, the library or the device does not do it.
    """
    with quietly():
        try:
            holder = nn.Sequential(copy.deepcopy(module).requires_grad_(False))
            if isinstance(holder[0], nn.Conv2d):
                from torchao.quantization import swap_conv2d_1x1_to_linear

                swap_conv2d_1x1_to_linear(holder)
            quantize_in_place(holder, scheme, lambda each, _: isinstance(each, nn.Linear))
        except Unavailable:
            raise
        except Exception as error:
            raise Unavailable(reason(error)) from error
    if not any(weights_are_quantized(part) for part in holder.modules()):
        raise Unavailable("the library left the layer as it was")
    return holder[0]


def quantize_in_place(model: nn.Module, scheme: Scheme, wanted: Any) -> None:
    """Quantize the linears for which `wanted(module, fqn)`, as the scheme's library does it."""
    if scheme.family == "torch":
        import torch.ao.quantization as library

        config = getattr(library, scheme.cls)
        chosen = {fqn: config for fqn, part in model.named_modules() if wanted(part, fqn)}
        for name in chosen:
            part = model.get_submodule(name)
            if part.weight.dtype != torch.float32 or part.weight.device.type != "cpu":
                raise Unavailable(f"it takes float32 on the CPU, not {dtype_word(part.weight.dtype)}")
        library.quantize_dynamic(model, chosen, inplace=True)
        return
    from torchao.quantization import quantize_

    quantize_(model, torchao_config(scheme), filter_fn=wanted)


def weights_are_quantized(module: nn.Module) -> str | None:
    """The class that stores a layer's own weight in fewer bits, or None."""
    weight = module._parameters.get("weight")
    if weight is None and not hasattr(module, "in_features"):
        return None
    for thing in (weight, getattr(weight, "data", None), module):
        kind = type(thing)
        if f"{kind.__module__}.".startswith(QUANTIZED_PACKAGES):
            return kind.__name__
    return None


def scheme_of(module: nn.Module) -> str | None:
    """How a module's weights are quantized already: a scheme's key, or the class that stores them; None for
    plain weights."""
    stored = weights_are_quantized(module)
    if stored is None:
        return None
    weight = module._parameters.get("weight")
    dynamic = getattr(weight, "act_quant_kwargs", None) is not None
    data = getattr(weight, "qdata", None)
    if isinstance(data, torch.Tensor):
        if data.dtype == torch.int8:
            return "int8-dynamic" if dynamic else "int8-weight-only"
        if data.dtype == torch.float8_e4m3fn and not dynamic:
            return "float8-weight-only"
        if data.dtype == torch.float8_e4m3fn:
            granular = type(getattr(weight.act_quant_kwargs, "granularity", None)).__name__
            return "float8-dynamic-row" if granular == "PerRow" else "float8-dynamic-tensor"
    if weight is None and type(module).__module__.startswith("torch.ao.nn.quantized.dynamic"):
        return "qint8-dynamic"
    return stored


def new_layer(
    kind: str, in_features: int, out_features: int, *, bias: bool, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """A linear or 1x1 convolution with the usual random weights, from a fixed seed; the default generator
    is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "conv1x1":
            layer: nn.Module = nn.Conv2d(in_features, out_features, 1, bias=bias)
        else:
            layer = nn.Linear(in_features, out_features, bias=bias)
    return layer.to(device=device, dtype=dtype).eval().requires_grad_(False)


def new_input(
    kind: str,
    rows: int,
    in_features: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    side: int | None = None,
) -> torch.Tensor:
    """Standard normal activations of so many rows, from a fixed seed; for a convolution as an image
    whose height is `side` (or 1)."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(rows, in_features, generator=generator)
    if kind == "conv1x1":
        height = side if side and rows % side == 0 else 1
        values = values.view(1, height, rows // height, in_features).permute(0, 3, 1, 2).contiguous()
    return values.to(device=device, dtype=dtype)


def check_result(result: torch.Tensor) -> None:
    """Raises Unavailable for a result with values that are no numbers."""
    if not bool(torch.isfinite(result).all()):
        raise Unavailable("its result is not finite (NaN or infinity)")


def reason(error: BaseException) -> str:
    """An exception in one line."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory"
    text = str(error).strip().splitlines()
    first = text[0].strip() if text else ""
    return f"{type(error).__name__}: {first}"[:200] if first else type(error).__name__


def dtype_word(dtype: torch.dtype) -> str:
    """`torch.float16` -> `float16`."""
    return str(dtype).removeprefix("torch.")


def dtype_of(word: str) -> torch.dtype:
    """`float16` -> `torch.float16`. Raises KeyError for what is no dtype."""
    found = getattr(torch, word, None)
    if not isinstance(found, torch.dtype):
        raise KeyError(word)
    return found
