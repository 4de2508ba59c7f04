"""The code of recipes that make a call fit, run on a small copy of the pipeline: whether it runs, and whether
the output is what the recipe says."""

from __future__ import annotations

import ast
import copy
import importlib.util
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from diffprof.devices.simulated.device import SimulatedDevice
from diffprof.model.fitting import FitCheck, FitRow, Loss
from diffprof.model.pipeline import Pipeline, components, replaced, with_role
from diffprof.targets.calls import bound
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.redirect import cuda_redirect
from diffprof.targets.twin.few_blocks import runs_with_few_blocks
from diffprof.targets.twin.sizes import sizes_of
from diffprof.tuning.difference import Incomparable, Output, difference, output_of

ROUNDING_DB = 35.0
"""PSNR down to which an output differs in last bits: an error of 2 % of the range."""

PACKED_DB = 20.0
"""The same of weights in eight bits, 10 %. What they do to a real picture random weights can't tell."""

PLAIN = 'def optimize(pipe):\n    return pipe.to("cuda")\n'

FOUR_BITS = """\
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from torch.nn import Linear


def _rounded(model, left=()):
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    for path, layer in model.named_modules():
        if type(layer) is Linear and path not in left and kept.isdisjoint(path.split(".")):
            packed = quantize_4bit(layer.weight.data, quant_type="nf4", compress_statistics=True)
            layer.weight.data = dequantize_4bit(*packed)


"""
"""`_rounded`, for weights as wide as before with the values that they have in four bits."""

_COMPILES = re.compile(r"^    \S+\.compile\(\)\n", re.MULTILINE)

_TORCHAO = "torchao.quantization"

ANSWERS = {
    (f"{_TORCHAO}.quant_api", "is_sm_at_least_89"): lambda: True,
    (f"{_TORCHAO}.quant_api", "_check_hardware_support"): lambda granularity: None,
    (f"{_TORCHAO}.quantize_.workflows.float8.float8_tensor", "_is_128_128_scaled"): lambda weight: False,
}
"""What torchao asks about float8. Recipes have it where the GPU has units for it; the CPU multiplies it too.
They scale a weight as a whole, and one of 128 x 128, which small copies have, would be taken for one scaled
in blocks, which a Triton kernel multiplies."""


class _TooNarrow(Exception):
    """torchao left every linear as it was: widths of float8 products are multiples of 16."""


class _WithValues(SimulatedDevice):
    """A simulated GPU on which all values are known: its kernels are the CPU's."""

    unknown = False

    def place(self, thing: Pipeline | torch.nn.Module) -> None:
        for part in components(thing).values():
            if isinstance(part, torch.nn.Module):
                part.to(self.torch_device)


def copied(pipe: Pipeline) -> Any:
    """A copy of a pipeline, whose parameters are its own and have the same memory: code that moves, casts or
    packs weights gives them other memory. Of tensors that modules keep of what they computed, as weight norm
    does, which PyTorch does not copy, the values."""
    parts = [part for part in components(pipe).values() if isinstance(part, torch.nn.Module)]
    held = [each for part in parts for module in part.modules() for each in vars(module).values()]
    kept = [each for each in held if isinstance(each, torch.Tensor) and not each.is_leaf]
    made = {id(each): each.detach().clone() for each in kept}
    for part in parts:
        for each in part.parameters():
            if type(each) is torch.nn.Parameter:
                made[id(each)] = torch.nn.Parameter(each.detach(), each.requires_grad)
    return copy.deepcopy(pipe, made)


def shallow(call: PipelineCall) -> PipelineCall:
    """A call with few of the equal blocks of its denoisers, where it runs with few."""
    lesser = copy.copy(call)
    lesser.pipe, lesser._schedulers = copied(call.pipe), {}
    if not runs_with_few_blocks(lesser):
        return call
    lesser.rewind()
    return lesser


def draw_zeros(pipe: Pipeline) -> None:
    """Give values to weights with whose zeros a layer begins its training, as Kandinsky's modulation: real
    ones have none, float8 has no scale for them, and what is before them counts for nothing."""
    drawn = torch.Generator().manual_seed(0)
    for part in components(pipe).values():
        for each in part.parameters() if isinstance(part, torch.nn.Module) else ():
            if each.ndim > 1 and each.is_floating_point() and not each.any():
                torch.nn.init.normal_(each, std=0.02, generator=drawn)


SIDES = ("_size", "_height", "_width")
"""How names of what is measured along the side of a picture end."""

TILE = 4
"""Latents along the side of a tile of a small copy: they overlap by a quarter."""


