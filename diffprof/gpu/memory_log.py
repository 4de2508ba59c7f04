"""The device's memory over one simulated call: every tensor from its birth to its end, and who made it."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from operator import itemgetter
from types import CodeType, FrameType
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from diffprof.model.callsite import is_machinery, make_site
from diffprof.model.recording import Grade, MemoryHolder, MemoryKind, MemoryPoint, MemoryUse, Site

from .signatures import OpSignature, TensorMeta, dtype_name

POINTS = 160
"""Of the curve that is stored."""

GRANULE = 512
"""Bytes that sizes are rounded up to."""

Line = tuple[CodeType, int]
"""Code and line number of a person's code that asked for memory."""


class Weights(NamedTuple):
    """One tensor of a model that lies on the device before the call. number: of its storage."""

    number: int
    component: str
    nbytes: int
    dtype: str


class _Born(NamedTuple):
    nbytes: int
    item: int
    """Launched before it."""
    module: str | None
    line: Line | None
    kind: MemoryKind
    phase: str


@dataclass
class _Peak:
    """The most that was in use, and what of it an operation held while it ran."""

    nbytes: int = 0
    event: int = 0
    phase: str = "prepare"
    step: int | None = None
    module: str | None = None
    op: OpSignature | None = None
    extra: int = 0

    def moved(self, nbytes: int, events: int, phase: str, step: int | None) -> _Peak:
        """So many bytes higher and events later."""
        return _Peak(self.nbytes + nbytes, self.event + events, phase, step, self.module, self.op, self.extra)


class StorageNumbers(NamedTuple):
    """Numbers of storages in a stretch of a call that may come again. first: from which on they are its own.
    given: those that it is given, and may free."""

    first: int
    given: tuple[int, ...] = ()

    def within(self, number: int) -> int | None:
        """As counted in the stretch: from 0 on its own, below what it is given; None for others."""
        if number >= self.first:
            return number - self.first
        return -1 - self.given.index(number) if number in self.given else None


Event = tuple[int, int, int]
"""Items launched before, bytes more or less, number of the storage."""


class MemoryMark(NamedTuple):
    """Where a stretch of a call begins. item: launched before it; events: of memory, until then; peak,
    phase_peak: as they were."""

    storages: StorageNumbers
    item: int
    events: int
    live: int
    phase: str
    phase_peak: int
    peak: _Peak


class MemoryStretch(NamedTuple):
    """The memory of a stretch that frees nothing of what was there before, but what it is given. Items,
    events and numbers count from its begin; so do the bytes of its peak."""

    events: tuple[Event, ...]
    born: dict[int, _Born]
    kept: int
    peak: _Peak

    def alike(self, other: MemoryStretch) -> bool:
        """Whether both take and give back the same, asked for by the same lines."""
        return self.events == other.events and self.born == other.born and self.kept == other.kept


class _Again(NamedTuple):
    """A stretch that came again. before: how many events were told one by one before it; item: that it began
    at."""

    before: int
    item: int
    storages: StorageNumbers
    told: MemoryStretch

    def events(self) -> Iterator[Event]:
        item, (first, given) = self.item, self.storages
        for at, nbytes, number in self.told.events:
            yield item + at, nbytes, first + number if number >= 0 else given[-1 - number]


