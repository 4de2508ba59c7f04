"""The trace that the plugin gets, and what the plugin makes of it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from torch_tb_profiler.profiler.data import RunProfileData
from torch_tb_profiler.profiler.run_generator import RunGenerator
from torch_tb_profiler.run import RunProfile

from diffprof.judge.timeline import replay as judged_replay
from diffprof.model.recording import DeviceInfo, Grade, KernelKind
from diffprof.model.report import load_report
from diffprof.model.units import duration
from diffprof.views.html.timeline import timeline_figures
from diffprof.views.tensorboard.modules import module_events
from diffprof.views.tensorboard.trace import add_call_stacks, plugin_trace, rewritten
from diffprof.views.timeline_bands import one_step
from tests.builders import UGLY
from tests.chrome_trace.test_real_traces import trace_file
from tests.chrome_trace.traces import write
from tests.views.tensorboard.recorded import ATTEND_US, GEMM_US, KINDS, STEPS, make_run, make_timeline

SAMPLES = Path(__file__).parents[3] / "traces" / "samples"


def document_of(recording: Any, folder: Path = Path()) -> dict[str, Any]:
    data = plugin_trace(recording, folder)
    assert data is not None
    return json.loads(gzip.decompress(data))


def parsed(document: dict[str, Any]) -> RunProfile:
    """As the plugin reads it."""
    data = RunProfileData.from_json("worker", None, document)
    return RunGenerator("worker", None, data).generate_run_profile()


def span(category: str, name: str, ts: float, dur: float, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "pid": 1, "tid": 1, "ts": ts, "dur": dur, "args": args}


@pytest.fixture(scope="module")
def profile() -> RunProfile:
    return parsed(document_of(make_run()))


def test_operators_have_their_device_time(profile: RunProfile) -> None:
    found = {row["name"]: row for row in profile.operation_table_by_name["data"]}
    assert found["linear"]["device_self_duration"] == pytest.approx((STEPS + 1) * GEMM_US, abs=STEPS + 1)
    assert found["flash_attention"]["device_self_duration"] == pytest.approx(STEPS * ATTEND_US, abs=STEPS)
    assert found["linear"]["calls"] == STEPS + 1


def test_overview_has_a_step_for_each_denoising_step(profile: RunProfile) -> None:
    steps = profile.overview["steps"]["rows"]
    assert [row[0] for row in steps] == [str(step) for step in range(STEPS)]
    columns = [column.get("name") for column in profile.overview["steps"]["columns"]]
    assert steps[1][columns.index("Kernel")] == pytest.approx(GEMM_US + ATTEND_US + 5, abs=2)
    assert sum(row[columns.index("Runtime")] for row in steps) > 0


def ahead() -> Any:
    """No wait: the host has issued every step before the device is done with the first."""
    timeline = make_timeline()
    return make_run(timeline=replace(timeline, sync=(-1,) * len(timeline.sync), sync_latency_us=0.0))


@pytest.mark.slow
@pytest.mark.parametrize(
    "made",
    [
        lambda: load_report(SAMPLES / "sdxl-ddim-a100").recording,
        lambda: load_report(SAMPLES / "sdxl-ddim-a100-fixed").recording,
        make_run,
        ahead,
    ],
    ids=["sample", "sample without waits", "waits", "host ahead"],
)
def test_a_step_lasts_as_long_as_on_the_report_s_page(made: Callable[[], Any]) -> None:
    recording = made()
    found = one_step(recording.timeline, judged_replay(recording.timeline), 100)
    assert found is not None
    number, tracks = found
    rows = {row[0]: row for row in parsed(document_of(recording)).overview["steps"]["rows"]}
    parts = [part for part in rows[str(number)] if isinstance(part, int | float)]
    length = tracks.end_us - tracks.start_us
    assert sum(parts) == pytest.approx(length, rel=0.001, abs=10)
    assert f"Denoising step {number + 1}, {duration(length / 1e3)} (simulated)" in "".join(
        timeline_figures(recording, {})
    )


def test_kernels_on_tensor_cores_are_told(profile: RunProfile) -> None:
    table = profile.kernel_table["data"]
    names = [column["name"] for column in table["columns"]]
    assert {row[names.index("Name")] for row in table["rows"]} == {
        "gemm_a (tensor cores)",
        "attend (tensor cores)",
        "add",
    }


def test_modules_nest(profile: RunProfile) -> None:
    found = {stats.name: stats for stats in profile.module_stats}
    assert set(found) == {"text_encoder", "unet"}
    assert found["unet"].occurences == STEPS
    assert found["unet"].device_duration == pytest.approx(STEPS * 145, abs=3 * STEPS)
    (block,) = [child for child in found["unet"].children if child.name == "down_blocks.0"]
    assert [child.name for child in block.children] == ["proj", "attn1"]


def test_what_is_launched_in_one_belongs_to_its_modules_and_operators(profile: RunProfile) -> None:
    """A CUDA graph takes the host no time after its first launch."""
    eager = make_timeline()
    later = [0 < kind < 3 and module != 4 for kind, module in zip(eager.kind, eager.module, strict=True)]
    once = tuple(0.0 if each else 10.0 for each in later)
    graphs = parsed(document_of(make_run(timeline=replace(eager, host_us=once, mode="compiled"))))
    for one, other in zip(profile.module_stats, graphs.module_stats, strict=True):
        assert (one.name, one.occurences) == (other.name, other.occurences)
        assert other.device_duration == pytest.approx(one.device_duration, abs=STEPS)
    times = [
        {row["name"]: row["device_self_duration"] for row in each.operation_table_by_name["data"]}
        for each in (profile, graphs)
    ]
    assert times[1] == pytest.approx(times[0], abs=STEPS)


@pytest.mark.slow
def test_the_unet_of_the_fixed_sample_has_the_time_of_its_kernels() -> None:
    """Compared in TensorBoard, it is faster after the fixes, not gone."""
    recording = load_report(SAMPLES / "sdxl-ddim-a100-fixed").recording
    timeline = recording.timeline
    assert timeline is not None
    owned = [number >= 0 and timeline.modules[number].startswith("unet") for number in timeline.module]
    kernels = sum(us for us, own in zip(timeline.device_us, owned, strict=True) if own)
    shown = next(s for s in parsed(document_of(recording)).module_stats if s.name == "unet")
    assert shown.device_duration == pytest.approx(kernels, rel=0.001)
    assert kernels > 200_000


def test_memory_curve_has_the_peak(profile: RunProfile) -> None:
    curve = profile.get_memory_curve(memory_metric="MB")
    assert curve["metadata"]["default_device"] == "GPU0"
    assert max(row[1] for row in curve["rows"]["GPU0"]) == pytest.approx(3e9 / 2**20)


def test_no_operator_is_said_to_have_allocated_what_was_only_summed(profile: RunProfile) -> None:
    assert profile.get_memory_stats()["rows"] == {}


def test_device_and_grade_are_named(profile: RunProfile) -> None:
    shown = {row["title"]: row["value"] for row in profile.gpu_summary}
    assert shown["Name"].endswith("(simulated)")


def test_waits_have_their_frames_and_other_operators_their_modules() -> None:
    events = document_of(make_run())["traceEvents"]
    stacks = [
        (event["name"], event["args"].get("Call stack")) for event in events if event.get("cat") == "cpu_op"
    ]
    site = "diffusers/schedulers/scheduling_ddim.py(448): step;diffusers/pipelines/x.py(10): __call__"
    assert [stack for name, stack in stacks if name == "aten::_local_scalar_dense"] == [site] * STEPS
    attention = "unet.down_blocks.0.attn1;unet.down_blocks.0;unet"
    assert [stack for name, stack in stacks if name == "flash_attention"] == [attention] * STEPS
    assert ("add", None) in stacks


def test_call_stack_is_innermost_first_and_leaves_machinery_out() -> None:
    events = [
        span("python_function", "app.py(1): main", 0, 100),
        span("python_function", "torch/nn/modules/module.py(1): _call_impl", 1, 90),
        span("python_function", "model.py(7): forward", 2, 50),
        span("python_function", "<built-in method linear>", 3, 40),
        span("cpu_op", "aten::linear", 4, 10),
        span("cpu_op", "aten::add", 60, 10),
        span("cpu_op", "aten::late", 200, 1),
    ]
    assert add_call_stacks(events) == 2
    assert events[4]["args"]["Call stack"] == "model.py(7): forward;app.py(1): main"
    assert events[5]["args"]["Call stack"] == "app.py(1): main"
    assert "Call stack" not in events[6]["args"]


def test_a_stack_that_is_there_stays() -> None:
    events = [
        span("python_function", "app.py(1): main", 0, 100),
        span("cpu_op", "aten::add", 1, 1, **{"Call stack": "older"}),
    ]
    add_call_stacks(events)
    assert events[1]["args"]["Call stack"] == "older"


def test_children_of_a_dropped_built_in_go_to_its_parent() -> None:
    events = [
        span("python_function", "app.py(1): main", 0, 9, **{"Python id": 1}),
        span("python_function", "<built-in a>", 1, 8, **{"Python id": 2, "Python parent id": 1}),
        span("python_function", "<built-in b>", 1, 8, **{"Python id": 3, "Python parent id": 2}),
        span(
            "python_function",
            "nn.Module: UNet_0",
            2,
            6,
            **{"Python id": 4, "Python parent id": 3, "Python module id": 0},
        ),
    ]
    kept = rewritten({"traceEvents": events})["traceEvents"]
    assert [(event["name"], event["args"].get("Python parent id")) for event in kept] == [
        ("app.py(1): main", None),
        ("nn.Module: UNet_0", 1),
    ]


def test_steps_marked_on_the_device_are_not_counted_twice() -> None:
    events = [
        span("user_annotation", "ProfilerStep#3", 0, 10),
        span("gpu_user_annotation", "ProfilerStep#3", 5, 10),
    ]
    assert [e["cat"] for e in rewritten({"traceEvents": events})["traceEvents"]] == ["user_annotation"]


@pytest.mark.parametrize("category", ["cuda_runtime", "cuda_driver", "hip_runtime", "runtime"])
def test_runtime_calls_get_the_category_that_the_plugin_knows(category: str) -> None:
    (event,) = rewritten({"traceEvents": [span(category, "cudaLaunchKernel", 0, 1)]})["traceEvents"]
    assert event["cat"] == "Runtime"


def test_modules_nest_by_time_and_are_named_within_their_parent() -> None:
    events = [
        span("user_annotation", "diffprof::module:unet", 0, 10),
        span("user_annotation", "diffprof::module:unet.blocks.0", 0, 4),
        span("user_annotation", "diffprof::module:unet.blocks.0.norm", 0, 4),
        span("user_annotation", "diffprof::module:unet", 10, 5),
    ]
    found = [
        (e["name"], e["ts"], e["dur"], e["args"]["Python parent id"], e["args"]["Python module id"])
        for e in module_events(events)
    ]
    assert found == [
        ("nn.Module: unet", 0, 10, -1, 0),
        ("nn.Module: blocks.0", 0, 4, 1, 1),
        ("nn.Module: norm", 0, 4, 2, 2),
        ("nn.Module: unet", 10, 5, -1, 0),
    ]


def test_what_is_nested_stays_so_in_sums_of_floats() -> None:
    """159057.3 + 17.8 is a bit less than 159059.4 + 15.7; the plugin then drops the inner one."""
    events = [span("cpu_op", "to", 159057.3, 17.8), span("cpu_op", "_to_copy", 159059.4, 15.7)]
    assert events[0]["ts"] + events[0]["dur"] < events[1]["ts"] + events[1]["dur"]
    outer, inner = rewritten({"traceEvents": events})["traceEvents"]
    assert outer["ts"] + outer["dur"] == inner["ts"] + inner["dur"]
    assert outer["dur"] == pytest.approx(17.8, abs=1 / 64)


def test_a_step_begins_with_the_module_that_opens_it() -> None:
    events = [
        event
        for step, start in enumerate((100.0, 200.0))
        for event in (
            span("user_annotation", "diffprof::module:unet", start, 50.0),
            span("user_annotation", f"diffprof::denoise[{step}]/denoiser", start + 0.5, 60.0),
        )
    ]
    kept = rewritten({"traceEvents": events})["traceEvents"]
    steps = {e["name"]: (e["ts"], e["dur"]) for e in kept if e["name"].startswith("ProfilerStep#")}
    assert steps == {"ProfilerStep#0": (100.0, 60.5), "ProfilerStep#1": (200.0, 60.5)}


def test_hostile_names_are_made_visible() -> None:
    stored = UGLY.encode("utf-8", "backslashreplace").decode()
    kinds = (KernelKind(name=stored, op=stored, family="other"), *KINDS[1:])
    document = document_of(make_run(timeline=make_timeline(kinds=kinds)))
    text = json.dumps(document, ensure_ascii=False)
    assert "\\u001b" not in text
    assert "\u202e" not in text
    assert r"\\x1b[31mred" in text
    profile = parsed(document)
    assert any("<script>" in row["name"] for row in profile.operation_table_by_name["data"])


def test_a_measured_trace_is_rewritten_beside_itself(tmp_path: Path) -> None:
    """As Kineto writes one today: without the copy, no kernel belongs to an operator."""
    kernel = {
        **span("kernel", "sm80_xmma_gemm_f16", 20, 50, correlation=7, device=0, stream=7),
        "pid": 0,
        "tid": 7,
    }
    kernel["args"]["External id"] = 3
    events = [
        span("python_function", "app.py(3): main", 0, 90),
        span("cpu_op", "aten::addmm", 1, 12, **{"External id": 3}),
        span("cuda_runtime", "cudaLaunchKernel", 4, 3, **{"External id": 3, "correlation": 7}),
        kernel,
    ]
    path = write(tmp_path / "trace.json.gz", events, deviceProperties=[{"id": 0, "name": "NVIDIA H100"}])
    original = path.read_bytes()

    def device_time(document: dict[str, Any]) -> float:
        return sum(row["device_self_duration"] for row in parsed(document).operation_table_by_name["data"])

    device = DeviceInfo(spec="cuda", kind="cuda", name="a GPU", grade=Grade.MEASURED)
    run = make_run(trace_file=path.name, device=device)
    assert device_time(json.loads(gzip.decompress(original))) == 0
    shown = document_of(run, tmp_path)
    assert device_time(shown) == 50
    stacks = parsed(shown).operation_stack_by_name["aten::addmm"]
    assert [row["call_stack"] for row in stacks["data"]] == ["app.py(3): main"]
    assert path.read_bytes() == original


@pytest.mark.parametrize("given", [{"External id": 7}, {}])
def test_calls_that_name_no_operator_belong_to_the_innermost_around_them(given: dict[str, int]) -> None:
    kernel = {**span("kernel", "k", 20, 50, correlation=7, device=0), "pid": 0, "tid": 9}
    events = [
        span("cpu_op", "aten::linear", 0, 15, **{"External id": 1}),
        span("cpu_op", "aten::addmm", 1, 12, **{"External id": 2}),
        span("cuda_runtime", "cudaLaunchKernel", 4, 3, correlation=7, **given),
        span("cuda_runtime", "cudaDeviceSynchronize", 90, 3, correlation=8),
        kernel,
    ]
    document = rewritten({"traceEvents": events})
    assert [e["args"].get("External id") for e in document["traceEvents"]] == [1, 2, 2, None, 2]
    found = {row["name"]: row for row in parsed(document).operation_table_by_name["data"]}
    assert found["aten::addmm"]["device_self_duration"] == 50
    assert found["aten::linear"]["device_total_duration"] == 50


@pytest.mark.parametrize("name", ["alexnet-a100", "minitoy-mi250", "triton-a100"])
def test_real_traces_have_all_device_time_in_their_operators(name: str, tmp_path: Path) -> None:
    """The stock plugin shows 0 for each of them."""
    source = trace_file(name)
    (tmp_path / source.name).write_bytes(source.read_bytes())
    device = DeviceInfo(spec="trace", kind="cuda", name="a GPU", grade=Grade.MEASURED)
    document = document_of(make_run(trace_file=source.name, device=device), tmp_path)
    work = ("kernel", "gpu_memcpy", "gpu_memset")
    total = sum(event["dur"] for event in document["traceEvents"] if event.get("cat") in work)
    shown = sum(row["device_self_duration"] for row in parsed(document).operation_table_by_name["data"])
    assert shown == pytest.approx(total, rel=0.01, abs=1)


@pytest.mark.parametrize("damage", [b"", b"\x1f\x8b\x08", b"{", b"[1]"])
def test_a_damaged_trace_is_an_error_that_is_said(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(damage)
    device = DeviceInfo(spec="cuda", kind="cuda", name="a GPU", grade=Grade.MEASURED)
    with pytest.raises((OSError, ValueError, EOFError)):
        plugin_trace(make_run(trace_file="t.json", device=device), tmp_path)
