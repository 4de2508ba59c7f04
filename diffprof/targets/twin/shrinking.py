"""The configuration of a model -> that of the same model with every width divided by one factor."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diffprof.targets.twin.sizes import PIXELS, Sizes

TEXT_LAYERS = 2
"""Layers of the text encoders: what they compute is an input of what is compared. Of the part of one that
sees a picture all are left: its configuration says which are of what kind, and it may wait in each."""

WIDTHS = (
    *("block_out_channels", "decoder_block_out_channels", "encoder_block_out_channels", "channels"),
    *("decode_block_out_channels", "decoder_channels", "encoder_hidden_size", "base_dim", "decoder_base_dim"),
    *("base_block_out_channels", "ctrl_block_out_channels", "num_trans_channel", "num_proj_channel"),
    *("hidden_size", "intermediate_size", "out_hidden_size", "projection_dim", "d_model", "d_kv", "d_ff"),
    *("approximator_hidden_dim", "video_hidden_dim", "audio_hidden_dim", "hidden_channels"),
    *("dim", "inner_dim", "hidden_dim", "kv_inner_dim", "model_dim", "ffn_dim", "ff_dim", "freq_dim"),
    *("cross_attention_dim", "cross_attention_dim_t5", "cross_attention_input_dim", "encoder_hid_dim"),
    *("added_kv_proj_dim", "audio_cross_attention_dim"),
    *("joint_attention_dim", "pooled_projection_dim", "caption_projection_dim", "caption_channels"),
    *(
        "text_dim",
        "text_embed_dim",
        "text_embed_2_dim",
        "text_emb_dim",
        "text_encoder_dim",
        "text_hidden_dim",
    ),
    *("in_text_dim", "in_text_dim2", "context_in_dim", "cap_feat_dim", "image_dim"),
    *("embedding_dim", "embedding_proj_dim", "clip_embed_dim", "conditioning_dim", "timbre_hidden_dim"),
    *("clip_text_in_channels", "clip_text_pooled_in_channels", "clip_image_in_channels"),
    *("time_dim", "time_embed_dim", "time_embedding_dim", "time_proj_dim", "timestep_ratio_embedding_dim"),
    *("addition_time_embed_dim", "projection_class_embeddings_input_dim", "class_embeddings_dim"),
    "global_states_input_dim",
)
"""Configuration entries that count features, and are divided."""

_INNER = ("intermediate_size", "d_ff", "ffn_hidden_size")
"""Entries of text encoders that count features of nothing but the inside of a block: rounded, not refused."""

_DEPTHS = ("num_hidden_layers", "num_layers", "num_decoder_layers")

_AXES = ("axes_dims_rope", "rope_axes_dim", "axes_dim_rope", "axes_dims")
"""Entries that say how many features of a head turn with each axis of the picture."""


class NoTwin(Exception):
    """This pipeline can't be shrunk; the message says why."""


@dataclass(frozen=True)
class Scale:
    """factor: what every width is divided by. heads: of a transformer the number of heads is divided, not
    their size. sizes: of the picture. text_layers: of the text encoders; None leaves all of them, for a
    pipeline that reads what comes out of certain ones."""

    factor: int
    heads: bool
    sizes: Sizes
    text_layers: int | None = TEXT_LAYERS


def shrunk(part: object, scale: Scale) -> object:
    """A component made again, smaller, with values of its own initialisation; what is no module is copied.

    Raises NoTwin for a width that the factor does not divide.
    """
    if not isinstance(part, torch.nn.Module):
        if callable(getattr(part, "set_timesteps", None)) and hasattr(part, "config"):
            return copy.deepcopy(part)
        return part if not hasattr(type(part), "from_config") else copy.copy(part)
    config: Any = getattr(part, "config", None)
    cls = type(part)
    if hasattr(config, "to_dict"):
        made = cls(type(config)(**_text_config(config.to_dict(), scale)))
    elif config is not None and hasattr(cls, "from_config"):
        plain = {key: value for key, value in dict(config).items() if not key.startswith("_")}
        made = cls.from_config(_model_config(plain, scale))
    elif (members := _members(part)) is not None:
        # Several ControlNets or adapters in one.
        made = cls([shrunk(each, scale) for each in members])  # type: ignore[call-arg]
    else:
        raise NoTwin(f"{cls.__name__} has no configuration")
    made.eval()
    return made


def _members(part: torch.nn.Module) -> torch.nn.ModuleList | None:
    """What a module is made of that is nothing but a list of others."""
    children = list(part.children())
    return children[0] if len(children) == 1 and isinstance(children[0], torch.nn.ModuleList) else None


