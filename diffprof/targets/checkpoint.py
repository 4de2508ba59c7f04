"""Targets that are configuration files with or without weights: built in, in a local folder, on the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from diffprof.model.errors import DiffprofError, TargetError, UsageError
from diffprof.model.pipeline import Pipeline
from diffprof.targets.builtin import (
    TINY,
    BuiltinInfo,
    builtin_named,
    copied,
    resembles,
    shrinkable,
    stands_for,
)
from diffprof.targets.names import slug

if TYPE_CHECKING:
    from diffprof.devices import Device
    from diffprof.targets import Options
    from diffprof.targets.pipeline_call import PipelineCall

T = TypeVar("T")

SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
"""What is downloaded of a checkpoint on the hub without its weights: configurations and vocabularies."""

SEED = 0
"""Of the default generators of a call that is not the user's own."""


@dataclass(frozen=True)
class BuiltinTarget:
    """An architecture whose configurations are in the package. It has no weights."""

    spec: str
    kind: str = field(default="builtin", init=False)

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def info(self) -> BuiltinInfo:
        """What the package says about it."""
        info = builtin_named(self.spec)
        assert info is not None, self.spec
        return info

    @property
    def dtype(self) -> str | dict[str, str] | None:
        """The model card's, used where none is asked for."""
        return self.info.dtype

    def load_code(self) -> None:
        from diffprof.targets.construct import pipeline_class

        pipeline_class(self.info.pipeline, Path(self.name))

    def run(self, play: Callable[[PipelineCall], T], device: Device, options: Options) -> T:
        from diffprof.targets.call_values import call_values

        info = self.info
        with info.checkpoint() as folder:
            pipe, weights = _architecture(folder, device, options, info.dtype)
        call = call_values(info.call, pipe, device.torch_device)
        return _played(self, play, device, options, pipe, weights, call, [], _card_steps(info, options))


@dataclass(frozen=True)
class TinyTarget:
    """A built-in architecture, shrunk as twins are: every width divided by one factor, a small picture, the
    denoiser's blocks all there, seeded random values on every device. spec: `tiny-` and a built-in name."""

    spec: str
    kind: str = field(default="builtin", init=False)

    @property
    def name(self) -> str:
        return TINY + self.info.name

    @property
    def info(self) -> BuiltinInfo:
        """What the package says about the full-size one."""
        info = shrinkable(self.spec)
        assert info is not None, self.spec
        return info

    @property
    def dtype(self) -> str | dict[str, str] | None:
        """The model card's, used where none is asked for."""
        return self.info.dtype

    def load_code(self) -> None:
        BuiltinTarget(self.info.name).load_code()

    def run(self, play: Callable[[PipelineCall], T], device: Device, options: Options) -> T:
        """Raises TargetError, saying why, where no factor gives a pipeline that runs."""
        from diffprof.targets.twin.building import twin_of
        from diffprof.targets.twin.shrinking import NoTwin

        try:
            twin = twin_of(self._full_size(options), cold=True)
        except NoTwin as reason:
            raise TargetError(
                f"There is no {self.name!r}: {reason}.",
                f"Scan it at full size, which needs no values: `diffprof scan {self.info.name}`.",
            ) from reason
        notes = [f"{self.name} is {twin.said}."]
        call = {**twin.call.kwargs}
        if "output_type" not in self.info.call:
            call.pop("output_type", None)  # a twin gives arrays, to be compared
        steps = _card_steps(self.info, options)
        return _played(self, play, device, options, twin.call.pipe, "random", call, notes, steps)

    def _full_size(self, options: Options) -> PipelineCall:
        """The call that is shrunk, on models without values."""
        import torch

        from diffprof.targets.call_values import call_values
        from diffprof.targets.construct import assemble
        from diffprof.targets.pipeline_call import PipelineCall

        with self.info.checkpoint() as folder:
            pipe = assemble([folder], empty=True, dtype=_types(options, self.dtype))
        return PipelineCall(pipe, (), call_values(self.info.call, pipe, torch.device("cpu")), self, "none")


@dataclass(frozen=True)
class FolderTarget:
    """A checkpoint in a local folder."""

    folder: Path
    spec: str
    kind: str = field(default="checkpoint", init=False)

    @property
    def name(self) -> str:
        return slug(self.folder.resolve().name)

    def load_code(self) -> None:
        _import_pipeline(self.folder)

    def run(self, play: Callable[[PipelineCall], T], device: Device, options: Options) -> T:
        return _checkpoint(self, play, device, options, self.folder)


@dataclass(frozen=True)
class HubTarget:
    """A checkpoint on the hub."""

    spec: str
    kind: str = field(default="checkpoint", init=False)

    @property
    def name(self) -> str:
        return slug(self.spec)

    def load_code(self) -> None:
        """Its classes are known once its configurations are here."""

    def run(self, play: Callable[[PipelineCall], T], device: Device, options: Options) -> T:
        with_weights = options.weights and device.wants_values
        return _checkpoint(self, play, device, options, downloaded(self.spec, with_weights=with_weights))


def _card_steps(info: BuiltinInfo, options: Options) -> int | None:
    """Denoising steps of the model card's call, where a scan makes fewer by itself: of an image, the share
    that `strength` says."""
    if options.steps is not None or info.steps is None or info.call.get("num_inference_steps") == info.steps:
        return None
    return int(info.steps * info.call.get("strength", 1))


def _import_pipeline(folder: Path) -> None:
    from diffprof.targets.construct import pipeline_class, read_index

    pipeline_class(read_index(folder)["_class_name"], folder)


