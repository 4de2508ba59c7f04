"""Predictions on simulated GPUs: held against the published list and gains for SDXL on an A100."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from diffprof.analyzers.quantization import simulated
from diffprof.analyzers.quantization.inventory import Key, take_inventory
from diffprof.analyzers.quantization.predicted import ERROR, Predictor, signature
from diffprof.analyzers.quantization.probe import probe_quantization
from diffprof.analyzers.quantization.published import published_list
from diffprof.analyzers.quantization.schemes import SCHEMES, schemes_for
from diffprof.analyzers.quantization.simulated import changed_timeline
from diffprof.devices import resolve_device
from diffprof.gpu.cost import CostModel
from diffprof.gpu.mode import Mode
from diffprof.gpu.specs import load_spec
from diffprof.model.pipeline import role
from diffprof.model.recording import Grade, KernelKind, Timeline
from diffprof.targets import Options, resolve

COMPILED = Mode(compiled=("unet", "vae"))


def key(m: int, k: int, n: int, dtype: str = "bfloat16", kind: str = "linear") -> Key:
    return Key(m=m, in_features=k, out_features=n, dtype=dtype, bias=True, kind=kind)


def predictor(gpu: str = "a100-80gb") -> Predictor:
    return Predictor(load_spec(gpu), COMPILED)


def test_the_original_is_what_the_cost_model_says() -> None:
    shape = key(2048, 1280, 10240)
    kernels = CostModel(load_spec("a100-80gb"), COMPILED).kernels(signature(shape), compiled=True)
    assert predictor().original_us(shape, True) == sum(kernel.device_us for kernel in kernels)


@pytest.mark.parametrize(("m", "k", "n"), [(2048, 1280, 10240), (2048, 5120, 1280)])
def test_large_products_gain_compiled_and_lose_eager(m: int, k: int, n: int) -> None:
    """Eager, every step of quantizing an activation is a pass over memory."""
    one = predictor()
    compiled = one.timing(key(m, k, n), SCHEMES["int8-dynamic"], "compiled")
    eager = one.timing(key(m, k, n), SCHEMES["int8-dynamic"], "eager")
    assert (compiled.gain_us or 0) > (compiled.gain_spread_us or 0)
    assert (eager.gain_us or 0) < (compiled.gain_us or 0)
    assert compiled.grade is Grade.SIMULATED


@pytest.mark.parametrize(("m", "k", "n"), [(8192, 320, 320), (8192, 640, 640), (2, 1280, 1280)])
def test_short_and_small_products_lose(m: int, k: int, n: int) -> None:
    assert (predictor().timing(key(m, k, n), SCHEMES["int8-dynamic"], "compiled").gain_us or 0) < 0


def test_weight_only_gains_where_weights_are_the_traffic() -> None:
    one = predictor()
    few = one.timing(key(1, 4096, 16384), SCHEMES["int8-weight-only"], "compiled")
    many = one.timing(key(8192, 4096, 16384), SCHEMES["int8-weight-only"], "compiled")
    assert (few.gain_us or 0) > (few.gain_spread_us or 0)
    assert many.speedup == pytest.approx(1.0)
    eager = one.timing(key(1, 4096, 16384), SCHEMES["int8-weight-only"], "eager")
    assert (eager.speedup or 0) < 1, "the weight is widened in memory first"


@pytest.mark.parametrize(
    ("gpu", "scheme", "shape", "why"),
    [
        ("a100-80gb", "float8-dynamic-row", key(64, 64, 64), "no fp8 units"),
        ("h100", "float8-dynamic-row", key(64, 64, 64, "float16"), "need bfloat16"),
        ("h100", "int4-weight-only", key(64, 128, 64, "float16"), "takes bfloat16"),
        ("a100-80gb", "int8-dynamic", key(64, 4, 4), "multiples of 16"),
    ],
)
def test_what_a_gpu_can_not_do_is_not_available(gpu: str, scheme: str, shape: Key, why: str) -> None:
    timing = predictor(gpu).timing(shape, SCHEMES[scheme], "compiled")
    assert why in (timing.why_not or "")
    assert timing.gain_us is None


def test_a_compiled_1x1_convolution_is_the_faster_of_two_forms() -> None:
    one = predictor()
    shape = key(8192, 1280, 640, kind="conv1x1")
    forms = [
        sum(k.device_us for k in one.model.kernels(signature(shape, linear=form), compiled=True))
        for form in (False, True)
    ]
    assert one.original_us(shape, True) == min(forms)
    assert one.original_us(shape, False) > 0


def test_a_difference_within_the_model_s_error_is_no_gain() -> None:
    timing = predictor().timing(key(2048, 1280, 1280), SCHEMES["int8-weight-only"], "compiled")
    assert timing.gain_spread_us == pytest.approx(ERROR * (timing.original_us or 0))


def test_a_changed_timeline_changes_the_products_of_those_modules_alone() -> None:
    timeline = Timeline(
        grade=Grade.SIMULATED,
        kinds=(
            KernelKind(name="mm", op="mm", family="gemm"),
            KernelKind(name="add", op="add", family="pointwise"),
        ),
        modules=("a", "b"),
        kind=(0, 1, 0, -1),
        module=(0, 0, 1, -1),
        host_us=(1.0,) * 4,
        device_us=(10.0, 5.0, 10.0, 0.0),
        stream=(0,) * 4,
        sync=(-1,) * 4,
    )
    changed = changed_timeline(timeline, {"a": lambda before: before - 4})
    assert changed.device_us == (6.0, 5.0, 10.0, 0.0)
    assert changed_timeline(timeline, {"a": lambda before: -1.0}).device_us[0] == 0.0


# --- whole targets -------------------------------------------------------------------------------------


def probe(target: str, gpu: str, steps: int = 2, **settings: Any) -> dict[str, Any]:
    device = resolve_device(f"sim:{gpu}")
    with device.active():
        return resolve(target).run(
            lambda call: probe_quantization(call, device, settings=settings),
            device,
            Options(steps=steps, dtype="bf16"),
        )


@pytest.fixture(scope="module")
def sdxl() -> dict[str, Any]:
    return probe("sdxl", "a100-80gb", fuse_qkv=True)


@pytest.mark.slow
def test_sdxl_on_an_a100_beside_the_published_list(sdxl: dict[str, Any]) -> None:
    choice = sdxl["quantization"]
    published = choice.published
    # The three shapes that take most of the time and gain most; what is left out of the list is left out.
    assert set(published.agreed) == {(1280, 3840), (1280, 10240), (5120, 1280)}
    assert (published.precision_by_time or 0) > 0.9
    assert (published.recall_by_time or 0) > 0.7
    assert published.published_gain == pytest.approx(0.0373, abs=1e-4)
    assert 0.02 < (published.saves_ms or 0) / choice.call_ms < 0.06
    assert 0.02 < choice.saves_ms / choice.call_ms < 0.07
    assert choice.grade is Grade.SIMULATED
    assert "float8-dynamic-row" in choice.unavailable


@pytest.mark.slow
def test_the_choice_is_predicted_to_be_no_worse_than_the_published_list(sdxl: dict[str, Any]) -> None:
    choice = sdxl["quantization"]
    assert choice.saves_ms >= choice.published.saves_ms


@pytest.mark.slow
def test_every_row_says_what_and_why(sdxl: dict[str, Any]) -> None:
    for row in sdxl["linears"]:
        assert row.why
        assert row.timings
        assert row.worth_it is not None
        assert {t.grade for t in row.timings} == {Grade.SIMULATED}
        assert {t.mode for t in row.timings} == {"eager", "compiled"}
    known = [row for row in sdxl["linears"] if row.published is not None]
    assert known
    assert all(any(name.startswith(("unet", "vae")) for name in row.modules) for row in known)


@pytest.mark.slow
def test_the_published_list_s_shapes_are_sdxl_s(sdxl: dict[str, Any]) -> None:
    """`seen_quantized` of the data file is the rest of SDXL's denoiser and VAE."""
    published = published_list()
    rest = {
        (row.in_features, row.out_features)
        for row in sdxl["linears"]
        if any(name.startswith(("unet", "vae")) for name in row.modules)
    } - published.left_out
    assert rest - {(4, 4)} == published.seen - published.left_out
    assert not published.quantizes(4, 4)