def tile_small(call: PipelineCall) -> None:
    """Let the VAEs of a small copy that are asked for tiles decode in tiles of half its picture, or sound,
    where that is large enough: their own are as large as the whole. What overlaps by another share than a
    quarter does not divide so few latents."""
    pipe = call.pipe
    for denoiser in with_role(pipe, "denoiser").values():
        for vae in with_role(pipe, "vae").values():
            if hasattr(vae, "tile_latent_min_length"):
                vae.tile_latent_min_length = length = denoiser.config["sample_size"] // 2
                vae.tile_latent_overlap = length // TILE
    sizes = sizes_of(pipe, bound(pipe, call.args, call.kwargs), small=False)
    side = min(sizes.height, sizes.width) // 2
    scale = getattr(pipe, "vae_scale_factor_spatial", getattr(pipe, "vae_scale_factor", None))
    if not isinstance(scale, int) or side < TILE * scale:
        return
    for vae in with_role(pipe, "vae").values():
        for name in [name for name in vars(vae) if name.startswith("tile_")]:
            share = 1 / TILE if "overlap" in name else 1 - 1 / TILE if "stride" in name else 1.0
            if "overlap_factor" in name:
                setattr(vae, name, share)
            elif name.endswith(SIDES):
                setattr(vae, name, int(side * share) // (scale if "latent" in name else 1))


class Checks:
    """Of recipes for one pipeline. twin: a call of its small copy, with values on the CPU. gpu: the name of a
    data sheet."""

    def __init__(self, twin: PipelineCall, gpu: str) -> None:
        self.device = _WithValues(gpu)
        with self.device.active():
            self.twin = shallow(twin)
        draw_zeros(self.twin.pipe)
        tile_small(self.twin)
        self._known: dict[str, FitCheck] = {}
        self._outputs: dict[str, Output] = {}

    def of(self, row: FitRow) -> FitCheck:
        """What came of a recipe's code."""
        if row.code not in self._known:
            self._known[row.code] = self._checked(row)
        return self._known[row.code]

    def _checked(self, row: FitRow) -> FitCheck:
        why = unchecked(row)
        if why:
            return FitCheck(status="unchecked", why=why)
        try:
            plain = self._beside(PLAIN)
        except Exception as error:
            return FitCheck(status="unchecked", why=f"the small copy does not run: {_said(error)}")
        if not plain.finite:
            return FitCheck(status="unchecked", why="what the small copy gives is not all numbers")
        try:
            change = difference(self._beside(plain_of(row.code)), self._output(row.code), "")
        except _TooNarrow:
            return FitCheck(status="unchecked", why="the small copy is too narrow for float8 products")
        except Exception as error:
            return FitCheck(status="failed", why=_said(error))
        psnr = change.psnr_db if change.psnr_db is not None else change.latents_psnr_db
        least = _least_db(row.loses)
        holds = change.bit_equal or (least is not None and psnr is not None and psnr >= least)
        return FitCheck(
            status="checked" if holds else "changed",
            why="compiled parts ran eagerly" if "compile:denoiser" in row.recipe else "",
            bit_equal=change.bit_equal,
            psnr_db=psnr,
        )

    def _beside(self, code: str) -> Output:
        """What outputs are held against; made once."""
        return self._outputs.get(code) or self._output(code)

    def _output(self, code: str) -> Output:
        """What a copy of the small pipeline gives after this code. Compiled parts run eagerly, so that code
        that compiles them gives what it gives without."""
        eager = _COMPILES.sub("", code)
        pipe = copied(self.twin.pipe)
        call = copy.copy(self.twin)
        call.pipe, call._schedulers = pipe, {}
        space: dict[str, Any] = {}
        with (
            self.device.active(),
            cuda_redirect(self.device),
            torch.compiler.set_stance("force_eager"),
            torch.no_grad(),
            _answered(code),
        ):
            exec(compile(code, "<recipe>", "exec"), space)
            call.pipe = space["optimize"](pipe)
            if "Float8" in code and not _in_float8(call.pipe):
                raise _TooNarrow
            if eager not in self._outputs:
                self._outputs[eager] = output_of(call)
        return self._outputs[eager]


def plain_of(code: str) -> str:
    """All on the device; with the values that weights have in four bits, and decoded in tiles, where this
    code does it: what that does to a real picture random weights can't tell either."""
    first, last = PLAIN.splitlines(keepends=True)
    kept = re.findall(r"^    (?:_in_four_bits\(|left = |.*\.enable_tiling\(\)).*\n", code, re.MULTILINE)
    lines = [line.replace("_in_four_bits", "_rounded") for line in kept]
    return "".join([FOUR_BITS if "_in_four_bits" in code else "", first, *lines, last])


def _in_float8(pipe: Pipeline) -> bool:
    return any(
        type(weight).__name__.startswith("Float8")
        for denoiser in with_role(pipe, "denoiser").values()
        for weight in denoiser.parameters()
    )


@contextmanager
def _answered(code: str) -> Iterator[None]:
    """torchao is told that the GPU has units for float8, where the code wants it."""
    with ExitStack() as answers:
        if "Float8" in code:
            for (module, name), answer in ANSWERS.items():
                answers.enter_context(replaced(importlib.import_module(module), name, answer))
        yield


def unchecked(row: FitRow) -> str:
    """Why a recipe's code can't run on this machine; empty where it can."""
    missing = [name for name in _packages(row.code) if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} is not installed"
    return ""


def _packages(code: str) -> list[str]:
    found: dict[str, None] = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.Import):
            found.update(dict.fromkeys(alias.name.partition(".")[0] for alias in node.names))
        elif isinstance(node, ast.ImportFrom) and node.module:
            found[node.module.partition(".")[0]] = None
    return list(found)


def _least_db(loses: Sequence[Loss]) -> float | None:
    """None where the output has to be the same, bit for bit."""
    lost = set(loses) - {Loss.TILES}
    return (ROUNDING_DB if lost <= {Loss.ROUNDING, Loss.NF4_WEIGHTS} else PACKED_DB) if lost else None


def _said(error: Exception) -> str:
    if isinstance(error, Incomparable):
        return str(error)
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' + text[0] if text else ''}"
