"""What torch 2.13 makes of what users do to pipelines (diffusers 0.42, peft 0.21, accelerate 1.15)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from accelerate import cpu_offload

from diffprof.analyzers.graph_breaks.advice import ADVICE
from diffprof.analyzers.graph_breaks.causes import kind_of
from diffprof.analyzers.graph_breaks.probe import probe_graph_breaks
from diffprof.analyzers.graph_breaks.rules import hook_in_graph
from diffprof.scanning.scan import scan_target
from tests.analyzers.graph_breaks.real_cases import CASES, group_offload, layerwise_casting, lora
from tests.analyzers.graph_breaks.tiny import sdxl
from tests.builders import make_recording

WHOLE = {
    "freeu": {"unet"},
    "attention_slicing": {"unet"},
    "vae_tiling": {"unet", "vae.decode"},
    "lora": {"unet"},
    "cpu_offload": set(),
    "controlnet": {"unet", "controlnet"},
    "ip_adapter": {"unet"},
}
"""Components that are captured as one graph."""

ADVICE_TEXT = {key: text for key, _, text, _ in ADVICE}

PARTS = {**WHOLE, "cpu_offload": {"unet", "vae.decode"}}


@cache
def probed(name: str) -> dict[str, Any]:
    return probe_graph_breaks(CASES[name](), None, cache=False, cures=False)


QUICK = {"lora", "cpu_offload"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.nightly) for n in CASES]
)
def test_each_case_is_reported_as_it_is(name: str) -> None:
    sections = probed(name)
    captures = {row.component: row for row in sections["captures"]}
    assert set(captures) == PARTS[name]
    assert {n for n, row in captures.items() if row.fullgraph_ready} == WHOLE[name]
    assert not any(row.failure for row in captures.values())
    assert len(sections["graph_breaks"]) == len(PARTS[name]) - len(WHOLE[name])
    assert sections["unseen"] == ()


@pytest.mark.slow
def test_offloading_breaks_at_its_hook_in_every_call() -> None:
    rows = probed("cpu_offload")["graph_breaks"]
    assert {(row.component, kind_of(row), row.code, row.per_step) for row in rows} == {
        ("unet", "hook", "GB0098", 1.0),
        ("vae.decode", "hook", "GB0098", 0.0),
    }
    assert {row.site.file for row in rows} == {"accelerate/hooks.py"}
    (finding,) = hook_in_graph(make_recording(graph_breaks=rows))
    assert (finding.per_step, finding.count) == (1.0, 3)


def hook_lines(file: str) -> dict[int, str]:
    source = (Path(diffusers.__file__).parent / "hooks" / file).read_text().splitlines()
    return dict(enumerate(source, 1))


@pytest.mark.nightly
def test_group_offloading_breaks_where_a_group_is_moved() -> None:
    call = group_offload()
    hooked = [m for m in call.pipe.unet.modules() if hasattr(m, "_diffusers_hook")]
    moved = sum("group_offloading" in m._diffusers_hook.hooks for m in hooked)
    sections = probe_graph_breaks(call, None, cache=False)
    rows = sections["graph_breaks"]
    lines = hook_lines("group_offloading.py")
    found = {lines[row.site.line].strip(): row for row in rows}
    assert set(found) == {"self.group.onload_()", "self.group.offload_()"}
    assert len(rows) == 2
    for row in rows:
        assert (row.component, kind_of(row), row.code, row.phase) == ("unet", "hook", "GB0099", "denoise")
        assert row.site.file == "diffusers/hooks/group_offloading.py"
        assert 1 < (row.per_step or 0) <= moved
        assert row.count == 3 * (row.per_step or 0)
    (capture,) = sections["captures"]
    assert not capture.fullgraph_ready
    for finding in hook_in_graph(make_recording(graph_breaks=rows)):
        assert finding.fixes == ("replace-offload",)
        assert "weights on the device" in finding.advice


@pytest.mark.nightly
def test_layerwise_casting_breaks_around_every_layer() -> None:
    call = layerwise_casting()
    cast = sum(
        "layerwise_casting" in m._diffusers_hook.hooks
        for m in call.pipe.unet.modules()
        if hasattr(m, "_diffusers_hook")
    )
    rows = probe_graph_breaks(call, None, cache=False)["graph_breaks"]
    lines = hook_lines("layerwise_casting.py")
    assert {(lines[row.site.line].strip().partition("(")[0], row.site.function) for row in rows} == {
        ("module.to", "pre_forward"),
        ("module.to", "post_forward"),
    }
    assert {kind_of(row) for row in rows} == {"hook"}
    assert {row.per_step for row in rows} == {cast}
    for finding in hook_in_graph(make_recording(graph_breaks=rows)):
        assert finding.fixes == ("one-type-of-weights",)
        assert "Float8WeightOnlyConfig" in ADVICE_TEXT["one-type-of-weights"]


@pytest.mark.nightly
def test_swapping_and_scaling_adapters() -> None:
    call = lora()
    changes = {"lora_scale": [0.5], "adapter": ["two"], "cross_attention_kwargs": [{"scale": 0.5}]}
    sections = probe_graph_breaks(call, None, vary=changes, cache=False)
    rows = {row.variation: row for row in sections["recompiles"] if row.component == "unet"}
    swap, scale = rows["adapter=two"], rows["lora_scale=0.5"]
    passed = rows["cross_attention_kwargs={'scale': 0.5}"]
    assert "scaling['one']" in scale.guard
    assert scale.kind == "scalar"
    assert scale.stopped_by == ("dynamic=True",)
    assert swap.kind in ("type", "identity")
    assert swap.stopped_by == ()
    assert "cross_attention_kwargs" in passed.guard
    assert call.pipe.get_active_adapters() == ["one"], "the pipeline is as it was"
    assert {layer.scaling["one"] for layer in call.pipe.unet.modules() if hasattr(layer, "scaling")} == {1.0}


FACTORY = """
from tests.analyzers.graph_breaks.tiny import sdxl

