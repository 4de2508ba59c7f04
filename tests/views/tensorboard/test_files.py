"""What is written into a run's folder, and when."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from PIL import Image

from diffprof.model.errors import DiffprofError, UsageError
from diffprof.model.ladder import save_ladder
from diffprof.model.report import REPORT_FILE, save_report
from diffprof.views.tensorboard.files import EVENT_FILE, MARKER_FILE, TRACE_FILE, prepare, run_folders
from tests.builders import HARD, UGLY, make_finding, replace_target
from tests.views.tensorboard import reading
from tests.views.tensorboard.recorded import (
    ADD_US,
    ATTEND_US,
    GEMM_US,
    STEPS,
    make_ladder,
    make_outcomes,
    make_run,
    store,
)

STEP = "denoising steps (simulated)"


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_files_have_fixed_names_and_are_written_once(tmp_path: Path) -> None:
    store(tmp_path)
    assert prepare(tmp_path)
    assert {EVENT_FILE, TRACE_FILE, MARKER_FILE, REPORT_FILE} <= names(tmp_path)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*.diffprof*")}
    assert not prepare(tmp_path)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before


def test_each_pipeline_of_a_script_has_a_folder_of_its_own(tmp_path: Path) -> None:
    report = store(tmp_path, outcomes=make_outcomes())
    save_report(replace(report, pipelines=(replace_target(report, pipeline="Refiner"),)), tmp_path)
    prepare(tmp_path)
    own = {name for name in names(tmp_path) if name.startswith("2-Refiner/")}
    assert {f"2-Refiner/{EVENT_FILE}", f"2-Refiner/fixes/02-tf32/{EVENT_FILE}"} <= own


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        store(tmp_path / name, outcomes=make_outcomes())
        prepare(tmp_path / name)
    for path in (tmp_path / "a").rglob("*.diffprof*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_a_changed_run_replaces_what_was_written(tmp_path: Path) -> None:
    store(tmp_path, outcomes=make_outcomes())
    prepare(tmp_path)
    assert {"fixes/01-host-timesteps/" + EVENT_FILE, "fixes/02-tf32/" + EVENT_FILE} <= names(tmp_path)
    store(tmp_path, outcomes=make_outcomes()[:1])
    assert prepare(tmp_path)
    assert [name for name in sorted(names(tmp_path)) if EVENT_FILE in name] == [
        EVENT_FILE,
        f"fixes/01-host-timesteps/{EVENT_FILE}",
    ]
    assert not (tmp_path / "fixes/02-tf32").exists()


def test_a_missing_file_is_written_again(tmp_path: Path) -> None:
    store(tmp_path)
    prepare(tmp_path)
    (tmp_path / TRACE_FILE).unlink()
    assert prepare(tmp_path)
    assert (tmp_path / TRACE_FILE).is_file()


def test_names_in_a_marker_lead_nowhere_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    store(run)
    victims = [tmp_path / EVENT_FILE, run / "mine.txt"]
    for victim in victims:
        victim.write_text("kept")
    marker = {"key": "old", "files": [f"../{EVENT_FILE}", "mine.txt", str(victims[0])]}
    (run / MARKER_FILE).write_text(json.dumps(marker))
    assert prepare(run)
    assert [victim.read_text() for victim in victims] == ["kept", "kept"]


def test_scalars_of_the_steps(tmp_path: Path) -> None:
    store(tmp_path)
    prepare(tmp_path)
    found = reading.scalars(tmp_path)
    device = (GEMM_US + ATTEND_US + ADD_US) / 1e3
    assert [value for _, value in found[f"{STEP}/device time, ms"]] == pytest.approx([device] * STEPS)
    assert found[f"{STEP}/blocking operations"] == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert found[f"{STEP}/device operations"] == [(0, 3.0), (1, 3.0), (2, 3.0)]
    assert found["call (simulated)/peak memory, GiB"] == [(0, pytest.approx(3e9 / 2**30))]


def test_what_was_not_measured_has_no_point(tmp_path: Path) -> None:
    store(tmp_path, recording=make_run(syncs=None, memory=None, timing=None))
    prepare(tmp_path)
    assert set(reading.scalars(tmp_path)) == {
        f"{STEP}/host time, ms",
        f"{STEP}/device time, ms",
        f"{STEP}/CPU blocked, ms",
        f"{STEP}/device operations",
    }


def test_a_run_without_time_has_texts_alone(tmp_path: Path) -> None:
    store(tmp_path, recording=make_run(timeline=None, memory=None, timing=None))
    prepare(tmp_path)
    assert not (tmp_path / TRACE_FILE).exists()
    assert reading.scalars(tmp_path) == {}
    assert "report/1 verdict" in reading.texts(tmp_path)


def test_hparams_have_a_row_for_each_fix(tmp_path: Path) -> None:
    store(tmp_path, outcomes=make_outcomes())
    prepare(tmp_path)
    rows = [reading.hparams(path) for path in sorted((tmp_path / "fixes").iterdir())]
    assert [(row["fix"], row["status"], row["safety"]) for row in rows] == [
        ("host-timesteps", "kept", "exact"),
        ("tf32", "undone", "numeric"),
    ]
    first, second = (reading.scalars(path) for path in sorted((tmp_path / "fixes").iterdir()))
    assert first["fix/saves, ms"] == [(0, 1.0)]
    assert first["fix/largest difference of the output"] == [(0, 0.0)]
    assert second["fix/saves, ms"] == [(0, -0.5)]
    assert "fix/largest difference of the output" not in second
    assert reading.scalars(tmp_path)["fixes (simulated)/time of a call, ms"] == [(0, 6.0), (1, 5.0)]


def test_ladder_stands_beside_what_was_published(tmp_path: Path) -> None:
    store(tmp_path)
    save_ladder(make_ladder(), tmp_path)
    prepare(tmp_path)
    found = reading.scalars(tmp_path)
    assert found["ladder (simulated)/time of a call, s"] == [(0, 7.0), (1, 4.5)]
    assert [step for step, _ in found["ladder (published)/time of a call, s"]] == [0, 1]


def test_a_ladder_alone_is_a_run(tmp_path: Path) -> None:
    save_ladder(make_ladder(), tmp_path)
    assert prepare(tmp_path)
    assert not prepare(tmp_path)
    assert "bfloat16" in reading.texts(tmp_path)["report/5 ladder"]
    assert reading.scalars(tmp_path)["ladder (simulated)/time of a call, s"] == [(0, 7.0), (1, 4.5)]


def test_pictures_and_histograms(tmp_path: Path) -> None:
    after = store(tmp_path / "after")
    run = tmp_path / "before"
    store(run, after=Path(str(after.path)).name)
    Image.new("RGB", (8, 6), "red").save(run / "before.png")
    Image.new("RGB", (8, 6), "blue").save(run / "after.png")
    prepare(run)
    found = reading.accumulated(run)
    assert {"timeline/call", "timeline/denoising step", "output"} <= reading.tags(run, "images")
    for tag in ("timeline/call", "output"):
        assert [event.step for event in found.Tensors(tag)] == [0, 1]
    width, height, png = found.Tensors("output")[0].tensor_proto.string_val
    assert (width, height, png[:4]) == (b"8", b"6", b"\x89PNG")
    assert reading.tags(run, "histograms") == {
        f"kernel durations, us (simulated)/{family}" for family in ("attention", "gemm", "pointwise")
    }


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "..", ""])
def test_the_run_after_can_only_be_a_neighbour(name: str, tmp_path: Path) -> None:
    store(tmp_path / "elsewhere")
    run = tmp_path / "runs" / "run"
    store(run, after=name)
    prepare(run)
    assert [event.step for event in reading.accumulated(run).Tensors("timeline/call")] == [0]


def test_hostile_texts_are_text(tmp_path: Path) -> None:
    """As the text page renders them."""
    from tensorboard import plugin_util

    store(tmp_path, make_finding(message=UGLY, advice=UGLY), recording=make_run(failure=UGLY, partial=True))
    prepare(tmp_path)
    shown = "".join(str(plugin_util.markdown_to_safe_html(text)) for text in reading.texts(tmp_path).values())
    assert "<script" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "<em>a</em>" not in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("name", HARD)
def test_hard_reports(name: str, tmp_path: Path) -> None:
    save_report(HARD[name](), tmp_path)
    assert prepare(tmp_path)
    assert not prepare(tmp_path)
    assert "report/1 verdict" in reading.texts(tmp_path)


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    store(tmp_path / "runs" / "a")
    store(tmp_path / "elsewhere")
    (tmp_path / "runs" / "a" / "up").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "b").symlink_to(tmp_path / "elsewhere")
    assert run_folders(tmp_path / "runs") == [tmp_path / "runs" / "b", tmp_path / "runs" / "a"]


def test_a_broken_report_is_said(tmp_path: Path) -> None:
    (tmp_path / REPORT_FILE).write_text("{")
    with pytest.raises(UsageError, match="not a diffprof report"):
        prepare(tmp_path)


def test_a_trace_that_is_gone_is_noted(tmp_path: Path) -> None:
    from diffprof.views.tensorboard.files import marker_of

    run = make_run()
    run = make_run(trace_file="gone.json", device=_measured(run))
    store(tmp_path, recording=run)
    prepare(tmp_path)
    marker = marker_of(tmp_path)
    assert marker is not None
    assert "gone.json" in str(marker.problem)
    assert not (tmp_path / TRACE_FILE).exists()


def _measured(recording: object) -> object:
    from diffprof.model.recording import DeviceInfo, Grade

    return DeviceInfo(spec="cuda", kind="cuda", name="a GPU", grade=Grade.MEASURED)


def test_a_folder_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiffprofError, match="No space left"):
        prepare(tmp_path)


@pytest.mark.slow
def test_torch_is_not_needed(tmp_path: Path) -> None:
    store(tmp_path)
    code = (
        "import sys; from pathlib import Path; from diffprof.views.tensorboard.files import prepare; "
        f"assert prepare(Path({str(tmp_path)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_trace_is_gzipped_json(tmp_path: Path) -> None:
    store(tmp_path)
    prepare(tmp_path)
    document = json.loads(gzip.decompress((tmp_path / TRACE_FILE).read_bytes()))
    assert {event["cat"] for event in document["traceEvents"] if event["ph"] == "X"} == {
        "Runtime",
        "cpu_op",
        "kernel",
        "python_function",
        "user_annotation",
    }
