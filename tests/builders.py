"""Small builders of recordings and findings with sane defaults; name only what a test is about."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from diffprof.model.finding import Evidence, Finding, Severity, Unchecked
from diffprof.model.fix import SourceEdit, SourceEdits
from diffprof.model.recording import (
    Component,
    DeviceInfo,
    Environment,
    Frame,
    GapRow,
    Grade,
    KernelRow,
    MemoryHolder,
    MemoryKind,
    MemoryPoint,
    MemoryUse,
    Recording,
    Site,
    SyncRow,
    TargetInfo,
    Timing,
    Unseen,
)
from diffprof.model.report import Report

DDIM = "diffusers/schedulers/scheduling_ddim.py"


def make_site(file: str = DDIM, line: int = 448, **more: Any) -> Site:
    """A line of a library's scheduler, unless told otherwise."""
    defaults: dict[str, Any] = {
        "function": "step",
        "module": "scheduler",
        "excerpt": ((line - 1, "# 2. compute alphas, betas"), (line, "x = self.alphas_cumprod[timestep]")),
        "chain": (
            Frame(file="diffusers/pipelines/x.py", line=10, function="__call__", code="scheduler.step(...)"),
        ),
    }
    return Site(file=file, line=line, **{**defaults, **more})


def make_sync(kind: str = "value-read", *, in_loop: bool = True, **more: Any) -> SyncRow:
    """A read once in each of four steps, or (in_loop=False) one operation before the loop."""
    defaults: dict[str, Any] = {
        "op": "aten::_local_scalar_dense",
        "reason": "the host needs the value",
        "source": "CUDAScalar.cu: _local_scalar_dense_cuda",
        "site": make_site(),
        "phase": "denoise" if in_loop else "prepare",
        "part": "scheduler" if in_loop else None,
        "count": 4 if in_loop else 1,
        "per_step": 1.0 if in_loop else 0.0,
        "by_step": (1, 1, 1, 1) if in_loop else (),
        "witnesses": ("dispatch",),
    }
    return SyncRow(kind=kind, in_loop=in_loop, **{**defaults, **more})


def make_recording(*syncs: SyncRow, **more: Any) -> Recording:
    """DDIM on a simulated A100, four steps. Without syncs: measured and clean; `syncs=None`: not measured."""
    defaults: dict[str, Any] = {
        "target": TargetInfo(
            spec="sdxl",
            kind="builtin",
            pipeline="StableDiffusionXLPipeline",
            components=(Component(name="unet", role="denoiser", cls="UNet2DConditionModel"),),
            call={"num_inference_steps": 4},
            steps=4,
            weights="none",
        ),
        "device": DeviceInfo(
            spec="sim:a100-80gb", kind="sim", name="NVIDIA A100-SXM4-80GB", grade=Grade.SIMULATED
        ),
        "environment": Environment(
            diffprof="0.1.0", python="3.11.2", packages={"torch": "2.13.0", "diffusers": "0.42.1"}
        ),
        "created": "2026-01-02T03:04:05+00:00",
        "syncs": syncs,
    }
    return Recording(**{**defaults, **more})


def make_finding(rule: str = "SYN001", name: str = "value-read", **more: Any) -> Finding:
    """A read once in each of four steps of the loop, not priced."""
    defaults: dict[str, Any] = {
        "kind": "value-read",
        "message": "A device value is read by Python.",
        "grade": Grade.SIMULATED,
        "severity": Severity.HIGH,
        "site": make_site(),
        "phase": "denoise",
        "in_loop": True,
        "count": 4,
        "per_step": 1.0,
        "evidence": Evidence(syncs=(0,)),
    }
    return Finding(rule=rule, name=name, **{**defaults, **more})


def make_report(*findings: Finding, recording: Recording | None = None, **more: Any) -> Report:
    """A report with these findings, whatever the rules would say. Its recording has a row for each finding
    that rests on one, unless given."""
    if recording is None:
        needed = max((index for f in findings for index in f.evidence.syncs), default=-1) + 1
        recording = make_recording(*(make_sync() for _ in range(needed)))
    return Report(recording=recording, findings=findings, **more)


def replace_target(report: Report, **more: Any) -> Report:
    """The report of the same recording with another target."""
    target = structs.replace(report.recording.target, **more)
    return structs.replace(report, recording=structs.replace(report.recording, target=target))


# --- hard reports: every view must get through all of them -----------------------------------------------

UGLY = (
    "\x1b[31mred\x1b[0m [bold]markup[/bold] <script>alert(1)</script> | `tick` \x07 \u202egnp \udc80 "
    "*a* @me #1\n::error::x"
)
"""ANSI, rich markup, HTML, a table bar, backticks, control and bidi characters, a lone surrogate, markdown,
a mention, a line break and a workflow command."""


def empty() -> Report:
    """Everything measured, nothing found."""
    return make_report()


def nothing_measured() -> Report:
    """No probe left evidence."""
    unchecked = (Unchecked(rule="SYN001", name="value-read", why="syncs not recorded"),)
    return make_report(recording=make_recording(syncs=None), unchecked=unchecked)


