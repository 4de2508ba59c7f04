from __future__ import annotations

import inspect
from typing import Any

import diffusers
import pytest
import torch

from diffprof.devices import resolve_device
from diffprof.devices.simulated import Observer, observing
from diffprof.targets import Options, resolve
from diffprof.targets.redirect import cuda_redirect

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")


@pytest.fixture(params=["cpu", "sim"])
def device(request: pytest.FixtureRequest) -> Any:
    device = resolve_device(request.param)
    with device.active():
        yield device


MADE = {
    "factory": lambda: torch.zeros(2, device="cuda"),
    "index": lambda: torch.zeros(2, device="cuda:0"),
    "number": lambda: torch.zeros(2, device=0),
    "object": lambda: torch.ones(2, device=torch.device("cuda")),
    "tensor": lambda: torch.tensor([1.0], device="cuda"),
    "to": lambda: torch.zeros(2).to("cuda"),
    "to, by name": lambda: torch.zeros(2).to(device="cuda", dtype=torch.float16),
    "to, object and dtype": lambda: torch.zeros(2).to(torch.device("cuda", 0), torch.float16),
    "cuda": lambda: torch.zeros(2).cuda(),
    "cuda, index": lambda: torch.zeros(2).cuda(0, non_blocking=True),
    "new": lambda: torch.zeros(2).new_zeros(3, device="cuda"),
    "like": lambda: torch.zeros_like(torch.zeros(2), device="cuda"),
    "module.to": lambda: torch.nn.Linear(2, 2).to("cuda").weight,
    "module.cuda": lambda: torch.nn.Linear(2, 2).cuda().weight,
    "module": lambda: torch.nn.Linear(2, 2, device="cuda").weight,
    "generator": lambda: torch.randn(2, generator=torch.Generator("cuda").manual_seed(0), device="cuda"),
}


@pytest.mark.parametrize("made", MADE.values(), ids=MADE.keys())
def test_what_is_made_on_cuda_is_made_on_the_device(device: Any, made: Any) -> None:
    with cuda_redirect(device):
        assert made().device == device.torch_device


def test_contexts_and_the_default_device(device: Any) -> None:
    with cuda_redirect(device):
        with torch.device("cuda"):
            assert torch.zeros(1).device == device.torch_device
        with torch.autocast("cuda", dtype=torch.bfloat16):
            product = torch.zeros(2, 2, device="cuda") @ torch.zeros(2, 2, device="cuda")
        assert product.dtype == torch.bfloat16
        torch.set_default_device("cuda")
        try:
            assert torch.zeros(1).device == device.torch_device
        finally:
            torch.set_default_device(None)


def test_a_generator_is_an_instance_of_its_class(device: Any) -> None:
    with cuda_redirect(device):
        made = torch.Generator(device="cuda")
        assert isinstance(made, torch.Generator)
        assert isinstance(torch.Generator(), torch.Generator)
        assert not isinstance(3, torch.Generator)
    assert isinstance(made, torch.Generator)


def test_functions_of_torch_cuda_answer(device: Any) -> None:
    simulated = device.kind == "sim"
    with cuda_redirect(device):
        assert torch.cuda.is_available() is simulated
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        end.record()
        assert start.elapsed_time(end) >= 0
        with torch.cuda.stream(torch.cuda.Stream()):
            pass
        torch.cuda.nvtx.range_push("a")
        torch.cuda.nvtx.range_pop()
        if simulated:
            assert torch.cuda.get_device_name() == device.info().name
            assert torch.cuda.get_device_properties(0).total_memory == device.info().memory_bytes
    with pytest.raises((AssertionError, RuntimeError)):
        torch.cuda.get_device_properties(0)


def test_the_users_lines_are_told_that_a_simulated_gpu_is_cuda(device: Any) -> None:
    simulated = device.kind == "sim"
    own = device.torch_device.type
    with cuda_redirect(device):
        tensor = torch.zeros(3, device="cuda")
        assert torch.device("cuda").type == tensor.device.type == ("cuda" if simulated else own)
        assert tensor.is_cuda is simulated
        named = "cuda:0" if simulated else str(device.torch_device)
        assert str(tensor.device) == f"{tensor.device}" == named
        assert torch.device(str(tensor.device)) == tensor.device
        assert torch.device("cpu").type == torch.zeros(3).device.type == str(torch.device("cpu")) == "cpu"
        assert torch.zeros(3).is_cuda is False
        # A line of diffusers: it would choose code that only CUDA runs.
        assert eval(compile("tensor.device.type, tensor.is_cuda", diffusers.__file__, "eval")) == (own, False)
        text = eval(compile("str(tensor.device)", diffusers.__file__, "eval"))
        assert text == named.replace("cuda", own)
        assert torch.zeros(3, device=tensor.device.type).device == tensor.device
    assert (device.torch_device.type, tensor.is_cuda) == (own, False)
    assert not isinstance(vars(torch.device)["type"], property)
    assert str(tensor.device).startswith(own)


