"""The fix of unquantized linears: a run's choice, or what simulated costs or a published list say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import msgspec

from diffprof.analyzers.quantization.published import published_list
from diffprof.analyzers.quantization.schemes import SCHEMES
from diffprof.analyzers.quantization.source import (
    CONVOLUTIONS_BODY,
    LINEARS_BODY,
    Named,
    Shape,
    entries,
    pattern_of,
    table_source,
)
from diffprof.judge.half_types import is_float16_only, leaves_float16
from diffprof.model.finding import Finding
from diffprof.model.fix import Code, Fix, Recipe, Safety, Simulated, Skipped, Stage
from diffprof.model.pipeline import Pipeline
from diffprof.model.recording import Change, Projection, Recording, Selection
from diffprof.model.recording.source_text import dotted, quoted

INT8 = "int8-dynamic"
"""The scheme that is taken where no choice was made by timing."""

WORTH = 0.97
"""Share of its time under which a linear counts as faster by the simulated costs."""

_LINEARS = LINEARS_BODY.replace("def linears(", "def _linears(")
_CONVOLUTIONS = CONVOLUTIONS_BODY.replace("def convolutions(", "def _convolutions(")
_LEAVE_FLOAT16 = "pipe.to(torch.bfloat16)  # INT8's products leave float16's range before they are scaled"
_SWAP = "from torchao.quantization import swap_conv2d_1x1_to_linear"


def quantize_linears(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """The linears of the run's own choice; without one, those that gain by the simulated costs; without
    those, the published list's. A pipeline in float16 is put into bfloat16 first."""
    if is_float16_only(recording):
        return Skipped(
            "torchao rounds products of INT8 to float16 before it scales them, and they leave its range; "
            "neither this device nor the pipeline's code takes bfloat16"
        )
    code = _quantized(recording)
    if isinstance(code, Skipped) or not leaves_float16(recording):
        return code
    given = [name for name, dtype in recording.target.dtypes.items() if dtype == "float16"]
    lines = [f"kwargs[{quoted(name)}] = kwargs[{quoted(name)}].to(torch.bfloat16)" for name in given]
    optimize = f"{_LEAVE_FLOAT16}\n{code.optimize}"
    return msgspec.structs.replace(code, optimize=optimize, call="\n".join(lines))


def _quantized(recording: Recording) -> Code | Skipped:
    if recording.quantization is not None:
        selections = recording.quantization.selections
        return (
            _chosen(recording, selections) if selections else Skipped("no linear gains by the run's choice")
        )
    setup = recording.setup
    if setup is None:
        return Skipped("add --analyzers quantization to the scan: it finds out which linears gain")
    if any(part.quantized for part in setup.parts):
        return Skipped("the pipeline is quantized already")
    if setup.costs is not None:
        gaining = tuple(each for each in setup.costs.projections if gains(each, setup.costs.projections))
        return _by_costs(gaining) if gaining else Skipped("no linear would be faster in INT8")
    return _by_published_list(recording)


def gains(one: Projection, projections: Sequence[Projection]) -> bool:
    """Whether layers of this name and shape gain in INT8, all activations that they see taken together."""
    alike = [p for p in projections if _identity(p) == _identity(one)]
    return sum(p.int8_us for p in alike) < WORTH * sum(p.now_us for p in alike)


def _identity(projection: Projection) -> tuple[str, str, str, int, int]:
    of = projection
    return (of.component, of.kind, of.pattern, of.in_features, of.out_features)


# --- code ------------------------------------------------------------------------------------------------


def _chosen(recording: Recording, selections: Sequence[Selection]) -> Code | Skipped:
    every: dict[str, list[Named]] = {}
    for row in recording.linears or ():
        for module in row.modules:
            component, _, name = module.partition(".")
            every.setdefault(component, []).append(Named(name, row.in_features, row.out_features, row.kind))
    parts = []
    for selection in selections:
        known = every.get(selection.component, [])
        wanted = set(selection.modules)
        if selection.scheme not in SCHEMES:
            return Skipped(f"this version has no scheme {selection.scheme[:60]!r}")
        chosen = [layer for layer in known if layer.name in wanted]
        swaps = any(layer.kind == "conv1x1" for layer in chosen)
        parts.append((selection.component, selection.scheme, entries(chosen, known), swaps))
    return _code(parts)


def _by_costs(gaining: Sequence[Projection]) -> Code:
    tables: dict[str, dict[Shape, set[str]]] = {}
    swapped = {each.component for each in gaining if each.kind == "conv1x1"}
    for each in gaining:
        shape = (each.in_features, each.out_features)
        tables.setdefault(each.component, {}).setdefault(shape, set()).add(each.pattern)
    return _code(
        [
            (
                component,
                INT8,
                {shape: tuple(sorted(names)) for shape, names in sorted(table.items())},
                component in swapped,
            )
            for component, table in tables.items()
        ]
    )


def _code(parts: Sequence[tuple[str, str, Mapping[Shape, Sequence[str]], bool]]) -> Code:
    """parts: (component, scheme, table, whether 1x1 convolutions are among the chosen)."""
    imports = {"import torch", *(line for _, scheme, _, _ in parts for line in SCHEMES[scheme].imports)}
    swaps = any(swap for *_, swap in parts)
    if swaps:
        imports.add(_SWAP)
    tables, first, then = [], [], []
    for component, scheme, table, swap in parts:
        dotted(component)
        name = f"_{component}_{scheme}".replace("-", "_").replace(".", "_").upper()
        tables.append(table_source(table, name))
        if swap:
            first.append(f"swap_conv2d_1x1_to_linear(pipe.{component}, _convolutions({name}))")
        about = SCHEMES[scheme]
        then.append(about.apply.format(component=component, config=about.config, filter=f"_linears({name})"))
    bodies = [*tables, _LINEARS, *([_CONVOLUTIONS] if swaps else [])]
    return Code(
        imports=tuple(sorted(imports)),
        definitions="\n\n\n".join(bodies) + "\n",
        optimize="\n".join([*first, *then]),
    )


