"""The sample project, copied to a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

collect_ignore = ["sample"]
SAMPLE = Path(__file__).with_name("sample")
STEP = "            sample = self.scheduler.step(noise, t, sample).prev_sample\n"
"""A line of both loops."""
WAIT = "            if noise.abs().max() > 100:\n                noise = noise / 2\n"
"""A wait that somebody adds."""


class Project:
    """The sample project in a folder, to be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(SAMPLE, folder, dirs_exist_ok=True)
        self.file = folder / "painting.py"

    def add_wait(self, line: str = WAIT) -> int:
        """Into the loop of the painter; returns its line."""
        text = self.file.read_text()
        before = text.index(STEP)
        self.file.write_text(text[:before] + line + text[before:])
        return text[:before].count("\n") + 1

    def replace(self, old: str, new: str, name: str = "painting.py") -> None:
        file = self.folder / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return made


CONFIGURATION = """
[tool.diffprof]
device = "sim:a100-80gb"
baseline-file = "diffprof-baseline.json"

[tool.diffprof.targets.painter]
target = "painting.py:make_painter"

[tool.diffprof.targets.sketcher]
target = "painting.py:make_sketcher"
"""


@pytest.fixture
def configured(project: Project) -> Project:
    (project.folder / "pyproject.toml").write_text(CONFIGURATION)
    return project


@pytest.fixture
def diffprof_run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`diffprof_run("check", ...)` in this process."""
    from diffprof.cli.app import app

    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "DIFFPROF_TRACES"):
        monkeypatch.delenv(name, raising=False)
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args], prog_name="diffprof")
