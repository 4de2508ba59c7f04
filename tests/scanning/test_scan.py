"""The flow from a target to a report: live pipelines, watching, planted syncs, failures half-way."""

from __future__ import annotations

import random
import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

import diffprof
from diffprof.model.errors import TargetError, UsageError
from diffprof.model.progress import Progress
from diffprof.scanning.scan import scan_target, scheduler_table
from diffprof.scanning.session import eager_compiled_parts
from diffprof.targets import Options, from_object
from diffprof.targets.factory import FunctionTarget

CALL = {
    "prompt": "a photo of a cat",
    "num_inference_steps": 3,
    "height": 64,
    "width": 64,
    "output_type": "np",
}


class SigmasOnDevice(EulerDiscreteScheduler):
    """The classic: sigmas stay on the device and Python reads them by index in every step."""

    def set_timesteps(self, *args, **kwargs):
        super().set_timesteps(*args, **kwargs)
        self.sigmas = self.sigmas.to(self.timesteps.device)

    def step(self, model_output, timestep, sample, return_dict=True, **kwargs):
        if self.step_index is None:
            self._init_step_index(timestep)
        sigma = self.sigmas[self.step_index].item()
        dt = float(self.sigmas[self.step_index + 1]) - sigma
        self._step_index += 1
        return (sample + model_output * dt,)


@pytest.fixture(scope="module")
def built():
    """tiny-sdxl on the CPU with real random values."""
    from diffprof.devices import resolve_device
    from diffprof.targets import resolve

    device = resolve_device("cpu")
    held = []
    resolve("tiny-sdxl").run(lambda call: held.append(call.pipe), device, Options())
    return held[0]


@pytest.fixture
def pipe(built):
    own = built.scheduler
    yield built
    built.scheduler = own


class Stages(Progress):
    """Keeps the names of the stages."""

    def __init__(self) -> None:
        self.named: list[str] = []

    def stage(self, name: str, total: int | None = None) -> None:
        if name != "reading the profiler's trace (MB)":
            self.named.append(name)


def in_order(*measured: str) -> list[str]:
    """Stages of a scan; measured: those of a device that measures."""
    steps = [f"denoising, step {step + 1}" for step in range(CALL["num_inference_steps"])]
    ran = ["building the pipeline", "encode", "prepare", *steps, "decode", "postprocess"]
    judged = ["looking at the set-up", "judging what was recorded"]
    return [*ran, "summing up the call", *measured, *judged]


def process_state():
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        list(warnings.filters),
        torch.Generator,
        torch.tensor,
        torch.Tensor.data,
        torch.cuda.is_available,
        torch.nn.Module.__call__,
        torch.is_grad_enabled(),
    )


@pytest.mark.slow
def test_a_live_pipeline_is_scanned_and_given_back(pipe):
    before = process_state()
    parameters = {name: p.data_ptr() for name, p in pipe.unet.named_parameters()}
    attributes = set(vars(pipe.scheduler)), set(vars(pipe))
    report = diffprof.scan(pipe, device="sim:a100-80gb", **CALL)
    assert report.recording.syncs
    assert [f for f in report.in_loop if f.rule.startswith("SYN")] == []
    assert {name: p.data_ptr() for name, p in pipe.unet.named_parameters()} == parameters
    assert (set(vars(pipe.scheduler)), set(vars(pipe))) == attributes
    assert process_state() == before
    image = pipe(**CALL).images
    assert np.isfinite(image).all()


@pytest.mark.slow
def test_sigmas_on_the_device_are_found_and_named(pipe):
    pipe.scheduler = SigmasOnDevice.from_config(pipe.scheduler.config)
    report = diffprof.scan(pipe, device="sim:a100-80gb", **CALL)
    reads = [f for f in report.in_loop if f.rule == "SYN001"]
    assert [f.per_step for f in reads] == [1.0, 1.0]
    for finding in reads:
        assert "`scheduler.sigmas` is on the device" in finding.message
        assert finding.site is not None
        assert finding.site.file.endswith("test_scan.py")
        assert finding.site.user_code
        assert finding.site.module == "scheduler"
        assert finding.site.chain[-1].function == "test_sigmas_on_the_device_are_found_and_named"
        assert ".sigmas[" in dict(finding.site.excerpt)[finding.site.line]
    assert len(report.recording.sources) == 1