@pytest.mark.slow
def test_sd15_on_an_a100_gets_no_set_that_loses() -> None:
    choice = probe("sd15", "a100-80gb", fuse_qkv=True)["quantization"]
    assert choice.saves_ms >= 0
    assert (choice.published.saves_ms or 0) < 0, "transferred, the published list was 6.5 % slower"
    assert all(selection.saves_ms > 0 for selection in choice.selections)


@pytest.mark.nightly
@pytest.mark.parametrize("target", ["sdxl", "sd15"])
def test_the_readme_prints_what_is_predicted(target: str) -> None:
    readme = (Path(__file__).parents[3] / "diffprof/docs/quantization.md").read_text(encoding="utf-8")
    printed = re.search(rf"^\| {target} \| (?P<ours>\S+)% \| (?P<theirs>\S+)% \|.*$", readme, re.MULTILINE)
    assert printed
    choice = probe(target, "a100-80gb", steps=30, fuse_qkv=True)["quantization"]
    published = choice.published
    cells = [cell.strip() for cell in printed[0].strip("|").split("|")]
    assert cells[1] == f"{choice.saves_ms / choice.call_ms:.1%}"
    assert cells[2] == f"{(published.saves_ms or 0) / choice.call_ms:.1%}"
    assert cells[4:6] == [f"{published.precision:.0%}", f"{published.recall:.0%}"]
    assert cells[6] == f"{published.precision_by_time:.0%}, {published.recall_by_time:.0%}"


