"""What a trial of fixes on a simulated GPU sees: the pipeline alone, whatever is kept of it for undoing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from diffprof.devices import resolve_device
from diffprof.model.fix import Code, Simulated
from diffprof.model.progress import Progress
from diffprof.model.recording import Change, Grade, MemoryHolder, MemoryKind, MemoryUse, Recording
from diffprof.scanning.session import Session
from diffprof.targets import Options, resolve
from diffprof.tuning.trial import SimulatedTrial, _with_smaller_weights
from tests.tuning.promises import _Trial as TimesAlone

HALF = Code(imports=("import torch",), optimize="pipe.to(torch.bfloat16)")


def on_a_small_pipeline(work: Callable[[SimulatedTrial], Any]) -> Any:
    target, device, options = resolve("tiny-sdxl"), resolve_device("sim:a100-80gb"), Options(steps=3)

    def run(call: Any) -> Any:
        return work(TimesAlone(call, device, target, options, {}, Progress()))

    with device.active():
        target.load_code()
        return target.run(run, device, options)


def memory_is_whole(seen: Recording) -> bool:
    memory = seen.memory
    assert memory is not None
    held = sum(each.bytes for each in memory.at_peak or ())
    return held == memory.peak_bytes == max(memory.by_phase.values())


@pytest.mark.slow
def test_memory_is_that_of_the_pipeline_in_every_figure() -> None:
    """States that are kept for undoing lie on the same device."""

    def work(trial: SimulatedTrial) -> Iterator[Recording]:
        state = trial.mark()
        yield trial.look(("syncs", "kernels"))
        trial.apply("half", HALF, None)
        yield trial.look(("syncs", "kernels"))
        trial.restore(state)
        trial.apply("nothing", Code(), None)
        yield trial.look(("syncs", "kernels"))

    first, half, again = on_a_small_pipeline(lambda trial: list(work(trial)))
    assert all(map(memory_is_whole, (first, half, again)))
    assert again.memory == first.memory
    assert half.memory.weights_bytes < 0.6 * first.memory.weights_bytes


@pytest.mark.slow
def test_int8_weights_are_smaller_in_every_figure() -> None:
    def work(trial: SimulatedTrial) -> Iterator[Any]:
        trial.apply("half", HALF, None)
        yield trial.look(("kernels",))
        linears = {n: m for n, m in trial.pipe.unet.named_modules() if isinstance(m, torch.nn.Linear)}
        names = tuple(f"unet.{name}" for name in linears)
        trial.apply("int8", Code(), Simulated(compiled=True, int8=names))
        yield trial.look(("kernels",))
        yield sum(m.weight.numel() - 2 * m.out_features for m in linears.values())

    half, int8, saved = on_a_small_pipeline(lambda trial: list(work(trial)))
    assert memory_is_whole(int8)
    was, now = ([h for h in seen.memory.at_peak if h.phase == "before"] for seen in (half, int8))
    assert was[0].module == now[0].module == "unet"
    assert was[0].bytes - now[0].bytes == saved
    assert max(each.bytes for each in int8.memory.curve) == int8.memory.peak_bytes


def test_weights_that_are_moved_for_their_model_are_smaller_then_alone() -> None:
    made = MemoryHolder(
        kind=MemoryKind.WEIGHTS, module="unet.conv", dtype="bfloat16", phase="denoise", bytes=50
    )
    other = MemoryHolder(kind=MemoryKind.ACTIVATIONS, module="unet", dtype="bfloat16", bytes=30)
    memory = MemoryUse(
        grade=Grade.SIMULATED,
        peak_bytes=80,
        by_phase={"encode": 20, "denoise": 80},
        peak_phase="denoise",
        at_peak=(made, other),
    )
    found = _with_smaller_weights(memory, {("unet", "bfloat16"): (40, 100)})
    assert found.by_phase == {"encode": 20, "denoise": 60}
    assert [each.bytes for each in found.at_peak or ()] == [30, 30]
    assert found.peak_bytes == 60


@pytest.mark.slow
def test_garbage_that_goes_while_the_call_runs_is_none_of_its_memory() -> None:
    def work(trial: SimulatedTrial) -> Iterator[Recording]:
        yield trial.look(("syncs", "kernels"))
        trial.apply("nothing", Code(), None)
        garbage = [torch.empty(2**20, device=trial.device.torch_device)]
        denoiser = trial.pipe.unet
        denoiser.register_forward_pre_hook(lambda *_: garbage.clear())
        yield trial.look(("syncs", "kernels"))

    first, again = on_a_small_pipeline(lambda trial: list(work(trial)))
    assert memory_is_whole(again)
    assert again.memory == first.memory


@pytest.mark.slow
def test_what_is_asked_of_a_state_later_comes_of_the_call_that_was_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched: list[Session] = []
    record = Session.record

    def noted(self: Session, call: Any) -> Recording:
        watched.append(self)
        return record(self, call)

    monkeypatch.setattr(Session, "record", noted)

    def work(trial: SimulatedTrial) -> tuple[Recording, Recording, int]:
        trial.look(("syncs", "kernels"))
        pieces = trial.look(("quantization", "setup"))
        count = len(watched)
        trial.apply("nothing", Code(), None)
        return pieces, trial.look(("setup", "quantization")), count

    pieces, whole, count = on_a_small_pipeline(work)
    assert count == 1
    assert pieces.analyzers == whole.analyzers == ("syncs", "kernels", "setup", "quantization")
    for section in ("syncs", "timeline", "memory", "setup", "linears", "quantization"):
        assert getattr(pieces, section) is not None
        assert getattr(pieces, section) == getattr(whole, section), section


@pytest.mark.slow
def test_a_state_is_costed_for_what_will_be_tried_and_what_was_kept_for_all() -> None:
    def work(trial: SimulatedTrial) -> Iterator[Recording]:
        yield trial.look(("setup",))
        trial.apply("nothing", Code(), None)
        trial.expect(("setup",), {Change.HALF})
        yield trial.look(("setup",))
        yield trial.look(("setup", "syncs"))
        trial.expect(("setup",), None)
        yield trial.look(("setup",))

    whole, some, same, all_again = on_a_small_pipeline(lambda trial: list(work(trial)))
    assert {each.changes for each in some.setup.alternatives} == {(), (Change.HALF,)}
    assert same is some
    assert all_again.setup == whole.setup
    assert all_again.memory == whole.memory
    assert {(Change.HALF,), (Change.CHANNELS_LAST,)} <= {each.changes for each in whole.setup.alternatives}
