"""What each fix of the setup claims, tried on a pipeline: how far its image may be; that it can be undone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs

from diffprof.analyzers.setup.alternatives import STEP_CACHES
from diffprof.analyzers.setup.fixes import RECIPES
from diffprof.analyzers.setup.models import CACHES
from diffprof.corpus import CASES as PIPELINES
from diffprof.judge.judging import make_report
from diffprof.judge.plan import Choice
from diffprof.judge.recipes import find_recipe
from diffprof.model.fix import Code, Reason, Safety, Skipped, Status
from diffprof.model.recording import Component, DeviceInfo, Grade
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options
from diffprof.tuning.engine import tune
from tests.analyzers.setup.conftest import Bench, add_lora, settings
from tests.analyzers.setup.examples import SDXL_UNET, denoiser, recorded

Prepare = Callable[[Any], Any]
CUDA = DeviceInfo(
    spec="cuda",
    kind="cuda",
    name="NVIDIA A100",
    grade=Grade.MEASURED,
    memory_bytes=80 * 10**9,
    details={"capability": "8.0"},
)


def nothing(pipe: Any) -> None:
    """The pipeline as it is built."""


def plain_attention(pipe: Any) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    pipe.unet.set_attn_processor(AttnProcessor())
    pipe.vae.set_attn_processor(AttnProcessor())


def sliced_attention(pipe: Any) -> None:
    pipe.unet.set_attention_slice(1)


def tiled(pipe: Any) -> None:
    """Tiles smaller than the picture, so that some are blended."""
    pipe.vae.enable_tiling()
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 32, 16


def small_tiles(pipe: Any) -> None:
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 32, 16


def sliced(pipe: Any) -> None:
    pipe.vae.enable_slicing()


def offloaded_by_group(pipe: Any) -> None:
    pipe.unet.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
    )


def offloaded_by_model(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def drawing(pipe: Any) -> None:
    pipe.set_progress_bar_config(disable=False)


CASES: tuple[tuple[str, Prepare, float], ...] = (
    ("bfloat16", nothing, 0.1),
    ("tf32", nothing, 0.0),
    ("sdpa", plain_attention, 0.0),
    ("sdpa", sliced_attention, 0.0),
    ("fuse-lora", add_lora, 0.0),
    ("fuse-qkv", nothing, 0.0),
    ("replace-offload", offloaded_by_group, 0.0),
    ("replace-offload", offloaded_by_model, 0.0),
    ("vae-untiled", tiled, 0.5),
    ("vae-unsliced", sliced, 0.0),
    ("vae-tiled", small_tiles, 0.5),
    ("channels-last", nothing, 0.0),
    ("quantize-linears", nothing, 0.1),
    ("no-progress-bar", drawing, 0.0),
)
"""Fix, how the pipeline is set up before it, and how far a picture may be off that may change."""

WITH_SETUP = ("syncs", "kernels", "setup")

REPEATED = ("bfloat16", "tf32", "no-progress-bar")
"""Fixes whose code does not depend on what was found: findings alone ask for them."""


@pytest.mark.slow
@pytest.mark.parametrize(("key", "prepare", "most"), CASES, ids=lambda v: getattr(v, "__name__", v))
def test_the_picture_is_as_near_as_claimed_and_undoing_gives_it_back(
    bench: Bench, plain_image: np.ndarray, key: str, prepare: Prepare, most: float
) -> None:
    clean, fix = bench.mark(), find_recipe(key).fix
    prepare(bench.pipe)
    before_all = settings()
    ready = bench.mark()
    before = bench.image()
    bench.apply(key)
    after = bench.image()
    assert np.isfinite(after).all()
    off = float(np.abs(after - before).max())
    if fix.safety is Safety.EXACT:
        assert np.array_equal(before, after)
    elif fix.safety is Safety.NUMERIC:
        # In float32; the stated tolerance allows for half precision too.
        assert off <= 1e-4 < (fix.tolerance or 0.0)
    else:
        assert fix.safety is Safety.LOSSY
        assert 0.0 < off <= most
    assert isinstance(bench.code(key), Code if key in REPEATED else Skipped)
    bench.restore(ready)
    assert settings() == before_all
    assert np.array_equal(bench.image(), before)
    bench.restore(clean)
    assert np.array_equal(bench.image(), plain_image)


def test_weights_that_are_uploaded_layer_by_layer_come_back(bench: Bench, plain_image: np.ndarray) -> None:
    bench.pipe.enable_sequential_cpu_offload(device="cpu")
    assert bench.setup().offload == "sequential"
    bench.apply("replace-offload")
    assert bench.setup().offload is None
    assert {p.device.type for p in bench.pipe.unet.parameters()} == {"cpu"}
    assert np.array_equal(bench.image(), plain_image)


def test_offloading_stays_where_the_model_does_not_fit(bench: Bench) -> None:
    offloaded_by_model(bench.pipe)
    small = structs.replace(CUDA, memory_bytes=10**4)
    code = bench.code("replace-offload", device=small)
    assert isinstance(code, Skipped)
    assert "enable_group_offload" in code.why


# --- types -----------------------------------------------------------------------------------------------


def test_float16_keeps_a_vae_that_overflows_safe(bench: Bench) -> None:
    code = bench.code("float16")
    assert isinstance(code, Code)
    parts = bench.setup().parts
    overflowing = tuple(structs.replace(part, asks_upcast=part.role == "vae") for part in parts)
    alone = structs.replace(bench.setup(), parts=overflowing, upcasts_vae=False)
    refused = bench.code("float16", setup=alone)
    assert isinstance(refused, Skipped)
    assert refused.why.startswith("the configuration of vae asks for float32 (force_upcast)")
    bench.subject.apply("float16", code)
    assert {str(p.dtype) for part in (bench.pipe.unet, bench.pipe.vae) for p in part.parameters()} == {
        "torch.float16"
    }
    assert np.isfinite(bench.image()).all()


def test_tensors_of_the_call_go_along_with_the_models(bench: Bench) -> None:
    """Latents that are given in float32 would meet bfloat16 weights."""
    bench.subject.call.kwargs["latents"] = torch.ones(1, 4, 32, 32)
    try:
        code = bench.apply("bfloat16")
        assert "latents" in code.call
        assert bench.subject.call.kwargs["latents"].dtype == torch.bfloat16
        assert np.isfinite(bench.image()).all()
    finally:
        bench.subject.call.kwargs.pop("latents")


def test_tf32_holds_during_the_call_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    own = bench.pipe.unet.forward
    before = settings()

    def forward(*args: Any, **kwargs: Any) -> Any:
        seen.append(torch.get_float32_matmul_precision())
        return own(*args, **kwargs)

    monkeypatch.setattr(bench.pipe.unet, "forward", forward)
    bench.apply("tf32")
    assert settings() == before
    bench.image()
    assert set(seen) == {"high"}
    assert settings() == before
    monkeypatch.setattr(bench.pipe.unet, "forward", broken)
    with pytest.raises(RuntimeError, match="broken"):
        bench.image()
    assert settings() == before


def broken(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("broken")


# --- LoRA ------------------------------------------------------------------------------------------------


def test_a_merged_lora_leaves_no_adapter_and_keeps_its_scale(bench: Bench, plain_image: np.ndarray) -> None:
    add_lora(bench.pipe)
    adapted = bench.image()
    assert np.abs(adapted - plain_image).max() > 1e-3
    bench.apply("fuse-lora")
    assert not any(part.adapted for part in bench.setup().parts)
    assert not any("lora" in name for name, _ in bench.pipe.unet.named_parameters())
    assert np.abs(bench.image() - adapted).max() < 1e-3


def test_a_lora_scale_of_the_call_is_merged_and_taken_from_it(bench: Bench) -> None:
    add_lora(bench.pipe, scale=1.0)
    bench.subject.call.kwargs["cross_attention_kwargs"] = {"scale": 0.25}
    try:
        adapted = bench.image()
        code = bench.apply("fuse-lora")
        assert "lora_scale=0.25" in code.optimize
        assert np.abs(bench.image() - adapted).max() < 1e-3
    finally:
        bench.subject.call.kwargs.pop("cross_attention_kwargs", None)


def test_a_lora_on_quantized_weights_is_not_merged() -> None:
    made = find_recipe("fuse-lora").code(recorded(denoiser(adapted=5)), ())
    assert made == Skipped("unet is quantized: a LoRA can't be merged into quantized weights")


# --- attention -------------------------------------------------------------------------------------------


def test_the_backend_is_chosen_during_the_call_alone(flux: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a kernel that every machine has in the place of the one that was found."""
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends

    from diffprof.analyzers.setup import rules

    def first() -> SDPBackend:
        return _cur_sdpa_kernel_backends(with_priority=True)[0]

    monkeypatch.setattr(rules, "best_backend", lambda recording: "_native_math")
    seen = []
    own, sdpa = first(), F.scaled_dot_product_attention
    monkeypatch.setattr(
        F,
        "scaled_dot_product_attention",
        lambda *args, **kwargs: seen.append(first()) or sdpa(*args, **kwargs),
    )
    before = flux.image()
    chosen = set(seen)
    seen.clear()
    clean = flux.mark()
    flux.apply("attention-backend")
    after = flux.image()
    assert own is not SDPBackend.MATH
    assert (chosen, set(seen)) == ({own}, {SDPBackend.MATH})
    assert np.abs(after - before).max() <= find_recipe("attention-backend").fix.tolerance
    assert first() is own
    flux.restore(clean)
    assert np.array_equal(flux.image(), before)


