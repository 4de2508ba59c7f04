"""A call with weights moved between host and device while it runs, made of the call as it ran with all of
them on the device: what diffusers' and accelerate's hooks would launch is put in its places.

The hooks: `ModuleGroup` and `GroupOffloadingHook` in diffusers/hooks/group_offloading.py,
`cpu_offload_with_hook` and `AlignDevicesHook` in accelerate/hooks.py.
"""

from __future__ import annotations

import enum
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .assembly import Call, LaunchedWait, Stretch
from .course import Bytes, Course, course_of
from .memory_log import MemoryLog
from .signatures import OTHER_IDS, OpSignature, TensorMeta

COPIES = 1
"""Number of the stream that weights are copied in."""

STAGED_GB_S = 16.2
"""What a host copies into page-locked memory in a second: 5.39 GB in 333 ms with four threads on the host of
an A100, an EPYC 7H12 (pytorch PR 195257). Assumed of every host."""

PAGE_LOCKED_GB_S = 1.63
"""What it page-locks in a second, on the first call alone, for PyTorch keeps it: 12 times 64 MiB in 494.8 ms
on such a host (pytorch PR 197868). Assumed of every host."""


class WeightsPlace(enum.StrEnum):
    """Where the weights of a model are while the pipeline is called."""

    DEVICE = "device"
    MODEL = "model"
    """On the device from its first call until another model is called (`enable_model_cpu_offload`)."""
    BLOCK = "block"
    LEAF = "leaf"
    """Group offloading with a stream: the next group is copied while this one computes."""
    BLOCK_LOW = "block-low-cpu"
    LEAF_LOW = "leaf-low-cpu"
    """The same with `low_cpu_mem_usage`: page-locked when they are copied."""
    SEQUENTIAL = "sequential"
    """Each layer when it is called (`enable_sequential_cpu_offload`)."""


STREAMED = (WeightsPlace.BLOCK, WeightsPlace.LEAF, WeightsPlace.BLOCK_LOW, WeightsPlace.LEAF_LOW)
LOW = (WeightsPlace.BLOCK_LOW, WeightsPlace.LEAF_LOW)


@dataclass(frozen=True)
class Group:
    """Weights that are moved together, around the calls of one module. sizes: bytes of its tensors.

    prefetched: copied while what comes before it computes. root: those of a model that are in no block. more:
    modules after it that belong to the group.
    """

    path: str
    sizes: tuple[int, ...]
    prefetched: bool = True
    root: bool = False
    more: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(self.sizes)


@dataclass(frozen=True)
class ModelWeights:
    """A model of the pipeline. leaves: its weights by the module that has them; blocks: as block-level
    offloading groups them. linears: weights of its linears, by path: (bytes, elements)."""

    name: str
    role: str
    leaves: tuple[Group, ...] = ()
    blocks: tuple[Group, ...] = ()
    linears: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    called: bool = True
    """Whether its own `forward` is called: only then is anything prefetched."""
    bypassed: bool = False
    """Whether parts of it are called and it itself is not, as a VAE's decoder: its own hook never runs."""
    in_groups: bool = True
    """Whether it runs offloaded in groups: diffusers refuses some models, and brings weights in the type that
    they had before the call, also to one that the call casts."""
    in_layers: bool = True
    """Whether it computes the same with its layers' weights brought as each is called."""
    left: tuple[str, ...] = ()
    """Linears, by their path in the model, with whose weights another module computes: not among `linears`,
    for packed weights are not what it takes them for."""
    evenly: bool = True
    """Whether each module that leaves are moved around is called as often as the others: diffusers remembers
    one group that comes after each."""
    by_name: bool = False
    """Whether one of `linears` is given its input by its name."""
    wide: frozenset[str] = frozenset()
    """Those of `linears` for the type of whose weights code asks: that the model keeps in float32, and
    `asked`."""
    asked: tuple[str, ...] = ()
    """Others than those in float32, by their path in the model."""
    float16: bool = False
    """Whether weights of `linears` are in float16."""

    @property
    def in_blocks(self) -> bool:
        """Whether block-level offloading brings all of it to the device."""
        return not self.bypassed or not any(g.path == self.name and g.nbytes for g in self.blocks)

    @property
    def nbytes(self) -> int:
        return sum(group.nbytes for group in self.leaves)

    def groups(self, place: WeightsPlace) -> tuple[Group, ...]:
        """What is moved together."""
        return self.blocks if place in (WeightsPlace.BLOCK, WeightsPlace.BLOCK_LOW) else self.leaves


