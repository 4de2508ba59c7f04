"""Twins of other architectures than UNets: built, called, and made of the same blocks."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import diffusers as df
import pytest
import torch
from PIL import Image

from diffprof.corpus import CASES
from diffprof.devices import resolve_device
from diffprof.model.pipeline import components, with_role
from diffprof.targets import Options, resolve
from diffprof.targets.construct import random_values, weightless
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.twin.building import Twin, _make_small_pictures, _smaller, twin_of
from diffprof.targets.twin.calling import STEPS, small_call
from diffprof.targets.twin.shrinking import TEXT_LAYERS, NoTwin, Scale, shrunk
from diffprof.targets.twin.sizes import TOKENS, Sizes, sizes_of
from diffprof.tuning.difference import output_of
from tests.shares import one_in


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    level = df.utils.logging.get_verbosity()
    df.utils.logging.set_verbosity_error()
    yield
    df.utils.logging.set_verbosity(level)


def twin(pipe: Any, **kwargs: Any) -> Twin:
    return twin_of(PipelineCall(pipe, (), kwargs, target=None, weights="none"))  # type: ignore[arg-type]


def values(found: Twin) -> torch.Tensor:
    """The latents of its call, or its picture."""
    output = output_of(found.call)
    return output.latents if output.latents is not None else torch.from_numpy(output.image)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def names_of(module: torch.nn.Module) -> list[tuple[str, type]]:
    return [(name, type(each)) for name, each in module.named_modules()]


WITHOUT: dict[str, str] = {}
"""Pipelines of the corpus that have no twin, and why."""

UNDIVIDED = {
    *("prx", "qwen-image", "qwen-image-img2img", "qwen-image-inpaint", "qwen-image-controlnet"),
    *("kandinsky22-decoder", "kandinsky22-combined", "kandinsky22-img2img", "kandinsky22-inpaint"),
    *("kandinsky22-controlnet", "kandinsky3", "kandinsky5-image", "kandinsky5-video", "hunyuan-image"),
    *("sd-latent-upscale", "sd3-controlnet", "mochi", "stable-video-diffusion", "ace-step", "lumina2"),
}
"""Those whose widths are not divided: most are too narrow in the corpus for their groups or rotary axes."""


@pytest.mark.slow
@pytest.mark.parametrize("name", one_in(12, {name: name for name in CASES}))
def test_pipelines_of_the_corpus_have_a_twin(name: str) -> None:
    case = CASES[name].build()
    if name in WITHOUT:
        with pytest.raises(NoTwin, match=WITHOUT[name]):
            twin(case.pipe, **case.kwargs)
        return
    found = twin(case.pipe, **case.kwargs)
    assert (found.factor == 1) == (name in UNDIVIDED)
    mine, theirs = (components(pipe) for pipe in (found.call.pipe, case.pipe))
    assert mine.keys() == theirs.keys()
    for key in with_role(case.pipe, "denoiser"):
        assert names_of(mine[key]) == names_of(theirs[key])
    first, again = values(found), values(found)
    assert torch.isfinite(first).all()
    assert torch.equal(first, again)


def test_a_small_pipeline_that_can_not_be_divided_keeps_its_widths() -> None:
    case = CASES["prx"].build()
    found = twin(case.pipe, **case.kwargs)
    assert found.factor == 1
    assert "with the same widths and random weights" in found.said


@pytest.mark.slow
def test_a_picture_changed_a_little_still_has_steps() -> None:
    case = CASES["sdxl-img2img"].build()
    found = twin(case.pipe, **{**case.kwargs, "strength": 0.3, "num_inference_steps": 50})
    assert found.call.kwargs["num_inference_steps"] == 10
    assert twin(CASES["flux"].build().pipe, **CASES["flux"].build().kwargs).call.kwargs[
        "num_inference_steps"
    ] in range(1, STEPS + 1)


# --- real widths, few blocks -----------------------------------------------------------------------------


def on_meta(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, device="meta")


def vae(channels: int) -> df.AutoencoderKL:
    return df.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        sample_size=1024,
        shift_factor=0.06,
    )


def on_host(scheduler: Callable[[], Any]) -> Any:
    """Made on the CPU, as its tables have values."""
    with torch.device("cpu"):
        return scheduler()


def euler() -> df.FlowMatchEulerDiscreteScheduler:
    return on_host(df.FlowMatchEulerDiscreteScheduler)


def flux() -> tuple[Any, dict[str, Any]]:
    model = df.FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    pipe = df.FluxPipeline(euler(), vae(16), None, None, None, None, model)
    return pipe, {
        "prompt_embeds": on_meta(1, 512, 4096),
        "pooled_prompt_embeds": on_meta(1, 768),
    }


def sd3() -> tuple[Any, dict[str, Any]]:
    model = df.SD3Transformer2DModel(
        sample_size=128,
        num_layers=2,
        attention_head_dim=64,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=192,
    )
    pipe = df.StableDiffusion3Pipeline(model, euler(), vae(16), None, None, None, None, None, None)
    embeds, pooled = on_meta(1, 333, 4096), on_meta(1, 2048)
    return pipe, {
        "prompt_embeds": embeds,
        "negative_prompt_embeds": embeds,
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": pooled,
    }


def pixart_sigma() -> tuple[Any, dict[str, Any]]:
    model = df.PixArtTransformer2DModel(
        num_attention_heads=16,
        attention_head_dim=72,
        num_layers=2,
        cross_attention_dim=1152,
        sample_size=128,
        caption_channels=4096,
        use_additional_conditions=False,
    )
    scheduler = on_host(df.DPMSolverMultistepScheduler)
    pipe = df.PixArtSigmaPipeline(None, None, vae(4), model, scheduler)
    embeds, mask = on_meta(1, 300, 4096), on_meta(1, 300)
    return pipe, {
        "negative_prompt": None,
        "prompt_embeds": embeds,
        "negative_prompt_embeds": embeds,
        "prompt_attention_mask": mask,
        "negative_prompt_attention_mask": mask,
    }


def hunyuan_dit() -> tuple[Any, dict[str, Any]]:
    model = df.HunyuanDiT2DModel(
        num_attention_heads=16,
        attention_head_dim=88,
        in_channels=4,
        patch_size=2,
        sample_size=128,
        hidden_size=1408,
        num_layers=4,
        mlp_ratio=4.3637,
        cross_attention_dim=1024,
        cross_attention_dim_t5=2048,
    )
    scheduler = on_host(df.DDPMScheduler)
    pipe = df.HunyuanDiTPipeline(
        vae(4), None, None, model, scheduler, None, None, requires_safety_checker=False
    )
    clip, t5, mask, mask_t5 = on_meta(1, 77, 1024), on_meta(1, 256, 2048), on_meta(1, 77), on_meta(1, 256)
    both = {f"{sign}prompt_embeds": clip for sign in ("", "negative_")}
    both |= {f"{sign}prompt_embeds_2": t5 for sign in ("", "negative_")}
    both |= {f"{sign}prompt_attention_mask": mask for sign in ("", "negative_")}
    return pipe, both | {f"{sign}prompt_attention_mask_2": mask_t5 for sign in ("", "negative_")}


def wan() -> tuple[Any, dict[str, Any]]:
    model = df.WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=2)
    pipe = df.WanPipeline(None, None, df.AutoencoderKLWan(), euler(), model)
    embeds = on_meta(1, 512, 4096)
    return pipe, {"prompt_embeds": embeds, "negative_prompt_embeds": embeds, "num_frames": 81}


def cogvideo_of_a_picture() -> tuple[Any, dict[str, Any]]:
    model = df.CogVideoXTransformer3DModel(
        num_attention_heads=48,
        in_channels=32,
        num_layers=2,
        sample_width=90,
        sample_height=60,
        sample_frames=49,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=True,
    )
    scheduler = on_host(df.CogVideoXDDIMScheduler)
    decoder = df.AutoencoderKLCogVideoX(latent_channels=16)
    pipe = df.CogVideoXImageToVideoPipeline(None, None, decoder, model, scheduler)
    embeds = on_meta(1, 226, 4096)
    image = Image.new("RGB", (720, 480))
    return pipe, {"image": image, "prompt_embeds": embeds, "negative_prompt_embeds": embeds}


def latte() -> tuple[Any, dict[str, Any]]:
    model = df.LatteTransformer3DModel(
        attention_head_dim=72,
        num_attention_heads=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=1152,
        sample_size=64,
        patch_size=2,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=4096,
        video_length=16,
        activation_fn="gelu-approximate",
        attention_bias=True,
    )
    scheduler = on_host(df.DDIMScheduler)
    embeds = on_meta(1, 120, 4096)
    kwargs = {"negative_prompt": None, "prompt_embeds": embeds, "negative_prompt_embeds": embeds}
    return df.LattePipeline(None, None, vae(4), model, scheduler), kwargs | {"clean_caption": False}


@pytest.mark.nightly
@pytest.mark.parametrize("make", [flux, sd3, pixart_sigma, hunyuan_dit, wan, latte, cogvideo_of_a_picture])
def test_real_widths_are_divided(make: Callable[[], tuple[Any, dict[str, Any]]]) -> None:
    with torch.device("meta"):
        pipe, kwargs = make()
    found = twin(pipe, num_inference_steps=30, **kwargs)
    assert found.factor == 16
    assert names_of(found.call.pipe.transformer) == names_of(pipe.transformer)
    assert 4 * parameters(found.call.pipe.transformer) < parameters(pipe.transformer)
    assert torch.isfinite(values(found)).all()


@pytest.mark.slow
def test_a_text_encoder_has_its_first_layers_only() -> None:
    device = resolve_device("sim:a100-80gb")
    with device.active():
        found = resolve("sd15").run(twin_of, device, Options())
    assert found.factor == 16
    lists = (m for m in found.call.pipe.text_encoder.modules() if isinstance(m, torch.nn.ModuleList))
    assert [len(each) for each in lists] == [TEXT_LAYERS]


def test_adapters_of_real_widths_are_put_on_with_their_state() -> None:
    """Two LoRAs of which one is off, and an IP-Adapter, on a UNet."""
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
    from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
    from peft import LoraConfig

    with torch.device("meta"):
        unet = df.UNet2DConditionModel(
            block_out_channels=(320, 640),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=768,
            layers_per_block=1,
        )
        for name in ("style", "subject"):
            unet.add_adapter(LoraConfig(r=24, target_modules=["to_q", "to_v"]), adapter_name=name)
        unet.set_adapters(["style"], [0.3])
        unet.encoder_hid_proj = MultiIPAdapterImageProjection([ImageProjection(1024, 768, 4)])
        for name, module in unet.named_modules():
            if name.endswith("attn2"):
                width = module.to_q.out_features
                module.set_processor(IPAdapterAttnProcessor2_0(width, 768, num_tokens=(4,), scale=0.4))
        unet.config.encoder_hid_dim_type = "ip_image_proj"
    scheduler = on_host(df.DDIMScheduler)
    with torch.device("meta"):
        pipe = df.StableDiffusionPipeline(
            vae(4), None, None, unet, scheduler, None, None, None, requires_safety_checker=False
        )
    embeds = on_meta(1, 77, 768)
    kwargs = {
        "prompt_embeds": embeds,
        "negative_prompt_embeds": embeds,
        "ip_adapter_image_embeds": [on_meta(2, 1, 1024)],
    }
    found = twin(pipe, **kwargs)
    assert found.factor > 1
    small = found.call.pipe.unet
    assert names_of(small) == names_of(unet)
    (theirs, mine) = (
        next(m for name, m in each.named_modules() if name.endswith("attn2.to_q")) for each in (unet, small)
    )
    assert (mine.scaling, mine.active_adapters, mine.r) == (theirs.scaling, theirs.active_adapters, theirs.r)
    assert mine.active_adapters == ["style"]
    first = values(found)
    for module in small.modules():
        if isinstance(module, IPAdapterAttnProcessor2_0):
            assert module.scale == [0.4]
            module.scale = [0.0]
    assert not torch.equal(first, values(found))


def test_no_width_is_divided_to_nothing() -> None:
    """Heads of 8 features are no part of a width of 4."""
    unet = df.UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    found = twin(df.DDIMPipeline(unet, df.DDIMScheduler()), num_inference_steps=2)
    assert found.factor == 8
    assert all(p.numel() for p in found.call.pipe.unet.parameters())


class Norm(torch.nn.Module):
    """As ChatGLM's, which initialises nothing."""

    def __init__(self, size: int, device: torch.types.Device = None) -> None:
        super().__init__()
        self.weight, self.bias, self.table = (
            torch.nn.Parameter(torch.empty(shape, device=device)) for shape in (size, size, (size, size))
        )
        self.linear = torch.nn.Linear(size, size, device=device)


