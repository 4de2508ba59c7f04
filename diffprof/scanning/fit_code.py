"""A recipe as plain diffusers code: a module with `optimize(pipe)`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from diffprof.gpu.offload import ModelWeights
from diffprof.scanning.recipes import Decoding, FitRecipe, Placement, Quantized

_TORCHAO = {
    Quantized.INT8: "Int8DynamicActivationInt8WeightConfig",
    Quantized.FP8: "Float8DynamicActivationFloat8WeightConfig",
    Quantized.INT8_WEIGHTS: "Int8WeightOnlyConfig",
}

_LEAST = {Quantized.FP8: "activation_value_lb=1e-4, "}
"""Zeros have a scale of zero else, and become 0/0: HunyuanVideo 1.5 has them in the place of a picture. A
scale is this by 448 at least, which is not zero in float16."""

_BY_NAME = '''\
class _Linear4bit(bnb.nn.Linear4bit):
    """This model gives linears their input by the name that it has in PyTorch."""

    def forward(self, input):
        return super().forward(input)


'''

_FOUR_BITS = '''\
def _in_four_bits(model, left=()):
    """Every linear with weights in NF4, but what is left and what the model keeps in float32. They are packed
    when the model is moved."""
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    for at, module in list(model.named_modules()):
        for name, layer in list(module.named_children()):
            path = f"{at}.{name}" if at else name
            if type(layer) is torch.nn.Linear and path not in left and kept.isdisjoint(path.split(".")):
                packed = {linear}(
                    layer.in_features,
                    layer.out_features,
                    bias=layer.bias is not None,
                    compute_dtype=layer.weight.dtype,
                    quant_type="nf4",
                )
                packed.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
                packed.bias = layer.bias
                setattr(module, name, packed)


'''


def code_of(recipe: FitRecipe, parts: Sequence[ModelWeights]) -> str:
    """The module's source."""
    body = [*_cast(recipe, parts), *_quantize(recipe, parts), *_decode(recipe, parts)]
    body += [*_place(recipe, parts), *_compile(recipe, parts), "return pipe"]
    source = "\n".join(_imports(recipe, parts)) + "\n\n\n"
    if recipe.quantized is Quantized.NF4_WEIGHTS:
        by_name = any(part.by_name for part in parts if recipe.quantizes(part))
        source += _BY_NAME if by_name else ""
        source += _FOUR_BITS.replace("{linear}", "_Linear4bit" if by_name else "bnb.nn.Linear4bit")
    return source + "def optimize(pipe):\n" + "\n".join(f"    {line}" for line in body) + "\n"


def _imports(recipe: FitRecipe, parts: Sequence[ModelWeights]) -> Iterator[str]:
    if recipe.quantized is Quantized.NF4_WEIGHTS:
        yield "import bitsandbytes as bnb"
    yield "import torch"
    if recipe.placement is Placement.TEXT:
        yield "from diffusers.hooks import apply_group_offloading"
    schemes = {recipe.scheme(part) for part in parts if recipe.quantizes(part)}
    names = {name for scheme, name in _TORCHAO.items() if scheme in schemes}
    if names:
        yield f"from torchao.quantization import {', '.join(sorted(names))}, quantize_"


def _cast(recipe: FitRecipe, parts: Sequence[ModelWeights]) -> Iterator[str]:
    if recipe.dtype is not None:
        yield f"pipe.to(dtype=torch.{recipe.dtype})"


def _quantize(recipe: FitRecipe, parts: Sequence[ModelWeights]) -> Iterator[str]:
    for part in parts:
        scheme = recipe.scheme(part)
        if scheme is None or not recipe.quantizes(part):
            continue
        left = part.left + (part.asked if scheme is Quantized.NF4_WEIGHTS else ())
        if left:
            yield "# Other modules compute with their weights, or ask for their type."
            yield f"left = {json.dumps(left)}"
        if scheme is Quantized.NF4_WEIGHTS:
            yield f"_in_four_bits(pipe.{part.name}{', left' if left else ''})"
            continue
        # Otherwise it rewrites Inductor's global configuration.
        config = f"{_TORCHAO[scheme]}({_LEAST.get(scheme, '')}set_inductor_config=False)"
        if part.left:
            yield "others = lambda layer, path: isinstance(layer, torch.nn.Linear) and path not in left"
        yield f"quantize_(pipe.{part.name}, {config}{', others' if part.left else ''})"


def _decode(recipe: FitRecipe, parts: Sequence[ModelWeights]) -> Iterator[str]:
    if recipe.decoding is not Decoding.WHOLE:
        for part in parts:
            if part.role == "vae":
                yield f"pipe.{part.name}.enable_{recipe.decoding.method}()"


def _place(recipe: FitRecipe, parts: Sequence[ModelWeights]) -> Iterator[str]:
    placement = recipe.placement
    if placement is Placement.DEVICE:
        yield 'pipe.to("cuda")'
    elif placement is Placement.MODEL:
        yield "pipe.enable_model_cpu_offload()"
    elif placement is Placement.SEQUENTIAL:
        yield "pipe.enable_sequential_cpu_offload()"
    elif placement is Placement.TEXT:
        yield 'cuda = torch.device("cuda")'
        yield 'leaves = {"offload_type": "leaf_level", "use_stream": True}'
        for part in parts:
            if part.role == "text_encoder":
                yield f"apply_group_offloading(pipe.{part.name}, cuda, **leaves)"
            else:
                yield f"pipe.{part.name}.to(cuda)"
    else:
        kind = "block" if placement in (Placement.BLOCK, Placement.BLOCK_LOW) else "leaf"
        blocks = ", num_blocks_per_group=1" if kind == "block" else ""
        low = ", low_cpu_mem_usage=True" if placement in (Placement.BLOCK_LOW, Placement.LEAF_LOW) else ""
        names = ", ".join(f'"{name}"' for name in placement.left_out(parts))
        left = f",\n        exclude_modules=[{names}]" if names else ""
        yield "pipe.enable_group_offload("
        yield f'    torch.device("cuda"), offload_type="{kind}_level"{blocks}, use_stream=True{low}{left}'
        yield ")"


def _compile(recipe: FitRecipe, parts: Sequence[ModelWeights]) -> Iterator[str]:
    if recipe.compiled:
        for part in parts:
            if part.role == "denoiser":
                yield f"pipe.{part.name}.compile()"
