"""`diffprof fix`: the plan, its formats, and what is refused."""

from __future__ import annotations

import json

import pytest

from diffprof.fix import Code, Fix, Recipe, Safety, Stage
from diffprof.report import make_report, save_report
from diffprof.tuning import plan as planning
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
    assert "1. [x] host-timesteps Do host-timesteps" in result.stdout
    assert "pipe.x = 'host-timesteps'" in result.stdout
    assert "resolves 1 finding (SYN002)" in result.stdout
    assert "not known before it is tried" in result.stdout
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


def test_a_target_that_was_not_scanned(run, tmp_path):
    result = run("fix", "sdxl")
    assert result.exit_code == 2
    assert "diffprof scan sdxl" in result.stderr
    assert "diffprof scan TARGET" in run("fix").stderr
