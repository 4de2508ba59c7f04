"""Scripts as users write them, each with the diff of its edits and what is said about them.

`corpus/NAME.toml` has the findings (a rule, a text of its line, facts of the wait) and the plan's fixes.
DIFFPROF_UPDATE_GOLDEN=1 writes `NAME.diff` and `NAME.txt` anew.
"""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
import tomllib
from collections.abc import Container
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from diffprof.judge.source_edit.patch import Patch, make_patch
from diffprof.model.fix import Outcome, Plan, PlanStep, Safety, Status
from tests.tuning.source_edit.reported import reported

CORPUS = Path(__file__).parent / "corpus"
NAMES = sorted(file.stem for file in CORPUS.glob("*.py"))


def patched(file: Path, name: str) -> Patch:
    """The patch of a corpus file that stands elsewhere, with the findings that are left in it."""
    asked = tomllib.loads((CORPUS / f"{name}.toml").read_text(encoding="utf-8"))
    text = file.read_bytes().decode("utf-8", "replace")
    marks: list[Any] = []
    for finding in asked.get("finding", ()):
        facts = {k: tuple(v) if isinstance(v, list) else v for k, v in finding.items()}
        rule, at = facts.pop("rule"), facts.pop("at")
        if at in text:
            marks.append((rule, at, facts))
    fixes = asked.get("fixes", ())
    steps = [PlanStep(fix=key, title="", safety=Safety.EXACT, stage=1) for key in fixes]
    return make_patch(reported(file, marks, target=bool(fixes)), Plan(steps=tuple(steps)), file)


@pytest.mark.parametrize("fix", [Status.UNDONE, Status.KEPT], ids=str)
def test_a_fix_that_was_tried_and_undone_is_not_written(fix: Status, here: Path) -> None:
    shutil.copy(CORPUS / "factory.py", here)
    file = Path("factory.py")
    outcome = Outcome(fix="no-progress-bar", title="", safety=Safety.EXACT, status=fix, why="It was slower.")
    step = PlanStep(fix="no-progress-bar", title="", safety=Safety.EXACT, stage=1)
    report = replace(reported(file, [], target=True), outcomes=(outcome,))
    patch = make_patch(report, Plan(steps=(step,)), file)
    assert bool(patch.diff) is (fix is Status.KEPT)
    assert patch.left == (
        () if patch.diff else ("fix no-progress-bar: it was tried and undone: It was slower",)
    )


TWO = """\
from diffusers import AutoPipelineForText2Image, StableDiffusionXLPipeline


def drafts():
    pipe = StableDiffusionXLPipeline.from_pretrained("drafts")
    return pipe


def finals():
    pipe = {cls}.from_pretrained("finals")
    return pipe
"""


def set_up(
    spec: str, cls: str, step: PlanStep, asked: Container[str] = (), status: Status | None = None
) -> Patch:
    """The patch of a file of two factories, in the working directory. status: of trying the step before."""
    file = Path("mine.py")
    file.write_text(TWO.format(cls=cls))
    report = reported(file, [], target=True)
    kind = "factory" if ":" in spec else "script"
    target = replace(report.recording.target, spec=spec, kind=kind)
    tried = [Outcome(fix=step.fix, title="", safety=step.safety, status=status)] if status else []
    report = replace(report, recording=replace(report.recording, target=target), outcomes=tuple(tried))
    return make_patch(report, Plan(steps=(step,)), file, asked)


SDXL = "StableDiffusionXLPipeline"
QUIET = PlanStep(fix="no-progress-bar", title="", safety=Safety.EXACT, stage=1)
CHANGING = replace(QUIET, safety=Safety.NUMERIC)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("function", "line"), [("drafts", 5), ("finals", 10)])
def test_the_pipeline_of_the_factory_is_set_up(function: str, line: int) -> None:
    assert set_up(f"mine.py:{function}", SDXL, QUIET).done == ((line, "set up `pipe`"),)


@pytest.mark.usefixtures("here")
def test_a_class_that_may_make_the_scanned_pipeline_too_is_not_ruled_out() -> None:
    (why,) = set_up("mine.py", "AutoPipelineForText2Image", QUIET).left
    assert f"in lines 5, 10, and which of them was scanned (a {SDXL}) can't be told" in why


@pytest.mark.usefixtures("here")
def test_what_may_change_the_output_is_written_where_it_was_asked_for() -> None:
    for status in (None, Status.SKIPPED):
        patch = set_up("mine.py:drafts", SDXL, CHANGING, status=status)
        assert not patch.diff
        assert patch.left[0].startswith("fix no-progress-bar: it may change the output, and was not tried")
    assert set_up("mine.py:drafts", SDXL, CHANGING, status=Status.KEPT).diff
    assert set_up("mine.py:drafts", SDXL, CHANGING, {"no-progress-bar"}).diff


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_edited_as_stored(name: str, here: Path) -> None:
    shutil.copy(CORPUS / f"{name}.py", here)
    patch = patched(Path(f"{name}.py"), name)
    said = [f"line {line}: {what}" for line, what in patch.done] + [f"no edit: {why}" for why in patch.left]
    made = {"diff": patch.diff, "txt": "".join(f"{each}\n" for each in said)}
    for ending, text in made.items():
        golden = CORPUS / f"{name}.{ending}"
        if os.environ.get("DIFFPROF_UPDATE_GOLDEN"):
            golden.write_bytes(text.encode())
        assert text.encode() == golden.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_second_time_nothing_changes(name: str, here: Path) -> None:
    file = here / f"{name}.py"
    shutil.copy(CORPUS / file.name, here)
    file.write_bytes(patched(file, name).after)
    assert patched(file, name).diff == ""


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_out_compiles_and_the_rest_is_untouched(name: str, here: Path) -> None:
    file = here / f"{name}.py"
    shutil.copy(CORPUS / file.name, here)
    patch = patched(file, name)
    compile(patch.after, str(file), "exec")
    before, after = (text.splitlines(keepends=True) for text in (patch.before, patch.after))
    meant = {
        *(line for each in patch.diff.splitlines() if each[:1] == "-" for line in [each[1:]]),
        *(line for each in patch.diff.splitlines() if each[:1] == "+" for line in [each[1:]]),
    }
    for tag, *span in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            for line in (*before[span[0] : span[1]], *after[span[2] : span[3]]):
                assert line.decode("utf-8", "replace").rstrip("\r\n") in meant
    ends = {line[len(line.rstrip(b"\r\n")) :] for line in after[:-1]}
    assert ends == {line[len(line.rstrip(b"\r\n")) :] for line in before[:-1]}


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
@pytest.mark.parametrize("name", NAMES)
def test_git_takes_the_diff(name: str, absolute: bool, here: Path) -> None:
    shutil.copy(CORPUS / f"{name}.py", here)
    file = here / f"{name}.py" if absolute else Path(f"{name}.py")
    patch = patched(file, name)
    if not patch.diff:
        return
    assert patch.diff.startswith(f"--- a/{name}.py\n+++ b/{name}.py\n")
    result = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", "-"], input=patch.diff_bytes, cwd=here, capture_output=True
    )
    assert result.returncode == 0, result.stderr.decode()
    assert file.read_bytes() == patch.after
