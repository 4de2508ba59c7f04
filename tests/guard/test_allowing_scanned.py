"""Allowances in files that are scanned: on the simulated GPU, in a project of its own."""

from __future__ import annotations

import pytest
import torch

import diffprof
from diffprof.model.report import Report
from tests.guard.conftest import Project


def scanned() -> Report:
    return diffprof.scan("painting.py:make_painter", steps=3, device="sim:a100-80gb")


@pytest.mark.slow
def test_a_comment_allows_the_wait_of_its_line_and_is_missed_when_that_goes(project: Project) -> None:
    line = project.add_wait(
        "            noise.abs().max().item()  # diffprof: allow SYN001 logged each step\n"
    )
    (allowed,) = scanned().allowed
    assert (allowed.where, allowed.per_step) == (f"painting.py:{line}", 1)
    assert allowed.allowed == f"logged each step (painting.py:{line})"
    project.replace("noise.abs().max().item()", "noise.abs().max()")
    report = scanned()
    (unused,) = (each for each in report.findings if each.rule == "ALW001")
    assert (unused.where, report.allowed) == (f"painting.py:{line}", ())


def test_a_block_allows_what_is_called_inside_and_nothing_outside(project: Project) -> None:
    project.replace("import torch\n", "import torch\nimport diffprof\n")
    project.replace("class Painter(", "def peek(tensor):\n    return tensor.max().item()\n\n\nclass Painter(")
    line = project.add_wait(
        "            with diffprof.allowed('SYN', reason='shown to people'):\n"
        "                peek(noise)\n"
        "            peek(noise)\n"
    )
    report = scanned()
    (allowed,) = report.allowed
    (left,) = (each for each in report.findings if each.rule == "SYN001")
    assert allowed.where == left.where  # the line of `peek`, reached both ways
    assert (allowed.per_step, left.per_step) == (1, 1)
    assert allowed.allowed == f"shown to people (painting.py:{line})"


def test_torch_compile_passes_a_block() -> None:
    def double(x: torch.Tensor) -> torch.Tensor:
        with diffprof.allowed("SYN", reason="nothing watches"):
            return x * 2

    compiled = torch.compile(double, backend="eager", fullgraph=True)
    assert compiled(torch.ones(2)).tolist() == [2.0, 2.0]


@pytest.mark.slow
def test_a_block_around_a_graph_break_allows_it_and_makes_none(project: Project) -> None:
    project.replace("import torch\n", "import torch\nimport diffprof\n")
    project.replace(
        "def make_painter():\n    return Painter(unet(), EulerDiscreteScheduler())",
        "class Net(UNet2DModel):\n"
        "    def forward(self, sample, timestep, **kwargs):\n"
        "        with diffprof.allowed('GRB', reason='looked at'):\n"
        "            sample = sample * 1\n"
        "        return super().forward(sample, timestep, **kwargs)\n\n\n"
        "def make_painter():\n    return Painter(Net.from_config(unet().config), EulerDiscreteScheduler())",
    )
    report = diffprof.scan("painting.py:make_painter", device="sim:a100-80gb", analyzers="syncs,graph-breaks")
    report.assert_fullgraph("unet")
    (unused,) = (each for each in report.findings if each.rule == "ALW001")
    assert unused.kind == "allowance: GRB"
