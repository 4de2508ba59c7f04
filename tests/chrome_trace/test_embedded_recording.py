"""A scan and the import of its trace print one set of figures."""

from __future__ import annotations

import datetime
import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from diffprof.chrome_trace.embedded_recording import KEY
from diffprof.chrome_trace.writer import write_trace
from diffprof.judge.timeline import Without, replay, saved_us
from diffprof.model.recording import SCHEMA, GapRow
from diffprof.model.report import Report
from diffprof.scanning.importing import import_trace, record_trace
from diffprof.scanning.scan import scan_target
from diffprof.scanning.storing import store
from diffprof.targets import Options
from diffprof.views.tensorboard.trace import rewritten
from tests import builders
from tests.chrome_trace.test_storing import NOW, recording
from tests.chrome_trace.test_writer import MadeTimeline, call
from tests.chrome_trace.traces import launch, op, write
from tests.fake_cuda import micro

SCANS: dict[str, tuple[str, str, Options, dict[str, Any]]] = {
    "eager": ("sdxl", "sim:a100-80gb", Options(steps=2), {}),
    "baseline": ("tiny-sdxl", "sim:a100-80gb", Options(steps=2, baseline=True), {}),
    "compiled": ("tiny-sdxl", "sim:h100", Options(steps=3), {"compiled": True}),
    "ddim": ("tiny-sdxl", "sim:h100", Options(steps=3, scheduler="DDIMScheduler"), {}),
    "measured": (f"{micro.__file__}:stable_diffusion", "cpu", Options(steps=2), {}),
}


SLOW = {"eager"}


@pytest.fixture(
    scope="module", params=[pytest.param(n, marks=pytest.mark.nightly) if n in SLOW else n for n in SCANS]
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Report]:
    """(a scan's report, that of the import of its trace, which was moved elsewhere)."""
    spec, device, options, settings = SCANS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    report = scan_target(spec, device=device, options=options, settings=settings, trace_folder=folder)
    exported = next(folder.glob("*.json"), None)
    stored = store(report, folder / "traces", now=NOW, trace=exported)
    assert stored.path is not None
    assert stored.recording.trace_file is not None
    moved = Path(stored.path, stored.recording.trace_file).rename(folder / "moved.trace.json.gz")
    return report, import_trace(moved)


@pytest.mark.slow
def test_every_finding_costs_the_same(pair: tuple[Report, Report]) -> None:
    scanned, imported = pair
    assert scanned.findings
    assert imported.findings == scanned.findings
    assert imported.unchecked == scanned.unchecked


@pytest.mark.slow
def test_kernel_time_and_idle_time_are_the_same(pair: tuple[Report, Report]) -> None:
    scanned, imported = (report.recording for report in pair)
    assert scanned.kernels
    assert imported.kernels == scanned.kernels
    assert imported.timing == scanned.timing
    assert idle(imported.gaps) == idle(scanned.gaps)
    assert imported.memory == scanned.memory


@pytest.mark.slow
def test_it_is_said_whose_figures_they_are(pair: tuple[Report, Report]) -> None:
    assert pair[1].recording.unseen[-1].why.startswith("they are those of the scan that wrote the trace")


def idle(gaps: Iterable[GapRow] | None) -> dict[str, float] | None:
    if gaps is None:
        return None
    found: Counter[str] = Counter()
    for gap in gaps:
        found[gap.cause] += gap.duration_us  # type: ignore[assignment]
    return dict(found)


# --- what the events tell by themselves -------------------------------------------------------------------


def test_a_host_that_waits_for_room_in_the_launch_queue_is_not_busy(tmp_path: Path) -> None:
    made = MadeTimeline()
    for _ in range(4000):
        made.add(0, 5.0, 40.0)
    timeline = made.timeline()
    run = replay(timeline)
    assert run.throttled_us > 50_000
    read = record_trace(write_trace(tmp_path / "t.json", timeline, device_name="A100")).timeline
    assert read is not None
    assert sum(read.host_us) == pytest.approx(sum(timeline.host_us), rel=0.01)
    halved = saved_us(timeline, Without(kind_us={0: 20.0}))
    assert halved > 0.49 * run.total_us
    assert saved_us(read, Without(kind_us={0: 20.0})) == pytest.approx(halved, rel=0.001)