@pytest.mark.parametrize(
    ("packages", "capability", "backend"),
    [
        (("flash_attn_interface", "flash_attn"), "9.0", "_flash_3"),
        (("flash_attn_interface",), "8.0", None),
        (("flash_attn",), "8.0", "flash"),
        (("flash_attn",), "12.0", "flash"),
        (("flash_attn",), "7.5", None),
        ((), "9.0", None),
    ],
)
def test_a_library_is_used_where_the_device_runs_it(
    packages: tuple[str, ...], capability: str, backend: str | None
) -> None:
    device = structs.replace(CUDA, details={"capability": capability})
    made = find_recipe("attention-backend").code(
        recorded(denoiser(dispatched=True), device=device, packages=packages), ()
    )
    if backend is None:
        assert isinstance(made, Skipped)
    else:
        assert isinstance(made, Code)
        assert made.around == f'attention_backend("{backend}")'


# --- alternatives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [key for key in STEP_CACHES if key != "faster-cache"])
def test_a_step_cache_reuses_and_is_taken_off(key: str, flux: Bench) -> None:
    clean = flux.mark()
    before = flux.image()
    flux.apply(key)
    assert cache_of(flux) == CACHES[key].partition("(")[0]
    assert isinstance(flux.code(key), Skipped)
    assert np.isfinite(flux.image()).all()
    flux.restore(clean)
    assert cache_of(flux) is None
    assert np.array_equal(flux.image(), before)
    assert find_recipe(key).not_on_cpu, "without weights nothing is kept as checked"


