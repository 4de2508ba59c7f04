"""A shrunken twin: the same pipeline classes with the same blocks, heads and features, every width divided by
one factor, seeded random weights on the CPU. Where weights have no values, outputs are compared on it."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from diffprof.pipeline import components, with_role
from diffprof.targets.calls import bound, names
from diffprof.targets.construct import random_values
from diffprof.targets.scene import Scene

FACTORS = (16, 8, 4, 2)
"""Tried in this order: the first with which the twin can be built and called is taken. Of a transformer the
size of the heads is divided, or else their number: rotary embeddings take only certain sizes."""

SMALL_PARAMETERS = 50_000_000
"""A pipeline of up to so many, which may be too narrow to be divided, is its own twin with random weights."""

STEPS = 3
"""Denoising steps: a first, a last, and a steady one between."""

PIXELS = 64
FRAMES = 5
SEED = 0
TEXT_LAYERS = 2
"""Layers of the text encoders: what they compute is an input of what is compared."""

_WIDTHS = (
    "block_out_channels",
    "cross_attention_dim",
    "projection_class_embeddings_input_dim",
    "addition_time_embed_dim",
    "encoder_hid_dim",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "joint_attention_dim",
    "pooled_projection_dim",
    "caption_projection_dim",
    "caption_channels",
    "time_embed_dim",
    "text_embed_dim",
    "text_dim",
    "ffn_dim",
    "d_model",
    "d_kv",
    "d_ff",
    "inner_dim",
    "hidden_dim",
    "dim",
    "cap_feat_dim",
    "freq_dim",
    "kv_inner_dim",
    "decoder_block_out_channels",
    "encoder_block_out_channels",
    "time_embedding_dim",
    "class_embeddings_dim",
)
"""Configuration entries that count features, and are divided."""


class NoTwin(Exception):
    """This pipeline can't be shrunk; the message says why."""


@dataclass(frozen=True)
class Twin:
    """scene: its call. factor: what every width was divided by."""

    scene: Scene
    factor: int

    @property
    def said(self) -> str:
        """Where an output was compared, in words."""
        widths = f"widths divided by {self.factor}" if self.factor > 1 else "the same widths"
        return f"a twin of {type(self.scene.pipe).__name__} with {widths} and random weights, on the CPU"


def twin_of(scene: Scene) -> Twin:
    """The twin of a pipeline whose weights have no values, with its processors, types, adapters and layout.

    Raises NoTwin where no factor gives a pipeline that can be built and called.
    """
    trouble = ""
    tries = [(factor, heads) for factor in FACTORS for heads in (False, True)]
    if _parameters(scene.pipe) <= SMALL_PARAMETERS:
        tries.append((1, False))
    for factor, heads in tries:
        try:
            found = Twin(_built(scene, factor, heads), factor)
            found.scene.call()
        except Exception as error:
            text = str(error).strip().splitlines()
            trouble = f"{type(error).__name__}{': ' + text[0] if text else ''}"
            continue
        found.scene.rewind()
        return found
    raise NoTwin(f"{type(scene.pipe).__name__} can't be shrunk ({trouble})")


def _parameters(pipe: Any) -> int:
    parts = [part for part in components(pipe).values() if isinstance(part, torch.nn.Module)]
    return sum(p.numel() for part in parts for p in part.parameters())


def _built(scene: Scene, factor: int, heads: bool) -> Scene:
    """heads: divide the number of a transformer's heads instead of their size."""
    pipe = scene.pipe
    parts: dict[str, Any] = {}
    accepted = inspect.signature(type(pipe).__init__).parameters
    with _quiet(), random_values(None):
        for name, part in pipe.components.items():
            parts[name] = _shrunk_part(part, factor, heads)
        given = {name: part for name, part in parts.items() if name in accepted}
        given |= {
            name: value
            for name, value in dict(getattr(pipe, "config", {})).items()
            if name in accepted and name not in given and not name.startswith("_")
        }
        made = type(pipe)(**given)
        for name, part in components(made).items():
            original = components(pipe).get(name)
            if isinstance(part, torch.nn.Module) and isinstance(original, torch.nn.Module):
                _dress(part, original)
    made.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {"disable": True}))
    kwargs = _call(scene, made, factor)
    return Scene(made, (), kwargs, scene.target, "random", seed=SEED)


@contextmanager
def _quiet() -> Iterator[None]:
    """Libraries remark on configuration entries; the twin is not what the user wrote."""
    import logging

    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


# --- components -----------------------------------------------------------------------------------------


