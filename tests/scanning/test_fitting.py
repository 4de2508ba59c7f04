"""Will it fit: recipes are priced without running them; their code does the same on tiny pipelines."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from msgspec.structs import replace as replace_row

import diffprof
from diffprof.analyzers.kernels.simulated import SimulatedKernels
from diffprof.cli.fit import gib_of
from diffprof.corpus import CASES, CorpusCase
from diffprof.corpus import targets as corpus_targets
from diffprof.devices import resolve_device
from diffprof.devices.borrow import lent
from diffprof.devices.simulated import forward_replay
from diffprof.devices.simulated.tensor import meta_of, unknown
from diffprof.gpu.assembly import Call, EventColumns, LaunchedWait, Phase, alike, assembled
from diffprof.gpu.cost import CostModel
from diffprof.gpu.course import Lengths, _Replay, course_of
from diffprof.gpu.mode import Mode
from diffprof.gpu.offload import (
    COPIES,
    LOW,
    PAGE_LOCKED_GB_S,
    Group,
    ModelWeights,
    Unpacked,
    WeightsPlace,
    kept_page_locked,
    moved,
    narrowed,
    on_host,
)
from diffprof.gpu.signatures import OpSignature
from diffprof.gpu.specs import load_spec
from diffprof.judge.steps import steps_of, with_steps
from diffprof.judge.timeline import replay, total_us
from diffprof.model.errors import UsageError
from diffprof.model.fitting import FitRow, Fitted, Loss
from diffprof.scanning import fitting
from diffprof.scanning import recipes as recipes_module
from diffprof.scanning.fit_code import code_of
from diffprof.scanning.recipes import Decoding, FitRecipe, Placement, Quantized, losses
from diffprof.targets import Options, resolve
from diffprof.targets.pipeline import PhaseTracker
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.redirect import cuda_redirect
from diffprof.targets.twin.building import Twin
from diffprof.targets.twin.few_blocks import KEPT_BLOCKS
from diffprof.targets.weights import parts_of
from diffprof.tuning import fit_checks
from diffprof.tuning.fit_checks import PLAIN, Checks, copied, plain_of, shallow
from diffprof.views.fits import module_of, render_fit
from tests.devices.simulated.signatures import add, linear

GPU = load_spec("rtx4090")
MIB = 1 << 20

LINEAR = linear(64, 1024, 1024)
A, B = Group("unet.a", (2 * MIB,)), Group("unet.b", (3 * MIB, 1000))
UNET = ModelWeights("unet", "denoiser", (A, B), (), {"unet.a": (2 * MIB, MIB)})
VAE = ModelWeights("vae", "vae", (Group("vae.decoder", (MIB,)),), called=False)


def call_of(*modules: str | None) -> Call:
    return Call(
        [LINEAR if module else add(8) for module in modules], modules, [(0, "denoise", 0, "denoiser", None)]
    )


def shape_of(call: Call) -> list[str]:
    """`up` and `down` for copies, `up*` in the stream of copies, the module of an operation, and waits."""
    found = []
    for item, module in zip(call.items, call.modules, strict=True):
        if isinstance(item, LaunchedWait):
            found.append({None: "wait", COPIES: "wait*", 0: "wait0"}[item.stream])
        elif item.direction is not None:
            way = {"h2d": "up", "d2h": "down"}[item.direction]
            found.append(way + ("*" if item.scalars.get("stream") else ""))
        else:
            found.append(str(module))
    return found


def test_leaves_are_copied_while_the_one_before_computes() -> None:
    found = moved(call_of("unet.a", "unet.b"), (UNET,), {"unet": WeightsPlace.LEAF}, [100, 200])
    assert shape_of(found.call) == [
        *("wait*", "up*"),  # the first, which nothing comes before
        *("wait*", "up*", "up*", "unet.a", "wait0"),
        *("wait*", "unet.b", "wait0"),
    ]
    assert found.peak == A.nbytes + B.nbytes + 100


def test_sequential_offloading_holds_one_layer() -> None:
    found = moved(call_of("unet.a", "unet.b"), (UNET,), {"unet": WeightsPlace.SEQUENTIAL}, [0, 0])
    assert shape_of(found.call) == ["up", "wait", "unet.a", "up", "wait", "up", "wait", "unet.b"]
    assert found.peak == B.nbytes


def test_models_change_places_and_what_stays_is_counted() -> None:
    call = call_of("unet.a", None, "unet.b", "vae.decoder")
    found = moved(call, (UNET, VAE), {"unet": WeightsPlace.MODEL, "vae": WeightsPlace.MODEL}, [0] * 4)
    assert shape_of(found.call).count("up") == 4
    assert shape_of(found.call)[-2:] == ["down", "wait"]
    assert found.peak == UNET.nbytes
    assert moved(call, (UNET, VAE), {"unet": WeightsPlace.MODEL}, [0] * 4).peak == UNET.nbytes + VAE.nbytes
    assert moved(call, (UNET, VAE), {}, [7] * 4).peak == UNET.nbytes + VAE.nbytes + 7


def test_page_locked_weights_take_powers_of_two_unless_locked_when_copied() -> None:
    assert on_host(UNET, WeightsPlace.LEAF) == 2 * MIB + 4 * MIB + 1024
    # What is locked for one group is used again for the next: a block of each size.
    assert on_host(UNET, WeightsPlace.LEAF_LOW) == UNET.nbytes + 2 * MIB + 4 * MIB + 1024
    assert on_host(UNET, WeightsPlace.MODEL) == on_host(UNET, WeightsPlace.SEQUENTIAL) == UNET.nbytes
    assert on_host(UNET, WeightsPlace.DEVICE) == 0


def test_packed_weights_are_smaller_and_made_wide_before_the_product() -> None:
    assert narrowed(UNET, 8).nbytes == UNET.nbytes - MIB
    course = course_of(call_of("unet.a", "unet.b"), [1, 1]).mapped(Unpacked(UNET.linears, 4.5).of)
    assert [item.name for item in course.call().items if isinstance(item, OpSignature)] == [
        "aten::_to_copy",
        "aten::linear",
        "aten::linear",
    ]
    assert course.beside[0].tolist() == [1 + LINEAR.inputs[1].nbytes, 1 + LINEAR.inputs[1].nbytes, 1]


def test_a_stream_of_copies_runs_beside_what_computes() -> None:
    call = call_of(*["unet.a", "unet.b"] * 4)
    model = CostModel(GPU, Mode())
    times = {
        place: replay(assembled(moved(call, (UNET,), {"unet": place}, [0] * 8).call, model)).total_us
        for place in (WeightsPlace.DEVICE, WeightsPlace.LEAF, WeightsPlace.LEAF_LOW, WeightsPlace.SEQUENTIAL)
    }
    device, leaf, low, sequential = times.values()
    # The host stages what is locked when it is copied, as the driver does pageable memory: neither has to be
    # faster.
    assert device < leaf < min(low, sequential)


# --- against the code --------------------------------------------------------------------------------------

PLACEMENTS = (Placement.TEXT, Placement.MODEL, Placement.BLOCK, Placement.LEAF, Placement.SEQUENTIAL)


class Ran:
    """A tiny pipeline's call after a recipe's code, in the simulator: the second one, when all is warm."""

    def __init__(self, name: str, code: str | None) -> None:
        device = resolve_device("sim:rtx4090")
        with device.active() as place:
            case: CorpusCase = CASES[name].build()
            with cuda_redirect(device):
                if code is None:
                    case.pipe.to(place)
                else:
                    space: dict[str, Any] = {}
                    exec(code, space)
                    space["optimize"](case.pipe)
            with torch.no_grad():
                case.call(place)
            kernels = SimulatedKernels(GPU, case.pipe, Mode())
            tracker = PhaseTracker(on_change=kernels.phase)
            with (
                torch.no_grad(),
                kernels.following(),
                tracker.watching(case.pipe),
                device.observed(kernels, case.pipe),
            ):
                self.output = case.call(place)
            self.ms = replay(kernels.builder.finish()).total_us / 1e3
            self.memory = kernels.builder.memory(kernels.weights, kernels.on_host)
            self.before = kernels.builder.memory_log.before


@pytest.fixture(scope="module", params=["flux", "sd15"])
def tiny(request: pytest.FixtureRequest) -> tuple[str, fitting.Played, Ran]:
    name = request.param
    device = resolve_device("sim:rtx4090")
    with device.active() as place:
        case = CASES[name].build()
        case.pipe.to(place)
        kwargs = {**case.kwargs, "generator": torch.Generator(place).manual_seed(7)}
        call = PipelineCall(case.pipe, (), kwargs, None, "random")  # type: ignore[arg-type]
        played = fitting._watched(call, device)
    return name, played, Ran(name, None)


@pytest.mark.slow
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_code_takes_what_was_priced_and_changes_no_bit(
    tiny: tuple[str, fitting.Played, Ran], placement: Placement
) -> None:
    name, played, plain = tiny
    recipe = FitRecipe(None, None, placement, Decoding.WHOLE, False)
    seconds, gib, host, _ = fitting._Pricing(played, GPU).of(recipe)
    ran = Ran(name, code_of(recipe, played.parts))
    assert all(torch.equal(a, b) for a, b in zip(ran.output, plain.output, strict=True))
    assert seconds is not None
    assert seconds * 1e3 == pytest.approx(ran.ms, rel=0.05, abs=1.0)
    peak = ran.memory.peak_bytes
    assert peak is not None
    assert gib * 2**30 <= peak
    if placement is not Placement.SEQUENTIAL:  # accelerate keeps its copies out of the models
        assert host == pytest.approx(ran.memory.host_bytes, rel=0.01)


@pytest.mark.nightly
def test_a_vae_that_is_cast_for_decoding_alone_is_tried_in_tiles_as_it_is_cast() -> None:
    device = resolve_device("sim:rtx4090")
    with device.active() as place:
        case = CASES["sdxl"].build()
        case.pipe.to(place, torch.float16)
        case.pipe.vae.register_to_config(force_upcast=True)
        case.pipe.vae.tile_latent_min_size, case.pipe.vae.tile_sample_min_size = 2, 4
        kwargs = {name: value for name, value in case.kwargs.items() if name != "output_type"}
        played = fitting._watched(PipelineCall(case.pipe, (), kwargs, None, "random"), device)  # type: ignore[arg-type]
        assert case.pipe.vae.dtype == torch.float16
    assert not case.pipe.vae.use_tiling
    whole, tiles = (len(played.calls[how][0].items) for how in (Decoding.WHOLE, Decoding.TILES))
    assert tiles > whole


class InTiles:
    """A decoding in tiles that overlap by half. told: forwards that were told again."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch, *, every: bool) -> None:
        self.told = 0
        tell = forward_replay._Replay._tell

        def counted(*args: Any) -> Any:
            self.told += 1
            return tell(*args)

        device = resolve_device("sim:rtx4090")
        with device.active(), torch.no_grad(), monkeypatch.context() as patch, ExitStack() as stack:
            patch.setattr(forward_replay._Replay, "_tell", counted)
            if every:
                patch.setattr(fitting, "repeating_parts", lambda *_: nullcontext())
            case = CASES[name].build()
            stack.enter_context(lent(case.pipe, device))
            latents = tiles_of_eight(case.pipe.vae)
            decodes = fitting._Decodes(case.pipe, device, SimulatedKernels(device.gpu, case.pipe, Mode()))
            with decodes.noted():
                case.pipe.vae.decode(unknown(meta_of(torch.empty(latents, device="meta"))))
        kernels = decodes.others[Decoding.TILES]
        self.call, self.needs = kernels.builder.call, fitting._needs(kernels)
        self.memory = kernels.builder.memory(kernels.weights)


