"""The set-up of a pipeline is read as it stands: types, processors, layouts, hooks, adapters, switches."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffprof.analyzers.setup.probe import _progress_bar, _upcasts, probe_setup
from diffprof.corpus import CASES
from diffprof.model.recording import Setup, SetupPart
from diffprof.targets.compiled import compiler_settings
from tests.analyzers.setup.conftest import Bench, add_lora


def part(setup: Setup, name: str) -> SetupPart:
    return next(each for each in setup.parts if each.name == name)


def test_a_pipeline_as_it_is_built(bench: Bench) -> None:
    setup = bench.setup()
    assert {each.name: each.role for each in setup.parts} == {
        "unet": "denoiser",
        "vae": "vae",
        "text_encoder": "text_encoder",
        "text_encoder_2": "text_encoder",
    }
    unet, vae = part(setup, "unet"), part(setup, "vae")
    assert unet.dtypes == {"float32": sum(4 * p.numel() for p in bench.pipe.unet.parameters())}
    convs = [m for m in bench.pipe.unet.modules() if isinstance(m, torch.nn.Conv2d)]
    linears = [m for m in bench.pipe.unet.modules() if isinstance(m, torch.nn.Linear)]
    assert (unet.convs, unet.linears, unet.convs_channels_last) == (len(convs), len(linears), 0)
    assert unet.attention == {"AttnProcessor2_0": len(bench.pipe.unet.attn_processors)}
    assert unet.fusable == len(bench.pipe.unet.attn_processors)
    assert (unet.unfused, unet.dispatched, unet.backend) == ({}, False, None)
    assert (unet.quantized, unet.adapted, unet.compiled, unet.hooks) == (0, 0, None, ())
    assert unet.repeated == ("BasicTransformerBlock",)
    assert (unet.tiling, unet.slicing, unet.cacheable) == (None, None, False)
    assert (vae.tiling, vae.slicing) == (False, False)
    assert (setup.offload, setup.adapters, setup.inductor) == (None, (), {})
    assert (setup.fuses_qkv, setup.fuses_lora, setup.upcasts_vae) == (True, True, True)
    assert setup.costs is None


def test_types_are_counted_in_bytes(bench: Bench) -> None:
    whole = sum(part(bench.setup(), "unet").dtypes.values())
    bench.pipe.unet.to(torch.bfloat16)
    bench.pipe.unet.conv_in.float()
    own = sum(4 * p.numel() for p in bench.pipe.unet.conv_in.parameters())
    assert part(bench.setup(), "unet").dtypes == {"float32": own, "bfloat16": (whole - own) // 2}


def test_processors_that_compute_in_pieces(bench: Bench) -> None:
    module = "diffusers.models.attention_processor"
    from diffusers.models.attention_processor import AttnProcessor

    bench.pipe.unet.set_attn_processor(AttnProcessor())
    assert part(bench.setup(), "unet").unfused == {"AttnProcessor": f"{module}.AttnProcessor2_0"}
    assert part(bench.setup(), "vae").unfused == {}
    bench.pipe.unet.set_attention_slice(1)
    assert part(bench.setup(), "unet").unfused == {"SlicedAttnProcessor": f"{module}.AttnProcessor2_0"}


def test_a_processor_of_the_users_own(bench: Bench) -> None:
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    class Mine(AttnProcessor):
        """The library's, under a name of its own: there is no counterpart."""

    class Fused(AttnProcessor2_0):
        """Reaches scaled_dot_product_attention."""

    bench.pipe.unet.set_attn_processor(Mine())
    assert part(bench.setup(), "unet").unfused == {"Mine": ""}
    bench.pipe.unet.set_attn_processor(Fused())
    assert part(bench.setup(), "unet").unfused == {}


def test_layout(bench: Bench) -> None:
    bench.pipe.unet.to(memory_format=torch.channels_last)
    unet = part(bench.setup(), "unet")
    # A 1x1 convolution, or one of a single channel, is in both orders at once.
    both = [
        m
        for m in bench.pipe.unet.modules()
        if isinstance(m, torch.nn.Conv2d) and (m.in_channels == 1 or m.kernel_size == (1, 1))
    ]
    assert unet.convs_channels_last == unet.convs - len(both)
    assert part(bench.setup(), "vae").convs_channels_last == 0


