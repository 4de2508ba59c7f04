"""Figures and tables of the HTML page."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
from msgspec.structs import replace

from diffprof.judge.judging import judge_again
from diffprof.model.fix import Plan, PlanStep, Safety
from diffprof.model.recording import Grade, MemoryPoint, MemoryUse
from diffprof.model.report import Report, load_report, save_report
from diffprof.views import render
from diffprof.views.html import _figures, _table
from diffprof.views.html.code import code_lines, diff_lines
from diffprof.views.html.memory import memory_figure
from diffprof.views.table import Table
from tests import builders
from tests.samples import FOLDER
from tests.views.tensorboard import recorded

GIB = 2**30
CURVE = (MemoryPoint(op=0, bytes=2 * GIB), MemoryPoint(op=50, bytes=8 * GIB), MemoryPoint(op=75, bytes=GIB))


def memory_of(capacity_bytes: int) -> str:
    used = MemoryUse(grade=Grade.SIMULATED, curve=CURVE, capacity_bytes=capacity_bytes)
    return memory_figure(used, 100)


def test_memory_is_drawn_over_the_operations_of_the_call() -> None:
    shown = memory_of(capacity_bytes=80 * GIB)
    assert "Memory in use, 8 GiB at its peak (simulated)" in shown
    # 1000 columns from 60 on, 130 high from 142 upwards: 8 GiB are all of it.
    assert 'd="M60 142H60V109.5H560V12H810V125.8H1060V142z"' in shown
    assert re.findall(r">(\d+) GiB<", shown) == ["0", "2", "4", "6"]
    assert "the device has" not in shown, "it would press the curve flat"


def test_axes_of_long_calls_have_plain_figures() -> None:
    used = MemoryUse(grade=Grade.SIMULATED, curve=CURVE)
    shown = memory_figure(used, 25_000)
    assert re.findall(r'text-anchor="middle">([^<]*)<', shown) == ["0", "5,000", "10,000", "15,000", "20,000"]


def test_the_memory_of_the_device_is_drawn_where_it_is_near() -> None:
    shown = memory_of(capacity_bytes=10 * GIB)
    assert "the device has 10 GiB" in shown
    assert '<line class="limit" x1="60" x2="1060" y1="12.0" y2="12.0"/>' in shown


def test_without_a_curve_there_is_no_chart() -> None:
    assert not memory_figure(None, 100)
    assert not memory_figure(MemoryUse(grade=Grade.SIMULATED, peak_bytes=GIB), 100)


def test_what_does_no_work_takes_its_colour_from_the_theme() -> None:
    page = render(judge_again(load_report(FOLDER / "sdxl-ddim-h100")), "html")
    quiet = re.findall(r'<path class="quiet"[^>]*><title>([^<]*)', page)
    assert set(quiet) <= {"device idle", "host waits: launch queue full"}
    assert "device idle" in quiet
    dark = page.partition("prefers-color-scheme: dark")[2]
    paper, idle = (re.search(rf"--{name}: #(\w\w)", dark) for name in ("paper", "quiet"))
    assert paper
    assert idle
    assert 0 < int(idle[1], 16) - int(paper[1], 16) < 64, "seen, and hardly brighter than the page"


def test_before_and_after_stand_side_by_side(tmp_path: Path) -> None:
    report = replace(load_report(FOLDER / "sdxl-ddim-a100"), path=str(FOLDER / "sdxl-ddim-a100"))
    page = render(judge_again(report), "html")
    rows = page.partition('<section id="after">')[2].partition("</section>")[0]
    assert re.search(r"<tr><td>[^<]*call[^<]*</td><td[^>]*>539 ms</td><td[^>]*>371 ms</td>", rows)
    assert 'id="after"' not in render(replace(report, path=str(tmp_path / "a")), "html")


def test_an_after_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    stored = save_report(replace(builders.one_of_everything(), after="b"), tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "report.json").write_text("{")
    assert "is not a diffprof report" in render(stored, "html")


def test_code_and_diffs_can_be_copied() -> None:
    page = render(judge_again(load_report(FOLDER / "sdxl-ddim-a100")), "html")
    listings = re.findall(
        r"<summary>(source of |[^<]* in your source|diff of)[^<]*</summary>\n<pre([^>]*)>", page
    )
    assert len(listings) >= 3
    assert {attributes for _, attributes in listings} == {' class="copy"'}


def test_words_of_code_are_coloured_and_nothing_in_them_acts() -> None:
    assert code_lines(["if x < 1:  # </pre>", "\treturn '<b>'"]) == [
        '<span class="k">if</span> x &lt; <span class="n">1</span>:  <span class="c"># &lt;/pre&gt;</span>',
        '    <span class="k">return</span> <span class="s">&#39;</span><span class="s">&lt;b&gt;</span>'
        '<span class="s">&#39;</span>',
    ]
    lines = ["--- a.py", "@@ -1 +1 @@", "-x = None", "+y"]
    assert diff_lines(lines) == [
        ("", "--- a.py"),
        ("", "@@ -1 +1 @@"),
        ("del", '-x = <span class="k">None</span>'),
        ("add", "+y"),
    ]
    assert diff_lines(["<b>"]) == [("", "&lt;b&gt;")]


def test_a_piece_that_begins_in_a_docstring_is_told_by_its_line_of_code() -> None:
    end = ["in the end", '"""', "return 1"]
    assert code_lines(end, 2)[2] == '<span class="k">return</span> <span class="n">1</span>'
    assert code_lines(end, 2)[0] == '<span class="s">in the end</span>'
    assert code_lines(end[:2]) == ["in the end", "&#34;&#34;&#34;"]
    begin = ["return 1", "def f():", '    """In.', "    is"]
    assert [line.startswith('<span class="k">') for line in code_lines(begin, 0)] == [
        True,
        True,
        False,
        False,
    ]
    assert 'class="k"' not in code_lines(begin, 0)[3]


