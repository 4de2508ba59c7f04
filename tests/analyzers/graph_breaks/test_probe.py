"""The probe on small pipelines: what it finds in components and in the call, and that it leaves nothing."""

from __future__ import annotations

import copy
import logging
import os
import signal
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from torch import nn

import diffprof
from diffprof.analyzers.graph_breaks.causes import kind_of
from diffprof.analyzers.graph_breaks.observe import observing
from diffprof.analyzers.graph_breaks.probe import probe_graph_breaks
from diffprof.analyzers.graph_breaks.rules import side_effect_in_graph
from diffprof.model.errors import UsageError
from diffprof.model.recording import CaptureRow
from tests.analyzers.graph_breaks.conftest import in_child
from tests.analyzers.graph_breaks.tiny import Pipe, Small, TinyCall, denoising, sdxl, small
from tests.builders import make_recording

pytestmark = pytest.mark.slow

SDXL = "diffusers/pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py"
EULER = "diffusers/schedulers/scheduling_euler_discrete.py"


def dynamo_state() -> dict[str, Any]:
    import torch._dynamo

    trace = logging.getLogger("torch.__trace")
    plain = torch._dynamo.config.get_config_copy()
    return {
        "counters": {name: dict(held) for name, held in torch._dynamo.utils.counters.items() if held},
        "config": {k: v for k, v in plain.items() if isinstance(v, bool | int | float | str)},
        "log": (trace.level, list(trace.handlers), logging.getLogger("torch._dynamo").level),
        "stance": torch._dynamo.eval_frame._stance,
        "metrics": len(torch._dynamo.utils.get_compilation_metrics()),
        "grad": torch.is_grad_enabled(),
    }


def pipe_state(call: TinyCall) -> dict[str, Any]:
    models = [part for part in call.pipe.components.values() if isinstance(part, torch.nn.Module)]
    modules = [m for part in models for m in part.modules()]
    return {
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules],
        "attributes": [sorted(vars(m)) for m in modules],
        "tensors": [(id(p), p._version) for m in modules for p in m.parameters()],
        "scheduler": sorted(vars(call.pipe.scheduler)),
        "kwargs": dict(call.kwargs),
    }