def tiles_of_eight(vae: Any) -> tuple[int, ...]:
    """Sets tiles of 8 x 8 latents; gives a shape of latents that takes some dozens."""
    if hasattr(vae, "tile_sample_stride_height"):
        vae.tile_sample_min_height = vae.tile_sample_min_width = 8 * vae.spatial_compression_ratio
        vae.tile_sample_stride_height = vae.tile_sample_stride_width = 4 * vae.spatial_compression_ratio
        return 1, vae.config.z_dim, 6, 24, 24
    ratio = 2 ** (len(vae.config.block_out_channels) - 1)
    if hasattr(vae, "tile_sample_min_height"):
        vae.tile_sample_min_height = vae.tile_sample_min_width = 8 * ratio
        vae.tile_overlap_factor_height = vae.tile_overlap_factor_width = 0.5
        return 1, vae.config.latent_channels, 6, 24, 24
    vae.tile_latent_min_size, vae.tile_sample_min_size = 8, 8 * ratio
    vae.tile_overlap_factor = 0.5
    return 1, vae.config.latent_channels, 24, 24


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sd15", 29),
        *(pytest.param(*each, marks=pytest.mark.nightly) for each in (("wan-t2v", 170), ("cogvideox", 90))),
    ],
)
def test_tiles_of_one_shape_are_told_as_when_all_are_run(
    name: str, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launches, memory and its peak. Wan's decoder leaves what the next frame needs in a list."""
    ran, found = (InTiles(name, monkeypatch, every=every) for every in (True, False))
    assert ran.told == 0
    assert found.told >= told
    both = alike([*found.call.items, *ran.call.items])
    assert both[: len(found.call.items)] == both[len(found.call.items) :]
    assert found.call.modules == ran.call.modules
    assert found.needs == ran.needs
    assert found.memory == ran.memory


NF4, INT8 = Quantized.NF4_WEIGHTS, Quantized.INT8_WEIGHTS

KINDS = (
    FitRecipe(None, Quantized.INT8_WEIGHTS, Placement.DEVICE, Decoding.WHOLE, False),
    FitRecipe(None, Quantized.INT8_WEIGHTS, Placement.LEAF, Decoding.WHOLE, False),
    FitRecipe(None, Quantized.INT8, Placement.TEXT, Decoding.WHOLE, True),
    FitRecipe(None, None, Placement.BLOCK_LOW, Decoding.SLICES, False),
    FitRecipe("bfloat16", None, Placement.MODEL, Decoding.TILES, True),
)


def checks_of(name: str, **call: Any) -> tuple[Checks, tuple[ModelWeights, ...]]:
    case = CASES[name].build()
    kwargs = {**case.kwargs, **call, "generator": torch.Generator("cpu").manual_seed(7)}
    twin = PipelineCall(case.pipe, (), kwargs, None, "random", seed=7)  # type: ignore[arg-type]
    return Checks(twin, "rtx4090"), parts_of(case.pipe)


def as_row(recipe: FitRecipe, code: str) -> FitRow:
    return FitRow(
        recipe=recipe.steps(),
        seconds=1.0,
        gpu_gib=1.0,
        host_gib=0.0,
        fits=True,
        loses=losses(recipe),
        code=code,
    )


@pytest.mark.slow
def test_code_is_checked_on_a_small_copy() -> None:
    checks, parts = checks_of("flux")
    weights = [*checks.twin.pipe.transformer.parameters(), *checks.twin.pipe.text_encoder.parameters()]
    before = [each.detach().clone() for each in weights]
    found = [checks.of(as_row(recipe, code_of(recipe, parts))) for recipe in KINDS]
    assert [each.status for each in found] == ["checked"] * 5
    assert [bool(each.bit_equal) for each in found] == [False, False, False, True, False]
    assert 50 < (found[0].psnr_db or 0) < 80
    for placement in (Placement.DEVICE, Placement.TEXT, Placement.MODEL):
        four_bits = FitRecipe(None, Quantized.NF4_WEIGHTS, placement, Decoding.WHOLE, False)
        check = checks.of(as_row(four_bits, code_of(four_bits, parts)))
        if importlib.util.find_spec("bitsandbytes") is None:
            assert (check.status, check.why) == ("unchecked", "bitsandbytes is not installed")
        else:
            assert check.status == "checked"
    assert all(map(torch.equal, weights, before))
    again = copied(checks.twin.pipe).transformer.parameters()  # which takes no memory
    assert all(mine.data_ptr() == its.data_ptr() for mine, its in zip(again, weights, strict=False))


@pytest.mark.slow
def test_code_that_compiles_is_checked_with_the_code_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled parts run eagerly: one call for both, and both are executed."""
    checks, parts = checks_of("flux")
    eager, compiled = (FitRecipe(None, None, Placement.MODEL, Decoding.WHOLE, each) for each in (False, True))
    assert checks.of(as_row(eager, code_of(eager, parts))).bit_equal
    monkeypatch.setattr(fit_checks, "output_of", no_call)
    code = code_of(compiled, parts)
    assert checks.of(as_row(compiled, code)).status == "checked"
    wrong = checks.of(as_row(compiled, code.replace(".transformer.compile", ".tokenizer.compile")))
    assert (wrong.status, "has no attribute compile" in wrong.why) == ("failed", True)


def no_call(call: Any) -> None:
    raise AssertionError(f"a call of {call.pipe}")


@pytest.mark.slow
def test_zeros_stay_numbers_in_float8() -> None:
    """Their largest value makes the scale; HunyuanVideo 1.5 has zeros in the place of a picture."""
    checks, parts = checks_of("flux")
    layers = filter(lambda each: isinstance(each, torch.nn.Linear), checks.twin.pipe.transformer.modules())
    wide = next(each for each in layers if each.in_features % 16 == each.out_features % 16 == 0)
    hook = wide.register_forward_pre_hook(lambda _, given: torch.zeros_like(given[0]))
    float8 = FitRecipe(None, Quantized.FP8, Placement.DEVICE, Decoding.WHOLE, True)
    found = [Checks(checks.twin, "rtx4090").of(as_row(float8, code_of(float8, parts)))]
    hook.remove()
    torch.nn.init.zeros_(wide.weight)  # as before training: a small copy has values in their place
    found.append(Checks(checks.twin, "rtx4090").of(as_row(float8, code_of(float8, parts))))
    assert [(each.status, each.bit_equal) for each in found] == [("checked", False)] * 2


@pytest.mark.nightly
def test_float8_is_checked_where_the_small_copy_is_wide_enough() -> None:
    checks, parts = checks_of("flux")
    float8 = FitRecipe(None, Quantized.FP8, Placement.DEVICE, Decoding.WHOLE, True)
    check = checks.of(as_row(float8, code_of(float8, parts)))
    assert (check.status, check.bit_equal) == ("checked", False)
    assert 20 < (check.psnr_db or 0) < 60
    embedder = checks.twin.pipe.transformer.time_text_embed.timestep_embedder
    last = embedder.linear_2
    widths = itertools.pairwise((last.in_features, 128, 128, last.out_features))
    embedder.linear_2 = torch.nn.Sequential(*(torch.nn.Linear(*each) for each in widths))
    checks = Checks(checks.twin, "rtx4090")
    wide = checks.of(as_row(float8, code_of(float8, parts) + "# 128 x 128\n"))
    assert wide.status == "checked", wide.why
    for layer in checks.twin.pipe.transformer.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.in_features, layer.weight = 9, torch.nn.Parameter(layer.weight.new_ones(9, 9))
    narrow = checks.of(as_row(float8, code_of(float8, parts) + "\n"))
    assert (narrow.status, narrow.why) == ("unchecked", "the small copy is too narrow for float8 products")


@pytest.mark.nightly
def test_weights_that_are_read_for_their_type_or_by_others_are_not_packed() -> None:
    """T5 makes its input of the type of `wo`'s weight, which is that of bytes in four bits; HunyuanDiT's
    pooling computes with weights of linears that it does not call."""
    (t5,) = [part for part in parts_of(CASES["flux"].build().pipe) if part.wide]
    assert {path.rpartition(".")[2] for path in t5.wide} == {"wo"}
    four, eight = (FitRecipe(None, q, Placement.DEVICE, Decoding.WHOLE, False) for q in (NF4, INT8))
    assert set(four.packing(t5).linears) == set(t5.linears) - t5.wide
    assert eight.packing(t5) == t5
    case = CASES["hunyuan-dit-controlnet"].build()
    found = diffprof.fit(case.pipe, check=Checks, every=True, **case.kwargs)
    packed = row(found, "quantize:int8-weights")
    assert packed.check is not None
    assert packed.check.status == "checked"
    assert 'left = ["time_extra_emb.pooler.k_proj", "time_extra_emb.pooler.q_proj", ' in packed.code


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cogview4", pytest.param("animatediff", marks=pytest.mark.nightly)])
def test_packed_leaves_are_not_streamed_where_one_is_called_twice(name: str) -> None:
    """As the feed-forward of CogView4's blocks, for the text and for the picture: the second time it is
    where the host keeps it. And as what AnimateDiff adds of positions, before each attention: the layer that
    came after it first is not prefetched."""
    checks, parts = checks_of(name)
    leaves = FitRecipe(None, INT8, Placement.LEAF, Decoding.WHOLE, False)
    check = checks.of(as_row(leaves, code_of(leaves, parts)))
    assert check.status == "failed"
    assert "on the same device" in check.why
    found = diffprof.fit(checks.twin.pipe, **checks.twin.kwargs)
    offered = {each.recipe for each in found.rows}
    assert offered >= {("offload:leaf",), ("quantize:int8-weights", "offload:block")}
    assert ("quantize:int8-weights", "offload:leaf") not in offered


@pytest.mark.slow
def test_packed_layers_take_their_input_by_the_name_that_it_has_in_pytorch() -> None:
    """AnimateDiff calls `proj_in(input=...)`, and bitsandbytes calls it `x`."""
    for name, named in (("animatediff", True), ("sd15", False)):
        checks, _ = checks_of(name)
        found = row(diffprof.fit(checks.twin.pipe, **checks.twin.kwargs), "quantize:nf4-weights")
        assert ("class _Linear4bit(bnb.nn.Linear4bit)" in found.code) is named
        assert ("packed = _Linear4bit(" in found.code) is named
        if importlib.util.find_spec("bitsandbytes") is not None:
            assert checks.of(found).status == "checked"


@pytest.mark.slow
def test_layers_for_the_type_of_whose_weights_a_module_asks_are_not_packed() -> None:
    """IP-Adapter's projection brings the picture to the type of its weights, which in four bits is that of
    bytes."""
    checks, _ = checks_of("flux")
    net = checks.twin.pipe.transformer
    net.x_embedder = OfItsType(net.x_embedder)
    (part,) = [part for part in parts_of(checks.twin.pipe) if part.role == "denoiser"]
    assert part.asked == ("x_embedder.layer",)
    four, eight = (FitRecipe(None, q, Placement.DEVICE, Decoding.WHOLE, False) for q in (NF4, INT8))
    assert "transformer.x_embedder.layer" in set(eight.packing(part).linears) - set(
        four.packing(part).linears
    )
    assert "left = " not in code_of(eight, (part,))
    code = code_of(four, (part,))
    assert 'left = ["x_embedder.layer"]' in code
    if importlib.util.find_spec("bitsandbytes") is not None:
        checks = Checks(checks.twin, "rtx4090")
        assert checks.of(as_row(four, code)).status == "checked"
        packed = checks.of(as_row(four, code.replace("x_embedder.layer", "no_such")))
        assert packed.status != "checked"


class OfItsType(torch.nn.Module):
    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x.to(self.layer.weight.dtype))


def test_int8_is_not_offered_where_its_products_leave_float16() -> None:
    """torchao rounds them to the input's type before it scales: here 9.6 comes out, and 12,700 times as
    much before."""
    library = pytest.importorskip("torchao.quantization")
    layer = torch.nn.Sequential(torch.nn.Linear(64, 8)).half()
    layer[0].weight.data.fill_(0.01)
    for config in (library.Int8WeightOnlyConfig, library.Int8DynamicActivationInt8WeightConfig):
        packed = copy.deepcopy(layer)
        library.quantize_(packed, config(set_inductor_config=False))
        assert not packed(torch.full((32, 64), 15.0, dtype=torch.float16)).isfinite().any()
    case = CASES["flux"].build()
    for dtype, others in ((torch.float16, set()), (torch.bfloat16, {Quantized.INT8, Quantized.INT8_WEIGHTS})):
        parts = parts_of(case.pipe.to(dtype))
        offered = [
            *recipes_module.recipes(parts, load_spec("h100"), None, (Decoding.WHOLE,), compilable=True)
        ]
        assert {each.quantized for each in offered} == {None, Quantized.NF4_WEIGHTS, Quantized.FP8, *others}
        fp8 = next(each for each in offered if each.quantized is Quantized.FP8)
        packs = replace(next(part for part in parts if part.role == "text_encoder"), leaves=ENCODER)
        assert fp8.quantizes(packs) is bool(others)
        assert ("Int8WeightOnlyConfig" in code_of(fp8, (packs,))) is bool(others)


ENCODER = (Group("text_encoder", (2 << 30,)),)


def test_streamed_text_encoders_are_not_packed_in_four_bits() -> None:
    """Groups bring tensors without asking them, and bitsandbytes' are packed when they are asked."""
    encoder = ModelWeights("text_encoder", "text_encoder", ENCODER, (), UNET.linears)
    quantizes = {
        (scheme, placement): FitRecipe(None, scheme, placement, Decoding.WHOLE, False).quantizes(encoder)
        for scheme in (NF4, INT8)
        for placement in (Placement.TEXT, Placement.MODEL)
    }
    assert [each for each, packs in quantizes.items() if not packs] == [(NF4, Placement.TEXT)]


def test_few_of_equal_blocks_are_checked_where_few_run() -> None:
    checks, _ = checks_of("flux")
    call = checks.twin
    blocks = call.pipe.transformer.single_transformer_blocks
    blocks.extend(copy.deepcopy(blocks[0]) for _ in range(6))
    blocks[0].long, blocks[0].tied = (torch.nn.ModuleList(map(torch.nn.Identity, range(n))) for n in (6, 3))
    few = shallow(call).pipe.transformer.single_transformer_blocks
    assert [len(few), len(few[0].long), len(few[0].tied)] == [KEPT_BLOCKS, KEPT_BLOCKS, 3]
    assert len(blocks) > 6
    call.pipe.transformer.register_forward_pre_hook(all_eight)
    assert shallow(call) is call


def all_eight(model: Any, *_: Any) -> None:
    assert len(model.single_transformer_blocks) > 6


@pytest.mark.slow
def test_a_model_with_weight_norm_is_checked() -> None:
    checks, parts = checks_of("flux")
    torch.nn.utils.weight_norm(checks.twin.pipe.transformer.proj_out)
    plain = FitRecipe(None, None, Placement.MODEL, Decoding.WHOLE, False)
    assert Checks(checks.twin, "rtx4090").of(as_row(plain, code_of(plain, parts))).bit_equal


def test_a_small_copy_that_gives_no_numbers_tells_nothing() -> None:
    checks, parts = checks_of("flux")
    torch.nn.init.constant_(checks.twin.pipe.transformer.proj_out.bias, float("nan"))
    plain = FitRecipe(None, None, Placement.MODEL, Decoding.WHOLE, False)
    found = Checks(checks.twin, "rtx4090").of(as_row(plain, code_of(plain, parts)))
    assert (found.status, found.why) == ("unchecked", "what the small copy gives is not all numbers")


@pytest.mark.slow
def test_groups_are_offered_without_a_model_that_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Stable Audio's VAE, whose weights are computed before a hook could bring what they are made of."""
    checks, _ = checks_of("flux")
    pipe = checks.twin.pipe
    monkeypatch.setattr(type(pipe.vae), "_supports_group_offloading", False)
    with pytest.raises(ValueError, match="does not support group offloading"):
        pipe.vae.enable_group_offload(torch.device("cpu"))
    parts = parts_of(pipe)
    for placement in recipes_module.STREAMS:
        assert set(placement.places(parts)) == {part.name for part in parts} - {"vae"}
    leaves = FitRecipe(None, None, Placement.LEAF, Decoding.WHOLE, False)
    assert checks.of(as_row(leaves, code_of(leaves, parts))).bit_equal
    monkeypatch.setattr(type(pipe.transformer), "_supports_group_offloading", False)
    offered = recipes_module.recipes(
        parts_of(pipe), load_spec("rtx4090"), None, (Decoding.WHOLE,), compilable=True
    )
    one_by_one = {*recipes_module.STREAMS, Placement.SEQUENTIAL}
    assert {each.placement for each in offered} == {*Placement} - one_by_one


@pytest.mark.nightly
def test_a_vae_that_the_call_casts_is_left_out_of_groups() -> None:
    """SDXL decodes in float32 what it holds in float16, and diffusers' hooks bring float16 again."""
    case = CASES["sdxl"].build()
    case.pipe.to(torch.float16)
    case.pipe.vae.register_to_config(force_upcast=True)
    found = diffprof.fit(case.pipe, check=Checks, every=True, **case.kwargs)
    grouped = [row for row in found.rows if row.recipe == ("offload:leaf",)]
    assert [row.check.status for row in grouped if row.check] == ["checked"]
    assert 'exclude_modules=["vae"]' in grouped[0].code


@pytest.mark.parametrize("norm", [torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm])
def test_layers_are_not_moved_one_by_one_where_hooks_make_weights_ahead(norm: Any) -> None:
    """As in Stable Audio's VAE: accelerate brings what the weight is made of only after that hook."""
    pipe = CASES["flux"].build().pipe
    norm(pipe.vae.decoder.conv_out)
    moved, latents = copied(pipe).vae, torch.ones(1, pipe.vae.config.latent_channels, 2, 2)
    accelerate.cpu_offload(moved, torch.device("cpu"))
    with torch.no_grad(), suppress(RuntimeError):  # spectral norm's
        assert not torch.allclose(moved.decode(latents).sample, pipe.vae.decode(latents).sample)
    offered = recipes_module.recipes(
        parts_of(pipe), load_spec("rtx4090"), None, (Decoding.WHOLE,), compilable=True
    )
    assert {each.placement for each in offered} == {*Placement} - {Placement.SEQUENTIAL}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["sdxl", *(pytest.param(n, marks=pytest.mark.nightly) for n in ("wan-t2v", "cogvideox"))]
)
def test_the_small_copy_decodes_in_tiles(name: str) -> None:
    """A tile is as large as its whole picture, or larger, else; and one that overlaps by a fifth gave
    another size."""
    checks, parts = checks_of(name, height=64, width=64)
    assert_decodes_in_tiles(checks, parts)