@pytest.mark.slow
def test_the_same_syncs_with_real_values_on_the_cpu(pipe):
    pipe.scheduler = SigmasOnDevice.from_config(pipe.scheduler.config)
    simulated, real = (
        diffprof.scan(pipe, device=device, analyzers=("syncs",), **CALL).recording
        for device in ("sim:a100-80gb", "cpu")
    )
    key = [(r.kind, r.site.file, r.site.line, r.by_step, r.count) for r in simulated.syncs or ()]
    assert [(r.kind, r.site.file, r.site.line, r.by_step, r.count) for r in real.syncs or ()] == key
    assert next(p.device.type for p in pipe.unet.parameters()) == "cpu"


@pytest.mark.slow
def test_a_real_call_is_timed_clean_and_profiled(pipe, tmp_path):
    before = process_state()
    target = from_object(pipe, kwargs=CALL)
    stages = Stages()
    recording = scan_target(target, device="cpu", trace_folder=tmp_path, progress=stages).recording
    assert stages.named == in_order("timing clean calls", "profiling one call")
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]
    assert list(recording.seconds) == ["import", "build", "scan", "timing", "profile", "setup"]
    assert recording.timing is not None
    assert recording.timing.grade == "measured"
    assert len(recording.timing.seconds) == 3 or recording.timing.doubts, "more only where they differ"
    rows = recording.kernels or ()
    assert {row.phase for row in rows} == {"encode", "prepare", "denoise", "decode", "postprocess"}
    assert {(row.module or "").split(".")[0] for row in rows} >= {"unet", "vae", "text_encoder"}
    matmuls = [row for row in rows if row.op == "aten::addmm" and row.phase == "denoise"]
    assert all(row.device_us > 0 and row.shape for row in matmuls)
    spent = sum(row.device_us for row in rows) / 1e6
    assert 0.2 * min(recording.timing.seconds) < spent < 5 * max(recording.timing.seconds)
    assert recording.timeline is None
    assert recording.memory is not None
    assert recording.memory.peak_bytes > recording.memory.weights_bytes > 0
    assert len(recording.memory.by_step) == recording.target.steps
    assert process_state() == before


@pytest.mark.nightly
def test_a_profiler_that_fails_leaves_the_timing_and_says_so(pipe, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("CUPTI_ERROR_NOT_INITIALIZED")

    monkeypatch.setattr("diffprof.analyzers.kernels.probe.profiled_call", broken)
    recording = diffprof.scan(pipe, device="cpu", **CALL).recording
    assert recording.timing is not None
    assert recording.kernels is None
    (lost,) = [each for each in recording.unseen if "profiler" in each.why]
    assert lost.why == "the profiler failed: RuntimeError: CUPTI_ERROR_NOT_INITIALIZED"
    assert recording.syncs


def test_watching_records_the_calls_made_inside(pipe):
    with diffprof.watch(pipe, device="sim:h100") as watch:
        pipe(**CALL)
        assert watch.report is None
    assert watch.report is not None
    assert watch.report.recording.device.spec == "sim:h100"
    assert len(watch.report.recording.syncs or ()) == 6
    assert next(pipe.unet.parameters()).device.type == "cpu"
    assert "H100" in watch.report.recording.device.name


@pytest.mark.nightly
def test_watching_on_a_simulated_gpu_costs_what_a_scan_says(pipe):
    with diffprof.watch(pipe, device="sim:h100") as watch:
        pipe(**CALL)
    scanned = diffprof.scan(pipe, device="sim:h100", analyzers=("syncs", "kernels"), **CALL)

    def costs(report):
        return [(found.rule, found.where, found.blocked_ms, found.saves_ms) for found in report.findings]

    assert costs(watch.report) == costs(scanned)
    assert any(saved for _, _, _, saved in costs(scanned))
    assert watch.report.recording.timing.seconds == scanned.recording.timing.seconds
    assert "a call of 3 steps (simulated" in watch.report.render()
    with diffprof.watch(pipe, device="sim:h100") as twice:
        pipe(**CALL)
        pipe(**CALL)
    (one,), (two,) = watch.report.recording.timing.seconds, twice.report.recording.timing.seconds
    assert two == pytest.approx(2 * one, rel=0.05)


def waits(report):
    return [(row.kind, row.site.file, row.site.line, row.count) for row in report.recording.syncs or ()]


@pytest.mark.nightly
@pytest.mark.parametrize("device", ["cpu", "sim:a100-80gb"])
def test_inference_mode_around_the_call_or_the_scan_changes_nothing(pipe, device):
    expected = waits(diffprof.scan(pipe, device=device, analyzers=("syncs",), **CALL))
    assert len(expected) == 6
    with diffprof.watch(pipe, device=device) as watch, torch.inference_mode():
        pipe(**CALL)
    assert waits(watch.report) == expected
    with torch.inference_mode():
        assert waits(diffprof.scan(pipe, device=device, analyzers=("syncs",), **CALL)) == expected
    assert not any(parameter.is_inference() for parameter in pipe.unet.parameters())


SCRIPT = """
import torch
from diffprof.corpus import CASES

case = CASES["sdxl"].build()
if torch.cuda.is_available():
    case.pipe.to("cuda")
with torch.inference_mode():
    case.pipe(**case.kwargs)
"""


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "sim:a100-80gb"])
def test_a_script_that_calls_in_inference_mode(device, tmp_path):
    found = []
    for text in (SCRIPT, SCRIPT.replace("inference_mode", "no_grad")):
        file = tmp_path / "script.py"
        file.write_text(text)
        found.append(waits(scan_target(str(file), device=device, analyzers=("syncs",))))
    assert found[0] == found[1]
    assert len(found[0]) == 6


