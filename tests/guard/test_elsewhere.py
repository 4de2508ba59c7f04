"""Other versions of libraries: what pip is asked for, and an environment over this one."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from diffprof.guard import elsewhere
from diffprof.guard.elsewhere import last_error, requirement, with_packages
from diffprof.model.errors import DiffprofError, UsageError


@pytest.mark.parametrize(
    ("spec", "asked"),
    [
        ("diffusers==0.41.0", "diffusers==0.41.0"),
        ("diffusers@main", "diffusers @ git+https://github.com/huggingface/diffusers@main"),
        ("torchao@v0.18.0", "torchao @ git+https://github.com/pytorch/ao@v0.18.0"),
        ("x @ git+https://example.org/x", "x @ git+https://example.org/x"),
    ],
)
def test_what_pip_is_asked_for(spec: str, asked: str) -> None:
    assert requirement(spec) == asked


def test_a_library_whose_place_is_not_known() -> None:
    with pytest.raises(UsageError, match="Where leftpad lies"):
        requirement("leftpad@main")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """click, in a version that there is not."""
    file = tmp_path / "click-99.0-py3-none-any.whl"
    info = "click-99.0.dist-info"
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("click/__init__.py", "MINE = True\n")
        made.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: click\nVersion: 99.0\n")
        made.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr(f"{info}/RECORD", "")
    return file


@pytest.mark.slow
def test_one_package_is_replaced_and_the_others_stay(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere.shutil, "which", lambda name: None)
    program = "import click, msgspec; print(click.MINE)"
    with with_packages(str(wheel)) as python:
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
        lost = pytest.raises(DiffprofError, match=r"gone\.whl could not be installed")
    assert done.stdout.split() == ["True"]
    assert not python.exists()
    with lost, with_packages(str(wheel.with_name("gone.whl"))):
        pass


def test_what_went_wrong_is_git_s_word_then_pip_s_then_the_last() -> None:
    pip = "ERROR: no\nnote: This error originates from a subprocess, and is likely not a problem with pip.\n"
    assert last_error("  fatal: unable to access 'https://github.com/a/b/'\n" + pip).startswith(
        "fatal: unable"
    )
    assert last_error(pip) == "ERROR: no"
    assert last_error("a\nb\n") == "b"