@pytest.mark.slow
def test_the_small_copy_decodes_sound_in_tiles() -> None:
    checks, parts = checks_of("stable-audio")
    vae = checks.twin.pipe.vae
    even = vae.from_config(vae.config, downsampling_ratios=[2, 2])  # as of real ones: tiles fit together
    checks.twin.pipe.vae = even.eval()
    assert_decodes_in_tiles(Checks(checks.twin, "rtx4090"), parts)


def assert_decodes_in_tiles(checks: Checks, parts: tuple[ModelWeights, ...]) -> None:
    tiles = FitRecipe(None, None, Placement.LEAF, Decoding.TILES, False)
    code = code_of(tiles, parts)
    assert checks.of(as_row(tiles, code)).bit_equal
    whole, tiled = (checks._beside(each).image for each in (PLAIN, plain_of(code)))
    assert whole is not None
    assert tiled is not None
    assert whole.shape == tiled.shape
    assert not np.array_equal(whole, tiled)


@pytest.mark.nightly
def test_code_that_fails_or_changes_more_than_it_says_is_not_taken() -> None:
    checks, _ = checks_of("flux")
    plain = FitRecipe(None, None, Placement.DEVICE, Decoding.WHOLE, False)
    raises = as_row(plain, "def optimize(pipe):\n    raise ValueError('no such thing')\n")
    half = as_row(plain, "import torch\ndef optimize(pipe):\n    return pipe.to('cuda', torch.float16)\n")
    rows = [replace_row(each, check=checks.of(each)) for each in (raises, half)]
    assert [each.check.status for each in rows] == ["failed", "changed"]
    assert rows[0].check.why == "ValueError: no such thing"
    good = replace_row(half, loses=(Loss.ROUNDING,), code=half.code + "\n", seconds=2.0)
    assert fitting.choose([*rows, good], lossy=True) is good
    # What fails is in nobody's way: the next one is on the frontier then, and is checked.
    said: list[str] = []
    rows = fitting.with_frontier([raises, half, good])
    found = fitting.checked(rows, checks, lambda row: row.frontier, said.append)
    assert [each.check and each.check.status for each in found] == ["failed", "changed", "checked"]
    assert [each.frontier for each in found] == [False, False, True]
    assert said == [f"checking code {place}: nothing changed" for place in ("1 of 2", "2 of 2", "3 of 3")]


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["flux", "sdxl", "sd3", "wan-t2v", "cogvideox"])
def test_all_code_that_fits_holds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes_module, "WORTH_PACKING", 1)
    case = CASES[name].build()
    found = diffprof.fit(case.pipe, device="rtx4090", check=Checks, every=True, **case.kwargs)
    told = [(each.recipe, each.check) for each in found.rows if each.fits]
    assert len(told) > 20
    wrong = {recipe: check for recipe, check in told if check is None or not check.holds}
    assert not wrong
    unknown = {recipe for recipe, check in told if check is not None and check.status == "unchecked"}
    # bitsandbytes may not be here, and a tiny model's small copy is too narrow for float8.
    assert all({"quantize:nf4-weights", "quantize:fp8"} & set(recipe) for recipe in unknown)


