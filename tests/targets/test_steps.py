"""What counts as the denoising loop and as a step of it, on small loops of every kind. Each call looks around
in places that are named; afterwards each look is asked for its step."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Iterator

import pytest
import torch

from diffprof.targets.loops import function_of
from diffprof.targets.pipeline import PhaseTracker
from diffprof.targets.steps import StepDoubt

X = torch.ones(1)


class Denoiser(torch.nn.Module):
    def forward(self, sample: torch.Tensor, timestep: object) -> torch.Tensor:
        return sample


class Scheduler:
    def set_timesteps(self, n: int) -> None:
        self.timesteps = [float(t) for t in range(1000, 0, -1000 // n)][:n]

    def step(self, noise: torch.Tensor, timestep: object, sample: torch.Tensor) -> torch.Tensor:
        return sample


class Pipe:
    """What a call has at hand. body: the call."""

    def __init__(self, body: Callable[..., object]) -> None:
        self.unet, self.scheduler, self.body = Denoiser(), Scheduler(), body
        self.tracker = PhaseTracker()
        self.looks: list[tuple[str, int]] = []

    @property
    def components(self) -> dict[str, object]:
        return {"unet": self.unet, "scheduler": self.scheduler}

    def look(self, where: str = "body") -> None:
        self.looks.append((where, self.tracker.moment()))

    def predict(self, t: object) -> torch.Tensor:
        return self.unet(X, t)

    def step(self, t: object) -> torch.Tensor:
        return self.scheduler.step(X, t, X)

    def __call__(self, *args: object) -> object:
        return self.body(self, *args)


class Blocks:
    """Blocks that call blocks, which call the models."""

    def __init__(self, *inner: object) -> None:
        self.inner = inner

    def __call__(self, pipe: Pipe) -> None:
        for block in self.inner:
            block(pipe)


class LoopOfBlocks(Blocks):
    def __call__(self, pipe: Pipe) -> None:
        for t in pipe.scheduler.timesteps:
            self.once(pipe, t)

    def once(self, pipe: Pipe, t: object) -> None:
        for block in self.inner:
            block(pipe, t)


def predicting(pipe: Pipe, t: object) -> None:
    pipe.look()
    pipe.predict(t)


def stepping(pipe: Pipe, t: object) -> None:
    pipe.step(t)
    pipe.look()


def seen(body: Callable[..., object]) -> tuple[dict[str, list[int | None]], PhaseTracker]:
    """The steps of all looks, by their names."""
    pipe = Pipe(body)
    with torch.no_grad(), pipe.tracker.watching(pipe):
        pipe()
    found: dict[str, list[int | None]] = {}
    for where, moment in pipe.looks:
        found.setdefault(where, []).append(pipe.tracker.steps.step_of(moment))
    return found, pipe.tracker


# --- loops that are no denoising loops, inside and outside of one ------------------------------------------


def prompts(pipe: Pipe) -> None:
    pipe.scheduler.set_timesteps(3)
    pipe.look("before")
    for t in pipe.scheduler.timesteps:
        for _ in ("a cat", "a dog"):
            pipe.look()
            pipe.predict(t)
        pipe.step(t)
    pipe.look("after")


def prompts_by_index(pipe: Pipe) -> None:
    pipe.scheduler.set_timesteps(3)
    pipe.look("before")
    for i in range(3):
        [pipe.predict(pipe.scheduler.timesteps[i]) for _ in range(2)]
        pipe.look()
        pipe.step(pipe.scheduler.timesteps[i])
        pipe.look()
    pipe.look("after")


def prompts_called_back(pipe: Pipe) -> None:
    pipe.scheduler.set_timesteps(3)
    pipe.look("before")
    for t in pipe.scheduler.timesteps:
        list(map(lambda _, t=t: (pipe.look(), pipe.predict(t)), range(2)))
        pipe.step(t)
    pipe.look("after")


def tiles(pipe: Pipe) -> None:
    pipe.scheduler.set_timesteps(3)
    schedulers = [copy.deepcopy(pipe.scheduler) for _ in range(2)]
    pipe.look("before")
    for t in pipe.scheduler.timesteps:
        for scheduler in schedulers:
            pipe.look()
            pipe.predict(t)
            scheduler.step(X, t, X)
    pipe.look("after")


def tiles_while(pipe: Pipe) -> None:
    pipe.scheduler.set_timesteps(3)
    pipe.look("before")
    n = 0
    while n < 3:
        t, tile = pipe.scheduler.timesteps[n], 0
        while tile < 2:
            predicting(pipe, t)
            pipe.step(t)
            tile += 1
        n += 1
    pipe.look("after")


@pytest.mark.parametrize("body", [prompts, prompts_by_index, prompts_called_back, tiles, tiles_while])
def test_a_loop_inside_a_step_is_none_of_its_own(body):
    found, tracker = seen(body)
    assert found == {"before": [None], "body": [0, 0, 1, 1, 2, 2], "after": [None]}
    assert tracker.steps.total == 3
    assert tracker.steps.doubt is None


def two_steps_an_iteration(pipe: Pipe) -> None:
    pipe.scheduler.set_timesteps(3)
    for t in pipe.scheduler.timesteps:
        pipe.predict(t)
        pipe.scheduler.step(X, t, X)
        pipe.look()
        pipe.scheduler.step(X, t, X)


def a_scheduler_for_each_frame(pipe: Pipe) -> None:
    pipe.scheduler.set_timesteps(3)
    schedulers = [copy.deepcopy(pipe.scheduler) for _ in range(4)]
    for i, t in enumerate(torch.tensor([[9.0] * 4, [5.0] * 4, [1.0] * 4])):
        pipe.unet(X, t)
        for frame in range(4):
            schedulers[frame].step(X, t[frame], X)
        pipe.look(f"{i}")
    pipe.looks = [("body", moment) for _, moment in pipe.looks]


@pytest.mark.parametrize("body", [two_steps_an_iteration, a_scheduler_for_each_frame])
def test_several_scheduler_steps_of_an_iteration_are_one_step(body):
    found, tracker = seen(body)
    assert found == {"body": [0, 1, 2]}
    assert tracker.steps.total == 3


def chunks(pipe: Pipe) -> None:
    for _ in range(2):
        pipe.scheduler.set_timesteps(2)
        pipe.look("chunk")
        for t in pipe.scheduler.timesteps:
            pipe.look()
            pipe.predict(t)
            pipe.step(t)


def chunks_on_one_table(pipe: Pipe) -> None:
    pipe.scheduler.set_timesteps(2)
    for _ in range(2):
        pipe.look("chunk")
        for i, t in enumerate(pipe.scheduler.timesteps):
            pipe.look()
            pipe.predict(t)
            assert pipe.scheduler.timesteps[i] == t
            pipe.step(t)


def one_chunk(pipe: Pipe) -> None:
    pipe.look("chunk")
    for t in pipe.scheduler.timesteps:
        predicting(pipe, t)
        pipe.step(t)


def chunks_by_a_function(pipe: Pipe) -> None:
    pipe.scheduler.set_timesteps(2)
    for _ in range(2):
        one_chunk(pipe)


@pytest.mark.parametrize("body", [chunks, chunks_on_one_table, chunks_by_a_function])
def test_a_loop_around_the_steps_repeats_them(body):
    found, tracker = seen(body)
    assert found == {"chunk": [None, None], "body": [0, 1, 2, 3]}
    assert tracker.steps.runs([1]) == ((0, 1), (2, 3))
    assert tracker.steps.doubt is None


def test_a_loop_over_prompts_with_a_single_step_each_is_not_the_denoising_loop():
    def call(pipe: Pipe) -> None:
        pipe.scheduler.set_timesteps(1)
        for _ in range(3):
            pipe.look("prompt")
            for t in pipe.scheduler.timesteps:
                pipe.predict(t)
                pipe.step(t)
                pipe.look()

    found, tracker = seen(call)
    assert found == {"prompt": [None] * 3, "body": [0, 1, 2]}
    assert tracker.steps.runs([0]) == ((0,), (1,), (2,))


# --- where a loop stands -----------------------------------------------------------------------------------


def two_loops(pipe: Pipe) -> None:
    pipe.scheduler.set_timesteps(2)
    for t in pipe.scheduler.timesteps:
        pipe.predict(t)
        pipe.step(t)
        pipe.look("base")
    pipe.look("between")
    pipe.scheduler.set_timesteps(3)
    for t in pipe.scheduler.timesteps:
        pipe.predict(t)
        pipe.step(t)
        pipe.look("refiner")


class Combined(Pipe):
    """Holds two pipelines, each with a loop."""

    def __init__(self, body: Callable[..., object]) -> None:
        super().__init__(body)
        self.one, self.other = Pipe(body), Pipe(body)

    @property
    def components(self) -> dict[str, object]:
        return {"one": self.one, "other": self.other}


def test_steps_of_two_loops_are_numbered_through():
    found, tracker = seen(two_loops)
    assert found == {"base": [0, 1], "between": [None], "refiner": [2, 3, 4]}
    assert tracker.steps.runs([0]) == ((0, 1),)
    assert tracker.steps.runs([3]) == ((2, 3, 4),)


def test_pipelines_inside_a_pipeline_have_loops_of_their_own():
    def outer(pipe: Combined) -> None:
        pipe.one("prior")
        pipe.look("between")
        pipe.other("decoder")

    def inner(pipe: Pipe, name: str) -> None:
        pipe.scheduler.set_timesteps(2)
        for t in pipe.scheduler.timesteps:
            pipe.predict(t)
            pipe.step(t)
            combined.look(name)

    combined = Combined(outer)
    combined.one.body = combined.other.body = inner
    with combined.tracker.watching(combined):
        combined()
    step_of = combined.tracker.steps.step_of
    assert [(where, step_of(moment)) for where, moment in combined.looks] == [
        ("prior", 0),
        ("prior", 1),
        ("between", None),
        ("decoder", 2),
        ("decoder", 3),
    ]
    assert combined.tracker.steps.runs([0]) == ((0, 1), (2, 3))


def blocks_call_blocks(pipe: Pipe) -> None:
    pipe.scheduler.set_timesteps(3)
    Blocks(lambda pipe: pipe.look("before"), Blocks(LoopOfBlocks(predicting, stepping)))(pipe)


def by_functions(pipe: Pipe) -> None:
    def once(t: object) -> None:
        predicting(pipe, t)
        stepping(pipe, t)

    pipe.scheduler.set_timesteps(3)
    pipe.look("before")
    [once(t) for t in pipe.scheduler.timesteps]


def yielding(pipe: Pipe) -> Iterator[object]:
    for t in pipe.scheduler.timesteps:
        pipe.predict(t)
        pipe.step(t)
        yield t


def by_a_generator(pipe: Pipe) -> None:
    pipe.scheduler.set_timesteps(3)
    pipe.look("before")
    for _ in yielding(pipe):
        pipe.look()
        pipe.look()


@pytest.mark.parametrize("body", [blocks_call_blocks, by_functions, by_a_generator])
def test_a_loop_reaches_the_models_through_any_number_of_calls(body):
    found, tracker = seen(body)
    assert found == {"before": [None], "body": [0, 0, 1, 1, 2, 2]}
    assert tracker.steps.doubt is None


def test_a_loop_written_by_hand_around_the_components():
    pipe = Pipe(print)
    pipe.scheduler.set_timesteps(3)
    with pipe.tracker.watching(pipe):
        pipe.look()
        for t in pipe.scheduler.timesteps:
            pipe.unet(X, t)
            pipe.look()
            pipe.scheduler.step(X, t, X)
        pipe.look()
    assert [pipe.tracker.steps.step_of(moment) for _, moment in pipe.looks] == [None, 0, 1, 2, None]


# --- without what usually tells ----------------------------------------------------------------------------


def sigmas(pipe: Pipe) -> None:
    for sigma in (9.0, 5.0, 1.0):
        pipe.look()
        pipe.predict(sigma)


def sigmas_while(pipe: Pipe) -> None:
    sigma = 9.0
    while sigma > 0.0:
        for _ in ("cond", "uncond"):
            pipe.predict(sigma)
        pipe.look()
        sigma -= 4.0


@pytest.mark.parametrize("body", [sigmas, sigmas_while])
def test_without_a_scheduler_the_denoisers_timestep_tells(body):
    found, tracker = seen(body)
    assert found == {"body": [0, 1, 2]}
    assert tracker.steps.doubt is None


def test_a_loop_inside_a_denoisers_forward_is_not_the_denoising_loop():
    class Twice(torch.nn.Module):
        def __init__(self, pipe: Pipe) -> None:
            super().__init__()
            self.unet, self.looks = pipe.unet, pipe.look

        def forward(self, sample: torch.Tensor, timestep: object) -> torch.Tensor:
            for part in range(2):
                sample = self.unet(sample, timestep)
                self.looks(f"{part}")
            return sample

    def call(pipe: Pipe) -> None:
        wrapper = Twice(pipe)
        for t in (2.0, 1.0):
            wrapper(X, t)
            pipe.scheduler.step(X, t, X)

    found, tracker = seen(call)
    assert found == {"0": [0, 1], "1": [0, 1]}
    assert tracker.steps.total == 2


def test_iterations_that_denoise_nothing_are_no_steps():
    def call(pipe: Pipe) -> None:
        pipe.scheduler.set_timesteps(4)
        for i, t in enumerate(pipe.scheduler.timesteps):
            pipe.look()
            if i < 2:
                continue
            pipe.predict(t)
            pipe.step(t)
            if i == 3:
                pipe.look("last")
                break

    found, tracker = seen(call)
    assert found == {"body": [0, 0, 0, 1], "last": [1]}
    assert tracker.steps.total == 2


def recursive(pipe: Pipe, left: int = 3) -> None:
    pipe.predict(float(left))
    pipe.look()
    pipe.step(float(left))
    if left > 1:
        recursive(pipe, left - 1)


def reducing(pipe: Pipe) -> None:
    def once(x: object, t: float) -> object:
        pipe.predict(t)
        pipe.look()
        return pipe.step(t)

    functools.reduce(once, (3.0, 2.0, 1.0), X)


def one_line_after_another(pipe: Pipe) -> None:
    pipe.predict(3.0)
    pipe.look()
    pipe.scheduler.step(X, 3.0, X)
    pipe.predict(2.0)
    pipe.look()
    pipe.scheduler.step(X, 2.0, X)
    pipe.predict(1.0)
    pipe.look()
    pipe.scheduler.step(X, 1.0, X)


def without_source(pipe: Pipe) -> None:
    exec(
        "for t in (3.0, 2.0, 1.0):\n    pipe.unet(X, t)\n    pipe.look()\n    pipe.scheduler.step(X, t, X)",
        {"pipe": pipe, "X": X},
    )


@pytest.mark.parametrize("body", [recursive, reducing, one_line_after_another, without_source])
def test_where_no_loop_is_seen_each_scheduler_step_is_one_and_the_doubt_is_told(body):
    found, tracker = seen(body)
    assert found == {"body": [0, 1, 2]}
    assert tracker.steps.doubt is StepDoubt.NO_LOOP


def test_a_single_step_without_a_loop_is_outside_and_no_doubt():
    def call(pipe: Pipe) -> None:
        pipe.look()
        pipe.predict(1.0)
        pipe.look()
        pipe.step(1.0)
        pipe.look()

    found, tracker = seen(call)
    assert found == {"body": [None] * 3}
    assert (tracker.steps.total, tracker.steps.doubt) == (1, None)


def test_loops_that_bring_no_timestep_are_in_doubt_and_all_of_it_counts_as_inside():
    def call(pipe: Pipe) -> None:
        pipe.look("before")
        for _ in range(2):
            pipe.look("outer")
            for _ in range(3):
                pipe.look()
                pipe.unet(X, None)
                pipe.scheduler.step(X, None, X)

    found, tracker = seen(call)
    assert found == {"before": [None], "outer": [0, 2], "body": [0, 1, 2, 3, 4, 5]}
    assert tracker.steps.doubt is StepDoubt.SEVERAL_LOOPS


def test_no_frame_of_the_call_is_kept():
    found, tracker = seen(prompts)
    assert found
    assert not tracker.steps._levels
    assert tracker.steps._bottom is None


def test_the_variable_of_a_comprehension_is_none_of_the_loop_around_it() -> None:
    """From Python 3.13 on it stands among the frame's locals while the comprehension runs."""
    for each in range(2):
        kept = [other + each for other in range(2)]
        found = function_of(sys._getframe())
    loop = found.loops[0]
    assert set(loop.own) == {"each", "found", "kept"}
    assert kept