def test_short_cells_keep_their_line_and_long_names_may_be_broken() -> None:
    rows = (
        ("fix --lossy", "diffusers/schedulers/scheduling_ddim.py:282", "1 ms", "what to do about all of it"),
    )
    page = _table(Table("t", ("by", "where", "saves", "what"), rows))
    assert re.findall(r'<td(?: class="(\w+)")?>', page) == ["short", "long", "number", ""]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_a_click_sorts_and_copies() -> None:
    stand_in = Path(__file__).parent / "page_dom.mjs"
    script = files("diffprof.views.html").joinpath("page.js")
    ran = subprocess.run(["node", str(stand_in), str(script)], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == [
        "b|1.5 s; c|1,200 ms; a9|20 ms; a10| descending",
        "a9|20 ms; c|1,200 ms; b|1.5 s; a10| ascending",
        "a9|20 ms; a10|; b|1.5 s; c|1,200 ms ascending",
        "c|1,200 ms; b|1.5 s; a10|; a9|20 ms descending",
        '"x = 1\\ny\\n" copied',
    ]


def test_a_trace_without_steps_is_no_call_and_has_no_empty_columns() -> None:
    site = builders.make_site("aten::item", 0, function="", module=None, excerpt=(), chain=())
    wait = builders.make_sync(in_loop=False, count=61, site=site)
    recording = builders.make_recording(wait, timeline=recorded.make_timeline())
    target = replace(recording.target, kind="trace", steps=None)
    finding = builders.make_finding(site=site, in_loop=False)
    report = builders.make_report(finding, recording=replace(recording, target=target))
    shown = render(report, "html")
    assert "<dt>waits</dt><dd>61" in shown
    assert "waits per denoising step" not in shown
    assert "<figcaption>The trace, " in shown
    assert "> in </span>" not in shown
    table = _table(Table("t", ("what", "where", "n"), (("a", "", "1"), ("b", "", "2"))))
    assert re.findall("<th(?: [^>]*)?>([^<]*)<", table) == ["what", "n"]


def test_fixes_that_gain_nothing_are_expected_to_give_nothing() -> None:
    report = replace(builders.one_of_everything(), outcomes=None)
    step = PlanStep(fix="tf32", title="TF32", safety=Safety.NUMERIC, stage=1)
    plan = Plan(steps=(step,), before_ms=465.1, after_ms=465.2, grade=Grade.MEASURED)
    assert "expected with the fixes" not in _shown(report, plan)
    gains = _shown(report, replace(plan, after_ms=2650.0))
    assert gains["expected with the fixes"] == ("2.65 s", "measured, saving modelled, 1 fix")


def _shown(report: Report, plan: Plan) -> dict[str, tuple[str, str]]:
    return {name: (value, note) for name, value, note in _figures(report, plan)}
