"""`diffprof fix`: the plan, its formats, and what is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import types

import pytest
from msgspec.structs import replace

from diffprof.judge import plan as planning
from diffprof.judge.judging import make_report
from diffprof.model.errors import Stopped, UsageError
from diffprof.model.fix import Code, Fix, Outcome, Recipe, Safety, Stage, Status
from diffprof.model.recording import Grade
from diffprof.model.report import load_report, save_report
from tests import builders


@pytest.fixture
def offered(monkeypatch):
    """One exact and one lossy fix of the host table that is indexed by a device tensor."""

    def recipe(key, safety):
        return Recipe(
            Fix(key, f"Do {key}", safety, Stage.SCHEDULER, why="because"),
            lambda recording, findings: Code(imports=("import torch",), optimize=f"pipe.x = '{key}'"),
        )

    table = {"host-timesteps": recipe("host-timesteps", Safety.EXACT)}
    table["other"] = recipe("other", Safety.LOSSY)
    monkeypatch.setattr(planning, "recipes", lambda: table)


@pytest.fixture
def stored_run(tmp_path):
    sync = builders.make_sync(owner="scheduler.alphas_cumprod", owner_device="cpu", index="timestep")
    report = make_report(builders.make_recording(sync))
    save_report(report, tmp_path / "traces" / "20260102-030405-sdxl")


def test_the_plan_is_shown(run, offered, stored_run):
    result = run("fix")
    assert result.exit_code == 0
    assert "1. [x]   host-timesteps Do host-timesteps" in result.stdout
    assert "pipe.x = 'host-timesteps'" in result.stdout
    assert "resolves 1 finding (SYN002)" in result.stdout
    assert "unknown until it is tried" in result.stdout
    plan = json.loads(run("fix", "--format", "json").stdout)
    assert list(plan) == ["plan"]
    assert plan["plan"]["steps"][0]["fix"] == "host-timesteps"
    assert "```python\nimport torch" in run("fix", "--format", "markdown").stdout


def test_selection(run, offered, stored_run):
    plan = json.loads(run("fix", "--ignore", "SYN002", "--format", "json").stdout)["plan"]
    assert [(s["selected"], s["why_not"]) for s in plan["steps"]] == [(False, "ignored")]
    assert "Nothing is selected." in run("fix", "--ignore", "host-timesteps").stdout
    result = run("fix", "--select", "host-timestep")
    assert result.exit_code == 2
    assert "Did you mean host-timesteps" in result.stderr


class FakeTuning:
    """Stands in for `diffprof.tuning.engine`."""

    def __init__(self):
        self.error = None
        self.called = None
        self.which = []

    def tune(self, report, choice, *, which=0, **more):
        from types import SimpleNamespace

        self.called = choice
        self.which.append(which)
        outcome = Outcome(
            fix="host-timesteps",
            title="Do host-timesteps",
            safety=Safety.EXACT,
            status=Status.KEPT,
            why="No time gained, at no cost.",
            before_ms=10.0,
            after_ms=5.0,
            grade=Grade.SIMULATED,
            in_loop_before=4,
            in_loop_after=0,
            max_abs_diff=0.0,
        )
        tried = replace(report, plan=planning.make_plan(report, choice), outcomes=(outcome,))
        if self.error:
            self.error.report = tried
            raise self.error
        target = replace(report.recording.target, fixed=("host-timesteps",))
        after = make_report(replace(builders.make_recording(), target=target))
        return SimpleNamespace(report=tried, after=after, pictures={})


@pytest.fixture
def fake(monkeypatch):
    made = FakeTuning()
    module = types.ModuleType("diffprof.tuning.engine")
    module.tune = made.tune
    monkeypatch.setitem(sys.modules, "diffprof.tuning.engine", module)
    return made


def test_applying_stores_outcomes_and_the_scan_after(run, offered, stored_run, fake, tmp_path):
    result = run("fix", "--apply", "--lossy", "--format", "json")
    assert result.exit_code == 0, result.stderr
    assert fake.called.lossy
    shown = json.loads(result.stdout)
    assert list(shown) == ["plan", "outcomes", "after"]
    assert {"fix", "status", "before_ms", "after_ms", "grade", "max_abs_diff", "why"} <= shown["outcomes"][
        0
    ].keys()
    assert shown["after"]["recording"]["target"]["fixed"] == ["host-timesteps"]
    report = load_report(tmp_path / "traces" / "20260102-030405-sdxl")
    assert report.outcomes[0].status is Status.KEPT
    after = load_report(tmp_path / "traces" / report.after)
    assert after.recording.target.fixed == ("host-timesteps",)
    text = run("show", "20260102-030405-sdxl", "-v").stdout
    assert "Fixes tried (1)" in text
    assert "10 -> 5 ms (simulated)" in text
    assert "1 of 1 fix kept: 10 ms -> 5 ms per call, 2.00x (simulated)." in text
    assert "| kept | host-timesteps |" in run("show", "20260102", "--format", "markdown").stdout
    # The plan is still made of the scan before, not of the newest run.
    assert json.loads(run("fix", "--format", "json").stdout)["plan"]["steps"]


def test_an_interruption_stores_the_outcomes_until_then(run, offered, stored_run, fake, tmp_path):
    fake.error = Stopped()
    result = run("fix", "--apply")
    assert result.exit_code == 130
    assert "The outcomes until then are stored" in result.stderr
    report = load_report(tmp_path / "traces" / "20260102-030405-sdxl")
    assert [o.fix for o in report.outcomes] == ["host-timesteps"]
    assert report.after is None
    assert len(list((tmp_path / "traces").iterdir())) == 1


def test_a_target_names_its_newest_run(run, offered, stored_run):
    assert run("fix", "sdxl").exit_code == 0


def test_a_target_that_was_not_scanned(run, tmp_path):
    result = run("fix", "sdxl")
    assert result.exit_code == 2
    assert "diffprof scan sdxl" in result.stderr
    assert "diffprof scan TARGET" in run("fix").stderr


@pytest.fixture
def rescanned(monkeypatch):
    """Scans of patched files find nothing more; `rescanned(error)` lets them fail."""
    from diffprof.tuning import source_checking as checking

    def scan(report, patch):
        return make_report(builders.make_recording())

    def failing(error):
        def scan(report, patch):
            raise error

        monkeypatch.setattr(checking, "scanned_with", scan)

    monkeypatch.setattr(checking, "scanned_with", scan)
    return failing


def of_the_user(tmp_path, source, line):
    """A file with an explicit wait in a line, and a stored run that found it."""
    file = tmp_path / "mine.py"
    file.write_bytes(source)
    site = builders.make_site(file=str(file), line=line, user_code=True)
    row = builders.make_sync("synchronize", op="torch.cuda.synchronize", site=site)
    report = make_report(
        builders.make_recording(row, sources={str(file): hashlib.sha256(source).hexdigest()})
    )
    assert [f.rule for f in report.findings] == ["SYN009"]
    save_report(report, tmp_path / "traces" / "20260102-030405-mine")
    return file


def test_a_diff_that_is_piped_has_the_bytes_of_the_file(run, rescanned, tmp_path):
    source = "# -*- coding: latin-1 -*-\r\nfor t in ts:\r\n    torch.cuda.synchronize()  # é\r\n    x = t\r\n"
    file = of_the_user(tmp_path, source.encode("latin-1"), 3)
    shown = run("fix", "--patch", str(file))
    assert b"-    torch.cuda.synchronize()  # \xe9\r\n" in shown.stdout_bytes
    assert (
        "torch.cuda.synchronize()"
        in json.loads(run("fix", "--format", "json").stdout)["plan"]["edits"][0]["diff"]
    )


@pytest.mark.parametrize("more", [(), ("--apply",), ("--apply", "--yes")], ids=["shown", "written", "agreed"])
def test_a_file_that_changed_after_its_scan_is_not_patched(run, rescanned, tmp_path, more):
    file = of_the_user(tmp_path, b"for t in ts:\n    torch.cuda.synchronize()\n    x = t\n", 2)
    changed = b"import torch\nfor t in ts:\n    torch.cuda.synchronize()\n    x = t\n"
    file.write_bytes(changed)
    result = run("fix", "--patch", str(file), *more)
    assert result.exit_code == 2
    assert "changed since the scan" in result.stderr
    assert file.read_bytes() == changed
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine.py", "traces"]


def test_a_file_of_the_user_is_patched_only_when_asked_to(run, rescanned, tmp_path):
    file = of_the_user(
        tmp_path, b"import torch\n\nfor t in ts:\n    torch.cuda.synchronize()\n    x = t\n", 4
    )
    assert "which is yours: `diffprof fix --patch" in " ".join(run("fix").stdout.split())
    shown = run("fix", "--patch", str(file))
    assert shown.exit_code == 0
    assert "-    torch.cuda.synchronize()" in shown.stdout
    assert "checked by a scan with the edits." in shown.stderr
    assert "Nothing was written; --apply writes it." in shown.stderr
    assert "synchronize" in file.read_text()
    assert json.loads(run("fix", "--patch", str(file), "--format", "json").stdout)["done"]
    written = run("fix", "--patch", str(file), "--apply")
    assert "mine.py.orig" in written.stderr
    assert file.read_text() == "import torch\n\nfor t in ts:\n    x = t\n"
    again = run("fix", "--patch", str(file), "--apply")
    assert again.exit_code == 2
    assert "changed since the scan" in again.stderr
    assert run("fix", "--patch", str(tmp_path / "none.py")).exit_code == 2


def test_edits_that_no_scan_has_checked_are_written_only_when_asked_to(run, rescanned, tmp_path):
    source = b"import torch\n\nfor t in ts:\n    torch.cuda.synchronize()\n    x = t\n"
    file = of_the_user(tmp_path, source, 4)
    rescanned(UsageError("The scan with the edits failed: no memory.", ""))
    shown = run("fix", "--patch", str(file), "--apply")
    assert "unchecked: The scan with the edits failed: no memory." in shown.stderr
    assert "--keep-unchecked writes edits that no scan has checked" in shown.stderr
    assert file.read_bytes() == source
    run("fix", "--patch", str(file), "--apply", "--keep-unchecked")
    assert b"synchronize" not in file.read_bytes()


def test_what_is_shown_is_what_is_written(run, rescanned, tmp_path):
    source = (
        b"import torch\n\ndef one(ts):\n    for t in ts:\n        torch.cuda.synchronize()\n        x = t\n\n"
        b"def other(ts):\n    for t in ts:\n        y = t\n        torch.cuda.synchronize()\n"
    )
    file = tmp_path / "mine.py"
    file.write_bytes(source)
    rows = [
        builders.make_sync(
            "synchronize",
            op="torch.cuda.synchronize",
            site=builders.make_site(file=str(file), line=line, user_code=True),
        )
        for line in (5, 11)
    ]
    hashes = {str(file): hashlib.sha256(source).hexdigest()}
    save_report(
        make_report(builders.make_recording(*rows, sources=hashes)), tmp_path / "traces" / "20260102-030405-a"
    )
    copy = tmp_path / "copy" / "mine.py"
    copy.parent.mkdir()
    copy.write_bytes(source)
    (tmp_path / "copy" / "a.diff").write_bytes(run("fix", "--patch", str(file)).stdout_bytes)
    subprocess.run(["git", "apply", "-p1", "a.diff"], cwd=copy.parent, check=True)
    run("fix", "--patch", str(file), "--apply")
    assert copy.read_bytes() == file.read_bytes() != source
    assert b"synchronize" not in file.read_bytes()


# --- several pipelines ------------------------------------------------------------------------------------


@pytest.fixture
def stored_script(tmp_path, stored_run):
    """A script's run: a base, and a refiner whose finding is another."""
    folder = tmp_path / "traces" / "20260102-030405-sdxl"
    base = load_report(folder)
    refiner = builders.replace_target(base, pipeline="Refiner", kind="script")
    whole = replace(builders.replace_target(base, pipeline="Base", kind="script"), pipelines=(refiner,))
    save_report(whole, folder)
    return folder


