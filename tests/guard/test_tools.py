"""What stands around the checks: a doctor, a recording recipe, tools for agents."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from diffprof.guard import doctor
from diffprof.model.errors import TargetError, UsageError
from diffprof.model.report import save_report
from tests import builders
from tests.guard.conftest import Project

Run = Callable[..., Result]


def test_the_doctor_has_a_line_and_a_cure_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, diffprof_run: Run
) -> None:
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "diffusers" else version(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", without)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    result = diffprof_run("doctor", "--format", "json", "--traces", tmp_path / "new")
    assert result.exit_code == 0
    rows = {row["what"]: row for row in json.loads(result.stdout)}
    assert rows["torch"]["state"] == "ok"
    assert rows["peft"]["state"] == "missing"
    assert rows["peft"]["cure"].startswith("pip install 'peft")
    assert (rows["diffusers"]["state"], "other versions" in rows["diffusers"]["cure"]) == ("note", True)
    assert rows["C++ compiler"]["cure"].startswith("apt install g++")
    assert rows["traces"]["state"] == "ok"
    assert not (tmp_path / "new").exists()
    assert all(row["cure"] for row in rows.values() if row["state"] == "missing")


@pytest.mark.slow
def test_a_recording_of_three_steps_is_small_and_can_be_imported(project: Project, diffprof_run: Run) -> None:
    (project.folder / "run.py").write_text(
        "import painting\npainting.make_painter()(num_inference_steps=8)\nprint('never')\n"
    )
    result = diffprof_run("record", "run.py", "--steps", "3", "--device", "cpu")
    assert result.exit_code == 0, result.output
    file = Path("steps.json.gz")
    assert file.stat().st_size < 2**20
    report = json.loads(diffprof_run("import", file, "--format", "json", "--quiet").stdout)
    assert report["recording"]["target"]["steps"] == 3


def test_a_call_that_is_too_short_and_a_device_that_is_simulated(project: Project) -> None:
    from diffprof.live.recording import record_steps

    with pytest.raises(TargetError, match="2 of 3 after the first"):
        record_steps("painting.py:make_painter", Path("x.json.gz"), device="cpu")
    with pytest.raises(UsageError, match="nothing to profile"):
        record_steps("painting.py:make_painter", Path("x.json.gz"), device="sim:h100")
    assert not Path("x.json.gz").exists()


@pytest.mark.slow
def test_tools_for_agents(tmp_path: Path) -> None:
    pytest.importorskip("mcp")
    from diffprof.guard.mcp_server import Tools, make_server

    for name in ("20260102-030405-one", "20260102-030406-two"):
        save_report(builders.one_of_everything(), tmp_path / name)
    tools = Tools(tmp_path)
    shown = tools.show("one")
    assert {"verdict", "actions", "rest", "findings", "text"} <= set(shown)
    assert "Python needs the value" in tools.explain("SYN001")
    assert "steps" in tools.plan_fixes("two")
    assert list(tools.compare("one", "two")["regressions"]) == []

    async def told() -> None:
        server = make_server(tmp_path)
        listed = await server.list_tools()
        assert [each.name for each in listed] == ["scan", "show", "explain", "plan_fixes", "compare"]
        assert all(each.annotations.read_only_hint for each in listed)

    asyncio.run(told())
