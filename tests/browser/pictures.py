"""The pictures in traces/samples/pictures that the README shows. Run: python -m tests.browser.pictures"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

from PIL import Image

from diffprof.judge.judging import judge_again
from diffprof.model.report import load_report
from diffprof.views import render
from tests.browser.conftest import Browser, started
from tests.browser.test_tensorboard import A100, Profiler, start
from tests.samples import FOLDER

PICTURES = FOLDER / "pictures"
WINDOW = "--window-size=1500,1500"
SETTLE_S = 2.0
"""Until a page stopped moving."""


def shoot(browser: Browser, name: str, height: int, width: int = 1100) -> None:
    """What the browser shows, in 256 colours and at most `width` wide."""
    time.sleep(SETTLE_S)
    with Image.open(BytesIO(browser.driver.get_screenshot_as_png())) as shown:
        cut = shown.convert("RGB").crop((0, 0, shown.width, min(height, shown.height)))
    cut.thumbnail((width, 10_000), Image.Resampling.LANCZOS)
    path = PICTURES / f"{name}.png"
    cut.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, started(Path(scratch) / "profile", WINDOW) as browser:
        page = Path(scratch) / "report.html"
        page.write_text(render(judge_again(load_report(FOLDER / A100)), "html"), encoding="utf-8")
        browser.open(page.as_uri())
        shoot(browser, "page", 960)
        runs = Path(scratch) / "runs"
        for name in (A100, "sdxl-ladder-a100"):
            shutil.copytree(FOLDER / name, runs / name)
        board = start([sys.executable, "-m", "diffprof", "tensorboard", str(runs)], Path(scratch))
        try:
            browser.open(f"{board.address}/data/plugin/diffprof_profiler/index.html")
            profiler = Profiler(browser)
            browser.wait(lambda: A100 in profiler.options("Runs"), A100, 90)
            browser.open(f"{board.address}/#diffprof_profiler")
            browser.wait_for("Average Step Time", seconds=60)
            shoot(browser, "tensorboard", 1400)
        finally:
            board.process.kill()
            board.process.wait()


if __name__ == "__main__":
    main()