# --- the whole ---------------------------------------------------------------------------------------------


def fitted(**options: Any) -> Fitted:
    case = CASES["flux"].build()
    return diffprof.fit(case.pipe, **case.kwargs, **options)


@pytest.fixture(scope="module")
def found() -> Fitted:
    return fitted(device="rtx4090")


def row(found: Fitted, *recipe: str) -> FitRow:
    return next(each for each in found.rows if each.recipe == recipe)


def test_the_fastest_that_loses_nothing_one_sees_is_taken(found: Fitted) -> None:
    assert found.chosen is not None
    assert found.chosen.lossless
    assert all(found.chosen.seconds <= each.seconds for each in found.rows if each.fits and each.lossless)
    assert found.chosen.frontier
    fastest = min((each for each in found.rows if each.fits), key=lambda each: each.seconds)
    assert fitting.choose(found.rows, lossy=True) == fastest


def test_tiles_are_taken_before_fewer_bits(found: Fitted) -> None:
    plain = row(found)
    int8, tiles, rounded = (
        replace_row(plain, seconds=seconds, loses=loses)
        for seconds, loses in (
            (1.0, (Loss.ROUNDING, Loss.INT8, Loss.TILES)),
            (2.0, (Loss.ROUNDING, Loss.TILES)),
            (3.0, (Loss.ROUNDING,)),
        )
    )
    assert fitting.choose([int8, tiles, rounded], lossy=False) is rounded
    assert fitting.choose([int8, tiles], lossy=False) is tiles
    assert fitting.choose([int8], lossy=False) is int8
    assert fitting.choose([int8, tiles, rounded], lossy=True) is int8