def downloaded(repo: str, *, with_weights: bool) -> Path:
    """The local copy of a checkpoint on the hub. Raises TargetError where it can't be had."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    trouble: Exception | None = None
    try:
        # Asked first, and once: the download would ask again and again before it gives up.
        HfApi().model_info(repo, timeout=10)
    except RepositoryNotFoundError as error:
        raise TargetError(
            f"The hub has no checkpoint {repo!r}, or it is not open to you.",
            "Check the spelling; for a gated one, accept its terms and run `hf auth login`."
            + _or_built_in(repo),
        ) from error
    except Exception as error:
        trouble = error
    cached = trouble is not None
    try:
        if with_weights:
            return Path(DiffusionPipeline.download(repo, local_files_only=cached))
        return Path(
            snapshot_download(
                repo, allow_patterns=SMALL_FILES, ignore_patterns=["*.index.json"], local_files_only=cached
            )
        )
    except Exception as error:
        reason = trouble or error
        text = str(reason).strip().splitlines()
        raise TargetError(
            f"{repo!r} is neither a local folder nor in the cache, and the hub does not give it: "
            f"{type(reason).__name__}{': ' + text[0].rstrip('.') if text else ''}.",
            "Check the network, or name a local folder." + _or_built_in(repo),
        ) from error


def _or_built_in(repo: str) -> str:
    """The way without the hub: the checkpoint's built-in form, or the list of what is built in."""
    if info := stands_for(repo):
        return (
            " Its architecture is built in and needs neither network nor weights: "
            f"`diffprof scan {info.name}`; a script of yours that loads it runs with --no-weights."
        )
    if info := copied(repo):
        return f" {info.source}, of the same name, is built in: `diffprof scan {info.name}` needs no network."
    if info := resembles(repo):
        return f" {info.source}, which is like it, is built in: `diffprof scan {info.name}` needs no network."
    return " `diffprof targets` lists architectures that need no network."


def _checkpoint(
    target: object, play: Callable[[PipelineCall], T], device: Device, options: Options, folder: Path
) -> T:
    from diffprof.targets.construct import parse_dtype, read_index

    index = read_index(folder)
    notes: list[str] = []
    if (device.wants_values or _quantized(folder, index)) and options.weights:
        dtype = parse_dtype(options.dtype) if options.dtype else None
        pipe, weights = _from_pretrained(folder, dtype), "real"
    else:
        pipe, weights = _architecture(folder, device, options)
        if options.weights:
            notes.append("Weights were not loaded: shapes are all that is needed here.")
    return _played(target, play, device, options, pipe, weights, None, notes)


def _quantized(folder: Path, index: dict[str, object]) -> bool:
    """Whether a component's tensors differ from those its architecture alone would have."""
    for name in index:
        config = folder / name / "config.json"
        if config.is_file() and "quantization_config" in json.loads(config.read_text()):
            return True
    return False


def _from_pretrained(folder: Path, dtype: object) -> Any:
    from diffusers import DiffusionPipeline

    from diffprof.targets.calls import failed

    try:
        pipe = DiffusionPipeline.from_pretrained(str(folder), **({} if dtype is None else {"dtype": dtype}))
    except Exception as error:
        raise failed(f"The checkpoint {str(folder)!r} can't be loaded", error) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _architecture(
    folder: Path, device: Device, options: Options, own: str | dict[str, str] | None = None
) -> tuple[Any, str]:
    """A pipeline without its weights: shapes only, or random values where the device computes."""
    from diffprof.targets.construct import assemble

    dtype = _types(options, own)
    empty = not device.wants_values
    pipe = assemble([folder], empty=empty, dtype=dtype, device=None if empty else device.torch_device)
    return pipe, "none" if empty else "random"


def _types(options: Options, own: str | dict[str, str] | None) -> Any:
    """The dtype asked for, else the target's own, or what from_pretrained takes when it is given none."""
    from diffprof.targets.construct import parse_dtype

    wanted = options.dtype or own or "float32"
    if isinstance(wanted, str):
        return parse_dtype(wanted)
    return {part: parse_dtype(each) for part, each in wanted.items()}


def _played(
    target: Any,
    play: Callable[[PipelineCall], T],
    device: Device,
    options: Options,
    pipe: Pipeline,
    weights: str,
    call: dict[str, object] | None,
    notes: list[str],
    card_steps: int | None = None,
) -> T:
    from diffprof.targets.calls import default_call, failed, swap_scheduler, with_options
    from diffprof.targets.pipeline_call import PipelineCall

    if options.scheduler is not None:
        swap_scheduler(pipe, options.scheduler)
    plain = _as_published_guide_starts(pipe) if options.baseline else nullcontext()
    args, kwargs = with_options(pipe, (), default_call(pipe, options) if call is None else call, options)
    try:
        device.place(pipe)
    except DiffprofError:
        raise
    except Exception as error:
        raise failed(f"{target.spec} can't be moved to {device.spec}", error) from error
    with plain:
        return play(
            PipelineCall(pipe, args, kwargs, target, weights, notes, seed=SEED, card_steps=card_steps)
        )


def _as_published_guide_starts(pipe: Pipeline) -> AbstractContextManager[None]:
    """Attention of denoiser and VAE without SDPA; TF32 matmuls while the context is open.

    Raises UsageError for a pipeline without such processors.
    """
    from diffprof.targets.baseline import RUNGS, Inapplicable, prepare, tf32_matmuls

    try:
        prepare(pipe, RUNGS[0])
    except Inapplicable as reason:
        raise UsageError(f"--baseline can't be had: {reason}.", "Leave it out.") from reason
    return tf32_matmuls()
