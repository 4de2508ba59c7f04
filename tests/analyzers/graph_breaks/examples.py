"""For each rule on graph breaks and recompiles, a recording that fires exactly it and the mended form."""

from __future__ import annotations

from typing import Any

from diffprof.model.recording import (
    CaptureRow,
    ComplexRow,
    Frame,
    Grade,
    GraphBreakRow,
    RecompileRow,
    Recording,
)
from tests.builders import make_recording, make_site


def make_break(cause: str, code: str | None = None, **more: Any) -> GraphBreakRow:
    """A break in the denoiser, passed once a step in four steps."""
    defaults: dict[str, Any] = {
        "component": "unet",
        "code": code,
        "cause": cause,
        "site": make_site("my/model.py", 12, user_code=True),
        "count": 4,
        "per_step": 1.0,
        "graphs": 1,
        "ops": 40,
        "grade": Grade.SIMULATED,
    }
    return GraphBreakRow(**{**defaults, **more})


def make_recompile(guard: str, kind: str, **more: Any) -> RecompileRow:
    """A recompile of the denoiser under a changed height."""
    defaults: dict[str, Any] = {
        "component": "unet",
        "guard": guard,
        "kind": kind,
        "site": make_site("my/model.py", 12, user_code=True),
        "variation": "height=768",
        "count": 1,
        "grade": Grade.SIMULATED,
    }
    return RecompileRow(**{**defaults, **more})


def breaks(*rows: GraphBreakRow, **more: Any) -> Recording:
    ready = CaptureRow(
        component="unet", graphs=1 + len(rows), ops=100, breaks=len(rows), fullgraph_ready=not rows
    )
    return make_recording(captures=(ready,), graph_breaks=rows, recompiles=(), **more)


def recompiles(*rows: RecompileRow) -> Recording:
    ready = CaptureRow(component="unet", graphs=1, ops=100, fullgraph_ready=True)
    return make_recording(captures=(ready,), graph_breaks=(), recompiles=rows)


ROTATED = ComplexRow(
    component="transformer",
    site=make_site("diffusers/models/transformers/transformer_qwenimage.py", 139, function="apply_rotary"),
    ops={"mul": 120, "view_as_real": 120},
    calls=4,
    per_step=1.0,
    phase="denoise",
    grade=Grade.SIMULATED,
)

_MAKING = Frame(file="my/model.py", line=30, function="forward", code="return SampleOutput(sample=x)")

BAD: dict[str, Recording] = {
    "GRB001": breaks(make_break("Data-dependent branching", "GB0170")),
    "GRB002": breaks(
        make_break("Unsupported Tensor.item() call with capture_scalar_outputs=False", "GB0124")
    ),
    "GRB003": breaks(
        make_break(
            "Attempted to call function marked as skipped",
            "GB0007",
            site=make_site("my/model.py", 12, function="__init__", chain=(_MAKING,)),
        )
    ),
    "GRB004": breaks(
        make_break("Failed to trace builtin operator", "GB0059", context="builtin print [str] False")
    ),
    "GRB005": breaks(make_break("attempted to trace numpy function unsupported by PyTorch", "GB0294")),
    "GRB006": breaks(
        make_break(
            "Attempted to call function marked as skipped", "GB0007", context="module: zlib, qualname: crc32"
        )
    ),
    "GRB007": breaks(make_break("Skip calling `torch.compiler.disable()`d function", "GB0098")),
    "GRB008": breaks(make_break("Data-dependent branching", "GB0170", in_hook=True)),
    "GRB009": breaks(make_break("Unsupported context manager", "GB0142")),
    "GRB010": recompiles(
        make_recompile("tensor 'sample' size mismatch at index 2. expected 128, actual 96", "shape")
    ),
    "GRB011": recompiles(make_recompile("self._step_index == 0", "scalar")),
    "GRB012": recompiles(make_recompile("___check_obj_id(config, 140)", "identity")),
    "GRB013": recompiles(make_recompile("G['CALLS'] == 1", "global")),
    "GRB014": recompiles(make_recompile("scale == 0.5", "scalar", limit_hit=True, entries=8, limit=8)),
    "GRB015": breaks(complex_numbers=(ROTATED,)),
}

GOOD: dict[str, Recording] = {
    # The break or the recompile is another rule's.
    **{code: BAD["GRB009" if code < "GRB009" else "GRB001"] for code in BAD if code < "GRB010"},
    **{code: BAD["GRB013" if code < "GRB013" else "GRB010"] for code in BAD if code >= "GRB010"},
    # Captured, and all in real numbers.
    "GRB015": breaks(complex_numbers=()),
    # A hook that Dynamo traces is none of the rule's business.
    "GRB008": breaks(make_break("Data-dependent branching", "GB0170")),
    # Compiled again, but far from the limit.
    "GRB014": recompiles(make_recompile("scale == 0.5", "scalar", entries=2, limit=8)),
}
