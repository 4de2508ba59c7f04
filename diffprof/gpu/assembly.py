"""Assembles the timeline of a simulated call from the operations that it launched.

Host order is kept. What a stretch of the call enqueues is found once, whatever it is costed with; what it
launches is found once for each cost model. Steps that launch the same are one stretch.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from diffprof.model.recording import Grade, KernelKind, PhaseSpan, Timeline

from .cost import CostModel, Kernel
from .fusion import chains, fuse, is_fusible
from .hosts import HostSheet
from .mode import Chooser
from .products import Product, as_linear, product_of
from .quantized import passes_left
from .signatures import OpSignature

Numbers: TypeAlias = NDArray[np.int64]
Times: TypeAlias = NDArray[np.float64]

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

UNTOLD = -2
"""Row of a wait that no line of the call is told for."""

GRAPH_PENDING_LIMIT = 1 << 20
"""A graph is one launch, however many kernels it has: its kernels don't fill the launch queue."""

PENDING_LIMIT = 1024
"""Launches that a stream holds."""


@dataclass(frozen=True)
class LaunchedWait:
    """The CPU waits, so many times. key: what `assembled` finds the sync row by. stream: the one that it
    waits for, where it names one; else the wait belongs to the copy before it."""

    key: Hashable
    times: int
    stream: int | None = None


Phase = tuple[int, str, int | None, str | None, str | None]
"""First item, name, step and part of a phase."""


Launched = tuple[OpSignature | LaunchedWait, str | None]
"""An item of a call and the module that ran it."""


class Relaid(NamedTuple):
    """What a module's call launches with its convolutions in channels_last, in the place of items
    first..last of the call as it ran."""

    first: int
    last: int
    items: Sequence[Launched]


class Call(NamedTuple):
    """What one call launched, in host order: operations and waits, the module that ran each, and phases."""

    items: Sequence[OpSignature | LaunchedWait]
    modules: Sequence[str | None]
    phases: Sequence[Phase]


def alike(items: Iterable[OpSignature | LaunchedWait]) -> list[OpSignature | LaunchedWait]:
    """One operation for all that differ only in where their data lies, such as `timesteps[i]`."""
    items = list(items)
    by_look: dict[tuple[object, ...], OpSignature] = {}
    found: dict[OpSignature | LaunchedWait, OpSignature | LaunchedWait] = {}
    for item in dict.fromkeys(items):
        found[item] = item if isinstance(item, LaunchedWait) else by_look.setdefault(_look(item), item)
    return list(map(found.__getitem__, items))


