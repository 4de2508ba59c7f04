from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffprof.gpu.assembly import COMPILED_LAUNCH_US, GRAPH_CALL_US, GUARD_SHARE, modules_entered
from diffprof.gpu.cost import CostModel
from diffprof.gpu.fusion import chains, fuse
from diffprof.gpu.mode import Mode
from diffprof.gpu.specs import load_spec
from diffprof.gpu.timeline_builder import (
    ModuleStack,
    TimelineBuilder,
    gap_rows,
    kernel_rows,
)
from diffprof.judge.timeline import replay
from tests.devices.simulated.signatures import add, conv, linear, meta, op

A100 = load_spec("a100-80gb")
EAGER = CostModel(A100, Mode())
COMPILED = CostModel(A100, Mode(compiled=("unet",)))

LINEAR, ADD = linear(2048, 1280, 1280), add(2048, 1280)
UPLOAD = op("copy_", [meta(64, device="cpu")], meta(64), direction="h2d", nbytes=128)


def step(builder: TimelineBuilder, number: int) -> None:
    builder.phase("denoise", number, "denoiser")
    builder.op(LINEAR, "unet.blocks.0.to_q")
    builder.op(ADD, "unet.blocks.0")
    builder.phase("denoise", number, "scheduler")
    builder.op(ADD, None)


def test_operations_become_events_in_host_order() -> None:
    builder = TimelineBuilder(EAGER)
    builder.phase("encode")
    builder.op(LINEAR, "text_encoder")
    step(builder, 0)
    timeline = builder.finish()
    assert [timeline.kinds[k].name for k in timeline.kind] == ["linear", "linear", "add", "add"]
    assert [timeline.modules[m] if m >= 0 else None for m in timeline.module] == [
        "text_encoder",
        "unet.blocks.0.to_q",
        "unet.blocks.0",
        None,
    ]
    assert [(s.name, s.step, s.part, s.first, s.last) for s in timeline.phases] == [
        ("encode", None, None, 0, 1),
        ("denoise", 0, "denoiser", 1, 3),
        ("denoise", 0, "scheduler", 3, 4),
    ]
    assert timeline.launch_latency_us == A100.launch_latency_us


def test_each_distinct_operation_is_one_kind() -> None:
    builder = TimelineBuilder(EAGER)
    for number in range(5):
        step(builder, number)
    timeline = builder.finish()
    assert len(timeline.kind) == 15
    assert sorted(kind.name for kind in timeline.kinds) == ["add", "linear"]


def test_a_wait_belongs_to_the_copy_before_it() -> None:
    builder = TimelineBuilder(EAGER)
    builder.op(UPLOAD, None)
    builder.blocking("upload")
    builder.op(UPLOAD, None)
    builder.blocking("other")
    builder.op(ADD, None)
    timeline = builder.finish({"upload": 3})
    assert timeline.sync == (3, -2, -1)
    assert "Pageable" in timeline.kinds[timeline.kind[0]].name


def test_a_wait_without_a_copy_is_an_event_of_its_own() -> None:
    builder = TimelineBuilder(EAGER)
    builder.blocking("read", times=2)
    builder.op(ADD, None)
    timeline = builder.finish()
    assert timeline.sync == (-2, -2, -1)
    assert timeline.kind[:2] == (-1, -1)


def test_a_copy_without_a_wait_is_from_pinned_memory() -> None:
    builder = TimelineBuilder(EAGER)
    builder.op(UPLOAD, None)
    timeline = builder.finish()
    assert timeline.sync == (-1,)
    assert "Pinned" in timeline.kinds[0].name


def test_module_calls_cost_host_time() -> None:
    builder = TimelineBuilder(EAGER)
    builder.op(ADD, "unet.blocks.0.to_q")  # unet, blocks.0 and to_q are entered
    builder.op(ADD, "unet.blocks.0.to_q")
    builder.op(ADD, "unet.blocks.0.to_k")
    spent = builder.finish().host_us
    one, module = EAGER.host.op_us, EAGER.host.module_us
    assert spent == (one + 3 * module, one, one + module)


