"""On the tiny SDXL: what is listed, and that the printed code quantizes exactly the chosen layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch

from diffprof.analyzers.quantization.apply import apply_choice
from diffprof.analyzers.quantization.inventory import (
    SAMPLE_ROWS,
    HostStopwatch,
    Layer,
    activation_rows,
    calls_by_phase,
    calls_by_step,
    keep_sample,
    list_layers,
    per_step,
    take_inventory,
)
from diffprof.analyzers.quantization.layers import scheme_of, weights_are_quantized
from diffprof.analyzers.quantization.probe import Instruments, Settings, probe_quantization
from diffprof.analyzers.quantization.source import plain_name
from diffprof.devices import resolve_device
from diffprof.judge.judging import make_report
from diffprof.model.errors import UsageError
from diffprof.model.pipeline import components
from diffprof.model.recording import Quantization
from diffprof.targets.undo import restored
from diffprof.views.quantization import render_quantization
from tests.analyzers.quantization.fakes import Price, Ticks, builder
from tests.analyzers.quantization.pipelines import (
    FakeDevice,
    add_lora,
    swap_convolutions,
    with_tiny_sdxl,
)
from tests.builders import make_recording


def modules_of(pipe):
    """Every module of every component, once."""
    parts = [part for part in components(pipe).values() if isinstance(part, torch.nn.Module)]
    return list({id(m): m for part in parts for m in part.modules()}.values())


def play(call: Any, price: Price, *, device: FakeDevice | None = None, **more: Any) -> dict[str, Any]:
    """The probe with fake timings: a layer costs 100 us, or what `price` says under a scheme."""
    ticks = Ticks()
    tools = Instruments(
        clock=ticks.seconds, stopwatch=HostStopwatch(ticks.seconds), runner=ticks, build=builder(ticks, price)
    )
    return probe_quantization(
        call, device or FakeDevice(), cache=False, budget_s=1e9, min_sqnr=-100, instruments=tools, **more
    )


def some_gain(layer: Any, scheme: Any) -> float | None:
    """int8 weight-only gains on wide layers of the UNet's shapes and on some 1x1 convolutions."""
    if scheme.key != "int8-weight-only":
        return None
    if isinstance(layer, torch.nn.Conv2d):
        return 50.0 if layer.in_channels > layer.out_channels else 150.0
    return 40.0 if layer.in_features >= 64 and layer.out_features >= 64 else 140.0


def chosen_paths(choice: Quantization) -> set[str]:
    """Names of the chosen layers as the pipeline has them before anything is changed."""
    return {plain_name(f"{s.component}.{name}") for s in choice.selections for name in s.modules}


def quantized_paths(pipe: Any) -> set[str]:
    return {
        plain_name(f"{component}.{name}")
        for component, part in pipe.components.items()
        if isinstance(part, torch.nn.Module)
        for name, module in part.named_modules()
        if weights_are_quantized(module)
    }


@contextmanager
def nothing_left_behind(pipe: Any) -> Iterator[None]:
    """Every module has the same parts, tensors and hooks after the context."""

    def state() -> list[Any]:
        return [
            (
                id(m),
                {k: id(v) for k, v in m._parameters.items()},
                {k: id(v) for k, v in m._modules.items()},
                sorted(vars(m)),
                len(m._forward_hooks),
                len(m._forward_pre_hooks),
            )
            for m in modules_of(pipe)
        ] + [sorted(vars(pipe))]

    before = state()
    yield
    assert state() == before


@pytest.fixture(scope="module")
def inventory() -> Any:
    def see(call: Any) -> Any:
        call.run()
        with nothing_left_behind(call.pipe):
            return take_inventory(call.pipe, call.run, stopwatch=HostStopwatch(), sample=True), call.pipe

    return with_tiny_sdxl(see)


