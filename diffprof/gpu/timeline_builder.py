"""Builds the timeline of a simulated call from what the device tells, in host order.

While the call runs an operation costs two list appends; kernels, fusion and costs come afterwards, once
for each distinct operation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from diffprof.judge.timeline import find_gaps, phase_of_events, replay
from diffprof.model.recording import GapRow, Grade, KernelKind, KernelRow, MemoryUse, PhaseSpan, Timeline

from .cost import CostModel, Kernel
from .fusion import chains, fuse, is_fusible
from .products import as_linear, product_of
from .quantized import passes_left
from .signatures import OpSignature

GUARD_SHARE = 0.09
"""Host time of one call of a compiled part, of what the same call takes eagerly: checking guards and
collecting the parameters. Measured with torch 2.13 on one Zen 3 core: a UNet of SDXL's structure, 32
channels wide, takes 76 ms of CPU time a forward, and 7.0 ms compiled with a backend that does nothing."""

GRAPH_CALL_US = 50.0
"""Host time to replay a CUDA graph: copying the inputs, one launch; about 2.5 us and 1 ns a kernel for the
launch itself [developer.nvidia.com/blog/constant-time-launch-for-straight-line-cuda-graphs]."""

COMPILED_LAUNCH_US = 8.0
"""Host time of one kernel of a compiled part without CUDA graphs: Inductor's wrapper calls the launcher
directly. Launch calls take 5 to 7 us in the A100 traces of facebookresearch/HolisticTraceAnalysis."""

EXTRA_LAUNCH_US = 5.0
"""Host time of each further kernel of one operation; same traces."""

HOST_COPIES = ("h2d", "d2h")

GRAPH_PENDING_LIMIT = 1 << 20
"""A graph is one launch, however many kernels it has: its kernels don't fill the launch queue."""


Outermost = Callable[[str, Any, tuple[Any, ...], dict[str, Any]], AbstractContextManager[None]]
"""(path, module, arguments) -> a context in which the module is called."""


class ModuleStack:
    """The path of the module that is running.

    names: id(module) -> path, as `diffprof.targets.pipeline.module_names` gives it. outermost: a context for
    each call of a module by none of these, with its path and arguments.
    """

    def __init__(self, names: Mapping[int, str], outermost: Outermost | None = None) -> None:
        self._names = names
        self._outermost = outermost
        self.path: str | None = None
        self.calls = 0

    @contextmanager
    def following(self) -> Iterator[ModuleStack]:
        """Follow module calls while the context is open.

        `Module.__call__` itself is wrapped: global hooks would take every module off its fast path, and fire
        twice around compiled modules.
        """
        import torch

        from diffprof.targets.pipeline import replaced

        names, call = self._names, torch.nn.Module.__call__

        def followed(module: Any, *args: Any, **kwargs: Any) -> Any:
            before = self.path
            self.calls += 1
            path = names.get(id(module))
            if path is not None:
                self.path = path
            try:
                if before is None and path is not None and self._outermost is not None:
                    with self._outermost(path, module, args, kwargs):
                        return call(module, *args, **kwargs)
                return call(module, *args, **kwargs)
            finally:
                self.path = before

        with replaced(torch.nn.Module, "__call__", followed):
            yield self


@dataclass(frozen=True)
class Wait:
    """The host waits, so many times. key: what `assembled` finds the sync row by."""

    key: Hashable
    times: int


Phase = tuple[int, str, int | None, str | None]
"""First item, name, step and part of a phase."""


Launched = tuple[OpSignature | Wait, str | None]
"""An item of a call and the module that ran it."""


class Relaid(NamedTuple):
    """What a module's call launches with its convolutions in channels_last, in the place of items
    first..last of the call as it ran."""

    first: int
    last: int
    items: Sequence[Launched]


class Call(NamedTuple):
    """What one call launched, in host order: operations and waits, the module that ran each, and phases."""

    items: Sequence[OpSignature | Wait]
    modules: Sequence[str | None]
    phases: Sequence[Phase]


