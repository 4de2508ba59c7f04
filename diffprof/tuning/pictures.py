"""What the pipeline made before and after its fixes, as pictures to store beside the report."""

from __future__ import annotations

from io import BytesIO

import numpy as np

from diffprof.tuning.storing import AFTER, BEFORE

_CHANNELS = (1, 3, 4)


def png(image: object) -> bytes | None:
    """The first image of a batch; None for what is no picture (latents, video, another number of channels).

    image: values in 0..1, as (height, width, channels) or (channels, height, width), with a batch before them
    or not; or None.
    """
    if image is None:
        return None
    from PIL import Image

    values = np.asarray(image, dtype=float)
    if values.ndim == 4:
        values = values[0]
    if values.ndim != 3:
        return None
    if values.shape[-1] not in _CHANNELS:
        if values.shape[0] not in _CHANNELS:
            return None
        values = np.moveaxis(values, 0, -1)
    pixels = (np.nan_to_num(values).clip(0.0, 1.0) * 255).round().astype(np.uint8)
    file = BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def pictures(before: object, after: object) -> dict[str, bytes]:
    """Name of the file -> its content, for those that are pictures."""
    found = {BEFORE: png(before), AFTER: png(after)}
    return {name: data for name, data in found.items() if data is not None}