@pytest.mark.parametrize(
    ("name", "key"), [("sdxl-ip-adapter-scaled", "unet"), ("kandinsky22-decoder", "unet")]
)
def test_projections_that_fusing_would_lose(name: str, key: str) -> None:
    """IP-Adapters have weights in their processors; added keys and values can't be fused."""
    setup = probe_setup(CASES[name].build().pipe)["setup"]
    assert part(setup, key).fusable == 0


def test_a_model_of_three_dimensional_convolutions_has_no_order_of_channels() -> None:
    pipe = CASES["wan-t2v"].build().pipe
    assert any(isinstance(module, torch.nn.Conv2d) for module in pipe.vae.modules())
    assert part(probe_setup(pipe)["setup"], "vae").convs == 0


def test_fused_projections(bench: Bench) -> None:
    bench.pipe.fuse_qkv_projections()
    assert part(bench.setup(), "unet").fusable == 0
    assert part(bench.setup(), "vae").fusable == 0


@pytest.mark.parametrize(
    ("enable", "kind"),
    [
        (lambda pipe: pipe.enable_model_cpu_offload(device="cpu"), "model"),
        (lambda pipe: pipe.enable_sequential_cpu_offload(device="cpu"), "sequential"),
        (
            lambda pipe: pipe.enable_group_offload(
                onload_device=torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
            ),
            "group",
        ),
    ],
    ids=["model", "sequential", "group"],
)
def test_offloading(bench: Bench, enable: Any, kind: str) -> None:
    enable(bench.pipe)
    setup = bench.setup()
    assert setup.offload == kind
    assert part(setup, "unet").hooks == (kind,)
    # Weights are counted wherever they are.
    assert sum(part(setup, "unet").dtypes.values()) == sum(
        4 * p.numel() for p in bench.pipe.unet.parameters()
    )


def test_adapters_until_they_are_merged(bench: Bench) -> None:
    add_lora(bench.pipe, "style")
    setup = bench.setup()
    # Three layers of every attention module, each with A and B.
    assert part(setup, "unet").adapted == 3 * len(bench.pipe.unet.attn_processors)
    assert setup.adapters == ("style",)
    bench.pipe.fuse_lora(components=["unet"])
    assert part(bench.setup(), "unet").adapted == 0
    assert bench.setup().adapters == ()


def test_switches(bench: Bench) -> None:
    bench.pipe.vae.enable_tiling()
    bench.pipe.vae.enable_slicing()
    bench.pipe.set_progress_bar_config(disable=False)
    setup = bench.setup()
    assert (part(setup, "vae").tiling, part(setup, "vae").slicing) == (True, True)
    assert setup.progress_bar is True
    bench.pipe.set_progress_bar_config(disable=True)
    assert bench.setup().progress_bar is False


def test_quantized_weights(bench: Bench) -> None:
    ao = pytest.importorskip("torchao.quantization")
    ao.quantize_(
        bench.pipe.unet,
        ao.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False),
        lambda module, name: isinstance(module, torch.nn.Linear) and "ff.net.2" in name,
    )
    blocks = sum(name.endswith("ff.net.2") for name, _ in bench.pipe.unet.named_modules())
    assert blocks
    assert part(bench.setup(), "unet").quantized == blocks


def test_compiled_parts(bench: Bench) -> None:
    """torch.compile compiles nothing before the first call."""
    bench.pipe.unet.compile()
    assert part(bench.setup(), "unet").compiled == "whole"
    bench.pipe.unet._compiled_call_impl = None
    bench.pipe.unet.compile_repeated_blocks()
    bench.pipe.vae.decode = torch.compile(bench.pipe.vae.decode)
    setup = bench.setup()
    assert part(setup, "unet").compiled == "regional"
    assert part(setup, "vae").compiled == "whole"
    assert part(setup, "text_encoder").compiled is None
    assert "epilogue_fusion" in setup.inductor
    wrapped = torch.compile(bench.pipe.text_encoder)
    bench.pipe.text_encoder = wrapped
    again = part(bench.setup(), "text_encoder")
    assert (again.compiled, again.role) == ("whole", "text_encoder")


