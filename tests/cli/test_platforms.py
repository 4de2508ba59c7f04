"""Systems that lack what POSIX has: imports, showing and comparing need none of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffprof.model.report import save_report
from tests import builders
from tests.cli.conftest import clean_environment

WITHOUT = """
import os, signal, sys
for module, names in (
    (os, ("fork", "killpg", "getuid", "sched_getaffinity", "setsid", "getpgid")),
    (signal, ("SIGHUP", "SIGALRM", "SIGKILL", "pthread_kill", "pthread_sigmask", "alarm")),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
class Absent:
    def find_spec(self, name, *_):
        if name in ("fcntl", "resource", "pwd", "grp"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
for name in ("fcntl", "resource", "pwd", "grp"):
    sys.modules.pop(name, None)
from diffprof.cli import main
main()
"""


@pytest.mark.parametrize("args", [("show",), ("runs",), ("fix",), ("show", "--format", "html")])
def test_without_fork_and_the_signals_of_posix(tmp_path: Path, args: tuple[str, ...]) -> None:
    save_report(builders.one_of_everything(), tmp_path / "traces" / "20260102-030405-sdxl")
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT, *args],
        cwd=tmp_path,
        env={**clean_environment(), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_signals_that_are_not_there_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffprof.cli.interrupts import heard

    monkeypatch.delattr(signal, "SIGHUP")
    before = signal.getsignal(signal.SIGTERM)
    with heard() as signals:
        assert signal.getsignal(signal.SIGTERM) is signals
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_viewer_says_where_it_can_run_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffprof.views.tui.job import can_run

    assert can_run() is (os.name == "posix")
    monkeypatch.delattr(os, "killpg", raising=False)
    assert not can_run()


def test_a_dependency_that_is_missing_is_no_finding(tmp_path: Path) -> None:
    code = "import sys; sys.modules['click'] = None; from diffprof.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 70
    assert "error: import of click" in result.stderr