def alike(items: Iterable[OpSignature | Wait]) -> list[OpSignature | Wait]:
    """One operation for all that differ only in where their data lies, such as `timesteps[i]`."""
    by_id: dict[int, OpSignature] = {}
    by_look: dict[tuple[Any, ...], OpSignature] = {}

    def of(op: OpSignature) -> OpSignature:
        found = by_id.get(op.id)
        if found is None:
            look = (
                *(op.name, op.direction, op.nbytes, repr(op.scalars)),
                *((m.shape, m.stride, m.dtype, m.device, m.bits) for m in (*op.inputs, *op.outputs)),
                len(op.inputs),
            )
            found = by_id[op.id] = by_look.setdefault(look, op)
        return found

    return [of(item) if isinstance(item, OpSignature) else item for item in items]


def assembled(call: Call, model: CostModel, rows: Mapping[Hashable, int] | None = None) -> Timeline:
    """The timeline of a call; rows: key of a wait -> index into Recording.syncs (-2 where there is none)."""
    return _Assembly(model, rows or {}).run(*call)


@dataclass
class TimelineBuilder:
    """Collects operations, waits, phases and memory of one call; `finish` makes the recording's parts.

    Call it in host order. A copy's `blocking` comes right after its `op`, as the device tells them.
    """

    model: CostModel
    _items: list[OpSignature | Wait] = field(default_factory=list)
    _modules: list[str | None] = field(default_factory=list)
    _phases: list[Phase] = field(default_factory=list)
    _scratch: dict[int, int] = field(default_factory=dict)
    _live: int = 0
    _peak: int = 0
    _peaks: dict[str, int] = field(default_factory=dict)
    _step_live: dict[int, int] = field(default_factory=dict)
    _worked: set[int] = field(default_factory=set)
    """Steps in which a part of the pipeline ran."""
    _phase: str = "prepare"
    _step: int | None = None

    def op(self, signature: OpSignature, module: str | None = None) -> None:
        """Work is launched by this module."""
        self._items.append(signature)
        self._modules.append(module)
        extra = self._scratch.get(signature.id)
        if extra is None:
            extra = self._scratch[signature.id] = self.model.workspace(signature)
        if extra and self._live + extra > self._peaks.get(self._phase, 0):
            self._raise_peak(self._live + extra)

    def blocking(self, key: Hashable, times: int = 1, module: str | None = None) -> None:
        """The host waits; key: what `finish` finds the sync row by."""
        self._items.append(Wait(key, times))
        self._modules.append(module)

    def phase(self, name: str, step: int | None = None, part: str | None = None) -> None:
        """Another phase begins."""
        if self._step is not None and step != self._step:
            self._end_step()
        if part is not None and step is not None:
            self._worked.add(step)
        self._phase, self._step = name, step
        self._peaks[name] = max(self._peaks.get(name, 0), self._live)
        self._phases.append((len(self._items), name, step, part))

    def _end_step(self) -> None:
        """What follows the last scheduler step is no step of its own."""
        if self._step is not None and (self._step in self._worked or not self._worked):
            self._step_live[self._step] = self._live

    def alloc(self, nbytes: int) -> None:
        """Memory is taken."""
        self._live += nbytes
        if self._live > self._peaks.get(self._phase, 0):
            self._raise_peak(self._live)

    def free(self, nbytes: int) -> None:
        """Memory is given back."""
        self._live -= nbytes

    def _raise_peak(self, nbytes: int) -> None:
        self._peaks[self._phase] = nbytes
        if nbytes > self._peak:
            self._peak = nbytes

    def start_memory(self, live: int) -> None:
        """Bytes that were in use before the call: the weights, mostly."""
        self._live = self._peak = live
        self._peaks[self._phase] = live

    @property
    def call(self) -> Call:
        """What was launched until now."""
        return Call(self._items, self._modules, self._phases)

    def operations(self) -> Iterator[tuple[OpSignature, str | None]]:
        """What was launched, with the module that did."""
        for item, module in zip(self._items, self._modules, strict=True):
            if isinstance(item, OpSignature):
                yield item, module

    # --- the result -----------------------------------------------------------------------------------

    def finish(self, rows: Mapping[Hashable, int] | None = None) -> Timeline:
        """The timeline; rows: key of a wait -> index into Recording.syncs (-2 where there is none)."""
        return assembled(self.call, self.model, rows)

    def memory(self, weights: int | None = None) -> MemoryUse:
        """Memory over the call."""
        self._end_step()
        return MemoryUse(
            grade=Grade.SIMULATED,
            weights_bytes=weights,
            peak_bytes=self._peak,
            capacity_bytes=self.model.spec.memory_bytes,
            by_phase=dict(self._peaks),
            by_step=tuple(live for _, live in sorted(self._step_live.items())),
        )