def on_host(part: ModelWeights, place: WeightsPlace) -> int:
    """Bytes of host memory that a model's weights take; page-locked ones come in powers of two."""
    if place is WeightsPlace.DEVICE:
        return 0
    groups = part.groups(place)
    if place in LOW:
        return part.nbytes + kept_page_locked(groups)
    if place in STREAMED:
        return sum(group.nbytes if group.root else sum(map(_page_locked, group.sizes)) for group in groups)
    return part.nbytes


def kept_page_locked(groups: Sequence[Group]) -> int:
    """Bytes that PyTorch page-locks for groups that are copied one after the other. It keeps blocks of a size
    for the next tensor of that size: as many as one group needs at once."""
    most: Counter[int] = Counter()
    for group in groups:
        if not group.root:
            most |= Counter(map(_page_locked, group.sizes))
    return sum(size * count for size, count in most.items())


def _page_locked(size: int) -> int:
    return 1 << (size - 1).bit_length() if size else 0


# --- what the call needs beside the weights ---------------------------------------------------------------


def needs(log: MemoryLog, call: Call, workspace: Mapping[int, int]) -> list[int]:
    """Bytes beside what was in use before the call, the most while each item runs. workspace: by id of the
    operation."""
    found = []
    events = iter(log.events())
    pending = next(events, None)
    live = 0
    for index, item in enumerate(call.items):
        most = live + (workspace.get(item.id, 0) if isinstance(item, OpSignature) else 0)
        while pending is not None and pending[0] <= index + 1:
            live += pending[1]
            most = max(most, live)
            pending = next(events, None)
        found.append(most)
    return found


# --- the call with copies ---------------------------------------------------------------------------------


class Moved(NamedTuple):
    """course: with the copies. peak: bytes of weights and all else on the device at most; phase: where."""

    course: Course
    peak: int
    phase: str

    @property
    def call(self) -> Call:
        return self.course.call()


