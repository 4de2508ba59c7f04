"""The arguments of a pipeline call: what it takes, what it is given by default, what options change."""

from __future__ import annotations

import ast
import inspect
import math
import re
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffprof.model.errors import TargetError, UsageError
from diffprof.model.pipeline import Pipeline
from diffprof.targets.builtin import STEPS
from diffprof.targets.names import nearest

if TYPE_CHECKING:
    from diffprof.targets import Options

PROMPT = "a photograph of an astronaut riding a horse on the moon, sharp focus"
FRAMES = 8
"""Pictures in a video that is given."""

IMAGES = {"image", "mask_image", "control_image"}
"""Arguments that a pipeline which has them is called with even where they have a default of None."""


def parameters(pipe: Pipeline) -> dict[str, inspect.Parameter]:
    """The parameters of the pipeline's call, by name, without `self`."""
    signature = inspect.signature(type(pipe).__call__)
    return dict(list(signature.parameters.items())[1:])


def names(pipe: Pipeline) -> tuple[list[str], bool]:
    """Names of the call's arguments, and whether any other name is taken as well."""
    held = parameters(pipe).values()
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [p.name for p in held if p.kind not in variable], any(p.kind is p.VAR_KEYWORD for p in held)


def bound(pipe: Pipeline, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
    """The given arguments by name, in the order of the signature."""
    known, _ = names(pipe)
    given = {**dict(zip(known, args, strict=False)), **kwargs}
    return {**{name: given[name] for name in known if name in given}, **given}


def default_call(pipe: Pipeline, options: Options) -> dict[str, object]:
    """Arguments for a call of any pipeline, from its signature: prompt, images if it takes them, few steps.

    Raises UsageError naming a required argument that can't be made up.
    """
    made: dict[str, object] = {}
    for name, parameter in parameters(pipe).items():
        if name in options.call or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        required = parameter.default is parameter.empty
        annotation = str(parameter.annotation)
        if name == "prompt":
            made[name] = [PROMPT] if annotation == "list[str]" else PROMPT
        elif name == "num_inference_steps":
            made[name] = math.ceil(STEPS / _strength(pipe))
        elif name in IMAGES or (required and name.endswith("image")):
            made[name] = picture(pipe, options)
        elif (name == "video" and "image" not in made) or (required and name.endswith("video")):
            made[name] = [picture(pipe, options)] * FRAMES
        elif required and re.search(r"\bint\b", annotation):
            made[name] = [0] if re.search(r"\blist\b|\bList\b", annotation) else 1
        elif required and re.search(r"\bstr\b", annotation):
            made[name] = [PROMPT] if annotation == "list[str]" else PROMPT
        elif required:
            raise UsageError(
                f"{type(pipe).__name__} can't be called without {name!r}, and diffprof has none to give.",
                f"Give it with --set {name}=VALUE, or from a factory that returns (pipeline, call_kwargs).",
            )
    return made


def _strength(pipe: Pipeline) -> float:
    """The share of the steps that the call makes of an image: its default `strength`, else 1."""
    strength = getattr(parameters(pipe).get("strength"), "default", None)
    return strength if isinstance(strength, float) and 0 < strength < 1 else 1.0


def picture(pipe: Pipeline, options: Options) -> object:
    """An RGB image: a grey ramp of the pipeline's size."""
    from PIL import Image

    side = native_side(pipe)
    return Image.linear_gradient("L").resize((options.width or side, options.height or side)).convert("RGB")


def native_side(pipe: Pipeline) -> int:
    """Height and width the pipeline was made for, pixels; 512 where its configuration does not say."""
    scale = getattr(pipe, "vae_scale_factor", 1)
    for part in (getattr(pipe, "components", None) or {}).values():
        size = getattr(getattr(part, "config", None), "sample_size", None)
        # An autoencoder's sample size counts pixels, and is not what the pipeline goes by.
        if isinstance(size, int) and not hasattr(part, "decode") and isinstance(scale, int):
            return size * scale
    return 512


def with_options(
    pipe: Pipeline, args: tuple[object, ...], kwargs: Mapping[str, object], options: Options
) -> tuple[tuple[object, ...], dict[str, object]]:
    """The call's arguments with what the options set. Raises UsageError for one that it does not take."""
    known, anything = names(pipe)
    wanted: dict[str, object] = {}
    for option, flag, argument in (
        (options.steps, "--steps", "num_inference_steps"),
        (options.height, "--height", "height"),
        (options.width, "--width", "width"),
        (options.guidance_scale, "--guidance-scale", "guidance_scale"),
    ):
        if option is not None:
            _check(pipe, argument, known, anything, flag)
            wanted[argument] = option
    for argument, value in options.call.items():
        _check(pipe, argument, known, anything, "--set")
        wanted[argument] = value
    given = {**dict(zip(known, args, strict=False)), **kwargs, **wanted}
    if options.batch is not None:
        wanted |= _batch(pipe, options.batch, known, given)
    positional = tuple(wanted.pop(name, value) for name, value in zip(known, args, strict=False))
    return positional + args[len(positional) :], {**kwargs, **wanted}


def _check(pipe: Pipeline, argument: str, known: list[str], anything: bool, flag: str) -> None:
    if argument in known or (anything and argument in _else_taken(type(pipe).__call__, argument)):
        return
    near = nearest(argument, known)
    raise UsageError(
        f"{type(pipe).__name__} takes no argument {argument!r} ({flag}).",
        f"{near + ' ' if near else ''}It takes: {', '.join(known)}.",
    )


def _else_taken(call: Any, argument: str) -> set[str]:
    """What a call takes by its `**kwargs`: the names that it looks up there; with the argument itself where
    it may pass them on."""
    call = inspect.unwrap(call)
    variable = [p.name for p in inspect.signature(call).parameters.values() if p.kind is p.VAR_KEYWORD]
    try:
        tree = ast.parse(textwrap.dedent(_source(call)))
    except SyntaxError:
        return {argument}
    uses = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id in variable]
    looked_up: dict[ast.AST, str] = {}
    for node in ast.walk(tree):
        match node:
            case (
                ast.Call(
                    func=ast.Attribute(value=ast.Name() as held, attr="pop" | "get"),
                    args=[ast.Constant(value=str(name)), *_],
                )
                | ast.Subscript(value=ast.Name() as held, slice=ast.Constant(value=str(name)))
                | ast.Compare(
                    left=ast.Constant(value=str(name)),
                    ops=[ast.In() | ast.NotIn()],
                    comparators=[ast.Name() as held],
                )
            ):
                looked_up[held] = name
    passed_on = not tree.body or any(use not in looked_up for use in uses)
    return {argument} if passed_on else {looked_up[use] for use in uses}


