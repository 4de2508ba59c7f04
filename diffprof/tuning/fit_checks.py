"""The code of recipes that make a call fit, run on a small copy of the pipeline: whether it runs, and whether
the output is what the recipe says."""

from __future__ import annotations

import ast
import copy
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diffprof.devices.simulated.device import SimulatedDevice
from diffprof.model.fitting import FitCheck, FitRow, Loss
from diffprof.model.pipeline import components
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.redirect import cuda_redirect
from diffprof.targets.twin.few_blocks import runs_with_few_blocks
from diffprof.tuning.difference import Incomparable, Output, difference, output_of

PICTURE_DB: Mapping[Loss, float] = {Loss.ROUNDING: 35.0, Loss.TILES: 20.0}
"""PSNR down to which an output is what a loss says; 35 dB is an error of 2 % of the range, 20 dB of 10 %."""

PACKED_DB = 20.0
"""The same of weights in fewer bits. What they do to a real picture random weights can't tell."""


class _WithValues(SimulatedDevice):
    """A simulated GPU on which all values are known: its kernels are the CPU's."""

    unknown = False

    def place(self, thing: Any) -> None:
        for part in components(thing).values():
            if isinstance(part, torch.nn.Module):
                part.to(self.torch_device)


def shallow(scene: PipelineCall) -> PipelineCall:
    """A call with few of the equal blocks of its denoisers, where it runs with few."""
    lesser = copy.copy(scene)
    lesser.pipe, lesser._schedulers = copy.deepcopy(scene.pipe), {}
    if not runs_with_few_blocks(lesser):
        return scene
    lesser.rewind()
    return lesser


class Checks:
    """Of recipes for one pipeline. twin: a call of its small copy, with values on the CPU. gpu: the name of a
    data sheet."""

    def __init__(self, twin: PipelineCall, gpu: str) -> None:
        self.device = _WithValues(gpu)
        with self.device.active():
            self.twin = shallow(twin)
        self._plain: Output | None = None
        self._known: dict[str, FitCheck] = {}

    def of(self, row: FitRow) -> FitCheck:
        """What came of a recipe's code."""
        if row.code not in self._known:
            self._known[row.code] = self._checked(row)
        return self._known[row.code]

    def _checked(self, row: FitRow) -> FitCheck:
        why = unchecked(row)
        if why:
            return FitCheck(status="unchecked", why=why)
        try:
            if self._plain is None:
                self._plain = self._output('def optimize(pipe):\n    return pipe.to("cuda")\n')
        except Exception as error:
            return FitCheck(status="unchecked", why=f"the small copy does not run: {_said(error)}")
        try:
            found = self._output(row.code)
        except Exception as error:
            return FitCheck(status="failed", why=_said(error))
        change = difference(self._plain, found, "")
        psnr = change.psnr_db if change.psnr_db is not None else change.latents_psnr_db
        least = _least_db(row.loses)
        holds = change.bit_equal or (least is not None and psnr is not None and psnr >= least)
        return FitCheck(
            status="checked" if holds else "changed",
            why="compiled parts ran eagerly" if "compile:denoiser" in row.recipe else "",
            bit_equal=change.bit_equal,
            psnr_db=psnr,
        )

    def _output(self, code: str) -> Output:
        """What a copy of the small pipeline gives after this code."""
        pipe = copy.deepcopy(self.twin.pipe)
        scene = copy.copy(self.twin)
        scene.pipe, scene._schedulers = pipe, {}
        space: dict[str, Any] = {}
        with (
            self.device.active(),
            cuda_redirect(self.device),
            torch.compiler.set_stance("force_eager"),
            torch.no_grad(),
        ):
            exec(compile(code, "<recipe>", "exec"), space)
            scene.pipe = space["optimize"](pipe)
            return output_of(scene)


def unchecked(row: FitRow) -> str:
    """Why a recipe's code can't run on this machine; empty where it can."""
    missing = [name for name in _packages(row.code) if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} is not installed"
    return "float8 products run on GPUs alone" if Loss.FP8 in row.loses else ""


def _packages(code: str) -> list[str]:
    found: dict[str, None] = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.Import):
            found.update(dict.fromkeys(alias.name.partition(".")[0] for alias in node.names))
        elif isinstance(node, ast.ImportFrom) and node.module:
            found[node.module.partition(".")[0]] = None
    return list(found)


def _least_db(loses: Sequence[Loss]) -> float | None:
    """None where the output has to be the same, bit for bit."""
    return min((PICTURE_DB.get(loss, PACKED_DB) for loss in loses), default=None)


def _said(error: Exception) -> str:
    if isinstance(error, Incomparable):
        return str(error)
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' + text[0] if text else ''}"