def test_layers_that_skip_their_initialisation_have_values() -> None:
    with random_values(None):
        made: Any = torch.nn.utils.skip_init(Norm, 64)
    assert (made.weight.unique().tolist(), made.bias.unique().tolist()) == ([1.0], [0.0])
    assert 0.01 < float(made.table.std()) < 0.03
    assert 0.06 < float(made.linear.weight.abs().max()) <= 0.125


def test_groups_of_motion_are_divided_with_the_widths() -> None:
    """AnimateDiff's adapter counts them by another name than its UNet."""
    made = df.MotionAdapter((64, 128), motion_num_attention_heads=2, motion_norm_num_groups=32)
    small: Any = shrunk(made, Scale(16, False, Sizes(512, 512, 16, 64, 64, 5)))
    assert (small.config.block_out_channels, small.config.motion_norm_num_groups) == ((4, 8), 4)


def test_what_can_not_be_shrunk_is_named() -> None:
    case = CASES["flux"].build()
    case.pipe.transformer = torch.nn.Linear(3, 3)
    with pytest.raises(NoTwin, match=r"can't be shrunk .*Linear has no configuration"):
        twin(case.pipe, **case.kwargs)


def test_a_pipeline_that_scales_what_is_asked_for_makes_the_small_picture() -> None:
    """HiDream brings every size to the area of its own sample size, 1024 x 1024 at 8 pixels a latent."""
    pipe = types.SimpleNamespace(default_sample_size=128)
    _make_small_pictures(pipe, Sizes(1024, 1024, 1, 64, 64, 1))
    assert pipe.default_sample_size * 8 == 64


