"""The timeline as a PNG."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from diffprof.recording import Recording
from diffprof.timeline import Replay
from diffprof.views.lanes import WAITS, Lanes, one_step, whole_call
from diffprof.views.palette import NAMES, colour_of
from diffprof.views.plain import clean
from diffprof.views.words import milliseconds

WIDTH, HEIGHT = 1200, 250
_LEFT, _RIGHT = 70, 1180
_ROWS = {"phase": (44, 68), "host": (80, 122), "device": (134, 176)}
_INK, _DIM = "#222222", "#777777"


def call_picture(recording: Recording, run: Replay) -> bytes:
    """The whole call."""
    assert recording.timeline is not None
    title = f"{recording.target.spec} on {recording.device.spec}, one call"
    return _drawn(whole_call(recording.timeline, run, _RIGHT - _LEFT), recording, title)


def step_picture(recording: Recording, run: Replay) -> bytes | None:
    """One denoising step of the steady state; None where there is none."""
    assert recording.timeline is not None
    found = one_step(recording.timeline, run, _RIGHT - _LEFT)
    if found is None:
        return None
    number, lanes = found
    title = f"{recording.target.spec} on {recording.device.spec}, denoising step {number + 1}"
    return _drawn(lanes, recording, title)


def _drawn(lanes: Lanes, recording: Recording, title: str) -> bytes:
    assert recording.timeline is not None
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    small, large = ImageFont.load_default(12), ImageFont.load_default(15)
    scale = (_RIGHT - _LEFT) / (lanes.end_us - lanes.start_us)

    def x(us: float) -> float:
        return _LEFT + (us - lanes.start_us) * scale

    length = milliseconds((lanes.end_us - lanes.start_us) / 1e3)
    heading = _drawable(f"{title}: {length} ({recording.timeline.grade})")
    draw.text((_LEFT, 12), heading[:150], fill=_INK, font=large)
    for name, (top, bottom) in _ROWS.items():
        draw.text((10, (top + bottom) / 2 - 7), name, fill=_INK, font=small)
    top, bottom = _ROWS["phase"]
    for index, band in enumerate(lanes.phases):
        box = (x(band.start_us), top, max(x(band.end_us) - 1, x(band.start_us)), bottom)
        draw.rectangle(box, fill="#e4e7ee" if index % 2 else "#d3d8e4")
        name = _drawable(band.what)
        if draw.textlength(name, small) < box[2] - box[0] - 6:
            draw.text((box[0] + 4, top + 5), name, fill=_INK, font=small)
    for name, bands in (("host", lanes.host), ("device", lanes.device)):
        top, bottom = _ROWS[name]
        for band in bands:
            box = (x(band.start_us), top, max(x(band.end_us) - 0.5, x(band.start_us)), bottom)
            draw.rectangle(box, fill=colour_of(band.what))
    for mark in lanes.marks:
        at = x(mark.at_us)
        draw.polygon([(at, 130), (at - 4, 124), (at + 4, 124)], fill=colour_of(WAITS))
    _axis(draw, lanes, x, small)
    _legend(draw, lanes, small)
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _drawable(text: str) -> str:
    """On one line; the default font has no glyphs beyond Latin."""
    return clean(text).encode("ascii", "backslashreplace").decode()


def _axis(draw: ImageDraw.ImageDraw, lanes: Lanes, x: Callable[[float], float], font: Any) -> None:
    for mark in range(6):
        at = lanes.start_us + (lanes.end_us - lanes.start_us) * mark / 5
        text = f"{(at - lanes.start_us) / 1e3:,.4g} ms"
        place = min(x(at), _RIGHT - draw.textlength(text, font))
        draw.line([(x(at), 178), (x(at), 183)], fill=_DIM)
        draw.text((place, 185), text, fill=_DIM, font=font)


def _legend(draw: ImageDraw.ImageDraw, lanes: Lanes, font: Any) -> None:
    shown = list(dict.fromkeys(band.what for band in (*lanes.host, *lanes.device)))
    left = float(_LEFT)
    for what in shown:
        text = _drawable(NAMES.get(what, what))[:40]
        draw.rectangle((left, 218, left + 11, 229), fill=colour_of(what))
        draw.text((left + 16, 216), text, fill=_INK, font=font)
        left += 34 + draw.textlength(text, font)