class _Assembly:
    """One pass over what was collected, into columns."""

    def __init__(self, model: CostModel, rows: Mapping[Hashable, int]) -> None:
        self.model = model
        self.rows = rows
        self.kinds: dict[tuple, int] = {}
        self.kind_rows: list[Kernel] = []
        self.names: dict[str | None, int] = {None: -1}
        self.kind: list[int] = []
        self.module: list[int] = []
        self.host: list[float] = []
        self.device: list[float] = []
        self.sync: list[int] = []
        self.starts: list[int] = []
        """Item -> its first event."""
        self.above: str | None = None
        self.entered: dict[tuple[str | None, str | None], int] = {}
        self.fused: dict[tuple, Kernel] = {}
        self.swapped: dict[int, OpSignature] = {}
        """1x1 convolutions as linears, by their ids."""

    def run(
        self,
        items: Sequence[OpSignature | Wait],
        modules: Sequence[str | None],
        phases: Sequence[Phase],
    ) -> Timeline:
        compiled = self.model.mode.compiled
        roots = {m: compiled_root(m, compiled) for m in set(modules)} if compiled else {}
        at, end = 0, len(items)
        cuts = sorted({start for start, *_ in phases})
        while at < end:
            root = roots.get(modules[at])
            if root is None or isinstance(items[at], Wait):
                at = self._eager(items, modules, at)
                continue
            until = at
            limit = next((cut for cut in cuts if cut > at), end)
            while until < limit and not isinstance(items[until], Wait) and roots.get(modules[until]) == root:
                until += 1
            self._compiled(items[at:until], modules[at:until])  # type: ignore[arg-type]
            at = until
        self.starts.append(len(self.kind))
        return Timeline(
            grade=Grade.SIMULATED,
            mode=self.model.mode.name,
            kinds=tuple(map(_kind, self.kind_rows)),
            modules=tuple(str(name) for name in list(self.names)[1:]),
            phases=self._spans(phases),
            kind=tuple(self.kind),
            module=tuple(self.module),
            host_us=tuple(self.host),
            device_us=tuple(self.device),
            stream=(0,) * len(self.kind),
            sync=tuple(self.sync),
            launch_latency_us=self.model.spec.launch_latency_us,
            sync_latency_us=self.model.spec.sync_latency_us,
            pending_limit=GRAPH_PENDING_LIMIT if compiled and self.model.mode.graphs else 1024,
            eager_kernels=self._eager_kernels(items) if compiled else None,
        )

    def _eager_kernels(self, items: Sequence[OpSignature | Wait]) -> int:
        """Launches of the same call without the compiler."""
        return sum(len(self.model.kernels(item)) for item in items if isinstance(item, OpSignature))

    def _eager(self, items: Sequence[OpSignature | Wait], modules: Sequence[str | None], at: int) -> int:
        item, path = items[at], modules[at]
        module = self._module(path)
        self.starts.append(len(self.kind))
        sync, times = -1, 1
        wait: OpSignature | Wait | None = item
        if isinstance(item, OpSignature):
            wait = items[at + 1] if item.direction in HOST_COPIES and at + 1 < len(items) else None
            if isinstance(wait, Wait):
                at += 1
                self.starts.append(len(self.kind))
        if isinstance(wait, Wait):
            sync, times = self.rows.get(wait.key, -2), wait.times
        spent = self._host(path)
        if isinstance(item, Wait):
            self._event(-1, module, spent, 0.0, sync)
        else:
            first = True
            # A copy that the host does not wait for is one from or to page-locked memory.
            kernels = self.model.kernels(item, pinned=sync == -1)
            for number, kernel in enumerate(kernels):
                last = number == len(kernels) - 1
                host = spent if first else EXTRA_LAUNCH_US
                self._event(
                    self._kind(item, number, kernel, "eager"),
                    module,
                    host,
                    kernel.device_us,
                    sync if last else -1,
                )
                first = False
        for _ in range(times - 1):
            self._event(-1, module, spent, 0.0, sync)
        return at + 1

    def _compiled(self, ops: list[OpSignature], modules: Sequence[str | None]) -> None:
        mode = self.model.mode
        base = len(self.kind)
        self.starts.extend([base] * len(ops))
        first = True
        entry = GUARD_SHARE * sum(map(self._host, modules))
        if mode.graphs:
            entry += GRAPH_CALL_US
        before: list[OpSignature] = []
        for chain, place in chains((op, n) for n, op in enumerate(ops)):
            path = modules[place]
            module = self._module(path)
            if len(chain) > 1 or is_fusible(chain[0]):
                key = ("chain", *(op.id for op in chain))
                kernels: tuple[Kernel, ...] = (self._fused(key, chain),)
            else:
                op, quantized = self._product(chain[0], path)
                kernels = self.model.kernels(op, compiled=True, quantized=quantized)
                if quantized:
                    kernels = self._with_passes(op, kernels, before)
                key = ("op", op.id, len(kernels), quantized)
            before = chain
            for number, kernel in enumerate(kernels):
                host = (entry if first else 0.0) + (0.0 if mode.graphs else COMPILED_LAUNCH_US)
                self._event(self._kind_of((*key, number), kernel), module, host, kernel.device_us, -1)
                first = False

    def _with_passes(
        self, op: OpSignature, kernels: tuple[Kernel, ...], before: list[OpSignature]
    ) -> tuple[Kernel, ...]:
        """The kernels of a quantized linear without what the graph does elsewhere: `before` is what ran
        before it."""
        last = before[-1] if before else None
        generated = last is not None and is_fusible(last)
        if generated and last is not None:
            generated = bool(last.outputs) and last.outputs[0].numel == op.inputs[0].numel
        again = last is not None and not generated and last.inputs[:1] == op.inputs[:1]
        *passes, product = kernels
        return (*passes[passes_left(self.model.mode.scheme, again=again, generated=generated)], product)

    def _fused(self, key: tuple, chain: list[OpSignature]) -> Kernel:
        found = self.fused.get(key)
        if found is None:
            found = self.fused[key] = fuse(chain, self.model)
        return found

    def _product(self, op: OpSignature, path: str | None) -> tuple[OpSignature, bool]:
        """(op, whether its product is quantized); a quantized 1x1 convolution runs as a linear."""
        choose = self.model.mode.quantizes
        product = product_of(op) if choose is not None else None
        if choose is None or product is None:
            return op, False
        if not choose(path, product.depth, product.columns, product.kind):
            return op, False
        if product.kind == "linear":
            return op, True
        swapped = self.swapped.get(op.id)
        if swapped is None:
            swapped = self.swapped[op.id] = as_linear(op)
        return swapped, True

    def _host(self, path: str | None) -> float:
        """Host time of an eager op: its own, and that of the module calls that lead to it."""
        host = self.model.host
        key = (self.above, path)
        entered = self.entered.get(key)
        if entered is None:
            entered = self.entered[key] = modules_entered(self.above, path)
        self.above = path
        return host.op_us + entered * host.module_us

    def _event(self, kind: int, module: int, host: float, device: float, sync: int) -> None:
        self.kind.append(kind)
        self.module.append(module)
        self.host.append(host)
        self.device.append(device)
        self.sync.append(sync)

    def _module(self, path: str | None) -> int:
        found = self.names.get(path)
        if found is None:
            found = self.names[path] = len(self.names) - 1
        return found

    def _kind(self, op: OpSignature, number: int, kernel: Kernel, how: str) -> int:
        return self._kind_of((how, op.id, number), kernel)

    def _kind_of(self, key: tuple, kernel: Kernel) -> int:
        found = self.kinds.get(key)
        if found is None:
            # Calls that differ only in where their data lies (`timesteps[i]`) are one kind.
            found = self.kinds.get(kernel)
            if found is None:
                found = self.kinds[kernel] = len(self.kind_rows)
                self.kind_rows.append(kernel)
            self.kinds[key] = found
        return found

    def _spans(self, phases: Sequence[Phase]) -> tuple[PhaseSpan, ...]:
        spans = []
        marks = [*phases, (len(self.starts) - 1, "", None, None)]
        for (first, name, step, part), (last, *_) in itertools.pairwise(marks):
            begin, end = self.starts[first], self.starts[last]
            if end > begin:
                spans.append(PhaseSpan(name=name, step=step, part=part, first=begin, last=end))
        return tuple(spans)


