"""Fixes of types and of attention: half precision, TF32, fused attention, fused projections, merged LoRA."""

from __future__ import annotations

import math
from collections.abc import Sequence

from diffprof.judge.half_types import as_numpy
from diffprof.model.finding import Finding
from diffprof.model.fix import Code, Fix, Recipe, Safety, Skipped, Stage
from diffprof.model.pipeline import Pipeline
from diffprof.model.recording import Change, Recording, Setup
from diffprof.model.recording.source_text import NotAName, dotted, quoted

TF32_TOLERANCE = 0.01
"""With operands rounded to TF32 the tiny SDXL's picture moves by 0.0012 in four steps."""

ROUNDING_TOLERANCE = 0.05
"""Another order of summation moves the tiny SDXL's picture by 2e-6 in float32 and by 0.022 in bfloat16,
which is about as much as bfloat16 itself does."""


NO_SETUP = Skipped("the run does not say how the pipeline is set up; scan it again")


def setup_of(recording: Recording) -> Setup | None:
    """The section, if the run has one."""
    return recording.setup


def place(name: str) -> str:
    """A component as an expression: `pipe.unet`, `pipe.prior_pipe.prior` for a nested one."""
    return f"pipe.{dotted(name)}"


# --- half precision --------------------------------------------------------------------------------------


def _half(dtype: str) -> Code:
    return Code(imports=("import torch",), optimize=f"pipe.to(torch.{dtype})")


def _with_inputs(code: Code, recording: Recording, dtype: str) -> Code:
    """Tensors that the call is given go along with the models."""
    given = [name for name, given in recording.target.dtypes.items() if given == "float32"]
    if not given:
        return code
    lines = [
        f"for name in ({', '.join(map(quoted, given))},):",
        f"    kwargs[name] = kwargs[name].to(torch.{dtype})",
    ]
    return Code(imports=code.imports, optimize=code.optimize, call="\n".join(lines))


