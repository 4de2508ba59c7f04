"""Components and phases, told from what a pipeline has and calls."""

from __future__ import annotations

import copy
import types

import pytest
import torch

from diffprof.model.pipeline import components, module_names, replaced, role
from diffprof.targets.pipeline import Phase, PhaseTracker


class Denoiser(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)

    def forward(self, sample: torch.Tensor, timestep: int) -> torch.Tensor:
        return self.inner(sample)


class Autoencoder(torch.nn.Module):
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


class Scheduler:
    def set_timesteps(self, n: int) -> None:
        self.timesteps = list(range(n))

    def step(self, noise: torch.Tensor, t: int, sample: torch.Tensor) -> torch.Tensor:
        self.probe()
        return sample - noise

    def probe(self) -> None: ...


class ImageProcessor:
    def postprocess(self, sample: torch.Tensor) -> torch.Tensor:
        return sample.clamp(0, 1)


class Pipeline:
    def __init__(self) -> None:
        self.unet, self.vae, self.scheduler = Denoiser(), Autoencoder(), Scheduler()
        self.image_processor = ImageProcessor()

    @property
    def components(self) -> dict[str, object]:
        return {"unet": self.unet, "vae": self.vae, "scheduler": self.scheduler, "absent": None}

    def encode_prompt(self) -> torch.Tensor:
        return torch.ones(1, 2)

    def __call__(self, steps: int = 2) -> torch.Tensor:
        sample = self.encode_prompt()
        self.scheduler.set_timesteps(steps)
        for _ in range(2):
            sample = sample + 1
        for i, t in enumerate(self.scheduler.timesteps):
            assert i == t
            noise = self.unet(sample, t)
            sample = self.scheduler.step(noise, t, sample)
        return self.image_processor.postprocess(self.vae.decode(sample))


def test_roles_are_told_by_what_a_component_can_do():
    pipe = Pipeline()
    assert {name: role(name, part) for name, part in components(pipe).items()} == {
        "unet": "denoiser",
        "vae": "vae",
        "scheduler": "scheduler",
    }
    assert module_names(pipe)[id(pipe.unet.inner)] == "unet.inner"


def test_a_denoiser_that_passes_its_arguments_on_is_one():
    class Talking(Denoiser):
        def forward(self, sample, *args, **kwargs):
            return super().forward(sample, *args, **kwargs)

    class Wrapper(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, *args, **kwargs):
            return self.model(*args, **kwargs)

    assert role("unet", Talking()) == "denoiser"
    assert role("unet", Wrapper(Talking())) == "denoiser"
    assert role("unet", Wrapper(torch.nn.Linear(2, 2))) == "other"


@pytest.mark.parametrize("steps", [1, 3])
def test_phases_follow_the_call(steps):
    pipe = Pipeline()
    phases: list[Phase] = []
    tracker = PhaseTracker(on_change=phases.append)
    with tracker.watching(pipe):
        pipe(steps)
    denoising = [p for p in phases if p.part]
    assert denoising == [
        Phase("denoise", i, part) for i in range(steps) for part in ("denoiser", "scheduler")
    ]
    assert phases[0] == Phase("encode")
    assert phases[-3:] == [Phase("denoise", steps), Phase("decode"), Phase("postprocess")]
    assert tracker.steps.total == steps


def test_nothing_is_left_on_the_pipeline_or_its_classes():
    pipe = Pipeline()
    before = [dict(vars(owner)) for owner in (Pipeline, Scheduler, Autoencoder)]
    hooks = len(pipe.unet._forward_hooks)
    with pytest.raises(RuntimeError, match="stop"), PhaseTracker().watching(pipe):
        raise RuntimeError("stop")
    assert [dict(vars(owner)) for owner in (Pipeline, Scheduler, Autoencoder)] == before
    assert len(pipe.unet._forward_hooks) == hooks
    assert "step" not in vars(pipe.scheduler)


def test_a_copy_made_in_the_call_has_a_step_of_its_own():
    pipe = Pipeline()
    pipe.scheduler.step = types.MethodType(lambda self, noise, t, sample: (self, sample), pipe.scheduler)
    tracker = PhaseTracker()
    with tracker.watching(pipe):
        copied = copy.deepcopy(pipe.scheduler)
        assert copied.step(None, 0, None)[0] is copied
        assert pipe.scheduler.step(None, 0, None)[0] is pipe.scheduler
    assert tracker.steps.total == 2


def test_a_failing_step_leaves_its_phase():
    pipe = Pipeline()
    tracker = PhaseTracker()
    with (
        tracker.watching(pipe),
        replaced(Scheduler, "probe", _fail),
        pytest.raises(ValueError, match="bad step"),
    ):
        pipe(2)
    assert tracker.current.part is None


def _fail(_: object) -> None:
    raise ValueError("bad step")


def test_replaced_puts_back_inherited_own_and_absent_attributes():
    class Base:
        x = 1

    class Child(Base):
        pass

    with replaced(Child, "x", 2):
        assert (Child.x, Base.x) == (2, 1)
    assert "x" not in vars(Child)
    thing = Child()
    thing.x = 5
    with replaced(thing, "x", 6):
        assert thing.x == 6
    assert thing.x == 5