@pytest.mark.slow
def test_faster_cache_guesses_half_of_a_batch_of_video() -> None:
    case = PIPELINES["latte"].build()
    case.kwargs["num_inference_steps"] = 6
    fits = find_recipe("faster-cache").fits
    assert fits is not None
    assert fits(case.pipe) is None
    (before,) = case.call()
    batches: list[int] = []
    block = case.pipe.transformer.transformer_blocks[0]
    block.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    exec(f"from diffusers import *\npipe.transformer.enable_cache({CACHES['faster-cache']})", vars(case))
    (after,), whole = case.call(), max(batches)
    assert after.shape == before.shape
    assert not torch.equal(after, before)
    assert sorted(set(batches)) == [whole // 2, whole]


def test_faster_cache_is_not_for_packed_latents(flux: Bench) -> None:
    fits = find_recipe("faster-cache").fits
    assert fits is not None
    assert "packed" in (fits(flux.pipe) or "")
    assert find_recipe("faster-cache").not_on_cpu


def cache_of(flux: Bench) -> str | None:
    (part,) = (part for part in flux.setup().parts if part.role == "denoiser")
    return part.cache


def test_advice_is_code_that_compiles_with_what_it_names() -> None:
    given = recorded(denoiser(adapted=5), unet=SDXL_UNET, steps=30)
    advised = [recipe for recipe in RECIPES if recipe.fix.safety is Safety.ADVICE]
    assert {recipe.fix.key for recipe in advised} == {"lcm-lora", "ssd-1b", "deep-cache", "lora-hotswap"}
    for recipe in advised:
        code = recipe.code(given, ())
        assert isinstance(code, Code)
        compile(code.shown, recipe.fix.key, "exec")
    import diffusers

    assert hasattr(diffusers, "LCMScheduler")
    assert "latent-consistency/lcm-lora-sdxl" in find_recipe("lcm-lora").code(given, ()).optimize
    assert find_recipe("lcm-lora").code(recorded(denoiser()), ()) == Skipped(
        "no LCM-LoRA is published for this denoiser"
    )


def latents(channels: int, scaling: float, blocks: int = 4) -> Component:
    config = {"latent_channels": channels, "scaling_factor": scaling, "block_out_channels": [8] * blocks}
    return Component(name="vae", role="vae", cls="Anything", config=config)


@pytest.mark.parametrize(
    ("vae", "weights"),
    [
        (latents(4, 0.18215), "taesd"),
        (latents(4, 0.13025), "taesdxl"),
        (latents(16, 1.5305), "taesd3"),
        (latents(16, 0.3611), "taef1"),
        (latents(16, 0.13025), None),
        (latents(4, 0.08333), None),
        (latents(4, 0.13025, blocks=3), None),
    ],
)
def test_a_tiny_vae_is_told_from_the_latents(vae: Component, weights: str | None) -> None:
    code = find_recipe("tiny-vae").code(recorded(unet=vae), ())
    if weights is None:
        assert code == Skipped("no tiny VAE is published for these latents")
    else:
        assert isinstance(code, Code)
        assert f'"madebyollin/{weights}"' in code.optimize
        compile(code.shown, "tiny-vae", "exec")


def test_weights_of_a_tiny_vae_are_not_fetched_by_trying_it(bench: Bench) -> None:
    fits = find_recipe("tiny-vae").fits
    assert fits is not None
    assert fits(bench.pipe) == (
        "its weights are not on this machine; `hf download madebyollin/taesd` fetches them"
    )
    bench.pipe.vae.decode = lambda z, num_frames: z
    assert "neighbouring frames" in (fits(bench.pipe) or "")


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("target", "scheduler", "weights"),
    [("sdxl", "DDIMScheduler", "taesdxl"), ("sd3-medium", None, "taesd3")],
)
def test_a_tiny_vae_is_priced_and_left_unchecked(target: str, scheduler: str | None, weights: str) -> None:
    """It is simulated without its weights, which are in the code that is handed over; next to it an exact fix
    is checked as before."""
    options = Options(scheduler=scheduler, steps=2)
    report = scan_target(target, device="sim:a100-80gb", options=options, analyzers=WITH_SETUP)
    finding = next(f for f in report.findings if f.kind == "undistilled-vae")
    taken, whole = (float(n.replace(",", "")) for n in re.findall(r"([\d,.]+) ms", finding.message))
    select = ("tiny-vae", "SET013", "SYN")
    tuned = tune(report, Choice(select=select, lossy=True, keep_unchecked=True), rescan=False)
    outcomes = {each.fix: each for each in tuned.report.outcomes or ()}
    tiny = outcomes["tiny-vae"]
    assert tiny.status is Status.KEPT_UNCHECKED, tiny.why
    assert tiny.before_ms == pytest.approx(whole, rel=0.02)
    assert 0.5 * taken < (tiny.before_ms or 0.0) - (tiny.after_ms or 0.0) < taken
    assert f'from_pretrained(\n    "madebyollin/{weights}"' in tiny.code
    exact = [each for each in outcomes.values() if each.safety is Safety.EXACT and each.before_ms]
    assert exact
    assert {each.reason for each in exact}.isdisjoint({Reason.CHANGED})
    assert all(each.difference and each.difference.bit_equal for each in exact)


