"""A call in the parts that its phases cut it into, and how long it takes with so many steps.

Parts that launch the same are one object: what is made of a part, and what it costs, is found once for all
places in which it stands, and for all variants of the call in which it does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from diffprof.judge.steps import steps_of, with_asked_steps, with_steps
from diffprof.judge.timeline import ALL_STREAMS, NOT_BLOCKING
from diffprof.model.recording import Grade, PhaseSpan, Timeline

from .assembly import Assembly, Call, EventColumns, Known, Phase, Queue, Stretch, alike, stretches
from .cost import CostModel

Bytes: TypeAlias = NDArray[np.int64]


class Course(NamedTuple):
    """beside: for each part, the bytes beside the weights that its items need. phases: the first of each is
    the number of a part."""

    parts: tuple[Stretch, ...]
    beside: tuple[Bytes, ...]
    phases: tuple[Phase, ...]

    def call(self) -> Call:
        """Item by item."""
        begins = np.cumsum([0, *(len(part.items) for part in self.parts)])
        return Call(
            list(chain.from_iterable(part.items for part in self.parts)),
            list(chain.from_iterable(part.modules for part in self.parts)),
            [(int(begins[first]), *rest) for first, *rest in self.phases],  # type: ignore[misc]
        )

    def names(self) -> list[str]:
        """The phase of each part."""
        found = ["prepare"] * len(self.parts)
        for first, name, *_ in self.phases:
            found[first:] = [name] * (len(found) - first)
        return found

    def tells(self, asked: int | None, steps: int | None) -> bool:
        """Whether a call of that many steps can be told from this one, which was asked for `asked`."""
        return with_asked_steps(_sketch(self, self.parts), asked, steps) is not None

    def mapped(self, change: Callable[[Stretch, Bytes], tuple[Stretch, Bytes]]) -> Course:
        """With another part in the place of each."""
        made = [change(part, beside) for part, beside in zip(self.parts, self.beside, strict=True)]
        return self._replace(
            parts=tuple(part for part, _ in made), beside=tuple(beside for _, beside in made)
        )


def course_of(call: Call, beside: Sequence[int], known: Known | None = None) -> Course:
    """beside: bytes for each item. known: parts of other variants of the call."""
    parts = stretches(call._replace(items=alike(call.items)), known, _again(call))
    begins = [0]
    for part in parts:
        begins.append(begins[-1] + len(part.items))
    places = {begin: n for n, begin in enumerate(begins)}
    needed = np.array(beside, dtype=np.int64)
    return Course(
        tuple(parts),
        tuple(needed[a:b] for a, b in pairwise(begins)),
        tuple((places[first], *rest) for first, *rest in call.phases),  # type: ignore[misc]
    )


WORTH_CUTTING = 200
"""Items between two cuts, in the mean."""


def _again(call: Call) -> Iterator[int]:
    """Items with which work begins that comes again inside a phase beside the loop: the next tile or frame.
    It begins with the first module that is entered again, not too often. Denoisers are left whole: compiled,
    each of their calls is a graph."""
    ends = [*(first for first, *_ in call.phases[1:]), len(call.items)]
    for (first, _, _, part, _), last in zip(call.phases, ends, strict=True):
        if part is not None:
            continue
        entered: dict[str | None, list[int]] = {}
        before: str | None = None
        for n in range(first, last):
            module = call.modules[n]
            if module != before and module is not None:
                entered.setdefault(module, []).append(n)
            before = module
        yield from next(
            (at for at in entered.values() if len(at) > 1 and (last - first) > WORTH_CUTTING * len(at)), ()
        )


class Lengths:
    """How long calls take that one model costs."""

    def __init__(self, model: CostModel) -> None:
        self._assembly = Assembly(model, Queue(model.mode.compiled, model.host, {}))
        self._rests: dict[int, tuple[EventColumns, _Replay]] = {}

    def seconds(self, course: Course, steps: int | None) -> float | None:
        """Of a call of so many steps: each after those that ran takes what a steady one more would. None: as
        many as ran."""
        columns = tuple(self._assembly.columns(course.parts))
        sketch = _sketch(course, columns)
        ran = len(steps_of(sketch))
        if steps is None or steps == ran:
            return self._replay().run(columns).total / 1e6
        one, two = (with_steps(sketch, ran + more) for more in (1, 2))
        if one is None or two is None:
            return self._at_mean_step(sketch, columns, steps)
        shared = next(n for n, (a, b) in enumerate(zip(one.kind, two.kind, strict=False)) if a != b)
        replay = self._replay().run(columns[n] for n in one.kind[:shared])
        longer = replay.copy().run(columns[n] for n in two.kind[shared:]).total
        shorter = replay.run(columns[n] for n in one.kind[shared:]).total
        return (longer + (steps - ran - 2) * (longer - shorter)) / 1e6

    def _at_mean_step(self, sketch: Timeline, columns: Sequence[EventColumns], steps: int) -> float | None:
        """Where no two steps launch the same: more of them at the mean of those that ran. None without
        steps."""
        ran = steps_of(sketch)
        if not ran:
            return None
        (first, _), (_, last) = ran[0], ran[-1]
        replay = self._replay().run(columns[:first])
        begun = replay.now
        loop = replay.run(columns[first:last]).total - begun
        return (replay.run(columns[last:]).total + (steps - len(ran)) * loop / len(ran)) / 1e6

    def _replay(self) -> _Replay:
        spec = self._assembly.model.spec
        return _Replay(
            spec.launch_latency_us, spec.sync_latency_us, self._assembly.pending_limit, self._rests
        )


def _sketch(course: Course, parts: Sequence[object]) -> Timeline:
    """A timeline whose events are the parts; those of one kind launch the same. `kind` is the number of the
    first of them."""
    firsts: dict[int, int] = {}
    kind = tuple(firsts.setdefault(id(each), n) for n, each in enumerate(parts))
    nothing = (0,) * len(kind)
    ends = [*(first for first, *_ in course.phases[1:]), len(kind)]
    return Timeline(
        grade=Grade.SIMULATED,
        kind=kind,
        module=nothing,
        host_us=nothing,
        device_us=nothing,
        stream=nothing,
        sync=nothing,
        phases=tuple(
            PhaseSpan(name=name, step=step, part=part, block=block, first=first, last=last)
            for (first, name, step, part, block), last in zip(course.phases, ends, strict=True)
            if last > first
        ),
    )


WORTH_ARRAYS = 64
"""Events from which on arrays are faster than a loop."""


class _Replay:
    """A host and the streams of a device, as `diffprof.judge.timeline.replay` runs them."""

    def __init__(
        self, latency: float, settle: float, limit: int, rests: dict[int, tuple[EventColumns, _Replay]]
    ) -> None:
        """rests: known, by the number of the part of which each is the rest; the part is kept with it."""
        self.now = self.latest = 0.0
        self._latency, self._settle, self._limit, self._rests = latency, settle, limit, rests
        self._ends: dict[int, deque[float] | NDArray[np.float64]] = {}
        """Of each stream, when the last launches are over: as many as can be queued."""

    @property
    def total(self) -> float:
        """Microseconds until all are done."""
        return max(self.now, self.latest)

    def copy(self) -> _Replay:
        """One that goes on from here."""
        other = self._fresh()
        other.now, other.latest = self.now, self.latest
        other._ends = {stream: ends.copy() for stream, ends in self._ends.items()}
        return other

    def _fresh(self) -> _Replay:
        return _Replay(self._latency, self._settle, self._limit, self._rests)

    def run(self, parts: Iterable[EventColumns]) -> _Replay:
        """These come next."""
        for columns in parts:
            self._run(columns)
        return self

    def _run(self, columns: EventColumns) -> None:
        if len(columns.host) < WORTH_ARRAYS:
            self._one_by_one(columns)
        elif not self._at_once(columns):
            waits = np.flatnonzero(columns.sync != NOT_BLOCKING)
            first = int(waits[0]) + 1 if len(waits) else len(columns.host)
            self._one_by_one(EventColumns(*(each[:first] for each in columns)))
            self._rest(columns, first)

    def _rest(self, columns: EventColumns, first: int) -> None:
        """From an event on. Where the device has nothing left to do then, it takes what it always takes."""
        rest = EventColumns(*(each[first:] for each in columns))
        if self.latest > self.now:
            self._one_by_one(rest)
            return
        known = self._rests.get(id(columns))
        if known is None:
            known = self._rests[id(columns)] = columns, self._fresh()
            known[1]._one_by_one(rest)
        alone, begun = known[1], self.now
        self._ends.update((stream, begun + np.array(ends)) for stream, ends in alone._ends.items())
        self.now, self.latest = begun + alone.now, max(self.latest, begun + alone.latest)

    def _at_once(self, columns: EventColumns) -> bool:
        """The same with arrays, where one stream runs, nobody waits, and a full queue that holds the CPU
        leaves no gap on the device; whether it was done."""
        stream = int(columns.stream[0])
        launches = columns.device > 0.0
        if (columns.stream != stream).any() or (columns.sync != NOT_BLOCKING).any() or not launches.any():
            return False
        issued = self.now + np.cumsum(columns.host)
        at, work = issued[launches], columns.device[launches]
        before = np.asarray(self._ends.get(stream, ()), dtype=np.float64)
        worked = np.cumsum(work)
        ready = np.maximum.accumulate(at + self._latency - (worked - work))
        ends = worked + (np.maximum(ready, before[-1]) if len(before) else ready)
        queued = np.concatenate([before, ends])
        room = self._limit - len(before)
        held = np.zeros(len(ends))
        if len(ends) > room:
            # The one that has to be over before this is queued holds the CPU, and with it all that follow.
            later = np.maximum.accumulate(queued[: len(ends) - room] - at[room:])
            held[room:] = np.maximum(later, 0.0)
        if ((held > 0.0) & (at + held + self._latency > ends - work)).any():
            return False
        self._ends[stream] = queued[-self._limit :]
        self.latest = max(self.latest, float(ends[-1]))
        self.now = float(issued[-1] + held[-1])
        return True

    def _one_by_one(self, columns: EventColumns) -> None:
        now, latest, limit, latency = self.now, self.latest, self._limit, self._latency
        host, device = columns.host.tolist(), columns.device.tolist()
        streams, sync = columns.stream.tolist(), columns.sync.tolist()
        queues = {
            stream: deque(ends.tolist(), maxlen=limit) if isinstance(ends, np.ndarray) else ends
            for stream, ends in self._ends.items()
        }
        for spent, work, stream, row in zip(host, device, streams, sync, strict=True):
            now += spent
            if work > 0.0:
                ends = queues.get(stream)
                if ends is None:
                    ends = queues[stream] = deque(maxlen=limit)
                if len(ends) == limit and ends[0] > now:
                    now = ends[0]
                start = now + latency
                if ends and ends[-1] > start:
                    start = ends[-1]
                ends.append(start + work)
                if start + work > latest:
                    latest = start + work
            if row != NOT_BLOCKING:
                ends = queues.get(stream)
                free = latest if stream == ALL_STREAMS else ends[-1] if ends else 0.0
                now = (free if free > now else now) + self._settle
        self._ends.update(queues)
        self.now, self.latest = now, latest