def test_shapes_alone_are_enough_for_an_inventory() -> None:
    device = resolve_device("sim:h100")

    def play(call: Any) -> None:
        assert role("unet", call.pipe.unet) == "denoiser"
        with torch.no_grad():
            found = take_inventory(call.pipe, call.run)
        assert found.counts
        assert all(not layer.samples for layer in found.layers)

    with device.active():
        resolve("tiny-sdxl").run(play, device, Options(steps=1))


@pytest.mark.slow
def test_steps_that_are_told_again_are_counted_like_those_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    device = resolve_device("sim:h100")
    again: list[Any] = []
    tell = simulated._Teller.again
    monkeypatch.setattr(simulated._Teller, "again", lambda *given: again.append(given) or tell(*given))

    def play(call: Any) -> dict[str, Any]:
        with torch.no_grad():
            return probe_quantization(call, device)

    with device.active():
        told = resolve("tiny-sdxl").run(play, device, Options(steps=6))
        monkeypatch.setattr(simulated, "repeating", lambda *_: nullcontext())
        ran = resolve("tiny-sdxl").run(play, device, Options(steps=6))
    assert len(again) >= 3
    assert told == ran


@pytest.mark.slow
def test_eager_on_a_gpu_nothing_dynamic_is_recommended() -> None:
    choice = probe("tiny-sdxl", "a100-80gb", compile=False)["quantization"]
    assert choice.mode == "eager"
    assert not [s for s in choice.selections if "dynamic" in s.scheme]


@pytest.mark.slow
@pytest.mark.parametrize("gpu", ["h100", "t4", "mi300x"])
def test_every_gpu_gives_an_answer(gpu: str) -> None:
    out = probe("tiny-sdxl", gpu)
    assert out["linears"]
    assert {t.scheme for row in out["linears"] for t in row.timings} == {s.key for s in schemes_for("sim")}
