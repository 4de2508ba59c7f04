"""The HTML page in a browser without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from diffprof.judge.judging import judge_again
from diffprof.model import units
from diffprof.model.recording import steady_per_step
from diffprof.model.report import load_report
from diffprof.views import render
from tests import builders
from tests.browser.conftest import Browser
from tests.samples import FOLDER


def opened(browser: Browser, page: str, folder: Path, address: Callable[[Path], str]) -> None:
    file = folder / "report.html"
    file.write_text(page, encoding="utf-8")
    browser.open(address(file))


@pytest.mark.slow
def test_shows_the_run_and_asks_for_nothing(
    browser: Browser, tmp_path: Path, address: Callable[[Path], str]
) -> None:
    report = judge_again(load_report(FOLDER / "sdxl-ddim-h100"))
    opened(browser, render(report, "html"), tmp_path, address)
    shown = browser.text()
    assert "SYN002" in shown
    assert "diffusers/schedulers/scheduling_ddim.py:449" in shown
    assert "One call" in shown
    shapes = browser.driver.execute_script("return document.querySelectorAll('figure svg path').length")
    assert shapes > 10
    assert browser.errors() == []
    assert browser.left_the_machine() == []
    assert [each for each in browser.asked() if each.startswith(("http", "ws", "ftp"))] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["sdxl-ddim-a100", "sdxl-ddim-a100-fixed", "sdxl-ddim-h100", "tiny-sdxl-cpu"]
)
def test_every_figure_of_a_sample_is_that_of_its_report(
    browser: Browser, tmp_path: Path, address: Callable[[Path], str], name: str
) -> None:
    report = replace(judge_again(load_report(FOLDER / name)), path=str(FOLDER / name))
    opened(browser, render(report, "html"), tmp_path, address)
    recording, answer = report.recording, report.verdict
    cards = dict(browser.driver.execute_script(_CARDS))
    assert answer is not None
    assert cards["one call"] == units.duration(answer.call_ms)
    looped = [row for row in recording.syncs or () if row.in_loop]
    assert cards["waits per denoising step"] == units.number(steady_per_step(looped))
    if recording.memory is not None and recording.memory.peak_bytes:
        assert cards["peak memory"] == units.size(recording.memory.peak_bytes)
    rows = browser.driver.execute_script(_TABLE, "actions")
    known = [action for action in report.actions if action.saves_ms is not None]
    assert [row[1] for row in rows if row[1] != "unknown"] == [
        units.duration(each.saves_ms) for each in known
    ]
    if known:  # else nothing fills that column, and the page has none
        assert [row[2] for row in rows if row[2]] == [units.duration(each.after_ms) for each in known]
    captions = "\n".join(browser.driver.execute_script(_CAPTIONS))
    if recording.timeline is not None:
        assert f"One call, {units.duration(answer.call_ms)} (simulated)" in captions
        step = float(captions.partition("Denoising step 2, ")[2].partition(" ms")[0])
        assert 3 * step < answer.call_ms
    if recording.memory is not None and recording.memory.curve:
        assert f"Memory in use, {units.size(recording.memory.peak_bytes)} at its peak" in captions
    if report.after is not None:
        after = judge_again(load_report(FOLDER / report.after)).verdict
        assert after is not None
        first = browser.driver.execute_script(_TABLE, "after")[0]
        assert first[1:3] == [units.milliseconds(answer.call_ms), units.milliseconds(after.call_ms)]
        assert cards["after the fixes"] == units.duration(after.call_ms)


_CARDS = (
    "return [...document.querySelectorAll('.figures div')].map((each) =>"
    " [each.querySelector('dt').textContent, each.querySelector('dd').firstChild.textContent])"
)
_CAPTIONS = "return [...document.querySelectorAll('figcaption')].map((each) => each.textContent)"
_TABLE = (
    "return [...document.getElementById(arguments[0]).querySelectorAll('tbody tr')]"
    ".map((row) => [...row.cells].map((cell) => cell.textContent))"
)


def test_a_mark_leads_to_its_finding(
    browser: Browser, tmp_path: Path, address: Callable[[Path], str]
) -> None:
    report = judge_again(load_report(FOLDER / "sdxl-ddim-h100"))
    opened(browser, render(report, "html"), tmp_path, address)
    found = browser.driver.execute_script(
        "const link = document.querySelector('figure svg a'); const id = link.getAttribute('href').slice(1);"
        "link.dispatchEvent(new MouseEvent('click', {bubbles: true}));"
        "return [id, location.hash, document.getElementById(id).className]"
    )
    assert found[1] == f"#{found[0]}"
    assert found[2].startswith("finding")


def test_nothing_in_a_report_acts(browser: Browser, tmp_path: Path, address: Callable[[Path], str]) -> None:
    opened(browser, render(builders.ugly(), "html"), tmp_path, address)
    assert "<script>alert(1)</script>" in browser.text()
    assert browser.driver.execute_script("return document.scripts.length") == 1


@pytest.mark.slow
def test_fits_a_narrow_screen(browser: Browser, tmp_path: Path, address: Callable[[Path], str]) -> None:
    opened(browser, render(builders.one_of_everything(), "html"), tmp_path, address)
    narrow = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    try:
        wide = browser.driver.execute_script("return document.documentElement.scrollWidth")
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= 400
