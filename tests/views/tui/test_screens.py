"""What stands on the screen in every tab, for hard reports, one with every section and recorded runs.

DIFFPROF_UPDATE_GOLDEN=1 writes the stored screens anew. Another Textual lays out other screens.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import textual
from msgspec.structs import replace
from textual.pilot import Pilot

from diffprof.model.report import Report, load_report, save_report
from tests import builders
from tests.views.tui import reports
from tests.views.tui.conftest import Drive, settled

SCREENS = Path(__file__).parent / "screens"
DRAWN_WITH = "8.2.8"
SAMPLES = Path(__file__).parents[3] / "traces" / "samples"


def recorded(name: str) -> Report:
    """A recorded run as it was judged when it was stored."""
    return replace(load_report(SAMPLES / name), path=f"traces/samples/{name}")


REPORTS = {
    **builders.HARD,
    "full": reports.full,
    **{name: partial(recorded, name) for name in ("sdxl-ddim-a100", "tiny-sdxl-cpu")},
}

pytestmark = pytest.mark.skipif(
    textual.__version__ != DRAWN_WITH,
    reason=f"the stored screens were drawn by Textual {DRAWN_WITH}, this is {textual.__version__}",
)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", REPORTS)
def test_every_tab(
    name: str,
    size: tuple[int, int],
    drive: Drive,
    fixed: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffprof.views.words.age", lambda created, now: "3 d ago")
    save_report(builders.one_of_everything(), Path("traces/20260102-030405-sdxl"))
    save_report(builders.empty(), Path("traces/20260101-030405-sdxl"))

    whole = name in ("full", "sdxl-ddim-a100") or size == (80, 24)
    """Elsewhere the other tabs look alike."""

    async def visit(pilot: Pilot) -> str:
        seen = [await settled(pilot)]
        for key in "2345678" if whole else "7":
            await pilot.press(key)
            seen.append(await settled(pilot))
        await pilot.press("1", "enter")
        seen.append(await settled(pilot))
        return ("=" * size[0] + "\n").join(seen)

    shown = drive(REPORTS[name](), visit, size=size, traces=Path("traces"))
    file = SCREENS / f"{name}-{size[0]}x{size[1]}.txt"
    if os.environ.get("DIFFPROF_UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(shown, encoding="utf-8")
    assert shown == file.read_text(encoding="utf-8")