@cache
def whole_call(make: Callable[[], TinyCall]) -> dict[str, Any]:
    """One probe of everything, with the state around it."""
    import torch._dynamo
    from torch._dynamo.eval_frame import _debug_get_cache_entry_list

    call = make()
    call.run()

    def mine(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    compiled = torch.compile(mine, backend="eager")
    compiled(torch.ones(2))
    # Cache entries are Dynamo's own memory, gone after a reset: take what they hold, and let go of them.
    entries = [id(entry.code) for entry in _debug_get_cache_entry_list(mine.__code__)]
    before = dynamo_state(), pipe_state(call)
    sections = probe_graph_breaks(call, None, scope="call", cache=False)
    after = dynamo_state(), pipe_state(call)
    kept = [id(entry.code) for entry in _debug_get_cache_entry_list(mine.__code__)]
    compiled(torch.ones(2))
    frames = dynamo_state()["counters"] == after[0]["counters"]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    return {
        "sections": sections,
        "before": before,
        "after": after,
        "kept": entries and entries == kept and frames,
    }


def captures(make: Callable[[], TinyCall]) -> dict[str, CaptureRow]:
    return {row.component: row for row in whole_call(make)["sections"]["captures"]}


@pytest.mark.nightly
def test_unet_and_vae_are_fullgraph_ready() -> None:
    for name in ("unet", "vae.decode"):
        row = captures(sdxl)[name]
        assert (row.fullgraph_ready, row.graphs, row.breaks, row.failure) == (True, 1, 0, None)
        assert row.ops > 50
    assert captures(sdxl)["vae.decode"].per_step == 0.0


@pytest.mark.parametrize(
    ("make", "pipeline"),
    [
        (denoising, "tests/analyzers/graph_breaks/tiny.py"),
        pytest.param(sdxl, SDXL, marks=pytest.mark.nightly),
    ],
)
def test_the_call_breaks_where_it_is_known_to(make: Callable[[], TinyCall], pipeline: str) -> None:
    assert (captures(make)["unet"].calls, captures(make)["unet"].per_step) == (3, 1.0)
    rows = [row for row in whole_call(make)["sections"]["graph_breaks"] if row.component == "call"]
    found = {(row.site.file, row.site.function, kind_of(row)): row for row in rows}
    assert (EULER, "set_timesteps", "numpy") in found
    bar = found[pipeline, "__call__", "disabled"]
    assert "self.progress_bar(" in dict(bar.site.excerpt)[bar.site.line]
    assert bar.count == 1
    (update,) = [r for r in rows if "progress_bar.update()" in dict(r.site.excerpt).get(r.site.line, "")]
    assert update.hidden_by is not None
    assert (update.count, update.per_step) == (3, 1.0)
    assert not any(row.in_hook for row in rows)
    branch = found[EULER, "step", "branch"]
    assert "s_tmin <= sigma <= s_tmax" in dict(branch.site.excerpt)[branch.site.line]
    assert branch.code == "GB0170"
    assert (branch.count, branch.per_step) == (3, 1.0)
    assert branch.site.chain[0].file == pipeline
    lines = {(row.site.file, row.site.line, row.code) for row in rows}
    assert len(lines) == len(rows), "a cause and line are one row"


def test_the_loop_body_and_the_scheduler_step_are_captured_apart() -> None:
    rows = whole_call(denoising)["sections"]["graph_breaks"]
    for name in ("step", "scheduler.step"):
        assert any(row.component == name and row.site.file == EULER and row.per_step == 1.0 for row in rows)
        assert not captures(denoising)[name].fullgraph_ready


def test_the_phase_of_a_break_is_known_outside_the_loop_too() -> None:
    rows = whole_call(denoising)["sections"]["graph_breaks"]
    phases = {(row.component, row.site.function, row.per_step): row.phase for row in rows}
    assert phases["call", "set_timesteps", 0.0] == "prepare"
    assert phases["call", "__call__", 0.0] == "prepare"
    assert phases["call", "step", 1.0] == phases["step", "step", 1.0] == "denoise"
    assert phases["scheduler.step", "step", 1.0] == "denoise"
    assert None not in phases.values()


class Loud(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        print("loud")
        return super().forward(x)


class Phases(Pipe):
    """Its text encoder is called in a method that encodes, its VAE decodes."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = self.encode_prompt(x)
        return self.components["vae"].decode(x)

    def encode_prompt(self, x: torch.Tensor) -> torch.Tensor:
        print("prompt")
        return self.components["text_encoder"](x)


class LoudVae(Small):
    def decode(self, x: torch.Tensor) -> torch.Tensor:
        print("decoded")
        return self.linear(x)


def test_phases_of_what_is_called_once() -> None:
    pipe = Phases(text_encoder=Loud(), vae=LoudVae())
    call = TinyCall(pipe, {"x": torch.ones(2, 4)})
    sections = probe_graph_breaks(call, None, scope="call", cache=False)
    found = {(row.component, row.site.function): row.phase for row in sections["graph_breaks"]}
    assert found == {
        ("text_encoder", "forward"): "encode",
        ("vae.decode", "decode"): "decode",
        ("call", "encode_prompt"): "encode",
    }
    recording = make_recording(graph_breaks=sections["graph_breaks"])
    assert {finding.phase for finding in side_effect_in_graph(recording)} == {"encode", "decode"}


def test_a_step_counter_is_burnt_in() -> None:
    rows = [r for r in whole_call(denoising)["sections"]["recompiles"] if r.component == "scheduler.step"]
    assert {row.variation for row in rows} == {"within one call"}
    assert all("_step_index" in row.guard and row.kind == "scalar" for row in rows)
    assert rows[0].stopped_by == ("dynamic=True",)


def test_nothing_is_left_behind() -> None:
    of = whole_call(denoising)
    assert of["before"] == of["after"]
    assert of["kept"], "the caller's own compiled code is still there and valid"
    assert of["sections"]["unseen"] == ()


@pytest.mark.nightly
@pytest.mark.parametrize("device", ["cpu", "sim:a100-80gb"])
def test_a_compiled_model_of_the_users_is_not_compiled_again(device: str) -> None:
    def work() -> tuple[Any, ...]:
        torch._dynamo.utils.counters.clear()
        torch._dynamo.utils.clear_compilation_metrics()
        torch.compiler.set_stance("default")
        pipe, kwargs = (call := sdxl()).pipe, {**call.kwargs, "output_type": "latent"}
        compiled: list[Any] = []
        pipe.unet.compile(backend=lambda graph, inputs: compiled.append(graph) or graph.forward)

        def image() -> torch.Tensor:
            return pipe(**kwargs, generator=torch.Generator().manual_seed(0)).images

        first = image()
        before = {**dynamo_state(), "compiled": len(compiled), "scheduler": sorted(vars(pipe.scheduler))}
        report = diffprof.scan(pipe, device=device, analyzers=("syncs", "kernels", "graph-breaks"), **kwargs)
        again = image()
        after = {**dynamo_state(), "compiled": len(compiled), "scheduler": sorted(vars(pipe.scheduler))}
        (capture,) = report.recording.captures or ()
        changed = [name for name in before if before[name] != after[name]]
        return len(compiled), changed, torch.equal(first, again), capture.fullgraph_ready

    assert in_child(work) == (1, [], True, True)


def test_equal_blocks_are_captured_once_and_counted_every_time() -> None:
    def both() -> tuple[Any, Any]:
        from diffprof.analyzers.graph_breaks.component import capture_part
        from diffprof.analyzers.graph_breaks.observe import observing

        call = sdxl(blocks=2)
        with torch.no_grad(), observing(call.pipe) as parts:
            call.run()
        (part,) = [p for p in parts if p.name == "unet"]
        return capture_part(part), capture_part(part, fold=False)

    folded, plain = in_child(both)
    assert dict(folded.folded)["BasicTransformerBlock"] == 4
    assert not plain.folded
    assert folded.capture.whole
    assert plain.capture.whole
    assert folded.capture.ops == plain.capture.ops


class Scaled(nn.Module):
    """A break, after which a number comes again that is another one in each block."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * self.scale
        torch._dynamo.graph_break()
        return y + self.scale


def test_a_number_that_compiled_code_makes_a_tensor_of_is_made_by_no_compiled_code() -> None:
    """`torch.as_tensor` is C++, and no frame for Dynamo: nor is what stands for it on a simulated GPU."""

    def work() -> str | None:
        from diffprof.analyzers.graph_breaks.component import capture_part
        from diffprof.analyzers.graph_breaks.observe import CallSignature, Compilable
        from diffprof.analyzers.graph_breaks.signature import signature
        from diffprof.devices.simulated import simulated_gpu

        model = nn.Sequential(*(Scaled(float(n)) for n in range(2, 7)))
        with simulated_gpu():
            x = torch.ones(2, device="sim:0")
            calls = [CallSignature(signature(((x,), {})), signature(x), count=1)]
            part = Compilable("vae.decode", model, "__call__", "decoder", calls=calls, order=[0])
            return capture_part(part).capture.failure

    assert in_child(work) is None


# --- small pipelines ------------------------------------------------------------------------------------


class Deadly(Small):
    """Ends the process that captures it."""

    parent = os.getpid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.linear(x)


class Raising(Small):
    """Can't be compiled: raises while Dynamo traces it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            raise RuntimeError("not under a compiler")
        return self.linear(x)


def test_a_component_that_can_not_be_captured_is_a_gap() -> None:
    sections = probe_graph_breaks(small(good=Small(), bad=Deadly()), None)
    good, bad = sections["captures"]
    assert good.fullgraph_ready
    assert not bad.fullgraph_ready
    assert "SIGKILL" in bad.failure
    (gap,) = sections["unseen"]
    assert gap.what == "graph capture of bad"


def test_an_exception_while_tracing_is_reported_and_the_others_still_are() -> None:
    sections = probe_graph_breaks(small(bad=Raising(), good=Small()), None, cache=False)
    bad, good = sections["captures"]
    assert good.fullgraph_ready
    assert not bad.fullgraph_ready
    assert bad.failure or any("exception" in row.cause.lower() for row in sections["graph_breaks"])


def test_an_error_of_dynamo_itself_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo import variables

    def broken(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a bug in Dynamo")

    monkeypatch.setattr(variables.TorchInGraphFunctionVariable, "call_function", broken)
    sections = probe_graph_breaks(small(one=Small()), None, cache=False)
    (row,) = sections["captures"]
    assert "a bug in Dynamo" in str(row.failure)
    (gap,) = sections["unseen"]
    assert (gap.what, gap.why) == ("graph capture of one", row.failure)


def test_no_compiler_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("PATH", str(tmp_path))
    (row,) = probe_graph_breaks(small(one=Small()), None, cache=False)["captures"]
    assert row.fullgraph_ready


def test_without_fork_there_is_a_gap_and_nothing_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffprof.analyzers.graph_breaks.probe.can_fork", lambda: False)
    sections = probe_graph_breaks(small(one=Small()), None)
    assert sections["captures"] is sections["graph_breaks"] is sections["recompiles"] is None
    assert sections["unseen"]


@pytest.mark.parametrize("wrong", [{"scope": "everything"}, {"vary": {"colour": ["red"]}}])
def test_wrong_requests(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as error:
        probe_graph_breaks(small(one=Small()), None, **wrong)
    assert error.value.hint


def test_a_varied_size_recompiles_and_the_call_is_given_back() -> None:
    call = small(one=Small())
    kwargs = dict(call.kwargs)
    (row,) = probe_graph_breaks(call, None, vary={"x": [torch.ones(3, 4)]}, cache=False)["recompiles"]
    assert (row.component, row.kind, row.count) == ("one", "shape", 1)
    assert "mark_dynamic" in row.stopped_by
    assert call.kwargs == kwargs


def test_copies_of_a_scheduler_are_followed_and_step_on_their_own() -> None:
    """As SkyReels does, with a scheduler for each frame."""
    scheduler = UniPCMultistepScheduler()
    pipe = Pipe(scheduler=scheduler)
    with observing(pipe) as parts:
        scheduler.set_timesteps(3)
        frames = [copy.deepcopy(scheduler) for _ in range(2)]
        for timestep in scheduler.timesteps:
            for frame in frames:
                frame.step(torch.ones(1, 1, 2), timestep, torch.ones(1, 1, 2))
    assert [frame.step_index for frame in frames] == [3, 3]
    assert scheduler.step_index is None
    (part,) = [each for each in parts if each.name == "scheduler.step"]
    assert sum(call.in_loop for call in part.calls) > 0
    assert "step" not in vars(scheduler)
    assert "followed" not in repr(UniPCMultistepScheduler.step)


class ManyPasses(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number in range(40):
            print("each pass")
            if number == 30:
                print("late")
        return super().forward(x)


def test_what_the_search_for_hidden_breaks_did_not_come_to_is_said() -> None:
    call = TinyCall(Pipe(unet=ManyPasses()), {"x": torch.ones(2, 4)})
    sections = probe_graph_breaks(call, None, cache=False)
    (row,) = sections["graph_breaks"]
    (left,) = sections["unseen"]
    assert left.what == "further graph breaks of unet in forward"
    assert (left.kind, left.site.line) == ("gap", row.site.line)