def test_a_call_that_names_the_area_of_its_pictures_names_the_small_one() -> None:
    class Edits:
        @torch.no_grad()
        def __call__(self, limit: int = 65_536) -> tuple[int, int, int, bool]:
            return 1024 * 1024, limit, 65_536, torch.is_grad_enabled()

    made = Edits()
    _make_small_pictures(made, Sizes(1024, 1024, 1, 64, 32, 1))
    assert made() == (64 * 32, 65_536, 65_536, False)
    assert Edits()() == (1024 * 1024, 65_536, 65_536, False)
    assert type(made).__name__ == "Edits"


def test_an_autoencoder_that_the_factor_does_not_divide_is_divided_by_less() -> None:
    """Mochi's norms have 32 groups whatever their width."""
    with weightless():
        vae = df.AutoencoderKLMochi()
        small = _smaller(vae, Scale(16, False, Sizes(512, 512, 1, 64, 64, 1)))
        assert small.config.decoder_block_out_channels == (64, 128, 256, 384)
        with pytest.raises(ValueError, match="divisible"):
            shrunk(vae, Scale(4, False, Sizes(512, 512, 1, 64, 64, 1)))


def test_a_prompt_is_padded_to_fewer_tokens() -> None:
    """HunyuanVideo 1.5 pads to 1000 and Flux to 512, unasked; an embedding has the length it has."""
    case = CASES["flux"].build()
    kwargs = {name: value for name, value in case.kwargs.items() if name != "max_sequence_length"}
    assert "prompt" in kwargs
    assert twin(case.pipe, **kwargs).call.kwargs["max_sequence_length"] == TOKENS
    small = sizes_of(case.pipe, kwargs)
    held = {"tokenizer_max_length": 1000, "tokenizer_2_max_length": 77, "vision_num_semantic_tokens": 729}
    assert small.texts(held) == {"tokenizer_max_length": 128, "vision_num_semantic_tokens": 128}
    assert small.of_config({"max_text_seq_length": 226}) == {"max_text_seq_length": 128}
    assert (small.text, small.of_window(512), small.of_window(513)) == (512, 128, 513)
    assert sizes_of(case.pipe, {"prompt_embeds": torch.zeros(1, 512, 8)}).texts(held) == {}
    assert sizes_of(case.pipe, kwargs, small=False).texts(held) == {}


