"""Every public name of torch.cuda is decided, and does what was decided."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from diffprof.devices import resolve_device
from diffprof.devices.simulated import is_known, observing
from diffprof.devices.simulated.cuda_api import (
    AS_IT_IS,
    GRAPH_MOMENTS,
    HARMLESS,
    NAMESPACES,
    REFUSED,
    TENSOR_TYPES,
    CudaAnswer,
    answer_to,
    public_names,
)
from diffprof.devices.simulated.graphs import CAPTURES, captured
from diffprof.model.errors import DiffprofError, TargetError
from diffprof.targets.redirect import cuda_redirect

from .conftest import Recorder

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")


@pytest.fixture
def cuda() -> Iterator[Any]:
    """The simulated A100 under the name of CUDA."""
    device = resolve_device("sim")
    with device.active(), cuda_redirect(device):
        yield device


GIVEN: dict[str, Callable[[], tuple[Any, ...]]] = {
    "CUDAGraph": tuple,
    "ExternalStream": lambda: (1234,),
    "StreamContext": lambda: (torch.cuda.Stream(),),
    "check_error": lambda: (0,),
    "can_device_access_peer": lambda: (0, 1),
    "device": lambda: (0,),
    "device_of": lambda: (torch.zeros(1, device="cuda"),),
    "export_dot": lambda: ("graph.dot",),
    "export_graph_data": lambda: ("graph.pickle",),
    "get_stream_from_external": lambda: (1234,),
    "graph": lambda: (torch.cuda.CUDAGraph(),),
    "make_graphed_callables": lambda: (torch.neg, (torch.zeros(2, device="cuda"),)),
    "manual_seed": lambda: (0,),
    "manual_seed_all": lambda: (0,),
    "mark": lambda: ("a",),
    "range": lambda: ("a",),
    "range_end": lambda: (0,),
    "range_push": lambda: ("a",),
    "range_start": lambda: ("a",),
    "set_device": lambda: (0,),
    "set_per_process_memory_fraction": lambda: (0.9,),
    "set_rng_state": lambda: (torch.cuda.get_rng_state(),),
    "set_rng_state_all": lambda: (torch.cuda.get_rng_state_all(),),
    "set_stream": lambda: (torch.cuda.current_stream(),),
    "set_sync_debug_mode": lambda: ("warn",),
    "stream": lambda: (torch.cuda.Stream(),),
    "use_mem_pool": lambda: (torch.cuda.MemPool(),),
}
"""What a call of each takes, where it takes anything."""

REAL_GRAPH = torch.cuda.CUDAGraph

SINCE_2_14 = {"export_dot", "export_graph_data", *(f"register_graph_{when}_hook" for when in GRAPH_MOMENTS)}


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_every_public_name_is_decided_and_can_be_called(cuda: Any, namespace: str) -> None:
    module = importlib.import_module(namespace)
    undecided = [name for name in public_names(module) if answer_to(name) is None]
    assert not undecided, f"{namespace}: decide in devices/simulated/cuda_api.py what these do"
    for name in public_names(module):
        value, answer = getattr(module, name), answer_to(name)
        if answer is CudaAnswer.REFUSED:
            with pytest.raises(TargetError, match=f"{namespace}.{name} is not simulated"):
                value()
        elif name in TENSOR_TYPES:
            assert value(3).dtype == TENSOR_TYPES[name]
        elif callable(value) and answer in (CudaAnswer.SIMULATED, CudaAnswer.HARMLESS):
            made = value(*GIVEN.get(name, tuple)())
            if hasattr(made, "__enter__") and not inspect.isclass(value):
                with made:
                    pass


def test_no_name_is_decided_twice_or_in_vain() -> None:
    tables = [set(HARMLESS), set(REFUSED), set(AS_IT_IS), set(TENSOR_TYPES)]
    assert sum(map(len, tables)) == len(set.union(*tables))
    offered = {name for space in NAMESPACES for name in public_names(importlib.import_module(space))}
    later = set() if torch.__version__ >= "2.14" else SINCE_2_14
    assert {name for name in set.union(*tables) - offered - later if not name.startswith("_")} == set()


def test_every_public_method_of_a_graph_is_there(cuda: Any) -> None:
    made = torch.cuda.CUDAGraph(keep_graph=True)
    assert {name for name in dir(REAL_GRAPH) if not name.startswith("_") and not hasattr(made, name)} == set()
    for register in (made.register_capture_end_hook, made.register_post_instantiate_hook):
        register(print).remove()
    with pytest.raises(DiffprofError, match="no CUDA graph whose handle"):
        made.raw_cuda_graph()


def test_the_data_sheet_answers(cuda: Any) -> None:
    memory = cuda.info().memory_bytes
    kept = torch.zeros(1 << 20, device="cuda")
    assert torch.cuda.get_arch_list() == ["sm_80"]
    assert torch.cuda.mem_get_info() == (memory - torch.cuda.memory_allocated(), memory)
    assert torch.cuda.cudart().cudaMemGetInfo(0) == torch.cuda.mem_get_info()
    assert torch.cuda.memory_stats()["allocated_bytes.all.current"] >= kept.nbytes
    assert torch.cuda.memory.memory_stats_as_nested_dict()["allocated_bytes"]["all"]["current"] >= kept.nbytes
    assert "NVIDIA A100" in torch.cuda.memory_summary()
    assert torch.cuda.cudart().cudaProfilerStart() == 0
    torch.cuda.check_error(torch.cuda.cudart().cudaProfilerStop())
    with pytest.raises(TargetError, match="cudaMalloc is not simulated"):
        torch.cuda.cudart().cudaMalloc(1)


def test_streams_and_events_of_torch_itself(cuda: Any) -> None:
    side = torch.Stream(device="cuda")
    assert isinstance(side, torch.Stream)
    assert isinstance(torch.cuda.Stream(), torch.Stream)
    with side:
        assert torch.cuda.current_stream() is side
    assert torch.cuda.current_stream() is torch.cuda.default_stream()
    with torch.cuda.stream(side), torch.cuda.stream(None):
        assert torch.cuda.current_stream() is side
    event = torch.Event("cuda", enable_timing=True)
    event.record()
    assert event.query()
    assert event.elapsed_time(side.record_event()) >= 0


def test_the_stream_of_another_library_is_the_one_of_its_address(cuda: Any, recorder: Recorder) -> None:
    theirs, again = torch.cuda.ExternalStream(1234), torch.cuda.get_stream_from_external(1234)
    assert theirs == again
    assert hash(theirs) == hash(again)
    assert (theirs.cuda_stream, theirs.native_handle) == (1234, 1234)
    assert torch.cuda.ExternalStream(0) == torch.cuda.default_stream()
    assert theirs not in (torch.cuda.Stream(), torch.cuda.ExternalStream(1235))
    host = torch.ones(3)
    with observing(recorder), torch.cuda.stream(theirs):
        assert torch.cuda.current_stream() == again
        host.to("cuda")
        theirs.synchronize()
    assert [(wait.kind, wait.stream) for wait in recorder.waits] == [
        ("host-to-device", None),
        ("synchronize", 1234),
    ]


def test_a_pool_holds_what_is_allocated_under_it(cuda: Any, recorder: Recorder) -> None:
    pool = torch.cuda.MemPool()
    before = torch.cuda.memory_allocated()
    with observing(recorder), torch.cuda.use_mem_pool(pool):
        kept = torch.zeros(1 << 20, device="cuda")
    assert torch.cuda.memory_allocated() - before == kept.nbytes
    assert recorder.kinds() == []
    assert (pool.allocator, pool.use_count(), pool.snapshot()) == (None, 1, [])
    assert pool.id != torch.cuda.MemPool().id
    with torch.cuda.graph(torch.cuda.CUDAGraph(), pool=pool.id):
        kept.add_(1)
    assert [capture.replays for capture in CAPTURES] == [0]


def test_marks_for_a_profiler_never_wait_and_change_nothing(cuda: Any, recorder: Recorder) -> None:
    x = torch.ones(3, device="cuda")
    with observing(recorder):
        torch.cuda.profiler.start()
        y = x + 1
        torch.cuda.profiler.stop()
        with torch.cuda.profiler.profile():
            y.add_(1)
    assert recorder.kinds() == []
    assert [name for name in recorder.names() if name in ("add", "add_")] == ["add", "add_"]
    assert y.tolist() == [3.0, 3.0, 3.0]


def test_a_tensor_used_on_another_stream_never_waits(cuda: Any, recorder: Recorder) -> None:
    used = torch.zeros(3, device="cuda")
    with observing(recorder):
        used.record_stream(torch.cuda.Stream())
        used.detach().record_stream(torch.Stream(device="cuda"))
    assert recorder.kinds() == []


def test_giving_cached_memory_back_waits(cuda: Any, recorder: Recorder) -> None:
    with observing(recorder):
        torch.cuda.empty_cache()
        torch.cuda.memory.empty_cache()
        torch.accelerator.empty_cache()
    assert [wait.op for wait in recorder.waits] == ["torch.cuda.empty_cache"] * 3
    assert "cudaFree waits" in recorder.waits[0].reason
    assert recorder.kinds() == ["synchronize"] * 3


@pytest.mark.parametrize(
    "made",
    [
        lambda: torch.cuda.FloatTensor([1.0, 2.0]),
        lambda: torch.tensor([1, 2]).type(torch.cuda.FloatTensor),
        lambda: torch.tensor([1, 2]).type("torch.cuda.FloatTensor"),
        lambda: torch.cuda.FloatTensor(2).copy_(torch.tensor([1.0, 2.0])),
    ],
)
def test_types_of_old(cuda: Any, made: Callable[[], torch.Tensor]) -> None:
    found = made()
    assert found.device == cuda.torch_device
    assert found.dtype is torch.float32
    assert found.tolist() == [1.0, 2.0]
    assert isinstance(found, torch.cuda.FloatTensor)
    assert not isinstance(found, torch.cuda.HalfTensor)


def test_a_default_type_of_old(cuda: Any) -> None:
    try:
        torch.set_default_tensor_type(torch.cuda.HalfTensor)
        assert torch.zeros(1).device == cuda.torch_device
        assert torch.zeros(1).dtype is torch.float16
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        lambda: torch.empty(10**13, device="cuda"),
        lambda: torch.zeros(10**12, device="cuda"),
        lambda: torch.zeros(1, device="cuda").expand(10**12).clone(),
        lambda: torch.zeros(10**5, 1, device="cuda") + torch.zeros(10**7, device="cuda"),
    ],
)
def test_what_no_gpu_has_room_for_raises_as_cuda_does(cuda: Any, made: Callable[[], Any]) -> None:
    with pytest.raises(torch.OutOfMemoryError, match=r"CUDA out of memory. Tried to allocate .* GiB"):
        made()


def test_large_tensors_take_no_memory_of_the_host(cuda: Any) -> None:
    large = torch.ones(10**9, 18, device="cuda", dtype=torch.float32)
    assert not is_known(large)
    assert not is_known(torch.ones(10**9, 1, device="cuda") * 2)


# --- CUDA graphs ----------------------------------------------------------------------------------


def test_a_capture_runs_once_and_replays_are_named(cuda: Any, recorder: Recorder) -> None:
    static = torch.zeros(4, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with observing(recorder):
        with torch.cuda.graph(graph):
            assert torch.cuda.is_current_stream_capturing()
            out = static + 1
        assert not torch.cuda.is_current_stream_capturing()
        graph.replay()
        graph.replay()
    assert recorder.names()["add"] == 1
    assert recorder.kinds() == ["synchronize"], "entering a capture waits"
    assert is_known(static)
    assert not is_known(out), "a replay writes what nobody computed"
    (row,) = captured()
    assert row.what == "a CUDA graph, captured once and replayed 2 times"
    assert row.site is not None
    assert row.site.file.endswith("test_cuda_api.py")


UNCAPTURED = {
    "read": (lambda x: x.sum().item(), "may not wait"),
    "synchronize": (lambda x: torch.cuda.synchronize(), "may not wait"),
    "upload": (lambda x: x.add_(torch.ones(4).to("cuda", non_blocking=True)), "page-locked"),
    "download": (lambda x: x.cpu(), "page-locked"),
    "shape": (lambda x: x[x > 0], "may not wait"),
}


@pytest.mark.parametrize(("act", "why"), UNCAPTURED.values(), ids=UNCAPTURED.keys())
def test_what_a_real_device_could_not_capture_is_named_with_its_line(cuda: Any, act: Any, why: str) -> None:
    x = torch.ones(4, device="cuda")
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        x.mul_(2)
        act(x)
    _, refused = captured()
    assert "inside a CUDA graph's capture" in refused.what
    assert why in refused.why
    assert refused.site is not None
    assert refused.site.line == act.__code__.co_firstlineno


def test_what_can_be_captured_is_not_named(cuda: Any) -> None:
    x, pinned = torch.ones(4, device="cuda"), torch.ones(4).pin_memory()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        x.add_(pinned.to("cuda", non_blocking=True)).add_(torch.randn(4, device="cuda"))
    assert len(captured()) == 1


@pytest.mark.slow
def test_graphed_callables(cuda: Any) -> None:
    layer = torch.nn.Linear(2, 3).to("cuda")
    sample = torch.zeros(1, 2, device="cuda")
    layer, negate = torch.cuda.make_graphed_callables((layer, torch.neg), ((sample,), (sample,)))
    assert isinstance(layer, torch.nn.Linear)
    given = torch.ones(1, 2, device="cuda")
    assert layer(given).shape == (1, 3)
    assert layer(given) is layer(given), "the static output"
    assert negate(given).shape == (1, 2)
    assert sample.tolist() == [[1.0, 1.0]], "what is given is copied into the captured input"
    assert [capture.replays for capture in CAPTURES] == [3, 1]
    layer.eval()
    assert layer(given) is not layer(given), "captured in the other mode"


def test_misuse_of_a_graph_raises_as_on_cuda(cuda: Any) -> None:
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        graph.replay()
    with torch.cuda.graph(graph), pytest.raises(RuntimeError, match="already under way"):
        torch.cuda.CUDAGraph().capture_begin()


def test_graphs_of_an_earlier_activation_are_forgotten(cuda: Any) -> None:
    assert captured() == ()
