"""The viewer's picture for the README. Run: python -m tests.views.tui.pictures

Drawn by Textual from a recorded run; its fonts would be fetched from elsewhere and are left out.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from diffprof.judge.judging import judge_again
from diffprof.model.report import load_report
from diffprof.views.tui.app import Viewer

SAMPLES = Path("traces/samples")
SIZE = (110, 32)


async def picture(run: str, keys: list[str]) -> str:
    """The screen after some keys, as SVG."""
    app = Viewer(judge_again(load_report(SAMPLES / run)), SAMPLES)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press(*keys)
        await app.workers.wait_for_complete()
        await pilot.pause(0.5)
        drawn = app.export_screenshot(title="diffprof view")
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)


def main() -> None:
    for name, keys in (
        ("tui", ["down"] * 6),
        ("timeline", ["2", "n", "n", "n", "n", "n", "plus", "plus"]),
    ):
        file = SAMPLES / "pictures" / f"{name}.svg"
        file.parent.mkdir(exist_ok=True)
        file.write_text(asyncio.run(picture("sdxl-ddim-a100", keys)), encoding="utf-8")


if __name__ == "__main__":
    main()
