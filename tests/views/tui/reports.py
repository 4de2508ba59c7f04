"""A small report with every section, for the tabs of the viewer."""

from __future__ import annotations

from diffprof.judge.pricing import price
from diffprof.model.finding import Evidence, Severity
from diffprof.model.fix import Code, Fix, Recipe, Safety, Stage, Write
from diffprof.model.recording import (
    CaptureRow,
    Grade,
    GraphBreakRow,
    KernelKind,
    KernelRow,
    LinearRow,
    MemoryUse,
    PhaseSpan,
    Quantization,
    RecompileRow,
    Recording,
    SchemeTiming,
    Timeline,
    Timing,
)
from diffprof.model.report import Report
from tests.builders import make_finding, make_recording, make_report, make_site, make_sync

STEPS = 3


def timeline() -> Timeline:
    """encode, three steps of four kernels with one read each, decode. Whole microseconds."""
    kinds = (
        KernelKind(name="linear", op="aten::linear", family="gemm", device_us=40.0),
        KernelKind(name="flash_fwd", op="aten::sdpa", family="attention", device_us=30.0),
        KernelKind(name="conv2d", op="aten::conv2d", family="conv", device_us=80.0),
    )
    kind: list[int] = [0]
    sync: list[int] = [-1]
    phases = [PhaseSpan(name="encode", first=0, last=1)]
    for step in range(STEPS):
        first = len(kind)
        kind += [0, 1, 0, 0, -1]
        sync += [-1, -1, -1, -1, 0]
        phases.append(PhaseSpan(name="denoise", step=step, part="denoiser", first=first, last=first + 4))
        phases.append(PhaseSpan(name="denoise", step=step, part="scheduler", first=first + 4, last=first + 5))
    phases.append(PhaseSpan(name="decode", first=len(kind), last=len(kind) + 2))
    kind += [2, 2]
    sync += [-1, -1]
    count = len(kind)
    return Timeline(
        grade=Grade.SIMULATED,
        kinds=kinds,
        modules=("unet.down_blocks.0", "vae.decoder"),
        phases=tuple(phases),
        kind=tuple(kind),
        module=(0,) * (count - 2) + (1, 1),
        host_us=(10.0,) * count,
        device_us=tuple(kinds[k].device_us or 0.0 if k >= 0 else 0.0 for k in kind),
        stream=(0,) * count,
        sync=tuple(sync),
        launch_latency_us=5.0,
        sync_latency_us=5.0,
    )


def _kernels() -> tuple[KernelRow, ...]:
    def row(name: str, family: str, module: str, phase: str, count: int, us: float) -> KernelRow:
        return KernelRow(
            name=name,
            op=f"aten::{name}",
            family=family,
            module=module,
            phase=phase,
            count=count,
            device_us=us,
            host_us=10.0 * count,
            flops=us * 1e8,
            bytes=us * 1e5,
            shape="2x64",
            dtype="float16",
        )

    return (
        row("linear", "gemm", "unet.down_blocks.0.attn.to_q", "denoise", 9, 360.0),
        row("linear", "gemm", "text_encoder.layers.0", "encode", 1, 40.0),
        row("flash_fwd", "attention", "unet.down_blocks.0.attn", "denoise", 3, 90.0),
        row("conv2d", "conv", "vae.decoder.up.0", "decode", 2, 160.0),
    )


def _linears() -> tuple[LinearRow, ...]:
    timings = tuple(
        SchemeTiming(
            scheme=scheme,
            mode="compiled",
            grade=grade,
            original_us=40.0,
            median_us=us,
            spread_us=0.5,
            sqnr_db=32.0,
        )
        for scheme, us, grade in (
            ("int8-dynamic", 20.0, Grade.MEASURED),
            ("int8-weight-only", 50.0, Grade.SIMULATED),
        )
    )
    refused = SchemeTiming(scheme="float8", mode="compiled", grade=Grade.SIMULATED, why_not="no such cores")
    return (
        LinearRow(
            m=8_192,
            in_features=640,
            out_features=5_120,
            dtype="float16",
            modules=("unet.down_blocks.0.attn.to_q", "unet.down_blocks.0.attn.to_k"),
            count=9,
            per_step=3.0,
            share=0.5,
            timings=(*timings, refused),
            scheme="int8-dynamic",
            worth_it=True,
            why="int8-dynamic is 2.00 times as fast",
            sqnr_db={"unet.down_blocks.0.attn.to_q": 32.0},
        ),
        LinearRow(
            m=77, in_features=32, out_features=32, dtype="float16", count=1, why="the budget was spent"
        ),
    )


