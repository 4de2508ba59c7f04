"""The choice as Python source that can be pasted: filters by qualified name and shape, configurations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from diffprof.model.recording.source_text import quoted


@dataclass(frozen=True)
class Named:
    """One linear (or 1x1 convolution) of a component: qualified name within it, and its features."""

    name: str
    in_features: int
    out_features: int
    kind: str = "linear"
    """linear or conv1x1; a convolution is a linear called `<name>.mod` once it is swapped."""


def plain_name(fqn: str) -> str:
    """A module's name as it is without a LoRA adapter around it and before its convolution was swapped."""
    return fqn.replace(".base_layer", "").removesuffix(".mod")


def pattern_of(name: str) -> str:
    """The name with `*` for every index: `blocks.3.to_out.0` -> `blocks.*.to_out.*`."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


Shape = tuple[int, int]


def entries(chosen: Iterable[Named], everything: Iterable[Named]) -> dict[Shape, tuple[str, ...]]:
    """(in_features, out_features) -> patterns and names that match exactly the chosen layers.

    A pattern stands only where all layers of that shape and pattern are chosen; others are named.
    """
    wanted: dict[Shape, set[str]] = {}
    for layer in chosen:
        wanted.setdefault((layer.in_features, layer.out_features), set()).add(plain_name(layer.name))
    members: dict[tuple[Shape, str], set[str]] = {}
    for layer in everything:
        shape = (layer.in_features, layer.out_features)
        name = plain_name(layer.name)
        members.setdefault((shape, pattern_of(name)), set()).add(name)
    found: dict[Shape, tuple[str, ...]] = {}
    for shape in sorted(wanted):
        lines: set[str] = set()
        for name in wanted[shape]:
            pattern = pattern_of(name)
            whole = members.get((shape, pattern), set()) <= wanted[shape]
            lines.add(pattern if whole else name)
        found[shape] = tuple(sorted(lines))
    return found


def table_source(table: Mapping[Shape, Sequence[str]], name: str = "CHOSEN") -> str:
    """The table as a Python assignment, one name a line."""
    lines = [f"{name} = {{  # (in_features, out_features): names, * for any index"]
    for shape, names in table.items():
        lines.append(f"    {shape!r}: (")
        lines.extend(f"        {quoted(each)}," for each in names)
        lines.append("    ),")
    lines.append("}")
    return "\n".join(lines)


_MATCH = """\
pattern = ".".join("*" if part.isdigit() else part for part in name.split("."))"""

FILTER_BODY = f'''\
def filter_fn(module, fqn):
    """True for the chosen linears, with or without LoRA adapters around them."""
    if not isinstance(module, torch.nn.Linear):
        return False
    name = fqn.replace(".base_layer", "").removesuffix(".mod")
    {_MATCH}
    chosen = CHOSEN.get((module.in_features, module.out_features), ())
    return name in chosen or pattern in chosen
'''

LINEARS_BODY = f'''\
def linears(table):
    """A filter for the linears of a table, with or without LoRA adapters around them."""

    def filter_fn(module, fqn):
        if not isinstance(module, torch.nn.Linear):
            return False
        name = fqn.replace(".base_layer", "").removesuffix(".mod")
        {_MATCH}
        chosen = table.get((module.in_features, module.out_features), ())
        return name in chosen or pattern in chosen

    return filter_fn'''

CONVOLUTIONS_BODY = f'''\
def convolutions(table):
    """A filter for the 1x1 convolutions of a table."""

    def filter_fn(module, fqn):
        if not isinstance(module, torch.nn.Conv2d) or module.kernel_size != (1, 1):
            return False
        name = fqn.replace(".base_layer", "")
        {_MATCH}
        chosen = table.get((module.in_channels, module.out_channels), ())
        return name in chosen or pattern in chosen

    return filter_fn'''


def filter_source(chosen: Sequence[Named], everything: Sequence[Named]) -> str:
    """Source of `filter_fn(module, fqn)`, complete with its import and its table."""
    return f"import torch\n\n{table_source(entries(chosen, everything))}\n\n\n{FILTER_BODY}"


@dataclass(frozen=True)
class Setting:
    """What was done to the pipeline before the choice, and is to be done before it is applied."""

    fuse_lora: bool = False
    fuse_qkv: bool = False
    compile: bool = False


@dataclass(frozen=True)
class QuantizeCall:
    """One `quantize_` of a script: these layers of this component, with this configuration.

    imports: statements that it needs. apply: the statements that quantize, with `{component}`, `{config}` and
    `{filter}` to be filled in.
    """

    component: str
    scheme: str
    chosen: Sequence[Named]
    everything: Sequence[Named]
    config: str
    imports: Sequence[str]
    apply: str

    @property
    def table_name(self) -> str:
        return f"{self.component}_{self.scheme}".replace("-", "_").replace(".", "_").upper()

    @property
    def convolutions(self) -> bool:
        return any(layer.kind == "conv1x1" for layer in self.chosen)


def script(parts: Sequence[QuantizeCall], setting: Setting) -> str:
    """A script that quantizes `pipe`: fuse LoRA, fuse QKV, swap convolutions, quantize, compile."""
    swaps = any(part.convolutions for part in parts)
    heads = {"import torch", *(line for part in parts for line in part.imports)}
    if swaps:
        heads.add("from torchao.quantization import swap_conv2d_1x1_to_linear")
    blocks = ["\n".join(sorted(heads, key=lambda line: (not line.startswith("import "), line)))]
    blocks += [table_source(entries(part.chosen, part.everything), part.table_name) for part in parts]
    blocks.append(LINEARS_BODY)
    if swaps:
        blocks.append(CONVOLUTIONS_BODY)
    steps = []
    if setting.fuse_lora:
        steps.append("pipe.fuse_lora()\npipe.unload_lora_weights()")
    if setting.fuse_qkv:
        steps.append("pipe.fuse_qkv_projections()")
    steps += [
        f"swap_conv2d_1x1_to_linear(pipe.{part.component}, convolutions({part.table_name}))"
        for part in parts
        if part.convolutions
    ]
    steps += [
        part.apply.format(component=part.component, config=part.config, filter=f"linears({part.table_name})")
        for part in parts
    ]
    if setting.compile:
        steps += [
            f"pipe.{component}.compile()" for component in dict.fromkeys(part.component for part in parts)
        ]
    return "\n\n\n".join(blocks) + "\n\n\n" + "\n".join(steps) + "\n"


def fqn_to_config_source(names: Sequence[str], config: str) -> str:
    """torchao's FqnToConfig with one entry a layer; for `quantize_(model, it, filter_fn=None)`."""
    lines = ["FqnToConfig({"]
    lines.extend(f"    {quoted(name)}: {config}," for name in names)
    lines.append("})")
    return "\n".join(lines)


def torchao_config_source(config: str, kept: Sequence[str]) -> str:
    """diffusers' TorchAoConfig; kept: the linears that stay as they are."""
    lines = [f"TorchAoConfig(\n    {config},\n    modules_to_not_convert=["]
    lines.extend(f"        {quoted(name)}," for name in kept)
    lines.append("    ],\n)")
    return "\n".join(lines)


def skipped_by_diffusers(name: str, kept: Iterable[str]) -> bool:
    """Whether diffusers leaves a linear alone: an entry, with a dot, occurs anywhere in the weight's name
    (TorchAoHfQuantizer.check_if_quantized_param)."""
    weight = f"{name}.weight"
    return any(f"{entry}." in weight or entry == weight for entry in kept)