def test_offloading_costs_time_and_saves_memory(found: Fitted) -> None:
    plain, leaf = row(found), row(found, "offload:leaf")
    assert plain.seconds < leaf.seconds
    assert plain.gpu_gib > leaf.gpu_gib
    assert plain.host_gib == 0.0 < leaf.host_gib
    assert plain.loses == leaf.loses == ()
    assert Loss.INT8_WEIGHTS in row(found, "quantize:int8-weights").loses


def test_what_is_taken_is_written_as_a_module(found: Fitted) -> None:
    space: dict[str, Any] = {}
    exec(module_of(found), space)
    assert callable(space["optimize"])
    assert "on NVIDIA GeForce RTX 4090, 24 GiB: " in space["__doc__"]
    with pytest.raises(UsageError, match="Nothing was written"):
        module_of(replace_row(found, chosen=None))


def test_sizes_are_read_in_any_unit() -> None:
    sizes = [gib_of(text, "--memory") for text in ("16", "1TiB", "24 gb", "512MiB", None)]
    assert sizes == [16.0, 1024.0, pytest.approx(22.35, abs=0.01), 0.5, None]
    for text in ("-3", "1.2.3", "much", ""):
        with pytest.raises(UsageError, match="is no size"):
            gib_of(text, "--memory")


