"""CUDA graphs on the simulated device: a capture runs once, and says what a real device could not capture.

What a replay launches is not seen: its kernels are in no figure, and values that it would write are unknown.
"""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from torch.utils.hooks import RemovableHandle

from diffprof.model.callsite import Place, make_site, places, stack
from diffprof.model.errors import DiffprofError
from diffprof.model.recording import Unseen

from .blocking import CAPTURE_BEGINS
from .session import SESSION, tell_synchronize

REFUSED_COPY = (
    "copies between the host and the device are captured from and to page-locked memory only "
    "(aten/src/ATen/native/cuda/Copy.cu), and this one waits"
)
REFUSED_WAIT = "the host may not wait for a stream while it is captured (cudaErrorStreamCaptureUnsupported)"


@dataclass(eq=False)
class CapturedGraph:
    """One CUDA graph. chain: where its capture began. refused: place -> (operation, why it can't be
    captured). cells: device storages that came to be while it was captured."""

    chain: tuple[Place, ...]
    replays: int = 0
    refused: dict[tuple[Place, ...], tuple[str, str]] = field(default_factory=dict)
    cells: WeakSet[Any] = field(default_factory=WeakSet)

    def waits(self, kind: str, op: str) -> None:
        """The CPU waits, or copies what is not page-locked, while the graph is captured."""
        copies = kind in ("host-to-device", "device-to-host", "staged-copy")
        self.refused.setdefault(places(list(stack())), (op, REFUSED_COPY if copies else REFUSED_WAIT))

    def unseen(self) -> Iterator[Unseen]:
        """What to say of it."""
        yield Unseen(
            kind="untimed" if self.replays else "gap",
            what=f"a CUDA graph, captured once and replayed {self.replays} times",
            why="what a replay launches does not pass through PyTorch: its kernels are in no time, count or "
            "memory figure here",
            site=make_site(self.chain, None),
        )
        for chain, (op, why) in self.refused.items():
            yield Unseen(
                what=f"{op} inside a CUDA graph's capture",
                why=f"it went on here, but a real device stops at it: {why}. Take it out of what is captured",
                site=make_site(chain, None),
            )


CAPTURES: list[CapturedGraph] = []
"""Of this activation of the device, in order."""


def captured() -> tuple[Unseen, ...]:
    """What to say of the graphs that were captured since the device became active."""
    return tuple(row for capture in CAPTURES for row in capture.unseen())


class CUDAGraph:
    """`torch.cuda.CUDAGraph`."""

    def __init__(self, keep_graph: bool = False) -> None:
        self._capture: CapturedGraph | None = None
        self._done = False

    def capture_begin(self, pool: object = None, capture_error_mode: str = "global") -> None:
        """What runs until `capture_end` is the graph."""
        if SESSION.capture is not None:
            raise RuntimeError("CUDA graph capture is already under way on this stream")
        self._capture = SESSION.capture = CapturedGraph(places(list(stack())))
        CAPTURES.append(self._capture)

    def capture_end(self) -> None:
        """The graph is whole."""
        if self._capture is None or SESSION.capture is not self._capture:
            raise RuntimeError("capture_end() without a capture_begin() of the same graph")
        SESSION.capture = None
        self._done = True

    capture_end_pre = capture_end

    def capture_end_post(self) -> None:
        """The graph was whole before."""

    def instantiate(self) -> None:
        """Nothing more is to be done here."""

    def replay(self) -> None:
        """Launch it: what it writes is unknown from now on."""
        if self._capture is None or not self._done:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        self._capture.replays += 1
        for cell in list(self._capture.cells):
            cell.taint()

    def reset(self) -> None:
        """Drop what was captured."""
        self._done = False

    def pool(self) -> tuple[int, int]:
        """The identity of its memory pool."""
        return (0, id(self))

    def pools(self) -> list[tuple[int, int]]:
        """Those that it keeps: its own."""
        return [self.pool()]

    @staticmethod
    def get_currently_capturing_graph() -> int:
        """The one that is being captured, by number. Raises DiffprofError: it has none."""
        return CUDAGraph()._no_handle()

    def enable_debug_mode(self) -> None:
        """There is nothing to look into."""

    def debug_dump(self, debug_path: str) -> None:
        """There is nothing to look into: no file is written."""

    def retain_object(self, thing: object) -> None:
        """Nothing that is replayed could need it."""

    register_generator_state = retain_object

    def _no_handle(self, *args: object) -> Any:
        raise DiffprofError(
            "The simulated device has no CUDA graph whose handle could be given to another library.",
            "Scan on a real device: diffprof scan ... --device cuda.",
        )

    raw_cuda_graph = raw_cuda_graph_exec = get_graph_data = _no_handle
    begin_capture_to_if_node = begin_capture_to_while_node = end_capture_to_conditional_node = _no_handle
    set_conditional_handle_for_current_node = _no_handle

    def _hook(self, hook: Callable[..., object]) -> RemovableHandle:
        return unused_hook(hook)

    register_capture_start_hook = register_capture_end_hook = register_post_instantiate_hook = _hook
    register_replay_start_hook = register_replay_end_hook = register_destroy_callback = _hook


def unused_hook(*hook: Callable[..., object]) -> RemovableHandle:
    """A hook of graphs is taken and never called: what it would be given is not here."""
    return RemovableHandle(OrderedDict())


class graph:
    """`torch.cuda.graph`: captures what runs inside. Entering waits for the device, as PyTorch's does."""

    def __init__(
        self,
        cuda_graph: CUDAGraph,
        pool: object = None,
        stream: object = None,
        capture_error_mode: str = "global",
        **_: object,
    ) -> None:
        self.cuda_graph = cuda_graph

    def __enter__(self) -> None:
        tell_synchronize("torch.cuda.graph", CAPTURE_BEGINS)
        gc.collect()
        self.cuda_graph.capture_begin()

    def __exit__(self, *exc: object) -> None:
        self.cuda_graph.capture_end()


@contextmanager
def _captured(made: CUDAGraph) -> Iterator[None]:
    with graph(made):
        yield


def graph_pool_handle() -> tuple[int, int]:
    """An identity that no graph's own pool has."""
    return (0, len(CAPTURES) + 1)


def is_current_stream_capturing() -> bool:
    return SESSION.capture is not None


def make_graphed_callables(
    callables: Any, sample_args: Any, num_warmup_iters: int = 3, *args: object, **kwargs: object
) -> object:
    """`torch.cuda.make_graphed_callables`, for the forward direction. The callables run once, when they are
    captured; a module goes on being one, with another `forward`."""
    if not isinstance(callables, tuple):
        return _graphed(callables, sample_args)
    return tuple(_graphed(each, given) for each, given in zip(callables, sample_args, strict=True))


def _graphed(function: Any, sample_args: tuple[Any, ...]) -> object:
    made = CUDAGraph()
    with torch.no_grad(), _captured(made):
        out = function(*sample_args)

    def replayed(*args: object) -> object:
        for static, given in zip(sample_args, args, strict=True):
            if isinstance(static, torch.Tensor) and static is not given:
                with torch.no_grad():
                    static.copy_(given)
        made.replay()
        return out

    if not isinstance(function, torch.nn.Module):
        return replayed
    function.forward = _while_in_mode(function, function.forward, replayed)
    return function


def _while_in_mode(
    module: torch.nn.Module, forward: Callable[..., object], replayed: Callable[..., object]
) -> Callable[..., object]:
    """Only the mode, training or not, in which a module was captured is replayed."""
    training = module.training

    def choose(*args: object, **kwargs: object) -> object:
        return replayed(*args) if module.training == training else forward(*args, **kwargs)

    return choose
