"""The witnesses of a CUDA device, as far as they go without one: here, float64 tensors play the device's."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffprof.devices import cuda
from diffprof.devices.classify import classify
from diffprof.devices.cuda import SYNC_WARNING, BlockingMode, explicit_waits, sync_warnings
from diffprof.devices.simulated import Blocking, Observer


class Recorder(Observer):
    def __init__(self) -> None:
        self.kinds: list[str] = []

    def blocking(self, event: Blocking) -> None:
        self.kinds.append(str(event.kind))

    def opaque(self, name: str) -> None:
        self.kinds.append(name)


def on_device(tensor: torch.Tensor) -> bool:
    return tensor.dtype in (torch.float64, torch.int16, torch.bool)


def device(n: int = 4) -> torch.Tensor:
    return torch.ones(n, dtype=torch.float64)


CASES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "item": (lambda: device()[0].item(), ["value-read"]),
    "host item": (lambda: torch.ones(1).item(), []),
    "branch": (lambda: bool(device().sum()), ["value-read"]),
    "nonzero": (lambda: device().nonzero(), ["data-dependent-shape"]),
    "mask": (lambda: device()[torch.ones(4, dtype=torch.bool)], ["data-dependent-shape"]),
    "host index": (lambda: device()[torch.tensor([1, 2])], ["host-to-device"]),
    "table on the host": (lambda: torch.ones(4)[torch.ones(2, dtype=torch.int16).long()], []),
    "unique": (lambda: device().unique(), ["data-dependent-shape"]),
    "unique, empty": (lambda: device(0).unique(), []),
    "equal": (lambda: torch.equal(device(), device()), ["value-read"]),
    "equal, itself": (lambda: torch.equal(x := device(), x), []),
    "upload": (lambda: device().copy_(torch.ones(4)), ["host-to-device"]),
    "staged upload": (lambda: device().copy_(torch.ones(4), non_blocking=True), ["staged-copy"]),
    "download": (lambda: torch.ones(4).copy_(device()), ["device-to-host"]),
    "on the device": (lambda: device().copy_(device()), []),
    "arithmetic": (lambda: (device() * 2).sin().sum(), []),
}


@pytest.mark.parametrize("name", CASES)
def test_operators_are_judged_by_the_table(name: str) -> None:
    run, kinds = CASES[name]
    recorder = Recorder()
    with BlockingMode(recorder, on_device):
        run()
    assert recorder.kinds == kinds


def test_a_value_on_the_host_is_uploaded_unless_it_fills_a_mask() -> None:
    mask, rows = torch.ones(4, dtype=torch.bool), torch.ones(2, dtype=torch.int16)

    def kinds(index: torch.Tensor, value: torch.Tensor) -> list[str]:
        call = (device(), [index], value)
        return [str(wait.kind) for wait in classify(torch.ops.aten.index_put_.default, call, {}, on_device)]

    assert kinds(rows, torch.tensor(1.0)) == ["host-to-device"]
    assert kinds(rows, device(1)) == []
    assert kinds(mask, torch.tensor(1.0)) == []
    assert kinds(mask, device(4)) == ["data-dependent-shape"]


def test_every_explicit_wait_is_told_and_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for owner, attribute, name, _ in cuda.EXPLICIT:
        monkeypatch.setattr(owner, attribute, lambda *args, name=name: made.append(name))
    before = [getattr(owner, attribute) for owner, attribute, *_ in cuda.EXPLICIT]
    recorder = Recorder()
    with explicit_waits(recorder):
        for owner, attribute, *_ in cuda.EXPLICIT:
            getattr(owner, attribute)()
    assert recorder.kinds == ["synchronize"] * len(made)
    assert made == [name for _, _, name, _ in cuda.EXPLICIT]
    assert "torch.cuda.empty_cache" in made
    assert [getattr(owner, attribute) for owner, attribute, *_ in cuda.EXPLICIT] == before


def test_waits_on_generic_streams_and_events_are_told_where_they_are_the_devices() -> None:
    """C types: what is called on them is seen by the interpreter's hook, also on threads."""
    stream, event = torch.Stream(device="cpu"), torch.Event(device="cpu")
    recorder = Recorder()
    with explicit_waits(recorder, lambda device: device.type == "cpu"):
        stream.synchronize()
        thread = threading.Thread(target=event.synchronize)
        thread.start()
        thread.join()
        stream.query()
    stream.synchronize()
    assert recorder.kinds == ["synchronize"] * 2
    other = Recorder()
    with explicit_waits(other):
        stream.synchronize()
    assert other.kinds == []
    assert (sys.getprofile(), threading.getprofile()) == (None, None)


def test_a_hook_that_is_there_stays() -> None:
    recorder = Recorder()
    seen: list[str] = []

    def own(frame: object, event: str, function: object) -> None:
        seen.append(event)

    sys.setprofile(own)
    try:
        with explicit_waits(recorder, lambda device: True):
            torch.Stream(device="cpu").synchronize()
            assert sys.getprofile() is own
    finally:
        sys.setprofile(None)
    assert recorder.kinds == []
    assert "c_call" in seen


def test_the_second_witness_is_heard_and_others_pass() -> None:
    heard: list[str] = []
    modes: list[Any] = []
    show, filters = warnings.showwarning, list(warnings.filters)
    with warnings.catch_warnings(record=True) as passed, sync_warnings(heard.append, mode=modes.append):
        for _ in range(2):
            warnings.warn(f"{SYNC_WARNING} (Triggered internally at ...)", stacklevel=1)
        warnings.warn("Synchronization debug mode is a prototype feature and ...", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert len(heard) == 2, "every time, also from the same line"
    assert [str(w.message) for w in passed] == ["something else"]
    assert modes == ["warn", 0]
    assert warnings.showwarning is show
    assert list(warnings.filters) == filters


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_both_witnesses_agree_on_a_real_device() -> None:
    heard: list[str] = []
    recorder = Recorder()
    x = torch.ones(4, device="cuda")
    with sync_warnings(heard.append), BlockingMode(recorder, lambda t: t.is_cuda):
        x.sum().item()
        x.nonzero()
        x.cpu()
    assert recorder.kinds == ["value-read", "data-dependent-shape", "device-to-host"]
    assert len(heard) == 3