@pytest.mark.slow
def test_every_linear_is_listed_called_or_not(inventory: Any) -> None:
    found, pipe = inventory
    linears = {
        f"{component}.{name}"
        for component, part in pipe.components.items()
        if isinstance(part, torch.nn.Module)
        for name, module in part.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    listed = {layer.path for layer in found.layers}
    assert linears <= listed
    assert {layer.kind for layer in found.layers if layer.path not in linears} == {"conv1x1"}
    assert any(not layer.uses for layer in found.layers), "the VAE's encoder is not called"


@pytest.mark.slow
def test_calls_are_counted_by_phase_and_step(inventory: Any) -> None:
    found, pipe = inventory
    assert found.steps == 2
    (proj_in,) = [layer for layer in found.layers if layer.path.endswith("mid_block.attentions.0.proj_in")]
    ((key, calls),) = proj_in.uses.items()
    assert calls == 2
    config = pipe.unet.config
    side = config.sample_size // 2 ** (len(config.block_out_channels) - 1)
    assert key.m == 2 * side**2, "two pictures for guidance, at the smallest resolution"
    assert calls_by_step([proj_in], key, found.steps) == (1, 1)
    assert calls_by_phase([proj_in], key) == {"denoise": 2}
    phases = {phase for key in found.counts for phase in calls_by_phase(found.layers_of(key), key)}
    assert phases >= {"encode", "denoise", "decode"}
    assert sum(found.counts.values()) == sum(sum(layer.uses.values()) for layer in found.layers)


def test_shares_are_of_the_whole_call(inventory: Any) -> None:
    found, _ = inventory
    shares = [found.share(key) for key in found.shapes()]
    assert all(share is not None and share > 0 for share in shares)
    assert sum(shares) < 1
    assert shares == sorted(shares, reverse=True)


def test_samples_hold_the_extremes(inventory: Any) -> None:
    layer = Layer("unet", "x", torch.nn.Linear(4, 4), 4, 4, "linear", False, None)
    given = torch.zeros(5, 100, 4)
    given[3, 57, 2], given[1, 8, 1] = 9.0, -9.0
    keep_sample(layer, given)
    (sample,) = layer.samples
    assert sample.shape == (SAMPLE_ROWS, 4)
    assert (sample.max(), sample.min()) == (9.0, -9.0)
    keep_sample(layer, given + 1)
    keep_sample(layer, given + 2)
    assert [s.max().item() for s in layer.samples] == [9.0, 11.0], "the first and the last call"


def test_a_picture_is_rows_of_channels() -> None:
    picture = torch.randn(2, 3, 4, 5)
    convolution = torch.nn.Conv2d(3, 7, 1)
    rows = activation_rows(picture, "conv1x1")
    linear = torch.nn.functional.linear(rows, convolution.weight[:, :, 0, 0], convolution.bias)
    torch.testing.assert_close(linear, activation_rows(convolution(picture), "conv1x1"))


# --- the printed code ----------------------------------------------------------------------------------


def fused(pipe: Any) -> None:
    pipe.fuse_qkv_projections()


def with_lora(pipe: Any) -> None:
    add_lora(pipe)


def swapped(pipe: Any) -> None:
    swap_convolutions(pipe.unet)


@pytest.fixture(
    scope="module", params=[None, fused, with_lora, swapped], ids=lambda c: c.__name__ if c else "plain"
)
def chosen(request: Any) -> tuple[Any, Quantization]:
    """A call of a changed pipeline, and the choice for it."""
    call, out = played(request.param)
    return call, out["quantization"]


@cache
def played(change: Callable[[Any], None] | None) -> tuple[Any, dict[str, Any]]:
    """A call of a changed pipeline, and what the probe gives for it."""
    call = with_tiny_sdxl(lambda call: call, steps=1)
    if change is not None:
        change(call.pipe)
    call.run()  # the libraries install hooks of their own on the first call
    with nothing_left_behind(call.pipe):
        return call, play(call, some_gain)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["script", "filter", "fqn_to_config", "apply"])
def test_the_printed_code_quantizes_exactly_the_chosen_layers(
    chosen: tuple[Any, Quantization], form: str
) -> None:
    call, choice = chosen
    pipe = call.pipe
    wanted = chosen_paths(choice)
    assert len(wanted) > 20
    assert wanted < {plain_name(layer.path) for layer in list_layers(pipe)}, "some are left out"
    with restored(pipe):
        if form in ("filter", "fqn_to_config"):
            _swap_chosen(pipe, choice)
        with torch.no_grad():
            _execute(pipe, choice, form)
        assert quantized_paths(pipe) == wanted
        if form == "script":
            call.run()


