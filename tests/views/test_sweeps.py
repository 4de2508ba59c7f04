"""What of a sweep is shown: the rows that no other beats, curves, failures once, and no script."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from diffprof.judge.frontier import by_subject, curves, frontier
from diffprof.model.sweep import SweepRow
from diffprof.views.html.sweep import render_sweep_page
from diffprof.views.sweeps import render_sweep, sparkline


def row(device: str, batch: int, seconds: float | None, memory: float, **more: object) -> SweepRow:
    figures = {} if seconds is None else {"seconds": seconds, "seconds_per_image": seconds / batch}
    return SweepRow(
        key=f"{device} {batch} {more}",
        run=f"sdxl {batch}",
        gpu=device,
        device=device,
        batch=batch,
        steps=None,
        peak_gib=memory,
        memory_gib=80,
        **{"target": "sdxl", "mode": "eager", **figures, **more},  # type: ignore[arg-type]
    )


ROWS = [
    row("h100", 1, 2.0, 10.0),
    row("h100", 2, 3.0, 12.0),
    row("h100", 4, 7.0, 16.0),
    row("a10", 1, 6.0, 10.0),
    row("a10", 2, 11.0, 11.0),
    row("a10", 4, None, 16.0, status="unfit", reason="does not fit"),
    row("t4", 1, None, 0.0, status="failed", reason="<b>no\nweights"),
]


def test_the_frontier_has_what_no_other_row_beats() -> None:
    assert [(each.device, each.batch) for each in frontier(ROWS)] == [("h100", 1), ("h100", 2)]
    assert frontier([ROWS[5]]) == ()
    dear = [msgspec.structs.replace(each, per_thousand=1.0 if each.device == "a10" else 2.0) for each in ROWS]
    assert [(each.device, each.batch) for each in frontier(dear)] == [("a10", 1)]


def test_subjects_are_told_apart_by_what_is_made() -> None:
    large = row("h100", 1, 9.0, 20.0, size="1024x1024")
    assert list(by_subject([*ROWS, large])) == ["sdxl", "sdxl 1024x1024"]


def test_curves_have_two_points_or_more() -> None:
    found = curves(ROWS, "batch")
    assert [(each.device, each.points) for each in found] == [
        ("h100", ((1, 2.0), (2, 1.5), (4, 1.75))),
        ("a10", ((1, 6.0), (2, 5.5))),
    ]
    assert curves(ROWS, "steps") == ()


def test_text() -> None:
    assert render_sweep(ROWS, "text", show=("frontier", "curves")).splitlines() == [
        "sdxl: seconds an image against memory, 2 of 7",
        "device  mode   batch  seconds  s/image  GiB of      waits  bound by",
        "h100    eager      1        2        2  10.0 of 80  -",
        "h100    eager      2        3      1.5  12.0 of 80  -",
        "",
        "seconds an image over batch, on what is on a frontier",
        "target  device  mode   shape  batch 1  batch 2  batch 4",
        "sdxl    h100    eager  █▇█          2      1.5     1.75",
        "",
        "7 rows of 3 runs: 1 failed, 5 ok, 1 unfit.",
        "",
        "failed: sdxl, 1 row: <b>no\\nweights",
        "",
        "Simulated: the range follows from where kernel times come from (`diffprof docs accuracy`).",
    ]


def test_json_has_every_figure() -> None:
    told = json.loads(render_sweep(ROWS, "json"))
    assert [each["reason"] for each in told["rows"]][-2:] == ["does not fit", "<b>no\nweights"]
    assert set(told["rows"][0]) == set(SweepRow.__struct_fields__)


def test_the_page_draws_each_row_and_escapes_what_it_is_told() -> None:
    page = render_sweep_page([*ROWS, row("<i>", 1, 1.0, 9.0, target="<script>")])
    assert "<script" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<circle") == 5 + 3 + 1
    assert len(re.findall(r'<circle [^>]*r="5"', page)) == 3


def test_hparams_have_a_run_a_row_that_has_a_time(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from diffprof.views.tensorboard.sweep import write_sweep
    from tests.views.tensorboard.reading import hparams, scalars

    assert write_sweep(ROWS, tmp_path) == 5
    runs = sorted(file.parent for file in tmp_path.glob("*/events*"))
    assert [run.name.rsplit("-", 1)[0].startswith("sdxl-") for run in runs] == [True] * 5
    settings = {(row["device"], row["batch"]): row["frontier"] for row in map(hparams, runs)}
    assert {where for where, kept in settings.items() if kept} == {("h100", 1), ("h100", 2)}
    (two,) = (run for run in runs if hparams(run)["batch"] == 2 and hparams(run)["device"] == "h100")
    assert scalars(two)["sweep (simulated)/seconds an image"] == [(0, 1.5)]
    assert "sweep (simulated)/waits" not in scalars(two)
    write_sweep(ROWS, tmp_path)
    assert sorted(file.parent for file in tmp_path.glob("*/events*")) == runs


def test_a_sparkline_is_as_high_as_its_values() -> None:
    assert sparkline([1, 4, 8]) == "▂▅█"
    assert sparkline([0, 0]) == "▁▁"
