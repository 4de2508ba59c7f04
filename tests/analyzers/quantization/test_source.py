"""What is printed can be pasted, and matches exactly the chosen layers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffprof.analyzers.quantization.schemes import SCHEMES
from diffprof.analyzers.quantization.source import (
    Named,
    QuantizeCall,
    Setting,
    entries,
    filter_source,
    plain_name,
    script,
    skipped_by_diffusers,
    torchao_config_source,
)

torch = pytest.importorskip("torch")


def pasted(source: str) -> Any:
    names: dict[str, Any] = {}
    exec(compile(source, "pasted", "exec"), names)
    return names["filter_fn"]


def matched(source: str, layers: list[Named]) -> set[str]:
    """Names of the layers, as linears, for which the printed filter says yes."""
    filter_fn = pasted(source)
    return {
        layer.name
        for layer in layers
        if filter_fn(torch.nn.Linear(layer.in_features, layer.out_features, device="meta"), layer.name)
    }


LAYERS = [
    Named("down.0.to_q", 32, 32),
    Named("down.1.to_q", 32, 32),
    Named("down.1.to_k", 32, 32),
    Named("down.0.ff.net.0.proj", 32, 128),
    Named("mid.ff.net.0.proj", 32, 128),
]


def test_a_pattern_stands_where_all_its_layers_are_chosen() -> None:
    table = entries([LAYERS[0], LAYERS[1]], LAYERS)
    assert table == {(32, 32): ("down.*.to_q",)}


def test_a_name_stands_where_only_some_are() -> None:
    assert entries([LAYERS[0]], LAYERS) == {(32, 32): ("down.0.to_q",)}


@settings(max_examples=50, deadline=None)
@given(st.sets(st.sampled_from(range(len(LAYERS)))))
def test_any_set_is_matched_exactly(picked: set[int]) -> None:
    chosen = [LAYERS[index] for index in picked]
    assert matched(filter_source(chosen, LAYERS), LAYERS) == {layer.name for layer in chosen}


def test_adapters_around_a_layer_do_not_hide_it_and_are_not_matched() -> None:
    filter_fn = pasted(filter_source([LAYERS[0]], LAYERS))
    linear = torch.nn.Linear(32, 32, device="meta")
    assert filter_fn(linear, "down.0.to_q.base_layer")
    assert not filter_fn(linear, "down.0.to_q.lora_A.default")
    assert not filter_fn(torch.nn.Linear(32, 31, device="meta"), "down.0.to_q")


def test_a_swapped_convolution_is_the_same_layer() -> None:
    assert plain_name("up.0.conv_shortcut.mod") == "up.0.conv_shortcut"
    assert pasted(filter_source([Named("up.conv", 8, 4, "conv1x1")], []))(
        torch.nn.Linear(8, 4, device="meta"), "up.conv.mod"
    )


def part(component: str, scheme: str, *layers: Named) -> QuantizeCall:
    about = SCHEMES[scheme]
    return QuantizeCall(component, scheme, layers, layers, about.config, about.imports, about.apply)


def test_a_name_can_not_become_code() -> None:
    evil = Named('a"), print("x', 8, 8)
    assert matched(filter_source([evil], [evil]), [evil, LAYERS[0]]) == {evil.name}
    assert eval(torchao_config_source("1", [evil.name]), {"TorchAoConfig": lambda _, **k: k}) == {
        "modules_to_not_convert": [evil.name]
    }


def test_a_script_keeps_the_known_order() -> None:
    conv = Named("up.conv", 8, 4, "conv1x1")
    text = script(
        [part("unet", "int8-dynamic", LAYERS[0], conv), part("vae", "int8-weight-only", LAYERS[4])],
        Setting(fuse_lora=True, fuse_qkv=True, compile=True),
    )
    compile(text, "script", "exec")
    steps = [
        "pipe.fuse_lora()",
        "pipe.fuse_qkv_projections()",
        "swap_conv2d_1x1_to_linear(pipe.unet",
        "quantize_(pipe.unet",
        "quantize_(pipe.vae",
        "pipe.unet.compile()",
        "pipe.vae.compile()",
    ]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)
    assert "set_inductor_config=False" in text


def test_diffusers_leaves_out_what_an_entry_occurs_in() -> None:
    assert skipped_by_diffusers("blocks.0.norm.linear", ["blocks.0.norm.linear"])
    assert skipped_by_diffusers("single_blocks.0.norm.linear", ["blocks.0.norm.linear"])
    assert not skipped_by_diffusers("blocks.1.norm.linear", ["blocks.0.norm.linear"])


def test_torchao_config_is_python() -> None:
    compile(torchao_config_source("Int8WeightOnlyConfig()", ["a", "b"]), "config", "eval")


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_every_configuration_never_touches_inductor(scheme: Any) -> None:
    if scheme.family == "torchao":
        assert "set_inductor_config=False" in scheme.config