def _swap_chosen(pipe: Any, choice: Quantization) -> None:
    """The single forms quantize only; the convolutions among the chosen are swapped before."""
    from torchao.quantization import swap_conv2d_1x1_to_linear

    for selection in choice.selections:
        wanted = set(selection.modules)
        swap_conv2d_1x1_to_linear(
            getattr(pipe, selection.component),
            lambda module, fqn, wanted=wanted: isinstance(module, torch.nn.Conv2d) and fqn in wanted,
        )


def _execute(pipe: Any, choice: Quantization, form: str) -> None:
    import torchao.quantization as library

    if form == "script":
        exec(compile(choice.script or "", "pasted", "exec"), {"pipe": pipe})
        return
    if form == "apply":
        apply_choice(pipe, choice.selections)
        return
    for selection in choice.selections:
        model = getattr(pipe, selection.component)
        if form == "filter":
            names: dict[str, Any] = {}
            exec(compile(selection.filter_source, "pasted", "exec"), names)
            config = eval(selection.config, vars(library))
            library.quantize_(model, config, names["filter_fn"])
        else:
            config = eval(selection.fqn_to_config or "", dict(vars(library)))
            library.quantize_(model, config, filter_fn=None)


@pytest.mark.slow
def test_diffusers_form_loads_exactly_the_chosen_layers(tmp_path: Any) -> None:
    import torchao.quantization as library
    from diffusers import TorchAoConfig

    def linears_only(layer: Any, scheme: Any) -> float | None:
        return None if isinstance(layer, torch.nn.Conv2d) else some_gain(layer, scheme)

    def run(call: Any) -> None:
        choice = play(call, linears_only)["quantization"]
        (selection,) = [s for s in choice.selections if s.component == "unet"]
        call.pipe.unet.save_pretrained(tmp_path)
        config = eval(selection.torchao_config or "", {**vars(library), "TorchAoConfig": TorchAoConfig})
        loaded = type(call.pipe.unet).from_pretrained(
            tmp_path, quantization_config=config, torch_dtype=torch.float32
        )
        found = {name for name, module in loaded.named_modules() if weights_are_quantized(module)}
        assert found == set(selection.modules)

    with_tiny_sdxl(run, steps=1)


