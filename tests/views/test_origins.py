"""Where kernels' times come from, and the range that follows, are shown with the time of a call."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from diffprof.model.prediction import Prediction
from diffprof.model.recording import Grade, Timing
from diffprof.views.predictions import render_predictions
from diffprof.views.sections import tables
from tests.builders import make_recording, make_report

ORIGIN = {"measured": 0.6, "modelled": 0.396, "sibling": 0.004}


def test_a_report_says_the_share_by_origin_and_the_range() -> None:
    timing = Timing(
        grade=Grade.SIMULATED, mode="eager", seconds=(2.0,), median=2.0, origin=ORIGIN, margin=0.1
    )
    table = next(
        each
        for each in tables(make_report(recording=make_recording(timing=timing)))
        if each.title == "One call"
    )
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["kernel times"] == ("60% measured on this GPU, 40% modelled", "simulated")
    assert rows["range"] == ("1.8 s to 2.2 s", "simulated")


def test_predictions_say_it_in_a_column() -> None:
    row = Prediction(
        device="h100", gpu="H100", mode="eager", batch=1, steps=4, memory_gib=80.0, seconds=2.0,
        origin=ORIGIN, range=(1.8, 2.2),
    )  # fmt: skip
    text = render_predictions([row], "text", width=120)
    small = render_predictions([replace(row, peak_gib=0.0438, memory_gib=24.0)], "text", width=120)
    assert "0.0438 of 24" in small, "memory is never nothing"
    assert "60% measured, 40% modelled" in text
    assert "± 10 %" in text


@pytest.mark.parametrize(
    ("mode", "dtype", "said"),
    [("int8", "float16", True), ("int8", "bfloat16", False), ("fp8", "float16", False)],
)
def test_predictions_say_what_float16_cannot_hold(mode: str, dtype: str, said: bool) -> None:
    row = Prediction(device="t4", gpu="T4", mode=mode, batch=1, steps=4, dtype=dtype, seconds=2.0)
    text = " ".join(render_predictions([row], "text", width=120).split())
    assert ("INT8 in float16 is a speed alone" in text) is said


def test_what_is_said_of_every_prediction_is_said_once() -> None:
    row = Prediction(
        device="t4", gpu="T4", mode="eager", batch=1, steps=4, seconds=2.0, why="without most of it"
    )
    lines = render_predictions([row, replace(row, device="h100")], "text", width=120).splitlines()
    assert sum("ithout most of it" in line for line in lines) == 1
    assert "Without most of it. Simulated" in " ".join(lines)
    apart = render_predictions([row, replace(row, device="h100", why="")], "text", width=120).splitlines()
    assert [line.startswith("t4") for line in apart if "without most of it" in line] == [True]
