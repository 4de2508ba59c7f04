"""`diffprof view` and `scan --tui`: errors, and what a real terminal shows."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import pytest

from diffprof.cli.scan import in_viewer
from diffprof.model.report import save_report
from diffprof.views import tui
from diffprof.views.tui.job import Ended
from tests import builders
from tests.cli.conftest import FakeScan, Run, clean_environment

HEAVY = ("torch", "diffusers", "transformers", "numpy", "tensorboard", "libcst")


def test_the_same_errors_as_show(run: Run, stored: Path) -> None:
    (stored / "report.json").write_text("{")
    for key in ([], ["nope"], [stored.name]):
        shown, viewed = run("show", *key), run("view", *key)
        assert shown.exit_code == viewed.exit_code == 2
        assert shown.stderr == viewed.stderr


def test_runs_beside_the_one_that_is_named_are_offered(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "elsewhere" / "20260102-030405-sdxl"
    save_report(builders.one_of_everything(), place)
    seen: list[tuple[Path, Path]] = []
    monkeypatch.setattr("diffprof.cli.view.need_terminal", lambda instead: None)
    monkeypatch.setattr("diffprof.cli.view.leave_to_the_system", lambda: None)
    monkeypatch.setattr(tui, "view", lambda report, traces, own: seen.append((traces, own)))
    for name in (str(place), str(place / "report.json")):
        assert run("view", name).exit_code == 0
    assert run("view", "--traces", str(place.parent)).exit_code == 0
    assert [traces.resolve() for traces, _ in seen] == [place.parent] * 3
    assert [own for _, own in seen] == [Path("traces"), Path("traces"), place.parent]


def test_a_ladder_is_shown_elsewhere(run: Run, tmp_path: Path) -> None:
    (tmp_path / "climbed").mkdir()
    (tmp_path / "climbed" / "ladder.json").write_text("{}")
    result = run("view", str(tmp_path / "climbed"))
    assert result.exit_code == 2
    assert "holds a ladder and no scan." in result.stderr
    assert "`diffprof show " in result.stderr


def test_not_a_terminal(run: Run, stored: Path) -> None:
    result = run("view")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: The viewer needs a terminal, and this is none.\n`diffprof show` prints the report.\n"
    )
    assert run("scan", "sdxl", "--tui").exit_code == 2


def test_a_dumb_terminal_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffprof.cli.view import need_terminal
    from diffprof.model.errors import UsageError

    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    need_terminal("x")
    monkeypatch.setenv("TERM", "dumb")
    with pytest.raises(UsageError, match="needs a terminal"):
        need_terminal("x")


class FakeViewer:
    """Stands in for the viewer: ends as told, keeps what it was asked to run."""

    def __init__(self, ended: Ended | None) -> None:
        self.ended = ended
        self.args: list[str] = []

    def __call__(self, args: list[str], title: str, traces: Path) -> Ended | None:
        self.args = args
        return self.ended


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        (None, 130),
        (Ended(0, b"", ()), 0),
        (Ended(1, b"", ()), 1),
        (Ended(3, b"", ("error: no",)), 3),
        (Ended(-9, b"", ()), 130),
    ],
)
def test_a_scan_under_the_viewer_gets_the_arguments_and_ends_as_it_does(
    run: Run, fake: FakeScan, monkeypatch: pytest.MonkeyPatch, ended: Ended | None, code: int
) -> None:
    viewer = FakeViewer(ended)
    monkeypatch.setattr(tui, "watch_job", viewer)
    monkeypatch.setattr("diffprof.cli.view.need_terminal", lambda instead: None)
    result = run("scan", "a.py", "--steps", "3", "--tui", "--set", "x=1", "--", "--tui", "y")
    assert viewer.args == [
        *("scan", "a.py", "--steps", "3", "--set", "x=1", "--format", "json", "--", "--tui", "y")
    ]
    assert result.exit_code == code
    assert fake.called == {}
    assert "torch" not in in_viewer.__globals__
    if ended and ended.talk:
        assert "error: no" in result.stderr


@contextmanager
def in_terminal(command: list[str], folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], FileIO]]:
    """It runs in a terminal of its own, whose other end is given."""
    parent, child = pty.openpty()
    environment = {**clean_environment(), "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    environment |= {"XDG_CONFIG_HOME": str(folder / "config")}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
    )
    os.close(child)
    with FileIO(parent, "r+") as terminal:
        try:
            yield process, terminal
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_in_a_terminal_without_torch(tmp_path: Path) -> None:
    """A real terminal shows the verdict; `q` leaves; nothing heavy was imported."""
    save_report(builders.one_of_everything(), tmp_path / "traces" / "20260102-030405-sdxl")
    code = (
        "import sys\nfrom diffprof.cli import main\nsys.argv = ['diffprof', 'view']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('HEAVY', [name for name in {HEAVY} if name in sys.modules])"
    )
    seen = b""
    asked = False
    until = time.monotonic() + 120
    with in_terminal(["-c", code], tmp_path) as (_, terminal):
        while not re.search(rb"HEAVY \[.*\]", seen) and time.monotonic() < until:
            if select.select([terminal], [], [], 0.2)[0]:
                seen += os.read(terminal.fileno(), 65_536)
            if not asked and b"Verdict" in seen and b"Quit" in seen:
                os.write(terminal.fileno(), b"q")
                asked = True
    assert b"HEAVY []" in seen, seen[-2_000:]


@pytest.mark.slow
def test_it_ends_when_its_terminal_is_gone(tmp_path: Path) -> None:
    """Where no signal says so: the terminal is not the one that controls the viewer's session."""
    save_report(builders.one_of_everything(), tmp_path / "traces" / "20260102-030405-sdxl")
    with in_terminal(["-m", "diffprof", "view"], tmp_path) as (process, terminal):
        seen = b""
        while b"Verdict" not in seen:
            assert select.select([terminal], [], [], 60)[0], seen[-2_000:]
            seen += os.read(terminal.fileno(), 65_536)
        terminal.close()
        process.wait(60)