def _look(op: OpSignature) -> tuple[object, ...]:
    return (
        *(op.name, op.direction, op.nbytes, repr(op.scalars)),
        *((m.shape, m.stride, m.dtype, m.device, m.bits) for m in (*op.inputs, *op.outputs)),
        len(op.inputs),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Items of a call from one phase to the next, and the module that ran each."""

    items: tuple[OpSignature | LaunchedWait, ...]
    modules: tuple[str | None, ...]


Known: TypeAlias = dict[tuple[Any, ...], Stretch]
"""Stretches by what they hold."""


def stretches(call: Call, known: Known | None = None, more: Iterable[int] = ()) -> list[Stretch]:
    """The call in parts, in order. Parts that launch the same are one object, if the items are `alike`.
    known: those of other calls. more: items at which it is cut, too."""
    known = {} if known is None else known
    cuts = sorted({0, *(first for first, *_ in call.phases), *more, len(call.items)})
    parts = [(tuple(call.items[a:b]), tuple(call.modules[a:b])) for a, b in itertools.pairwise(cuts)]
    return [known.setdefault(part, Stretch(*part)) for part in parts]


class Assembled:
    """A call in stretches, for whatever costs it: what the CPU enqueues is found once for each host and
    choice of compiled parts.

    rows: key of a wait -> index into Recording.syncs (-2 where there is none).
    """

    def __init__(self, call: Call, rows: Mapping[Hashable, int] | None = None) -> None:
        self.call = call._replace(items=alike(call.items))
        self.parts = stretches(self.call)
        self.rows = rows or {}
        self._queues: dict[tuple[tuple[str, ...], HostSheet], Queue] = {}

    def assembly(self, model: CostModel) -> Assembly:
        """What the call launches, costed by this model."""
        key = model.mode.compiled, model.host
        if key not in self._queues:
            self._queues[key] = Queue(*key, self.rows)
        return Assembly(model, self._queues[key])

    def timeline(self, model: CostModel, *, eager: bool = True) -> Timeline:
        """The call as this model costs it. eager: whether a compiled one also tells the launches of an eager
        one, which has to be costed for that."""
        return self.assembly(model).timeline(self, eager=eager)


def assembled(call: Call, model: CostModel, rows: Mapping[Hashable, int] | None = None) -> Timeline:
    """The timeline of a call; rows: key of a wait -> index into Recording.syncs (-2 where there is none)."""
    return Assembled(call, rows).timeline(model)


# --- what the CPU enqueues --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """What is launched as one: an eager operation, or operations that the compiler makes one kernel of.

    ops: none for a wait alone. product: of a compiled layer that could be quantized. stream: into which it is
    launched, or for which the CPU waits.
    """

    ops: tuple[OpSignature, ...]
    compiled: bool = False
    pinned: bool = False
    product: Product | None = None
    stream: int = 0


class _Begun(NamedTuple):
    """What of a stretch is enqueued so far."""

    units: list[Unit]
    paths: list[str | None]
    host: list[float]
    sync: list[int]
    entries: set[int]


class Enqueued:
    """Units of a stretch in host order, with the module of each, the host time before its first launch, and
    the row of the wait that follows it (-1: none). entries: units that begin a compiled part. last: module
    in which the CPU is at the end. distinct: each unit once; which: its place there, of every one."""

    def __init__(self, begun: _Begun, last: str | None) -> None:
        self.units, self.paths, self.entries, self.last = begun.units, begun.paths, begun.entries, last
        self.host = np.array(begun.host, dtype=np.float64)
        self.sync = np.array(begun.sync, dtype=np.int64)
        self.distinct = tuple(dict.fromkeys(begun.units))
        places = {unit: n for n, unit in enumerate(self.distinct)}
        self.which = np.array([places[unit] for unit in begun.units], dtype=np.int64)
        self.compiled = np.array([unit.compiled for unit in self.distinct], dtype=bool)[self.which]
        self.stream = np.array([unit.stream for unit in self.distinct], dtype=np.int64)[self.which]


class Queue:
    """What the CPU enqueues for stretches of a call.

    compiled: parts that run compiled. rows: key of a wait -> index into Recording.syncs.
    """

    def __init__(self, compiled: tuple[str, ...], host: HostSheet, rows: Mapping[Hashable, int]) -> None:
        self.compiled = compiled
        self.host = host
        self.rows = rows
        self._known: dict[tuple[Stretch, str | None], Enqueued] = {}
        self._units: dict[tuple[object, ...], Unit] = {}
        self._alone: dict[OpSignature, tuple[Unit, float, float]] = {}
        """An eager operation, and what the CPU does beside it: always, and where it is not compiled."""
        self._entered: dict[tuple[str | None, str | None], float] = {}
        self._fusible: dict[OpSignature, bool] = {}

    def of(self, stretch: Stretch, above: str | None) -> Enqueued:
        """above: the module in which the CPU was before."""
        found = self._known.get((stretch, above))
        if found is None:
            found = self._known[stretch, above] = self._enqueued(stretch, above)
        return found

    def _enqueued(self, stretch: Stretch, above: str | None) -> Enqueued:
        items, modules = stretch.items, stretch.modules
        found = _Begun([], [], [], [], set())
        host = self._host_us(modules, above)
        roots = {m: compiled_root(m, self.compiled) for m in set(modules)} if self.compiled else {}
        at, end = 0, len(items)
        while at < end:
            root = roots.get(modules[at])
            until = at
            while until < end and roots.get(modules[until]) == root:
                if root is not None and _breaks(items, until):
                    break
                until += 1
            if root is None or until == at:
                until = max(until, at + _breaks(items, at))
                self._eager(found, items[at:until], modules[at:until], host[at:until])
            else:
                self._graph(found, items[at:until], modules[at:until], host[at:until])  # type: ignore[arg-type]
            at = until
        return Enqueued(found, modules[-1] if modules else above)

    def _host_us(self, modules: Sequence[str | None], above: str | None) -> list[float]:
        """Host time of each eager op: its own, and that of the module calls that lead to it."""
        entered = self._entered
        pairs = list(zip((above, *modules), modules, strict=False))
        for pair in set(pairs).difference(entered):
            entered[pair] = self.host.op_us + modules_entered(*pair) * self.host.module_us
        return [entered[pair] for pair in pairs]

    def _eager(
        self,
        found: _Begun,
        items: Sequence[OpSignature | LaunchedWait],
        modules: Sequence[str | None],
        host: Sequence[float],
    ) -> None:
        """A wait right after a copy is the copy's; the CPU is no longer busy with it."""
        units, sync = found.units, found.sync
        own = self._alone
        for item, path, spent in zip(items, modules, host, strict=True):
            if isinstance(item, LaunchedWait):
                row, times = self.rows.get(item.key, UNTOLD), item.times
                if item.stream is None and units and sync[-1] == -1 and units[-1].pinned:
                    units[-1] = self._unit(units[-1].ops)
                    spent = found.host[-1]
                    sync[-1], times = row, times - 1
                for _ in range(times):
                    _add(found, self._unit((), item.stream or 0), path, spent, row)
                continue
            known = own.get(item)
            if known is None:
                # A copy that the CPU does not wait for is one from or to page-locked memory.
                pinned = item.direction in HOST_COPIES
                stream = item.scalars.get("stream", 0) if pinned else 0
                more = item.scalars.get("eager_ops", 0) * self.host.op_us
                known = own[item] = Unit((item,), pinned=pinned, stream=stream), self._beside(item), more
            unit, beside, more = known
            units.append(unit)
            found.paths.append(path)
            found.host.append(spent + beside + more)
            sync.append(-1)

    def _graph(
        self,
        found: _Begun,
        ops: Sequence[OpSignature],
        modules: Sequence[str | None],
        host: Sequence[float],
    ) -> None:
        """One call of a compiled part, or what is left of it up to a wait."""
        entry = GUARD_SHARE * sum(host)
        found.entries.add(len(found.units))
        for fused, place in chains(zip(ops, itertools.count(), strict=False), self.is_fusible):
            key = (True, *fused)
            unit = self._units.get(key)
            if unit is None:
                product = product_of(fused[0]) if len(fused) == 1 else None
                unit = self._units[key] = Unit(tuple(fused), compiled=True, product=product)
            _add(found, unit, modules[place], entry + sum(map(self._beside, fused)), -1)
            entry = 0.0

    def _beside(self, item: OpSignature) -> float:
        """Host time that an operation takes beside that of any."""
        scalars = item.scalars
        return scalars.get("host_us", 0.0) + scalars.get("host_ops", 0) * self.host.op_us

    def is_fusible(self, op: OpSignature) -> bool:
        known = self._fusible.get(op)
        if known is None:
            known = self._fusible[op] = is_fusible(op)
        return known

    def _unit(self, ops: tuple[OpSignature, ...], stream: int = 0) -> Unit:
        """One that is followed by a wait."""
        return self._units.setdefault((False, stream, *ops), Unit(ops, stream=stream))


def _breaks(items: Sequence[OpSignature | LaunchedWait], at: int) -> int:
    """How many items from here on no compiled part holds: a wait, or a copy over the link with its wait."""
    item, after = items[at], items[at + 1] if at + 1 < len(items) else None
    if isinstance(item, LaunchedWait):
        return 1
    waited = isinstance(after, LaunchedWait) and after.stream is None
    return 2 if waited and item.direction in HOST_COPIES else 0


def _add(found: _Begun, unit: Unit, path: str | None, host: float, sync: int) -> None:
    found.units.append(unit)
    found.paths.append(path)
    found.host.append(host)
    found.sync.append(sync)


# --- what is launched --------------------------------------------------------------------------------------


class EventColumns(NamedTuple):
    """Events of a stretch, as in a Timeline."""

    kind: Numbers
    module: Numbers
    host: Times
    device: Times
    sync: Numbers
    stream: Numbers


_NOTHING = EventColumns(*(np.empty(0, dtype=kind) for kind in (int, int, float, float, int, int)))

Costs = tuple[tuple[int, ...], tuple[float, ...]]
"""Numbers of the kinds of what is launched, and their times."""


class Assembly:
    """What stretches of a call launch, costed by one model."""

    def __init__(self, model: CostModel, queue: Queue) -> None:
        self.model = model
        self.queue = queue
        self._known: dict[tuple[Stretch, str | None], EventColumns] = {}
        self._numbers: dict[Kernel, int] = {}
        """Calls that differ only in where their data lies (`timesteps[i]`) are one kind."""
        self._names: dict[str | None, int] = {None: -1}
        self._costs: dict[Unit, Costs] = {}

    def columns(self, parts: Iterable[Stretch]) -> Iterator[EventColumns]:
        """Of each part of a call, in order."""
        above: str | None = None
        for part in parts:
            found = self._known.get((part, above))
            queued = self.queue.of(part, above)
            if found is None:
                found = self._known[part, above] = self._launched(queued)
            above = queued.last
            yield found

    @property
    def pending_limit(self) -> int:
        mode = self.model.mode
        return GRAPH_PENDING_LIMIT if mode.compiled and mode.graphs else PENDING_LIMIT

    def timeline(self, cut: Assembled, *, eager: bool = True) -> Timeline:
        """The whole of a call."""
        columns = list(self.columns(cut.parts)) or [_NOTHING]
        ends = itertools.accumulate(len(part.items) for part in cut.parts)
        events = itertools.accumulate(len(each.kind) for each in columns)
        starts = {0: 0, **dict(zip(ends, events, strict=False))}
        whole = EventColumns(*(tuple(np.concatenate(each).tolist()) for each in zip(*columns, strict=True)))
        model, compiled = self.model, self.model.mode.compiled
        return Timeline(
            grade=Grade.SIMULATED,
            mode=model.mode.name,
            kinds=tuple(map(_kind, self._numbers)),
            modules=tuple(str(name) for name in list(self._names)[1:]),
            phases=spans(cut.call, starts),
            kind=whole.kind,
            module=whole.module,
            host_us=whole.host,
            device_us=whole.device,
            stream=whole.stream,
            sync=whole.sync,
            launch_latency_us=model.spec.launch_latency_us,
            sync_latency_us=model.spec.sync_latency_us,
            pending_limit=self.pending_limit,
            op_us=self.queue.host.op_us,
            module_us=self.queue.host.module_us,
            graphs=bool(model.mode.compiled) and model.mode.graphs,
            eager_kernels=self._eager_kernels(cut.call.items) if compiled and eager else None,
        )

    def _eager_kernels(self, items: Sequence[OpSignature | LaunchedWait]) -> int:
        """Launches of the same call without the compiler."""
        return sum(
            times * len(self.model.kernels(item))
            for item, times in Counter(items).items()
            if isinstance(item, OpSignature)
        )

    def _launched(self, queued: Enqueued) -> EventColumns:
        names = self._names
        for each in dict.fromkeys(queued.paths):
            names.setdefault(each, len(names) - 1)
        kind, device, counts = self._costed(queued)
        host, further = self._host(queued)
        first = np.cumsum(counts) - counts
        own, read = self._beside(kind)
        spread: Times = np.where(own > 0, own, np.repeat(further, counts))
        spread[first] = host + own[first]
        sync = np.where(read, UNTOLD, -1)
        sync[first] = np.where(queued.sync == -1, sync[first], queued.sync)
        return EventColumns(
            kind=kind,
            module=np.repeat(np.array([names[path] for path in queued.paths], dtype=np.int64), counts),
            host=spread,
            device=device,
            sync=sync,
            stream=np.repeat(queued.stream, counts),
        )

    def _costed(self, queued: Enqueued) -> tuple[Numbers, Times, Numbers]:
        """Kinds and times of what the units launch, and how many launches each is."""
        if self.model.mode.quantizes is not None:
            costs = list(self._each_costed(queued))
            which = np.arange(len(costs))
        else:
            costs = [self._costs.get(unit) or self._of(unit) for unit in queued.distinct]
            which = queued.which
        lengths = np.array([len(times) for _, times in costs], dtype=np.int64)
        counts = lengths[which]
        begins = (np.cumsum(lengths) - lengths)[which] - (np.cumsum(counts) - counts)
        places = np.repeat(begins, counts) + np.arange(counts.sum())
        kinds = np.array([kind for kinds, _ in costs for kind in kinds], dtype=np.int64)
        times = np.array([us for _, times in costs for us in times], dtype=np.float64)
        return kinds[places], times[places], counts

    def _each_costed(self, queued: Enqueued) -> Iterator[Costs]:
        """What each unit launches, where that depends on its module and on what ran before it."""
        before: Unit | None = None
        for n, (unit, path) in enumerate(zip(queued.units, queued.paths, strict=True)):
            if unit.product is not None:
                before = None if n in queued.entries else before
                yield self._numbered(self._quantized(unit, unit.product, path, before))
            elif not unit.compiled and (kernels := self._quantized_eagerly(unit, path)):
                yield self._numbered(kernels)
            else:
                yield self._costs.get(unit) or self._of(unit)
            before = unit

    def _beside(self, kind: Numbers) -> tuple[Times, NDArray[np.bool_]]:
        """Host time that each launch tells of itself, and whether the CPU waits for it."""
        told = np.array([(each.host_us, each.read) for each in self._numbers] + [(0.0, False)])
        return told[kind, 0], told[kind, 1] > 0

    def _host(self, queued: Enqueued) -> tuple[Times, Times]:
        """Host time of the first launch of each unit, and of each further one."""
        graphs = self.model.mode.graphs
        launch = 0.0 if graphs else COMPILED_LAUNCH_US
        further = np.where(queued.compiled, launch, EXTRA_LAUNCH_US)
        host = queued.host + launch * queued.compiled
        if graphs:
            host[list(queued.entries)] += GRAPH_CALL_US
        return host, further

    def _of(self, unit: Unit) -> Costs:
        """Numbers of the kinds, and times, of what a unit launches."""
        if not unit.ops:
            found: Costs = ((-1,), (0.0,))
        elif unit.compiled and is_fusible(unit.ops[0]):
            found = self._numbered([fuse(unit.ops, self.model)])
        else:
            kernels = self.model.kernels(unit.ops[0], compiled=unit.compiled, pinned=unit.pinned)
            found = self._numbered(kernels)
        self._costs[unit] = found
        return found

    def _numbered(self, kernels: Sequence[Kernel]) -> Costs:
        numbers = self._numbers
        kinds = tuple(numbers.setdefault(kernel, len(numbers)) for kernel in kernels)
        return kinds, tuple(kernel.device_us for kernel in kernels)

    def _quantized_eagerly(self, unit: Unit, path: str | None) -> tuple[Kernel, ...]:
        """Kernels of a quantized linear that is not compiled; nothing where it is none."""
        product = product_of(unit.ops[0]) if len(unit.ops) == 1 else None
        chosen = self.model.mode.quantizes
        if product is None or product.kind != "linear" or chosen is None:
            return ()
        if not chosen(path, product.depth, product.columns, product.kind):
            return ()
        return self.model.kernels(unit.ops[0], quantized=True)

    def _quantized(
        self, unit: Unit, product: Product, path: str | None, before: Unit | None
    ) -> tuple[Kernel, ...]:
        """Kernels of a compiled layer, quantized where the mode says so; a quantized 1x1 convolution runs as
        a linear. Without the passes that the graph does elsewhere: `before` is what ran before it."""
        op, mode = unit.ops[0], self.model.mode
        assert mode.quantizes is not None
        if not mode.quantizes(path, product.depth, product.columns, product.kind):
            return self.model.kernels(op, compiled=True)
        if product.kind != "linear":
            op = as_linear(op)
        last = before.ops[-1] if before is not None else None
        generated = last is not None and self.queue.is_fusible(last)
        if generated and last is not None:
            generated = bool(last.outputs) and last.outputs[0].numel == op.inputs[0].numel
        again = last is not None and not generated and last.inputs[:1] == op.inputs[:1]
        *passes, main = self.model.kernels(op, compiled=True, quantized=True)
        return (*passes[passes_left(mode.scheme, again=again, generated=generated)], main)


def spans(call: Call, starts: Mapping[int, int]) -> tuple[PhaseSpan, ...]:
    """starts: item at which a stretch begins -> its first event."""
    found = []
    marks = [*call.phases, (len(call.items), "", None, None, None)]
    for (first, name, step, part, block), (last, *_) in itertools.pairwise(marks):
        begin, end = starts[first], starts[last]
        if end > begin:
            found.append(PhaseSpan(name=name, step=step, part=part, block=block, first=begin, last=end))
    return tuple(found)


def compiled_root(path: str | None, compiled: tuple[str, ...]) -> str | None:
    """The compiled part that a module belongs to."""
    for root in compiled:
        if path is not None and (path == root or path.startswith(root + ".")):
            return root
    return None


def linears_in(parts: tuple[str, ...]) -> Chooser:
    """Chooses every linear of these components."""
    return lambda module, depth, columns, kind: kind == "linear" and bool(compiled_root(module, parts))


@lru_cache(1 << 15)
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