@pytest.mark.slow
def test_a_scan_by_name_takes_the_commands_options():
    chosen = Options(dtype="bfloat16", call={"height": 64})
    report = diffprof.scan("tiny-sdxl", scheduler="DDIMScheduler", steps=2, width=64, options=chosen)
    target = report.recording.target
    assert target.steps == 2
    assert (target.call["height"], target.call["width"]) == (64, 64)
    assert {f.rule for f in report.in_loop} >= {"SYN002"}
    assert {c.dtype for c in target.components if c.name == "unet"} == {"bfloat16"}


@pytest.mark.slow
def test_a_scan_by_name_takes_call_arguments():
    given = {"num_inference_steps": 2, "output_type": "latent", "latents": torch.zeros(1, 4, 32, 32)}
    report = diffprof.scan("tiny-sdxl", device="sim:a100-80gb", **given)
    assert report.recording.target.steps == 2
    assert report.recording.target.dtypes == {"latents": "float32"}
    assert "latent" in str(report.recording.target.call)
    assert "tiny-sdxl" in repr(report)


class Breaks(EulerDiscreteScheduler):
    raises: BaseException = ValueError("the third step is too far")

    def step(self, *args, **kwargs):
        out = super().step(*args, **kwargs)
        if self.step_index == 3:
            raise self.raises
        return out


@pytest.mark.parametrize("raised", [ValueError("the third step is too far"), KeyboardInterrupt()])
def test_what_was_recorded_before_a_failure_is_kept(pipe, raised, monkeypatch):
    monkeypatch.setattr(Breaks, "raises", raised)
    pipe.scheduler = Breaks.from_config(pipe.scheduler.config)
    expected = TargetError if isinstance(raised, ValueError) else KeyboardInterrupt
    before = process_state()
    with pytest.raises(expected) as caught:
        diffprof.scan(pipe, device="sim:a100-80gb", **CALL)
    report = caught.value.report
    assert report.recording.partial
    assert len(report.recording.syncs) == 5
    assert process_state() == before
    assert next(pipe.unet.parameters()).device.type == "cpu"
    if isinstance(raised, ValueError):
        assert "test_scan.py" in str(caught.value)
        assert "the third step is too far" in str(caught.value)
        assert "too far" in (report.recording.failure or "")


class WithNumpy:
    """Takes an image on the host, and a latent on the device."""

    def __init__(self):
        self.components = {"model": torch.nn.Linear(2, 2)}

    def __call__(self, image, latent):
        return self.components["model"](torch.from_numpy(image.numpy()).to("cuda") + latent)


def left_on_the_cpu():
    return WithNumpy(), {"image": torch.zeros(1, 2), "latent": torch.zeros(1, 2)}


def put_there():
    pipe, given = left_on_the_cpu()
    pipe.components["model"].to("cuda")
    return pipe, given


