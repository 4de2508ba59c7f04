"""What was scanned, where it ran, and on which versions."""

from __future__ import annotations

from typing import Any

from diffprof.model.recording.row import Grade, Row


class Component(Row, frozen=True, kw_only=True):
    """One component of the pipeline. role: denoiser, scheduler, vae, text_encoder, tokenizer, other."""

    name: str
    role: str
    cls: str
    parameters: int | None = None
    dtype: str | None = None
    device: str | None = None
    compiled: bool = False
    config: dict[str, Any] = {}


class TargetInfo(Row, frozen=True, kw_only=True):
    """What was scanned. kind: builtin, checkpoint, factory, script, object."""

    spec: str
    kind: str
    pipeline: str
    components: tuple[Component, ...] = ()
    call: dict[str, Any] = {}
    """Call arguments as plain values; tensors and images as a short description."""
    dtypes: dict[str, str] = {}
    """Of the arguments that are tensors: `float32` and the like, by name."""
    options: dict[str, Any] = {}
    """The options with which the target can be built again (scheduler, dtype, ...)."""
    args: tuple[str, ...] = ()
    """A script's own arguments."""
    lost: tuple[str, ...] = ()
    """Options whose values could not be stored, so that the target can't be built again."""
    fixed: tuple[str, ...] = ()
    """Fixes that were applied before it was scanned, in order."""
    steps: int | None = None
    """Denoising steps that were made."""
    card_steps: int | None = None
    """How many the model card's own call makes, where the scan made fewer without having been asked to."""
    makes: str | None = None
    """What a call makes: "image" or "clip"; None where it is neither, or the signature does not tell."""
    made: int = 1
    """How many of them."""
    weights: str = "real"
    """real, random (small architectures), or none (shapes only)."""


class DeviceInfo(Row, frozen=True, kw_only=True):
    """Where it ran. kind: sim, cpu, cuda."""

    spec: str
    kind: str
    name: str
    grade: Grade
    memory_bytes: int | None = None
    details: dict[str, Any] = {}


class Environment(Row, frozen=True, kw_only=True):
    """Versions that the evidence depends on."""

    diffprof: str
    python: str
    packages: dict[str, str] = {}
    platform: str = ""
