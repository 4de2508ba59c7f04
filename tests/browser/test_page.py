"""The HTML page in a browser without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diffprof.judge.judging import judge_again
from diffprof.model.report import load_report
from diffprof.views import render
from tests import builders
from tests.browser.conftest import Browser
from tests.samples import FOLDER


def opened(browser: Browser, page: str, folder: Path, address: Callable[[Path], str]) -> None:
    file = folder / "report.html"
    file.write_text(page, encoding="utf-8")
    browser.open(address(file))


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


def test_fits_a_narrow_screen(browser: Browser, tmp_path: Path, address: Callable[[Path], str]) -> None:
    opened(browser, render(builders.one_of_everything(), "html"), tmp_path, address)
    narrow = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    try:
        wide = browser.driver.execute_script("return document.documentElement.scrollWidth")
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= 400