def compiled_root(path: str | None, compiled: tuple[str, ...]) -> str | None:
    """The compiled part that a module belongs to."""
    for root in compiled:
        if path is not None and (path == root or path.startswith(root + ".")):
            return root
    return None


def modules_entered(before: str | None, path: str | None) -> int:
    """How many modules were called to get from one module to another.

    Containers that are only indexed (`blocks.3`) are not called: a name followed by a number counts once.
    """
    if path is None or path == before:
        return 0
    old, new = (before or "").split("."), path.split(".")
    shared = 0
    while shared < len(old) and shared < len(new) and old[shared] == new[shared]:
        shared += 1
    entered = new[shared:]
    indexed = sum(1 for name, after in itertools.pairwise(entered) if after.isdecimal() and name)
    return len(entered) - indexed


def _kind(kernel: Kernel) -> KernelKind:
    return KernelKind(
        name=kernel.name,
        op=kernel.name,
        family=kernel.family,
        shape=kernel.shape,
        dtype=kernel.dtype,
        flops=kernel.flops,
        bytes=kernel.bytes,
        device_us=kernel.device_us,
        lower_bound_us=kernel.lower_bound_us,
        bound=kernel.bound,
        origin=str(kernel.origin),
    )


def kernel_rows(timeline: Timeline) -> tuple[KernelRow, ...]:
    """Device time by kernel kind, module and phase, longest first."""
    phases = phase_of_events(timeline)
    counts: dict[tuple[int, int, str | None], list[float]] = {}
    for event, kind in enumerate(timeline.kind):
        if kind < 0:
            continue
        span = phases[event]
        row = counts.setdefault((kind, timeline.module[event], span.name if span else None), [0, 0.0, 0.0])
        row[0] += 1
        row[1] += timeline.device_us[event]
        row[2] += timeline.host_us[event]
    total = sum(row[1] for row in counts.values()) or 1.0
    found = []
    for (kind, module, phase), (count, device, host) in counts.items():
        about = timeline.kinds[kind]
        found.append(
            KernelRow(
                name=about.name,
                op=about.op,
                family=about.family,
                module=timeline.modules[module] if module >= 0 else None,
                phase=phase,
                count=int(count),
                device_us=device,
                host_us=host,
                flops=None if about.flops is None else about.flops * count,
                bytes=None if about.bytes is None else about.bytes * count,
                shape=about.shape,
                dtype=about.dtype,
                share=device / total,
            )
        )
    return tuple(sorted(found, key=lambda row: -row.device_us))


def gap_rows(timeline: Timeline, *, at_least_us: float = 20.0) -> tuple[GapRow, ...]:
    """Idle stretches of the device that are long enough to matter, in order."""
    return find_gaps(timeline, replay(timeline), at_least_us=at_least_us)