def test_accelerate_chooses_the_simulated_gpu_and_forgets_it() -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    kept = dict(PartialState._shared_state), dict(AcceleratorState._shared_state)
    device = resolve_device("sim")
    with device.active(), cuda_redirect(device):
        chosen = Accelerator(mixed_precision="fp16")
        assert torch.zeros(1, device=chosen.device).device == device.torch_device
        assert chosen.scaler is not None, "as on CUDA alone"
    assert (PartialState._shared_state, AcceleratorState._shared_state) == kept


def test_libraries_see_the_machine_as_it_is() -> None:
    from diffusers.utils.torch_utils import get_device

    device = resolve_device("sim")
    assert get_device() == "cpu"
    with device.active(), cuda_redirect(device):
        assert torch.cuda.is_available()
        assert get_device() == "cpu"


def test_what_libraries_ask_in_a_scan_is_not_kept_after_it() -> None:
    from diffusers.utils import torch_utils

    detect = getattr(getattr(torch_utils, "TorchDeviceBackend", None), "_detect_device_type", None)
    if not hasattr(detect, "cache_clear"):
        pytest.skip("this diffusers keeps no answer")
    detect.cache_clear()
    device = resolve_device("sim")
    with device.active():
        torch_utils.get_device()
    assert torch_utils.get_device() == "cpu"


def test_the_compiler_sees_the_machine_as_it_is(device: Any) -> None:
    """Inductor's keys of its cache name the GPU, and its fields are not those of the stand-in."""
    from torch._inductor.codecache import CacheBase

    system = inspect.unwrap(CacheBase.get_system)
    before = system()
    with cuda_redirect(device):
        assert system() == before


def test_names_kept_by_others_go_back_to_cuda() -> None:
    device = resolve_device("sim")
    with device.active(), cuda_redirect(device):
        kept = torch.Generator, torch.cuda.is_available, torch.set_default_device
    assert kept[0]("cpu").device.type == "cpu"
    assert kept[1]() is False
    with pytest.raises((AssertionError, RuntimeError)):
        kept[0]("cuda")


def test_nothing_is_left(unchanged: None) -> None:
    device = resolve_device("sim")
    with device.active(), pytest.raises(ZeroDivisionError), cuda_redirect(device):
        raise ZeroDivisionError


def test_nothing_is_done_on_a_real_device() -> None:
    from tests.targets.conftest import FakeDevice

    before = torch.Generator, torch._C._len_torch_function_stack()
    with cuda_redirect(FakeDevice(kind="cuda")):
        assert (torch.Generator, torch._C._len_torch_function_stack()) == before


SCRIPT = """
    import sys
    import torch
    sys.path.append({tests!r})
    from tiny_pipeline import tiny

    assert torch.cuda.is_available()
    pipe = tiny().to("cuda")
    generator = torch.Generator(device="cuda").manual_seed(3)
    pipe(generator=generator, num_inference_steps=2, output_type="np")
"""


def test_a_script_for_cuda_runs_on_the_simulated_device(tiny: Any, write: Any, unchanged: None) -> None:
    file = write("script.py", SCRIPT.format(tests=str(tiny)))
    device = resolve_device("sim")

    def play(call: Any) -> Any:
        call.run()
        return call.pipe.device, call.weights, call.notes, call.kwargs["generator"].device

    with device.active():
        where = device.torch_device
        assert resolve(str(file)).run(play, device, Options()) == (where, "none", [], where)


def test_offloading_finds_the_device(tiny: Any, write: Any, unchanged: None) -> None:
    file = write(
        "make.py",
        """
        from tiny_pipeline import tiny

        def offloaded():
            pipe = tiny()
            pipe.enable_model_cpu_offload()
            return pipe
        """,
    )
    device = resolve_device("sim")

    def play(call: Any) -> Any:
        return call.pipe._execution_device, call.pipe.unet.device.type, call.notes

    with device.active():
        where, left, notes = resolve(f"{file}:offloaded").run(play, device, Options())
        assert where == device.torch_device
    assert left == "cpu"
    assert "Offloading hooks" in notes[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["model", "sequential"])
def test_a_pipeline_without_weights_can_be_offloaded(
    tiny_checkpoint: Any, write: Any, unchanged: None, how: str
) -> None:
    file = write(
        "make.py",
        f"""
        import torch
        from diffusers import DiffusionPipeline

        def offloaded():
            pipe = DiffusionPipeline.from_pretrained({str(tiny_checkpoint)!r})
            pipe.unet.half().float().to("cpu", memory_format=torch.channels_last)
            pipe.to(torch.float64)
            pipe.enable_{how}_cpu_offload()
            return pipe, dict(prompt="a cat", num_inference_steps=1, height=64, width=64)
        """,
    )
    device = resolve_device("sim")

    def play(call: Any) -> Any:
        recorder = Recorder()
        with observing(recorder):
            call.run()
        return call.pipe.unet.dtype, call.weights, max(wait.bytes for wait in recorder.uploads)

    with device.active():
        found = resolve(f"{file}:offloaded").run(play, device, Options(weights=False))
    dtype, weights, largest = found
    assert (dtype, weights) == (torch.float64, "none")
    assert largest > 1 << 10, "weights were uploaded"


class Recorder(Observer):
    def __init__(self) -> None:
        self.uploads: list[Any] = []

    def blocking(self, event: Any) -> None:
        if event.kind == "host-to-device":
            self.uploads.append(event)