@pytest.mark.slow
def test_pytorchs_own_scheme_can_be_pasted_too() -> None:
    def price(layer: Any, scheme: Any) -> float:
        small = getattr(layer, "in_features", 0) < 256
        return 30.0 if scheme.key == "qint8-dynamic" and not small else 130.0

    def run(call: Any) -> None:
        choice = play(call, price)["quantization"]
        assert {s.scheme for s in choice.selections} == {"qint8-dynamic"}
        with restored(call.pipe):
            exec(compile(choice.script, "pasted", "exec"), {"pipe": call.pipe})
            assert quantized_paths(call.pipe) == chosen_paths(choice)
            names = {scheme_of(m) for m in modules_of(call.pipe) if weights_are_quantized(m)}
            assert names == {"qint8-dynamic"}
            call.run()

    with_tiny_sdxl(run, steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("units", [(), ("AVX512-VNNI",)], ids=["without VNNI", "with VNNI"])
def test_dynamic_int8_is_recommended_only_where_the_cpu_is_fast_at_it(units: tuple[str, ...]) -> None:
    """Without VNNI torchao's int8-dynamic took 9 to 45 times as long as float32 and qint8 a half to a third;
    with it, both are faster and torchao's more so."""

    def price(layer: Any, scheme: Any) -> float | None:
        if scheme.key == "int8-dynamic":
            return 40.0 if units else 900.0 + 10 * layer.in_features
        return {"qint8-dynamic": 60.0, "int8-weight-only": 105.0}.get(scheme.key)

    def run(call: Any) -> None:
        device = FakeDevice(details={"int8_instructions": units})
        out = play(call, price, device=device)
        wanted = "int8-dynamic" if units else "qint8-dynamic"
        assert {s.scheme for s in out["quantization"].selections} == {wanted}
        assert {row.scheme for row in out["linears"] if row.worth_it} == {wanted}
        report = make_report(make_recording(device=device.info(), **out))
        assert {f.rule for f in report.findings if f.rule.startswith("QNT")} == {"QNT001"}
        text = render_quantization(report.recording, "text", width=200)
        assert ("AVX512-VNNI" in text) == bool(units)
        assert ("has no fast path" in text) == (not units)
        only = play(call, price, device=device, settings={"schemes": "int8-dynamic"})
        assert bool(only["quantization"].selections) == bool(units)
        if not units:
            whys = [row.why for row in only["linears"] if "int8-dynamic" in (row.why or "")]
            assert len(whys) > 10
            assert all("times slower" in why for why in whys)

    with_tiny_sdxl(run, steps=1)


# --- the probe -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fusing_is_a_setting_and_is_undone() -> None:
    def run(call: Any) -> None:
        call.run()
        with nothing_left_behind(call.pipe):
            out = play(call, some_gain, settings={"fuse_qkv": True})
        assert out["quantization"].fused_qkv
        shapes = {(row.in_features, row.out_features) for row in out["linears"]}
        assert (64, 192) in shapes
        assert "pipe.fuse_qkv_projections()" in out["quantization"].script

    with_tiny_sdxl(run, steps=1)


@pytest.mark.slow
def test_adapters_stand_apart() -> None:
    _, out = played(with_lora)
    adapters = [row for row in out["linears"] if row.adapter]
    assert adapters
    assert all("lora_" in name for row in adapters for name in row.modules)
    assert not any("lora_" in n for row in out["linears"] if not row.adapter for n in row.modules)
    assert out["quantization"].adapters


@pytest.mark.slow
def test_what_is_quantized_already_is_timed_against_the_original() -> None:
    call, first = played(None)
    with restored(call.pipe):
        apply_choice(call.pipe, first["quantization"].selections)
        out = play(call, lambda layer, scheme: 400.0)
    rows = [row for row in out["linears"] if row.quantized == "int8-weight-only"]
    assert rows
    assert all((row.timing(row.quantized, "eager").gain_us or 0) < 0 for row in rows)
    assert not out["quantization"].selections


@pytest.mark.slow
def test_noise_is_measured_on_the_activations() -> None:
    _, out = played(None)
    noise = [value for row in out["linears"] if row.worth_it for value in row.sqnr_db.values()]
    assert noise
    assert all(25 < value < 80 for value in noise)
    assert "activations" in out["quantization"].accuracy


@pytest.mark.slow
def test_the_cache_is_the_device_s(tmp_path: Any) -> None:
    """A second scan of the same device times nothing."""
    device = resolve_device("cpu")
    runs = []
    for _ in range(2):
        ticks = Ticks()
        tools = Instruments(
            clock=ticks.seconds,
            stopwatch=HostStopwatch(ticks.seconds),
            runner=ticks,
            build=builder(ticks, some_gain),
            cache_path=tmp_path / "timings.json",
        )
        found = with_tiny_sdxl(
            lambda call, tools=tools: probe_quantization(call, device, budget_s=1e9, instruments=tools),
            steps=1,
        )
        runs.append((ticks.runs, [s.modules for s in found["quantization"].selections]))
    assert runs[0][0] > 0
    assert runs[1] == (0, runs[0][1])


def test_unknown_settings_are_named() -> None:
    with pytest.raises(UsageError, match="no setting 'fuse'"):
        Settings.of({"fuse": True})
    with pytest.raises(UsageError, match="no scheme 'int9'"):
        Settings.of({"schemes": "int8-dynamic,int9"})


def test_a_layer_of_one_loop_is_counted_per_step_of_that_loop():
    assert per_step((3, 3, 3, 0, 0, 0, 0, 0), ((0, 1, 2), (3, 4, 5, 6, 7))) == 3.0
    assert per_step((0, 0, 0, 1, 1), ((0, 1, 2), (3, 4))) == 1.0
    assert per_step((0, 0, 1), ((0, 1, 2),)) == 0.0
    assert per_step((), ()) == 0.0