def _batch(pipe: Pipeline, batch: int, known: list[str], given: Mapping[str, object]) -> dict[str, object]:
    for name in known:
        if re.fullmatch(r"num_\w+_per_prompt", name) or name == "batch_size":
            return {name: batch}
    prompt = given.get("prompt")
    if isinstance(prompt, str):
        return {"prompt": [prompt] * batch}
    raise UsageError(
        f"{type(pipe).__name__} takes no argument for the batch size (--batch).",
        f"It takes: {', '.join(known)}.",
    )


def swap_scheduler(pipe: Pipeline, name: str) -> None:
    """Give the pipeline another scheduler of diffusers, made from the configuration of its own.

    name: a class name in upper or lower case, with or without `Scheduler`, or the beginning of just one.
    Raises UsageError for an unknown one, or one that this pipeline can't use.
    """
    import diffusers

    classes = [entry for entry in dir(diffusers) if entry.endswith("Scheduler")]
    folded = {entry.lower(): entry for entry in classes}
    begun = [entry for lower, entry in folded.items() if name and lower.startswith(name.lower())]
    found = folded.get(name.lower()) or folded.get(f"{name.lower()}scheduler")
    if found is None and len(begun) == 1:
        found = begun[0]
    if found is None:
        stems = {entry.removesuffix("Scheduler"): entry for entry in classes}
        near = nearest(re.sub(r"(?i)schedul\w*$", "", name), list(stems))
        raise UsageError(
            f"diffusers {diffusers.__version__} has no scheduler {name!r}.",
            f"Which of {', '.join(begun)}?" if begun else near or f"It has: {', '.join(classes)}.",
        )
    own = getattr(pipe, "scheduler", None)
    if own is None:
        raise UsageError(f"{type(pipe).__name__} has no scheduler to replace.", "Leave --scheduler out.")
    cls = getattr(diffusers, found)
    try:
        made = cls.from_config(own.config)
    except Exception as error:
        raise UsageError(
            f"{found} can't be made from the configuration of {type(own).__name__}: {str(error).strip()}",
            "Choose another scheduler.",
        ) from error
    source = _source(type(pipe).__call__)
    asked_for = set(re.findall(r"hasattr\(self\.scheduler, [\"'](\w+)", source))
    called = set(re.findall(r"self\.scheduler\.(\w+)\(", source)) - asked_for
    lacking = sorted(name for name in called if hasattr(own, name) and not hasattr(made, name))
    if lacking:
        raise UsageError(
            f"{found} has no {', '.join(lacking)}, which {type(pipe).__name__} calls.",
            f"Choose a scheduler of the same kind as {type(own).__name__}.",
        )
    pipe.scheduler = made


