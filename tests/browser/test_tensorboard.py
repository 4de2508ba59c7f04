"""TensorBoard in a browser without a network: every page has real figures; nothing leaves the machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from diffprof.judge.judging import judge_again
from diffprof.judge.plan import make_plan
from diffprof.judge.steps import steps_of
from diffprof.judge.timeline import replay
from diffprof.model import units
from diffprof.model.fix import Outcome
from diffprof.model.ladder import save_ladder
from diffprof.model.plain import clean, cut
from diffprof.model.redacting import without_home
from diffprof.model.report import load_report
from diffprof.views import words
from diffprof.views.fixes import fix_table
from diffprof.views.sections import not_checked, tables
from diffprof.views.tensorboard.profiler.pages import MOST_FINDINGS
from diffprof.views.verdict import verdict
from tests.browser.conftest import Browser
from tests.builders import UGLY
from tests.samples import FOLDER
from tests.views.tensorboard.recorded import (
    KINDS,
    make_ladder,
    make_outcomes,
    make_run,
    make_timeline,
    store,
)

pytestmark = pytest.mark.nightly

A100, FIXED, H100 = "sdxl-ddim-a100", "sdxl-ddim-a100-fixed", "sdxl-ddim-h100"
PLUGIN = "diffprof.views.tensorboard.plugin:ProfilerPlugin"
START_S = 90


@dataclass
class Board:
    """A TensorBoard that runs. address: of its first page, without the hash."""

    process: subprocess.Popen[str]
    address: str
    page: str


def start(command: list[str], folder: Path, *more: str) -> Board:
    """Start it and wait for the address that it prints."""
    out, err = folder / "out.txt", folder / "err.txt"
    path = os.pathsep.join([str(Path(__file__).parents[2]), *more])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(
            command,
            stdout=stdout,
            stderr=stderr,
            text=True,
            env=environment,
            # A shell that starts this in the background has Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            start_new_session=True,
        )
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        # The whole address: what is read may end in the middle of it.
        found = re.search(r"http://127\.0\.0\.1:\d+/\S*(?=\s)", out.read_text() + err.read_text())
        if found:
            page = found[0]
            return Board(process, page.partition("#")[0].rstrip("/"), page)
        time.sleep(0.2)
    process.kill()
    process.wait()
    raise AssertionError(f"no address: {out.read_text()} {err.read_text()}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample before and after its fixes, a run with outcomes and a hostile one."""
    folder = tmp_path_factory.mktemp("runs")
    for name in (A100, FIXED):
        shutil.copytree(FOLDER / name, folder / name)
    store(folder / "fixed", outcomes=make_outcomes())
    save_ladder(make_ladder(), folder / "fixed")
    kinds = tuple(replace(kind, name=UGLY, op=UGLY) for kind in KINDS)
    hostile = make_run(failure=UGLY, partial=True, timeline=make_timeline(kinds=kinds))
    store(folder / "hostile", recording=hostile)
    return folder


