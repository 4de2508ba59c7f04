"""Where rules of the setup hold back: another rule says it, nothing would be gained, a model needs it so."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from diffprof.judge.figures import call_ms
from diffprof.judge.fitting import needed_on_device
from diffprof.judge.half_types import half_types
from diffprof.judge.judging import make_report
from diffprof.judge.recipes import find_recipe
from diffprof.model.finding import Finding
from diffprof.model.fix import Skipped
from diffprof.model.recording import (
    Component,
    DeviceInfo,
    Grade,
    KernelKind,
    KindCosts,
    MemoryHolder,
    MemoryKind,
    MemoryUse,
    Recording,
    Site,
    Timeline,
)
from tests.analyzers.setup.examples import BAD, CPU, CUDA, GB, SD15_UNET, denoiser, recorded, used, vae
from tests.builders import make_site, make_sync


def found(recording: Recording, code: str) -> list[Finding]:
    return [finding for finding in make_report(recording).findings if finding.rule == code]


def timeline(us: float = 1000.0) -> Timeline:
    """One kernel."""
    return Timeline(
        grade=Grade.SIMULATED,
        kinds=(KernelKind(name="gemm", op="linear", family="gemm", device_us=us),),
        modules=("unet",),
        kind=(0,),
        module=(0,),
        host_us=(10.0,),
        device_us=(us,),
        stream=(0,),
        sync=(-1,),
    )


@pytest.mark.parametrize("code", ["SET003", "SET010"])
def test_what_kernels_tell_better_is_left_to_their_rules(code: str) -> None:
    assert found(BAD[code], code)
    assert not found(replace(BAD[code], timeline=timeline()), code)


@pytest.mark.parametrize(("left", "count"), [(0.5, 1), (0.9995, 0)])
def test_what_would_gain_less_than_a_thousandth_is_not_said(left: float, count: int) -> None:
    after = dict.fromkeys(("half_us", "sdpa_us", "qkv_us", "compiled_us", "int8_us"), (1000.0 * left,))
    costs = KindCosts(grade=Grade.SIMULATED, half="bfloat16", now_us=(1000.0,), **after)
    given = replace(recorded(denoiser(dtypes={"float32": GB}, quantized=0), costs=costs), timeline=timeline())
    findings = found(given, "SET001")
    assert len(findings) == count
    if findings:
        assert findings[0].saves_ms == pytest.approx(0.5)
        assert findings[0].grade is Grade.SIMULATED


def test_a_vae_that_overflows_may_stay_in_float32_beside_float16() -> None:
    full = vae(dtypes={"float32": GB}, force_upcast=True, quantized=0)
    assert not found(recorded(denoiser(dtypes={"float16": GB}), full), "SET001")
    bf16 = denoiser(), full
    (finding,) = found(recorded(*bf16), "SET001")
    assert finding.fixes == ("bfloat16",)


@pytest.mark.parametrize(
    ("device", "types"),
    [
        (CUDA, ("bfloat16", "float16")),
        (replace(CUDA, details={"capability": "7.5"}), ("float16",)),
        (replace(CUDA, details={"capability": "12.0"}), ("bfloat16", "float16")),
        (replace(CUDA, kind="sim", details={"peak_tflops": {"fp16": 65, "fp32": 8}}), ("float16",)),
        (CPU, ("bfloat16",)),
    ],
)
def test_half_types_are_those_that_the_device_is_fast_in(device: DeviceInfo, types: tuple[str, ...]) -> None:
    assert half_types(recorded(device=device)) == types


@pytest.mark.parametrize(
    ("capability", "dtype", "count"), [("7.5", "float16", 0), ("7.5", "float32", 1), ("8.0", "float16", 1)]
)
def test_int8_is_not_advised_where_only_float16_is_fast(capability: str, dtype: str, count: int) -> None:
    device = replace(CUDA, details={"capability": capability})
    run = recorded(denoiser(dtypes={dtype: GB}, quantized=0), device=device)
    assert len(found(run, "SET014")) == count


def read_at_the_end(line: str, dtype: str = "float32") -> Any:
    """A wait for the result, on such a line."""
    site = make_site("own/pipeline.py", 9, function="__call__", module=None, excerpt=((9, line),))
    return make_sync("device-to-host", in_loop=False, phase="decode", dtype=dtype, site=site)


@pytest.mark.parametrize(
    ("line", "dtype", "types"),
    [
        ("image = image.cpu().permute(0, 2, 3, 1).numpy()", "float32", ("float16",)),
        ("image = image.to('cpu').numpy()", "float32", ("float16",)),
        ("image = image.cpu().permute(0, 2, 3, 1).float().numpy()", "float32", ("bfloat16", "float16")),
        ("image = image.to(torch.float32).cpu().numpy()", "float32", ("bfloat16", "float16")),
        ("image = image.cpu()", "float32", ("bfloat16", "float16")),
        ("ids = ids.cpu().numpy()", "int64", ("bfloat16", "float16")),
    ],
)
def test_what_becomes_an_array_in_its_own_type_is_not_run_in_bfloat16(
    line: str, dtype: str, types: tuple[str, ...]
) -> None:
    plain = recorded(denoiser(dtypes={"float32": GB}, quantized=0), device=CUDA)
    run = replace(plain, syncs=(read_at_the_end(line, dtype),))
    (finding,) = found(run, "SET001")
    assert (half_types(run), finding.fixes) == (types, types[:1])
    assert ("own/pipeline.py:9 calls .numpy()" in finding.advice) == (types == ("float16",))
    assert isinstance(find_recipe("bfloat16").code(run, [finding]), Skipped) == (types == ("float16",))


def test_a_pipeline_on_a_consistency_scheduler_has_few_steps_by_design() -> None:
    many = BAD["SET015"]
    scheduler = Component(
        name="scheduler", role="scheduler", cls="Any", config={"original_inference_steps": 50}
    )
    target = replace(many.target, components=(SD15_UNET, scheduler))
    assert found(many, "SET015")
    assert not found(replace(many, target=target), "SET015")


def test_blocks_come_first_on_a_cpu_where_compiling_takes_longest() -> None:
    (on_gpu,) = found(recorded(denoiser(compiled=None), device=CUDA), "SET011")
    (on_cpu,) = found(recorded(denoiser(compiled=None), device=CPU), "SET011")
    (nameless,) = found(recorded(denoiser(compiled=None, repeated=()), device=CPU), "SET011")
    assert on_gpu.fixes == ("compile", "compile-blocks")
    assert on_cpu.fixes == ("compile-blocks",)
    assert nameless.fixes == ("compile",)


def test_offloading_is_needless_up_to_four_fifths_of_the_memory() -> None:
    def given(weights: int) -> Recording:
        return recorded(
            denoiser(hooks=("model",), dtypes={"bfloat16": weights}), offload="model", memory=used(8 * GB)
        )

    assert given(50 * GB).setup is not None
    assert needed_on_device(given(50 * GB).setup, used(8 * GB))[1] == 58 * GB
    assert found(given(56 * GB), "SET009")
    assert not found(given(57 * GB), "SET009")


def test_tiling_and_slicing_have_each_their_fix() -> None:
    def fixes(**more: Any) -> tuple[str, ...]:
        (finding,) = found(recorded(denoiser(), vae(**more), memory=used(8 * GB)), "SET007")
        return finding.fixes

    assert fixes(tiling=True) == ("vae-untiled",)
    assert fixes(slicing=True) == ("vae-unsliced",)
    assert fixes(tiling=True, slicing=True) == ("vae-untiled", "vae-unsliced")


def test_a_smaller_model_saves_the_blocks_that_it_does_not_have() -> None:
    kept = (
        "unet.conv_in",
        "unet.mid_block.resnets.0",
        "unet.up_blocks.0.attentions.2.transformer_blocks.9.ff",
    )
    gone = (
        "unet.mid_block.resnets.1.conv1",
        "unet.mid_block.attentions.0.transformer_blocks.0.ff",
        "unet.down_blocks.2.attentions.1.transformer_blocks.4.attn1",
        "unet.up_blocks.1.attentions.2.transformer_blocks.1",
    )
    modules = (*kept, *gone, "vae.decoder.mid_block.attentions.0")
    count = len(modules)
    each = replace(
        timeline(),
        modules=modules,
        kind=(0,) * count,
        module=tuple(range(count)),
        host_us=(10.0,) * count,
        device_us=(1000.0,) * count,
        stream=(0,) * count,
        sync=(-1,) * count,
    )
    (finding,) = found(replace(BAD["SET017"], timeline=each), "SET017")
    assert finding.saves_ms == pytest.approx(len(gone))
    assert finding.grade is Grade.SIMULATED
    (unknown,) = found(BAD["SET017"], "SET017")
    assert unknown.saves_ms is None


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("device", "dtype", "side"), [("sim:t4", "float16", 512), ("sim:a100-80gb", "float32", 1024)]
)
def test_a_smaller_model_saves_what_its_own_scan_says(device: str, dtype: str, side: int) -> None:
    from diffprof.scanning.scan import scan_target
    from diffprof.targets import Options

    options = Options(dtype=dtype, steps=3, height=side, width=side)
    large, small = (
        scan_target(name, device=device, options=options, analyzers=("kernels", "setup"))
        for name in ("sdxl", "ssd-1b")
    )
    (finding,) = (each for each in large.findings if each.rule == "SET017" and "ssd-1b" in each.fixes)
    once, other = (call_ms(each.recording) for each in (large, small))
    assert once is not None
    assert other is not None
    assert finding.saves_ms == pytest.approx(once - other, rel=0.02)


def test_models_that_run_eagerly_are_named_in_one_sentence() -> None:
    (one,) = found(recorded(denoiser(compiled=None), device=CUDA), "SET011")
    two = recorded(denoiser(compiled=None), denoiser(name="unet_2", compiled=None), device=CUDA)
    (both,) = found(two, "SET011")
    assert one.message.startswith("unet runs eagerly")
    assert both.message.startswith("unet, unet_2 run eagerly")


def test_a_float16_vae_that_nobody_upcasts_is_not_said_to_be() -> None:
    """AutoencoderKL's configuration says `force_upcast` where none is given, as in Stable Diffusion 1.5's."""
    half = vae(dtypes={"float16": GB // 10}, force_upcast=True)
    assert found(recorded(denoiser(), half, upcasts_vae=False), "SET002") == []


def test_the_vae_is_named_where_what_is_saved_includes_it() -> None:
    eager = recorded(denoiser(compiled=None), vae(compiled=None), device=CUDA)
    (both,) = found(eager, "SET011")
    assert both.fixes[0] == "compile"
    assert both.message.startswith("unet, vae run eagerly")
    assert "and the VAE's decoder" in both.advice
    (blocks,) = found(replace(eager, device=CPU), "SET011")
    assert blocks.message.startswith("unet runs eagerly"), "the fix of blocks leaves the VAE"


def test_no_int8_is_advised_where_the_quantization_of_the_script_was_left_out() -> None:
    assert found(recorded(denoiser(quantized=0)), "SET014")
    assert not found(recorded(denoiser(quantized=0, left_as_is=True)), "SET014")


def test_what_makes_no_room_is_not_advised_for_it() -> None:
    short = MemoryUse(
        grade=Grade.SIMULATED, peak_bytes=35 * GB, capacity_bytes=24 * GB, by_phase={"denoise": 35 * GB}
    )
    parts = denoiser(dtypes={"bfloat16": 33 * GB}), vae(dtypes={"float32": GB // 2})
    (offloaded,) = found(recorded(*parts, memory=short, offload="model"), "SET008")
    assert "half precision" not in offloaded.advice
    assert "enable_group_offload" in offloaded.advice
    leak = MemoryHolder(
        kind=MemoryKind.ACTIVATIONS,
        site=Site(file="app.py", line=4, function="cb", user_code=True),
        bytes=29 * GB,
    )
    kept = replace(
        short,
        weights_bytes=GB // 2,
        by_phase={"denoise": 33 * GB, "decode": 35 * GB},
        by_step=(8 * GB, 34 * GB),
        at_peak=(leak,),
    )
    (told,) = found(recorded(denoiser(), vae(), memory=kept), "SET008")
    assert (told.advice, told.fixes) == ("Keep less of what app.py:4 makes (27 GiB).", ())
    (decoded,) = found(recorded(denoiser(), vae(), memory=replace(kept, by_step=(8 * GB,))), "SET008")
    assert decoded.fixes == ("vae-tiled",)
    held = replace(kept, by_step=(8 * GB,), peak_phase="decode")
    assert found(recorded(denoiser(), vae(), memory=held), "SET008") == [told]
    full = denoiser(dtypes={"float32": 33 * GB}, quantized=0)
    (half,) = found(recorded(full, vae(), memory=short, offload="model"), "SET008")
    assert "half precision" in half.advice
    kept = denoiser(dtypes={"float16": 20 * GB, "float32": 13 * GB}, quantized=0)  # as T5 keeps a part
    (mostly,) = found(recorded(kept, vae(), memory=short, offload="model"), "SET008")
    assert "half precision" not in mostly.advice


@pytest.mark.parametrize(("capability", "throughout"), [("9.0", True), ("7.5", False)])
def test_bfloat16_is_advised_where_the_device_computes_it(capability: str, throughout: bool) -> None:
    device = replace(CUDA, details={"capability": capability})
    half = vae(dtypes={"float16": GB // 10}, force_upcast=True)
    (finding,) = found(recorded(denoiser(), half, upcasts_vae=True, device=device), "SET002")
    assert finding.advice.startswith("Use bfloat16 throughout") is throughout


def test_what_merging_an_adapter_saves_is_not_told_where_its_weights_are_moved() -> None:
    adapted = denoiser(adapted=3)
    here, moved = (found(recorded(adapted, offload=how), "SET006")[0] for how in (None, "model"))
    assert (here.evidence.with_modules, moved.evidence.with_modules) == (True, False)
    assert moved.saves_ms is None
    assert "not told apart" in (moved.cost_note or "")