def scheduler_names(pipe: Pipeline) -> tuple[str, ...]:
    """The class names of diffusers' schedulers that are of the framework and kind of the pipeline's own.

    Raises UsageError for a pipeline without a scheduler.
    """
    import diffusers

    own = getattr(pipe, "scheduler", None)
    if own is None:
        raise UsageError(f"{type(pipe).__name__} has no scheduler to replace.", "Choose another target.")
    names = []
    for entry in sorted(n for n in dir(diffusers) if n.endswith("Scheduler")):
        try:
            cls = getattr(diffusers, entry)
            usable = all(hasattr(cls, need) for need in ("from_config", "step", "set_timesteps"))
        except ImportError:  # stands in for a scheduler whose library is missing; swapping it in says which
            usable = True
        if usable:
            names.append(entry)
    return tuple(names)


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


def failed(what: str, error: BaseException) -> TargetError:
    """A target's own failure: what was being done, the error, and the innermost line of its traceback."""
    import traceback

    from diffprof.targets.guest_errors import next_step

    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name}" if frames else ""
    text = str(error).strip().splitlines()
    return TargetError(
        f"{what}: {type(error).__name__}{': ' + text[0] if text else ''}{where}.",
        next_step(error),
    )


_EACH = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")
"""Arguments that say how many are made of one prompt."""


def outputs(pipe: Pipeline, given: Mapping[str, object]) -> tuple[str | None, int]:
    """(what a call makes: "image", "clip" or None, how many), from the pipeline's signature.

    given: the call's arguments by name. A pipeline that is told how many frames to make makes clips; sound
    is neither; an image has a width, or an image processor that makes it.
    """
    held = parameters(pipe)
    asked = (given.get(name) for name in ("prompt", "prompt_embeds", "image"))
    count = _length(next((value for value in asked if value is not None), None))
    for name in _EACH:
        each = given.get(name, held[name].default if name in held else 1)
        count *= each if isinstance(each, int) else 1
    if any(re.search("frames|video", name) for name in held):
        return "clip", max(count, 1)
    if any("audio" in name for name in held):
        return None, 1
    pictured = "width" in held or hasattr(pipe, "image_processor")
    return ("image" if pictured else None), max(count, 1)


def _length(value: object) -> int:
    """How many prompts, embeddings [batch, tokens, width] or images [batch, channels, height, width]."""
    if isinstance(value, list):
        return len(value)
    shape: tuple[int, ...] = tuple(getattr(value, "shape", ()))
    return int(shape[0]) if len(shape) in (2, 3, 4) and not (len(shape) == 3 and shape[0] == 3) else 1