def recording() -> Recording:
    read = make_sync(count=STEPS, by_step=(1, 1, 1))
    return make_recording(
        read,
        timeline=timeline(),
        timing=Timing(grade=Grade.MEASURED, seconds=(0.001,), median=0.001, device_busy=0.8),
        kernels=_kernels(),
        gaps=(),
        memory=MemoryUse(
            grade=Grade.SIMULATED,
            weights_bytes=5_000_000_000,
            peak_bytes=9_000_000_000,
            capacity_bytes=80_000_000_000,
            by_phase={"denoise": 9_000_000_000},
            by_step=(8_000_000_000, 8_500_000_000, 9_000_000_000),
        ),
        captures=(
            CaptureRow(component="unet", graphs=2, ops=1_000, breaks=1, calls=3, per_step=1.0, seconds=2.0),
            CaptureRow(component="vae.decode", graphs=1, ops=87, fullgraph_ready=True, seconds=1.0),
        ),
        graph_breaks=(
            GraphBreakRow(
                component="unet",
                code="GB0150",
                cause="data-dependent branching",
                explanation="Python branches on a tensor's value.",
                hints=("Use torch.cond.", "Move it to the host."),
                context="generic_jump",
                site=make_site("diffusers/models/unet.py", 77, function="forward", module="unet"),
                count=3,
                per_step=1.0,
                graphs=1,
                ops=500,
                grade=Grade.MEASURED,
            ),
        ),
        recompiles=(
            RecompileRow(
                component="unet",
                guard="tensor 'sample' size mismatch at index 2",
                site=make_site("diffusers/models/unet.py", 12, function="forward", module="unet"),
                kind="shape",
                variation="height=768",
                count=1,
                stopped_by=("dynamic=True",),
                tried=("dynamic=True", "mark_dynamic"),
                grade=Grade.MEASURED,
            ),
        ),
        linears=_linears(),
        quantization=Quantization(
            grade=Grade.SIMULATED,
            mode="compiled",
            min_sqnr_db=20.0,
            accuracy="a stated distribution",
            call_ms=0.7,
        ),
    )


def full() -> Report:
    """Findings of four analyzers, priced by the timeline; three name fixes."""
    evidence = recording()
    assert evidence.graph_breaks
    findings = (
        make_finding(count=STEPS, fixes=("host-timesteps",), advice="Index with a host value."),
        make_finding(
            "KRN004",
            "unfused-attention",
            kind="attention",
            message="Attention runs unfused.",
            site=None,
            count=STEPS,
            fixes=("fused-attention",),
            evidence=Evidence(kinds=(1,), becomes_us=(10.0,)),
        ),
        make_finding(
            "GRB001",
            "data-dependent-branch",
            kind="branch",
            message="A graph ends here.",
            site=evidence.graph_breaks[0].site,
            grade=Grade.MEASURED,
            severity=Severity.MEDIUM,
            evidence=Evidence(),
            fixes=("other-model",),
        ),
        make_finding(
            "QNT001",
            "unquantized-linear",
            kind="linear",
            message="Faster quantized.",
            site=None,
            phase="encode",
            in_loop=False,
            count=9,
            per_step=0.0,
            grade=Grade.MEASURED,
            severity=Severity.LOW,
            evidence=Evidence(),
        ),
    )
    return make_report(*price(findings, evidence), recording=evidence)


def _written(*lines: str) -> Write:
    return lambda recording, findings: Code(optimize="\n".join(lines))


RECIPES = {
    fix.key: Recipe(fix=fix, code=code)
    for fix, code in (
        (
            Fix(
                key="host-timesteps",
                title="Keep the timesteps on the host",
                safety=Safety.EXACT,
                stage=Stage.SCHEDULER,
                why="The same values are read from the side where they already are.",
            ),
            _written("pipe.scheduler.timesteps = pipe.scheduler.timesteps.cpu()"),
        ),
        (
            Fix(
                key="fused-attention",
                title="Use the fused attention kernel",
                safety=Safety.NUMERIC,
                stage=Stage.ATTENTION,
                tolerance=0.01,
                conflicts={"other-model": "it has attention of its own"},
            ),
            _written("from x import AttnProcessor2_0", "pipe.unet.set_attn_processor(AttnProcessor2_0())"),
        ),
        (
            Fix(key="other-model", title="Take a distilled model", safety=Safety.LOSSY, stage=Stage.MODEL),
            _written("pipe.unet = other"),
        ),
    )
}
"""Fixes that `full` and the hard reports name."""
