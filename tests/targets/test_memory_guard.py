"""A target that would take the machine's memory is stopped with a message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffprof.devices import resolve_device
from diffprof.model.errors import TargetError
from diffprof.targets import Options, resolve, room
from diffprof.targets.memory_guard import MemoryGone, memory_guarded, refuse_large

Write = Callable[[str, str], Path]


def test_the_reserve_is_kept() -> None:
    left = iter([5, 5, 3])

    def measure() -> tuple[int, int]:
        return next(left), 100

    with (
        pytest.raises(MemoryGone, match="memory was about to be gone"),
        memory_guarded(measure, own=-(1 << 40)),
    ):
        for _ in range(10**9):
            pass


def test_memory_that_others_took_stops_nobody() -> None:
    asked = []

    def measure() -> tuple[int, int]:
        asked.append(1)
        return 0, 100

    with memory_guarded(measure):
        while len(asked) < 3:
            pass


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("zeros", (10**13,), {}),
        ("ones", ((10**7, 10**6),), {}),
        ("randn", (10**6, 10**7), {"dtype": torch.float16}),
        ("full", ((10**13,), 1.0), {}),
        ("rand", (), {"size": (10**13,)}),
    ],
)
def test_an_allocation_without_room_is_refused_before_it_is_made(name: str, args: Any, kwargs: Any) -> None:
    with pytest.raises(
        MemoryGone, match=rf"torch.{name} asked for [\d.]+ GiB on the CPU, and [\d.]+ GiB are"
    ):
        refuse_large(name, args, kwargs)
    refuse_large(name, (2, 3), {})


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    assert room.room() == (700_000, 1_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert room.room()[1] > 1_000_000


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_a_factory_is_stopped_at_its_line(write: Write) -> None:
    file = write(
        "make.py",
        """
        import torch

        def make():
            try:
                table = torch.zeros(10**12, 10)
            except Exception:
                table = None
            return table
        """,
    )
    device = resolve_device("sim")
    with device.active(), pytest.raises(TargetError, match=r"asked for 37252\.9 GiB on the CPU") as error:
        resolve(f"{file}:make").run(lambda call: None, device, Options())
    assert "make.py:6" in error.value.what
    assert "--no-weights" in error.value.hint
