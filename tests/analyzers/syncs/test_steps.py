"""In which loop and in which of its steps waits are reported: on pipelines of diffusers with unusual loops
and on small ones. Counts are read off the pipelines' code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.modular_pipelines import (
    ComponentSpec,
    LoopSequentialPipelineBlocks,
    ModularPipelineBlocks,
    SequentialPipelineBlocks,
)

from diffprof.analyzers.syncs.probe import SyncObserver
from diffprof.corpus import CASES
from diffprof.devices.simulated import place, simulated_gpu
from diffprof.judge.gate import parse_gate
from diffprof.judge.judging import make_report
from diffprof.model.recording import SyncRow
from diffprof.targets.pipeline import PhaseTracker
from tests.builders import make_recording

Seen = dict[tuple[str, int], tuple[float, tuple[int, ...], bool]]
"""(file, line) -> per step, by step, first step only."""


def watched(pipe, call: Callable[[torch.device], object]) -> SyncObserver:
    tracker = PhaseTracker()
    observer = SyncObserver(pipe, tracker)
    with simulated_gpu(observer) as device, torch.no_grad():
        place(pipe, values="unknown")
        with tracker.watching(pipe):
            call(device)
    return observer


def in_loop(rows: tuple[SyncRow, ...]) -> Seen:
    return {
        (row.site.file.rpartition("/")[2], row.site.line): (row.per_step, row.by_step, row.first_step_only)
        for row in rows
        if row.in_loop
    }


# --- pipelines of diffusers 0.42.1 -------------------------------------------------------------------------

DDIM, EDM, UNIPC, DDPM, UNCLIP = (
    f"scheduling_{name}.py" for name in ("ddim", "edm_euler", "unipc_multistep", "ddpm", "unclip")
)

EXPECTED: dict[str, tuple[int, Seen]] = {
    # Two calls of `step` in each of two iterations: the search for the first index is the first step's.
    "cosmos": (2, {(EDM, 401): (0.0, (1, 0), True), (EDM, 409): (0.0, (1, 0), True)}),
    # A scheduler for each of two latent frames, all stepped in each of two iterations.
    "skyreels-v2-diffusion-forcing": (
        2,
        {
            (UNIPC, 886): (4.0, (4, 4), False),
            (UNIPC, 1021): (4.0, (0, 4), False),
            (UNIPC, 1121): (0.0, (2, 0), True),
            (UNIPC, 1132): (0.0, (2, 0), True),
        },
    ),
    # An ensemble of three, one after the other, of two steps each.
    "marigold-depth": (
        6,
        {
            (DDIM, 281): (1.0, (1, 1, 1, 1, 1, 1), False),
            (DDIM, 282): (1.0, (2, 1, 2, 1, 2, 1), False),
            (DDIM, 448): (1.0, (1, 1, 1, 1, 1, 1), False),
            (DDIM, 449): (1.0, (2, 1, 2, 1, 2, 1), False),
        },
    ),
    # The first step has nothing to compare with.
    "flux-first-block-cache": (3, {("first_block_cache.py", 141): (1.0, (0, 1, 1), False)}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_steps_of_unusual_loops(name):
    case = CASES[name].build()
    observer = watched(case.pipe, case.call)
    steps, rows = EXPECTED[name]
    assert observer.steps_seen() == steps
    assert in_loop(observer.sync_rows()) == rows
    assert not [gap for gap in observer.unseen() if gap.kind == "doubt"]


def test_the_loops_of_a_prior_and_of_its_decoder_are_told_apart():
    case = CASES["kandinsky22-combined"].build()
    observer = watched(case.pipe, case.call)
    assert observer.steps_seen() == 4
    seen = in_loop(observer.sync_rows())
    assert seen[UNCLIP, 281] == (1.0, (1, 1, 0, 0), False)
    assert seen[DDPM, 503] == (1.0, (0, 0, 1, 1), False)
    assert seen[DDPM, 665] == (0.0, (0, 0, 2, 0), True)
    assert seen[UNCLIP, 205] == (0.0, (1, 0, 0, 0), True)


# --- small pipelines ---------------------------------------------------------------------------------------


class Denoiser(torch.nn.Module):
    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return sample * 0.5


class Pipe:
    def __init__(self) -> None:
        self.unet, self.scheduler = Denoiser(), DDIMScheduler(clip_sample=False)

    @property
    def components(self) -> dict[str, object]:
        return {"unet": self.unet, "scheduler": self.scheduler}

    def __call__(self, device: torch.device) -> None:
        """Overwritten."""


class ForEachPrompt(Pipe):
    def __call__(self, device):
        self.scheduler.set_timesteps(4, device=device)
        x = torch.ones(1, 4, 8, 8, device=device)
        for t in self.scheduler.timesteps:
            noise = [self.unet(x, t) for _ in range(2)]
            for each in noise[1:]:
                noise[0] = noise[0] + each
            x = self.scheduler.step(noise[0], t, x).prev_sample


class ForEachTile(Pipe):
    def __call__(self, device):
        self.scheduler.set_timesteps(4, device=device)
        tiles = [torch.ones(1, 4, 8, 8, device=device) for _ in range(2)]
        for t in self.scheduler.timesteps:
            for n, tile in enumerate(tiles):
                tiles[n] = self.scheduler.step(self.unet(tile, t), t, tile).prev_sample


class Recursive(Pipe):
    def __call__(self, device):
        self.scheduler.set_timesteps(4, device=device)
        self.below(torch.ones(1, 4, 8, 8, device=device), 0)

    def below(self, x, n):
        t = self.scheduler.timesteps[n]
        x = self.scheduler.step(self.unet(x, t), t, x).prev_sample
        return self.below(x, n + 1) if n < 3 else x


class InTwoHalves(Pipe):
    def __call__(self, device):
        self.scheduler.set_timesteps(4, device=device)
        x = torch.ones(1, 4, 8, 8, device=device)
        for half in self.scheduler.timesteps.chunk(2):
            x = self.run(half, x)

    def run(self, timesteps, x):
        for t in timesteps:
            x = self.scheduler.step(self.unet(x, t), t, x).prev_sample
        return x


@pytest.mark.parametrize(
    ("pipeline", "times"), [(ForEachPrompt, 1), (ForEachTile, 2), (Recursive, 1), (InTwoHalves, 1)]
)
def test_the_waits_of_the_scheduler_are_in_the_loop_and_fail_the_gate(pipeline, times):
    pipe = pipeline()
    observer = watched(pipe, pipe)
    rows = observer.sync_rows()
    every, last = (times,) * 4, (2 * times, 2 * times, 2 * times, times)
    assert in_loop(rows) == {
        (DDIM, 281): (times, every, False),
        (DDIM, 282): (2 * times, last, False),
        (DDIM, 448): (times, every, False),
        (DDIM, 449): (2 * times, last, False),
    }
    report = make_report(make_recording(*rows, unseen=observer.unseen()))
    assert len(parse_gate("in-loop").hits(report)) == 4
    assert [gap.what for gap in observer.unseen()] == ["which loop denoises"] * (pipeline is Recursive)


class Differs(DDIMScheduler):
    """Reads how far apart two of its entries lie, which it sends for that."""

    def step(self, model_output, timestep, sample):
        table = self.alphas_cumprod.to(sample.device)
        apart, later = table[1] - table[0], timestep - 1
        if apart > 0:
            raise ValueError("it rises")
        if later < -1:
            raise ValueError("it has ended")
        return super().step(model_output, timestep, sample)


def test_a_read_that_does_not_follow_from_the_timesteps_is_no_case_for_a_copy_of_them():
    pipe = ForEachPrompt()
    pipe.scheduler = Differs(clip_sample=False)
    rows = watched(pipe, pipe).sync_rows()
    assert {row.read: row.from_timesteps for row in rows if row.read in ("apart", "later")} == {
        "apart": False,
        "later": True,
    }
    findings = make_report(make_recording(*rows)).findings
    offered = {f.message.partition(" is on")[0]: f.fixes for f in findings if f.rule == "SYN001"}
    assert offered["`apart`"] == ()
    assert offered["`later`"] == ("host-timesteps",)


# --- blocks of a ModularPipeline ---------------------------------------------------------------------------


class Predict(ModularPipelineBlocks):
    model_name = "tiny"

    @property
    def expected_components(self):
        return [ComponentSpec("unet", UNet2DModel), ComponentSpec("scheduler", DDIMScheduler)]

    def __call__(self, components, state, i, t):
        components.noise = components.unet(components.sample, t).sample
        return components, state


class Step(Predict):
    def __call__(self, components, state, i, t):
        step = components.scheduler.step(components.noise, t, components.sample)
        components.sample = step.prev_sample
        return components, state


class Steps(LoopSequentialPipelineBlocks):
    model_name = "tiny"
    block_classes = (Predict, Step)
    block_names = ("predict", "step")

    @property
    def loop_expected_components(self):
        return Predict().expected_components

    def __call__(self, components, state):
        for i, t in enumerate(components.scheduler.timesteps):
            components, state = self.loop_step(components, state, i=i, t=t)
        return components, state


class Whole(SequentialPipelineBlocks):
    model_name = "tiny"
    block_classes = (Steps,)
    block_names = ("denoise",)


def blocks():
    """A pipeline of a loop of two blocks, and its call on a device."""
    unet = UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        add_attention=False,
    )
    pipe = Whole().init_pipeline()
    pipe.update_components(unet=unet, scheduler=DDIMScheduler(clip_sample=False))

    def call(device):
        pipe.scheduler.set_timesteps(3, device=device)
        pipe.sample = torch.ones(1, 4, 8, 8, device=device)
        pipe(output=[])

    return pipe, call


def test_blocks_that_call_blocks():
    observer = watched(*blocks())
    assert observer.steps_seen() == 3
    seen = in_loop(observer.sync_rows())
    assert seen[DDIM, 281] == (1.0, (1, 1, 1), False)
    assert seen[DDIM, 449] == (2.0, (2, 2, 1), False)