def test_each_pipeline_of_a_script_has_its_plan(run, offered, stored_script):
    shown = json.loads(run("fix", "--format", "json").stdout)
    assert shown["pipeline"] == "Base"
    assert [each["pipeline"] for each in shown["pipelines"]] == ["Refiner"]
    assert shown["pipelines"][0]["plan"]["steps"][0]["fix"] == "host-timesteps"
    text = run("fix").stdout
    assert text.index("Base\n") < text.index("1. [x]") < text.index("Refiner\n")
    alone = run("fix", "--pipeline", "2").stdout
    assert alone.count("1. [x]") == 1
    lacking = run("fix", "--pipeline", "3")
    assert lacking.exit_code == 2
    assert "the run is of Base, Refiner" in lacking.stderr


def test_each_pipeline_of_a_script_is_tried_and_stored(run, offered, stored_script, fake):
    result = run("fix", "--apply", "--yes")
    assert result.exit_code == 0, result.stderr
    assert fake.which == [0, 1]
    report = load_report(stored_script)
    assert [[o.fix for o in each.outcomes] for each in report.each] == [["host-timesteps"]] * 2
    runs = [load_report(stored_script.parent / each.after) for each in report.each]
    assert len({each.path for each in runs}) == 2
    assert {file.name for file in stored_script.glob("*.py")} == {"optimized.py", "optimized_2.py"}
    assert "from optimized_2 import optimize" in (stored_script / "optimized_2.py").read_text()
    assert result.stdout.count("1 of 1 fix kept") == 2


def test_one_pipeline_of_a_script_is_tried_alone(run, offered, stored_script, fake):
    run("fix", "--apply", "--yes", "--pipeline", "2")
    assert fake.which == [1]
    report = load_report(stored_script)
    assert [bool(each.outcomes) for each in report.each] == [False, True]
    assert {file.name for file in stored_script.glob("*.py")} == {"optimized_2.py"}