@pytest.mark.parametrize(
    ("factory", "advice"), [(left_on_the_cpu, 'end with pipe.to("cuda")'), (put_there, "make the tensors")]
)
def test_a_tensor_that_a_call_has_on_the_wrong_side_is_answered_with_how_to_place_it(factory, advice):
    with pytest.raises(TargetError) as error:
        scan_target(FunctionTarget.of(factory), device="sim", analyzers=("syncs",))
    assert advice in error.value.hint


class NeedsAValue(EulerDiscreteScheduler):
    def step(self, model_output, timestep, sample, return_dict=True, **kwargs):
        for _ in range(int(sample.abs().sum())):
            pass
        if model_output.isnan().any():
            raise ValueError("nan")
        return super().step(model_output, timestep, sample, return_dict=return_dict, **kwargs)


@pytest.mark.slow
def test_a_value_that_nobody_knows_is_assumed_and_said(pipe):
    pipe.scheduler = NeedsAValue.from_config(pipe.scheduler.config)
    report = diffprof.scan(pipe, device="sim:a100-80gb", **CALL)
    assumed = {row.assumed for row in report.recording.syncs or () if row.in_loop}
    assert assumed == {"0.0", "False"}
    reads = [f for f in report.in_loop if f.rule == "SYN001"]
    assert reads
    assert all("unknown without weights" in (f.cost_note or "") for f in reads)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "mode", "of_times"),
    [
        ({"backend": "eager"}, "eager", "not in this evidence"),
        ({"mode": "reduce-overhead", "fullgraph": True}, "compiled", "predicted for compiled code"),
    ],
)
def test_a_call_is_timed_as_its_user_compiled_it(pipe, how, mode, of_times):
    own = pipe.unet
    pipe.unet = torch.compile(own, **how)
    try:
        report = diffprof.scan(pipe, device="sim:a100-80gb", **CALL)
    finally:
        pipe.unet = own
    (unseen,) = (u for u in report.recording.unseen if "torch.compile of unet" in u.what)
    assert of_times in unseen.why
    assert report.recording.timeline.mode == mode
    assert not any(f.rule == "SET011" for f in report.findings), "it is compiled"
    if mode == "compiled":
        eager = diffprof.scan(pipe, device="sim:a100-80gb", **CALL)
        assert report.verdict.call_ms < 0.5 * eager.verdict.call_ms, "what is tiny is bound by its launches"


def test_an_unknown_device_and_analyzer_are_refused():
    with pytest.raises(UsageError, match="no device 'tpu'"):
        scan_target("tiny-sdxl", device="tpu")
    with pytest.raises(UsageError, match="no analyzer 'sinks'"):
        scan_target("tiny-sdxl", device="sim:t4", analyzers=["sinks"])


def test_cuda_without_a_gpu_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match="no CUDA device 0"):
        scan_target("tiny-sdxl", device="cuda")


@pytest.mark.nightly
def test_every_scheduler_has_a_row_and_failures_say_why():
    table = {
        row.scheduler: row for row in scheduler_table("tiny-sdxl", device="sim:t4", options=Options(steps=3))
    }
    assert table["DDIMScheduler"].per_step == 6.0
    assert table["EulerDiscreteScheduler"].in_loop == 0
    ran = [row for row in table.values() if row.error is None]
    assert len(ran) >= 25
    assert all(row.error for row in table.values() if row.in_loop is None)


def test_every_part_of_the_work_is_named_as_it_happens(pipe):
    stages = Stages()
    scan_target(from_object(pipe, kwargs=CALL), device="sim:a100-80gb", progress=stages)
    assert stages.named == in_order()


@pytest.mark.parametrize(
    ("stance", "more"),
    [
        ("default", {}),
        ("eager_on_recompile", {}),
        ("fail_on_recompile", {"skip_guard_eval_unsafe": True}),
        ("default", {"force_backend": "eager"}),
    ],
)
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_the_stance_of_the_compiler_is_as_before(
    stance: str, more: dict[str, Any], error: type[BaseException] | None
) -> None:
    def now() -> Any:
        return torch._dynamo.eval_frame._stance

    with torch.compiler.set_stance(stance, **more):
        before = now()
        with pytest.raises(error) if error else nullcontext(), eager_compiled_parts():
            assert now().stance == "force_eager"
            if error:
                raise error
        assert now() == before
        assert before.stance == stance
