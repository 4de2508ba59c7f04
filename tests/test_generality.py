"""The simulated GPU on a wide corpus of diffusers pipelines: image, video, audio; UNets and transformers.

With known values it must give the CPU's output bit for bit. With unknown values (weights and all that is
computed from them have a shape only) it must see the same waits as with known ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import diffusers
import pytest
import torch
import transformers

from diffprof.analyzers.syncs.probe import SyncObserver
from diffprof.corpus import CASES, Entry, modules_of
from diffprof.devices.simulated import is_known, place, simulated_gpu, values_unknown
from diffprof.model.recording import SyncRow
from diffprof.targets.pipeline import PhaseTracker
from tests.shares import one_in

Values = Literal["known", "unknown"]


@pytest.fixture(scope="module", autouse=True)
def quiet_and_on_one_thread() -> Iterator[None]:
    """Tensors this small only lose time on more threads; what the libraries say is not looked at."""
    threads = torch.get_num_threads()
    levels = [(lib.utils.logging, lib.utils.logging.get_verbosity()) for lib in (diffusers, transformers)]
    torch.set_num_threads(1)
    for logging, _ in levels:
        logging.set_verbosity_error()
    yield
    torch.set_num_threads(threads)
    for logging, level in levels:
        logging.set_verbosity(level)


@dataclass(frozen=True)
class Run:
    """One call: the arrays it gave, the places where the host waited, and whether each weight was known.

    weights: empty if they stay on the host and come over one by one.
    """

    output: list[torch.Tensor]
    waits: tuple[SyncRow, ...]
    steps: int
    weights: frozenset[bool]

    def in_loop(self) -> Counter[tuple[str, str, int, tuple[int, ...]]]:
        """(kind, file, line, count in each step) of the waits in the denoising loop."""
        return Counter((w.kind, w.site.file, w.site.line, w.by_step) for w in self.waits if w.in_loop)

    def outside(self) -> set[tuple[str, str, int]]:
        """(kind, file, line) of the waits outside of it."""
        return {(w.kind, w.site.file, w.site.line) for w in self.waits if not w.in_loop}


def simulated(entry: Entry, values: Values) -> Run:
    """A fresh pipeline, called on the simulated device."""
    case = entry.build()
    tracker = PhaseTracker()
    observer = SyncObserver(case.pipe, tracker)
    with simulated_gpu(observer) as device, ExitStack() as stack:
        weights: frozenset[bool] = frozenset()
        if case.offload is not None:
            case.offload(case.pipe, device)
            if values == "unknown":
                stack.enter_context(values_unknown(modules_of(case.pipe)))
        else:
            place(case.pipe, values=values)
            weights = frozenset(is_known(p) for module in modules_of(case.pipe) for p in module.parameters())
        with tracker.watching(case.pipe):
            output = case.call(device)
    return Run(output, observer.sync_rows(), observer.steps_seen(), weights)


@pytest.fixture(scope="module", params=one_in(12, CASES))
def entry(request: pytest.FixtureRequest) -> Entry:
    return request.param


@pytest.fixture(scope="module")
def known(entry: Entry) -> Run:
    return simulated(entry, "known")


@pytest.mark.slow
def test_known_values_give_the_output_of_the_cpu(entry: Entry, known: Run) -> None:
    expected = entry.build().call("cpu")
    assert expected, "the pipeline gave nothing to compare"
    assert all(torch.isfinite(array.float()).all() for array in expected)
    assert any(array.float().std() > 0 for array in expected), "a constant output says nothing"
    assert [(a.shape, a.dtype) for a in known.output] == [(a.shape, a.dtype) for a in expected]
    for mine, cpu in zip(known.output, expected, strict=True):
        assert torch.equal(mine, cpu), f"largest difference: {(mine.double() - cpu.double()).abs().max()}"
    assert known.weights <= {True}


@pytest.mark.slow
def test_unknown_values_give_the_same_waits(entry: Entry, known: Run) -> None:
    unknown = simulated(entry, "unknown")
    assert [a.shape for a in unknown.output] == [a.shape for a in known.output]
    assert unknown.steps == known.steps > 0
    assert unknown.in_loop() == known.in_loop()
    # Outside the loop a host algorithm (an optimizer over the images) may take another number of turns.
    assert unknown.outside() == known.outside()
    assert unknown.weights <= {False}


def test_the_corpus_is_wide() -> None:
    families = Counter(entry.family for entry in CASES.values())
    denoisers = Counter(entry.denoiser for entry in CASES.values())
    assert len(CASES) >= 45
    assert {"image", "video", "audio", "editing", "conditioned", "adapted", "3d"} <= set(families)
    assert min(denoisers["unet"], denoisers["transformer"]) >= 40
