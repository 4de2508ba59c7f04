"""Published latencies beside predictions: each distinct call is simulated once and priced for every row of
it."""

from __future__ import annotations

import gc
import importlib.util
import inspect
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.pipelines.kolors import text_encoder as kolors

from diffprof.analyzers.kernels.simulated import SimulatedKernels
from diffprof.devices import resolve_device
from diffprof.devices.simulated.session import SESSION
from diffprof.gpu.assembly import linears_in
from diffprof.gpu.attention import Backend
from diffprof.gpu.cost import CostModel
from diffprof.gpu.mode import Mode, current_mode
from diffprof.gpu.quantized import SCHEMES, LinearScheme
from diffprof.gpu.specs import load_spec
from diffprof.judge.steps import with_steps
from diffprof.judge.timeline import origin_shares, total_us
from diffprof.model.pipeline import components, replaced, with_role
from diffprof.model.recording import Timeline
from diffprof.scanning.predicting import SHORT_NAMES, half_width
from diffprof.targets import Options
from diffprof.targets.compiled import compiled_roots
from diffprof.targets.construct import cast
from diffprof.targets.factory import FactoryTarget
from diffprof.targets.pipeline import PhaseTracker

STEPS = {"sd": 10}
"""Steps to run: the multistep solver of SD 1.5 repeats itself after eight."""

LIBRARIES = re.compile(r"^(?:quanto |bnb (?=nf4))?(bnb int8|\w+)(?: weights)?(?: transformer\+T5)?$")
"""A word of a rung -> the scheme's name in `SHORT_NAMES` or SCHEMES."""

FORMS = {
    "FLUX.1-dev": ("flux", "dev"),
    "CogVideoX-5b": ("cogvideox", "5b"),
    "CogVideoX-2b": ("cogvideox", "2b"),
    "stable-diffusion-v1-5": ("sd", "1.5"),
    "stable-diffusion-xl-base-1.0": ("sdxl", ""),
    "Kolors-diffusers": ("kolors", ""),
    "stable-diffusion-3-medium-diffusers": ("sd3", ""),
    "PixArt-Sigma-XL-2-1024-MS": ("pixart", "sigma"),
}
"""Last part of a checkpoint's name -> factory and variant."""


class Outcome(NamedTuple):
    """One row: predicted and published seconds, peaks in GiB where published, half width of the range."""

    row: dict[str, Any]
    seconds: float
    published: float
    peak: float
    margin: float

    @property
    def error(self) -> float:
        return self.seconds / self.published - 1.0

    @property
    def inside(self) -> bool:
        """Whether what was published lies in the range."""
        return abs(self.published / self.seconds - 1.0) <= self.margin

    @property
    def cell(self) -> tuple[str, str, str]:
        """Family, GPU, mode."""
        rung = self.row["rung"]
        mode = "quantized" if self.row["quantization"] else "compiled" if "compile" in rung else "eager"
        return self.row["family"], self.row["sim_gpu"], mode


class Run(NamedTuple):
    kernels: SimulatedKernels
    roots: tuple[str, ...]
    denoisers: tuple[str, ...]
    text_encoders: tuple[str, ...]
    held: int