@pytest.fixture(scope="module")
def board(runs: Path, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    command = [sys.executable, "-m", "diffprof", "tensorboard", str(runs)]
    started = start(command, tmp_path_factory.mktemp("board"))
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()


@pytest.fixture(scope="module")
def profiler(board: Board, browser: Browser) -> Profiler:
    """The profiler's own page, with the sample's run chosen."""
    browser.open(f"{board.address}/data/plugin/diffprof_profiler/index.html")
    found = Profiler(browser)
    browser.wait(lambda: A100 in found.options("Runs"), f"{A100} among the runs", START_S)
    found.choose("Runs", A100)
    return found


@dataclass
class Profiler:
    """The plugin's page: lists of runs, views and workers, and the view."""

    browser: Browser

    def options(self, label: str, number: int = 0) -> list[str]:
        """What a list offers."""
        names = self._open(label, number)
        self._script("document.querySelector('.MuiPopover-root > div').click()")
        self._closed()
        return names

    def choose(self, label: str, name: str, number: int = 0) -> None:
        """Choose an entry of a list, once it is there."""

        def chosen() -> bool:
            if name in self._open(label, number):
                self._script(
                    "[...document.querySelectorAll('li.MuiMenuItem-root')]"
                    ".find((item) => item.textContent.trim() === arguments[0]).click()",
                    name,
                )
                self._closed()
                return True
            self._script("document.querySelector('.MuiPopover-root > div')?.click()")
            self._closed()
            return False

        self.browser.wait(chosen, f"{name} among {label}")

    def _script(self, code: str, *args: object) -> Any:
        return self.browser.driver.execute_script(code, *args)

    def _open(self, label: str, number: int) -> list[str]:
        """Open the list with this label, the first or a later one of that name; returns what is in it."""
        opened = self._script(
            "const boxes = [...document.querySelectorAll('.MuiSelect-select')].filter((box) => {"
            " const above = box.closest('.MuiFormControl-root')?.previousElementSibling;"
            " return above && above.textContent === arguments[0]});"
            "if (boxes.length <= arguments[1]) return false;"
            "boxes[arguments[1]].dispatchEvent(new MouseEvent('mousedown', {bubbles: true, button: 0}));"
            "return true",
            label,
            number,
        )
        if not opened:
            return []
        items = (
            "return [...document.querySelectorAll('li.MuiMenuItem-root')]"
            ".map((item) => item.textContent.trim())"
        )
        self.browser.wait(
            lambda: self._script("return document.querySelector('.MuiPopover-root')"), f"the list {label}"
        )
        return list(self._script(items))

    def _closed(self) -> None:
        self.browser.wait(
            lambda: not self._script("return document.querySelector('.MuiPopover-root')"), "a closed list"
        )


def after(text: str, label: str) -> float:
    """The first figure that follows a label."""
    found = re.search(re.escape(label) + r"\s+([\d.,]+)", text)
    assert found, f"no figure after {label!r} in {text[:800]!r}"
    return float(found[1].replace(",", ""))


class Sums:
    """Figures of a sample's report, by which the pages are judged. Times in microseconds."""

    def __init__(self, name: str) -> None:
        self.report = judge_again(load_report(FOLDER / name))
        found = self.report.recording.timeline
        assert found is not None
        self.timeline = found
        self.steps = steps_of(found)

    def device(self, kernel: str = "", module: str = "", step: int | None = None) -> tuple[int, float]:
        """(kernels, device time) of a name and below a module, in the call or in one step."""
        first, last = (0, len(self.timeline.kind)) if step is None else self.steps[step]
        kinds, modules = self.timeline.kinds, self.timeline.modules

        def below(path: str) -> bool:
            return f"{path}.".startswith(f"{module}.")

        times = [
            self.timeline.device_us[i]
            for i in range(first, last)
            if (kind := self.timeline.kind[i]) >= 0
            and kernel in ("", kinds[kind].name)
            and (not module or (self.timeline.module[i] >= 0 and below(modules[self.timeline.module[i]])))
        ]
        return len(times), sum(times)

    def step_us(self, step: int) -> float:
        """From the host's first event of a step to its last end, on host or device, as the marks have it."""
        run = replay(self.timeline)
        first, last = self.steps[step]
        return run.host_end[last - 1] - run.host_start[first]


@pytest.fixture(scope="module")
def before() -> Sums:
    return Sums(A100)


@pytest.fixture(scope="module")
def fixed() -> Sums:
    return Sums(FIXED)


def near(sums: tuple[int, float]) -> Any:
    """A sum of times as the plugin has it: each edge rounded to 1/64 us, and the sum shown in whole ones."""
    count, us = sums
    return pytest.approx(us, rel=0, abs=count / 64 + 1)


def test_overview(profiler: Profiler, browser: Browser, before: Sums) -> None:
    profiler.choose("Views", "Overview")
    shown = browser.wait_for("Average Step Time", "GPU Utilization", "SYN002")
    average = sum(map(before.step_us, range(3))) / 3
    assert after(shown, "Average Step Time") == pytest.approx(average, abs=1)
    kernels = sum(before.device(step=step)[1] for step in range(3)) / 3
    assert after(shown, "\nKernel") == pytest.approx(kernels, rel=0.005)
    assert after(shown, "GPU Utilization") == pytest.approx(100 * kernels / average, rel=0.005)
    memory = before.report.recording.memory
    assert memory is not None
    assert after(shown, "\nMemory") == pytest.approx(memory.capacity_bytes / 2**30, abs=0.01)
    said = " ".join(shown.split())
    assert " ".join(verdict(before.report).headline.split()) in said
    for finding in before.report.findings[:MOST_FINDINGS]:
        assert units.place(finding.site) in said or finding.message.rstrip(".").replace("`", "") in said
        assert words.how_often(finding) in said


def test_operator(profiler: Profiler, browser: Browser, before: Sums) -> None:
    profiler.choose("Views", "Operator")
    browser.wait_for("Device Self Time (us)", "linear", "View CallStack")
    rows = [row for row in browser.driver.execute_script(_ROWS) if len(row) > 4]
    assert len(rows) > 10
    for name, calls, self_us, total_us, *_ in rows:
        sums = before.device(name)
        assert (name, int(calls)) == (name, sums[0])
        assert float(self_us) == near(sums)
        assert float(total_us) == near(sums)


_ROWS = (
    "return [...document.querySelectorAll('tr.ant-table-row')]"
    ".map((row) => [...row.cells].map((cell) => cell.textContent.trim()))"
)


@pytest.mark.parametrize(
    ("operator", "frame"),
    [("Memcpy DtoH (Device -> Pageable)", "diffusers/image_processor.py"), ("linear", "unet.")],
)
def test_call_stack(profiler: Profiler, browser: Browser, operator: str, frame: str) -> None:
    profiler.choose("Views", "Operator")
    browser.wait_for("View CallStack")
    click = (
        "const row = [...document.querySelectorAll('tr.ant-table-row')]"
        ".find((row) => row.cells[0].textContent === arguments[0] && row.textContent.includes(arguments[1]));"
        "const button = row && [...row.querySelectorAll('button')]"
        ".find((each) => each.textContent === arguments[1] && !each.disabled);"
        "if (!button) return false; button.click(); return true"
    )
    for step in ("View CallStack", "View call frames"):
        browser.wait(lambda step=step: browser.driver.execute_script(click, operator, step), step)
    browser.wait_for(frame)


def test_kernel(profiler: Profiler, browser: Browser, before: Sums) -> None:
    profiler.choose("Views", "GPU Kernel")
    browser.wait_for("Tensor Cores Utilization", "Total Duration (us)", "linear")
    rows = browser.wait(lambda: browser.driver.execute_script(_ROWS), "rows of kernels")
    assert len(rows) > 10
    for name, tensor_cores, calls, total_us, *_ in rows:
        bare = name.removesuffix(" (tensor cores)")
        assert tensor_cores == ("Yes" if bare != name else "No")
        sums = before.device(bare)
        assert (name, int(calls)) == (name, sums[0])
        assert float(total_us) == near(sums)
    assert {row[0] for row in rows} >= {"linear (tensor cores)", "flash_attention (tensor cores)"}


def test_memory(profiler: Profiler, browser: Browser, before: Sums) -> None:
    profiler.choose("Views", "Memory")
    shown = browser.wait_for("Peak Memory Usage", "Allocated (MiB)")
    memory = before.report.recording.memory
    assert memory is not None
    assert memory.peak_bytes is not None
    assert after(shown, "Peak Memory Usage:") == pytest.approx(memory.peak_bytes / 2**20, abs=0.1)
    labels = [text for text in shown.splitlines() if re.fullmatch(r"\d+", text)]
    assert {"100", "200", "300"} <= set(labels), "the axis of time has round figures"


def test_module(profiler: Profiler, browser: Browser, before: Sums) -> None:
    profiler.choose("Views", "Module")
    browser.wait_for("Module Name", "Occurrences", "Device Total Time (us)", "text_encoder", "unet", "vae")
    rows = {row[0]: row for row in browser.driver.execute_script(_ROWS)}
    for name in ("text_encoder", "text_encoder_2", "unet", "vae"):
        assert float(rows[name][5]) == near(before.device(module=name))
        assert rows[name][1] == ("3" if name == "unet" else "1")


def test_trace(profiler: Profiler, browser: Browser, before: Sums) -> None:
    """Every slice is there, a step is as long as the report has it, and the title is the run's name."""
    profiler.choose("Views", "Trace")
    read = (
        "const frame = document.querySelector('iframe'); const view = frame &&"
        " frame.contentDocument.querySelector('tr-ui-timeline-view'); const model = view && view.model;"
        "if (!model) return null; let count = 0; const steps = {};"
        "for (const pid in model.processes) for (const tid in model.processes[pid].threads)"
        " for (const slice of model.processes[pid].threads[tid].sliceGroup.slices) {"
        "  count += 1; if (slice.title.startsWith('ProfilerStep')) steps[slice.title] = slice.duration;"
        "} return count ? [count, steps, view.titleEl_.textContent] : null"
    )
    found = browser.wait(lambda: browser.driver.execute_script(read), "slices in the trace viewer", 60)
    count, steps, title = found
    assert count > len(before.timeline.kind)
    assert list(steps) == [f"ProfilerStep#{step}" for step in range(3)]
    for step in range(3):
        assert steps[f"ProfilerStep#{step}"] * 1e3 == pytest.approx(before.step_us(step), abs=1)
    assert title == A100


def open_diff(browser: Browser) -> None:
    browser.driver.execute_script("document.querySelectorAll('.MuiTab-root')[1].click()")


_BOXES = "return [...document.querySelectorAll('input.MuiSelect-nativeInput')].map((box) => box.value)"


def _by_name(browser: Browser, needed: str) -> dict[str, list[str]]:
    """The rows of the table by their first cell, once the needed one is there."""
    rows = {row[0]: row for row in browser.driver.execute_script(_ROWS)}
    return rows if needed in rows else {}


def test_diff(profiler: Profiler, browser: Browser, before: Sums, fixed: Sums) -> None:
    """The run before its fixes and the one after them are chosen as soon as the page is open."""
    worker = ["sim:a100-80gb", "default"]
    browser.errors()
    open_diff(browser)
    wanted = [A100, *worker, FIXED, *worker]
    browser.wait(lambda: browser.driver.execute_script(_BOXES) == wanted, "the chosen runs", START_S)
    browser.wait_for("Baseline Host Duration (us)", "Execution Diff", "linear")
    bars = browser.wait(lambda: browser.driver.execute_script(_BARS), "the columns of the UNet")
    for step in range(3):
        for name, sums in (("Baseline", before), ("Experiment", fixed)):
            shown = float(bars.pop(0).partition(f"{name}: ")[2].replace(",", ""))
            assert shown == near(sums.device(module="unet", step=step))
    rows = browser.wait(lambda: _by_name(browser, "linear"), "the row of linear")
    one, other, change = (int(cell) for cell in rows["linear"][1:4])
    assert (one, other) == (before.device("linear", "unet")[0], fixed.device("linear", "unet")[0])
    assert change == other - one
    assert browser.errors() == []


_BARS = (
    "return [...document.querySelectorAll('svg rect title')].map((title) => title.textContent)"
    ".filter((text) => /^unet\\n(Baseline|Experiment): /.test(text))"
)


def test_diff_leaves_a_choice_of_ones_own_alone(profiler: Profiler, browser: Browser) -> None:
    open_diff(browser)
    profiler.choose("Runs", "fixed", 1)
    browser.wait(lambda: browser.driver.execute_script(_BOXES)[3] == "fixed", "the choice")
    time.sleep(1)
    assert browser.driver.execute_script(_BOXES)[3:] == ["fixed", "", ""]


def test_nothing_of_the_profiler_left_the_machine(profiler: Profiler, browser: Browser) -> None:
    def traced() -> bool:
        return any("trace_embedding.html" in each for each in browser.asked())

    if not traced():  # another worker has the tests of the views
        browser.driver.execute_script("document.querySelectorAll('.MuiTab-root')[0].click()")
        profiler.choose("Views", "Trace")
        browser.wait(traced, "the trace")
    assert browser.left_the_machine() == []


def _found(browser: Browser, selector: str, read: str) -> list[Any]:
    """What `read` gives of each element of a page, in its shadow roots too."""
    walk = (
        "const found = []; const walk = (root) => { for (const each of root.querySelectorAll('*')) {"
        " if (each.matches(arguments[0])) found.push(each); if (each.shadowRoot) walk(each.shadowRoot); } };"
        f"walk(document); return found.map((each) => {read})"
    )
    return list(browser.driver.execute_script(walk, selector))


def _shown(rows: Sequence[Sequence[object]]) -> list[list[str]]:
    """Cells as the text page has them: without markup, and cut."""
    return [[" ".join(cut(clean(cell), 500).replace("`", "").split()) for cell in row] for row in rows]


@pytest.mark.parametrize("name", [A100, FIXED])
def test_every_figure_of_the_text_page(board: Board, browser: Browser, name: str) -> None:
    report = without_home(judge_again(load_report(FOLDER / name)))
    findings = [
        (
            *(f"{each.rule} {each.name}", units.place(each.site), words.how_often(each), each.message),
            *(words.cost(each), each.advice, ", ".join(each.fixes)),
        )
        for each in report.findings
    ]
    fixes = fix_table(report.plan or make_plan(report), report.outcomes)
    assert fixes is not None
    wanted = [findings, *([*each.rows] for each in (fixes, *tables(report))), list(not_checked(report))]
    browser.open("about:blank")
    browser.open(f"{board.address}/#text&regexInput=%5E{name}%24")
    read = "[...each.rows].slice(1).map((row) => [...row.cells].map((cell) => cell.textContent))"

    def cells() -> list[list[list[str]]]:
        found = _found(browser, "table", read)
        return found if len(found) == len(wanted) else []

    shown = browser.wait(cells, f"{len(wanted)} tables", 90)
    for one, other in zip(shown, wanted, strict=True):
        assert [[" ".join(cell.split()) for cell in row] for row in one] == _shown(other)
    said = " ".join(browser.text().split())
    for line in (verdict(report).headline, verdict(report).why.replace("`", "")):
        assert " ".join(line.split()) in said


@pytest.mark.parametrize("name", [A100, FIXED])
def test_every_figure_of_the_hparams_page(board: Board, browser: Browser, name: str) -> None:
    report = judge_again(load_report(FOLDER / name))
    plan = report.plan or make_plan(report)
    wanted: list[tuple[str, list[float | None]]]
    wanted = [(each.fix, [*_alone(plan.before_ms, each.saves_ms), None, None, None]) for each in plan.listed]
    if report.outcomes:
        wanted = [
            (each.fix, [each.before_ms, each.after_ms, each.max_abs_diff, *_waits(each)])
            for each in report.outcomes
        ]
    browser.open("about:blank")
    browser.open(f"{board.address}/#hparams")
    browser.wait_for("host-timesteps", "left out", seconds=60)
    cells = [str(each).strip() for each in _found(browser, "vaadin-grid-cell-content", "each.textContent")]
    for number, (fix, values) in enumerate(wanted, 1):
        at = cells.index(f"{number} {fix}, {report.recording.device.spec}, {report.recording.created}")
        row = [*cells[at + 7 : at + 11], cells[at + 12]]  # between them: what opens below the row
        assert [cell != "" for cell in row] == [value is not None for value in values], fix
        known = [value for value in values if value is not None]
        assert [float(cell) for cell in row if cell] == pytest.approx(known, rel=1e-4), fix


def _waits(outcome: Outcome) -> tuple[int | None, int | None]:
    return outcome.in_loop_before, outcome.in_loop_after


def _alone(before: float | None, saves: float | None) -> list[float | None]:
    return [None, None] if before is None or saves is None else [before, before - saves]


def test_every_figure_of_the_scalars_page(board: Board, browser: Browser, before: Sums, fixed: Sums) -> None:
    """What the charts draw, to the six digits that TensorBoard keeps."""
    browser.open("about:blank")
    browser.open(f"{board.address}/#scalars&regexInput=%5Esdxl-&_smoothingWeight=0")

    def charts() -> dict[str, dict[str, list[list[float]]]]:
        tags = _found(browser, "tf-scalar-card", "each.tag")
        drawn = _found(browser, "vz-line-chart2", _POINTS)
        whole = len(drawn) == len(tags) and all(len(each) == 2 for each in drawn[:9])
        return dict(zip(tags, drawn, strict=True)) if len(drawn) > 8 and whole else {}

    shown = browser.wait(charts, "nine charts of two runs", 90)
    for name, sums in ((A100, before), (FIXED, fixed)):
        recording, run = sums.report.recording, replay(sums.timeline)
        waits = [row for row in recording.syncs or () if row.in_loop]
        blocked = [
            sum(run.host_end[i] - run.wait_start[i] for i in range(a, b) if run.wait_start[i] >= 0.0) / 1e3
            for a, b in sums.steps
        ]
        host = [(run.host_end[b - 1] - run.host_start[a]) / 1e3 for a, b in sums.steps]
        assert recording.timing is not None
        assert recording.memory is not None
        assert recording.timing.device_busy is not None
        wanted = {
            "call (simulated)/device busy, %": [recording.timing.device_busy * 100],
            "call (simulated)/peak memory, GiB": [(recording.memory.peak_bytes or 0) / 2**30],
            "call (simulated)/time of each pass, s": [*recording.timing.seconds],
            f"{STEPS}/device time, ms": [sums.device(step=n)[1] / 1e3 for n in range(3)],
            f"{STEPS}/device operations": [sums.device(step=n)[0] for n in range(3)],
            f"{STEPS}/host time, ms": host,
            f"{STEPS}/CPU blocked, ms": blocked,
            f"{STEPS}/blocking operations": [sum(row.by_step[n] for row in waits) for n in range(3)],
            f"{STEPS}/memory at the end, GiB": [live / 2**30 for live in recording.memory.by_step],
        }
        for tag, values in wanted.items():
            points = next(each for key, each in shown[tag].items() if f'"{name}"' in key)
            assert [step for step, _ in points] == list(range(len(values))), tag
            assert [value for _, value in points] == pytest.approx(values, rel=1e-6), tag


STEPS = "denoising steps (simulated)"
_POINTS = (
    "Object.fromEntries(Object.entries(each._chart.name2datasets)"
    ".map(([run, set]) => [run, set.data().map((point) => [point.step, point.scalar])]))"
)


@pytest.mark.parametrize(
    ("page", "texts"),
    [
        ("scalars", ("denoising steps (simulated)", "ladder (simulated)", "fixes (simulated)")),
        ("hparams", ("host-timesteps", "kept", "tf32", "undone", "exact")),
        ("text", ("The CPU waits for the GPU", "SYN002", "scheduling_ddim.py:449")),
        ("images", ("timeline/call", "timeline/denoising step")),
        ("histograms", ("kernel durations, us (simulated)/gemm",)),
        ("timeseries", ("denoising steps (simulated)",)),
    ],
)
def test_pages_of_tensorboard(board: Board, browser: Browser, page: str, texts: tuple[str, ...]) -> None:
    browser.open("about:blank")
    browser.open(f"{board.address}/#{page}")
    shown = browser.wait_for(*texts, seconds=60)
    if page == "hparams":
        assert re.search(r"host-timesteps[\s\S]*\b6\.0000|6\b", shown)
    assert browser.left_the_machine() == []


def test_hostile_names_show_as_text(board: Board, browser: Browser) -> None:
    browser.open("about:blank")
    browser.open(f"{board.address}/#text&regexInput=hostile")
    browser.wait_for("<script>alert(1)</script>", seconds=60)
    browser.open(f"{board.address}/data/plugin/diffprof_profiler/index.html")
    profiler = Profiler(browser)
    browser.wait(lambda: "hostile" in profiler.options("Runs"), "the hostile run", START_S)
    profiler.choose("Runs", "hostile")
    for view in ("Overview", "Operator", "GPU Kernel"):
        profiler.choose("Views", view)
        browser.wait_for("<script>alert(1)</script>")


def test_the_printed_address_shows_the_profiler(board: Board, browser: Browser) -> None:
    browser.open(board.page)
    browser.wait_for("Profiler", seconds=60)
    assert board.page.endswith("#diffprof_profiler")


@pytest.fixture
def by_name(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH through which TensorBoard knows the plugin, as after `pip install`."""
    site = tmp_path / "site"
    if not any(point.value == PLUGIN for point in entry_points(group="tensorboard_plugins")):
        info = site / "diffprof_plugin-0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: diffprof-plugin\nVersion: 0\n")
        (info / "entry_points.txt").write_text(f"[tensorboard_plugins]\ndiffprof = {PLUGIN}\n")
    return site


def test_started_by_hand_it_shows_the_same(browser: Browser, tmp_path: Path, by_name: Path) -> None:
    """From a fresh copy of a sample, into which nothing was written before."""
    shutil.copytree(FOLDER / H100, tmp_path / "runs" / H100)
    where = ["--logdir", str(tmp_path / "runs"), "--host", "127.0.0.1", "--port", "0"]
    started = start([sys.executable, "-m", "tensorboard.main", *where], tmp_path, str(by_name))
    try:
        browser.open(f"{started.address}/data/plugin/diffprof_profiler/index.html")
        profiler = Profiler(browser)
        browser.wait(lambda: H100 in profiler.options("Runs"), f"{H100} among the runs", START_S)
        browser.wait_for("Average Step Time", "sim:h100")
        open_diff(browser)
        browser.wait_for("Two runs are compared here, and there is one.")
        browser.open(f"{started.address}/#text")
        browser.wait_for(verdict(judge_again(load_report(FOLDER / H100))).headline, seconds=60)
        assert browser.left_the_machine() == []
        with urllib.request.urlopen(f"{started.address}/data/plugins_listing") as answer:
            plugins = json.load(answer)
        assert plugins["diffprof_profiler"]["enabled"]
        # The stock plugin is there too, and finds nothing that it would show wrongly.
        assert not plugins["pytorch_profiler"]["enabled"]
    finally:
        started.process.kill()
        started.process.wait()


def test_the_entry_point_is_what_the_package_declares() -> None:
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert declared["project"]["entry-points"]["tensorboard_plugins"]["diffprof"] == PLUGIN


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it(asked: signal.Signals, tmp_path: Path, runs: Path) -> None:
    started = start([sys.executable, "-m", "diffprof", "tensorboard", str(runs / "fixed")], tmp_path)
    started.process.send_signal(asked)
    assert started.process.wait(90) == 0
    said = (tmp_path / "err.txt").read_text()
    assert "TensorBoard ended." in said
    assert "Traceback" not in said


def test_a_taken_port_is_one_clear_error(board: Board, runs: Path, tmp_path: Path) -> None:
    port = board.address.rpartition(":")[2]
    command = [sys.executable, "-m", "diffprof", "tensorboard", str(runs), "--port", port]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert f"Port {port} of 127.0.0.1 is taken." in ended.stderr
