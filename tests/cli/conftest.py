"""The command line run in this process, in a folder of its own, without torch."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from diffprof.model.report import Report, save_report
from tests import builders

Run = Callable[..., Result]


def clean_environment() -> dict[str, str]:
    """The environment without what changes what a command prints or where it stores."""
    ours = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "PYTHONWARNINGS", "PYTHONDEVMODE")
    prefixes = ("DIFFPROF_", "TEXTUAL")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith(prefixes)
    }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("show", "--format", "json")` -> exit_code, stdout, stderr."""
    from diffprof.cli.app import app

    monkeypatch.chdir(tmp_path)
    for name in os.environ.keys() - clean_environment().keys():
        monkeypatch.delenv(name)
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args], prog_name="diffprof")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A stored run in `traces/` of the folder."""
    folder = tmp_path / "traces" / "20260102-030405-sdxl"
    save_report(builders.one_of_everything(), folder)
    return folder


class FakeScan:
    """Stands in for `diffprof.scanning.scan`: gives a report or raises, and keeps how it was called."""

    def __init__(self) -> None:
        self.report: Report = builders.one_of_everything()
        self.error: BaseException | None = None
        self.prints = ""
        self.called: dict[str, Any] = {}

    def scan_target(self, spec: str, **options: Any) -> Report:
        self.called = {"spec": spec, **options}
        print(self.prints, end="")
        if self.error:
            raise self.error
        return self.report

    def scheduler_table(self, spec: str, **options: Any) -> Any:
        self.called = {"spec": spec, **options}
        return self.rows

    rows: Any = ()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeScan:
    fake = FakeScan()
    module = types.ModuleType("diffprof.scanning.scan")
    module.scan_target = fake.scan_target  # type: ignore[attr-defined]
    module.scheduler_table = fake.scheduler_table  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "diffprof.scanning.scan", module)
    return fake