def test_flags_are_those_of_the_compilation(bench: Bench) -> None:
    """Options of one compile are over the process's settings."""
    import torch._inductor.config as inductor

    bench.pipe.unet.compile(options={"conv_1x1_as_mm": True})
    assert inductor.conv_1x1_as_mm is False
    assert bench.setup().inductor["conv_1x1_as_mm"] is True
    assert bench.setup().inductor["epilogue_fusion"] is inductor.epilogue_fusion
    bench.pipe.unet.compile(backend="eager")
    assert bench.setup().inductor == {}


def test_a_transformer_with_the_dispatcher_and_a_cache(flux: Bench) -> None:
    denoiser = next(each for each in flux.setup().parts if each.role == "denoiser")
    assert (denoiser.dispatched, denoiser.backend, denoiser.cacheable) == (True, None, True)
    flux.pipe.transformer.set_attention_backend("native")
    assert next(p for p in flux.setup().parts if p.role == "denoiser").backend == "native"
    assert flux.setup().upcasts_vae is False


def test_only_a_call_that_looks_at_force_upcast_upcasts(bench: Bench) -> None:
    """An inherited `upcast_vae` that the call does not reach, as in Stable Diffusion 1.5's, turns nothing to
    float32; and a bar is drawn only by a call that opens one."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, StableVideoDiffusionPipeline

    class Bare(StableDiffusionXLPipeline):
        def __call__(self, steps: int) -> None:
            for t in range(steps):
                self.unet(t)

    found = {}
    for kind in (StableDiffusionXLPipeline, StableDiffusionPipeline, StableVideoDiffusionPipeline, Bare):
        pipe = object.__new__(kind)
        pipe.__dict__["_internal_dict"] = bench.pipe.config
        found[kind.__name__] = (_upcasts(pipe), _progress_bar(pipe))
    assert found == {
        "StableDiffusionXLPipeline": (True, True),
        "StableDiffusionPipeline": (False, True),
        "StableVideoDiffusionPipeline": (True, True),
        "Bare": (False, None),
    }


# --- the process -----------------------------------------------------------------------------------------


@pytest.fixture
def tf32() -> Iterator[None]:
    matmul, conv = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = matmul
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    torch.backends.cudnn.conv.fp32_precision = conv


@pytest.mark.usefixtures("tf32")
def test_tf32_by_either_interface(bench: Bench) -> None:
    assert (bench.setup().matmul_tf32, bench.setup().conv_tf32) == (False, True)
    torch.set_float32_matmul_precision("high")
    assert bench.setup().matmul_tf32
    torch.set_float32_matmul_precision("highest")
    assert not bench.setup().matmul_tf32
    torch.backends.cuda.matmul.fp32_precision = "tf32"  # torch now refuses to answer the older question
    assert bench.setup().matmul_tf32
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    assert not bench.setup().conv_tf32


def test_what_has_no_models_has_a_setup_too() -> None:
    setup = probe_setup(SimpleNamespace(components={}))["setup"]
    assert (setup.parts, setup.progress_bar, setup.guided, setup.offload) == ((), None, None, None)


@pytest.mark.parametrize("how", [{}, {"fullgraph": True}, {"mode": "reduce-overhead", "fullgraph": True}])
def test_what_inductor_compiles_is_known_however_it_was_asked(how: dict[str, Any]) -> None:
    graphs = "mode" in how
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    whole = torch.compile(model, **how)
    model[0].compile(**how)
    method = torch.nn.Linear(2, 2)
    method.forward = torch.compile(method.forward, **how)
    for each in (whole, model, method):
        assert compiler_settings([each])["triton.cudagraphs"] is graphs
    assert compiler_settings([torch.compile(torch.nn.Linear(2, 2), backend="eager")]) == {}