def test_where_nothing_fits_it_says_by_how_much() -> None:
    none = fitted(memory_gib=1e-4)
    assert none.chosen is None
    assert none.lacking_gib == pytest.approx(none.smallest.gpu_gib - 0.95e-4)
    text = render_fit(none, "text")
    assert "does not fit 0.0001 GiB of NVIDIA GeForce RTX 4090" in text
    assert re.search(
        r"GiB in (the denoising loop|decoding|encoding the prompt), \S+ more than can be used",
        " ".join(text.split()),
    )
    small, light = (
        FitRow(recipe=(f"offload:{name}",), seconds=1.0, gpu_gib=gpu, host_gib=host, fits=False)
        for name, gpu, host in (("leaf", 1.0, 9.0), ("model", 2.0, 5.0))
    )
    short = replace_row(none, rows=(small, light), limit_gib=3.0, host_limit_gib=4.0)
    said = "of those that the GPU has room for, none keeps less than 5 GiB on the host, where 4 are allowed "
    assert f"{said}(model offload)." in render_fit(short, "text")
    failing = replace_row(short, rows=(replace_row(light, seconds=None, fits=True),))
    assert "no recipe has a time and code that holds" in render_fit(failing, "text")
    with pytest.raises(UsageError, match="fits nothing"):
        fitted(memory_gib=0.0)


@pytest.mark.slow
def test_a_type_that_the_gpu_has_no_units_for_is_named(found: Fitted) -> None:
    case = CASES["flux"].build()
    case.pipe.to(torch.bfloat16)
    on_turing = diffprof.fit(case.pipe, device="t4", **case.kwargs)
    said = "NVIDIA T4 has no units for bfloat16"
    assert said in render_fit(on_turing, "text")
    case.pipe.to(torch.float16)
    others = diffprof.fit(case.pipe, device="t4", **case.kwargs), found
    assert all("no units" not in render_fit(each, "text") for each in others)


def test_what_a_recipe_needs_and_what_losing_more_gains_is_told(found: Fitted) -> None:
    def row(seconds: float, gpu: float, host: float, *recipe: str, fits: bool = True, **more: Any) -> FitRow:
        return FitRow(recipe=recipe, seconds=seconds, gpu_gib=gpu, host_gib=host, fits=fits, **more)

    def said(*rows: FitRow, chosen: FitRow) -> list[str]:
        return (
            render_fit(replace_row(found, rows=rows, chosen=chosen), "text").split("\n\n")[0].splitlines()[1:]
        )

    plain, offloaded = row(3.0, 30.0, 0.0, fits=False), row(9.0, 20.0, 31.4, "offload:model")
    int8 = row(4.0, 18.0, 0.0, "quantize:int8", loses=(Loss.INT8,))
    rows = (plain, int8, offloaded)
    needs = (
        "It takes 20.0 GiB of the GPU, and 31.4 GiB of the host for weights; "
        "unchanged the call needs 30.0 GiB. 2 recipes fit."
    )
    lossy = "Faster with --lossy: 4 s with INT8, dynamic (the picture loses: INT8)."
    assert said(*rows, chosen=offloaded) == [needs, lossy]
    loses = "The picture loses: INT8. Nothing that one sees is lost in 9 s with model offload."
    assert said(*rows, chosen=int8)[1:] == [loses]
    assert said(plain, int8, chosen=int8)[1:] == ["The picture loses: INT8. Nothing that loses less fits."]
    small = replace_row(plain, fits=True)
    compiled = row(2.9, 29.0, 0.0, "compile:denoiser", loses=(Loss.ROUNDING,))
    takes = "It takes 29.0 GiB of the GPU; unchanged the call takes 3 s and 30.0 GiB. 2 recipes fit."
    assert said(compiled, small, chosen=compiled) == [takes]
    assert said(small, chosen=small) == ["It takes 30.0 GiB of the GPU. 1 recipe fits."]


@pytest.mark.nightly
def test_a_call_that_fails_in_half_precision_is_priced_as_it_is() -> None:
    """DDPM's pipeline turns its picture into NumPy's, which has no bfloat16."""
    found = diffprof.fit(f"{corpus_targets.__file__}:ddpm", steps=2)
    assert not any(step.startswith("dtype:") for row in found.rows for step in row.recipe)
    text = render_fit(found, "text")
    assert "No recipe has half precision: in it, " in text
    assert "pipeline_ddpm.py" in text
    assert "TypeError: Got unsupported ScalarType BFloat16.\n" in text