def test_a_call_that_takes_certain_resolutions_takes_the_small_one() -> None:
    """Qwen-Image-Layered makes pictures of the area of one of two squares, whatever it is given."""

    class Layers:
        config: ClassVar = {}

        def __call__(self, image: Any, resolution: int = 640) -> tuple[bool, int]:
            return resolution in [640, 1024], resolution

    made = Layers()
    picture, sizes = Image.new("RGB", (640, 640)), Sizes(640, 640, 1, 64, 64, 1)
    call = PipelineCall(made, (), {"image": picture}, target=None, weights="none")  # type: ignore[arg-type]
    _make_small_pictures(made, sizes)
    assert made(**small_call(call, made, 16, sizes)) == (True, 64)


def test_a_call_that_is_told_the_area_of_its_pictures_is_told_the_small_one() -> None:
    """FluxKontext brings the picture that it is given to one of its own sizes, and its own to an area."""
    case = CASES["flux-kontext"].build()
    kwargs = {name: value for name, value in case.kwargs.items() if name not in ("_auto_resize", "max_area")}
    found = twin(case.pipe, **kwargs).call.kwargs
    assert found["max_area"] == found["height"] * found["width"]
    assert found["_auto_resize"] is False


@pytest.mark.slow
def test_a_twin_may_have_few_of_equal_blocks_where_it_runs_with_them() -> None:
    case = CASES["sdxl"].build()
    case.pipe.unet = df.UNet2DConditionModel.from_config(
        {**case.pipe.unet.config, "transformer_layers_per_block": 4}
    )
    call = PipelineCall(case.pipe, (), case.kwargs, target=None, weights="none")  # type: ignore[arg-type]

    def lengths(found: Twin) -> set[int]:
        modules = found.call.pipe.unet.named_modules()
        return {len(module) for name, module in modules if name.endswith("transformer_blocks")}

    few, all_ = twin_of(call, few_blocks=True), twin_of(call)
    assert (lengths(few), lengths(all_)) == ({2}, {4})
    assert "few of its equal blocks" in few.said
    assert "equal blocks" not in all_.said
    assert few.call.output is not None
