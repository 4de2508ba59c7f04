from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from diffprof.devices.simulated import Blocking, Observer, simulated_gpu
from diffprof.gpu.signatures import OpSignature


class Recorder(Observer):
    """Keeps everything that is told."""

    def __init__(self) -> None:
        self.ops: list[OpSignature] = []
        self.waits: list[Blocking] = []
        self.made: list[tuple[tuple[int, ...], torch.dtype]] = []
        self.opaques: list[str] = []
        self.live = 0
        self.peak = 0

    def op(self, signature: OpSignature) -> None:
        self.ops.append(signature)

    def blocking(self, event: Blocking) -> None:
        self.waits.append(event)

    def alloc(self, nbytes: int, number: int) -> None:
        self.live += nbytes
        self.peak = max(self.peak, self.live)

    def free(self, nbytes: int, number: int) -> None:
        self.live -= nbytes

    def placeholder(self, shape: tuple[int, ...], dtype: torch.dtype, assumed: str) -> None:
        self.made.append((shape, dtype))

    def opaque(self, name: str) -> None:
        self.opaques.append(name)

    def kinds(self) -> list[str]:
        """Kinds of the waits so far, and forget them."""
        kinds = [str(w.kind) for w in self.waits]
        self.waits.clear()
        return kinds

    def names(self) -> Counter[str]:
        """Names of the launched ops so far, and forget them."""
        names = Counter(s.name.removeprefix("aten::") for s in self.ops)
        self.ops.clear()
        return names


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def sim(recorder: Recorder) -> Iterator[torch.device]:
    """The simulated device, active for one test, observed by `recorder`."""
    with simulated_gpu(recorder) as device:
        yield device


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
