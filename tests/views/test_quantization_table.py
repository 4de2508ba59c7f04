"""The table of linears in every form."""

from __future__ import annotations

import json

import msgspec
import pytest

from diffprof.judge.judging import make_report
from diffprof.model.recording import Grade, PublishedComparison, Recording, SchemeTiming
from diffprof.views import render
from diffprof.views.quantization import FORMS, render_quantization, shape_entry
from tests.analyzers.quantization.examples import (
    MODULE,
    make_row,
    make_selection,
    make_timing,
    recorded,
)
from tests.builders import make_recording

PUBLISHED = PublishedComparison(
    source="a guide",
    setup="SDXL on an A100",
    agreed=((1280, 5120),),
    only_published=((640, 640),),
    precision=1.0,
    recall=0.5,
    precision_by_time=0.9,
    recall_by_time=0.8,
    saves_ms=-1.0,
    published_gain=0.0373,
)


@pytest.fixture
def recording() -> Recording:
    missing = SchemeTiming(
        scheme="float8-dynamic-row", mode="compiled", grade=Grade.MEASURED, why_not="no units"
    )
    return recorded(
        make_row(
            make_timing(),
            missing,
            worth_it=True,
            why="faster",
            sqnr_db={f"unet.{MODULE}": 38.2},
            published=True,
        ),
        make_row(timings=None, m=2, share=None, worth_it=None, published=None, why="not timed"),
        selections=(make_selection(),),
        script="quantize_(pipe.unet)\n",
        saves_ms=0.16,
        call_ms=16.0,
        saves_bytes=6_553_600,
        left_out=("M=2 K=1280 N=5120",),
        unavailable={"float8-dynamic-row": "no units"},
        published=PUBLISHED,
    )


def test_json_has_the_keys_that_others_build_on(recording: Recording) -> None:
    shown = json.loads(render_quantization(recording, "json"))
    first, second = shown["shapes"]
    keys = (
        "in_features",
        "out_features",
        "m",
        "count",
        "scheme",
        "speedup",
        "grade",
        "worth_it",
        "published",
    )
    assert set(keys) <= first.keys()
    values = {key: first[key] for key in keys}
    assert values.pop("speedup") == pytest.approx(100 / 60)
    assert values == {
        "in_features": 1280,
        "out_features": 5120,
        "m": 2048,
        "count": 4,
        "scheme": "int8-dynamic",
        "grade": "measured",
        "worth_it": True,
        "published": True,
    }
    assert [second[key] for key in ("speedup", "grade", "worth_it", "published")] == [None] * 4
    assert shown["choice"]["selections"][0]["modules"] == [MODULE]
    with_bias = msgspec.structs.replace((recording.linears or ())[0], bias=not first["bias"])
    assert shape_entry(with_bias, None)["bias"] is not first["bias"], "rows can be told apart"


def test_text_tells_what_it_gains_and_what_is_unknown(recording: Recording) -> None:
    text = render_quantization(recording, "text", width=120)
    assert "saves 0.16 ms of 16 ms (1.0%)" in text
    assert "6.25 MiB of weights" in text
    assert "not timed" in text
    assert "not measured" in text
    assert "float8-dynamic-row, because no units" in text
    assert "left out: M=2" in text
    assert "precision 100%, recall 50%" in text
    assert "the published list costs 1 ms" in text
    assert "3.7%" in text
    assert text.endswith("quantize_(pipe.unet)\n")
    assert text.index("saves 0.16 ms") < text.index("rows")


def test_python_is_the_script_alone(recording: Recording) -> None:
    assert render_quantization(recording, "python") == "quantize_(pipe.unet)\n"
    nothing = render_quantization(recorded(make_row(make_timing(-5))), "python")
    compile(nothing, "nothing", "exec")
    assert "No linear is worth" in nothing


def test_markdown_has_a_table_and_a_code_block(recording: Recording) -> None:
    text = render_quantization(recording, "markdown")
    assert "\n| rows |" in text
    assert "```python\nquantize_(pipe.unet)\n```" in text


@pytest.mark.parametrize("form", FORMS)
def test_without_evidence_nothing_is_claimed(form: str) -> None:
    blank = make_recording(linears=None, quantization=None)
    text = render_quantization(blank, form)
    assert text.endswith("\n")
    assert "saves" not in text


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_names_can_not_act(form: str) -> None:
    evil = recorded(make_row(make_timing(scheme="a\x1b[31m"), why="x"), left_out=("\x1b]0;title\x07",))
    assert "\x1b" not in render_quantization(evil, form)


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_a_report_has_the_shapes_as_a_section(recording: Recording, form: str) -> None:
    shown = render(make_report(recording), form, verbose=True)
    assert "Linears" in shown
    assert "2,048 x 1280 x 5120" in shown
    assert "The choice saves" in shown
