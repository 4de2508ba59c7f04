"""Who holds the device's memory: tensors sum to the peak, each with its line, module and kind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffprof.analyzers.kernels.simulated import SimulatedKernels
from diffprof.devices import resolve_device
from diffprof.devices.simulated import observing, place, simulated_gpu
from diffprof.devices.simulated.held import page_locked, pieces
from diffprof.devices.simulated.session import SESSION
from diffprof.gpu.cost import CostModel
from diffprof.gpu.memory_log import MemoryLog, StorageNumbers
from diffprof.gpu.mode import Mode
from diffprof.gpu.specs import load_spec
from diffprof.model.recording import MemoryHolder, MemoryKind, MemoryUse
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options, builtin_targets, resolve
from diffprof.targets.pipeline import PhaseTracker
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.repeated_steps import repeating
from tests.devices.simulated.signatures import conv, meta, op

A100 = load_spec("a100-80gb")
FAST = ("tiny-sdxl", "sd15", "flux-schnell")


def told(log: MemoryLog) -> MemoryUse:
    return log.use((), weights=None, capacity=1 << 30, by_step=(), host=None)


def test_what_came_and_went_before_the_peak_is_not_in_it() -> None:
    log = MemoryLog()
    log.start(1024)
    log.alloc(512, 1, 0, "unet")
    log.free(512, 1, 1)
    log.enter("decode", None)
    log.alloc(2048, 2, 1, "vae.decoder")
    log.free(512, 0, 2)
    log.alloc(1024, 3, 2, "vae.decoder")
    log.free(1024, 3, 3)
    use = told(log)
    assert use.peak_bytes == 1024 + 2048 - 512 + 1024
    assert (use.peak_phase, use.peak_module) == ("decode", "vae.decoder")
    held = use.at_peak or ()
    assert [(each.kind, each.phase, each.bytes) for each in held] == [
        (MemoryKind.ACTIVATIONS, "decode", 2048),
        (MemoryKind.ACTIVATIONS, "decode", 1024),
        (MemoryKind.OTHER, "before", 512),
    ]
    assert held[0].site is not None
    assert held[0].site.file.endswith("test_memory_log.py")


def test_the_curve_keeps_the_most_of_each_stretch() -> None:
    log = MemoryLog()
    log.start(10)
    log.alloc(5, 1, 0, None)
    log.free(5, 1, 0)
    log.alloc(1, 2, 320, None)
    points = {point.op: point.bytes for point in log.curve(480)}
    assert points[0] == 15
    assert points[3] == points[315] == 10
    assert points[318] == points[477] == 11


def stretch(log: MemoryLog, first: int, item: int, given: int) -> None:
    """Two storages come, one of them and the given one go."""
    log.alloc(2048, first, item, "unet")
    log.alloc(512, first + 1, item + 1, "unet")
    log.free(512, given, item + 1)
    log.free(2048, first, item + 2)


@pytest.mark.parametrize("after", [0, 8192])
def test_a_stretch_that_comes_again_is_as_one_that_is_told_anew(after: int) -> None:
    """after: bytes that come last: with them the peak is there, without them in the last stretch."""
    uses, events = [], []
    for again in (False, True):
        log = MemoryLog()
        log.start(4096)
        log.alloc(512, 1, 0, None)
        mark = log.mark(1, StorageNumbers(10, (1,)))
        stretch(log, 10, 1, given=1)
        told = log.since(mark)
        assert told is not None
        for n in range(2, 5):
            log.alloc(512, 10 * n - 5, 3 * n, None)
            if again:
                log.again(told, 3 * n, StorageNumbers(10 * n, (10 * n - 9,)))
            else:
                stretch(log, 10 * n, 3 * n, given=10 * n - 9)
        if after:
            log.alloc(after, 99, 16, None)
        uses.append(log.use([None] * 20, weights=None, capacity=1 << 30, by_step=(), host=None))
        events.append(list(log.events()))
    assert events[0] == events[1]
    assert uses[0] == uses[1]
    assert uses[0].peak_bytes == 4096 + 4 * 512 + max(after, 2048 + 512)


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(64, 64, 3, padding=1)
        self.linear = nn.Linear(256, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(x))


class Pipe:
    """A pipeline is its components."""

    def __init__(self, **parts: nn.Module) -> None:
        self.components = parts

    def __call__(self, *args: object) -> None: ...


def run(pipe: Pipe, call: object, **weights: object) -> MemoryUse:
    with simulated_gpu(spec=A100):
        for part in pipe.components.values():
            place(part, values="unknown")
        kernels = SimulatedKernels(A100, pipe)
        with torch.no_grad(), kernels.following(), observing(kernels):
            call(pipe)  # type: ignore[operator]
        return kernels.builder.memory(kernels.weights, kernels.on_host)


def of(use: MemoryUse, kind: MemoryKind) -> list[MemoryHolder]:
    return [each for each in use.at_peak or () if each.kind is kind]


def test_weights_of_the_model_that_runs_are_told_from_those_that_stand_idle() -> None:
    pipe = Pipe(unet=Parts(), text_encoder=Parts())
    use = run(pipe, lambda p: p.components["unet"](torch.randn(4, 64, 64, 256, device="sim:0")))
    own = sum(-(-p.numel() * 4 // 512) * 512 for p in pipe.components["unet"].parameters())
    assert [each.module for each in of(use, MemoryKind.WEIGHTS)] == ["unet"]
    assert [each.module for each in of(use, MemoryKind.IDLE_WEIGHTS)] == ["text_encoder"]
    assert of(use, MemoryKind.WEIGHTS)[0].bytes == own
    assert sum(each.bytes for each in use.at_peak or ()) == use.peak_bytes
    (work,) = of(use, MemoryKind.WORKSPACE)
    assert work.module == "unet.conv"
    assert work.bytes == 3 * 4 * 64 * 64 * 256 * 4  # NHWC copies of input and result, and the result


def test_copies_that_autocast_keeps_are_named() -> None:
    def call(pipe: Pipe) -> None:
        part = pipe.components["unet"]
        part.linear.weight.requires_grad_(True)
        with torch.enable_grad(), torch.autocast("sim", torch.float16):
            part.linear(torch.randn(1, 64, device="sim:0").expand(8, 64).repeat(1, 4))

    (copy,) = [
        each for each in of(run(Pipe(unet=Parts()), call), MemoryKind.AUTOCAST) if each.shape == (256, 256)
    ]
    assert (copy.dtype, copy.bytes) == ("float16", 256 * 256 * 2)


def test_a_weight_that_is_moved_in_the_call_is_a_weight_and_the_host_keeps_the_rest() -> None:
    with simulated_gpu(spec=A100):
        pipe = Pipe(unet=Parts())
        kernels = SimulatedKernels(A100, pipe)
        with torch.no_grad(), kernels.following(), observing(kernels):
            pipe.components["unet"].to("sim:0")
        use = kernels.builder.memory(kernels.weights, kernels.on_host)
    own = sum(p.numel() * 4 for p in pipe.components["unet"].parameters())
    assert use.host_bytes == own
    assert own <= sum(each.bytes for each in of(use, MemoryKind.WEIGHTS)) < own + 4 * 512
    assert sum(each.bytes for each in use.at_peak or ()) == use.peak_bytes


def test_page_locked_memory_comes_in_powers_of_two() -> None:
    assert [page_locked(size) for size in (0, 1, 512, 513, 3 << 20)] == [0, 1, 512, 1024, 4 << 20]
    plain = torch.ones(3)
    assert list(pieces(plain)) == [plain]


def test_a_convolution_holds_its_result_and_the_copies_that_its_kernel_wants() -> None:
    eager = CostModel(A100, Mode())
    size = meta(2, 320, 64, 64).nbytes
    assert eager.workspace(conv(last=False)) == 3 * size
    assert eager.workspace(conv(last=True)) == size
    assert CostModel(A100, Mode(compiled=("unet",))).workspace(conv(last=False)) == 0
    mixed = op("conv2d", [meta(2, 320, 64, 64), meta(320, 320, 3, 3, last=True)], meta(2, 320, 64, 64))
    assert eager.workspace(mixed) == 2 * size  # PyTorch lays the input out anew


def test_float32_without_tensor_cores_needs_no_copies() -> None:
    x = meta(2, 320, 64, 64, dtype=torch.float32)
    single = op("conv2d", [x, meta(320, 320, 3, 3, dtype=torch.float32)], x)
    assert CostModel(A100, Mode(conv_tf32=False)).workspace(single) == x.nbytes
    assert CostModel(A100, Mode(conv_tf32=True)).workspace(single) == 3 * x.nbytes


def summed(name: str) -> None:
    use = scan_target(name, device="sim:a100-80gb").recording.memory
    assert use is not None
    assert use.at_peak
    assert sum(each.bytes for each in use.at_peak) == use.peak_bytes
    assert use.curve
    assert max(point.bytes for point in use.curve) == use.peak_bytes


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_they_sum_to_the_peak(name: str) -> None:
    summed(name)


def in_a_call(name: str, steps: int | None) -> MemoryUse:
    """What the call of a target takes, of a few of its steps."""
    device = resolve_device("sim:a100-80gb")

    def play(call: PipelineCall) -> MemoryUse:
        kernels = SimulatedKernels(device.gpu, call.pipe)
        tracker = PhaseTracker(on_change=kernels.phase)
        with (
            torch.no_grad(),
            kernels.following(),
            tracker.watching(call.pipe),
            device.observed(kernels, call.pipe),
            repeating(call.pipe, kernels, tracker),
        ):
            call.run()
        return kernels.builder.memory(kernels.weights, kernels.on_host)

    with device.active():
        SESSION.capacity = None
        return resolve(name).run(play, device, Options(steps=min(steps or 4, 4)))


@pytest.mark.nightly
def test_they_sum_to_the_peak_of_every_architecture() -> None:
    """All built-in targets, one after the other; about ten minutes of CPU time."""
    differing = {}
    for info in builtin_targets():
        use = in_a_call(info.name, info.steps)
        held, top = sum(each.bytes for each in use.at_peak or ()), max(point.bytes for point in use.curve)
        print(f"{info.name}: {use.peak_bytes:,} at most, {held:,} held, {top:,} on the curve", flush=True)
        if not use.peak_bytes == held == top:
            differing[info.name] = use.peak_bytes, held, top
    assert not differing
