"""What is scanned: a spec string or a live pipeline -> a Target, which builds the pipeline and its call.

Light to import; torch and diffusers are imported when a target runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from diffprof.model.errors import UsageError
from diffprof.model.pipeline import Pipeline
from diffprof.targets.builtin import TINY, BuiltinInfo, builtin_named, builtin_targets, folded, shrinkable
from diffprof.targets.names import CORPUS, nearest

if TYPE_CHECKING:
    from diffprof.devices import Device
    from diffprof.targets.pipeline_call import PipelineCall

__all__ = [
    "BuiltinInfo",
    "Options",
    "Target",
    "builtin_targets",
    "from_object",
    "near_builtins",
    "resolve",
]

T = TypeVar("T")

_PAGE = re.compile(r"(?:https?://)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)(?:[/?#].*)?")
"""A model's page on the hub."""

FORMS = """\
a built-in architecture      sdxl, flux, wan or another of {number}: see `diffprof targets`
its small form, with values  tiny-flux, tiny-wan
a local checkpoint folder    ./my-checkpoint (with a model_index.json)
a hub id                     stabilityai/stable-diffusion-xl-base-1.0
a factory                    path/to/file.py:function
a script                     path/to/script.py -- its arguments"""


@dataclass(frozen=True)
class Options:
    """How a target is built and called; None: the target's own way.

    height, width in pixels. dtype: `float16`, `fp16`, `bf16`, ... . call: any other call arguments by name.
    weights: False reads configurations only. baseline: as the published guide to faster SDXL starts,
    attention without SDPA and float32 matmuls in TF32; architectures and checkpoints only.
    """

    scheduler: str | None = None
    steps: int | None = None
    height: int | None = None
    width: int | None = None
    batch: int | None = None
    dtype: str | None = None
    guidance_scale: float | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    weights: bool = True
    baseline: bool | None = None


class Target(Protocol):
    """What can be scanned. kind: builtin, checkpoint, factory, script, object; name: fit for file names."""

    @property
    def spec(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def name(self) -> str: ...

    def load_code(self) -> None:
        """Import what building needs, where that is known beforehand, so that its time can be told apart."""

    def run(self, play: Callable[[PipelineCall], T], device: Device, options: Options) -> T:
        """Build the pipeline for the active device, hand its call to `play`, give back what `play` gives.

        Raises UsageError for options that the target can't follow, TargetError where the target itself fails;
        what `play` raises passes through.
        """


def resolve(spec: str, args: Sequence[str] = ()) -> Target:
    """The target of a spec; args: a script's own arguments.

    Raises UsageError for an unknown or missing target, with near matches and the forms there are.
    """
    on_the_hub = _PAGE.fullmatch(spec.strip())
    target = _resolve(on_the_hub[1] if on_the_hub else spec, args)
    if args and target.kind != "script":
        raise UsageError(
            f"{spec!r} takes no arguments, but got: {' '.join(args)}",
            "Only a script target has arguments of its own; call arguments are set with --set key=value.",
        )
    return target


def _resolve(spec: str, args: Sequence[str]) -> Target:
    path, colon, function = spec.rpartition(":")
    if colon and path.endswith(".py"):
        from diffprof.targets.factory import FactoryTarget

        if not function:
            raise UsageError(
                f"{spec!r} names no function after the colon.",
                f"Name the one that returns the pipeline, or leave the colon out: {path} -- its arguments.",
            )

        return FactoryTarget(_file(path, spec), function)
    if spec.endswith(".py"):
        from diffprof.targets.script import ScriptTarget

        return ScriptTarget(_file(spec, spec), tuple(args))
    if spec.startswith(CORPUS):
        from diffprof.targets.corpus import CorpusTarget

        return CorpusTarget(spec)
    if builtin_named(spec) is not None:
        from diffprof.targets.checkpoint import BuiltinTarget

        return BuiltinTarget(spec)
    if shrinkable(spec) is not None:
        from diffprof.targets.checkpoint import TinyTarget

        return TinyTarget(spec)
    folder = Path(spec).expanduser()
    if folder.is_dir():
        from diffprof.targets.checkpoint import FolderTarget

        return FolderTarget(folder, spec)
    if folder.is_file():
        raise _not_a_target(f"{spec!r} is a single file.", spec)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", spec) and not spec.startswith((".", "~", "/")):
        from diffprof.targets.checkpoint import HubTarget

        return HubTarget(spec)
    if "/" in spec or "\\" in spec:
        raise UsageError(
            f"There is no folder {spec!r}.", f"Check the path, or name another target:\n{_forms()}"
        )
    raise _not_a_target(f"There is no target {spec!r}.", spec)


def from_object(
    pipe: Pipeline, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
) -> Target:
    """A live pipeline and the arguments of its call."""
    from diffprof.targets.live import ObjectTarget

    return ObjectTarget(pipe, tuple(args), dict(kwargs or {}))


def _file(path: str, spec: str) -> Path:
    file = Path(path).expanduser()
    if file.is_file():
        return file
    near = nearest(file.name, [p.name for p in file.parent.glob("*.py")]) if file.parent.is_dir() else ""
    raise UsageError(f"There is no file {path!r} (target {spec!r}).", near or "Check the path.")


def _not_a_target(what: str, spec: str) -> UsageError:
    if spec.endswith((".safetensors", ".ckpt", ".bin")):
        return UsageError(what, "Load it in a factory with from_single_file, and scan file.py:function.")
    near = near_builtins(spec)
    return UsageError(what, (near + "\n" if near else "") + "A target is one of:\n" + _forms())


def near_builtins(spec: str) -> str:
    """Built-in names that begin like it, else those that are spelled alike or, where none is close, mention
    it."""
    tiny = TINY if spec.startswith(TINY) else ""
    wanted = spec.removeprefix(TINY)
    infos = builtin_targets()
    names = {name: info.name for info in infos for name in (info.name, *info.aliases)}
    begun = [name for name in names if folded(name).startswith(folded(wanted))]
    told = [info for info in infos if info.mentions(wanted)]
    told.sort(key=lambda info: not folded(info.description).startswith(folded(wanted)))
    found = begun or [info.name for info in told]
    if found and folded(wanted):
        own = [*dict.fromkeys(names[name] for name in found)][:6]
        return f"Did you mean {', '.join(name if name.startswith(tiny) else tiny + name for name in own)}?"
    return nearest(spec, [name if name.startswith(tiny) else tiny + name for name in names])


def _forms() -> str:
    return FORMS.format(number=len(builtin_targets()))
