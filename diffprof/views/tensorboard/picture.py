"""The timeline as a PNG."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from diffprof.judge.timeline import Replay
from diffprof.model.plain import clean
from diffprof.model.recording import Recording
from diffprof.model.units import milliseconds
from diffprof.views.palette import NAMES, colour_of
from diffprof.views.timeline_bands import WAITS, TimelineBands, one_step, ticks, whole_call

WIDTH = 700
"""TensorBoard draws pictures 350 wide, at half this size; what is to be read there is twice as large here."""

_TEXT = 22
_LEFT, _RIGHT = 86, 690
_ROWS = {"phase": (70, 102), "host": (112, 160), "device": (176, 224)}
_AXIS, _LEGEND, _LINE = 232, 272, 32
_DARK, _DIM = "#222222", "#666666"


@dataclass(frozen=True)
class Picture:
    """A PNG. size: width and height in pixels."""

    png: bytes
    size: tuple[int, int]


def call_picture(recording: Recording, run: Replay) -> Picture:
    """The whole call."""
    assert recording.timeline is not None
    return _drawn(whole_call(recording.timeline, run, _RIGHT - _LEFT), recording, "one call")


def step_picture(recording: Recording, run: Replay) -> Picture | None:
    """One denoising step of the steady state; None where there is none."""
    assert recording.timeline is not None
    found = one_step(recording.timeline, run, _RIGHT - _LEFT)
    if found is None:
        return None
    number, tracks = found
    return _drawn(tracks, recording, f"denoising step {number + 1}")


def _drawn(tracks: TimelineBands, recording: Recording, what: str) -> Picture:
    assert recording.timeline is not None
    font = ImageFont.load_default(_TEXT)
    legend = list(_legend(tracks, font))
    image = Image.new("RGB", (WIDTH, _LEGEND + (legend[-1].line + 1) * _LINE + 8), "white")
    draw = ImageDraw.Draw(image)
    scale = (_RIGHT - _LEFT) / (tracks.end_us - tracks.start_us)

    def x(us: float) -> float:
        return _LEFT + (us - tracks.start_us) * scale

    length = milliseconds((tracks.end_us - tracks.start_us) / 1e3)
    heading = f"{recording.target.spec} on {recording.device.spec}"
    draw.text((10, 6), _cut(draw, heading, font), fill=_DARK, font=font)
    draw.text((10, 36), f"{what}: {length} ({recording.timeline.grade})", fill=_DARK, font=font)
    for name, (top, bottom) in _ROWS.items():
        draw.text((10, (top + bottom) / 2), name, fill=_DARK, font=font, anchor="lm")
    top, bottom = _ROWS["phase"]
    for index, band in enumerate(tracks.phases):
        box = (x(band.start_us), top, max(x(band.end_us) - 1, x(band.start_us)), bottom)
        draw.rectangle(box, fill="#e4e7ee" if index % 2 else "#d3d8e4")
        name = _drawable(band.what)
        if draw.textlength(name, font) < box[2] - box[0] - 6:
            draw.text((box[0] + 4, (top + bottom) / 2), name, fill=_DARK, font=font, anchor="lm")
    for name, bands in (("host", tracks.host), ("device", tracks.device)):
        top, bottom = _ROWS[name]
        for band in bands:
            box = (x(band.start_us), top, max(x(band.end_us) - 0.5, x(band.start_us)), bottom)
            draw.rectangle(box, fill=colour_of(band.what))
    under = _ROWS["host"][1] + 4
    for mark in tracks.marks:
        at = x(mark.at_us)
        draw.polygon([(at, under + 10), (at - 7, under), (at + 7, under)], fill=colour_of(WAITS))
    _axis(draw, tracks, x, font)
    for entry in legend:
        top = _LEGEND + entry.line * _LINE
        draw.rectangle((entry.left, top + 6, entry.left + 19, top + 25), fill=colour_of(entry.what))
        draw.text((entry.left + 26, top + 16), entry.text, fill=_DARK, font=font, anchor="lm")
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    return Picture(file.getvalue(), image.size)


def _cut(draw: ImageDraw.ImageDraw, text: str, font: object) -> str:
    """As much of it as the picture is wide."""
    text = _drawable(text)
    while draw.textlength(text, font) > WIDTH - 20:
        text = f"{text.removesuffix('...')[:-1]}..."
    return text


def _drawable(text: str) -> str:
    """On one line; the default font has no glyphs beyond Latin."""
    return clean(text).encode("ascii", "backslashreplace").decode()


def _axis(
    draw: ImageDraw.ImageDraw, tracks: TimelineBands, x: Callable[[float], float], font: object
) -> None:
    for since in ticks(tracks.end_us - tracks.start_us, 4):
        at, text = x(tracks.start_us + since), f"{since / 1e3:,.10g} ms" if since else "0"
        place = min(at, _RIGHT - draw.textlength(text, font))
        draw.line([(at, _AXIS - 6), (at, _AXIS)], fill=_DIM, width=2)
        draw.text((place, _AXIS + 2), text, fill=_DIM, font=font)


class _Entry(NamedTuple):
    """One of the legend, with its place."""

    what: str
    text: str
    left: float
    line: int


def _legend(tracks: TimelineBands, font: ImageFont.FreeTypeFont) -> Iterator[_Entry]:
    left, line = 10.0, 0
    for what in dict.fromkeys(band.what for band in (*tracks.host, *tracks.device)):
        text = _drawable(NAMES.get(what, what))[:40]
        width = 26 + font.getlength(text) + 18
        if left > 10.0 and left + width > WIDTH:
            left, line = 10.0, line + 1
        yield _Entry(what, text, left, line)
        left += width