def _shrunk_part(part: Any, factor: int, heads: bool) -> Any:
    if not isinstance(part, torch.nn.Module):
        cls = type(part)
        if callable(getattr(part, "set_timesteps", None)) and hasattr(part, "config"):
            return copy.deepcopy(part)
        return part if not hasattr(cls, "from_config") else copy.copy(part)
    config: Any = getattr(part, "config", None)
    cls = type(part)
    if hasattr(config, "to_dict"):
        made = cls(type(config)(**_shrunk_text(config.to_dict(), factor)))
    elif config is not None and hasattr(cls, "from_config"):
        plain = {key: value for key, value in dict(config).items() if not key.startswith("_")}
        made = cls.from_config(_shrunk_model(plain, factor, heads))
    elif (members := _members(part)) is not None:
        # Several ControlNets or adapters in one.
        made = cls([_shrunk_part(each, factor, heads) for each in members])  # type: ignore[call-arg]
    else:
        raise NoTwin(f"{cls.__name__} has no configuration")
    made.eval()
    return made


def _members(part: torch.nn.Module) -> torch.nn.ModuleList | None:
    """What a module is made of that is nothing but a list of others."""
    children = list(part.children())
    return children[0] if len(children) == 1 and isinstance(children[0], torch.nn.ModuleList) else None


def _shrunk_model(config: Mapping[str, Any], factor: int, heads: bool) -> dict[str, Any]:
    """A diffusers model's configuration with every width divided.

    Raises NoTwin for a width that the factor does not divide.
    """
    found = dict(config)
    for key in _WIDTHS:
        if found.get(key) is not None:
            found[key] = _divided(found[key], factor, key)
    widths = found.get("block_out_channels")
    if widths is None and found.get("attention_head_dim") and found.get("num_attention_heads"):
        # A transformer: its width is heads times their size.
        if heads:
            found["num_attention_heads"] = _divided(
                found["num_attention_heads"], factor, "num_attention_heads"
            )
            return found
        found["attention_head_dim"] = _divided(found["attention_head_dim"], factor, "attention_head_dim")
        if found.get("axes_dims_rope"):
            found["axes_dims_rope"] = _even_parts(found["axes_dims_rope"], found["attention_head_dim"])
    if widths is not None and found.get("norm_num_groups"):
        found["norm_num_groups"] = _groups(found["norm_num_groups"], widths)
    size = found.get("sample_size")
    if isinstance(size, int) and widths is not None:
        # An autoencoder's counts pixels, a UNet's latents. Of a transformer's more may depend: PixArt takes
        # the size of the picture as a condition where it is 128.
        found["sample_size"] = min(size, PIXELS if "latent_channels" in found else PIXELS // 8)
    return found


def _shrunk_text(config: Mapping[str, Any], factor: int) -> dict[str, Any]:
    """A transformers model's configuration, and those in it, with every width divided and fewer layers."""
    found = dict(config)
    for key in ("dtype", "torch_dtype", "model_type", "transformers_version"):
        found.pop(key, None)
    for key, value in found.items():
        if isinstance(value, Mapping) and key.endswith("_config"):
            found[key] = _shrunk_text(value, factor)
        elif key in _WIDTHS and isinstance(value, int):
            found[key] = _divided(value, factor, key)
        elif key in ("num_hidden_layers", "num_layers", "num_decoder_layers") and isinstance(value, int):
            found[key] = min(value, TEXT_LAYERS)
        elif key == "head_dim" and isinstance(value, int):
            found[key] = _divided(value, factor, key)
    return found


def _divided(value: Any, factor: int, key: str) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_divided(each, factor, key) for each in value)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if value % factor:
        raise NoTwin(f"{key} {value} is not divisible by {factor}")
    return value // factor


def _groups(groups: int, widths: Any) -> int:
    """The largest number of groups, up to the original one, that divides every width."""
    shared = math.gcd(*widths) if isinstance(widths, list | tuple) else int(widths)
    return max(n for n in range(1, min(groups, shared) + 1) if shared % n == 0)


def _even_parts(axes: Any, whole: int) -> Any:
    """Rotary dimensions of the axes: even, in proportion to the original ones, of that sum."""
    total = sum(axes)
    if whole % 2 or whole // 2 < len(axes):
        raise NoTwin(f"heads of {whole} features hold no {len(axes)} rotary axes")
    parts = [max(1, round(whole / 2 * axis / total)) for axis in axes]
    parts[-1] += whole // 2 - sum(parts)
    if parts[-1] < 1:
        raise NoTwin(f"heads of {whole} features hold no {len(axes)} rotary axes")
    return type(axes)(2 * part for part in parts)