class _Copies:
    """Operations that copy so many bytes, each made once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str, int, float], OpSignature] = {}

    def of(self, size: int, direction: str, stream: int = 0, host_us: float = 0.0) -> OpSignature:
        key = (size, direction, stream, host_us)
        found = self._known.get(key)
        if found is None:
            shape = torch.Size((size,))
            ends = [TensorMeta(shape, (1,), torch.uint8, 0, where) for where in ("cpu", "sim")]
            source, target = ends if direction == "h2d" else reversed(ends)
            scalars: dict[str, object] = {"stream": stream} if stream else {}
            if host_us:
                scalars["host_us"] = host_us
            found = self._known[key] = OpSignature(
                next(OTHER_IDS), "aten::copy_", None, (source,), (target,), scalars, direction, size
            )
        return found


COPY = _Copies()
WAIT_COPY = LaunchedWait(("offload", "copy"), 1)
WAIT_COPIES = LaunchedWait(("offload", "copies"), 1, COPIES)
WAIT_DEVICE = LaunchedWait(("offload", "device"), 1, 0)


def moved(
    call: Call, parts: Sequence[ModelWeights], places: Mapping[str, WeightsPlace], beside: Sequence[int]
) -> Moved:
    """The call with the weights of its models in these places.

    beside: what `needs` gives. Models that `places` does not name are on the device.
    """
    return Mover(parts, places).run(course_of(call, beside))


class _State(NamedTuple):
    """Between two parts of a call. entered: groups whose module runs, outermost first. here: groups on the
    device. loaded: the model that is there whole. at: the module whose hook copies."""

    entered: tuple[str, ...] = ()
    here: frozenset[str] = frozenset()
    loaded: str | None = None
    at: str | None = None


class _Ran(NamedTuple):
    """A part with its copies. more: bytes of weights on the device while each of its own items runs, beside
    those that were there before it; kept: after it."""

    part: Stretch
    more: Bytes
    kept: int
    after: _State


class Mover:
    """Calls of one pipeline with its weights in these places. What becomes of a part is found once."""

    def __init__(self, parts: Sequence[ModelWeights], places: Mapping[str, WeightsPlace]) -> None:
        self.parts = {part.name: part for part in parts}
        self.places = {name: places.get(name, WeightsPlace.DEVICE) for name in self.parts}
        self.groups = {
            group.path: group
            for name, part in self.parts.items()
            if self.places[name] not in (WeightsPlace.DEVICE, WeightsPlace.MODEL)
            for group in part.groups(self.places[name])
            if group.nbytes
        }
        self.members = {
            path: group.path for group in self.groups.values() for path in (group.path, *group.more)
        }
        self.always = sum(
            p.nbytes for name, p in self.parts.items() if self.places[name] is WeightsPlace.DEVICE
        )
        """Bytes of what is not moved."""
        self.owner: dict[str | None, str | None] = {None: None}
        self.within: dict[str | None, tuple[str, ...]] = {None: ()}
        self._runs: dict[Stretch, list[tuple[str | None, int, int]]] = {}
        self._orders: dict[tuple[Stretch, tuple[str, ...]], tuple[list[str], tuple[str, ...]]] = {}
        self._known: dict[Hashable, _Ran] = {}
        self.first: dict[str | None, str] = {}
        """The group of each model that is entered first: nothing comes before it to prefetch it."""
        self.begin(_State())

    def begin(self, state: _State) -> None:
        """Go on from there."""
        self.entered, self.here = list(state.entered), set(state.here)
        self.loaded, self.at = state.loaded, state.at
        self.on = 0
        self.items: list[OpSignature | LaunchedWait] = []
        self.modules: list[str | None] = []

    def run(self, course: Course) -> Moved:
        """A call with the copies that the hooks make."""
        if not self.groups and WeightsPlace.MODEL not in self.places.values():
            return self._moved(course, (), [np.zeros(1, np.int64)] * len(course.parts))
        orders = self._next_groups(course.parts)
        self.first = {}
        for path in chain.from_iterable(orders):
            self.first.setdefault(self._component(path), path)
        after = list(chain.from_iterable(orders))
        state, on, turn = _State(), 0, 0
        made: list[Stretch] = []
        weights: list[Bytes] = []
        for part, order in zip(course.parts, orders, strict=True):
            upcoming = after[turn : turn + len(order) + 1]
            ran = self._part(part, state, upcoming)
            made.append(ran.part)
            weights.append(ran.more + on)
            state, on, turn = ran.after, on + ran.kept, turn + len(order)
        course = course._replace(parts=tuple(made))
        return self._moved(course, (self._end(state),), weights)

    def _moved(self, course: Course, end: tuple[Stretch, ...], weights: Sequence[Bytes]) -> Moved:
        """end: what follows the call."""
        peak, phase = self.always, "prepare"
        for name, more, beside in zip(course.names(), weights, course.beside, strict=True):
            most = self.always + int((more + beside).max(initial=0))
            if most > peak:
                peak, phase = most, name
        idle = tuple(np.full(len(part.items), self.always) for part in end)
        course = course._replace(parts=(*course.parts, *end), beside=(*course.beside, *idle))
        return Moved(course, peak, phase)

    def _part(self, part: Stretch, state: _State, upcoming: list[str]) -> _Ran:
        key = (part, state, tuple(upcoming), tuple(self.first.items()))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._ran(part, state, upcoming)
        return found

    def _ran(self, part: Stretch, state: _State, upcoming: list[str]) -> _Ran:
        self.begin(state)
        self.upcoming = iter(upcoming[1:])
        more: Bytes = np.empty(len(part.items), np.int64)
        for module, first, last in self._runs_of(part):
            self._enter(module)
            self.items.extend(part.items[first:last])
            self.modules.extend(part.modules[first:last])
            more[first:last] = self.on
        if len(self.items) > len(part.items):
            part = Stretch(tuple(self.items), tuple(self.modules))
        return _Ran(part, more, self.on, self._state())

    def _end(self, state: _State) -> Stretch:
        """What hooks do after the call."""
        self.begin(state)
        self._enter(None)
        if self.loaded is not None:
            self._copied(self.parts[self.loaded].leaves, "d2h")
        return Stretch(tuple(self.items), tuple(self.modules))

    def _state(self) -> _State:
        return _State(tuple(self.entered), frozenset(self.here), self.loaded, self.at)

    def _runs_of(self, part: Stretch) -> list[tuple[str | None, int, int]]:
        """Stretches of items that one module ran: (module, first, last)."""
        found = self._runs.get(part)
        if found is None:
            found, at = [], 0
            for module, items in groupby(part.modules):
                count = sum(1 for _ in items)
                found.append((module, at, at + count))
                at += count
            self._runs[part] = found
        return found

    # --- modules that are entered and left ----------------------------------------------------------------

    def _component(self, module: str | None) -> str | None:
        found = self.owner.get(module)
        if found is None and module is not None:
            found = next((n for n in self.parts if module == n or module.startswith(f"{n}.")), None)
            self.owner[module] = found
        return found

    def _groups_of(self, module: str | None) -> tuple[str, ...]:
        found = self.within.get(module)
        if found is None and module is not None:
            steps = module.split(".")
            paths = (".".join(steps[: n + 1]) for n in range(len(steps)))
            found = self.within[module] = tuple(self.members[path] for path in paths if path in self.members)
        return found or ()

    def _next_groups(self, parts: Iterable[Stretch]) -> list[list[str]]:
        """For each part, the groups whose modules are entered in it, in order."""
        found: list[list[str]] = []
        inside: tuple[str, ...] = ()
        for part in parts:
            known = self._orders.get((part, inside))
            if known is None:
                order, now = [], inside
                for module, *_ in self._runs_of(part):
                    before, now = now, self._groups_of(module)
                    order += [path for path in now if path not in before]
                known = self._orders[part, inside] = order, now
            found.append(known[0])
            inside = known[1]
        return found

    def _enter(self, module: str | None) -> None:
        wanted = self._groups_of(module)
        for path in [each for each in reversed(self.entered) if each not in wanted]:
            self.entered.remove(path)
            self.at = path
            self._leave(self.groups[path])
        component = self._component(module)
        if (
            component is not None
            and self.places[component] is WeightsPlace.MODEL
            and component != self.loaded
        ):
            self.at = None
            self._load(component)
        for path in wanted:
            if path not in self.entered:
                self.entered.append(path)
                self.at = path
                self._arrive(self.groups[path])

    def _load(self, component: str) -> None:
        if self.loaded is not None:
            self._copied(self.parts[self.loaded].leaves, "d2h")
            self.on -= self.parts[self.loaded].nbytes
        self._copied(self.parts[component].leaves, "h2d")
        self.on += self.parts[component].nbytes
        self.loaded = component

    def _arrive(self, group: Group) -> None:
        """The module of a group is called."""
        after = next(self.upcoming, None)
        place = self.places[self._component(group.path) or ""]
        if group.path not in self.here:
            self._fetch(group, place, waits=not self._prefetches(group))
        ahead = None if after is None else self._ahead(group, self.groups[after])
        if ahead is not None:
            self._fetch(ahead, place, waits=False)
        elif self._prefetches(group):
            self._add(WAIT_COPIES)

    def _prefetches(self, group: Group) -> bool:
        component = self._component(group.path)
        if component is None or self.places[component] not in STREAMED or not group.prefetched:
            return False
        return self.parts[component].called

    def _ahead(self, group: Group, after: Group) -> Group | None:
        """The next group, of the same model, copied while this one computes; None after the last."""
        component = self._component(group.path)
        if after.path in self.here or after.path == self.first.get(component) or not self._prefetches(after):
            return None
        return after if self._component(after.path) == component else None

    def _leave(self, group: Group) -> None:
        place = self.places[self._component(group.path) or ""]
        if group.root:
            self._copied((group,), "d2h")
        elif place in STREAMED:
            self._add(WAIT_DEVICE)
        self.here.discard(group.path)
        self.on -= group.nbytes

    # --- copies -------------------------------------------------------------------------------------------

    def _fetch(self, group: Group, place: WeightsPlace, *, waits: bool) -> None:
        self.here.add(group.path)
        self.on += group.nbytes
        if place in STREAMED and not group.root:
            self._add(WAIT_COPIES)
        if waits:
            self._copied((group,), "h2d")
            return
        # All of a group is copied into page-locked memory before the first of it goes to the device.
        staged = round(group.nbytes / STAGED_GB_S / 1e3, 3) if place in LOW else 0.0
        for n, size in enumerate(group.sizes):
            self._add(COPY.of(size, "h2d", COPIES, 0.0 if n else staged))

    def _copied(self, groups: Sequence[Group], direction: str) -> None:
        for group in groups:
            for size in group.sizes:
                self._add(COPY.of(size, direction))
                self._add(WAIT_COPY)

    def _add(self, item: OpSignature | LaunchedWait) -> None:
        self.items.append(item)
        self.modules.append(self.at)


# --- quantized weights ------------------------------------------------------------------------------------


def narrowed(part: ModelWeights, bits: float) -> ModelWeights:
    """The model with the weights of its linears in so many bits an element."""
    leaves, blocks = (_narrow(groups, part, bits) for groups in (part.leaves, part.blocks))
    return replace(part, leaves=leaves, blocks=blocks)


def _narrow(groups: Sequence[Group], part: ModelWeights, bits: float) -> tuple[Group, ...]:
    """A group's tensors of a size that its linears' weights have become smaller, as many as there are."""
    paths = {group.path for group in groups}
    inside: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
    for path, weight in part.linears.items():
        steps = path.split(".")
        prefixes = (".".join(steps[:n]) for n in range(len(steps), 0, -1))
        owner = next((prefix for prefix in prefixes if prefix in paths), None)
        if owner is not None:
            inside[owner][weight] += 1
    return tuple(replace(group, sizes=_packed(group.sizes, inside[group.path], bits)) for group in groups)


def _packed(sizes: Sequence[int], weights: Counter[tuple[int, int]], bits: float) -> tuple[int, ...]:
    elements = dict(weights.keys())
    left = Counter({nbytes: times for (nbytes, _), times in weights.items()})
    found = []
    for size in sizes:
        packs = left[size] > 0
        left[size] -= packs
        found.append(math.ceil(elements[size] * bits / 8) if packs else size)
    return tuple(found)


class Unpacked:
    """Calls with the weights of these linears made as wide as their input before the product, as weight-only
    quantization does in eager mode. linears: as in `ModelWeights`. What becomes of a part is found once."""

    def __init__(self, linears: Collection[str], bits: float) -> None:
        self.linears = linears
        self.bits = bits
        self._known: dict[Stretch, tuple[Stretch, NDArray[np.int64], Bytes]] = {}
        self._widenings: dict[int, OpSignature] = {}

    def of(self, part: Stretch, beside: Bytes) -> tuple[Stretch, Bytes]:
        """A part, and what its items need beside the weights."""
        found = self._known.get(part)
        if found is None:
            found = self._known[part] = self._made(part)
        made, places, more = found
        return made, beside[places] + more

    def _made(self, part: Stretch) -> tuple[Stretch, NDArray[np.int64], Bytes]:
        items: list[OpSignature | LaunchedWait] = []
        places: list[int] = []
        more: list[int] = []
        for n, (item, module) in enumerate(zip(part.items, part.modules, strict=True)):
            if module in self.linears and isinstance(item, OpSignature) and item.name == "aten::linear":
                items += self._widening(item), item
                places += n, n
                more += [item.inputs[1].nbytes] * 2
            else:
                items.append(item)
                places.append(n)
                more.append(0)
        modules = tuple(part.modules[n] for n in places)
        return Stretch(tuple(items), modules), np.array(places, np.int64), np.array(more, np.int64)

    def _widening(self, linear: OpSignature) -> OpSignature:
        known = self._widenings.get(linear.id)
        if known is None:
            known = self._widenings[linear.id] = _widening(linear.inputs[1], self.bits)
        return known


def _widening(weight: TensorMeta, bits: float) -> OpSignature:
    packed = torch.Size((*weight.shape[:-1], math.ceil(weight.shape[-1] * bits / 8)))
    source = TensorMeta(packed, torch.empty(packed, device="meta").stride(), torch.int8, 0, "sim")
    return OpSignature(next(OTHER_IDS), "aten::_to_copy", None, (source,), (weight,))
