"""What a user sees first, whole: the default text of scans, of an imported trace and of each sample."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from diffprof import scan
from diffprof.judge.judging import load_judged
from diffprof.model.plain import width
from diffprof.model.report import Report
from diffprof.scanning.importing import import_trace
from diffprof.views import render
from diffprof.views.brief import LINES
from tests.chrome_trace.test_waits import download
from tests.chrome_trace.traces import write

GOLDEN = Path(__file__).parent / "golden" / "default"
SAMPLES = Path(__file__).parents[2] / "traces" / "samples"
SAMPLE_NAMES = ("sdxl-ddim-a100", "sdxl-ddim-a100-fixed", "sdxl-ddim-h100", "tiny-sdxl-cpu")
SCANS: dict[str, Callable[[], Report]] = {
    "sdxl": lambda: scan("sdxl"),
    "sdxl-ddim": lambda: scan("sdxl", scheduler="DDIMScheduler"),
    "sdxl-compiled-bfloat16": lambda: scan("sdxl", compiled=True, dtype="bfloat16"),
}


def held(name: str, report: Report) -> None:
    """One screen of 80 by 24 and a prompt, as it is stored; DIFFPROF_UPDATE_GOLDEN=1 stores it anew."""
    shown = render(report, "text", columns=80)
    lines = shown.splitlines()
    assert len(lines) <= LINES
    assert max(map(width, lines)) <= 80
    file = GOLDEN / name
    if os.environ.get("DIFFPROF_UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(shown, encoding="utf-8")
    assert shown == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SAMPLE_NAMES)
def test_a_sample(name: str) -> None:
    held(name, replace(load_judged(SAMPLES / name), path=name))


def test_an_imported_trace(tmp_path: Path) -> None:
    report = import_trace(write(tmp_path / "trace.json", download()))
    held("trace", replace(report, path="20260102-030405-trace"))


@pytest.mark.nightly
@pytest.mark.parametrize("name", SCANS)
def test_a_scan(name: str) -> None:
    held(name, replace(SCANS[name](), path="traces/20260102-030405-sdxl"))
