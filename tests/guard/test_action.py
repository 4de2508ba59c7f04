"""The GitHub action, run step by step in a repository with a pull request; and comparing by hand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from diffprof.views import concise
from tests.builders import make_finding, make_site
from tests.guard.conftest import Project
from tests.guard.runner import Runner

ROOT = Path(__file__).parents[2]
ACTION = ROOT / ".github/actions/diffprof/action.yml"
GH = """#!/usr/bin/env bash
echo "$*" >> "$GH_LOG"
for word in "$@"; do case $word in body=@*) cp "${word#body=@}" "$GH_LOG.body" ;; esac; done
if [[ $* != *--method* && -e $GH_LOG.body ]]; then echo 77; fi
"""


def git(*args: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(["git", *who, *args], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def base(configured: Project) -> str:
    """The project in a repository, with a wait that was there before; the commit."""
    configured.replace("sample = self.start()", "sample = self.start() * 1")
    configured.add_wait()
    (configured.folder / ".gitignore").write_text("bin\nrunner\ntraces\n__pycache__\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "base")
    return git("rev-parse", "HEAD")


@pytest.fixture
def runner(configured: Project, base: str, monkeypatch: pytest.MonkeyPatch) -> Runner:
    commands = configured.folder / "bin"
    commands.mkdir()
    (commands / "gh").write_text(GH)
    (commands / "diffprof").write_text(f'#!/usr/bin/env bash\nexec {sys.executable} -m diffprof "$@"\n')
    for each in commands.iterdir():
        each.chmod(0o755)
    monkeypatch.setenv("GH_LOG", str(configured.folder / "bin/gh.log"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    github = {
        "event_name": "pull_request",
        "repository": "owner/project",
        "token": "secret",
        "event": {"pull_request": {"number": 5, "base": {"sha": base}}},
    }
    return Runner(ACTION, configured.folder, configured.folder / "runner", github, commands)


@pytest.mark.nightly
def test_a_pull_request_that_adds_a_wait(configured: Project, runner: Runner) -> None:
    line = configured.add_wait("            noise.min().item()\n")
    assert runner.run(install="true") == 1, runner.log
    (annotation,) = (each for each in runner.log.splitlines() if each.startswith("::error"))
    assert annotation.startswith(f"::error file=painting.py,line={line},title=SYN001")
    log = (configured.folder / "bin/gh.log").read_text().splitlines()
    assert "--method POST repos/owner/project/issues/5/comments" in log[-1]
    comment = (configured.folder / "bin/gh.log.body").read_text()
    assert "blocking operations in the loop" in comment
    assert "1 per step → 2 per step" in comment
    assert "**New** (1)" in comment
    assert f"`painting.py:{line}`" in comment
    ((used, given),) = runner.used
    assert used.startswith("github/codeql-action/upload-sarif@")
    assert Path(given["sarif_file"]).exists()
    # The second push takes both waits out: the comment is edited, and says what is gone.
    configured.replace("            noise.min().item()\n", "")
    configured.replace("noise.abs().max() > 100", "noise.shape[0] > 100")
    runner.log = ""
    assert runner.run(install="true", sarif="false") == 0, runner.log
    log = (configured.folder / "bin/gh.log").read_text().splitlines()
    assert "--method PATCH repos/owner/project/issues/comments/77" in log[-1]
    assert "**Gone** (1)" in (configured.folder / "bin/gh.log.body").read_text()
    assert "::error" not in runner.log


def test_its_steps_are_bash_and_take_inputs_by_the_environment_alone(tmp_path: Path) -> None:
    action = yaml.safe_load(ACTION.read_text())
    scripts = [step["run"] for step in action["runs"]["steps"] if "run" in step]
    assert len(scripts) == 4
    own = action["runs"]["steps"][0]["env"]["DIFFPROF"].replace(
        "${{ github.action_path }}", str(ACTION.parent)
    )
    assert (Path(own).resolve() / "pyproject.toml").exists()
    for script in scripts:
        assert "${{" not in script, "what somebody else wrote must not become a command"
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_hook_of_pre_commit_names_a_command_that_is_there(diffprof_run: Callable[..., Result]) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    program, *args = hook["entry"].split()
    assert (program, hook["pass_filenames"]) == ("diffprof", False)
    assert diffprof_run(*args, "--help").exit_code == 0


@pytest.mark.nightly
def test_two_revisions_are_compared_by_hand(
    configured: Project, base: str, diffprof_run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    line = configured.add_wait("            noise.min().item()\n")
    result = diffprof_run("compare", "--git", "HEAD", "painting.py:make_painter", "--fail-on-regression")
    assert result.exit_code == 1, result.output
    assert f"painting.py:{line}" in result.stderr
    assert git("worktree", "list").count("\n") == 0
    lost = diffprof_run("compare", "--git", "nowhere", "painter")
    assert (lost.exit_code, "No revision 'nowhere'" in lost.stderr) == (2, True)


def test_the_problem_matcher_reads_what_the_check_prints() -> None:
    page = (ROOT / "diffprof/docs/guard.md").read_text()
    (task,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (pattern,) = (each["problemMatcher"]["pattern"] for each in json.loads(task)["tasks"])
    finding = make_finding(site=make_site("app/pipe.py", 7, user_code=True))
    found = re.match(pattern["regexp"], concise.line(finding))
    assert found is not None
    places = (found[pattern["file"]], found[pattern["line"]], found[pattern["message"]])
    assert places == ("app/pipe.py", "7", "SYN001 value-read: A device value is read by Python.")
