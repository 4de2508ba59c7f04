"""What graph breaks cost: the call on the simulated GPU as if it were compiled, with each break and without.

One call is recorded operation by operation, with the places where the CPU passes a break. From that a
compiled run is modelled as `scan --compiled` does it (kernels fused, each compiled region one CUDA graph),
with a border wherever Dynamo ends a graph:

- where the line of a break is passed, and where each function around it, up to the compiled one, is entered
  and left, for Dynamo inlines none of them;
- around what a skipped function calls; what stands in it runs as plain Python, and so does all that a
  function under `torch.compiler.disable` does;
- at a wait of the CPU.

A break costs what the same run is shorter without the ends of graphs that it makes and, where the wait is
there for a value alone, without its wait. A break that another one hides counts once that one is gone.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import CodeType, FrameType
from typing import Any, NamedTuple

from diffprof.analyzers.graph_breaks.breaks import Distinct
from diffprof.analyzers.graph_breaks.capture import is_code_of
from diffprof.analyzers.graph_breaks.causes import kind_of
from diffprof.analyzers.graph_breaks.scopes import CALL, COMPONENTS, STEP
from diffprof.devices import Device, simulated_sheet
from diffprof.devices.simulated import Blocking, Observer
from diffprof.gpu.cost import CostModel
from diffprof.gpu.mode import current_mode
from diffprof.gpu.signatures import OpSignature
from diffprof.gpu.timeline_builder import ModuleStack, TimelineBuilder
from diffprof.judge.timeline import Replay, replay
from diffprof.model.callsite import is_machinery
from diffprof.model.pipeline import Pipeline, module_names
from diffprof.model.recording import BreakCost, GraphBreakRow, Timeline
from diffprof.targets.pipeline import Phase, PhaseTracker

SCHEDULER = "scheduler"

VALUES = frozenset({"value-read", "tensor-from-device-scalars"})
"""Waits that go with a break: without it nobody asks for the value. Copies and indexed tables stay."""

_WHOLE = "compiled"
"""Path above every operation where the step or the call is compiled as one."""


@dataclass(frozen=True)
class Priced:
    """A break with what the recording says of it."""

    found: Distinct
    row: GraphBreakRow


class _Op(NamedTuple):
    signature: OpSignature
    path: str | None
    phase: Phase
    skipped: frozenset[int]
    """Breaks that make it run as plain Python while Dynamo comes to them."""
    disabled: frozenset[int]
    """Those whose line calls a disabled function that it is part of: plain Python in any case."""


class _Wait(NamedTuple):
    place: tuple[str, int]
    times: int
    for_value: bool
    path: str | None


class _Cut(NamedTuple):
    """Another phase begins."""

    before: Phase
    after: Phase


class CallLog(Observer):
    """Records one call. ends: item number -> breaks at which a graph ends before that item."""

    def __init__(self, breaks: Sequence[Priced], modules: ModuleStack) -> None:
        self.items: list[_Op | _Wait | _Cut] = []
        self.ends: dict[int, set[int]] = defaultdict(set)
        self._modules = modules
        self._phase = Phase("prepare")
        self._at: dict[tuple[str, int], list[int]] = defaultdict(list)
        self._sites: dict[tuple[str, int], list[int]] = defaultdict(list)
        self._skipping = {n: each.found.skipped for n, each in enumerate(breaks) if each.found.skipped}
        self._disabling: dict[tuple[str, int], set[int]] = defaultdict(set)
        self._skipped_code: dict[CodeType, tuple[tuple[int, int], ...]] = {}
        self._entered: dict[int, int] = {}
        self._pending: dict[int, int] = {}
        self._leaving: dict[int, set[int]] = {}
        self._called: dict[int, tuple[int, int]] = {}
        for number, each in enumerate(breaks):
            self._at[each.found.stack[0][:2]].append(number)
            self._sites[each.found.site[:2]].append(number)
            if kind_of(each.row) == "disabled":
                self._disabling[each.found.site[:2]].add(number)
        self._files = {file for file, _ in self._at}

    # --- what the device tells ------------------------------------------------------------------------

    def op(self, signature: OpSignature) -> None:
        path = self._modules.path
        self.items.append(_Op(signature, path, self._phase, *self._eager(sys._getframe(1))))

    def blocking(self, event: Blocking) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and is_machinery(frame.f_code.co_filename):
            frame = frame.f_back
        place = (frame.f_code.co_filename, frame.f_lineno) if frame else ("", 0)
        for number in self._sites.get(place, ()):
            self._pending.pop(number, None)  # the wait itself is the border
        self.items.append(_Wait(place, event.waits, str(event.kind) in VALUES, self._modules.path))

    def phase(self, phase: Phase) -> None:
        """For `PhaseTracker.on_change`."""
        self.items.append(_Cut(self._phase, phase))
        self._phase = phase

    def _eager(self, frame: FrameType | None) -> tuple[frozenset[int], frozenset[int]]:
        """Breaks that make the operation launched now run as plain Python, by skipped and by disabled
        functions; notes where another call of a skipped function begins."""
        inner = True
        found: set[int] = set()
        disabled: set[int] = set()
        while frame is not None:
            code = frame.f_code
            if not is_machinery(code.co_filename):
                skipping = self._skipped_code.get(code)
                if skipping is None:
                    skipping = self._skipped_code[code] = tuple(
                        (n, place[1]) for n, place in self._skipping.items() if is_code_of(code, place)
                    )
                for number, first in skipping:
                    if frame.f_lineno < first:
                        continue
                    if inner:
                        found.add(number)
                    call = (id(frame), frame.f_lasti)
                    if self._called.get(number) != call:
                        self._called[number] = call
                        self.ends[len(self.items)].add(number)
                if not inner and self._disabling:
                    disabled |= self._disabling.get((code.co_filename, frame.f_lineno), set())
                inner = False
            frame = frame.f_back
        return frozenset(found), frozenset(disabled)

    # --- where the CPU passes ------------------------------------------------------------------------

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Follow the lines of the breaks while the context is open."""
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(before)

    def _call(self, frame: FrameType, event: str, arg: object) -> Any:
        self._entered[id(frame)] = len(self.items)
        return self._inside if frame.f_code.co_filename in self._files else None

    def _inside(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            self._settle()
            for number in self._at.get((frame.f_code.co_filename, frame.f_lineno), ()):
                self._pass(number, frame)
        elif event == "return":
            self._settle()
            self.ends[len(self.items)] |= self._leaving.pop(id(frame), set())
        return self._inside

    def _pass(self, number: int, frame: FrameType) -> None:
        self._pending[number] = len(self.items)
        around: FrameType | None = frame
        while around is not None and id(around) in self._entered:
            self.ends[self._entered[id(around)]].add(number)
            self._leaving.setdefault(id(around), set()).add(number)
            if around.f_trace is None:
                around.f_trace = self._inside
                around.f_trace_lines = False
            around = around.f_back

    def _settle(self) -> None:
        for number, at in self._pending.items():
            self.ends[at].add(number)
        self._pending.clear()


# --- the model ----------------------------------------------------------------------------------------


@dataclass
class _Variant:
    """One compiled run. regions: CUDA graphs launched."""

    timeline: Timeline
    run: Replay
    waits: dict[tuple[tuple[str, int], bool], int]
    """(line, whether for a value alone) -> number in `run.blocked_us`."""
    regions: int = 0

    @property
    def kernels(self) -> int:
        return sum(work > 0.0 for work in self.timeline.device_us)


@dataclass
class Costs:
    """Prices the breaks of one call. compiled: names of the components that are compiled; scope: as in
    `probe_graph_breaks`."""

    breaks: Sequence[Priced]
    log: CallLog
    model: CostModel
    compiled: tuple[str, ...]
    scope: str
    """components, step or call: what is compiled as one."""

    @cached_property
    def _hidden(self) -> set[int]:
        return {n for n, each in enumerate(self.breaks) if each.found.hidden_by}

    @cached_property
    def _with_all(self) -> _Variant:
        return self.variant(set(range(len(self.breaks))) - self._hidden)

    @cached_property
    def _together_ms(self) -> float:
        none = self.variant(set(), frozenset(range(len(self.breaks))))
        return max(0.0, self._with_all.run.total_us - none.run.total_us) / 1e3

    def of(self, number: int) -> BreakCost:
        """The cost of one break."""
        with_all, hidden = self._with_all, self._hidden
        active = set(range(len(self.breaks))) - hidden
        mine = self.breaks[number].found
        appear = {n for n in hidden if self.breaks[n].found.hidden_by == mine.site}
        cured = self.variant((active | appear) - {number}, frozenset({number}))
        wait = with_all.waits.get((mine.site[:2], True))
        blocked = 0.0 if wait is None else with_all.run.blocked_us.get(wait, 0.0) / 1e3
        return BreakCost(
            saves_ms=max(0.0, with_all.run.total_us - cured.run.total_us) / 1e3,
            blocked_ms=blocked,
            graphs=with_all.regions - cured.regions,
            kernels=with_all.kernels - cured.kernels,
            call_ms=with_all.run.total_us / 1e3,
            together_ms=self._together_ms,
            compiled=self._named(),
        )

    def _named(self) -> tuple[str, ...]:
        if self.scope == STEP:
            return ("the denoising step",)
        return ("the whole call",) if self.scope == CALL else self.compiled

    def variant(self, active: set[int], cured: frozenset[int] = frozenset()) -> _Variant:
        """The run with the active breaks, and without the reads of those that are cured."""
        lines = {self.breaks[n].found.site[:2] for n in cured}
        builder = TimelineBuilder(self.model)
        waits: dict[tuple[tuple[str, int], bool], int] = {}
        regions, open_root = 0, None
        for at, item in enumerate(self.log.items):
            if self.log.ends.get(at, set()) & active or (isinstance(item, _Cut) and self._cuts(item)):
                builder.phase("")
                open_root = None
            if isinstance(item, _Op):
                eager = item.skipped & active or item.disabled - cured
                path, root = (None, None) if eager else self._place(item)
                regions += root is not None and root != open_root
                open_root = root
                builder.op(item.signature, path)
            elif isinstance(item, _Wait) and not (item.for_value and item.place in lines):
                open_root = None
                number = waits.setdefault((item.place, item.for_value), len(waits))
                builder.blocking(number, item.times, item.path)
        timeline = builder.finish({n: n for n in waits.values()})
        return _Variant(timeline, replay(timeline), waits, regions)

    def _cuts(self, item: _Cut) -> bool:
        """Whether the phase that begins there is another compiled call."""
        if self.scope == STEP:
            return (item.before.name, item.before.step) != (item.after.name, item.after.step)
        return self.scope != CALL

    def _place(self, item: _Op) -> tuple[str | None, str | None]:
        """Path under which the operation is modelled, and the compiled part that it is in."""
        path = item.path
        if self.scope == CALL or (self.scope == STEP and item.phase.name == "denoise"):
            return (f"{_WHOLE}.{path}" if path else _WHOLE), _WHOLE
        if path is None and item.phase.part == SCHEDULER:
            path = SCHEDULER
        root = (path or "").partition(".")[0]
        return path, root if root in self.compiled else None


def record_call(
    call: Callable[[], object], pipe: Pipeline, device: Device, breaks: Sequence[Priced]
) -> CallLog:
    """Make the call on the simulated device, and note where it passes the breaks."""
    modules = ModuleStack(module_names(pipe))
    log = CallLog(breaks, modules)
    tracker = PhaseTracker(on_change=log.phase)
    with (
        modules.following(),
        tracker.watching(pipe),
        device.observed(log, pipe),
        log.tracing(),
    ):
        call()
    return log


def break_costs(
    call: Callable[[], object],
    pipe: Pipeline,
    device: Device,
    breaks: Mapping[str, Sequence[Priced]],
    compiled: Sequence[str],
) -> dict[str, list[BreakCost]]:
    """Cost of every break, by what is compiled as one: components, step or call.

    compiled: names of the components that are compiled. device: a simulated one, active.
    """
    found: dict[str, list[BreakCost]] = {}
    for scope, those in breaks.items():
        log = record_call(call, pipe, device, those)
        mode = current_mode(compiled=(*compiled, _WHOLE))
        costs = Costs(those, log, CostModel(simulated_sheet(device), mode), tuple(compiled), scope)
        found[scope] = [costs.of(number) for number in range(len(those))]
    return found


def eager_costs(
    call: Callable[[], object],
    pipe: Pipeline,
    device: Device,
    names: Sequence[str],
    compiled: Sequence[str],
) -> dict[str, tuple[float, float]]:
    """What it costs that a component runs as plain Python, as beyond the recompile limit: name ->
    milliseconds of the call with that component eager, and with all that is in `compiled` compiled.

    device: a simulated one, active.
    """
    log = record_call(call, pipe, device, ())

    def run_ms(those: Sequence[str]) -> float:
        model = CostModel(simulated_sheet(device), current_mode(compiled=(*those, _WHOLE)))
        return Costs((), log, model, tuple(those), COMPONENTS).variant(set()).run.total_us / 1e3

    whole = run_ms(compiled)
    return {name: (run_ms([each for each in compiled if each != name]), whole) for name in names}
