"""What is made of a trace: waits with their place, causes of idle time, phases, a timeline."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from diffprof.chrome_trace.reader import read_trace
from diffprof.chrome_trace.sections import Sections, sections_of
from diffprof.judge import judging
from diffprof.judge.figures import call_ms
from diffprof.judge.timeline import Without, replay, saved_us
from diffprof.model.recording import Grade, Recording
from diffprof.scanning.importing import record_trace
from tests.chrome_trace.generate import generate
from tests.chrome_trace.traces import call, frame, kernel, launch, note, op, write


def sections(tmp_path: Path, events: list[dict[str, Any]], **header: Any) -> Sections:
    return sections_of(read_trace(write(tmp_path / "t.json", events, **header)))


def idle(found: Sections | Recording) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for gap in found.gaps or ():
        total[gap.cause] += gap.duration_us
    return dict(total)


def read_back(number: int, at: float, *, outer: str = "aten::item") -> list[dict[str, Any]]:
    """An op that copies two bytes to the host and waits 50 us for them."""
    return [
        op(outer, at, 70),
        op("aten::_local_scalar_dense", at + 1, 68),
        call("cudaMemcpyAsync", at + 5, 5, number),
        kernel("Memcpy DtoH (Device -> Pageable)", at + 55, 2, number, cat="gpu_memcpy"),
        call("cudaStreamSynchronize", at + 12, 50, number + 1),
    ]


def test_a_read_value_is_a_wait_with_its_place(tmp_path: Path) -> None:
    stack = [
        frame("run.py(3): <module>", 0, 400),
        frame("diffusers/schedulers/scheduling_ddim.py(342): step", 90, 200),
        frame("torch/_tensor.py(1000): wrapped", 95, 150),
        frame("typing.py(12): inner", 96, 140),
    ]
    found = sections(tmp_path, [*stack, *launch(1, 20, 30, 100), *read_back(5, 100)])
    assert found.syncs is not None
    (row,) = found.syncs
    assert (row.kind, row.op, row.count, row.bytes) == ("value-read", "aten::_local_scalar_dense", 1, 0)
    assert (row.site.file, row.site.line, row.site.function) == (
        "diffusers/schedulers/scheduling_ddim.py",
        342,
        "step",
    )
    assert [f.file for f in row.site.chain] == ["run.py"]
    assert row.blocked_us == 5 + 50  # both calls: the copy is not asynchronous but by name
    assert row.witnesses == ("trace",)
    assert not row.site.user_code
    assert any(u.what == "exact lines" for u in found.unseen)


def test_the_stacks_of_older_profiles(tmp_path: Path) -> None:
    events = [*launch(1, 20, 30, 100), *read_back(5, 100)]
    for event in events:
        if event["name"] == "aten::item":
            event["args"]["Call stack"] = "torch/x.py(1): f;my/code.py(7): g;main.py(2): h"
    (row,) = sections(tmp_path, events).syncs or ()
    assert (row.site.file, row.site.line) == ("my/code.py", 7)


def test_without_stacks_the_op_is_the_place(tmp_path: Path) -> None:
    found = sections(tmp_path, [*launch(1, 20, 30, 100), *read_back(5, 100)])
    (row,) = found.syncs or ()
    assert (row.site.file, row.site.line) == ("aten::item", 0)
    assert any("with_stack" in u.why for u in found.unseen)


def copy(number: int, at: float, name: str, *, waits: bool) -> list[dict[str, Any]]:
    events = [
        op("aten::to", at, 30),
        op("aten::copy_", at + 1, 28),
        call("cudaMemcpyAsync", at + 2, 5, number),
        kernel(name, at + 8, 2, number, cat="gpu_memcpy"),
    ]
    return [*events, call("cudaStreamSynchronize", at + 8, 6, number + 1)] if waits else events


@pytest.mark.parametrize(
    ("events", "kinds"),
    [
        (copy(1, 10, "Memcpy DtoH (Device -> Pageable)", waits=True), ["device-to-host"]),
        (copy(1, 10, "Memcpy HtoD (Pageable -> Device)", waits=True), ["host-to-device"]),
        (copy(1, 10, "Memcpy HtoD (Pageable -> Device)", waits=False), ["staged-copy"]),
        (copy(1, 10, "Memcpy HtoD (Pinned -> Device)", waits=False), []),
        (read_back(1, 10, outer="aten::nonzero"), ["data-dependent-shape"]),
        ([*launch(1, 5, 9, 3), call("cudaDeviceSynchronize", 20, 9)], ["synchronize"]),
        ([*launch(1, 5, 9, 30), call("cudaFree", 20, 19)], ["free"]),
        ([*launch(1, 5, 9, 3), call("cudaFree", 20, 19)], []),
        (
            [
                call("hipMemcpyWithStream", 5, 9, 1),
                kernel("Memcpy HtoD (Host -> Device)", 7, 3, 1, cat="gpu_memcpy"),
            ],
            ["host-to-device"],
        ),
    ],
    ids=["d2h", "h2d", "staged", "pinned", "shape", "explicit", "free while busy", "free while idle", "hip"],
)
def test_kinds_of_waits(tmp_path: Path, events: list[dict[str, Any]], kinds: list[str]) -> None:
    found = sections(tmp_path, events)
    assert [row.kind for row in found.syncs or ()] == kinds


def test_the_profilers_own_wait_is_no_finding(tmp_path: Path) -> None:
    events = [
        *launch(1, 5, 9, 30),
        frame("run.py(1): <module>", 0, 100),
        frame("torch/profiler/profiler.py(388): stop_trace", 15, 60),
        frame("torch/autograd/profiler.py(419): __exit__", 16, 50),
        call("cudaDeviceSynchronize", 20, 20),
    ]
    found = sections(tmp_path, events)
    assert found.syncs == ()
    assert found.timeline is not None
    assert -2 in found.timeline.sync


def test_causes_of_idle_time(tmp_path: Path) -> None:
    events = [
        *launch(1, 10, 20, 100),  # until 120
        *read_back(2, 65),  # waits until 127; the copy runs 120 to 122
        *launch(4, 140, 150, 20),  # idle 122 to 150 after the wait
        *launch(5, 151, 175, 5),  # idle 170 to 175: launched long before
        *launch(6, 300, 310, 10),  # idle 180 to 310, the host outside any op
        op("aten::slow", 315, 90),
        call("cudaLaunchKernel", 400, 3, 7),
        kernel("slow_kernel", 410, 10, 7),  # idle 320 to 410, the host in an op
        call("cudaMemcpyAsync", 430, 60, 8),
        kernel("Memcpy HtoD (Pageable -> Device)", 495, 5, 8, cat="gpu_memcpy"),  # idle 420 to 495
        kernel("orphan", 520, 5),  # idle 500 to 520
    ]
    events[4 + 2]["ts"], events[4 + 2]["dur"] = 120, 2
    found = sections(tmp_path, events)
    assert idle(found) == {"sync": 28, "launch": 5 + 90, "python": 130, "copy": 75, "unknown": 20}
    gap = next(g for g in found.gaps or () if g.cause == "sync")
    assert (gap.sync, gap.after, gap.before) == (0, "Memcpy DtoH (Device -> Pageable)", "k_kernel")


def test_what_the_host_did_instead_of_issuing(tmp_path: Path) -> None:
    """A first call: the context, memory from the driver, code loaded by the first launch of a kernel."""
    events = [
        note("step", 0, 30_000),
        op("aten::to", 100, 5_000),
        call("cudaDeviceGetStreamPriorityRange", 200, 4_000),
        call("cudaLaunchKernel", 5_090, 3, 1),
        kernel("first", 5_100, 100, 1),  # idle 0 to 5100: the context
        op("aten::conv2d", 5_150, 2_900),
        call("cudaMalloc", 5_300, 2_000),
        call("cudaLaunchKernel", 7_990, 3, 2),
        kernel("second", 8_000, 100, 2),  # idle 5200 to 8000: the driver's memory
        op("aten::conv2d", 8_050, 3_050),
        call("cudaLaunchKernel", 8_200, 2_800, 3),
        kernel("third", 11_005, 95, 3),  # idle 8100 to 11005: the code of the kernel
        op("aten::uniform_", 11_050, 2_950),
        *launch(4, 14_090, 14_100, 100),  # idle 11100 to 14100: computed on the CPU
        note("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 14_210, 2_700),
        op("aten::stack", 14_300, 2_000),
        *launch(5, 16_990, 17_000, 100),  # idle 14200 to 17000: data
        op("aten::nccl", 17_050, 20),
        call("cudaLaunchKernel", 17_060, 3, 6),
        kernel("waits_for_an_event", 19_000, 11_000, 6),  # idle 17100 to 19000
    ]
    events[16]["dur"] = 2_700
    found = sections(tmp_path, events)
    assert [(gap.cause, gap.duration_us, gap.during) for gap in found.gaps or ()] == [
        ("stall", 5100, "cudaDeviceGetStreamPriorityRange of aten::to"),
        ("allocation", 2800, "cudaMalloc of aten::conv2d"),
        ("stall", 2905, "cudaLaunchKernel of aten::conv2d"),
        ("cpu-op", 3000, "aten::uniform_"),
        ("data", 2800, None),
        ("unknown", 1900, None),
    ]
    assert [gap.is_head for gap in found.gaps or ()] == [True, False, False, False, False, False]


def test_python_gaps_name_the_code_that_ran(tmp_path: Path) -> None:
    events = [
        *launch(1, 10, 20, 10),
        frame("diffusers/hooks/hooks.py(200): _set_context", 40, 400),
        *launch(2, 500, 510, 10),
    ]
    (gap,) = sections(tmp_path, events).gaps or ()
    assert gap.cause == "python"
    assert gap.site is not None
    assert gap.site.function == "_set_context"


def test_idle_time_is_what_the_device_does_not_cover(tmp_path: Path) -> None:
    two_streams = [
        *launch(1, 0, 10, 50),
        *launch(2, 5, 30, 60),
        *launch(3, 9, 200, 10),
        *launch(4, 12, 205, 20),
    ]
    two_streams[5]["args"]["stream"] = 8
    two_streams[11]["args"]["stream"] = 8
    assert sum(idle(sections(tmp_path, two_streams)).values()) == 110


PIPELINE = "diffusers/pipelines/x/pipeline_x.py"


def pipeline_frames() -> list[dict[str, Any]]:
    events = [
        frame(f"{PIPELINE}(800): __call__", 0, 1000),
        frame(f"{PIPELINE}(200): encode_prompt", 10, 90),
        frame("nn.Module: CLIPTextModel_0", 20, 50),
    ]
    for step in range(3):
        begin = 200 + 200 * step
        events += [
            frame("nn.Module: UNet2DConditionModel_0", begin, 100),
            frame("nn.Module: Attention_3", begin + 10, 50),
            frame("diffusers/schedulers/scheduling_x.py(10): step", begin + 120, 60),
        ]
    return [*events, frame("diffusers/models/autoencoders/autoencoder_kl.py(90): decode", 850, 100)]


def test_phases_from_the_frames_of_a_pipeline(tmp_path: Path) -> None:
    times = [30, 150, 230, 330, 430, 900]
    work = [e for i, t in enumerate(times) for e in launch(i, t, t + 5, 10, name=f"n{i}")]
    found = sections(tmp_path, [*pipeline_frames(), *work])
    assert found.phases.source == "frames"
    assert found.phases.steps == 3
    assert {row.op: row.phase for row in found.kernels or ()} == {
        "aten::n0": "encode",
        "aten::n1": "prepare",
        "aten::n2": "denoise",
        "aten::n3": "denoise",
        "aten::n4": "denoise",
        "aten::n5": "decode",
    }
    modules = {row.op: row.module for row in found.kernels or ()}
    assert modules["aten::n2"] == "UNet2DConditionModel_0.Attention_3"
    assert modules["aten::n1"] is None
    assert found.timeline is not None
    parts = [(s.step, s.part, s.last - s.first) for s in found.timeline.phases if s.step == 0]
    assert (0, "scheduler", 2) in parts  # the launch and the Python time before it


def test_phases_from_the_labels_of_the_profiling_guide(tmp_path: Path) -> None:
    events = [note("pipeline_call", 0, 1000), note("encode_prompt", 10, 80), note("vae_decode", 900, 50)]
    for step in range(2):
        events += [
            note("transformer_forward", 100 + 300 * step, 200),
            note("scheduler_step", 310 + 300 * step, 50),
            *read_back(10 * step, 320 + 300 * step),
        ]
    found = sections(tmp_path, [*events, *launch(90, 150, 160, 10)])
    assert found.phases.source == "labels"
    (row,) = found.syncs or ()
    assert (row.phase, row.part, row.in_loop, row.by_step, row.per_step) == (
        "denoise",
        "scheduler",
        True,
        (1, 1),
        1.0,
    )


def test_own_annotations_come_first_and_name_modules(tmp_path: Path) -> None:
    events = [
        *pipeline_frames(),
        note("diffprof::denoise[4]", 0, 500),
        note("diffprof::denoise[4]/scheduler", 300, 100),
        note("diffprof::module:unet.mid", 100, 100),
        *launch(1, 150, 160, 5, name="a"),
        *launch(2, 350, 360, 5, name="b"),
    ]
    found = sections(tmp_path, events)
    assert found.phases.source == "annotations"
    assert {row.op: row.module for row in found.kernels or ()}["aten::a"] == "unet.mid"
    assert {row.phase for row in found.kernels or ()} == {"denoise"}


def test_a_first_step_only_wait(tmp_path: Path) -> None:
    events = [note(f"diffprof::denoise[{i}]", 100 * i, 100) for i in range(3)]
    found = sections(tmp_path, [*events, *read_back(1, 10), *launch(9, 250, 260, 5)])
    (row,) = found.syncs or ()
    assert row.first_step_only
    assert row.by_step == (1, 0, 0)
    assert row.per_step == 0


def test_kernels_carry_op_shape_and_type(tmp_path: Path) -> None:
    events = launch(1, 20, 30, 100)
    events[0]["args"] = {
        "Input Dims": [[2, 64, 320], [], [320, 640]],
        "Input type": ["c10::Half", "", "c10::Half"],
    }
    (row,) = sections(tmp_path, events).kernels or ()
    assert (row.op, row.shape, row.dtype, row.count, row.share) == (
        "aten::k",
        "2x64x320, 320x640",
        "float16",
        1,
        1.0,
    )


def test_a_launch_on_another_thread_finds_its_op_by_external_id(tmp_path: Path) -> None:
    events = [
        op("aten::far", 0, 5, **{"External id": 77}),
        call("cudaLaunchKernel", 50, 3, 1, tid=99),
        kernel("k", 60, 5, 1),
    ]
    events[2]["args"]["External id"] = 77
    (row,) = sections(tmp_path, events).kernels or ()
    assert row.op == "aten::far"


def test_ids_used_twice_go_to_the_latest_launch(tmp_path: Path) -> None:
    events = [*launch(1, 10, 20, 5, name="a"), *launch(1, 100, 110, 5, name="b")]
    found = sections(tmp_path, events)
    assert {(row.name, row.op) for row in found.kernels or ()} == {
        ("a_kernel", "aten::a"),
        ("b_kernel", "aten::b"),
    }


def test_one_launch_of_a_graph_runs_many_kernels(tmp_path: Path) -> None:
    events = [call("cudaGraphLaunch", 10, 5, 1), *(kernel(f"k{i}", 30 + 10 * i, 10, 1) for i in range(4))]
    found = sections(tmp_path, events)
    assert found.timeline is not None
    assert len(found.timeline.device_us) == 4
    assert replay(found.timeline).total_us == 60


def test_without_links_nothing_is_replayed_and_causes_are_unknown(tmp_path: Path) -> None:
    events = [e for i in range(3) for e in launch(i, 100 * i, 100 * i + 10, 20)]
    for event in events:
        event["args"].pop("correlation", None)
    found = sections(tmp_path, events)
    assert found.timeline is None
    assert idle(found) == {"unknown": 160}
    assert any("correlation" in u.why for u in found.unseen)


def test_a_run_on_the_cpu(tmp_path: Path) -> None:
    recording = record_trace(
        write(tmp_path / "t.json", [op("aten::linear", 0, 100), op("aten::addmm", 10, 70)])
    )
    assert recording.gaps is None
    assert recording.syncs is None
    assert recording.timeline is None
    assert recording.timing is None
    assert {row.op: row.device_us for row in recording.kernels or ()} == {
        "aten::linear": 30,
        "aten::addmm": 70,
    }
    assert "no GPU events in this trace" in recording.unseen[0].why
    assert recording.device.kind == "cpu"


def test_runtime_calls_without_gpu_events(tmp_path: Path) -> None:
    recording = record_trace(
        write(tmp_path / "t.json", [op("aten::x", 0, 9), call("cudaLaunchKernel", 3, 2, 1)])
    )
    assert recording.kernels is None
    assert recording.gaps is None
    assert "only runtime calls" in recording.unseen[0].why


def test_a_cut_trace_makes_a_partial_recording(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", [*launch(1, 10, 20, 5), *launch(2, 40, 50, 5)])
    path.write_bytes(path.read_bytes()[:-90])
    recording = record_trace(path)
    assert recording.partial
    assert "cut short" in (recording.failure or "")
    assert recording.kernels


def test_memory_by_phase_and_step(tmp_path: Path) -> None:
    def live(ts: float, size: int, device_type: int = 1) -> dict[str, Any]:
        args = {"Total Allocated": size, "Device Type": device_type, "Device Id": 0 if device_type else -1}
        return {
            "ph": "i",
            "cat": "cpu_instant_event",
            "name": "[memory]",
            "pid": 1,
            "tid": 1,
            "ts": ts,
            "args": args,
        }

    events = [
        note("diffprof::denoise[0]", 10, 10),
        note("diffprof::denoise[1]", 20, 10),
        note("diffprof::decode", 30, 10),
        *(
            live(t, s)
            for t, s in [(5, 100), (12, 300), (19, 150), (25, 400), (29, 160), (33, 900), (39, 100)]
        ),
        live(15, 9999, device_type=0),
        *launch(1, 12, 16, 5),
    ]
    memory = sections(
        tmp_path, events, deviceProperties=[{"id": 0, "name": "A100", "totalGlobalMem": 1000}]
    ).memory
    assert memory is not None
    assert (memory.peak_bytes, memory.capacity_bytes) == (900, 1000)
    assert memory.by_phase == {"denoise": 400, "decode": 900}
    assert memory.by_step == (150, 160)


def test_the_timeline_runs_again_as_it_ran(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    facts = generate(path, 2_000_000)
    recording = record_trace(path)
    timeline = recording.timeline
    assert timeline is not None
    assert recording.device.grade is Grade.MEASURED
    run = replay(timeline)
    assert run.total_us == pytest.approx(recording.device.details["window_us"], rel=0.005)
    assert run.device_busy_us == pytest.approx(facts.device_us)
    (row,) = recording.syncs or ()
    assert row.count == facts.reads == facts.steps
    assert row.per_step == 1
    assert sum(run.blocked_us.values()) == pytest.approx(row.blocked_us, rel=0.02)
    # The device is busy nearly all the time: a read a step costs its bubble, not what the host waited.
    saved = saved_us(timeline, Without(waits=frozenset({0})))
    assert 0 < saved < idle(recording)["sync"] + idle(recording)["python"]


@pytest.mark.parametrize(("devices", "rows"), [([], 1), ([{"id": 0, "name": "NVIDIA A100"}], None)])
def test_ops_are_no_kernels_where_those_of_the_gpu_were_cut_off(
    tmp_path: Path, devices: list[dict[str, Any]], rows: int | None
) -> None:
    ops = [op("aten::mul", 10 * i, 5) for i in range(9)]
    path = write(tmp_path / "t.json", ops, deviceProperties=devices)
    path.write_text(path.read_text()[:-40])
    recording = record_trace(path)
    assert recording.kernels is None if rows is None else len(recording.kernels or ()) == rows
    assert any("in what was read of this trace" in gap.why for gap in recording.unseen)


def test_a_sync_costs_all_it_waits_when_the_device_is_starved(tmp_path: Path) -> None:
    events = []
    for i in range(20):
        at = 1000.0 * i
        events += launch(3 * i, at + 10, at + 20, 400)
        events += [call("cudaStreamSynchronize", at + 20, 406)]
        events += [note("work", at + 430, 1)]
    found = sections(tmp_path, events)
    assert found.timeline is not None
    whole = replay(found.timeline).total_us
    saved = saved_us(found.timeline, Without(waits=frozenset({0})))
    assert saved == pytest.approx(19 * 406, rel=0.05)
    assert whole == pytest.approx(19 * 1000 + 426 - 8, rel=0.01)


@pytest.mark.parametrize("at", [20, 200])
def test_a_wait_that_returns_after_all_work_is_part_of_the_call(tmp_path: Path, at: int) -> None:
    """What is saved is saved of the length that is printed: both have the wait, and the idle time after."""
    events = [*launch(1, 5, 10, 100), call("cudaDeviceSynchronize", at, 5000 - at)]
    path = write(tmp_path / "t.json", events)
    report = judging.make_report(record_trace(path))
    assert call_ms(report.recording) == pytest.approx(4.990)
    assert idle(report.recording) == {"tail": pytest.approx(4890.0)}
    (wait,) = [each for each in report.findings if each.rule.startswith("SYN")]
    assert wait.saves_ms == pytest.approx(5.0 - max(0.110, at / 1000), abs=0.01)
    assert report.verdict is not None
    assert report.verdict.kept_ms == pytest.approx(max(0.100, at / 1000 - 0.010), abs=0.01)


def test_steps_told_by_their_parts_alone(tmp_path: Path) -> None:
    events = []
    for i in range(3):
        events += [
            note(f"diffprof::denoise[{i}]/denoiser", 100 * i, 60),
            note(f"diffprof::denoise[{i}]", 100 * i + 60, 5),
            note(f"diffprof::denoise[{i}]/scheduler", 100 * i + 65, 30),
            note(f"diffprof::denoise[{i}]", 100 * i + 95, 5),
        ]
    found = sections(tmp_path, [*events, *read_back(1, 167), *read_back(3, 267), *launch(9, 10, 20, 5)])
    (row,) = found.syncs or ()
    assert row.by_step == (0, 1, 1)
    assert row.part == "scheduler"


def test_other_threads_do_not_hold_up_the_one_that_launches(tmp_path: Path) -> None:
    loader = {**op("aten::collate", 130, 300), "tid": 99}
    waiter = call("cudaDeviceSynchronize", 100, 340, tid=98)
    events = [*launch(1, 10, 20, 100), loader, waiter, *launch(2, 420, 430, 10)]
    assert idle(sections(tmp_path, events)) == {"python": 310}
