"""A small pipeline written by hand, whose denoiser captures whole, breaks, or is compiled again."""

from __future__ import annotations

import torch


class Denoiser(torch.nn.Module):
    """Two linears on x, rows of 64. planted: what is wrong with it."""

    def __init__(self, planted: str) -> None:
        super().__init__()
        self.planted = planted
        self.calls = 0
        self.first, self.second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)

    def forward(self, x: torch.Tensor, timestep: object) -> torch.Tensor:
        x = torch.nn.functional.silu(self.first(x))
        if self.planted == "break":
            torch._dynamo.graph_break()
        if self.planted == "recompile":
            self.calls += 1
            x = x * self.calls
        return self.second(x)


class Scheduler:
    """Steps of a fixed size."""

    def __init__(self) -> None:
        self.timesteps: list[int] = []

    def set_timesteps(self, steps: int) -> None:
        self.timesteps = list(range(steps))

    def step(self, noise: torch.Tensor, timestep: object, sample: torch.Tensor) -> torch.Tensor:
        return sample - 0.1 * noise


class BrokenPipeline:
    """Denoises rows of 64 numbers."""

    def __init__(self, planted: str) -> None:
        torch.manual_seed(0)
        self.unet, self.scheduler = Denoiser(planted).eval(), Scheduler()

    @property
    def components(self) -> dict[str, object]:
        return {"unet": self.unet, "scheduler": self.scheduler}

    @property
    def device(self) -> torch.device:
        return self.unet.first.weight.device

    def to(self, *args: object, **kwargs: object) -> BrokenPipeline:
        self.unet.to(*args, **kwargs)
        return self

    @torch.no_grad()
    def __call__(self, num_inference_steps: int = 3) -> torch.Tensor:
        self.scheduler.set_timesteps(num_inference_steps)
        x = torch.ones(4, 64, device=self.device)
        for t in self.scheduler.timesteps:
            noise = self.unet(x, t)
            x = self.scheduler.step(noise, t, x)
        return x


def clean_pipeline() -> tuple[object, dict[str, object]]:
    return BrokenPipeline("nothing"), {"num_inference_steps": 3}


def break_pipeline() -> tuple[object, dict[str, object]]:
    return BrokenPipeline("break"), {"num_inference_steps": 3}


def recompile_pipeline() -> tuple[object, dict[str, object]]:
    return BrokenPipeline("recompile"), {"num_inference_steps": 3}
