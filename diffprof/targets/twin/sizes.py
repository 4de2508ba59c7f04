"""How large the picture of a call is, and how large that of the twin: everything that follows from it, in
the call's arguments and in the models' configurations, changes in proportion."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffprof.model.pipeline import Pipeline, components
from diffprof.targets.calls import native_side, parameters

PIXELS = 64
"""Side of the twin's picture, where the original's is not smaller."""

FRAMES = 5
"""Of the twin's video, where the original has not fewer."""

TOKENS = 128
"""To which the twin pads a prompt, where the original pads it to more."""

SECONDS = 1.0
"""Of the twin's sound, where the original's is not shorter."""

LENGTHS = ("num_frames", "video_length", "sample_frames")
"""Names of a video's length, as arguments and in configurations."""

_TEXT = re.compile(r"max_(text_)?seq(uence)?_length|\w*max_length|\w*_semantic_tokens")
"""Names of what prompts are padded to: arguments, attributes of a pipeline and entries of configurations."""

_SOUND = re.compile(r"audio_(\w+_in_s|duration\w*)$")
"""Names of arguments that count seconds of sound."""


@dataclass(frozen=True)
class Sizes:
    """height, width: pixels; frames: of a video. `small_`: those of the twin. sound: the share of a sound's
    length that is left. tokens: what prompts are padded to at most; None leaves them as they are. text: what
    the original pads to, 0 where it does not."""

    height: int
    width: int
    frames: int
    small_height: int
    small_width: int
    small_frames: int
    sound: float = 1.0
    tokens: int | None = None
    text: int = 0

    @property
    def pixels(self) -> int:
        """Of all the twin's frames."""
        return self.small_height * self.small_width * self.small_frames

    def of_side(self, side: int) -> int:
        """Of a square picture, in pixels or latents, that is made smaller as the call's is."""
        return max(1, side * self.small_height // self.height)

    def texts(self, held: Mapping[str, object]) -> dict[str, int]:
        """The lengths of text among what is held that are longer than the twin's, with the twin's."""
        return {name: self.tokens for name, n in _texts(held).items() if self.tokens and n > self.tokens}

    def of_window(self, tokens: int) -> int:
        """Within which a text encoder attends: what a whole prompt did not fit into, it does not now."""
        return min(tokens, self.tokens) if self.tokens and tokens <= self.text else tokens

    def of_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A model's configuration, with the sizes that its tables of positions are made for."""
        found = {**config, **self.texts(config)}
        for key, whole, small in (
            ("sample_height", self.height, self.small_height),
            ("sample_width", self.width, self.small_width),
        ):
            if isinstance(found.get(key), int):
                found[key] = max(1, found[key] * small // whole)
        for key in LENGTHS:
            if found.get(key) == self.frames:
                found[key] = self.small_frames
        if self.sound < 1 and "patch_size" not in found and isinstance(found.get("sample_size"), int):
            # Latents of the longest sound, of a transformer that takes them one by one.
            found["sample_size"] = min(found["sample_size"], PIXELS)
        return found

    def of_shape(self, shape: Sequence[int]) -> list[int]:
        """The shape of a tensor that is the picture, a mask or latents of it, at whatever scale.

        Of other tensors the shape that they have.
        """
        *outer, rows, columns = shape
        if rows * self.width == columns * self.height:
            small = rows * self.small_height / self.height, columns * self.small_width / self.width
            if all(n >= 1 and n.is_integer() for n in small):
                return [*outer, int(small[0]), int(small[1])]
        return list(shape)

    def of_tokens(self, count: int) -> int:
        """The number of patches that a picture of that many is now, as packed latents have them."""
        side = math.sqrt(self.height * self.width / count) if count else 0.0
        if side.is_integer() and side:
            small = self.small_height * self.small_width / side**2
            if small >= 1 and small.is_integer():
                return int(small)
        return count


def sizes_of(pipe: Pipeline, given: Mapping[str, Any], *, small: bool = True) -> Sizes:
    """Of a call with these arguments. small: else the twin's picture is as large as the original's."""
    seen = _pictured(given)
    height, width = (
        _count(given.get(name)) or side or _default(pipe, (name,)) or _made_for(pipe, name)
        for name, side in zip(("height", "width"), seen, strict=True)
    )
    frames = next((given[name] for name in LENGTHS if _count(given.get(name))), None)
    frames = frames or _default(pipe, LENGTHS) or _configured(pipe, LENGTHS) or FRAMES
    if not small:
        return Sizes(height, width, frames, height, width, frames)
    small_sides = min(PIXELS, height), min(PIXELS, width)
    tokens = None if any("embed" in name for name in given) else TOKENS
    text = max(_texts({**vars(pipe), **taken(pipe, given)}).values(), default=0)
    return Sizes(height, width, frames, *small_sides, min(FRAMES, frames), _sound(pipe, given), tokens, text)


def _texts(held: Mapping[str, Any]) -> dict[str, int]:
    """The lengths of text among what is held, by name."""
    return {name: value for name, value in held.items() if _TEXT.fullmatch(name) and _count(value)}


def _sound(pipe: Pipeline, given: Mapping[str, object]) -> float:
    """The share of a sound's length that is left: 0 where the call makes the longest that its models can."""
    if not any(_SOUND.match(name) for name in parameters(pipe)):
        return 1.0
    longest = max(seconds_of(pipe, given).values(), default=math.inf)
    return min(1.0, SECONDS / longest)


def taken(pipe: Pipeline, given: Mapping[str, object]) -> dict[str, Any]:
    """The arguments of a call by name: given, or by default."""
    return {name: given.get(name, known.default) for name, known in parameters(pipe).items()}


def seconds_of(pipe: Pipeline, given: Mapping[str, object]) -> dict[str, float]:
    """The arguments of a call that count seconds of sound, given or by default."""
    return {
        name: value
        for name, value in taken(pipe, given).items()
        if _SOUND.match(name) and isinstance(value, int | float) and value > 0
    }


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _pictured(given: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Height and width of the first picture among the arguments, pixels."""
    for name, value in given.items():
        first = value[0] if isinstance(value, list | tuple) and value else value
        if "image" in name and "embed" not in name:
            if hasattr(first, "getbands"):
                return first.height, first.width
            if getattr(first, "ndim", 0) == 4 and first.shape[1] <= 4:
                return first.shape[-2], first.shape[-1]
    return None, None


def _default(pipe: Pipeline, names: Sequence[str]) -> int | None:
    """What the call takes where an argument is not given."""
    known = parameters(pipe)
    found = (_count(known[name].default) for name in names if name in known)
    return next((value for value in found if value is not None), None)


def _made_for(pipe: Pipeline, name: str) -> int:
    sample = _configured(pipe, (f"sample_{name}",))
    scale = getattr(pipe, "vae_scale_factor_spatial", getattr(pipe, "vae_scale_factor", None))
    return sample * scale if sample and isinstance(scale, int) else native_side(pipe)


def _configured(pipe: Pipeline, names: Sequence[str]) -> int | None:
    """What a component's configuration says; not an autoencoder's, whose sizes are those of its tiles."""
    for part in components(pipe).values():
        for name in names if not hasattr(part, "decode") else ():
            value = _count(getattr(getattr(part, "config", None), name, None))
            if value is not None:
                return value
    return None
