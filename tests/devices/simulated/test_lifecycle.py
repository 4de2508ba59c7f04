"""Activation leaves the process as it was."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
import torch
import torch.utils._device

from diffprof.devices.simulated import Observer, empty_weights, is_simulated, place, simulated_gpu
from diffprof.devices.simulated.device import SimulatedDevice
from diffprof.devices.simulated.session import SESSION
from diffprof.model.errors import DiffprofError, UsageError
from diffprof.targets.guest_errors import made_up

from .conftest import Recorder

OWNERS = (
    torch,
    torch.Tensor,
    torch._C.TensorBase,
    torch.accelerator,
    torch.nn.init,
    torch.nn.Module,
    torch.nn.functional,
    torch.utils._device,
    torch.random,
    torch.cuda,
)


def names() -> dict[tuple[str, str], int]:
    return {(o.__name__, name): id(value) for o in OWNERS for name, value in vars(o).items()}


def use() -> None:
    with simulated_gpu() as device:
        module = torch.nn.Linear(2, 2).to(device)
        module(torch.ones(1, 2, device=device))
        torch.tensor([torch.ones(1, device=device)[0]])
        with empty_weights():
            torch.nn.Linear(4, 4)


@pytest.mark.slow
def test_every_name_is_put_back() -> None:
    use()  # the device type itself is registered once a process
    before = names()
    frozen = gc.get_freeze_count()
    use()
    with pytest.raises(ZeroDivisionError), simulated_gpu():
        1 / 0
    assert names() == before
    assert gc.get_freeze_count() == frozen
    assert torch.get_default_dtype() is torch.float32
    assert torch.get_default_device() == torch.device("cpu")
    assert not torch.utils._python_dispatch._get_current_dispatch_mode_stack()
    assert not torch.overrides._get_current_function_mode_stack()


def test_a_tensor_is_still_no_sequence() -> None:
    use()
    x = torch.arange(6).view(2, 3)
    assert x[torch.tensor(1)].tolist() == [3, 4, 5]
    assert x[torch.tensor([True, False])].tolist() == [[0, 1, 2]]
    assert torch.Tensor([1, 2]).tolist() == [1, 2]
    assert torch.tensor([torch.tensor(1), torch.tensor(2)]).tolist() == [1, 2]


def test_the_device_is_away_when_it_is_not_active() -> None:
    use()
    assert not torch.accelerator.is_available()
    assert not torch.sim.is_available()
    assert torch.sim.device_count() == 0


def test_tensors_that_survive(recorder: Recorder) -> None:
    with simulated_gpu(recorder) as device:
        x = torch.arange(3.0, device=device)
        y = place(torch.ones(2), values="unknown")
    told = len(recorder.ops), len(recorder.waits)
    assert repr(x) == "tensor([0., 1., 2.], device='sim:0')"
    assert "unknown" in repr(y)
    assert (x + 1).cpu().tolist() == [1, 2, 3]
    assert (len(recorder.ops), len(recorder.waits)) == told
    del x, y
    gc.collect()


def test_one_at_a_time() -> None:
    with simulated_gpu(), pytest.raises(DiffprofError, match="active already") as caught, simulated_gpu():
        pass
    assert caught.value.hint
    use()


def test_wrong_options() -> None:
    with pytest.raises(UsageError, match="unknown_reads"), simulated_gpu(unknown_reads="maybe"):  # type: ignore[arg-type]
        pass
    with pytest.raises(UsageError, match="values"):
        place(torch.ones(1), values="some")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="can't be placed"):
        place(3, values="known")


def test_activation_from_a_thread() -> None:
    made: list[float] = []

    def work() -> None:
        with simulated_gpu() as device:
            made.append(torch.ones(1, device=device).item())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert made == [1.0]


def test_cpu_work_is_not_seen(recorder: Recorder) -> None:
    with simulated_gpu(recorder):
        torch.nn.Linear(2, 2)(torch.ones(1, 2)).sum().item()
    assert not recorder.ops
    assert not recorder.waits


def test_methods_that_are_not_overridden_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Observer):
        pass

    for name in ("op", "blocking", "alloc", "free", "placeholder", "opaque"):
        monkeypatch.setattr(Observer, name, lambda *a: pytest.fail("called"))
    with simulated_gpu(Silent()) as device:
        torch.ones(2).to(device).sum().item()


def test_memory_is_counted(recorder: Recorder) -> None:
    with simulated_gpu(recorder) as device:
        base = torch.sim.memory_allocated()
        x = torch.zeros(1000, device=device)
        view = x[10:]
        assert recorder.live == 4096  # 4000 bytes in units of 512
        assert torch.sim.memory_allocated() - base == 4096
        del x
        assert recorder.live == 4096
        del view
        assert recorder.live == 0
        m = place(torch.nn.Linear(100, 10), values="unknown")
        assert recorder.live == 4096 + 512
        del m
        assert recorder.live == 0
        assert recorder.peak == 4096 + 512
        assert torch.sim.max_memory_allocated() - base == 4096 + 512


def test_the_data_sheet_is_what_the_device_reports() -> None:
    from diffprof.gpu.specs import load_spec

    spec = load_spec("h100")
    with simulated_gpu(spec=spec) as device:
        properties = torch.sim.get_device_properties(device)
        assert properties.name == spec.name
        assert properties.total_memory == spec.memory_bytes
        assert torch.sim.get_device_capability() == (9, 0)
        assert torch.sim.mem_get_info()[1] == spec.memory_bytes
        assert torch.accelerator.current_accelerator().type == "sim"


def test_streams_and_events(recorder: Recorder) -> None:
    with simulated_gpu(recorder) as device:
        stream: Any = torch.sim.Stream()
        with torch.sim.stream(stream):
            assert is_simulated(torch.ones(1, device=device))
        event = stream.record_event()
        torch.sim.current_stream().wait_event(event)
        assert not recorder.waits
        event.synchronize()
    assert recorder.kinds() == ["synchronize"]


def test_what_was_made_up_is_known_after_the_call_that_fails_by_it() -> None:
    """The failure is told when the device is gone already."""

    def failing() -> None:
        with simulated_gpu() as device:
            SESSION.unknown = True
            _ = 1 / torch.empty(1 << 23, device=device).sum().item()

    with pytest.raises(ZeroDivisionError):
        failing()
    assert "value that was made up: a read (`.item()`, `if`, `float()`) at " in made_up()
    assert "aten::" not in made_up()
    with simulated_gpu():
        pass
    assert made_up() == ""


def test_garbage_of_an_earlier_scan_is_no_memory_of_the_next() -> None:
    """Pipelines are cycles, which stay until they are collected: maybe in the middle of the next scan."""
    device = SimulatedDevice("a100-80gb")
    with device.active():
        left = torch.empty(1 << 28, device=device.torch_device)
    with device.active():
        kept = torch.empty(1 << 20, device=device.torch_device)
        assert SESSION.allocated == kept.nbytes
        del left
        assert SESSION.allocated == kept.nbytes
        del kept
        assert (SESSION.allocated, SESSION.peak) == (0, 4 << 20)


def test_the_cpu_works_in_one_thread_meanwhile() -> None:
    torch.set_num_threads(3)
    with SimulatedDevice("h100").active():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
