"""The cost model on one pipeline of each family of the corpus: any op has a cost, in either mode."""

from __future__ import annotations

import pytest
import torch

from diffprof.analyzers.kernels.simulated import SimulatedKernels
from diffprof.corpus import CASES
from diffprof.devices.simulated import observing, place, simulated_gpu
from diffprof.gpu.cost import CostModel
from diffprof.gpu.mode import current_mode
from diffprof.gpu.specs import load_spec
from diffprof.judge.steps import steps_of
from diffprof.judge.timeline import replay
from diffprof.targets.compiled import compiled_roots
from diffprof.targets.pipeline import PhaseTracker

H100 = load_spec("h100")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ONE_EACH = sorted({entry.family: name for name, entry in reversed(CASES.items())}.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_EACH)
def test_every_pipeline_has_a_timeline(name: str) -> None:
    case = CASES[name].build()
    with simulated_gpu(spec=H100):
        place(case.pipe, values="unknown")
        kernels = SimulatedKernels(H100, case.pipe)
        tracker = PhaseTracker(on_change=kernels.phase)
        with (
            torch.no_grad(),
            kernels.following(),
            tracker.watching(case.pipe),
            observing(kernels),
        ):
            case.call("sim")
        roots = compiled_roots(case.pipe)
    found = kernels.sections()
    eager = found["timeline"]
    assert steps_of(eager)
    assert all(kind.device_us >= kind.lower_bound_us >= 0 for kind in eager.kinds)
    assert found["memory"].peak_bytes >= found["memory"].weights_bytes > 0
    assert {row.module for row in found["kernels"]} - {None}
    kernels.builder.model = CostModel(H100, current_mode(compiled=roots))
    compiled = kernels.builder.finish()
    assert replay(compiled).device_busy_us <= replay(eager).device_busy_us
    assert len(compiled.kind) < len(eager.kind)
