"""A fix pays for its own Python: measured without the models, charged to the CPU's time."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from diffprof.judge.reasons import python_said
from diffprof.model.fix import Code
from diffprof.model.recording import Grade, KernelKind, PhaseSpan, Timeline
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.tuning.own_python import charged_ms, cpu_seconds

STEPS = 3


def timeline(host: float) -> Timeline:
    """Steps of four events: two of the pipeline, `host` us each, and two of the model, 10 us each."""
    spans = tuple(PhaseSpan(name="denoise", step=n, first=4 * n, last=4 * n + 4) for n in range(STEPS))
    return Timeline(
        grade=Grade.SIMULATED,
        kinds=(KernelKind(name="k", op="aten::add", family="pointwise"),),
        modules=("unet.block",),
        phases=spans,
        kind=(0,) * 4 * STEPS,
        module=(-1, -1, 0, 0) * STEPS,
        host_us=(host, host, 10.0, 10.0) * STEPS,
        device_us=(1.0,) * 4 * STEPS,
        stream=(0,) * 4 * STEPS,
        sync=(-1,) * 4 * STEPS,
    )


@pytest.mark.parametrize(
    ("ratio", "now", "us"),
    [
        (1.0, 20.0, 0.0),
        (1.5, 20.0, STEPS * 20.0),  # half of 40 us a step more
        (2.0, 30.0, STEPS * 20.0),  # 80 us a step, of which its operations took 60
        (0.75, 20.0, -STEPS * 10.0),
    ],
)
def test_what_the_operations_do_not_show_is_charged_to_each_step(ratio: float, now: float, us: float) -> None:
    found = charged_ms(timeline(now), timeline(20.0), ratio, ["unet"])
    assert found == pytest.approx(us / 1e3, abs=1e-9)


class Model(torch.nn.Module):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Model.calls += 1
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        return x + 1


class Pipe:
    def __init__(self) -> None:
        self.model = Model()
        self.components = {"model": self.model}

    def __call__(self) -> Any:
        x = torch.zeros(1)
        for _ in range(STEPS):
            x = self.model(x)
        self.out = x
        return x


def test_models_are_called_once_and_then_give_what_they_gave() -> None:
    pipe = Pipe()
    Model.calls = 0
    seconds = cpu_seconds(PipelineCall(pipe, (), {}, None, "random", seed=0))  # type: ignore[arg-type]
    assert Model.calls == STEPS
    assert seconds < 0.02
    assert pipe.out.item() == STEPS
    assert "forward" not in vars(pipe.model)


def test_it_is_said() -> None:
    assert python_said(None, Code()) == ""
    assert "1.25 times" in python_said(1.25, Code(definitions="x = 1"))
    assert "An interpreter of 2 lines" in python_said(
        None, Code(definitions="x = 1\n# no\n\ny = 2", shim=True)
    )