def test_adapters_are_swapped_in_place_where_they_are_compiled() -> None:
    recipe = find_recipe("lora-hotswap")
    assert isinstance(recipe.code(recorded(denoiser(adapted=5, compiled=None)), ()), Skipped)
    compiled = recorded(denoiser(adapted=5), adapters=("ink",))
    code = recipe.code(compiled, ())
    assert isinstance(code, Code)
    assert 'adapter_name="ink", hotswap=True' in code.optimize
    assert "lora-hotswap" in next(f for f in make_report(compiled).findings if f.rule == "SET006").fixes
    from diffusers.loaders.lora_base import LoraBaseMixin

    assert hasattr(LoraBaseMixin, "enable_lora_hotswap")


# --- the table -------------------------------------------------------------------------------------------


def test_every_fix_that_runs_is_tried_here() -> None:
    tried = {key for key, _, _ in CASES} | {"float16", "attention-backend", *STEP_CACHES, "tiny-vae"}
    tried |= {"compile", "compile-blocks"}  # test_compiling
    assert {r.fix.key for r in RECIPES if r.fix.safety is not Safety.ADVICE} <= tried


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.fix.key)
def test_numeric_fixes_state_a_tolerance_and_all_say_why(recipe: Any) -> None:
    assert (recipe.fix.tolerance is not None) == (recipe.fix.safety is Safety.NUMERIC)
    assert recipe.fix.why