def one_of_everything() -> Report:
    """Each kind of row and finding once, priced and not."""
    user = make_site("my/scheduler.py", 12, user_code=True, module=None, function="step")
    looped, once = make_sync(), make_sync("host-to-device", in_loop=False, site=user)
    recording = make_recording(
        looped,
        once,
        ops=12_345,
        seconds={"import": 3.21, "build": 0.5, "scan": 1.25},
        timing=Timing(
            grade=Grade.MEASURED, seconds=(1.0, 1.1, 1.2), median=1.1, spread=0.05, device_busy=0.875
        ),
        memory=MemoryUse(
            grade=Grade.SIMULATED,
            weights_bytes=5_134_000_000,
            peak_bytes=9_000_000_000,
            capacity_bytes=80_000_000_000,
            host_bytes=1_500_000_000,
            peak_phase="decode",
            peak_module="vae.decoder.conv_out",
            at_peak=(
                MemoryHolder(
                    kind=MemoryKind.IDLE_WEIGHTS,
                    module="unet",
                    phase="before",
                    dtype="float16",
                    bytes=5_134_000_000,
                    count=1680,
                ),
                MemoryHolder(
                    kind=MemoryKind.ACTIVATIONS,
                    module="vae.decoder.up_blocks.3",
                    phase="decode",
                    site=make_site("diffusers/models/resnet.py", 327),
                    op="aten::silu",
                    shape=(1, 256, 1024, 1024),
                    dtype="float32",
                    bytes=3_866_000_000,
                    count=1,
                ),
            ),
            curve=tuple(MemoryPoint(op=10 * n, bytes=5_134_000_000 + 966_500_000 * n) for n in range(5)),
        ),
        kernels=(
            KernelRow(name="ampere_gemm_128", op="aten::mm", family="gemm", count=700, device_us=81_000.0),
            KernelRow(name="flash_fwd", op="aten::sdpa", family="attention", count=70, device_us=19_000.0),
        ),
        gaps=(
            GapRow(cause="sync", start_us=10.0, duration_us=120.0),
            GapRow(cause="launch", start_us=500.0, duration_us=30.0),
        ),
        unseen=(
            Unseen(what="compiled unet", why="its graph runs outside the dispatcher", site=user),
            Unseen(what="isnan check", why="the value is unknown", kind="value"),
        ),
    )
    return make_report(
        make_finding(
            blocked_ms=12.3456,
            saves_ms=0.0,
            cost_note="hidden behind queued GPU work",
            fixes=("host-timesteps",),
            advice="Index with a host value.",
        ),
        make_finding("SYN004", "device-to-host-copy", first_step_only=True, per_step=0.0, count=2),
        make_finding(
            "SYN005",
            "blocking-host-to-device-copy",
            in_loop=False,
            site=user,
            phase="prepare",
            count=1,
            per_step=0.0,
            severity=Severity.LOW,
            saves_ms=0.004,
            grade=Grade.MEASURED,
            evidence=Evidence(syncs=(1,)),
        ),
        make_finding(
            "SET001",
            "no-place",
            site=None,
            in_loop=False,
            count=3,
            per_step=0.0,
            phase=None,
            evidence=Evidence(),
        ),
        recording=recording,
        unchecked=(Unchecked(rule="KRN001", name="launch-bound", why="kernels not recorded"),),
        source=SourceEdits(
            findings=(
                SourceEdit(
                    rule="SYN005",
                    file="my/scheduler.py",
                    line=12,
                    what=("create it on the device",),
                    diff="--- a/my/scheduler.py\n+++ b/my/scheduler.py\n@@ -12 +12 @@\n"
                    "-x = torch.zeros(2).to(device)\n+x = torch.zeros(2, device=device)\n",
                ),
            ),
        ),
        path="traces/20260102-030405-sdxl",
    )


def ugly() -> Report:
    """Hostile text in every field that comes from outside."""
    site = make_site(
        UGLY, 3, function=UGLY, module=UGLY, user_code=True, excerpt=((2, UGLY), (3, UGLY)), chain=()
    )
    recording = make_recording(
        make_sync(op=UGLY, reason=UGLY, site=site),
        target=TargetInfo(spec=UGLY, kind="script", pipeline=UGLY, steps=4),
        partial=True,
        failure=UGLY,
        unseen=(Unseen(what=UGLY, why=UGLY, site=site),),
        kernels=(KernelRow(name=UGLY, op=UGLY, family="other", count=1, device_us=1.0),),
    )
    return make_report(
        make_finding(site=site, message=UGLY, advice=UGLY, fixes=(UGLY,), cost_note=UGLY, phase=UGLY),
        recording=recording,
        unchecked=(Unchecked(rule="SYN001", name=UGLY, why=UGLY),),
        source=SourceEdits(
            findings=(
                SourceEdit(rule="SYN001", file=UGLY, line=3, what=(UGLY,), diff=f"-{UGLY}\n+{UGLY}\n"),
            ),
            fixes={UGLY: f"-{UGLY}\n"},
        ),
    )


def long_names() -> Report:
    """Names longer than any screen, wide characters, and a minified source line."""
    deep = "/".join(["目录"] * 80) + "/ファイル.py"
    site = make_site(
        deep,
        123_456,
        function="f" * 300,
        module=".".join(["block"] * 90),
        excerpt=((123_456, "x=1;" * 5_000),),
    )
    finding = make_finding(site=site, message="词" * 500, name="n" * 200)
    return make_report(finding, recording=make_recording(make_sync(site=site)))


def many(count: int = 5_000) -> Report:
    """As many findings as a bad day brings, each resting on a row of its own."""
    sites = [make_site(line=number + 1) for number in range(count)]
    findings = (
        make_finding(site=site, in_loop=number % 2 == 0, evidence=Evidence(syncs=(number,)))
        for number, site in enumerate(sites)
    )
    rows = (make_sync(site=site, in_loop=number % 2 == 0) for number, site in enumerate(sites))
    return make_report(*findings, recording=make_recording(*rows))


HARD = {
    "empty": empty,
    "nothing-measured": nothing_measured,
    "one-of-everything": one_of_everything,
    "ugly": ugly,
    "long-names": long_names,
}