def outcomes(published: Path, pipelines: Path) -> Iterator[Outcome]:
    """Rows of `latencies.jsonl` that can be priced. pipelines: a file whose FACTORIES make pipelines by
    configuration."""
    spec = importlib.util.spec_from_file_location("pipelines", pipelines)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    forms: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in (published / "latencies.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if is_priced(row):
            forms[json.dumps(form_of(row), sort_keys=True)].append(row)
    for text, rows in forms.items():
        form = json.loads(text)
        run = simulated(form, pipelines, module.FACTORIES[form["kind"]])
        yield from (priced(run, row) for row in rows)


def form_of(row: dict[str, Any]) -> dict[str, Any]:
    """What makes two rows launch the same operations."""
    kind, variant = FORMS[row["model"].rpartition("/")[2]]
    rung = row["rung"]
    form = {name: row[name] for name in ("width", "height", "frames", "batch", "dtype")}
    form |= {"kind": kind, "variant": variant, "unfused": "attn-unfused" in rung}
    # Only what is compiled is laid out anew; a transformer of videos has no such order.
    form["channels_last"] = "channels_last" in rung and kind != "cogvideox"
    form["fuse_qkv"] = "qkv" in rung
    form["norms_apart"] = kind == "flux" and "2024" in (row["versions"] or "")
    return form | {name: True for name in ("vae_slicing", "tiny_vae") if name in rung}


def simulated(form: dict[str, Any], pipelines: Path, make: Any) -> Run:
    os.environ["PREDICT_FORM"] = json.dumps(form)
    device = resolve_device("sim:a100-80gb")
    steps = STEPS.get(form["kind"], 4)

    class Target(FactoryTarget):
        def _made(self) -> Any:
            with torch.device("meta"), replaced(kolors, "skip_init", made_in_place):
                return make(form)

    def play(call: Any) -> Run:
        prepared(call.pipe, form)
        kernels = SimulatedKernels(device.gpu, call.pipe, current_mode())
        tracker = PhaseTracker(on_change=kernels.phase)
        given = {name: value() if callable(value) else value for name, value in call.kwargs.items()}
        given |= {"width": form["width"], "height": form["height"], "num_inference_steps": steps}
        watched = (tracker.watching(call.pipe), device.observed(kernels, call.pipe))
        norms = replaced(torch.nn.RMSNorm, "forward", norm_apart) if form["norms_apart"] else nullcontext()
        with torch.no_grad(), kernels.following(), watched[0], watched[1], norms:
            encode(call.pipe, form["batch"])
            call.pipe(**given)
        denoisers, encoders = (tuple(with_role(call.pipe, role)) for role in ("denoiser", "text_encoder"))
        return Run(kernels, compiled_roots(call.pipe), denoisers, encoders, held)

    with device.active():
        gc.collect()
        held = SESSION.allocated
        target = Target(pipelines, form["kind"])
        return target.run(play, device, Options(steps=steps, dtype=form["dtype"]))


def made_in_place(kind: Callable[..., torch.nn.Module], *given: Any, **named: Any) -> torch.nn.Module:
    """A module where the default device is: `skip_init` makes it in host memory."""
    return kind(*given, **{name: value for name, value in named.items() if name != "device"})


def encode(pipe: Any, prompts: int) -> None:
    """The text encoders, on as many tokens as the pipeline gives them: what a call does before what it does
    with prompt embeddings."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    tokens = parameters["max_sequence_length"].default if "max_sequence_length" in parameters else None
    guided = "negative_prompt" in parameters and "true_cfg_scale" not in parameters
    for encoder in with_role(pipe, "text_encoder").values():
        length = getattr(encoder.config, "max_position_embeddings", None) or tokens
        for _ in range(1 + guided):
            encoder(torch.zeros(prompts, length, dtype=torch.int64, device=encoder.device))


def norm_apart(norm: torch.nn.RMSNorm, x: torch.Tensor) -> torch.Tensor:
    """RMSNorm as diffusers computed it in 2024: a kernel for each operation."""
    variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
    x = x * torch.rsqrt(variance + (norm.eps or 1e-6))
    return x if norm.weight is None else x.to(norm.weight.dtype) * norm.weight


def prepared(pipe: Any, form: dict[str, Any]) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    for encoder in with_role(pipe, "text_encoder").values():
        cast(encoder, getattr(torch, form["dtype"]))  # as `from_pretrained` leaves it
    denoisers, vaes = with_role(pipe, "denoiser"), with_role(pipe, "vae")
    for part in components(pipe).values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # as `from_pretrained` gives it: in training mode, blocks copy their inputs
    for model in (*denoisers.values(), *vaes.values()) if form["unfused"] else ():
        if hasattr(model, "set_attn_processor"):
            model.set_attn_processor(AttnProcessor())
    for model in denoisers.values() if form["fuse_qkv"] else ():
        model.fuse_qkv_projections()
    for model in denoisers.values() if form["channels_last"] else ():
        model.to(memory_format=torch.channels_last)


def scheme_of(rung: list[str]) -> LinearScheme | None:
    """How the linears of a row are quantized."""
    for word in rung:
        found = LIBRARIES.match(word)
        name = found[1].replace(" ", "_") if found else ""
        if (name := SHORT_NAMES.get(name, name)) in SCHEMES:
            return SCHEMES[name]
    return None


def is_priced(row: dict[str, Any]) -> bool:
    """Core rows, and those of linears quantized otherwise that nothing else sets apart."""
    others = ("offload", "no_t5", "t5-bnb", "precomputed")
    known = row["model"].rpartition("/")[2] in FORMS and not any(o in w for o in others for w in row["rung"])
    return row["core"] or (known and row["comparable"] == "partial" and scheme_of(row["rung"]) is not None)


def mode_of(run: Run, row: dict[str, Any]) -> Mode:
    rung = row["rung"]
    roots = tuple(r for r in run.roots if not r.startswith("vae") or "compile_vae" in rung)
    scheme = scheme_of(rung)
    compiled = "compile" in rung
    if scheme is not None and scheme.before is not None and "2024" in (row["versions"] or ""):
        scheme = scheme.before
    encoders = run.text_encoders if any("T5" in each for each in rung) else ()
    quantized = (*(roots if compiled else run.denoisers), *encoders)
    # PyTorch's flash kernel before 2.2.
    old = re.search(r"torch 2\.[01](?!\d)", row["versions"] or "")
    return Mode(
        compiled=roots if compiled else (),
        quantizes=linears_in(quantized) if scheme else None,
        scheme=scheme or SCHEMES["int8"],
        attention=Backend.FLASH1 if old else None,
    )


def priced(run: Run, row: dict[str, Any]) -> Outcome:
    builder = run.kernels.builder
    builder.model = CostModel(load_spec(row["sim_gpu"]), mode_of(run, row))
    timeline = builder.finish()
    peak = ((builder.memory(run.kernels.weights).peak_bytes or 0) - run.held) / 2**30
    published = row["seconds"] or row["steps"] / row["its"]
    way = "compiled" if builder.model.mode.compiled else "eager"
    margin = half_width(origin_shares(timeline), scheme_of(row["rung"]), way)
    return Outcome(row, seconds(timeline, row), published, peak, margin)


def seconds(timeline: Timeline, row: dict[str, Any]) -> float:
    """Of the call, or of its loop where only the loop's rate was published."""
    whole = with_steps(timeline, row["steps"])
    assert whole is not None, row["id"]
    if row["seconds"]:
        return total_us(whole) / 1e6
    longer = with_steps(timeline, row["steps"] + 10)
    assert longer is not None
    return (total_us(longer) - total_us(whole)) / 1e7 * row["steps"]
