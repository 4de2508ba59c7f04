"""A run with everything that TensorBoard shows, small enough to add up by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffprof.model.finding import Finding
from diffprof.model.fix import Difference, Outcome, Safety, Status
from diffprof.model.ladder import Ladder, RungResult
from diffprof.model.prediction import Prediction, Predictions
from diffprof.model.recording import Grade, KernelKind, MemoryUse, PhaseSpan, Recording, Timeline, Timing
from diffprof.model.report import Report, save_report
from tests.builders import make_finding, make_recording, make_site, make_sync

STEPS = 3

KINDS = (
    KernelKind(name="gemm_a", op="linear", family="gemm", shape="2x64, 64x64", dtype="bfloat16"),
    KernelKind(name="attend", op="flash_attention", family="attention", dtype="bfloat16"),
    KernelKind(name="add", op="add", family="pointwise", dtype="bfloat16"),
)

MODULES = ("text_encoder", "unet.down_blocks.0.proj", "unet.down_blocks.0.attn1", "unet.conv_out", "")

GEMM_US, ATTEND_US, ADD_US = 100.0, 40.0, 5.0


def make_timeline(**changed: Any) -> Timeline:
    """Encode: a gemm. Each step: gemm, attention and add in the UNet, then a read in the scheduler that waits
    for them. Decode: an add. The host takes 10 us an event."""
    rows = [(0, 0, GEMM_US, -1)]
    phases = [PhaseSpan(name="encode", first=0, last=1)]
    for step in range(STEPS):
        first = len(rows)
        rows += [(0, 1, GEMM_US, -1), (1, 2, ATTEND_US, -1), (2, 3, ADD_US, -1), (-1, 4, 0.0, 0)]
        phases.append(PhaseSpan(name="denoise", step=step, part="denoiser", first=first, last=first + 3))
        phases.append(PhaseSpan(name="denoise", step=step, part="scheduler", first=first + 3, last=first + 4))
    rows.append((2, 4, ADD_US, -1))
    phases.append(PhaseSpan(name="decode", first=len(rows) - 1, last=len(rows)))
    kind, module, device_us, sync = zip(*rows, strict=True)
    columns: dict[str, Any] = {
        "grade": Grade.SIMULATED,
        "kinds": KINDS,
        "modules": MODULES,
        "phases": tuple(phases),
        "kind": kind,
        "module": module,
        "host_us": (10.0,) * len(rows),
        "device_us": device_us,
        "stream": (0,) * len(rows),
        "sync": sync,
        "launch_latency_us": 2.0,
        "sync_latency_us": 3.0,
    }
    return Timeline(**{**columns, **changed})


def make_run(**changed: Any) -> Recording:
    """The timeline with a read, a clean timing and memory."""
    sync = make_sync(site=make_site(), count=STEPS, by_step=(1,) * STEPS)
    return make_recording(
        sync,
        **{
            "timeline": make_timeline(),
            "timing": Timing(grade=Grade.SIMULATED, seconds=(0.0006,), median=0.0006, device_busy=0.8),
            "memory": MemoryUse(
                grade=Grade.SIMULATED,
                weights_bytes=1_000_000_000,
                peak_bytes=3_000_000_000,
                by_phase={"encode": 1_500_000_000, "decode": 3_000_000_000},
                by_step=(2_000_000_000,) * STEPS,
            ),
            **changed,
        },
    )


def make_outcomes() -> tuple[Outcome, ...]:
    """One fix kept, one undone."""
    return (
        Outcome(
            fix="host-timesteps",
            title="Keep timesteps on the host",
            safety=Safety.EXACT,
            status=Status.KEPT,
            before_ms=6.0,
            after_ms=5.0,
            grade=Grade.SIMULATED,
            max_abs_diff=0.0,
            difference=Difference(compared_on="a twin", bit_equal=True),
            in_loop_before=3,
            in_loop_after=0,
        ),
        Outcome(
            fix="tf32",
            title="Use TF32",
            safety=Safety.NUMERIC,
            status=Status.UNDONE,
            why="no gain",
            before_ms=5.0,
            after_ms=5.5,
            grade=Grade.SIMULATED,
        ),
    )


def make_ladder() -> Ladder:
    rungs = (
        RungResult(name="fp32", title="float32", grade=Grade.SIMULATED, seconds=7.0, published_seconds=7.36),
        RungResult(name="bf16", title="bfloat16", grade=Grade.SIMULATED, seconds=4.5, published_seconds=4.63),
    )
    return Ladder(target="sdxl", device="sim:a100-80gb", steps=30, rungs=rungs, source="a page")


def make_predictions() -> Predictions:
    facts = {"mode": "eager", "batch": 1, "steps": 28, "peak_gib": 33.5, "grade": "simulated"}
    fits = Prediction(
        device="h100", gpu="H100", seconds=1.234, range=(1.1106, 1.3574), images_per_s=0.81, **facts,
        memory_gib=80.0,
    )  # fmt: skip
    larger = Prediction(device="l40s", gpu="L40S", fits=False, why="does not fit", memory_gib=24.0, **facts)
    return Predictions(target="flux", rows=(fits, larger))


def store(folder: Path, *findings: Finding, **more: Any) -> Report:
    """Put a run into a folder."""
    found = findings or (make_finding(fixes=("host-timesteps",)),)
    return save_report(Report(recording=more.pop("recording", make_run()), findings=found, **more), folder)