def test_a_vae_without_tiles_is_priced_whole() -> None:
    """Kandinsky 2.2's VQModel inherits `enable_tiling`, which raises there."""
    case = CASES["kandinsky22-decoder"].build()
    with pytest.raises(NotImplementedError):
        case.pipe.movq.enable_tiling()
    found = diffprof.fit(case.pipe, **case.kwargs)
    assert found.rows
    assert not any("vae:tiles" in row.recipe for row in found.rows)


def test_a_pipeline_that_offloads_already_is_refused() -> None:
    """What its own hooks copy would be in the time of each recipe."""
    case = CASES["sd15"].build()
    case.pipe.vae.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    with pytest.raises(UsageError, match="offloads its weights already"):
        diffprof.fit(case.pipe, **case.kwargs)


@pytest.mark.slow
def test_weights_that_a_factory_quantizes_are_told_as_left_out(tmp_path: Path) -> None:
    """They are priced as wide as they were before."""
    pytest.importorskip("torchao")
    factory = tmp_path / "quantized.py"
    factory.write_text(
        "from torchao.quantization import Int8WeightOnlyConfig, quantize_\n"
        "from diffprof.corpus import CASES\n"
        "def make():\n"
        "    case = CASES['sd15'].build()\n"
        "    quantize_(case.pipe.unet, Int8WeightOnlyConfig())\n"
        "    return case.pipe, case.kwargs\n"
    )
    found = diffprof.fit(f"{factory}:make")
    assert found.chosen is not None
    told = re.search(r"Left out: Int8Tensor weights \(\S*quantized.py:5\);", render_fit(found, "text"))
    assert told


@pytest.mark.slow
def test_weights_that_hooks_keep_in_float8_are_not_packed_again() -> None:
    """torchao and bitsandbytes raise on them. A copy's hooks would call the original's layers."""
    case = CASES["sd3-layerwise-float8"].build()
    found = diffprof.fit(case.pipe, check=Checks, **case.kwargs)
    assert not any(step.startswith("quantize:") for row in found.rows for step in row.recipe)
    assert found.chosen is not None
    assert found.chosen.check is not None
    assert "can't be shrunk (hooks widen weights of SD3Transformer2DModel that" in found.chosen.check.why


@pytest.mark.slow
def test_a_pipeline_that_is_compiled_already_is_priced_as_it_runs_eagerly() -> None:
    """Dynamo can't trace tensors of a simulated GPU."""
    case = CASES["sd15"].build()
    case.pipe.unet.compile()
    assert diffprof.fit(case.pipe, **case.kwargs).chosen is not None


def test_the_table_has_the_frontier_and_the_code(found: Fitted) -> None:
    text = render_fit(found, "text")
    assert "def optimize(pipe):" in text
    shown = json.loads(render_fit(found, "json"))
    assert shown["chosen"]["code"] == found.chosen.code
    assert set(shown["rows"][0]) >= {"recipe", "seconds", "gpu_gib", "host_gib", "fits", "loses", "code"}
    assert len(render_fit(found, "text", everything=True)) > len(text)


@pytest.mark.nightly
def test_flux_on_an_rtx_4090_ranks_as_diffusers_documents() -> None:
    """ "Compiling and offloading quantized models" in diffusers' guide: quantized and compiled 25.8 s and
    14.9 GB, with model offload 32.3 s and 12.2 GB, quantized alone 32.6 s and 14.9 GB."""
    flux = diffprof.fit("flux", device="rtx4090", steps=50)
    assert sum(each.fits for each in flux.rows) >= 4
    packed = "quantize:nf4-weights"
    fast, moved_, eager = (
        row(flux, packed, "compile:denoiser"),
        row(flux, packed, "offload:model", "compile:denoiser"),
        row(flux, packed),
    )
    assert fast.seconds < moved_.seconds < eager.seconds
    assert moved_.gpu_gib < fast.gpu_gib == pytest.approx(eager.gpu_gib, abs=0.5)


def in_eights(groups: Sequence[Group]) -> Iterator[Group]:
    """Blocks in groups of eight, as diffusers took them with a stream then."""
    lists = itertools.groupby(groups, lambda each: (each.root, each.path.rpartition(".")[0]))
    for (root, _), several in lists:
        if root:
            yield from several
            continue
        blocks = list(several)
        for first in range(0, len(blocks), 8):
            lead, *more = blocks[first : first + 8]
            sizes = tuple(size for each in (lead, *more) for size in each.sizes)
            yield Group(lead.path, sizes, more=tuple(each.path for each in more))


def first_time(groups: Sequence[Group], place: WeightsPlace) -> float:
    """Seconds that the first forward takes longer: cudaMalloc of a segment for each tensor of two groups, of
    which one takes 4.2 ms in the median of an A100's trace (simple-add of facebookresearch/
    HolisticTraceAnalysis), and page-locking what is kept of groups that are locked when they are copied."""
    counts = [sum(size >= MIB for size in group.sizes) for group in groups if not group.root]
    locked = kept_page_locked(groups) / PAGE_LOCKED_GB_S / 1e9 if place in LOW else 0.0
    return 4.2e-3 * max(a + b for a, b in itertools.pairwise(counts)) + locked


@pytest.mark.nightly
def test_group_offloading_of_fluxs_transformer_comes_in_the_published_order() -> None:
    """diffusers PR 11106: time leaf, block, leaf with low_cpu_mem_usage, block with it; those two keep less
    on the host; leaves take 0.53 GiB of the GPU, blocks 10.59."""
    target = fitting.resolve("flux")
    # The PR names no GPU. Assumed: an A100 on PCIe 3.0, for leaves' 22.2 GiB a forward took 1.9 s.
    a100 = replace(load_spec("a100-80gb"), link_gb_s=12.5)
    (played,) = fitting._played(target, fitting.Options(steps=4), a100, lambda _: None)
    transformer = next(part for part in played.parts if part.role == "denoiser")
    transformer = replace(transformer, blocks=tuple(in_eights(transformer.blocks)))
    call, beside = played.calls[Decoding.WHOLE]
    loop = [n for n, module in enumerate(call.modules) if (module or "").startswith("transformer")]
    items, modules = [call.items[n] for n in loop], [call.modules[n] for n in loop]
    only = Call(items, modules, [(0, "denoise", 0, "denoiser", None)])
    times, peaks, hosts = {}, {}, {}
    for place in (WeightsPlace.LEAF, WeightsPlace.BLOCK, WeightsPlace.LEAF_LOW, WeightsPlace.BLOCK_LOW):
        there = moved(only, (transformer,), {"transformer": place}, [beside[n] for n in loop])
        warm = replay(assembled(there.call, CostModel(a100, Mode()))).total_us
        times[place] = 5 / 4 * warm / 1e6 + first_time(transformer.groups(place), place)
        peaks[place], hosts[place] = there.peak / 2**30, on_host(transformer, place) / 2**30
    assert list(times) == sorted(times, key=lambda each: times[each])
    assert times[WeightsPlace.LEAF] == pytest.approx(9.48, rel=0.1)
    assert times[WeightsPlace.BLOCK] == pytest.approx(9.75, rel=0.1)
    assert peaks[WeightsPlace.LEAF] == peaks[WeightsPlace.LEAF_LOW] == pytest.approx(0.53, rel=0.05)
    assert peaks[WeightsPlace.BLOCK] == peaks[WeightsPlace.BLOCK_LOW] == pytest.approx(10.59, rel=0.05)
    assert hosts[WeightsPlace.LEAF_LOW] < hosts[WeightsPlace.BLOCK_LOW] < hosts[WeightsPlace.LEAF]
    assert hosts[WeightsPlace.LEAF] == pytest.approx(35.11, rel=0.05)
    assert hosts[WeightsPlace.BLOCK] == pytest.approx(35.30, rel=0.05)
    assert hosts[WeightsPlace.BLOCK_LOW] == pytest.approx(31.40, rel=0.03)
    assert hosts[WeightsPlace.LEAF_LOW] == pytest.approx(22.80, rel=0.05)
    # Warm, leaves and blocks that are locked when they are copied take about the same.
    warm = {place: times[place] - first_time(transformer.groups(place), place) for place in times}
    assert warm[WeightsPlace.BLOCK_LOW] == pytest.approx(warm[WeightsPlace.LEAF_LOW], rel=0.1)
    assert times[WeightsPlace.LEAF_LOW] == pytest.approx(13.72, rel=0.3)


