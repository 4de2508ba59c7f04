"""The quantization schemes that are tried, as data: how each is written down, and what it stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ORIGINAL = "original"
"""The linear as it is."""

_TORCHAO_APPLY = "quantize_(pipe.{component}, {config}, {filter})"
_TORCH_APPLY = """\
wanted = {filter}
chosen = {{fqn: {config} for fqn, module in pipe.{component}.named_modules() if wanted(module, fqn)}}
quantize_dynamic(pipe.{component}, chosen, inplace=True)"""


@dataclass(frozen=True)
class Scheme:
    """One way to quantize a linear. family: torchao or torch (torch.ao's own dynamic modules).

    kinds: of devices on which it is tried. activation: type that the product is computed in (int8, fp8), or
    None where only the weight is stored in fewer bits. weight_bits: of a stored weight. per_row: whether each
    row of the activation has a scale of its own. group: weights that share a scale; 0: a row of the weight.
    """

    key: str
    title: str
    family: str
    cls: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    kinds: tuple[str, ...] = ("cpu", "cuda", "sim")
    activation: str | None = None
    weight: str = "int8"
    weight_bits: int = 8
    per_row: bool = True
    group: int = 0

    @property
    def config(self) -> str:
        """The configuration as Python source."""
        if self.family == "torch":
            return self.cls
        written = ", ".join(f"{key}={_written(value)}" for key, value in self.arguments.items())
        return f"{self.cls}({written})"

    @property
    def imports(self) -> tuple[str, ...]:
        """Import statements that the configuration and its application need."""
        if self.family == "torch":
            return (f"from torch.ao.quantization import {self.cls}, quantize_dynamic",)
        names = sorted(
            {
                self.cls,
                "quantize_",
                *(v.name for v in self.arguments.values() if isinstance(v, ConfigArgument)),
            }
        )
        return (f"from torchao.quantization import {', '.join(names)}",)

    @property
    def apply(self) -> str:
        """Statements that quantize, with {component}, {config} and {filter} to be filled in."""
        return _TORCH_APPLY if self.family == "torch" else _TORCHAO_APPLY


@dataclass(frozen=True)
class ConfigArgument:
    """An argument that is an object of torchao.quantization, made without arguments."""

    name: str


def _written(value: object) -> str:
    return f"{value.name}()" if isinstance(value, ConfigArgument) else repr(value)


# `set_inductor_config=False` everywhere: torchao rewrites inductor's global configuration unless told not to.
_OWN_INDUCTOR = {"set_inductor_config": False}
_OF_ZEROS = {"activation_value_lb": 1e-4}
"""Zeros, as where a prompt is padded, have a scale of zero else, and become 0/0."""

SCHEMES: dict[str, Scheme] = {
    scheme.key: scheme
    for scheme in (
        Scheme(
            "int8-dynamic",
            "int8 weights, activations quantized to int8 row by row",
            "torchao",
            "Int8DynamicActivationInt8WeightConfig",
            _OWN_INDUCTOR,
            activation="int8",
        ),
        Scheme("int8-weight-only", "int8 weights", "torchao", "Int8WeightOnlyConfig", _OWN_INDUCTOR),
        Scheme(
            "float8-dynamic-row",
            "float8 weights, activations quantized to float8 row by row",
            "torchao",
            "Float8DynamicActivationFloat8WeightConfig",
            {"granularity": ConfigArgument("PerRow"), **_OF_ZEROS, **_OWN_INDUCTOR},
            activation="fp8",
            weight="fp8",
        ),
        Scheme(
            "float8-dynamic-tensor",
            "float8 weights, activations quantized to float8 with one scale",
            "torchao",
            "Float8DynamicActivationFloat8WeightConfig",
            {"granularity": ConfigArgument("PerTensor"), **_OF_ZEROS, **_OWN_INDUCTOR},
            activation="fp8",
            weight="fp8",
            per_row=False,
        ),
        Scheme(
            "float8-weight-only",
            "float8 weights",
            "torchao",
            "Float8WeightOnlyConfig",
            _OWN_INDUCTOR,
            weight="fp8",
        ),
        Scheme(
            "int4-weight-only",
            "int4 weights in groups of 128",
            "torchao",
            "Int4WeightOnlyConfig",
            {"group_size": 128, "int4_packing_format": "tile_packed_to_4d", **_OWN_INDUCTOR},
            weight="int4",
            weight_bits=4,
            group=128,
        ),
        Scheme(
            "qint8-dynamic",
            "PyTorch's own dynamic qint8: int8 weights, activations quantized with one scale",
            "torch",
            "default_dynamic_qconfig",
            kinds=("cpu",),
            activation="int8",
            per_row=False,
        ),
    )
}


def schemes_for(kind: str) -> tuple[Scheme, ...]:
    """The schemes that are tried on a kind of device."""
    return tuple(scheme for scheme in SCHEMES.values() if kind in scheme.kinds)
