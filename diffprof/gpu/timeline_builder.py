"""Builds the timeline of a simulated call from what the device tells, in host order.

While the call runs an operation costs two list appends; kernels, fusion and costs come afterwards, once
for each distinct operation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffprof.judge.gaps import find_gaps
from diffprof.judge.steps import outermost_first
from diffprof.judge.timeline import columns_of, replay
from diffprof.model.callsite import Place
from diffprof.model.recording import GapRow, KernelRow, MemoryUse, Timeline

from .assembly import Assembled, Assembly, Call, LaunchedWait, Phase, alike
from .cost import CostModel
from .memory_log import MemoryLog, MemoryMark, MemoryStretch, StorageNumbers, Weights
from .signatures import OpSignature

By = TypeVar("By")
"""What operations are counted by: the module that launched them, or the line."""

Outermost = Callable[[str, Any, tuple[Any, ...], dict[str, Any]], AbstractContextManager[None]]
"""(path, module, arguments) -> a context in which the module is called."""


class ModuleStack:
    """The path of the module that is running.

    names: id(module) -> path, as `diffprof.model.pipeline.module_names` gives it. outermost: a context for
    each call of a module by none of these, with its path and arguments.
    """

    def __init__(self, names: Mapping[int, str], outermost: Outermost | None = None) -> None:
        self._names = names
        self._outermost = outermost
        self.path: str | None = None
        self.calls = 0
        self.outermost: set[str] = set()
        """Modules that were called by none of the others."""
        self.times: Counter[str] = Counter()
        """How often each was called."""
        self.by_name: set[str] = set()
        """Modules that were given all their arguments by name."""

    @contextmanager
    def following(self) -> Iterator[ModuleStack]:
        """Follow module calls while the context is open.

        `Module.__call__` itself is wrapped: global hooks would take every module off its fast path, and fire
        twice around compiled modules.
        """
        import torch

        from diffprof.model.pipeline import replaced

        names, call = self._names, torch.nn.Module.__call__

        def followed(module: torch.nn.Module, *args: object, **kwargs: object) -> object:
            before = self.path
            self.calls += 1
            path = names.get(id(module))
            if path is not None:
                self.path = path
                self.times[path] += 1
                if not args:
                    self.by_name.add(path)
            try:
                if before is None and path is not None:
                    self.outermost.add(path)
                    if self._outermost is not None:
                        with self._outermost(path, module, args, kwargs):
                            return call(module, *args, **kwargs)
                return call(module, *args, **kwargs)
            finally:
                self.path = before

        with replaced(torch.nn.Module, "__call__", followed):
            yield self


class TimelineMark(NamedTuple):
    """Where a stretch of a call begins: items and phases until then, and where the memory stands."""

    items: int
    phases: int
    memory: MemoryMark


class Again(NamedTuple):
    """A stretch of a call within one phase."""

    items: tuple[OpSignature | LaunchedWait, ...]
    modules: tuple[str | None, ...]
    lines: tuple[Place | None, ...]
    memory: MemoryStretch

    def alike(self, other: Again) -> bool:
        """Whether both launch the same, wherever their data lies, and take and give back the same memory."""
        both = alike([*self.items, *other.items])
        launched = both[: len(self.items)] == both[len(self.items) :] and self.modules == other.modules
        return launched and self.lines == other.lines and self.memory.alike(other.memory)


@dataclass
class TimelineBuilder:
    """Collects operations, waits, phases and memory of one call; `finish` makes the recording's parts.

    Call it in host order. A copy's `blocking` comes right after its `op`, as the device tells them.
    """

    model: CostModel
    _items: list[OpSignature | LaunchedWait] = field(default_factory=list)
    _modules: list[str | None] = field(default_factory=list)
    _lines: list[Place | None] = field(default_factory=list)
    """Of the operations that were told with their line."""
    _phases: list[Phase] = field(default_factory=list)
    _scratch: dict[int, int] = field(default_factory=dict)
    memory_log: MemoryLog = field(default_factory=MemoryLog)
    _step_live: dict[int, int] = field(default_factory=dict)
    _repeats: list[tuple[int, Again]] = field(default_factory=list)
    """What came again, and the item at which it begins."""
    _worked: set[int] = field(default_factory=set)
    """Steps in which a part of the pipeline ran."""
    _step: int | None = None
    _cut: Assembled | None = None
    assembly: Assembly | None = None
    """What `finish` made the last timeline of."""

    def op(self, signature: OpSignature, module: str | None = None, line: Place | None = None) -> None:
        """Work is launched by this module, from this line where it matters."""
        self._items.append(signature)
        self._modules.append(module)
        self._lines.append(line)
        extra = self._scratch.get(signature.id)
        if extra is None:
            extra = self._scratch[signature.id] = self.model.workspace(signature)
        if extra:
            self.memory_log.hold(signature, extra, module)

    def blocking(
        self, key: Hashable, times: int = 1, module: str | None = None, stream: int | None = None
    ) -> None:
        """The CPU waits; key: what `finish` finds the sync row by; stream: where it waits for one."""
        self._items.append(LaunchedWait(key, times, stream))
        self._modules.append(module)
        self._lines.append(None)

    def phase(
        self, name: str, step: int | None = None, part: str | None = None, block: str | None = None
    ) -> None:
        """Another phase begins."""
        if self._step is not None and step != self._step:
            self._end_step()
        if part is not None and step is not None:
            self._worked.add(step)
        self._step = step
        self.memory_log.enter(name, step)
        self._phases.append((len(self._items), name, step, part, block))

    def _end_step(self) -> None:
        """What follows the last scheduler step is no step of its own."""
        if self._step is not None and (self._step in self._worked or not self._worked):
            self._step_live[self._step] = self.memory_log.live

    def alloc(self, nbytes: int, number: int, module: str | None = None) -> None:
        """Memory is taken for a storage while this module runs."""
        self.memory_log.alloc(nbytes, number, len(self._items), module)

    def free(self, nbytes: int, number: int) -> None:
        """Memory is given back."""
        self.memory_log.free(nbytes, number, len(self._items))

    # --- what comes again -----------------------------------------------------------------------------

    def mark(self, storages: StorageNumbers) -> TimelineMark:
        """A stretch begins; `since` ends it, before another begins."""
        return TimelineMark(
            len(self._items), len(self._phases), self.memory_log.mark(len(self._items), storages)
        )

    def since(self, mark: TimelineMark) -> Again | None:
        """What came since, if it was all in one phase, and freed nothing that was there before
        but what it was given."""
        memory = self.memory_log.since(mark.memory)
        if len(self._phases) != mark.phases or memory is None:
            return None
        since = slice(mark.items, None)
        columns = tuple(self._items[since]), tuple(self._modules[since]), tuple(self._lines[since])
        return Again(*columns, memory)

    def again(self, told: Again, storages: StorageNumbers) -> None:
        """It comes again."""
        self.memory_log.again(told.memory, len(self._items), storages)
        self._repeats.append((len(self._items), told))
        self._items += told.items
        self._modules += told.modules
        self._lines += told.lines

    def start_memory(self, live: int, weights: Iterable[Weights] = ()) -> None:
        """Bytes that were in use before the call: the weights, mostly."""
        self.memory_log.start(live, weights)

    @property
    def call(self) -> Call:
        """What was launched until now."""
        return Call(self._items, self._modules, self._phases)

    def operations(self) -> Iterator[tuple[OpSignature, str | None]]:
        """What was launched, with the module that did."""
        for item, module in zip(self._items, self._modules, strict=True):
            if isinstance(item, OpSignature):
                yield item, module

    def with_lines(self) -> Iterator[Sequence[tuple[OpSignature, Place]]]:
        """What was launched from a line that is known, in stretches. Those that came again are one object."""
        known: dict[int, list[tuple[OpSignature, Place]]] = {}
        at = 0
        for begin, told in self._repeats:
            yield _lined(self._items[at:begin], self._lines[at:begin])
            if id(told.lines) not in known:
                known[id(told.lines)] = _lined(told.items, told.lines)
            yield known[id(told.lines)]
            at = begin + len(told.items)
        yield _lined(self._items[at:], self._lines[at:])

    def counted(self) -> Counter[tuple[OpSignature, str | None]]:
        """How often each module launched each operation, in the order in which they first came."""
        return self._counted(self._modules, lambda told: told.modules)

    def counted_by_line(self) -> Counter[tuple[OpSignature, Place]]:
        """How often an operation was launched from a line that is known."""
        counted = self._counted(self._lines, lambda told: told.lines)
        return Counter({(op, line): times for (op, line), times in counted.items() if line is not None})

    def _counted(
        self, column: Sequence[By], told_column: Callable[[Again], Sequence[By]]
    ) -> Counter[tuple[OpSignature, By]]:
        """What came again is counted once. Repeats of one stretch differ at most in their waits."""
        counts: Counter[tuple[OpSignature | LaunchedWait, By]] = Counter()
        repeats: dict[int, tuple[Counter[tuple[OpSignature | LaunchedWait, By]], list[int]]] = {}
        at = 0
        for begin, told in (*self._repeats, (len(self._items), None)):
            counts.update(zip(self._items[at:begin], column[at:begin], strict=True))
            at = begin
            if told is None:
                break
            at += len(told.items)
            if id(told.modules) not in repeats:
                own = Counter(zip(told.items, told_column(told), strict=True))
                counts.update(dict.fromkeys(own, 0))
                repeats[id(told.modules)] = own, [0]
            repeats[id(told.modules)][1][0] += 1
        for own, (times,) in repeats.values():
            counts.update({key: times * count for key, count in own.items()})
        return Counter({(op, by): times for (op, by), times in counts.items() if isinstance(op, OpSignature)})

    # --- the result -----------------------------------------------------------------------------------

    def finish(self, rows: Mapping[Hashable, int] | None = None) -> Timeline:
        """The timeline; rows: key of a wait -> index into Recording.syncs (-2 where there is none)."""
        cut = self._cut
        if cut is None or len(cut.call.items) != len(self._items) or cut.rows != (rows or {}):
            cut = self._cut = Assembled(self.call, rows)
        self.assembly = cut.assembly(self.model)
        return self.assembly.timeline(cut)

    @property
    def cut(self) -> Assembled:
        """The call in stretches, as `finish` cut it last."""
        assert self._cut is not None
        return self._cut

    def memory(self, weights: int | None = None, host: int | None = None) -> MemoryUse:
        """Memory over the call. host: bytes of weights in host memory."""
        self._end_step()
        return self.memory_log.use(
            self._items,
            weights=weights,
            capacity=self.model.spec.memory_bytes,
            by_step=tuple(live for _, live in sorted(self._step_live.items())),
            host=host,
        )


def _lined(
    items: Sequence[OpSignature | LaunchedWait], lines: Sequence[Place | None]
) -> list[tuple[OpSignature, Place]]:
    return [
        (item, line)
        for item, line in zip(items, lines, strict=True)
        if line is not None and isinstance(item, OpSignature)
    ]


def kernel_rows(timeline: Timeline) -> tuple[KernelRow, ...]:
    """Device time by kernel kind, module and phase, longest first."""
    names = tuple(dict.fromkeys((None, *(span.name for span in timeline.phases))))
    columns = columns_of(timeline)
    kind, device, host = columns.kind, columns.device, columns.host
    launched = kind >= 0
    code = np.array(timeline.module) + 1
    phases: NDArray[np.int64] = np.zeros(len(kind), dtype=np.int64)
    for span in outermost_first(timeline.phases):
        phases[span.first : span.last] = names.index(span.name)
    code = (kind * (len(timeline.modules) + 1) + code) * len(names) + phases
    codes, firsts, which = np.unique(code[launched], return_index=True, return_inverse=True)
    counts = np.bincount(which, minlength=len(codes)).tolist()
    device_us, host_us = (
        np.bincount(which, each[launched], minlength=len(codes)).tolist() for each in (device, host)
    )
    order = np.argsort(firsts).tolist()
    total = sum(device_us[n] for n in order) or 1.0
    found = []
    for n in order:
        rest, phase = divmod(int(codes[n]), len(names))
        number, module = divmod(rest, len(timeline.modules) + 1)
        about, count = timeline.kinds[number], counts[n]
        found.append(
            KernelRow(
                name=about.name,
                op=about.op,
                family=about.family,
                module=timeline.modules[module - 1] if module else None,
                phase=names[phase],
                count=count,
                device_us=device_us[n],
                host_us=host_us[n],
                flops=None if about.flops is None else about.flops * count,
                bytes=None if about.bytes is None else about.bytes * count,
                shape=about.shape,
                dtype=about.dtype,
                share=device_us[n] / total,
            )
        )
    return tuple(sorted(found, key=lambda row: -row.device_us))


def gap_rows(timeline: Timeline, *, at_least_us: float = 20.0) -> tuple[GapRow, ...]:
    """Idle stretches of the device that are long enough to matter, in order."""
    return find_gaps(timeline, replay(timeline), at_least_us=at_least_us)