def test_kernels_of_one_graph_launch_keep_their_ops(tmp_path: Path) -> None:
    made = MadeTimeline()
    for each in range(50):
        made.add(each % 2, 100.0 if each == 0 else 0.0, 10.0)
    rows = record_trace(write_trace(tmp_path / "t.json", made.timeline(), device_name="A100")).kernels
    assert {(row.name, row.op, row.count) for row in rows or ()} == {
        ("gemm_a", "aten::addmm", 25),
        ("elementwise", "aten::mul", 25),
    }


# --- a trace that was changed -----------------------------------------------------------------------------


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """The trace of a simulated scan."""
    made = recording(call())
    kernels = record_trace(write_trace(tmp_path / "t.json", call(), device_name="A100")).kernels
    report = builders.make_report(recording=replace(made, kernels=kernels))
    stored = store(report, tmp_path / "traces", now=NOW)
    assert stored.path is not None
    assert stored.recording.trace_file is not None
    found: dict[str, Any] = json.loads(
        gzip.decompress(Path(stored.path, stored.recording.trace_file).read_bytes())
    )
    return found


def without_a_kernel(document: dict[str, Any]) -> None:
    events = document["traceEvents"]
    events.remove(next(event for event in events if event.get("cat") == "kernel"))


def of_a_newer_version(document: dict[str, Any]) -> None:
    document[KEY]["schema"] = SCHEMA + 1


def damaged(document: dict[str, Any]) -> None:
    document[KEY]["recording"]["syncs"] = "none"


def test_an_unchanged_one_gives_the_recording_back(tmp_path: Path, document: dict[str, Any]) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps(document))
    assert record_trace(path).target.kind != "trace"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (without_a_kernel, "the trace was changed since"),
        (
            of_a_newer_version,
            f"a newer diffprof wrote it (schema {SCHEMA + 1}, this one reads up to {SCHEMA})",
        ),
        (damaged, "it is damaged"),
    ],
)
def test_a_recording_that_does_not_fit_is_left_and_said(
    tmp_path: Path, document: dict[str, Any], change: Callable[[dict[str, Any]], None], why: str
) -> None:
    change(document)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(document))
    read = record_trace(path)
    assert read.target.kind == "trace"
    assert why in read.unseen[-1].why


def test_of_a_trace_that_is_cut_short_the_events_are_read(tmp_path: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document)
    path = tmp_path / "cut.json"
    path.write_text(text[: text.index(KEY) // 2])
    read = record_trace(path)
    assert read.partial
    assert read.target.kind == "trace"


# --- who carries one --------------------------------------------------------------------------------------


def stored_trace(folder: Path, source: Path, *, imported: bool) -> bytes:
    report = builders.make_report(recording=recording(call()))
    now = NOW + datetime.timedelta(seconds=imported)
    stored = store(report, folder, now=now, trace=source, imported=imported)
    assert stored.path is not None
    assert stored.recording.trace_file is not None
    return gzip.decompress(Path(stored.path, stored.recording.trace_file).read_bytes())


def test_a_file_from_elsewhere_is_kept_as_it_is(tmp_path: Path) -> None:
    source = write(tmp_path / "t.json", launch(1, 10, 20, 5))
    assert stored_trace(tmp_path / "traces", source, imported=True) == source.read_bytes()


@pytest.mark.parametrize("end", ["", " \n", "\n" * 100])
def test_the_profilers_own_file_gets_the_recording_at_its_end(tmp_path: Path, end: str) -> None:
    source = write(tmp_path / "t.json", [op("aten::mul", 0, 5)] * 1000)
    source.write_text(source.read_text() + end)
    made = json.loads(stored_trace(tmp_path / "traces", source, imported=False))
    assert made.pop(KEY)["recording"]["target"]["spec"] == recording(None).target.spec
    assert made == json.loads(source.read_text())


def test_what_is_no_object_is_kept_as_it_is(tmp_path: Path) -> None:
    source = tmp_path / "t.json"
    source.write_text("[]")
    assert stored_trace(tmp_path / "traces", source, imported=False) == b"[]"


def test_the_copy_for_tensorboard_leaves_it_out(document: dict[str, Any]) -> None:
    assert KEY in document
    assert KEY not in rewritten(document)