@dataclass
class MemoryLog:
    """Told of every storage that comes and goes; `use` says who held the memory when most was in use."""

    live: int = 0
    """Bytes in use now."""
    phase: str = "prepare"
    step: int | None = None
    peaks: dict[str, int] = field(default_factory=dict)
    """The most of each phase."""
    before: int = 0
    """Bytes in use when the call began."""
    weights: Sequence[Weights] = ()
    _events: list[Event] = field(default_factory=list)
    """Those that were told one by one."""
    _born: dict[int, _Born] = field(default_factory=dict)
    _peak: _Peak = field(default_factory=_Peak)
    _stretches: list[_Again] = field(default_factory=list)
    _told_again: int = 0
    """Events in stretches that came again."""

    def start(self, live: int, weights: Iterable[Weights] = ()) -> None:
        """The call begins with so many bytes in use, of which these are the models'."""
        self.weights = tuple(weights)
        self.live = self.before = self._peak.nbytes = live
        self.peaks[self.phase] = live

    def enter(self, phase: str, step: int | None) -> None:
        """Another phase begins."""
        self.phase, self.step = phase, step
        self.peaks[phase] = max(self.peaks.get(phase, 0), self.live)

    def alloc(self, nbytes: int, number: int, item: int, module: str | None) -> None:
        """A storage was made. item: how many operations were launched before it."""
        line, kind = _asked_by(sys._getframe(1))
        self._born[number] = _Born(nbytes, item, module, line, kind, self.phase)
        self._events.append((item, nbytes, number))
        self.live += nbytes
        if self.live > self.peaks.get(self.phase, 0):
            self._raise(self.live, module)

    def free(self, nbytes: int, number: int, item: int) -> None:
        """A storage is gone."""
        self._events.append((item, -nbytes, number))
        self.live -= nbytes

    def hold(self, op: OpSignature, extra: int, module: str | None) -> None:
        """An operation holds so many bytes more while it runs."""
        if self.live + extra > self.peaks.get(self.phase, 0):
            self._raise(self.live + extra, module, op, extra)

    def _raise(self, nbytes: int, module: str | None, op: OpSignature | None = None, extra: int = 0) -> None:
        self.peaks[self.phase] = nbytes
        if nbytes > self._peak.nbytes:
            self._peak = _Peak(nbytes, self._count, self.phase, self.step, module, op, extra)

    # --- what comes again -----------------------------------------------------------------------------

    def mark(self, item: int, storages: StorageNumbers) -> MemoryMark:
        """A stretch begins after so many items; `since` ends it, before another begins."""
        live = self.live
        mark = MemoryMark(
            storages, item, self._count, live, self.phase, self.peaks.get(self.phase, 0), self._peak
        )
        self.peaks[self.phase], self._peak = live, _Peak(live)
        return mark

    def since(self, mark: MemoryMark) -> MemoryStretch | None:
        """What came since. None where a storage went that was there before and is none of those given."""
        peak, begin, within = self._peak, mark.item, mark.storages.within
        self.peaks[mark.phase] = max(self.peaks[mark.phase], mark.phase_peak)
        if peak.nbytes <= mark.peak.nbytes:
            self._peak = mark.peak
        events: list[Event] = []
        born: dict[int, _Born] = {}
        for item, nbytes, number in self._events[mark.events - self._told_again :]:
            own = within(number)
            if own is None:
                return None
            events.append((item - begin, nbytes, own))
            if nbytes > 0:
                made = self._born[number]
                born[own] = made._replace(item=made.item - begin)
        return MemoryStretch(
            tuple(events),
            born,
            self.live - mark.live,
            peak.moved(-mark.live, -mark.events, mark.phase, self.step),
        )

    def again(self, told: MemoryStretch, item: int, storages: StorageNumbers) -> None:
        """It comes again after so many items."""
        peak, live, begin = told.peak, self.live, self._count
        self._stretches.append(_Again(len(self._events), item, storages, told))
        self._told_again += len(told.events)
        if live + peak.nbytes > self.peaks.get(self.phase, 0):
            self.peaks[self.phase] = live + peak.nbytes
            if live + peak.nbytes > self._peak.nbytes:
                self._peak = peak.moved(live, begin, self.phase, self.step)
        self.live = live + told.kept

    def _birth(self, number: int) -> _Born | None:
        """Of a storage of the call; None for one that was there before."""
        if (born := self._born.get(number)) is not None:
            return born
        at = bisect_right(self._stretches, number, key=lambda each: each.storages.first) - 1
        if at < 0:
            return None
        _, item, storages, told = self._stretches[at]
        born = told.born.get(number - storages.first)
        return None if born is None else born._replace(item=born.item + item)

    def _made_here(self, number: int) -> _Born:
        born = self._birth(number)
        assert born is not None, "a storage that was there before the call"
        return born

    @property
    def peak(self) -> int:
        """The most bytes that were in use."""
        return self._peak.nbytes

    # --- the result -----------------------------------------------------------------------------------

    @property
    def _count(self) -> int:
        """Of all events until now."""
        return len(self._events) + self._told_again

    def _parts(self) -> Iterator[Sequence[Event] | _Again]:
        """Events that were told one by one, and stretches that came again, in order."""
        at = 0
        for again in self._stretches:
            yield self._events[at : again.before]
            yield again
            at = again.before
        yield self._events[at:]

    def events(self) -> Iterator[Event]:
        """All, in order."""
        for part in self._parts():
            yield from part.events() if isinstance(part, _Again) else part

    def _before_peak(self) -> Iterator[tuple[Sequence[Event] | _Again, int]]:
        """The parts until most was in use, and how many of the events of each."""
        left = self._peak.event
        for part in self._parts():
            if not left:
                return
            count = min(left, len(part.told.events if isinstance(part, _Again) else part))
            yield part, count
            left -= count

    def _at_peak(self) -> Event | None:
        """The last event until most was in use."""
        for part, count in reversed(list(self._before_peak())):
            if count:
                events = part.events() if isinstance(part, _Again) else part
                return next(islice(events, count - 1, None))
        return None

    def made_by(self, number: int) -> tuple[Site | None, MemoryKind, str | None]:
        """The line that asked for a storage of the call, what it is, and the module that ran."""
        born = self._made_here(number)
        return _site(born.line, born.module), born.kind, born.module

    def moved(self, number: int) -> bool:
        """Whether a storage of the call is a weight that was moved to the device."""
        return self._made_here(number).kind is MemoryKind.WEIGHTS

    def use(
        self,
        items: Sequence[object],
        *,
        weights: int | None,
        capacity: int,
        by_step: tuple[int, ...],
        host: int | None,
    ) -> MemoryUse:
        """As the recording has it. items: what the call launched. host: bytes of weights that stay on the
        host."""
        peak = self._peak
        return MemoryUse(
            grade=Grade.SIMULATED,
            weights_bytes=weights,
            peak_bytes=peak.nbytes,
            capacity_bytes=capacity,
            by_phase=dict(self.peaks),
            by_step=by_step,
            host_bytes=host,
            peak_phase=peak.phase,
            peak_step=peak.step,
            peak_module=peak.module,
            at_peak=self.at_peak(items),
            curve=self.curve(len(items)),
        )

    def at_peak(self, items: Sequence[object]) -> tuple[MemoryHolder, ...]:
        """Who held the memory when most was in use, largest first; they sum to the peak."""
        alive: dict[int, int] = {}
        gone: dict[int, int] = {}  # of what was there before the call
        lasting: dict[int, tuple[Event, ...]] = {}
        for part, count in self._before_peak():
            if not isinstance(part, _Again):
                _follow(islice(part, count), alive, gone)
            elif count < len(part.told.events):
                _follow(islice(part.events(), count), alive, gone)
            else:
                if id(part.told) not in lasting:
                    lasting[id(part.told)] = _lasting(part.told.events)
                short = part._replace(told=part.told._replace(events=lasting[id(part.told)]))
                _follow(short.events(), alive, gone)
        made = (number for number, times in alive.items() for _ in range(times))
        sums: dict[MemoryHolder, list[int]] = defaultdict(lambda: [0, 0])
        for holder, nbytes in (*self._models(gone), *((self._holder(n, items), None) for n in made)):
            size = holder.bytes if nbytes is None else nbytes
            entry = sums[_blank(holder)]
            entry[0] += size
            entry[1] += 1
        if self._peak.op is not None:
            entry = sums[_blank(self._workspace())]
            entry[0] += self._peak.extra
            entry[1] += 1
        found = [_filled(each, nbytes, count) for each, (nbytes, count) in sums.items() if nbytes]
        return tuple(sorted(found, key=lambda each: -each.bytes))

    def _models(self, gone: dict[int, int]) -> Iterable[tuple[MemoryHolder, int]]:
        """What was there before the call and is still: weights by component, the rest as a whole. gone: bytes
        less, by the numbers of what was there."""
        path = self._peak.module
        rest = self.before
        holders: dict[tuple[str, str], MemoryHolder] = {}
        for number, owner, nbytes, dtype in self.weights:
            rest -= nbytes
            if number in gone:
                continue
            if (owner, dtype) not in holders:
                idle = path is not None and not f"{path}.".startswith(f"{owner}.")
                kind = MemoryKind.IDLE_WEIGHTS if idle else MemoryKind.WEIGHTS
                holder = MemoryHolder(kind=kind, module=owner, dtype=dtype, phase="before")
                holders[owner, dtype] = holder
            yield holders[owner, dtype], nbytes
        weights = {each.number for each in self.weights}
        rest += sum(nbytes for number, nbytes in gone.items() if number not in weights)
        if rest:
            yield MemoryHolder(kind=MemoryKind.OTHER, phase="before"), rest

    def _holder(self, number: int, items: Sequence[object]) -> MemoryHolder:
        born = self._made_here(number)
        made, out = _made(born, items)
        return MemoryHolder(
            kind=born.kind,
            module=born.module,
            phase=born.phase,
            site=_site(born.line, None),
            op=None if made is None else made.name,
            shape=None if out is None else tuple(out.shape),
            dtype=None if out is None else dtype_name(out.dtype),
            bytes=born.nbytes,
        )

    def _workspace(self) -> MemoryHolder:
        peak = self._peak
        assert peak.op is not None
        last = self._at_peak()
        born = None if last is None else self._birth(last[2])
        line = None if born is None else born.line
        return MemoryHolder(
            kind=MemoryKind.WORKSPACE,
            module=peak.module,
            phase=peak.phase,
            site=_site(line, None),
            op=peak.op.name,
        )

    def curve(self, items: int) -> tuple[MemoryPoint, ...]:
        """Bytes in use over the call: the most in each of `POINTS` stretches of operations, at the peak with
        what its operation held beside its tensors."""
        width = max(1, -(-items // POINTS))
        begun, more = self._columns()
        live = self.before + np.cumsum(more)
        here = begun // width
        firsts = np.flatnonzero(np.diff(here, prepend=-1))
        level = np.concatenate(([self.before], live))
        tops = np.maximum(np.maximum.reduceat(live, firsts), level[firsts]) if len(firsts) else firsts
        ends: NDArray[np.int64] = np.append(firsts[1:], len(live))[: len(firsts)]
        places = here[firsts].tolist()
        most: dict[int, int] = dict(zip(places, tops.tolist(), strict=True))
        last: dict[int, int] = dict(zip(places, level[ends].tolist(), strict=True))
        if (event := self._at_peak()) is not None:
            at = event[0] // width
            most[at] = max(most.get(at, 0), self._peak.nbytes)
        points = []
        now = self.before
        for at in range(-(-items // width)):
            points.append(MemoryPoint(op=at * width, bytes=most.get(at, now)))
            now = last.get(at, now)
        return tuple(points)

    def _columns(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of all events: items launched before, bytes more or less."""

        def column(events: Sequence[Event], which: int) -> NDArray[np.int64]:
            return np.fromiter(map(itemgetter(which), events), np.int64, len(events))

        known: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        found = []
        for part in self._parts():
            if isinstance(part, _Again):
                told = part.told.events
                if id(told) not in known:
                    known[id(told)] = column(told, 0), column(told, 1)
                begun, more = known[id(told)]
                found.append((begun + part.item, more))
            else:
                found.append((column(part, 0), column(part, 1)))
        begun, more = (np.concatenate(each) for each in zip(*found, strict=True))
        return begun, more


def _follow(events: Iterable[Event], alive: dict[int, int], gone: dict[int, int]) -> None:
    """alive: how often a storage was made that is still there; gone: bytes less of what was there before."""
    for _, more, number in events:
        if more > 0:
            alive[number] = alive.get(number, 0) + 1
        elif alive.pop(number, None) is None:
            gone[number] = gone.get(number, 0) + more


def _lasting(events: Sequence[Event]) -> tuple[Event, ...]:
    """Of a stretch, those that leave anything: not those of its own storages that are gone at its end."""
    alive: dict[int, int] = {}
    gone: dict[int, int] = {}
    _follow((event for event in events if event[2] >= 0), alive, gone)
    return tuple(event for event in events if event[2] < 0 or event[2] in alive or event[2] in gone)


def _made(born: _Born, items: Sequence[object]) -> tuple[OpSignature | None, TensorMeta | None]:
    """The operation that a storage was made for, and its tensor: the last launched before it, or the next."""
    for each in items[max(born.item - 1, 0) : born.item + 1]:
        if not isinstance(each, OpSignature):
            continue
        for out in each.outputs:
            if 0 <= born.nbytes - out.nbytes < GRANULE:
                return each, out
    return None, None


def _blank(holder: MemoryHolder) -> MemoryHolder:
    return _filled(holder, 0, 0)


def _filled(holder: MemoryHolder, nbytes: int, count: int) -> MemoryHolder:
    return replace(holder, bytes=nbytes, count=count)


# --- who asked ------------------------------------------------------------------------------------------

_MOVES = {"_apply": "torch/nn/modules/module.py"}
_OFFLOADERS = ("accelerate/hooks.py", "diffusers/hooks/group_offloading.py")
_CASTS = {"_cached_cast": "diffprof/devices/simulated/autocast.py"}


@cache
def _role(code: CodeType) -> tuple[bool, MemoryKind | None]:
    """(whether a person would look past it, what it says of the memory that is asked for under it)."""
    file = code.co_filename.replace("\\", "/")
    if file.endswith(_OFFLOADERS) or file.endswith(_MOVES.get(code.co_name, "\n")):
        return True, MemoryKind.WEIGHTS
    if file.endswith(_CASTS.get(code.co_name, "\n")):
        return True, MemoryKind.AUTOCAST
    return is_machinery(code.co_filename), None


_LOOKED_PAST: dict[int, CodeType] = {}
"""Code that says nothing of the memory, by its id: to hash code takes as long as all the rest."""


def _asked_by(frame: FrameType | None) -> tuple[Line | None, MemoryKind]:
    kind = MemoryKind.ACTIVATIONS
    while frame is not None:
        code = frame.f_code
        if id(code) not in _LOOKED_PAST:
            passed, told = _role(code)
            if not passed:
                return (code, frame.f_lineno), kind
            if told is None:
                _LOOKED_PAST[id(code)] = code
            else:
                kind = told
        frame = frame.f_back
    return None, kind


@cache
def _site(line: Line | None, module: str | None) -> Site | None:
    if line is None:
        return None
    code, number = line
    name = code.co_qualname.replace(".<locals>", "")
    return replace(make_site(((code.co_filename, number, name),), module), excerpt=())