_PUBLISHED = '''\
_LEFT_OUT = {left_out}  # (in_features, out_features)


def _linears(module, fqn):
    """The linears that the list published for SDXL on an A100 quantizes, LoRA's own left out."""
    if not isinstance(module, torch.nn.Linear) or "lora_" in fqn:
        return False
    return module.in_features >= {smallest} and (module.in_features, module.out_features) not in _LEFT_OUT


def _convolutions(module, fqn):
    """The list's 1x1 convolutions, which are linears once they are swapped."""
    if not isinstance(module, torch.nn.Conv2d) or module.kernel_size != (1, 1):
        return False
    return {channels} in (module.in_channels, module.out_channels)
'''


def _by_published_list(recording: Recording) -> Code | Skipped:
    assert recording.setup is not None
    chosen = [part for part in recording.setup.parts if part.role in ("denoiser", "vae") and part.linears]
    parts = [dotted(part.name) for part in chosen]
    if not parts:
        return Skipped("neither denoiser nor VAE has linears")
    known = published_list()
    left_out = "{" + ", ".join(map(repr, sorted(known.left_out))) + "}"
    scheme = SCHEMES[INT8]
    return Code(
        imports=tuple(sorted({"import torch", _SWAP, *scheme.imports})),
        definitions=_PUBLISHED.format(
            left_out=left_out, smallest=known.smallest_in_features, channels=known.convolution_channels
        ),
        optimize="\n".join(
            [
                *(f"swap_conv2d_1x1_to_linear(pipe.{part}, _convolutions)" for part in parts),
                *(
                    scheme.apply.format(component=part, config=scheme.config, filter="_linears")
                    for part in parts
                ),
            ]
        ),
    )


# --- on a simulated GPU ----------------------------------------------------------------------------------


def modelled(recording: Recording, findings: Sequence[Finding]) -> Simulated:
    """The names of the layers that the code quantizes; of those inside an adapter's wrapper also without it,
    as they are called once the adapter is merged."""
    if recording.quantization is not None:
        chosen = recording.quantization.selections
        return Simulated(int8=tuple(f"{each.component}.{name}" for each in chosen for name in each.modules))
    costs = recording.setup.costs if recording.setup else None
    if costs is None:
        return Simulated()
    wanted = {_identity(each) for each in costs.projections if gains(each, costs.projections)}
    names: dict[str, None] = {}
    for name, component, kind, shape in _products_that_ran(recording):
        plain = name.replace(".base_layer", "")
        if (component, kind, pattern_of(plain.removeprefix(component + ".")), *shape) in wanted:
            names |= dict.fromkeys((name, plain))
    return Simulated(int8=tuple(names))


def _products_that_ran(recording: Recording) -> Iterator[tuple[str, str, str, Shape]]:
    """(qualified name, component, linear or conv1x1, (in, out)) of the linears and 1x1 convolutions of the
    call, and of fused projections."""
    components = sorted((part.name for part in _parts(recording)), key=len, reverse=True)
    shapes: dict[str, Shape] = {}
    convolutions: set[str] = set()
    for row in recording.kernels or ():
        sizes = row.shape.split(", ")
        if row.op == "linear" and row.module is not None and len(sizes) > 1 and "x" in sizes[1]:
            out_features, in_features = map(int, sizes[1].split("x"))
            shapes[row.module] = (in_features, out_features)
        elif row.op == "conv2d" and row.module is not None and len(sizes) > 1 and sizes[1].endswith("x1x1"):
            out_channels, in_channels, *_ = map(int, sizes[1].split("x"))
            shapes[row.module] = (in_channels, out_channels)
            convolutions.add(row.module)
    for name, shape in list(shapes.items()):
        parent, _, leaf = name.rpartition(".")
        apart = [shapes.get(f"{parent}.{each}") for each in ("to_q", "to_k", "to_v")]
        if leaf == "to_v" and None not in apart:
            wide = [each[1] for each in apart if each is not None]
            shapes[f"{parent}.to_qkv"] = (shape[0], sum(wide))
            shapes[f"{parent}.to_kv"] = (shape[0], sum(wide[1:]))
    for name, shape in shapes.items():
        component = next((each for each in components if name.startswith(each + ".")), None)
        if component is not None:
            yield name, component, "conv1x1" if name in convolutions else "linear", shape


def _parts(recording: Recording) -> Sequence[Any]:
    return recording.setup.parts if recording.setup else ()


def fits(pipe: Pipeline) -> str | None:
    """Whether the library is there."""
    if find_spec("torchao") is None:
        return "torchao is not installed: pip install torchao"
    return None


RECIPES = (
    Recipe(
        Fix(
            "quantize-linears",
            "Quantize linears to INT8 where faster",
            Safety.LOSSY,
            Stage.QUANTIZE,
            goals=("latency", "memory"),
            short="INT8",
            why="Weights are stored in 8 bits, activations are rounded to 8 bits row by row; products run on "
            "INT8 units. 1x1 convolutions are swapped for linears first. LoRA and projections are fused "
            "before, since quantized weights can be neither merged nor concatenated; compiling comes after.",
        ),
        quantize_linears,
        modelled=modelled,
        change=Change.INT8,
        fits=fits,
    ),
)
