"""One run, priced for many devices and modes: the scan's own figures, and no time for what does not fit."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from diffusers.hooks import FirstBlockCacheConfig

import diffprof
from diffprof.corpus import CASES, Entry
from diffprof.gpu.specs import load_spec
from diffprof.model.errors import UsageError
from diffprof.model.prediction import Prediction
from diffprof.model.recording import Grade, KernelKind, Timeline
from diffprof.model.runs import leftovers
from diffprof.scanning import fitting, predicting
from diffprof.scanning.predicting import SHORT_NAMES, CallSetting, grounds, predict, run_call
from diffprof.scanning.recipes import Decoding, FitRecipe, Placement
from diffprof.scanning.repeats import asked_steps
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options, from_object, resolve
from diffprof.views.predictions import render_predictions


@pytest.fixture(scope="module")
def rows() -> tuple[Prediction, ...]:
    return predict(
        "tiny-sdxl",
        devices=("a100-80gb", "sim:h100"),
        modes=("eager", "compiled", "fp8"),
        steps=30,
        price=2.0,
    )


def of(rows: tuple[Prediction, ...], device: str, mode: str) -> Prediction:
    return next(row for row in rows if (row.device, row.mode) == (device, mode))


@pytest.mark.slow
def test_a_row_for_every_device_and_mode_in_order(rows: tuple[Prediction, ...]) -> None:
    assert [(row.device, row.mode) for row in rows] == [
        (device, mode) for device in ("a100-80gb", "h100") for mode in ("eager", "compiled", "fp8")
    ]


AS_SCANNED = {
    "few steps": ("tiny-sdxl", Options(steps=3)),
    "steady steps": ("tiny-sdxl", Options(steps=8)),
    "each of the first and last differs": (
        "tiny-sdxl",
        Options(steps=8, scheduler="UniPCMultistepScheduler"),
    ),
    "one more than asked for": (CASES["sd15"], Options(steps=8)),
    "a share of those asked for": (CASES["sdxl-img2img"], Options(steps=8)),
}

PLAIN = FitRecipe(None, None, Placement.DEVICE, Decoding.WHOLE, False)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "options"), AS_SCANNED.values(), ids=AS_SCANNED)
def test_it_is_what_the_scan_says_and_so_is_the_plain_recipe_of_fit(
    target: str | Entry, options: Options
) -> None:
    made = None if isinstance(target, str) else target.build()
    what, call = (target, {}) if made is None else (made.pipe, made.kwargs)
    found = resolve(what) if isinstance(what, str) else from_object(what, kwargs=call)
    timing = scan_target(
        found, device="sim:a100-80gb", options=options, analyzers=("kernels",)
    ).recording.timing
    assert timing is not None
    (row,) = predict(what, options=options, **call)
    spec = load_spec("a100-80gb")
    played = next(fitting._played(found, options, spec, lambda stage: None))
    plain, *_ = fitting._Pricing(played, spec).of(PLAIN)
    assert row.steps == options.steps
    assert (row.seconds, plain) == pytest.approx((timing.median,) * 2, rel=1e-3)


def test_a_built_in_call_has_the_steps_of_its_model_card() -> None:
    flux = resolve("flux")
    assert asked_steps(flux, Options()) == 50
    assert asked_steps(flux, Options(steps=7)) == 7
    assert asked_steps(flux, Options(call={"num_inference_steps": 2})) is None
    assert asked_steps(resolve("tiny-sdxl"), Options()) is None


def test_clips_are_not_called_images(rows: tuple[Prediction, ...]) -> None:
    assert "images/s" in render_predictions(rows, "text")
    clips = tuple(msgspec.structs.replace(row, makes="clip") for row in rows)
    said = render_predictions(clips, "text")
    assert "clips/s" in said
    assert "images/s" not in said
    assert "steps 30" in said


def test_the_type_in_which_the_target_computes_is_said(rows: tuple[Prediction, ...]) -> None:
    assert {row.dtype for row in rows} == {"float32"}
    assert "steps 30, float32." in render_predictions(rows, "text", width=1000)
    half = predict("tiny-sdxl", devices=("h100",), modes=("eager",), options=Options(dtype="bf16"))
    assert [row.dtype for row in half] == ["bfloat16"]


def test_what_compiled_means_is_said_where_something_is(rows: tuple[Prediction, ...]) -> None:
    eager, compiled = of(rows, "h100", "eager"), of(rows, "h100", "compiled")
    assert "max-autotune" not in render_predictions([eager], "text", width=1000)
    assert "the VAE, by max-autotune, with CUDA graphs." in render_predictions(
        [eager, compiled], "text", width=1000
    )
    split = msgspec.structs.replace(compiled, gpus=2)
    assert "the denoiser, without CUDA graphs." in render_predictions([compiled, split], "text", width=1000)


def test_steps_and_images_add_up(rows: tuple[Prediction, ...]) -> None:
    eager = of(rows, "h100", "eager")
    (fewer,) = predict("tiny-sdxl", devices=("h100",), steps=20)
    assert eager.seconds is not None
    assert fewer.seconds is not None
    assert eager.per_step_ms == pytest.approx((eager.seconds - fewer.seconds) * 100, rel=1e-6)
    assert eager.seconds_per_image == eager.seconds
    assert eager.per_thousand == pytest.approx(1000 * eager.seconds / 3600 * 2.0)
    assert eager.range is not None
    assert eager.range[0] < eager.seconds < eager.range[1]


def test_a_device_without_units_for_a_type_has_no_time_and_says_why(rows: tuple[Prediction, ...]) -> None:
    row = of(rows, "a100-80gb", "fp8")
    assert (row.seconds, row.fits) == (None, None)
    assert "no units for fp8" in row.why
    assert of(rows, "h100", "fp8").seconds is not None


def test_what_does_not_fit_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(load_spec("t4"), capacity_gib=0.001)
    monkeypatch.setattr("diffprof.scanning.predicting.sheet_of", lambda name: small)
    (row,) = predict("tiny-sdxl", devices=("t4",), steps=3)
    assert row.fits is False
    assert row.seconds is None
    assert row.why.startswith("does not fit: ")


@pytest.mark.slow
def test_two_images_cost_more_than_one_and_less_than_two_calls() -> None:
    one, two = predict("tiny-sdxl", batches=(1, 2), steps=3)
    assert one.seconds is not None
    assert two.seconds is not None
    assert one.seconds <= two.seconds < 2 * one.seconds
    assert two.images_per_s == pytest.approx(2 / two.seconds)


@pytest.mark.parametrize(
    ("wrong", "hint"), [({"modes": ("fast",)}, "eager"), ({"devices": ("h1000",)}, "h100")]
)
def test_what_is_not_there_is_refused_with_what_is(wrong: dict, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        predict("tiny-sdxl", **wrong)
    assert hint in str(refused.value.hint)


def test_every_form_has_every_row(rows: tuple[Prediction, ...]) -> None:
    for form in ("text", "markdown", "json"):
        shown = render_predictions(rows, form, width=100)
        assert shown.count("h100") >= 3
        assert "simulated" in shown.lower()


def test_the_command_stores_its_rows_which_the_others_list_and_show(
    tmp_path: Path, rows: tuple[Prediction, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffprof.cli.app import app

    def run(*args: str) -> Result:
        return CliRunner().invoke(app, [*args, "--traces", str(tmp_path / "traces")])

    monkeypatch.setattr(predicting, "predict", lambda target, **_: rows)
    printed = run("predict", "tiny-sdxl", "--format", "json", "--quiet")
    (listed,) = json.loads(run("runs", "--format", "json").stdout)
    assert (listed["target"], listed["note"]) == ("tiny-sdxl", "prediction")
    assert set(listed["device"].split(", ")) == {row.device for row in rows}
    assert listed["path"] in printed.stderr
    assert [each.name for each in Path(listed["path"]).iterdir()] == ["prediction.json"]
    assert run("show", listed["run"], "--format", "json").stdout == printed.stdout
    assert run("show", listed["run"], "--format", "sarif").exit_code == 2
    refused = run("view", listed["run"])
    assert "holds predictions and no scan" in refused.stderr
    os.utime(listed["path"], (0, 0))
    assert leftovers(tmp_path / "traces") == [], "no folder that a killed command has left"


def test_it_is_a_function_of_the_package() -> None:
    assert diffprof.predict is predict


@pytest.mark.nightly
def test_peaks_of_flux_are_within_5_percent_of_those_published() -> None:
    """sayakpaul/diffusers-torchao, README."""
    published = {1: 33.851, 4: 39.49, 8: 47.509, 16: 61.548}
    found = predict("flux", devices=("h100",), batches=tuple(published), steps=28)
    assert {row.batch: row.peak_gib for row in found} == pytest.approx(published, rel=0.05)


@pytest.mark.nightly
def test_settings_change_what_they_say() -> None:
    def one(mode: str = "compiled", **setting: object) -> Prediction:
        (row,) = predict("tiny-sdxl", devices=("h100",), modes=(mode,), options=HALF, **setting)  # type: ignore[arg-type]
        return row

    plain, eager = one(), one("eager")
    assert plain.seconds is not None
    assert eager.seconds is not None
    weights = one(quantization="int8wo")
    assert plain.weights_gib is not None
    assert weights.weights_gib is not None
    assert weights.weights_gib < plain.weights_gib
    apart = one("eager", quantization="int8wo")
    assert apart.weights_gib is not None
    assert weights.weights_gib < apart.weights_gib < plain.weights_gib  # not the VAE, which is not compiled
    assert apart.range is not None
    unsure = one("eager", quantization="int8dq")
    assert unsure.seconds is not None
    assert unsure.range is not None
    assert unsure.range[0] == pytest.approx(0.5 * unsure.seconds, rel=0.05)
    assert unsure.range[1] >= 1.5 * unsure.seconds, "torchao of 2024 took as long or longer"
    bitsandbytes = one("eager", quantization="bnb_int8")
    assert bitsandbytes.seconds is not None
    assert bitsandbytes.range is not None
    assert list(bitsandbytes.range) == pytest.approx([0.5 * bitsandbytes.seconds, 1.5 * bitsandbytes.seconds])
    assert bitsandbytes.waits_in_loop == (eager.waits_in_loop or 0) + 2 * linears()
    more = one("eager", quantization="int8wo", quantize_text_encoders=True)
    assert (more.weights_gib or 0) < apart.weights_gib
    assert (more.seconds or 0) > (apart.seconds or 0) > eager.seconds
    assert one(compile_mode="default").seconds != plain.seconds
    assert (one("eager", attention="unfused").seconds or 0) > eager.seconds
    assert (one("eager", fuse_qkv=True).seconds or eager.seconds) < eager.seconds


HALF = Options(dtype="float16", steps=1)


def linears() -> int:
    """Of the UNet of tiny-sdxl."""
    run = run_call(resolve("tiny-sdxl"), HALF)
    return sum(name.startswith("unet.") for name in run.linears)


@pytest.mark.parametrize("wrong", [{"attention": "x"}, {"quantization": "int7"}, {"compile_mode": "fast"}])
def test_an_unknown_setting_is_named(wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="There is no"):
        predict("tiny-sdxl", **wrong)  # type: ignore[arg-type]


def test_every_rung_that_is_published_can_be_said() -> None:
    """As words of `published/latencies.jsonl`; what the pipeline itself brings (slices, no T5) aside."""
    for word in (*SHORT_NAMES, "nf4", "bnb_int8", "autoquant"):
        assert CallSetting(quantization=word).scheme("compiled") is not None
        assert CallSetting(quantization=word).scheme("eager") is not None
    with pytest.raises(UsageError, match="'sparsify' has no price") as refused:
        CallSetting(quantization="sparsify")
    assert "in no table" in str(refused.value.hint)
    assert CallSetting(tf32=True).mode("eager", ()).matmul_tf32
    assert not CallSetting(compile_mode="default").mode("compiled", ("unet",)).graphs


@pytest.mark.slow
def test_an_offloaded_call_takes_less_memory_and_more_time() -> None:
    def one(offload: str | None) -> Prediction:
        (row,) = predict("tiny-sdxl", devices=("a100-80gb",), steps=6, offload=offload, price=2.0)
        return row

    kept, by_model, by_layer = map(one, (None, "model", "sequential"))
    assert (kept.seconds or 0) < (by_model.seconds or 0) < (by_layer.seconds or 0)
    assert (kept.peak_gib or 0) > (by_model.peak_gib or 0) > (by_layer.peak_gib or 0)
    assert by_model.per_thousand == pytest.approx(1000 * (by_model.seconds or 0) / 3600 * 2.0)
    for row in (kept, by_model, by_layer):
        assert sum(row.origin.values()) == pytest.approx(1.0)
        assert row.bound == "host", "launches of a tiny pipeline"
        assert row.range is not None
        assert row.range[0] < (row.seconds or 0) < row.range[1]
    with pytest.raises(UsageError, match="in the mode eager"):
        predict("tiny-sdxl", modes=("compiled",), offload="model")


@pytest.mark.parametrize(
    ("names", "bound"),
    [
        (("mm", "Memcpy HtoD (Pinned -> Device)"), "link"),
        (("mm", "all_gather"), "link"),
        (("all_gather", "mm"), "compute"),
    ],
)
def test_a_call_is_bound_by_the_link_where_copies_over_it_take_most(
    names: tuple[str, str], bound: str
) -> None:
    kinds = tuple(KernelKind(name=n, op=n, family="gemm", bound="compute", origin="modelled") for n in names)
    timeline = Timeline(
        grade=Grade.SIMULATED, kinds=kinds, kind=(0, 1), module=(-1, -1), host_us=(1.0, 1.0),
        device_us=(100.0, 300.0), stream=(0, 0), sync=(-1, -1),
    )  # fmt: skip
    found = grounds(timeline, 2.0)
    assert found == {"bound": bound, "origin": {"modelled": 1.0}, "range": (1.5, 2.5)}


@pytest.mark.slow
def test_one_component_is_quantized_alone() -> None:
    (plain,) = predict("tiny-sdxl", steps=1)
    (one,) = predict("tiny-sdxl", steps=1, quantization="int8wo", quantized_components=("text_encoder_2",))
    (all_,) = predict("tiny-sdxl", steps=1, quantization="int8wo", quantize_text_encoders=True)
    assert (all_.weights_gib or 0) < (one.weights_gib or 0) < (plain.weights_gib or 0)
    with pytest.raises(UsageError, match="text_encoder_9"):
        predict("tiny-sdxl", steps=1, quantization="int8wo", quantized_components=("text_encoder_9",))


@pytest.mark.slow
def test_what_is_compiled_can_be_named() -> None:
    def one(mode: str = "compiled", **setting: object) -> Prediction:
        (row,) = predict("tiny-sdxl", modes=(mode,), options=HALF, **setting)  # type: ignore[arg-type]
        return row

    eager, plain, unet = one("eager"), one(), one(compiled_components=("unet",))
    text = one(compiled_components=("unet", "vae", "text_encoder", "text_encoder_2"))
    assert (eager.seconds or 0) > (unet.seconds or 0) > (plain.seconds or 0) > (text.seconds or 0)
    assert one(compiled_components=("vae", "unet")).seconds == plain.seconds
    assert one("eager", compiled_components=("unet",)).seconds == eager.seconds
    whole, alone = one("int8"), one("int8", compiled_components=("unet",))
    assert (whole.weights_gib or 0) < (alone.weights_gib or 0) < (plain.weights_gib or 0)
    with pytest.raises(UsageError, match="no component to compile 'tokenizer'"):
        one(compiled_components=("tokenizer",))


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "quantized"), [(1.0, False), (1000.0, True)])
def test_autoquant_takes_int8_where_it_is_faster(
    rate: float, quantized: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The small products of a tiny pipeline gain nothing, unless its GPU hardly multiplies bfloat16."""
    spec = load_spec("a100-80gb")
    slow = dataclasses.replace(
        spec, tables=None, sibling=None, peak={**spec.peak, "bf16": spec.peak["bf16"] / rate}
    )
    monkeypatch.setattr("diffprof.scanning.predicting.sheet_of", lambda name: slow)
    options = Options(dtype="bfloat16", steps=1)
    (plain,) = predict("tiny-sdxl", modes=("compiled",), options=options)
    (found,) = predict("tiny-sdxl", modes=("compiled",), options=options, quantization="autoquant")
    assert ((found.weights_gib or 0) < (plain.weights_gib or 0)) is quantized
    assert ((found.seconds or 0) < (plain.seconds or 0)) is quantized


def test_prices_come_from_a_file(tmp_path: Path) -> None:
    from diffprof.cli.predict import prices

    file = tmp_path / "prices.toml"
    file.write_text('h100 = 1.99\n"sim:l4" = 1\n')
    assert prices(str(file)) == {"h100": 1.99, "l4": 1.0}
    assert (prices("2.5"), prices(None)) == (2.5, None)
    file.write_text("h1000 = 1.99")
    for wrong in (str(file), str(tmp_path / "none.toml")):
        with pytest.raises(UsageError):
            prices(wrong)


@pytest.mark.slow
def test_steps_that_an_unknown_value_cuts_short_are_told_by_predict_and_fit() -> None:
    """A cache of blocks skipped all but the first step, and the seconds were those."""

    case = CASES["flux-group-offload-blocks"].build()
    case.pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    asked = {**case.kwargs, "height": 1024, "width": 1024, "num_inference_steps": 6}
    (row,) = predict(case.pipe, devices=("h100",), **asked)
    assert "without most of 5 of 6 steps" in row.why
    assert "first_block_cache.py" in row.why
    (cut,) = diffprof.fit(case.pipe, device="h100", **asked).left_out
    assert (cut.what, cut.kind) == ("most of 5 of 6 steps", "left-out")