@pytest.mark.parametrize("limit", [5, 50, 1024])
def test_launches_in_arrays_take_what_they_take_one_by_one(limit: int) -> None:
    """A busy device, a busy host, and a queue that fills up and drains again."""
    random = np.random.default_rng(limit)
    fast, slow = (_Replay(5.0, 3.0, limit, {}) for _ in range(2))
    taken = []
    for host, device in itertools.product((1.0, 18.0, 4.0), (2.0, 100.0, 8.0)):
        count = int(random.integers(64, 900))
        columns = EventColumns(
            kind=np.zeros(count, np.int64),
            module=np.zeros(count, np.int64),
            host=random.exponential(host, count),
            device=random.exponential(device, count) * (random.random(count) > 0.1),
            sync=np.full(count, -1),
            stream=np.zeros(count, np.int64),
        )
        taken.append(fast._at_once(columns))
        if not taken[-1]:
            fast._one_by_one(columns)
        slow._one_by_one(columns)
        assert (fast.now, fast.latest) == pytest.approx((slow.now, slow.latest), rel=1e-12)
        assert list(fast._ends[0]) == pytest.approx(list(slow._ends[0]), rel=1e-12)
        waits = columns._replace(sync=np.where(np.arange(count) == 9, -2, -1))
        assert not fast._at_once(waits)
        for several in (waits, waits._replace(stream=random.integers(0, 2, count))):
            one, other = fast.copy(), slow.copy()
            for _ in range(3):  # what follows the wait is known from the second time on
                one.run([several])
                other._one_by_one(several)
                assert (one.now, one.latest) == pytest.approx((other.now, other.latest), rel=1e-12)
                for stream, ends in other._ends.items():
                    left = [end for end in ends if end > other.now]
                    found = [end for end in one._ends[stream] if end > one.now]
                    assert found == pytest.approx(left, rel=1e-12)
        assert fast._rests[id(waits)][0] is waits
    assert sum(taken) >= (2 if limit == 5 else 6)


def test_one_picture_is_not_tried_in_slices() -> None:
    device = resolve_device("sim:rtx4090")
    tried = {}
    with device.active() as place:
        for batch in (1, 2):
            case = CASES["sd15"].build()
            case.pipe.to(place)
            latents = torch.zeros(batch, 4, 4, 4, device=place)
            decodes = fitting._Decodes(case.pipe, device, SimulatedKernels(device.gpu, case.pipe, Mode()))
            with decodes.noted():
                case.pipe.vae.decode(latents)
            tried[batch] = set(decodes.others)
    assert tried == {1: {Decoding.TILES}, 2: {Decoding.TILES, Decoding.SLICES}}


def test_steps_that_differ_are_taken_at_their_mean() -> None:
    steps = [("denoise", number, "scheduler", None) for number in range(3)]
    items = [linear(64, 1024, 1024), linear(640, 1024, 1024), linear(64, 1024, 1024)]
    call = Call(items, ["unet.a"] * 3, [(n, *step) for n, step in enumerate(steps)])
    course = course_of(call, [0] * 3)
    lengths = Lengths(CostModel(GPU, Mode()))
    three, six = (lengths.seconds(course, steps) for steps in (3, 6))
    assert three is not None
    assert six == pytest.approx(2 * three, rel=0.01)


@pytest.mark.parametrize(
    "place",
    [
        WeightsPlace.DEVICE,
        WeightsPlace.MODEL,
        WeightsPlace.LEAF,
        WeightsPlace.BLOCK_LOW,
        WeightsPlace.SEQUENTIAL,
    ],
)
def test_the_length_of_a_call_is_that_of_its_timeline(place: WeightsPlace) -> None:
    """Parts that come again are made and costed once; the events are those of the call item by item."""
    modules = [None, *["unet.a", "unet.b", None] * 4, "vae.decoder"]
    items = [add(8), *[LINEAR, LINEAR, add(64)] * 4, add(2048)]
    phases: list[Phase] = [(0, "encode", None, None, None), (13, "decode", None, None, None)]
    phases += [(3 * n + 1, "denoise", n, "denoiser", None) for n in range(4)]
    phases += [(3 * n + 3, "denoise", n, "scheduler", None) for n in range(4)]
    call = Call(items, modules, sorted(phases))
    there = moved(call, (UNET, VAE), dict.fromkeys(("unet", "vae"), place), [0] * 14)
    model = CostModel(GPU, Mode())
    timeline = assembled(there.call, model)
    assert len(steps_of(timeline)) == 4
    lengths = Lengths(model)
    assert lengths.seconds(there.course, None) == pytest.approx(total_us(timeline) / 1e6, rel=1e-9)
    for more in (5, 6, 9):
        longer = with_steps(timeline, more)
        assert longer is not None
        assert lengths.seconds(there.course, more) == pytest.approx(total_us(longer) / 1e6, rel=1e-6)


@pytest.mark.slow
def test_the_small_copy_is_wide_enough_for_float8() -> None:
    """PixArt's width of 1152 is 72 by 16 and 144 by 8: of the first no linear is packed."""
    device = resolve_device("sim:h100")
    with device.active():
        twin = resolve("pixart-sigma").run(fitting._twin, device, Options())
    assert isinstance(twin, Twin)
    assert (twin.factor, fitting._takes_float8(twin.call.pipe)) == (8, True)
