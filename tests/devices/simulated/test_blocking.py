"""Which expressions wait, and of which kind."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffprof.devices.simulated import BlockingKind, Observer, UnknownValue, place, simulated_gpu, suspended
from diffprof.devices.simulated import blocking as table
from diffprof.devices.simulated.blocking import COPIES, WAITS, Wait

from .conftest import Recorder

READ = ["value-read"]
SHAPE = ["data-dependent-shape"]
UP = ["host-to-device"]
DOWN = ["device-to-host"]
FILLS = torch.__version__ >= "2.15"
"""Numbers are assigned by kernels that take them, and a 0-d index of the assignment stays on the device."""


def device_range(sim: torch.device, n: int = 5) -> torch.Tensor:
    return torch.arange(n, device=sim)


class Table:
    def __init__(self, values: torch.Tensor) -> None:
        self.values = values


def host_index(sim: torch.device) -> Any:
    t = Table(torch.arange(5.0))
    i = device_range(sim)[2]
    return t.values[i]


def device_index(sim: torch.device) -> Any:
    t = Table(device_range(sim))
    i = device_range(sim)[2]
    return t.values[i]


def assign(x: torch.Tensor, i: Any, v: Any) -> torch.Tensor:
    x[i] = v
    return x


CASES: dict[str, tuple[Callable[[torch.device], Any], list[str]]] = {
    # one value
    "item": (lambda d: device_range(d)[1].item(), READ),
    "bool": (lambda d: bool(device_range(d)[1] > 0), READ),
    "if": (lambda d: 1 if device_range(d)[1] > 0 else 0, READ),
    "int": (lambda d: int(device_range(d)[1]), READ),
    "float": (lambda d: float(device_range(d)[1]), READ),
    "format": (lambda d: f"{device_range(d)[1]}", READ),
    "tolist": (lambda d: device_range(d).tolist(), READ),
    "repr": (lambda d: repr(device_range(d)), READ),
    "range": (lambda d: list(range(device_range(d)[2])), READ),
    "slice bound": (lambda d: torch.arange(5)[: device_range(d)[2]], READ),
    "size": (lambda d: torch.zeros(device_range(d)[2]), READ),
    "compare in a list": (lambda d: 3 in device_range(d), READ),
    "host table": (host_index, ["host-index"]),
    "device table": (device_index, READ),
    "equal": (lambda d: torch.equal(device_range(d), device_range(d)), READ),
    "equal, one memory": (lambda d: torch.equal(x := device_range(d), x.view_as(x)), []),
    "equal, empty": (lambda d: torch.equal(device_range(d, 0), device_range(d, 0)), []),
    "equal, other shape": (lambda d: torch.equal(device_range(d), device_range(d, 4)), []),
    "allclose": (lambda d: torch.allclose(device_range(d), device_range(d)), READ),
    "is_nonzero": (lambda d: torch.is_nonzero(device_range(d)[1]), READ),
    "arange to a device number": (lambda d: torch.arange(device_range(d)[3], device=d), READ),
    "full with a device number": (lambda d: torch.full((2,), device_range(d)[3], device=d), READ),
    "masked_fill, device value": (
        lambda d: device_range(d).masked_fill(device_range(d) > 2, device_range(d)[0]),
        READ,
    ),
    "masked_fill, number": (lambda d: device_range(d).masked_fill(device_range(d) > 2, 7), []),
    # shapes
    "nonzero": (lambda d: device_range(d).nonzero(), SHAPE),
    "where, one argument": (lambda d: torch.where(device_range(d) > 2), SHAPE),
    "where, three": (lambda d: torch.where(device_range(d) > 2, device_range(d), 0), []),
    "argwhere": (lambda d: torch.argwhere(device_range(d)), SHAPE),
    "masked_select": (lambda d: device_range(d).masked_select(device_range(d) > 2), SHAPE),
    "mask": (lambda d: device_range(d)[device_range(d) > 2], SHAPE),
    "mask = number": (lambda d: assign(device_range(d), device_range(d) > 2, 0), []),
    "mask = tensor": (lambda d: assign(device_range(d), device_range(d) > 2, device_range(d)[:2]), SHAPE),
    "mask = device scalar": (
        lambda d: assign(device_range(d), device_range(d) > 2, device_range(d)[1]),
        SHAPE,
    ),
    "index by device tensor": (lambda d: device_range(d)[device_range(d, 2)], []),
    "index by list": (lambda d: device_range(d)[[0, 2]], UP),
    "index by CPU tensor": (lambda d: device_range(d)[torch.tensor([0, 2])], UP),
    "unique": (lambda d: device_range(d).unique(), SHAPE),
    "unique, empty": (lambda d: device_range(d, 0).unique(), []),
    "unique, rows": (lambda d: torch.ones(2, 2, device=d).unique(dim=0), SHAPE),
    "unique_consecutive": (lambda d: device_range(d).unique_consecutive(), SHAPE),
    "repeat_interleave by tensor": (lambda d: device_range(d).repeat_interleave(device_range(d)), SHAPE),
    "repeat_interleave, output_size": (
        lambda d: device_range(d).repeat_interleave(device_range(d), output_size=10),
        [],
    ),
    "repeat_interleave by number": (lambda d: device_range(d).repeat_interleave(2), []),
    "bincount": (lambda d: device_range(d).bincount(), SHAPE),
    "bincount, empty": (lambda d: device_range(d, 0).bincount(minlength=2), []),
    "one_hot": (lambda d: torch.nn.functional.one_hot(device_range(d), 5), []),
    "one_hot, open": (lambda d: torch.nn.functional.one_hot(device_range(d)), READ),
    # copies
    "cpu()": (lambda d: device_range(d).cpu(), DOWN),
    "to cpu": (lambda d: device_range(d).to("cpu"), DOWN),
    "to cpu, non_blocking": (lambda d: device_range(d).to("cpu", non_blocking=True), []),
    "copy_ to CPU": (lambda d: torch.zeros(5).copy_(device_range(d)), DOWN),
    "copy_ to pageable, non_blocking": (lambda d: torch.zeros(5).copy_(device_range(d), True), DOWN),
    "copy_ to pinned, non_blocking": (lambda d: torch.zeros(5).pin_memory().copy_(device_range(d), True), []),
    "to device": (lambda d: torch.ones(2).to(d), UP),
    "to device and type": (lambda d: torch.ones(2).to(d, torch.float16), UP),
    "to device, pinned, blocking": (lambda d: torch.ones(2).pin_memory().to(d), UP),
    "to device, pageable, non_blocking": (lambda d: torch.ones(2).to(d, non_blocking=True), ["staged-copy"]),
    "to device, pinned, non_blocking": (lambda d: torch.ones(2).pin_memory().to(d, non_blocking=True), []),
    "sim()": (lambda d: torch.ones(2).sim(), UP),
    "to device, nothing in it": (lambda d: torch.ones(0).to(d), []),
    "to device, there already": (lambda d: device_range(d).to(d), []),
    "tensor": (lambda d: torch.tensor([1, 2], device=d), UP),
    "tensor of one number": (lambda d: torch.tensor(1.0, device=d), UP),
    "new_tensor": (lambda d: device_range(d).new_tensor([1, 2]), UP),
    "as_tensor": (lambda d: torch.as_tensor([1, 2], device=d), UP),
    "x[0] = number": (lambda d: assign(device_range(d), 0, 7), [] if FILLS else UP),
    "x[0] = CPU scalar": (lambda d: assign(device_range(d), 0, torch.tensor(7)), UP),
    "x[indices] = number": (
        lambda d: assign(device_range(d), device_range(d, 2), 7),
        [] if FILLS else UP,
    ),
    "x[indices] = CPU scalar": (lambda d: assign(device_range(d), device_range(d, 2), torch.tensor(7)), UP),
    "x[device scalar] = number": (
        lambda d: assign(device_range(d), device_range(d)[2], 7),
        [] if FILLS else READ + UP,
    ),
    "x[:, device scalar] = number": (
        lambda d: assign(torch.zeros(3, 3, device=d), (slice(None), device_range(d)[2]), 7),
        [] if FILLS else READ,
    ),
    "x[device scalar] = device scalar": (
        lambda d: assign(device_range(d), device_range(d)[2], device_range(d)[1]),
        [] if FILLS else READ,
    ),
    "x[device scalar] = device scalar, other type": (
        lambda d: assign(torch.zeros(5, device=d), device_range(d)[2], device_range(d)[1]),
        READ,
    ),
    "x[device scalar of x] = number": (
        lambda d: assign(x := device_range(d), x[2], 7),
        READ if FILLS else READ + UP,
    ),
    "x[device scalar] = device tensor": (
        lambda d: assign(torch.zeros(3, 3, device=d), device_range(d)[2], torch.ones(3, device=d)),
        READ,
    ),
    "x[1:3] = number": (lambda d: assign(device_range(d), slice(1, 3), 7), []),
    "x[1:3] = CPU tensor": (lambda d: assign(device_range(d), slice(1, 3), torch.ones(2)), UP),
    "x[1:3] = device tensor": (lambda d: assign(device_range(d), slice(1, 3), device_range(d, 2)), []),
    "fill_ on the CPU": (lambda d: torch.zeros(2).fill_(device_range(d)[1]), READ),
    # lists of device scalars
    "tensor of device scalars": (
        lambda d: torch.tensor([device_range(d)[1], 2, device_range(d)[3]]),
        ["tensor-from-device-scalars"] * 2,
    ),
    "tensor of device scalars, back": (
        lambda d: torch.tensor([device_range(d)[1]], device=d),
        ["tensor-from-device-scalars", "host-to-device"],
    ),
    "Tensor of device scalars": (
        lambda d: torch.Tensor([1.0, device_range(d)[1]]),
        ["tensor-from-device-scalars"],
    ),
    "stack of device scalars": (lambda d: torch.stack([device_range(d)[1], device_range(d)[2]]), []),
    # libraries
    "solve": (
        lambda d: torch.linalg.solve(torch.eye(2, device=d), torch.ones(2, 1, device=d)),
        ["library-check"],
    ),
    "inv": (lambda d: torch.linalg.inv(torch.eye(2, device=d)), ["library-check"]),
    "cholesky, singular but for rounding": (  # diffusers' HeliosPyramidPipeline.sample_block_noise
        lambda d: torch.linalg.cholesky(
            torch.eye(4, device=d) * (4 / 3) - torch.ones(4, 4, device=d) / 3 + torch.eye(4, device=d) * 1e-8
        ),
        ["library-check"],
    ),
    "solve_ex": (lambda d: torch.linalg.solve_ex(torch.eye(2, device=d), torch.ones(2, 1, device=d)), []),
    "multinomial": (lambda d: torch.ones(4, device=d).multinomial(1), []),
    "normal, number": (lambda d: torch.normal(torch.zeros(2, device=d), 1.0), []),
    "normal, tensor deviation": (
        lambda d: torch.normal(torch.zeros(2, device=d), torch.ones(2, device=d)),
        ["library-check"],
    ),
    "histc": (lambda d: torch.ones(4, device=d).histc(3), ["library-check"]),
    "histc, empty": (lambda d: torch.ones(0, device=d).histc(3), []),
    "histc, range": (lambda d: torch.ones(4, device=d).histc(3, 0, 2), []),
    # waiting on purpose
    "torch.sim.synchronize": (lambda d: torch.sim.synchronize(), ["synchronize"]),
    "torch.accelerator.synchronize": (lambda d: torch.accelerator.synchronize(), ["synchronize"]),
    "event": (lambda d: torch.sim.Event().synchronize(), ["synchronize"]),
    "stream": (lambda d: torch.sim.current_stream().synchronize(), ["synchronize"]),
    # what looks guilty and isn't
    "factories": (lambda d: (torch.zeros(2, device=d), torch.randn(2, device=d), torch.eye(3, device=d)), []),
    "arithmetic with a CPU number": (lambda d: device_range(d) * torch.tensor(2.0), []),
    "arithmetic with a device number": (lambda d: device_range(d) * device_range(d)[1], []),
    "reductions": (lambda d: (device_range(d).sum(), device_range(d).max(), device_range(d).argmax()), []),
    "sort, topk, cumsum": (
        lambda d: (device_range(d).sort(), device_range(d).topk(2), device_range(d).cumsum(0)),
        [],
    ),
    "gather": (lambda d: device_range(d).gather(0, device_range(d, 2)), []),
    "len, shape": (lambda d: (len(device_range(d)), device_range(d).shape), []),
    "iteration": (lambda d: [x + 1 for x in device_range(d)], []),
    "record and wait": (lambda d: torch.sim.Stream().wait_event(torch.sim.Event()), []),
}


@pytest.mark.parametrize("name", CASES)
def test_waits(name: str, sim: torch.device, recorder: Recorder) -> None:
    run, expected = CASES[name]
    run(sim)
    assert recorder.kinds() == expected


TWICE = {
    "repeat_interleave": lambda x: x.repeat_interleave(x),
    "bincount": lambda x: x.bincount(),
}


@pytest.mark.parametrize("name", TWICE)
def test_ops_that_wait_more_than_once(name: str, sim: torch.device, recorder: Recorder) -> None:
    TWICE[name](device_range(sim))
    assert [wait.waits for wait in recorder.waits] == [2]


UNKNOWN_READS = {
    "item": (lambda x: x.sum().item(), 0.0),
    "bool": (lambda x: bool(x.isnan().any()), False),
    "int": (lambda x: int(x.argmax()), 0),
    "equal": (lambda x: torch.equal(x, x + 1), False),
    "tolist": (lambda x: x.tolist(), [0.0] * 4),
}


@pytest.mark.parametrize("name", UNKNOWN_READS)
def test_reads_of_unknown_values(name: str, sim: torch.device, recorder: Recorder) -> None:
    run, stand_in = UNKNOWN_READS[name]
    x = place(torch.ones(4), values="unknown")
    assert run(x) == stand_in
    (wait,) = recorder.waits
    assert wait.kind is BlockingKind.VALUE_READ
    assert not wait.known
    assert wait.assumed is not None


SHAPES = {
    "nonzero": (lambda x: x.nonzero().shape, (4, 1)),
    "mask": (lambda x: x[x > 0].shape, (4,)),
    "masked_select": (lambda x: x.masked_select(x > 0).shape, (4,)),
    "unique": (lambda x: x.unique().shape, (4,)),
    "repeat_interleave": (lambda x: x.repeat_interleave(x.long()).shape, (4,)),
    "bincount": (lambda x: x.long().bincount(minlength=3).shape, (3,)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_depend_on_unknown_values(name: str, sim: torch.device, recorder: Recorder) -> None:
    run, shape = SHAPES[name]
    assert tuple(run(place(torch.ones(4), values="unknown"))) == shape
    assert [w.kind for w in recorder.waits] == [BlockingKind.DATA_DEPENDENT_SHAPE]
    assert isinstance(recorder.waits[0].assumed, str)


@pytest.mark.parametrize("run", [*(r for r, _ in UNKNOWN_READS.values()), *(r for r, _ in SHAPES.values())])
def test_nothing_is_assumed_on_demand(run: Callable[[torch.Tensor], Any], recorder: Recorder) -> None:
    with (
        simulated_gpu(recorder, unknown_reads="raise"),
        pytest.raises(UnknownValue, match=r"shape \((4,)?\)") as caught,
    ):
        run(place(torch.ones(4), values="unknown"))
    assert len(recorder.waits) == 1
    assert recorder.waits[0].assumed is None
    assert "known values" in caught.value.hint


@pytest.mark.slow
def test_a_loop_that_waits_for_a_value_ends(sim: torch.device) -> None:
    x = place(torch.ones(1), values="unknown")

    def wait() -> None:
        while not x.any():
            x.add_(1)

    with pytest.raises(UnknownValue, match="a loop seems to wait"):
        wait()


def test_a_known_mask_selects_exactly(sim: torch.device, recorder: Recorder) -> None:
    x = place(torch.ones(2, 5), values="unknown")
    mask = torch.arange(5, device=sim) > 2
    assert x[:, mask].shape == (2, 2)
    assert recorder.waits[0].known
    assert recorder.waits[0].assumed is None


def test_reads_count_the_bytes(sim: torch.device, recorder: Recorder) -> None:
    torch.ones(3, 4).to(sim)
    torch.ones(3, device=sim, dtype=torch.float16)[0].item()
    assert [(w.bytes, w.shape, w.dtype) for w in recorder.waits] == [
        (48, (3, 4), "float32"),
        (2, (), "float16"),
    ]


def test_what_is_saved_is_copied_to_the_host(sim: torch.device, recorder: Recorder, tmp_path: Path) -> None:
    on_device = torch.ones(3, device=sim)
    torch.save({"on the device": on_device, "on the host": torch.ones(2)}, tmp_path / "saved.pt")
    pickle.dumps(on_device)
    assert [(wait.kind, wait.shape) for wait in recorder.waits] == [("device-to-host", (3,))] * 2


def test_suspended_tells_nothing(sim: torch.device, recorder: Recorder) -> None:
    with suspended():
        torch.ones(2).to(sim).sum().item()
    assert not recorder.waits
    assert not recorder.ops


def test_the_users_frame_is_on_the_stack() -> None:
    import sys

    found = []

    class Walker(Observer):
        def blocking(self, event: Any) -> None:
            frame = sys._getframe(1)
            while "diffprof/devices/" in frame.f_code.co_filename:
                frame = frame.f_back  # type: ignore[assignment]
            found.append((frame.f_code.co_filename, frame.f_lineno))

    with simulated_gpu(Walker()) as device:
        torch.ones(1).to(device)
        line = sys._getframe().f_lineno - 1
    assert found == [(__file__, line)]


def test_the_table_gives_reasons_and_sources() -> None:
    waits = [*WAITS.values(), *COPIES.values(), *(w for w in vars(table).values() if isinstance(w, Wait))]
    for wait in waits:
        assert wait.reason
        assert any(s in wait.source for s in (".cu", ".cpp", ".h", ".py"))
    assert {w.kind for w in waits} == set(BlockingKind)
    for name in WAITS:
        assert hasattr(torch.ops.aten, name), name


@pytest.mark.skipif(not FILLS, reason="torch < 2.15 reads the index")
def test_an_index_left_on_the_device_selects_the_same_elements(sim: torch.device) -> None:
    for index in (lambda i: i, lambda i: (slice(1, None), i), lambda i: (i, i), lambda i: (i, ..., [0, 2])):
        for dtype in (torch.int64, torch.int32):
            host, number = torch.arange(9.0).view(3, 3), torch.tensor(1, dtype=dtype)
            device = host.to(sim)
            device[index(number.to(sim))] = 70
            host[index(number)] = 70
            assert device.tolist() == host.tolist()


@pytest.mark.skipif(not FILLS, reason="torch < 2.15 reads the index")
def test_an_unknown_index_that_stays_on_the_device_is_no_read(sim: torch.device, recorder: Recorder) -> None:
    x = torch.zeros(4, device=sim)
    x[place(torch.tensor(2), values="unknown")] = 1.0
    assert recorder.kinds() == []
    x[0].item()
    assert not recorder.waits[-1].known
