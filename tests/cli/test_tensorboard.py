"""`diffprof tensorboard` up to the point where it serves; tests/browser goes on from there."""

from __future__ import annotations

import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from tensorboard.plugins.base_plugin import TBContext

from diffprof.cli import tensorboard as command
from diffprof.model.errors import UsageError
from diffprof.model.ladder import save_ladder
from diffprof.views.tensorboard import server
from diffprof.views.tensorboard.files import EVENT_FILE
from diffprof.views.tensorboard.plugin import ProfilerPlugin
from diffprof.views.tensorboard.profiler import version as profiler_version
from diffprof.views.tensorboard.profiler.pages import ProfilerPages, recommendations
from tests.builders import UGLY, make_finding, make_report
from tests.cli.conftest import Run
from tests.views.tensorboard.recorded import make_ladder, store


def test_writes_each_run_once_and_stops(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        store(tmp_path / "traces" / name)
    result = run("tensorboard", "--no-serve", "-q")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "2 runs; files written for 2." in result.stderr
    assert all((tmp_path / "traces" / name / EVENT_FILE).is_file() for name in ("a", "b"))
    assert "2 runs; files written for 0." in run("tensorboard", "--no-serve", "-q").stderr


def test_takes_folders_of_runs_ladders_and_parts_of_names(run: Run, tmp_path: Path) -> None:
    store(tmp_path / "elsewhere" / "one")
    store(tmp_path / "traces" / "20260102-030405-sdxl")
    (tmp_path / "elsewhere" / "climbed").mkdir()
    save_ladder(make_ladder(), tmp_path / "elsewhere" / "climbed")
    result = run("tensorboard", "--no-serve", "-q", tmp_path / "elsewhere", "sdxl")
    assert "3 runs" in result.stderr
    result = run("tensorboard", "--no-serve", "-q", tmp_path / "elsewhere" / "climbed")
    assert "1 run;" in result.stderr


def test_runs_that_are_named_are_linked_and_no_others(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def serve(logdir: Path, port: int | None) -> None:
        assert port == 7007
        seen.append(sorted(path.name for path in logdir.iterdir()))

    monkeypatch.setattr(command, "_serve", serve)
    for name in ("a", "b", "c"):
        store(tmp_path / "traces" / name)
    store(tmp_path / "other" / "a")
    assert run("tensorboard", "-q", "--port", "7007").exit_code == 0
    places = (tmp_path / "traces" / "a", tmp_path / "other" / "a", tmp_path / "traces" / "c")
    assert run("tensorboard", "-q", "--port", "7007", *places).exit_code == 0
    assert seen == [["a", "b", "c"], ["a", "a-2", "c"]]


def test_without_runs_the_next_step_is_said(run: Run) -> None:
    result = run("tensorboard", "--no-serve")
    assert result.exit_code == 2
    assert "diffprof scan TARGET" in result.stderr


def test_one_damaged_run_does_not_hide_the_others(run: Run, tmp_path: Path) -> None:
    store(tmp_path / "traces" / "good")
    (tmp_path / "traces" / "bad").mkdir()
    (tmp_path / "traces" / "bad" / "report.json").write_text("{}")
    result = run("tensorboard", "--no-serve", "-q")
    assert result.exit_code == 0
    assert "warning: " in result.stderr
    assert (tmp_path / "traces" / "good" / EVENT_FILE).is_file()


def test_a_free_port_is_found_beside_taken_ones() -> None:
    with socket.socket() as taken:
        taken.bind((server.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert server.free_port(port) != port
        with pytest.raises(UsageError, match=f"Port {port} of 127.0.0.1 is taken"):
            server.start(Path(), port)


def test_ours_stands_in_place_of_the_stock_plugin() -> None:
    from torch_tb_profiler.plugin import TorchProfilerPlugin

    found = server.plugins()
    assert found.count(ProfilerPlugin) == 1
    assert TorchProfilerPlugin not in found
    assert ProfilerPages.plugin_name != TorchProfilerPlugin.plugin_name


@pytest.mark.parametrize("found", ["0.4.2", "0.5.0", "0.4.3"])
def test_another_plugin_s_pages_are_left_alone_and_said(
    found: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The pages are made for 0.4.3. Nothing is served here, and whoever waits for it is interrupted."""
    ended = SimpleNamespace(wait=Mock(side_effect=KeyboardInterrupt))
    monkeypatch.setattr(command, "threading", SimpleNamespace(Event=lambda: ended))
    monkeypatch.setattr(server, "stop", lambda: None)
    monkeypatch.setattr("tensorboard.program.TensorBoard.launch", lambda self: "http://127.0.0.1:6006/")
    monkeypatch.setattr(profiler_version, "version", lambda name: found)
    store(tmp_path / "traces" / "a")
    shown = run("tensorboard", "-q")
    fits = found == "0.4.3"
    assert shown.stdout == f"http://127.0.0.1:6006/{'#diffprof_profiler' if fits else ''}\n"
    assert (f"warning: torch-tb-profiler {found} is installed" in shown.stderr) is not fits
    assert ("`pip install torch-tb-profiler==0.4.3`" in shown.stderr) is not fits
    loaded = ProfilerPlugin().load(TBContext(logdir="", flags=SimpleNamespace()))
    assert isinstance(loaded, ProfilerPages) is fits
    assert (f"torch-tb-profiler {found} is installed" in caplog.text) is not fits


def test_without_the_stock_plugin_tensorboard_is_told_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        profiler_version, "version", Mock(side_effect=PackageNotFoundError("torch-tb-profiler"))
    )
    assert ProfilerPlugin().load(TBContext()) is None
    assert "torch-tb-profiler is not installed" in caplog.text


def test_the_folder_names_the_version_that_is_required() -> None:
    text = Path(profiler_version.__file__).with_name("README.md").read_text(encoding="utf-8")
    assert f"version {profiler_version.MADE_FOR}" in text
    assert profiler_version.another_version() == ""


def test_findings_on_the_overview_are_escaped_and_cut() -> None:
    shown = recommendations(make_report(*[make_finding(name=UGLY) for _ in range(40)]))
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert "\x1b" not in shown
    assert shown.count("<li>") == 13
    assert "28 more findings" in shown


def test_the_stock_pages_still_name_what_is_replaced() -> None:
    """A new torch-tb-profiler may load other things."""
    from diffprof.views.tensorboard.profiler.pages import ELSEWHERE, STATIC, STOCK, WORDED

    pages = [(STOCK / name).read_text(encoding="utf-8") for name in ("index.html", "trace_embedding.html")]
    for address, local in ELSEWHERE.items():
        assert any(address in page for page in pages)
        assert (STATIC / local).is_file()
    for page in pages:
        for address in ELSEWHERE:
            page = page.replace(address, "")
        assert 'src="http' not in page
    assert [words for words in WORDED if not any(words in page for page in pages)] == []


def test_without_a_log_folder_nothing_is_searched() -> None:
    plugin = ProfilerPages.__new__(ProfilerPages)
    for place in ("", "s3://bucket/runs"):
        plugin._logdir = place
        assert list(plugin._get_run_dirs()) == []


@pytest.mark.slow
def test_torch_is_not_needed() -> None:
    code = (
        "import sys; from diffprof.views.tensorboard import server; server.plugins(); "
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
