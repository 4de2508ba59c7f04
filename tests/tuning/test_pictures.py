from __future__ import annotations

import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffprof.model.report import save_report
from diffprof.tuning.pictures import pictures, png
from diffprof.tuning.storing import AFTER, BEFORE, store_tuned
from tests import builders


@pytest.mark.parametrize("shape", [(4, 6, 3), (1, 4, 6, 3), (3, 4, 6), (2, 3, 4, 6)])
def test_a_picture_of_any_layout(shape: tuple[int, ...]) -> None:
    values = np.full(shape, 2.0)
    data = png(values)
    assert data is not None
    with Image.open(BytesIO(data)) as image:
        assert image.size == (6, 4)
        assert image.mode == "RGB"
        assert image.getpixel((0, 0)) == (255, 255, 255)


def test_grey_and_what_is_no_number() -> None:
    data = png(np.array([[[np.nan], [0.5]]]))
    assert data is not None
    with Image.open(BytesIO(data)) as image:
        assert list(image.getdata()) == [0, 128]


@pytest.mark.parametrize("what", [None, np.zeros((4, 6)), np.zeros((1, 8, 5, 7)), np.zeros((1, 2, 3, 4, 5))])
def test_what_is_no_picture_is_not_stored(what: object) -> None:
    assert png(what) is None


def test_both_have_their_name() -> None:
    assert set(pictures(np.zeros((2, 2, 3)), np.ones((2, 2, 3)))) == {BEFORE, AFTER}
    assert set(pictures(np.zeros((2, 2, 3)), None)) == {BEFORE}


def test_those_of_an_earlier_try_do_not_stay(tmp_path: Path) -> None:
    run = save_report(builders.one_of_everything(), tmp_path / "20260102-030405-sdxl")
    now = datetime.datetime.now(datetime.UTC)
    assert run.path
    folder = Path(run.path)
    for made in ({BEFORE: b"1", AFTER: b"2"}, {BEFORE: b"3"}, {}):
        store_tuned(run, None, tmp_path, now=now, pictures=made)
        assert {file.name: file.read_bytes() for file in folder.glob("*.png")} == made
