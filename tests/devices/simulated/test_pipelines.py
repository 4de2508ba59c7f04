"""Whole pipelines: equal to the CPU with known values, the same events with unknown ones."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffprof.corpus import CASES, CorpusCase, Entry
from diffprof.corpus.image_transformer import SHORT, z_image_parts
from diffprof.corpus.parts import picture
from diffprof.devices.simulated import Blocking, Observer, place, simulated_gpu


class Sites(Observer):
    """Waits by kind and by the line of diffusers or transformers that caused them."""

    def __init__(self) -> None:
        self.waits: Counter[tuple[str, str]] = Counter()
        self.ops = 0

    def op(self, signature: Any) -> None:
        self.ops += 1

    def blocking(self, event: Blocking) -> None:
        frame: Any = sys._getframe(1)
        while frame is not None and not any(
            part in frame.f_code.co_filename for part in ("/diffusers/", "/transformers/")
        ):
            frame = frame.f_back
        site = "caller"
        if frame is not None:
            site = f"{frame.f_code.co_filename.rsplit('/', 1)[1]}:{frame.f_lineno}"
        self.waits[str(event.kind), site] += 1


def run(build: Callable[[], CorpusCase], values: Any) -> tuple[list[torch.Tensor], Sites]:
    sites = Sites()
    case = build()
    with simulated_gpu(sites) as device, torch.no_grad():
        if case.offload is not None:
            case.offload(case.pipe, device)
        else:
            place(case.pipe, values=values)
        sites.waits.clear()
        out = case.call(device)
    return out, sites


NAMES = (
    "sd15",
    "sdxl",
    "lcm",
    "flux",
    "sd3",
    "pixart-sigma",
    "sana",
    "sdxl-img2img",
    "kandinsky22-prior",
    "sdxl-lora-two-adapters",
    "sdxl-model-offload",
    "sd15-sequential-offload",
    "flux-group-offload-blocks",
)


def z_image_with_controlnet() -> CorpusCase:
    """The pipeline gives the ControlNet the transformer's own embedders and refiners."""
    import diffusers

    control = diffusers.ZImageControlNetModel(
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        control_in_dim=4,
        add_control_noise_refiner="control_layers",
        dim=32,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
    )
    pipe = diffusers.ZImageControlNetPipeline(controlnet=control, **z_image_parts())
    given = {"prompt": "a cat", "num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np"}
    return CorpusCase(pipe, {**given, "height": 32, "width": 32, "control_image": picture(), **SHORT})


def controlnets_with_the_unet_s_embedding() -> CorpusCase:
    """Two ControlNets and the UNet hold one module, and the two each other's blocks."""
    case = CASES["sd15-multi-controlnet"].build()
    one, other = case.pipe.controlnet.nets
    one.time_embedding = other.time_embedding = case.pipe.unet.time_embedding
    other.down_blocks = one.down_blocks
    return case


SHARING = {
    build.__name__: build for build in (z_image_with_controlnet, controlnets_with_the_unet_s_embedding)
}
"""Pipelines whose components share modules."""


def seeded(build: Callable[[], CorpusCase]) -> Callable[[], CorpusCase]:
    return lambda: Entry("", "", "", build).build()


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [CASES[name].build for name in NAMES] + list(map(seeded, SHARING.values())),
    ids=[*NAMES, *SHARING],
)
def test_pipeline(build: Callable[[], CorpusCase]) -> None:
    case = build()
    with torch.no_grad():
        expected = case.call()
    got, known = run(build, "known")
    assert len(got) == len(expected)
    for a, b in zip(expected, got, strict=True):
        assert torch.equal(a, b)
    made, unknown = run(build, "unknown")
    assert [t.shape for t in made] == [t.shape for t in expected]
    assert unknown.waits == known.waits


LOOP = {
    "EulerDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DDIMScheduler": {
        ("host-index", "scheduling_ddim.py:448"): 4,
        ("value-read", "scheduling_ddim.py:449"): 4,
        ("host-index", "scheduling_ddim.py:449"): 3,
        ("host-index", "scheduling_ddim.py:281"): 4,
        ("value-read", "scheduling_ddim.py:282"): 4,
        ("host-index", "scheduling_ddim.py:282"): 3,
    },
    "LCMScheduler": {
        ("host-index", "scheduling_lcm.py:614"): 4,
        ("value-read", "scheduling_lcm.py:615"): 4,
        ("host-index", "scheduling_lcm.py:615"): 4,
    },
    "UniPCMultistepScheduler": {
        ("host-to-device", "scheduling_unipc_multistep.py:886"): 8,
        ("host-to-device", "scheduling_unipc_multistep.py:1021"): 6,
        ("host-to-device", "scheduling_unipc_multistep.py:900"): 2,
        ("host-to-device", "scheduling_unipc_multistep.py:1035"): 2,
        ("library-check", "scheduling_unipc_multistep.py:1078"): 2,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOP)
@pytest.mark.parametrize("values", ["known", "unknown"])
def test_schedulers_wait_where_they_are_known_to(name: str, values: Any) -> None:
    import diffusers

    def build() -> CorpusCase:
        case = CASES["sdxl"].build()
        scheduler = getattr(diffusers, name)
        case.pipe.scheduler = scheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        )
        case.kwargs["num_inference_steps"] = 4
        return case

    _, sites = run(build, values)
    started = {"set_timesteps"}
    in_loop = {
        key: n
        for key, n in sites.waits.items()
        if key[1].startswith("scheduling_")
        and key not in _set_timesteps(getattr(diffusers, name), sites, started)
    }
    assert in_loop == LOOP[name]


def _set_timesteps(scheduler: Any, sites: Sites, names: set[str]) -> set[tuple[str, str]]:
    """Waits inside the scheduler's preparation, before the loop."""
    import inspect

    lines: set[int] = set()
    for name in names:
        source, first = inspect.getsourcelines(getattr(scheduler, name))
        lines |= set(range(first, first + len(source)))
    return {key for key in sites.waits if key[1] != "caller" and int(key[1].rpartition(":")[2]) in lines}
