"""Steps that repeat are replayed: the recording is what it is when every step runs, byte for byte."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch

from diffprof.corpus import CASES
from diffprof.devices.simulated import forward_replay
from diffprof.devices.simulated.held_state import HeldState
from diffprof.model.recording import Recording
from diffprof.scanning.scan import scan_target
from diffprof.targets import from_object

STEPS = 6

NEED_THE_DEVICE = {"stable-cascade-decoder"}
"""Called with tensors that their caller has to put there."""


def recorded(pipe: Any, call: dict[str, Any], *, every: bool) -> Recording:
    target, chosen = from_object(pipe, kwargs=call), ("syncs", "kernels")
    settings = {"every_step": every}
    return scan_target(target, device="sim:h100", analyzers=chosen, settings=settings).recording


def encoded(recording: Recording) -> bytes:
    """All of it but the day and what it took."""
    return msgspec.json.encode(msgspec.structs.replace(recording, created="", seconds={}, settings={}))


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Classes of the models whose forwards were told again, one a forward."""
    found: list[str] = []
    tell = forward_replay._Replay._tell

    def told(self: Any, *given: Any) -> Any:
        found.append(type(self._module).__name__)
        return tell(self, *given)

    monkeypatch.setattr(forward_replay._Replay, "_tell", told)
    return found


class Counting:
    """A processor that counts its calls, and from the given one on computes something more."""

    def __init__(self, inner: Any, more_from: int) -> None:
        self.inner, self.more_from = inner, more_from
        self.calls = 0

    def __call__(self, attn: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        out = self.inner(attn, hidden_states, *args, **kwargs)
        return out * 2 if self.calls > self.more_from else out


def counts(pipe: Any) -> dict[str, Any]:
    attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    attention.processor = Counting(attention.processor, more_from=4)
    return {}


def caches(pipe: Any) -> dict[str, Any]:
    """A block that computes anew in every other step, and gives what it kept in the others."""
    block = pipe.unet.mid_block
    forward, kept = block.forward, []

    def every_other(*args: Any, **kwargs: Any) -> Any:
        return kept.pop() if kept else kept.append(out := forward(*args, **kwargs)) or out

    block.forward = every_other
    return {}


def changes_a_module(pipe: Any) -> dict[str, Any]:
    def change(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 3:
            pipe.unet.mid_block.resnets[0].nonlinearity = torch.nn.Sequential(
                torch.nn.SiLU(), torch.nn.GELU()
            )
        return kwargs

    return {"callback_on_step_end": change}


def stops_guidance(pipe: Any) -> dict[str, Any]:
    names = ["prompt_embeds", "add_text_embeds", "add_time_ids"]

    def stop(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            pipe._guidance_scale = 0.0
            return {name: kwargs[name].chunk(2)[-1] for name in names}
        return kwargs

    return {"callback_on_step_end": stop, "callback_on_step_end_tensor_inputs": names}


def switches_lora(pipe: Any) -> dict[str, Any]:
    from peft import LoraConfig

    pipe.unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"]))

    def switch(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 3:
            pipe.unet.disable_adapters()
        return kwargs

    return {"callback_on_step_end": switch}


WITH_STATE: dict[str, tuple[Callable[[Any], dict[str, Any]], int]] = {
    "nothing": (lambda pipe: {}, 5),
    "a counter in a processor": (counts, 0),
    "a cache": (caches, 0),
    "a callback that changes a module": (changes_a_module, 3),
    "guidance that stops halfway": (stops_guidance, 4),
    "a LoRA that is switched off": (switches_lora, 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_STATE)
def test_what_changes_is_run(name: str, replays: list[str]) -> None:
    prepare, most = WITH_STATE[name]
    found = []
    for every in (True, False):
        case = CASES["sdxl"].build()
        call = {**case.kwargs, "num_inference_steps": STEPS, "guidance_scale": 5.0, **prepare(case.pipe)}
        found.append(recorded(case.pipe, call, every=every))
        assert not every or not replays
    assert encoded(found[0]) == encoded(found[1])
    assert len(replays) == most


@pytest.mark.parametrize(("steps", "prepared"), [(1, 0), (3, 1)])
def test_a_forward_after_the_last_is_not_prepared_for(
    steps: int, prepared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is given known values, which it does not read: the others may be told after it."""
    held: list[Any] = []

    class Counted(HeldState):
        def __init__(self, module: torch.nn.Module) -> None:
            held.append(module)
            super().__init__(module)

    monkeypatch.setattr(forward_replay, "HeldState", Counted)
    case = CASES["sdxl"].build()
    recorded(case.pipe, {**case.kwargs, "num_inference_steps": steps, "guidance_scale": 5.0}, every=False)
    assert len(held) == prepared


def with_steps(case: Any) -> dict[str, Any]:
    names = inspect.signature(type(case.pipe).__call__).parameters
    steps = {"num_inference_steps", "prior_num_inference_steps"} & set(names) & set(case.kwargs)
    fitting = {"intermediate_timesteps": None} if "intermediate_timesteps" in names else {}  # of two steps
    return {**case.kwargs, **dict.fromkeys(steps, STEPS), **fitting}


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(CASES.keys() - NEED_THE_DEVICE))
def test_the_corpus_is_recorded_alike(name: str) -> None:
    found = []
    for every in (True, False):
        case = CASES[name].build()
        found.append(recorded(case.pipe, with_steps(case), every=every))
    assert encoded(found[0]) == encoded(found[1])