def _model_config(config: Mapping[str, object], scale: Scale) -> dict[str, object]:
    """Of a diffusers model."""
    factor = scale.factor
    found = scale.sizes.of_config(config)
    for key in WIDTHS:
        if found.get(key) is not None:
            found[key] = divided(found[key], factor, key)
    widths = found.get("block_out_channels")
    if widths is None:
        # Of a transformer each stream's width is heads times their size.
        for key in [key for key in found if key.endswith("attention_head_dim") and found[key]]:
            heads = f"{key.removesuffix('attention_head_dim')}num_attention_heads"
            if found.get(heads):
                smaller = heads if scale.heads else key
                found[smaller] = divided(found[smaller], factor, smaller)
        if scale.heads and found.get("attention_head_dim") and found.get("num_attention_heads"):
            return found
    if head := _head(found):
        for key in _AXES:
            if found.get(key):
                found[key] = _even_parts(found[key], head)
    for key in [key for key in found if key.endswith("norm_num_groups") and found[key] and widths]:
        found[key] = _groups(found[key], widths)
    size = found.get("sample_size")
    if isinstance(size, int) and widths is not None:
        # An autoencoder's counts pixels, a UNet's latents. Of a transformer's more may depend: PixArt takes
        # the size of the picture as a condition where it is 128.
        found["sample_size"] = min(size, PIXELS if "latent_channels" in found else PIXELS // 8)
    return found


def _head(config: Mapping[str, Any]) -> int | None:
    """Features of a head of a transformer: given, or its width shared out."""
    width = config.get("hidden_size") or config.get("dim")
    heads = config.get("num_attention_heads") or config.get("n_heads")
    shared = width // heads if isinstance(width, int) and isinstance(heads, int) else None
    return config.get("attention_head_dim") or shared


def _text_config(config: Mapping[str, Any], scale: Scale) -> dict[str, object]:
    """Of a transformers model, and those in it; with fewer layers."""
    found, factor = dict(config), scale.factor
    for key in ("dtype", "torch_dtype", "model_type", "transformers_version"):
        found.pop(key, None)
    for key, value in found.items():
        if isinstance(value, Mapping) and key.endswith("_config"):
            found[key] = _text_config(value, scale)
        elif key in _INNER and isinstance(value, int):
            found[key] = max(1, value // factor)
        elif key in WIDTHS and isinstance(value, int):
            found[key] = divided(value, factor, key)
        elif key in _DEPTHS and isinstance(value, int):
            found[key] = min(value, scale.text_layers or value)
        elif key == "head_dim" and isinstance(value, int):
            found[key] = divided(value, factor, key)
        elif key == "sliding_window" and isinstance(value, int):
            found[key] = scale.sizes.of_window(value)
    width = found.get("hidden_size")
    for key in ("num_heads", "num_attention_heads"):
        heads = found.get(key)
        if isinstance(heads, int) and isinstance(width, int) and (key == "num_heads" or width % heads):
            found[key] = _fewer_heads(heads, width)
    if isinstance(kinds := found.get("layer_types"), list):
        found["layer_types"] = kinds[: found.get("num_hidden_layers", len(kinds))]
    rotary = found.get("rope_parameters")
    if isinstance(rotary, Mapping) and rotary.get("mrope_section"):
        head = found.get("head_dim") or found["hidden_size"] // found["num_attention_heads"]
        found["rope_parameters"] = {**rotary, "mrope_section": _shares(rotary["mrope_section"], head)}
    return found


def _fewer_heads(heads: int, width: int) -> int:
    """The most heads, up to the original number, whose size is a multiple of four: a rotary embedding of rows
    and columns turns pairs of features with each. Those of before where there is none."""
    fitting = (n for n in range(heads, 0, -1) if width % n == 0 and width // n % 4 == 0)
    return next(fitting, heads)


def divided(value: object, factor: int, key: str) -> Any:
    """A number of features, or each of several, divided. Raises NoTwin, naming `key`, where that is no
    integer."""
    if isinstance(value, list | tuple):
        return type(value)(divided(each, factor, key) for each in value)
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
    return type(axes)(2 * part for part in _shares(axes, whole))


def _shares(axes: Sequence[int], whole: int) -> list[int]:
    """Pairs of rotary features of each axis, in proportion to the original ones, of a head of `whole`."""
    total = sum(axes)
    parts = [max(1, round(whole / 2 * axis / total)) for axis in axes]
    parts[-1] += whole // 2 - sum(parts)
    if whole % 2 or parts[-1] < 1:
        raise NoTwin(f"heads of {whole} features hold no {len(axes)} rotary axes")
    return parts