def _dress(twin: torch.nn.Module, original: torch.nn.Module) -> None:
    """Give the twin what the original has beyond its configuration: adapters, processors, fused projections,
    switches, type, layout."""
    for name, config in (getattr(original, "peft_config", None) or {}).items():
        twin.add_adapter(copy.deepcopy(config), adapter_name=name)  # type: ignore[operator]
        _fill_adapters(twin)
    theirs = dict(original.named_modules())
    for name, module in twin.named_modules():
        other = theirs.get(name)
        if other is None:
            continue
        if getattr(other, "fused_projections", False) and callable(getattr(module, "fuse_projections", None)):
            module.fuse_projections()
        processor = getattr(other, "processor", None)
        if processor is not None and not isinstance(processor, torch.nn.Module):
            module.processor = copy.copy(processor)
        for switch in ("use_tiling", "use_slicing"):
            if isinstance(getattr(other, switch, None), bool):
                setattr(module, switch, getattr(other, switch))
    dtypes = {p.dtype for p in original.parameters() if p.is_floating_point()}
    if len(dtypes) == 1:
        twin.to(dtypes.pop())
    if any(_channels_last(p) for p in original.parameters()):
        twin.to(memory_format=torch.channels_last)


def _channels_last(weight: torch.Tensor) -> bool:
    return weight.dim() == 4 and weight.shape[1] > 1 and weight.shape[-1] > 1 and weight.stride()[1] == 1


def _fill_adapters(module: torch.nn.Module) -> None:
    """Adapters begin as zeros, which would hide what is done to them."""
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)


# --- the call -------------------------------------------------------------------------------------------


def _call(scene: Scene, made: Any, factor: int) -> dict[str, Any]:
    """The scene's arguments: few steps, a small picture, tensors of the twin's widths."""
    widths = _width_map(scene.pipe, factor)
    given = bound(scene.pipe, scene.args, scene.kwargs)
    kwargs = {name: _argument(name, value, widths) for name, value in given.items()}
    known, _ = names(made)
    side = PIXELS
    steps = kwargs.get("num_inference_steps")
    few = _few_steps(made, kwargs)
    if "num_inference_steps" in known and not (isinstance(steps, int) and steps <= few):
        kwargs["num_inference_steps"] = few
    for name in ("height", "width"):
        if name in known:
            kwargs[name] = side
    for name in ("num_frames", "video_length"):
        if name in known:
            kwargs[name] = FRAMES
    if "use_resolution_binning" in known:
        kwargs["use_resolution_binning"] = False  # it would make the picture as large as the original's
    if "output_type" in known and kwargs.get("output_type") != "latent":
        kwargs["output_type"] = "np"
    return kwargs


def _few_steps(pipe: Any, kwargs: Mapping[str, Any]) -> int:
    """STEPS that are done: of a picture that is changed with some strength only that share is."""
    default = inspect.signature(pipe.__call__).parameters.get("strength")
    strength = kwargs.get("strength", default.default if default is not None else None)
    if isinstance(strength, int | float) and 0.0 < strength < 1.0:
        return math.ceil(STEPS / strength)
    return STEPS


def _width_map(pipe: Any, factor: int) -> dict[int, int]:
    """Last dimensions of embeddings -> those of the twin."""
    found = {}
    for part in (*with_role(pipe, "denoiser").values(), *with_role(pipe, "text_encoder").values()):
        config: Any = getattr(part, "config", None)
        items = config.to_dict() if hasattr(config, "to_dict") else dict(config or {})
        for key in _WIDTHS:
            value = items.get(key)
            for each in value if isinstance(value, list | tuple) else [value]:
                if isinstance(each, int) and not isinstance(each, bool) and each % factor == 0:
                    found[each] = each // factor
    return found


def _argument(name: str, value: Any, widths: Mapping[int, int]) -> Any:
    if isinstance(value, torch.Generator):
        return torch.Generator().manual_seed(SEED)
    if isinstance(value, torch.Tensor):
        return _tensor(name, value, widths)
    if hasattr(value, "getbands"):
        return value.resize((PIXELS, PIXELS))
    if isinstance(value, list | tuple):
        return type(value)(_argument(name, each, widths) for each in value)
    if isinstance(value, dict):
        return {key: _argument(key, each, widths) for key, each in value.items()}
    return value


def _tensor(name: str, value: torch.Tensor, widths: Mapping[int, int]) -> torch.Tensor:
    shape = list(value.shape)
    if name in ("latents", "image", "mask_image", "control_image") and len(shape) >= 4:
        small = PIXELS // 8 if name == "latents" else PIXELS
        shape[-2:] = [small, small]
    elif shape:
        shape[-1] = widths.get(shape[-1], shape[-1])
    generator = torch.Generator().manual_seed(SEED)
    if value.is_floating_point():
        return torch.randn(shape, generator=generator).to(value.dtype)
    return torch.zeros(shape, dtype=value.dtype)