def bfloat16(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """All models in bfloat16."""
    row = as_numpy(recording)
    if row is not None:
        return Skipped(f"{row.site.file}:{row.site.line} calls .numpy(), which raises on bfloat16")
    return _with_inputs(_half("bfloat16"), recording, "bfloat16")


def float16(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """All models in float16, for devices without bfloat16."""
    setup = recording.setup
    unsafe = [part.name for part in setup.parts if part.asks_upcast] if setup else []
    if setup is not None and unsafe and not setup.upcasts_vae:
        return Skipped(
            f"the configuration of {', '.join(unsafe)} asks for float32 (force_upcast), because float16 may "
            "overflow, and this pipeline does not upcast it"
        )
    return _with_inputs(_half("float16"), recording, "float16")


# --- TF32 ------------------------------------------------------------------------------------------------

_TF32 = '''\
@contextlib.contextmanager
def _tf32_matmuls():
    """float32 matrix products in TF32 inside; the setting of the process is as before after it."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    own = [backend.fp32_precision for backend in backends]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)  # writes the backends' own settings too
        for backend, precision in zip(backends, own):
            backend.fp32_precision = precision
'''


def tf32(recording: Recording, findings: Sequence[Finding]) -> Code:
    """float32 products on the tensor cores."""
    return Code(imports=("import contextlib", "import torch"), definitions=_TF32, around="_tf32_matmuls()")


# --- attention -------------------------------------------------------------------------------------------


def sdpa(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """Processors that compute attention in pieces are replaced by the ones beside them that don't."""
    setup = recording.setup
    if setup is None:
        return NO_SETUP
    table: dict[str, str] = {}
    models: list[str] = []
    for part in setup.parts:
        known = {plain: fused for plain, fused in part.unfused.items() if fused}
        if not known:
            continue
        modules = {fused.rpartition(".")[0] for fused in known.values()}
        if modules != {"diffusers.models.attention_processor"}:
            return Skipped(f"{', '.join(modules)} is not diffusers' own")
        table.update((dotted(plain), dotted(fused.rpartition(".")[2])) for plain, fused in known.items())
        models.append(place(part.name))
    if not models:
        left = [cls for part in setup.parts for cls in part.unfused]
        return Skipped(
            f"{', '.join(left)} has no counterpart with scaled_dot_product_attention, or is set in each call"
            if left
            else "no attention processor was found that computes its scores apart"
        )
    names = sorted({*table, *table.values()})
    lines = (
        f"fused = {{{', '.join(f'{plain}: {fused}' for plain, fused in table.items())}}}",
        f"for model in ({', '.join(models)}{',' * (len(models) == 1)}):",
        "    for module in model.modules():",
        '        processor = type(getattr(module, "processor", None))',
        "        if processor in fused:",
        "            module.set_processor(fused[processor]())",
    )
    imports = (f"from diffusers.models.attention_processor import {', '.join(names)}",)
    return Code(imports=imports, optimize="\n".join(lines))


def attention_backend(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """PyTorch tries the fastest of its kernels first, or diffusers' dispatcher uses an installed library,
    while the pipeline is called."""
    from diffprof.analyzers.setup.rules import PREFERABLE, best_backend

    backend = best_backend(recording)
    if backend is None:
        return Skipped("no attention kernel that is faster is installed")
    if backend in PREFERABLE:
        names = sorted(PREFERABLE, key=lambda name: name != backend)
        order = ", ".join(f"SDPBackend.{PREFERABLE[name]}" for name in names)
        return Code(
            imports=("from torch.nn.attention import SDPBackend, sdpa_kernel",),
            around=f"sdpa_kernel([{order}], set_priority=True)",
        )
    return Code(
        imports=("from diffusers import attention_backend",), around=f'attention_backend("{backend}")'
    )


# --- layers ----------------------------------------------------------------------------------------------


def fuse_qkv(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """Query, key and value in one product."""
    setup = recording.setup
    if setup is None:
        return NO_SETUP
    both = [part for part in setup.parts if part.fusable is not None or part.role == "vae"]
    if setup.fuses_qkv and all(part.fusable for part in both):  # it raises for other VAEs than AutoencoderKL
        return Code(optimize="pipe.fuse_qkv_projections()")
    parts = [part for part in setup.parts if part.fusable]
    if not parts:
        return Skipped("no model has separate projections that fuse_qkv_projections can fuse")
    return Code(optimize="\n".join(f"{place(part.name)}.fuse_qkv_projections()" for part in parts))


def _keeps_adapters(pipe: Pipeline) -> str | None:
    from diffprof.analyzers.setup.attention_modules import left_out_by_fusing

    return left_out_by_fusing(pipe)


def fuse_lora(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """Adapters are added to the weights, and taken off."""
    setup = recording.setup
    if setup is None:
        return NO_SETUP
    adapted = [part for part in setup.parts if part.adapted]
    quantized = [part.name for part in adapted if part.quantized]
    if not adapted:
        return Skipped("no adapter is attached")
    if quantized:
        return Skipped(f"{', '.join(quantized)} is quantized: a LoRA can't be merged into quantized weights")
    if not setup.fuses_lora:
        lines = [
            f"{place(part.name)}.{call}"
            for part in adapted
            for call in (f"fuse_lora(lora_scale={_lora_scale(recording)})", "unload_lora()")
        ]
        return Code(optimize="\n".join(lines))
    names = ", ".join(quoted(dotted(part.name)) for part in adapted)
    fuse = f"pipe.fuse_lora(components=[{names}], lora_scale={_lora_scale(recording)})"
    return Code(
        optimize=f"{fuse}\npipe.unload_lora_weights()",
        call='kwargs["cross_attention_kwargs"].pop("scale")' if _scale_given(recording) else "",
    )


def _scale_given(recording: Recording) -> bool:
    given = recording.target.call.get("cross_attention_kwargs")
    return isinstance(given, dict) and "scale" in given


def _lora_scale(recording: Recording) -> float:
    given = recording.target.call.get("cross_attention_kwargs")
    scale = given.get("scale", 1.0) if isinstance(given, dict) else 1.0
    if not isinstance(scale, int | float) or not math.isfinite(scale):
        raise NotAName(f"{str(scale)[:60]!r} is no scale of a LoRA")
    return float(scale)


RECIPES = (
    Recipe(
        Fix(
            "bfloat16",
            "Run all models in bfloat16",
            Safety.LOSSY,
            Stage.DTYPE,
            goals=("latency", "memory"),
            conflicts={
                "tf32": "in bfloat16 no float32 product is left for TF32",
                "float16": "a model has one type",
            },
            why="Half the bytes, and tensor cores at twice TF32's rate. bfloat16 has float32's range, so no "
            "VAE overflows, and 8 bits of mantissa: details of the image change.",
        ),
        bfloat16,
        change=Change.HALF,
    ),
    Recipe(
        Fix(
            "float16",
            "Run all models in float16",
            Safety.LOSSY,
            Stage.DTYPE,
            goals=("latency", "memory"),
            conflicts={"tf32": "in float16 no float32 product is left for TF32"},
            why="For GPUs without bfloat16. float16 has 11 bits of mantissa and overflows at 65,504; SDXL's "
            "pipelines upcast their VAE for decoding (`force_upcast`), which keeps it safe.",
        ),
        float16,
        change=Change.HALF,
    ),
    Recipe(
        Fix(
            "tf32",
            "Let float32 products run in TF32",
            Safety.NUMERIC,
            Stage.DTYPE,
            tolerance=TF32_TOLERANCE,
            why="The tensor cores take float32 operands with 10 bits of mantissa and sum in float32. The "
            "setting holds while the pipeline is called.",
        ),
        tf32,
        change=Change.TF32,
    ),
    Recipe(
        Fix(
            "sdpa",
            "Use scaled_dot_product_attention",
            Safety.NUMERIC,
            Stage.ATTENTION,
            tolerance=ROUNDING_TOLERANCE,
            goals=("latency", "memory"),
            why="One kernel that keeps the scores in the processor, instead of three that write and read "
            "them; the same mathematics in another order of summation.",
        ),
        sdpa,
        change=Change.SDPA,
    ),
    Recipe(
        Fix(
            "attention-backend",
            "Use the fastest attention kernel",
            Safety.NUMERIC,
            Stage.ATTENTION,
            tolerance=ROUNDING_TOLERANCE,
            why="Other kernels compute the same in another order of summation. The kernel is chosen while "
            "the pipeline is called; nothing global is left changed.",
        ),
        attention_backend,
        change=Change.ATTENTION,
    ),
    Recipe(
        Fix(
            "fuse-lora",
            "Merge the LoRA into the weights",
            Safety.NUMERIC,
            Stage.LORA,
            tolerance=ROUNDING_TOLERANCE,
            why="(W + s B A) x instead of W x + s B (A x): equal but for rounding. The adapter can't be "
            "switched or scaled afterwards.",
        ),
        fuse_lora,
    ),
    Recipe(
        Fix(
            "fuse-qkv",
            "Fuse query, key and value projections",
            Safety.NUMERIC,
            Stage.QKV,
            tolerance=ROUNDING_TOLERANCE,
            why="One product of three times the width computes the same three results. The separate weights "
            "stay in memory beside the fused ones.",
        ),
        fuse_qkv,
        fits=_keeps_adapters,
        change=Change.QKV,
    ),
)
