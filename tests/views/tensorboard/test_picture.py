"""The timeline's pictures, at the size at which TensorBoard shows them."""

from __future__ import annotations

from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

from diffprof.judge.timeline import replay
from diffprof.views.palette import COLOURS
from diffprof.views.tensorboard import picture
from tests.views.tensorboard.recorded import make_run

SHOWN_WIDTH = 350
"""Of a picture on TensorBoard's page Images, seen in Chromium with TensorBoard 2.20."""

LEGIBLE = 10
"""Pixels of a line of text."""


def test_text_is_legible_at_the_size_that_is_shown() -> None:
    assert picture._TEXT * SHOWN_WIDTH / picture.WIDTH >= LEGIBLE


def test_the_legend_has_the_lines_that_it_needs() -> None:
    recording = make_run()
    assert recording.timeline is not None
    found = picture.call_picture(recording, replay(recording.timeline))
    with Image.open(BytesIO(found.png)) as image:
        assert image.size == found.size
        assert found.size[0] == picture.WIDTH
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or ()}
    assert tuple(bytes.fromhex(COLOURS["gemm"][1:])) in colours


def test_a_long_name_is_cut_where_the_picture_ends() -> None:
    font = ImageFont.load_default(picture._TEXT)
    cut = picture._cut(ImageDraw.Draw(Image.new("RGB", (8, 8))), "x" * 500, font)
    assert cut.endswith("...")
    assert font.getlength(cut) <= picture.WIDTH
