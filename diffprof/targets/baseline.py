"""The configurations of the published ladder: where the guide starts, and what each rung changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from diffprof.model.pipeline import Pipeline


@dataclass(frozen=True)
class Rung:
    """One configuration. Every rung keeps what the one before it has, except the type and attention."""

    name: str
    title: str
    dtype: str
    sdpa: bool = True
    compiled: bool = False
    fused_qkv: bool = False
    int8: bool = False


RUNGS = (
    Rung("fp32", "float32 (TF32), attention without SDPA", "float32", sdpa=False),
    Rung("bf16", "bfloat16", "bfloat16", sdpa=False),
    Rung("sdpa", "+ scaled_dot_product_attention", "bfloat16"),
    Rung("compile", "+ channels_last, torch.compile max-autotune", "bfloat16", compiled=True),
    Rung("qkv", "+ fused QKV projections", "bfloat16", compiled=True, fused_qkv=True),
    Rung("int8", "+ int8 dynamic quantization", "bfloat16", compiled=True, fused_qkv=True, int8=True),
)


@contextmanager
def tf32_matmuls() -> Iterator[None]:
    """float32 matmuls in TF32 while open, as in the published runs; the setting is as before after it."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class Inapplicable(Exception):
    """A rung that this pipeline can't take; the message says why."""


def prepare(pipe: Pipeline, rung: Rung) -> None:
    """Change a pipeline as the rung wants it, up to compiling and quantizing.

    Raises Inapplicable where the pipeline has no such switch.
    """
    import torch

    from diffprof.model.pipeline import with_role

    modules = {**with_role(pipe, "denoiser"), **with_role(pipe, "vae")}
    if not rung.sdpa:
        plain = [m for m in modules.values() if callable(getattr(m, "set_default_attn_processor", None))]
        if not any(m in plain for m in with_role(pipe, "denoiser").values()):
            names = ", ".join(type(m).__name__ for m in with_role(pipe, "denoiser").values())
            raise Inapplicable(f"{names or 'the pipeline'} has no attention processors without SDPA")
        for module in plain:
            module.set_default_attn_processor()
    if rung.fused_qkv:
        fuse = getattr(pipe, "fuse_qkv_projections", None)
        fusers = [fuse] if callable(fuse) else []
        if not fusers:
            fusers = [
                m.fuse_qkv_projections
                for m in modules.values()
                if callable(getattr(m, "fuse_qkv_projections", None))
            ]
        if not fusers:
            raise Inapplicable(f"{type(pipe).__name__} has no fuse_qkv_projections")
        for each in fusers:
            each()
    if rung.compiled:
        for module in modules.values():
            module.to(memory_format=torch.channels_last)
