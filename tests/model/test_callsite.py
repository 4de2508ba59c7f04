"""Names of files; looking for what a wait read keeps nothing of the waiting function alive."""

from __future__ import annotations

import sys
import weakref
from pathlib import Path

import pytest

from diffprof.model.callsite import importable_path, values_in


class Thing:
    pass


def test_names_of_a_function_are_told_and_let_go() -> None:
    def function() -> tuple[list[str], bool]:
        thing = Thing()
        gone = weakref.ref(thing)
        told = sorted(values_in(sys._getframe()))
        del thing
        return told, gone() is None

    assert function() == (["gone", "thing"], True)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("home", "home/zoe/app/x.py"),
        ("home/zoe", "app/x.py"),
        ("home/zoe/app", "x.py"),
        ("work", "home/zoe/app/x.py"),
    ],
)
def test_no_name_begins_at_a_folder_that_homes_lie_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, name: str
) -> None:
    file = tmp_path / "home" / "zoe" / "app" / "x.py"
    file.parent.mkdir(parents=True)
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "zoe"))
    monkeypatch.chdir(tmp_path / folder)
    whole = str(tmp_path / name) if name.startswith("home") else name
    assert importable_path.__wrapped__(str(file)) == (whole, True)