def make():
    call = sdxl()
    call.pipe.enable_sequential_cpu_offload()
    return call.pipe, {**call.kwargs, "output_type": "latent"}
"""


def compiled_offloaded() -> tuple[int, int]:
    """Graphs that Dynamo makes of the offloaded UNet, compiled as its user would, and how often they run in a
    call."""
    pipeline_call = sdxl()
    given: list[Any] = []
    runs: list[int] = []
    unet = pipeline_call.pipe.unet
    with unet.register_forward_pre_hook(lambda _, *call: given.append(call), with_kwargs=True):
        pipeline_call.run()
    cpu_offload(unet, execution_device=torch.device("cpu"))

    def backend(graph: Any, inputs: Any) -> Any:
        runs.append(0)
        at = len(runs) - 1

        def run(*args: Any) -> Any:
            runs[at] += 1
            return graph.forward(*args)

        return run

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(unet, backend=backend)(*given[0][0], **given[0][1])
    torch._dynamo.reset()
    return len(runs), sum(runs)


@pytest.mark.nightly
def test_sequential_offloading_breaks_around_every_layer(tmp_path: Path) -> None:
    """It needs another device than the CPU (accelerate 1.15), as the simulated one is."""
    factory = tmp_path / "offloaded.py"
    factory.write_text(FACTORY)
    report = scan_target(
        f"{factory}:make", device="sim:a100-80gb", analyzers=("graph-breaks",), settings={"cache": False}
    )
    (row,) = report.recording.graph_breaks or ()
    assert (row.component, kind_of(row), row.code, row.site.file) == (
        "unet",
        "hook",
        "GB0098",
        "accelerate/hooks.py",
    )
    # One hook before and one after each module with weights of its own, and the model.
    own = sum(any(True for _ in m.parameters(recurse=False)) for m in sdxl().pipe.unet.modules())
    assert row.per_step == 2 * (own + 1)
    (capture,) = report.recording.captures or ()
    assert (capture.graphs, capture.regions_per_call) == compiled_offloaded()
    assert not capture.fullgraph_ready
    (finding,) = [f for f in report.findings if f.rule == "GRB008"]
    assert finding.saves_ms is not None
    assert finding.saves_ms > 0.0
