"""A project that is checked: configured, held against a baseline, changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import Result

from diffprof.guard.baseline import load_baseline
from diffprof.guard.configuration import load_configuration
from diffprof.guard.finding_targets import candidates
from diffprof.model.errors import UsageError
from diffprof.views.checks import MARK
from tests.guard.conftest import WAIT, Project

Run = Callable[..., Result]


@pytest.mark.slow
def test_init_finds_what_makes_pipelines_and_check_runs_it(project: Project, diffprof_run: Run) -> None:
    (project.folder / "pyproject.toml").write_text('[project]\nname = "painting"\n')
    made = diffprof_run("init")
    assert made.exit_code == 0
    assert "diffprof check --against" in made.stdout
    assert list(load_configuration(project.folder).targets) == ["painter", "sketcher"]
    again = diffprof_run("init", "--workflow")
    assert (again.exit_code, (project.folder / ".github").exists()) == (2, False)
    checked = diffprof_run("check", "--quiet")
    assert checked.exit_code == 0, checked.output
    assert "2 scans: nothing new was found." in checked.stdout
    assert "diffprof-baseline.json is not there yet" in checked.stderr


@pytest.mark.slow
def test_an_added_wait_is_caught_by_its_line_in_every_form(configured: Project, diffprof_run: Run) -> None:
    line = configured.add_wait()
    forms = ("github", "sarif", "junit", "codequality", "markdown", "badge", "json", "concise")
    written = [part for form in forms for part in ("--write", f"{form}={form}.out")]
    result = diffprof_run("check", "--quiet", *written)
    assert result.exit_code == 1
    assert f"painting.py:{line}: SYN001 value-read" in result.stdout
    assert "1 found of 2 scans; 1 new finding." in result.stdout
    out = {form: Path(f"{form}.out").read_text() for form in forms}
    assert f"::error file=painting.py,line={line},title=SYN001 value-read::" in out["github"]
    assert out["concise"].startswith(f"painting.py:{line}: SYN001 value-read: ")
    runs = {run["automationDetails"]["id"]: run["results"] for run in json.loads(out["sarif"])["runs"]}
    ((found,), ()) = runs["diffprof/painter-sim:a100-80gb/"], runs["diffprof/sketcher-sim:a100-80gb/"]
    assert found["locations"][0]["physicalLocation"]["region"]["startLine"] == line
    (quality,) = json.loads(out["codequality"])
    assert quality["location"] == {"path": "painting.py", "lines": {"begin": line}}
    assert quality["severity"] == "critical"
    suite = ElementTree.fromstring(out["junit"])
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    assert f"painting.py:{line}" in (suite.findtext("testcase/failure") or "")
    assert out["markdown"].startswith(MARK)
    assert f"`painting.py:{line}` **SYN001 value-read** (painter, 1 per step, 3 per call)" in out["markdown"]
    assert json.loads(out["badge"])["message"] == "1 new finding"
    data = json.loads(out["json"])
    assert (data["status"], [each["status"] for each in data["checks"]]) == (1, ["found", "clean"])


@pytest.mark.slow
def test_what_is_in_the_baseline_may_move_and_a_second_one_is_new(
    configured: Project, diffprof_run: Run
) -> None:
    configured.add_wait()
    updated = diffprof_run("check", "--quiet", "--update")
    assert (updated.exit_code, "2 scans: nothing new was found." in updated.stdout) == (0, True)
    configured.replace("class Painter(", "# moved\n\n\nclass Painter(")
    known = diffprof_run("check", "--quiet", "painter")
    assert known.exit_code == 0, known.stdout
    second = configured.add_wait("            noise.min().item()\n")
    new = diffprof_run("check", "--quiet", "painter")
    assert (new.exit_code, f"painting.py:{second}: SYN001" in new.stdout) == (1, True)
    assert new.stdout.count("SYN001") == 1
    configured.replace("            noise.min().item()\n", "")
    configured.replace(WAIT, "")
    gone = diffprof_run("check", "--quiet", "painter")
    assert gone.exit_code == 0
    assert "gone: SYN001 in painting.py Painter.__call__ (if noise.abs().max() > 100:)" in gone.stdout
    diffprof_run("check", "--quiet", "--update", "painter")
    entries = load_baseline("diffprof-baseline.json").targets
    assert set(entries) == {"painter on sim:a100-80gb", "sketcher on sim:a100-80gb"}
    assert entries["painter on sim:a100-80gb"] == ()


@pytest.mark.slow
def test_an_allowance_of_one_target_is_not_unused_for_the_other(
    configured: Project, diffprof_run: Run
) -> None:
    configured.add_wait(WAIT.replace(":\n", ":  # diffprof: allow SYN001 clipped by hand\n", 1))
    assert diffprof_run("check", "--quiet").exit_code == 0
    configured.replace("noise.abs().max() > 100", "noise.shape[0] > 100")
    result = diffprof_run("check", "--quiet")
    assert result.exit_code == 1
    assert result.stdout.count("ALW001 unused-allowance: SYN001 is allowed here") == 1


def test_a_target_that_fails_a_limit_and_a_name_that_is_not_there(
    configured: Project, diffprof_run: Run
) -> None:
    (configured.folder / "pyproject.toml").write_text(
        '[tool.diffprof]\ndevice = "sim:a100-80gb"\nmax-memory = "1KiB"\n'
        '[tool.diffprof.targets.painter]\ntarget = "painting.py:make_painter"\n'
        '[tool.diffprof.targets.lost]\ntarget = "painting.py:make_nothing"\n'
    )
    result = diffprof_run("check", "--quiet")
    assert result.exit_code == 3
    assert "lost: There is no function 'make_nothing'" in result.stdout
    assert "1 KiB allowed" in result.stdout
    assert "1 did not run, 1 found of 2 scans" in result.stdout
    unknown = diffprof_run("check", "painters")
    assert (unknown.exit_code, "There is no target 'painters'" in unknown.stderr) == (2, True)


def test_the_check_of_a_loop_that_was_not_seen_is_not_judged(configured: Project, diffprof_run: Run) -> None:
    configured.replace("in self.scheduler.timesteps:", "in self.scheduler.timesteps[:0]:")
    result = diffprof_run("check", "--quiet", "painter")
    assert result.exit_code == 4
    assert "no denoising loop was seen" in result.stdout


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[tool.diffprof]\ndevise = 'cpu'\n", "devise"),
        ("[tool.diffprof.targets.a]\nsteps = 'three'\n", "steps"),
        ("[tool.diffprof]\nroot = 'x'\n", "no key 'root'"),
        ("[tool.diffprof]\nallow = [{rule = 'SYN', reason = ' '}]\n", "has no reason"),
        ("[tool.diffprof\n", "is no TOML"),
    ],
)
def test_a_configuration_that_is_wrong_is_one_error(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(UsageError, match=says):
        load_configuration(tmp_path)


def test_candidates(tmp_path: Path) -> None:
    flux = "from diffusers import FluxPipeline\n"
    made = f"{flux}def make_pipe():\n    return FluxPipeline.from_pretrained('x')\n"
    others = "def make_other(name):\n    return FluxPipeline(name)\ndef make_tea():\n    return 1\n"
    runs = "if __name__ == '__main__':\n    diffusers.DiffusionPipeline.from_pretrained('x')()\n"
    keywords = "def pipeline(a=1, *, b=2):\n    p = diffusers.WanPipeline(1)\n    return p\n"
    files = {
        "app.py": made + others,
        "run.py": f"import diffusers\n{runs}",
        "typed.py": "def build() -> 'WanPipeline':\n    return other()\n",
        "lib/pipe.py": f"import diffusers\n{keywords}",
        "tests/test_x.py": made,
        ".venv/x.py": made,
        "broken.py": f"{flux}def make_pipe(:\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(candidates(tmp_path)) == [
        ("pipe", "app.py:make_pipe"),
        ("pipeline", "lib/pipe.py:pipeline"),
        ("run", "run.py"),
        ("build", "typed.py:build"),
    ]
