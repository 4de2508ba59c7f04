"""Systems that lack what POSIX has: imports, showing and comparing need none of it."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import diffprof
from diffprof.model.report import save_report
from tests import builders
from tests.cli.conftest import clean_environment

WITHOUT = """
import mmap, os, signal, sys
for module, names in (
    (os, ("fork", "killpg", "getuid", "sched_getaffinity", "setsid", "getpgid")),
    (signal, ("SIGHUP", "SIGALRM", "SIGKILL", "pthread_kill", "pthread_sigmask", "alarm")),
    (mmap, ("MAP_PRIVATE", "MAP_ANONYMOUS", "MAP_ANON", "MAP_NORESERVE")),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"):
    sys.modules[name] = None  # importing it fails
"""


COMMAND = f"{WITHOUT}\nfrom diffprof.cli import main\nmain()"

VIEW = f"""{WITHOUT}
import asyncio
from pathlib import Path
os.environ["TEXTUAL_DRIVER"] = "textual.drivers.headless_driver:HeadlessDriver"
from diffprof.judge.judging import load_judged
from diffprof.model import runs
from diffprof.views.tui.app import Viewer

async def look():
    viewer = Viewer(load_judged(runs.find(Path("traces"), None)), Path("traces"))
    async with viewer.run_test() as pilot:
        await pilot.pause()
        print(viewer.export_screenshot(simplify=True))

asyncio.run(look())
"""

POSIX = {
    "os": "fork forkpty killpg setsid getpgid getuid geteuid nice sysconf statvfs mkfifo sched_getaffinity",
    "signal": "SIGHUP SIGALRM SIGKILL SIGUSR1 SIGUSR2 SIGQUIT SIGPIPE SIGCHLD pthread_kill pthread_sigmask "
    "alarm setitimer SIG_BLOCK SIG_SETMASK",
    "mmap": "MAP_PRIVATE MAP_SHARED MAP_ANONYMOUS MAP_ANON MAP_NORESERVE",
}
"""Names that Windows lacks."""


@pytest.fixture
def bare(tmp_path: Path) -> Callable[..., str]:
    """`bare(code, *args)` runs Python code beside a stored run and gives what it prints."""
    save_report(builders.one_of_everything(), tmp_path / "traces" / "20260102-030405-sdxl")

    def run(code: str, *args: str) -> str:
        result = subprocess.run(
            [sys.executable, "-c", code, *args],
            cwd=tmp_path,
            env={**clean_environment(), "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.mark.slow
@pytest.mark.parametrize("args", [("show",), ("runs",), ("fix",), ("show", "--format", "html")])
def test_without_fork_and_the_signals_of_posix(bare: Callable[..., str], args: tuple[str, ...]) -> None:
    assert bare(COMMAND, *args)


def test_a_trace_is_imported_without_them(bare: Callable[..., str], tmp_path: Path) -> None:
    kernel = {"ph": "X", "name": "gemm", "cat": "kernel", "ts": 8, "dur": 5, "pid": 0, "tid": 7}
    (tmp_path / "trace.json").write_text(json.dumps({"traceEvents": [kernel]}))
    report = json.loads(bare(COMMAND, "import", "trace.json", "--format", "json", "-q"))
    assert [row["device_us"] for row in report["recording"]["kernels"]] == [5]


@pytest.mark.slow
def test_a_run_is_viewed_without_them(bare: Callable[..., str]) -> None:
    assert "SYN001" in bare(VIEW)


def outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """The parts of a module that run when it is imported."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from outside_functions(node)


@pytest.mark.slow
def test_no_import_needs_a_name_of_posix() -> None:
    """Of any module, also of those that only a scan loads."""
    absent = {f"{module}.{name}" for module, names in POSIX.items() for name in names.split()}
    needed = [
        f"{file.name}:{node.lineno} {ast.unparse(node)}"
        for file in Path(diffprof.__path__[0]).rglob("*.py")
        for node in outside_functions(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in absent
    ]
    assert not needed


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
