"""Edits are scanned before they are written, and those that remove nothing are taken back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from diffprof.judge.plan import make_plan
from diffprof.judge.source_edit.patch import Patch
from diffprof.model.errors import DiffprofError
from diffprof.model.report import Report
from diffprof.tuning.source_checking import IDLE, checked_patch, in_place
from tests.tuning.source_edit.reported import reported

SOURCE = """\
import torch


class Own:
    def set_timesteps(self, n, device=None):
        sigmas = torch.linspace(1.0, 0.0, n + 1)
        self.sigmas = sigmas.to(device)

    def step(self, output, t, sample):
        if self.sigmas[self.step_index] > 0:
            sample = sample * 2
        weight = torch.tensor(0.5, device=sample.device)
        return sample + weight * output
"""
READ = ("SYN001", "if self.sigmas", {"owner": "scheduler.sigmas", "owner_device": "device"})
UPLOAD = ("SYN008", "torch.tensor(0.5", {"kind": "host-to-device", "shape": ()})


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(SOURCE)
    return file


def after(tmp_path: Path, patch: Patch, *marks: tuple) -> Report:
    """A report of the patched file: as the scan would give it, for the file of that name."""
    other = tmp_path / "patched"
    other.mkdir(exist_ok=True)
    (other / "own.py").write_bytes(patch.after)
    found = reported(other / "own.py", marks)
    here = str(patch.file)
    return replace(
        found,
        findings=tuple(replace(f, site=replace(f.site, file=here)) for f in found.findings),
    )


def test_edits_that_remove_their_waits_stay(own: Path, tmp_path: Path) -> None:
    report = reported(own, [READ, UPLOAD])

    def scan(patch: Patch | None) -> Report:
        return after(tmp_path, patch) if patch else report

    checked = checked_patch(report, make_plan(report), own, (), scan)
    assert checked.unchecked == ""
    assert '+        self.sigmas = sigmas.to("cpu")' in checked.patch.diff
    assert "torch.full((), 0.5, device=sample.device)" in checked.patch.diff


def test_an_edit_that_removes_nothing_is_taken_back_and_the_other_stays(own: Path, tmp_path: Path) -> None:
    report = reported(own, [READ, UPLOAD])
    scans: list[Patch | None] = []

    def scan(patch: Patch | None) -> Report:
        scans.append(patch)
        return after(tmp_path, patch, READ) if patch else report

    checked = checked_patch(report, make_plan(report), own, (), scan)
    assert "sigmas.to(device)" in checked.patch.after.decode()
    assert "torch.full((), 0.5, device=sample.device)" in checked.patch.diff
    assert [words for words in checked.patch.left if IDLE in words] == [f"line 10, SYN001 value-read: {IDLE}"]
    assert len([patch for patch in scans if patch is not None]) == 2, "what is left is scanned again"


def test_edits_that_leave_the_loop_as_many_waits_are_all_taken_back(own: Path, tmp_path: Path) -> None:
    """The wait moved to another line."""
    report = reported(own, [READ])

    def scan(patch: Patch | None) -> Report:
        return after(tmp_path, patch, ("SYN001", "return sample", {})) if patch else report

    assert checked_patch(report, make_plan(report), own, (), scan).patch.diff == ""


def test_a_scan_that_fails_leaves_the_edits_unchecked(own: Path) -> None:
    report = reported(own, [READ])

    def scan(patch: Patch | None) -> Report:
        raise DiffprofError("The scan with the edits failed: no memory.", "")

    checked = checked_patch(report, make_plan(report), own, (), scan)
    assert checked.patch.diff
    assert checked.unchecked == "The scan with the edits failed: no memory"


def test_a_patched_file_is_imported_and_the_file_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "module_to_patch.py"
    file.write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import module_to_patch

    assert module_to_patch.x == 1
    del sys.modules["module_to_patch"]
    with in_place(Patch(file, b"x = 1\n", b"x = 2\n")):
        import module_to_patch

        assert module_to_patch.x == 2
        assert file.read_bytes() == b"x = 2\n"
    del sys.modules["module_to_patch"]
    assert file.read_bytes() == b"x = 1\n"
    import module_to_patch

    assert module_to_patch.x == 1
    del sys.modules["module_to_patch"]