@pytest.mark.parametrize(
    ("before", "path", "entered"),
    [
        (None, "unet", 1),
        ("unet.a", "unet.a", 0),
        ("unet.a.0.to_q", "unet.a.1.to_k", 2),
        ("unet.a.0.to_q", "unet.a.0", 0),
        ("unet", None, 0),
    ],
)
def test_modules_entered(before: str | None, path: str | None, entered: int) -> None:
    assert modules_entered(before, path) == entered


def test_further_kernels_of_an_operation_cost_a_launch() -> None:
    builder = TimelineBuilder(EAGER)
    builder.op(conv(last=False), None)
    timeline = builder.finish()
    assert len(timeline.kind) == 4
    assert timeline.host_us[1] < timeline.host_us[0]


# --- compiled --------------------------------------------------------------------------------------------


def compiled_step(model: CostModel) -> list[str]:
    builder = TimelineBuilder(model)
    for number in range(2):
        step(builder, number)
    timeline = builder.finish()
    return [timeline.kinds[k].name for k in timeline.kind]


def test_compiled_parts_are_fused_and_the_rest_is_not() -> None:
    assert compiled_step(COMPILED) == ["linear", "triton_add", "add"] * 2


def test_a_graph_is_one_launch_for_the_host() -> None:
    builder = TimelineBuilder(COMPILED)
    step(builder, 0)
    timeline = builder.finish()
    eager = TimelineBuilder(EAGER)
    step(eager, 0)
    guards = GUARD_SHARE * sum(eager.finish().host_us[:2])
    assert timeline.host_us[:2] == (pytest.approx(guards + GRAPH_CALL_US), 0.0)
    assert timeline.mode == "compiled"
    assert timeline.eager_kernels == 3


def test_without_graphs_every_kernel_is_launched() -> None:
    builder = TimelineBuilder(CostModel(A100, replace(COMPILED.mode, graphs=False)))
    step(builder, 0)
    timeline = builder.finish()
    assert timeline.host_us[0] > timeline.host_us[1] == COMPILED_LAUNCH_US


def test_a_compiled_part_does_not_reach_over_phases() -> None:
    builder = TimelineBuilder(COMPILED)
    for number in (0, 1):
        builder.phase("denoise", number, "denoiser")
        builder.op(ADD, "unet")
    assert len(builder.finish().kind) == 2


def test_chains_end_at_library_calls() -> None:
    norm = op("layer_norm", [meta(8, 4)], meta(8, 4))
    found = [
        [o.name for o in chain] for chain, _ in chains((o, n) for n, o in enumerate([ADD, norm, LINEAR, ADD]))
    ]
    assert found == [["aten::add", "aten::layer_norm"], ["aten::linear"], ["aten::add"]]


def test_fusing_saves_the_trips_between() -> None:
    x = meta(2048, 1280)
    gelu, mul = op("gelu", [x], x), op("mul", [x, x], x)
    size = 2048 * 1280 * 2
    kernel = fuse([gelu, mul], COMPILED)
    # gelu's input and mul's other factor are read, the product is written: three instead of five.
    assert kernel.bytes == 3 * size
    apart = sum(k.device_us for o in (gelu, mul) for k in EAGER.kernels(o))
    assert kernel.device_us < apart


def test_the_input_of_a_norm_is_kept() -> None:
    x = meta(2048, 1280)
    norm = op("layer_norm", [x], x)
    size = 2048 * 1280 * 2
    # Residual and branch are read; their sum and the norm are written.
    assert fuse([ADD, norm], COMPILED).bytes == 4 * size
    assert fuse([norm], COMPILED).bytes == 2 * size


def test_int8_is_chosen_by_module_and_shape() -> None:
    mode = replace(COMPILED.mode, quantizes=lambda module, depth, columns, kind: depth == 1280)
    assert compiled_step(CostModel(A100, mode))[:2] == ["quantize_activation", "linear"]
    never = replace(COMPILED.mode, quantizes=lambda module, depth, columns, kind: module == "unet.other")
    assert compiled_step(CostModel(A100, never))[0] == "linear"


@pytest.mark.parametrize("wanted", ["conv1x1", "linear"])
def test_a_1x1_convolution_that_is_quantized_runs_as_a_linear(wanted: str) -> None:
    seen = []

    def choose(module: str | None, depth: int, columns: int, kind: str) -> bool:
        seen.append((module, depth, columns, kind))
        return kind == wanted

    model = CostModel(A100, replace(COMPILED.mode, quantizes=choose))
    builder = TimelineBuilder(model)
    builder.phase("denoise", 0, "denoiser")
    x, bias = meta(2, 2560, 32, 32, last=True), meta(1280)
    one = op("conv2d", [x, meta(1280, 2560, 1, 1), bias], meta(2, 1280, 32, 32, last=True))
    for _ in range(2):
        builder.op(one, "unet.up_blocks.0.resnets.0.conv_shortcut")
    builder.op(conv(last=True), "unet.conv_in")
    timeline = builder.finish()
    assert seen[0] == ("unet.up_blocks.0.resnets.0.conv_shortcut", 2560, 1280, "conv1x1")
    assert len(seen) == 2, "a 3x3 convolution is never asked about"
    names = [timeline.kinds[kind].name for kind in timeline.kind]
    if wanted == "linear":
        assert names == ["conv2d", "conv2d", "conv2d"]
        return
    assert names == ["quantize_activation", "linear"] * 2 + ["conv2d"]
    alone = model.kernels(linear(2048, 2560, 1280), compiled=True, quantized=True)
    assert timeline.device_us[:2] == pytest.approx([kernel.device_us for kernel in alone])


# --- memory ----------------------------------------------------------------------------------------------


def test_memory_by_phase_and_step() -> None:
    builder = TimelineBuilder(EAGER)
    builder.start_memory(1000)
    builder.phase("denoise", 0, "denoiser")
    builder.alloc(500, 1)
    builder.free(500, 1)
    builder.phase("denoise", 1, "denoiser")
    builder.alloc(100, 2)
    builder.phase("decode")
    builder.alloc(700, 3)
    found = builder.memory(weights=1000)
    assert (found.peak_bytes, found.weights_bytes) == (1800, 1000)
    assert found.by_phase == {"prepare": 1000, "denoise": 1500, "decode": 1800}
    assert found.by_step == (1000, 1100)


def test_workspaces_count_while_their_operation_runs() -> None:
    builder = TimelineBuilder(EAGER)
    builder.start_memory(0)
    builder.op(conv(last=False), None)
    assert builder.memory().peak_bytes == EAGER.workspace(conv(last=False))
    assert builder.memory().by_phase["prepare"] > 0


# --- rows ------------------------------------------------------------------------------------------------


def test_rows_add_up_to_the_timeline() -> None:
    builder = TimelineBuilder(EAGER)
    for number in range(3):
        step(builder, number)
    timeline = builder.finish()
    rows = kernel_rows(timeline)
    assert sum(row.device_us for row in rows) == pytest.approx(sum(timeline.device_us))
    assert sum(row.count for row in rows) == 9
    assert sum(row.share or 0 for row in rows) == pytest.approx(1.0)
    assert [row.device_us for row in rows] == sorted((row.device_us for row in rows), reverse=True)
    run = replay(timeline)
    idle = sum(gap.duration_us for gap in gap_rows(timeline, at_least_us=0.0))
    assert idle + run.device_busy_us == pytest.approx(run.total_us)


def test_modules_are_followed_and_let_go() -> None:
    seen: list[str | None] = []

    class Inner(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(stack.path)
            return x

    inner = Inner()
    outer = torch.nn.Sequential(inner, torch.nn.Identity())
    stack = ModuleStack({id(outer): "net", id(inner): "net.0"})
    with stack.following():
        outer(torch.zeros(1))
        seen.append(stack.path)
    assert seen == ["net.0", None]
    outer(torch.zeros(1))
    assert seen[-1] is None  # no hook is left
    with pytest.raises(RuntimeError), stack.following():
        torch.nn.Sequential(torch.nn.Linear(3, 3))(torch.zeros(1, 2))
    assert stack.path is None
