"""Runs one call of the pipeline and records every operation that makes, or would make, the CPU wait."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from diffprof.analyzers.syncs.owner import Owner, given_to, owner_of
from diffprof.devices.simulated import Blocking, BlockingKind, Observer, follows_from, is_simulated
from diffprof.gpu.signatures import OpSignature
from diffprof.judge.allowed import open_blocks
from diffprof.model.callsite import (
    Place,
    caller,
    importable_path,
    is_machinery,
    make_site,
    places,
    stack,
    values_in,
)
from diffprof.model.pipeline import Pipeline, module_names, with_role
from diffprof.model.recording import SyncRow, Unseen, median, steady
from diffprof.targets.loops import Loop
from diffprof.targets.pipeline import PhaseTracker
from diffprof.targets.steps import StepDoubt

if TYPE_CHECKING:
    import torch

Key = tuple[str, str, int, tuple[Loop, ...], tuple[str, ...]]
"""(kind, file name, line, loops around it, blocks that allow it): what is noted together. When the call is
over, and known which of the loops denoise, those inside of them become one row, and those outside another."""

_RowKey = tuple[str, str, int, bool, tuple[str, ...]]
"""(kind, file name, line, in the loop, blocks that allow it): what makes two blocking operations the same
row."""

SMALL_BYTES = 64 * 1024
"""Uploads up to this size are compared between steps, to tell constants from data."""

_NEVER_WARNED = ("staged-copy", "synchronize")
"""What the sync debug mode says nothing of: copies that are not waited for, `cudaDeviceSynchronize`."""

_UNTOLD = {
    StepDoubt.NO_LOOP: "no loop was seen that runs the scheduler: every call of its `step` counts as a step",
    StepDoubt.SEVERAL_LOOPS: "several loops are around the scheduler's step, and none is seen to bring "
    "another timestep each time: the innermost was taken, and waits in any of them count as in it",
}

_READS = ("value-read", "tensor-from-device-scalars")
_OFFLOADERS = ("accelerate/hooks.py", "diffusers/hooks/group_offloading.py")
_PUTS_HOOKS = "diffusers/pipelines/pipeline_utils.py"


@dataclass
class _Row:
    event: Blocking
    chain: tuple[Place, ...]
    phase: str
    part: str | None
    offload: bool
    owner: Owner | None = None
    from_timesteps: bool | None = None
    modules: set[str] = field(default_factory=set)
    moments: Counter[int] = field(default_factory=Counter)
    count: int = 0
    bytes: int = 0
    known: bool = True
    assumed: object = None
    contents: set[int | None] = field(default_factory=set)

    def add(self, wait: Noted, moment: int) -> None:
        """It happened."""
        self.count += wait.waits
        self.bytes += wait.bytes
        self.known &= wait.known
        if self.assumed is None:
            self.assumed = wait.assumed
        self.contents.add(wait.values)
        if wait.module is not None:
            self.modules.add(wait.module)
        self.moments[moment] += wait.waits

    def empty(self) -> _Row:
        """A row of the same site for what happens around other loops."""
        return replace(
            self,
            modules=set(),
            moments=Counter(),
            count=0,
            bytes=0,
            known=True,
            assumed=None,
            contents=set(),
        )


class Noted(NamedTuple):
    """One wait as it was noted. values: of a host's tensor, as a number; module: that was running."""

    key: Key
    waits: int
    bytes: int
    known: bool
    assumed: Any
    values: int | None
    module: str | None

    @property
    def reads(self) -> bool:
        """Whether the CPU was given values that are known."""
        return self.known and BlockingKind(self.key[0]).gives_values


class SyncObserver(Observer):
    """Turns blocking operations into rows, one a site and kind."""

    def __init__(self, pipe: Pipeline, tracker: PhaseTracker) -> None:
        self.tracker = tracker
        self.names = module_names(pipe)
        self.schedulers = tuple(with_role(pipe, "scheduler").values())
        self.call_code = getattr(inspect.unwrap(type(pipe).__call__), "__code__", None)
        self.noted: dict[Key, _Row] = {}
        self.log: list[Noted] = []
        self.ops = 0
        self.opaque_ops: dict[str, tuple[Place, ...]] = {}
        self.warned: dict[tuple[str, int], tuple[Place, ...]] | None = None
        self.placeholder_values: dict[tuple[Place, ...], tuple[str, str, int]] = {}

    # --- what the device tells ------------------------------------------------------------------------

    def op(self, signature: OpSignature) -> None:
        self.ops += 1

    def opaque(self, name: str) -> None:
        if name not in self.opaque_ops:
            self.opaque_ops[name] = self._chain(list(stack()))

    def placeholder(self, shape: tuple[int, ...], dtype: str, assumed: str) -> None:
        place = places(list(stack()))[:1]
        self.placeholder_values.setdefault(place, (f"{dtype}{list(shape)}", assumed, self.tracker.moment()))

    def witness(self, message: str) -> None:
        """The device's own warning that the CPU waits, on the stack that caused it."""
        for frame in stack():
            if not is_machinery(frame.f_code.co_filename):
                place = (frame.f_code.co_filename, frame.f_lineno)
                self.warned = self.warned or {}
                self.warned.setdefault(place, places(list(stack())))
                return

    def blocking(self, event: Blocking) -> None:
        self.note(event)

    def note(self, event: Blocking) -> Key:
        """Note one wait; returns under which key."""
        frames = list(stack())
        moment = self.tracker.moment()
        at = next((f for f in frames if not is_machinery(f.f_code.co_filename)), frames[0])
        # Reading an index for a host table is a value read; that it is a table is told by the row's owner.
        kind = "value-read" if event.kind == "host-index" else str(event.kind)
        loops = self.tracker.steps.loops_around(moment)
        key = (kind, at.f_code.co_filename, at.f_lineno, loops, open_blocks())
        row = self.noted.get(key)
        if row is None:
            phase = self.tracker.current
            row = self.noted[key] = _Row(
                event=event,
                chain=self._chain(frames),
                phase=self._outside(phase.name),
                part=phase.part or _part_of(frames),
                offload=any(_is_offloader(f) for f in frames),
                owner=self._owner(kind, at, frames, event),
                from_timesteps=self._from_timesteps(at, event) if kind in _READS else None,
            )
        values, module = _digest(event.tensor), self._module_of(frames)
        wait = Noted(key, event.waits, event.bytes, event.known, event.assumed, values, module)
        self.log.append(wait)
        row.add(wait, moment)
        return key

    def _owner(self, kind: str, at: FrameType, frames: list[FrameType], event: Blocking) -> Owner | None:
        if kind == "host-to-device":
            return given_to(frames, event, self.names)
        return owner_of(at, event, self.names) if kind in _READS else None

    def _from_timesteps(self, at: FrameType, event: Blocking) -> bool | None:
        """Whether what is read was computed from the timesteps of a scheduler: the pipeline's, or the copy of
        it whose code reads."""
        if event.tensor is None or not event.known:
            return None
        given = [getattr(each, "timesteps", None) for each in (*self.schedulers, values_in(at).get("self"))]
        found = [follows_from(event.tensor, each) for each in given if is_simulated(each)]
        return any(found) if found else None

    def note_again(self, wait: Noted, outside: int) -> Key:
        """Note that a wait comes again, now; returns under which key. outside: how many of the blocks that
        allow it are around what comes again."""
        moment = self.tracker.moment()
        blocks = (*open_blocks(), *wait.key[4][outside:])
        key = (*wait.key[:3], self.tracker.steps.loops_around(moment), blocks)
        if key not in self.noted:
            self.noted[key] = self.noted[wait.key].empty()
        wait = wait._replace(key=key)
        self.log.append(wait)
        self.noted[key].add(wait, moment)
        return key

    # --- where the call stands ------------------------------------------------------------------------

    def _outside(self, phase: str) -> str:
        """The phase of something that is not in the loop although the loop has begun."""
        if phase != "denoise":
            return phase
        return "decode" if self.tracker.stepped else "prepare"

    def _chain(self, frames: list[FrameType]) -> tuple[Place, ...]:
        """The places of a stack, up to the line that calls the pipeline."""
        calls = [n for n, frame in enumerate(frames) if frame.f_code is self.call_code]
        if not calls:
            return places(frames)
        inside, above = frames[: calls[-1] + 1], frames[calls[-1] + 1 :]
        outside = caller(above)
        return places([*inside, outside] if outside else inside)

    def _module_of(self, frames: list[FrameType]) -> str | None:
        for frame in frames:
            if "self" not in frame.f_code.co_varnames[:1]:
                continue
            name = self.names.get(id(values_in(frame).get("self")))
            if name is not None:
                return name
        return None

    # --- the result -----------------------------------------------------------------------------------

    def sections(self) -> dict[str, Any]:
        """Sections of the recording."""
        return {"syncs": self.sync_rows(), "ops": self.ops}

    def sync_rows(self) -> tuple[SyncRow, ...]:
        """All rows, in the order in which they were first seen."""
        return tuple(self._finished(key, noted) for key, noted in self._rows().items())

    def row_numbers(self) -> dict[Key, int]:
        """For each key that was noted, its row in `sync_rows`."""
        numbers = {key: n for n, key in enumerate(self._rows())}
        return {key: numbers[self._row_key(key, row)] for key, row in self.noted.items()}

    def _rows(self) -> dict[_RowKey, list[_Row]]:
        found: dict[_RowKey, list[_Row]] = {}
        for key, row in self.noted.items():
            found.setdefault(self._row_key(key, row), []).append(row)
        return found

    def _row_key(self, key: Key, row: _Row) -> _RowKey:
        step_of = self.tracker.steps.step_of
        return (*key[:3], any(step_of(moment) is not None for moment in row.moments), key[4])

    def _finished(self, key: _RowKey, noted: list[_Row]) -> SyncRow:
        row = _together(noted)
        in_loop = key[3]
        by_step = self._by_step(row) if in_loop else ()
        runs = self._own_runs(by_step)
        owner = row.owner
        return SyncRow(
            kind=key[0],
            op=row.event.op,
            reason=row.event.reason,
            source=row.event.source,
            site=make_site(row.chain, _common_module(row.modules)),
            phase="denoise" if in_loop else row.phase,
            part=row.part if in_loop else None,
            in_loop=in_loop,
            count=row.count,
            per_step=_per_step(runs),
            by_step=by_step,
            first_step_only=_first_step_only(runs),
            bytes=row.bytes,
            dtype=row.event.dtype,
            shape=row.event.shape,
            values_known=row.known,
            assumed=None if row.assumed is None else str(row.assumed),
            modules=_patterns(row.modules),
            owner=owner.label if owner else None,
            owner_device=owner.device if owner else None,
            index=owner.index if owner else None,
            read=owner.read if owner else None,
            from_timesteps=row.from_timesteps,
            offload=row.offload,
            constant=None if row.count == 1 or None in row.contents else len(row.contents) == 1,
            witnesses=("dispatch", *self._second_witness(key)),
        )

    def _by_step(self, row: _Row) -> tuple[int, ...]:
        counts: Counter[int] = Counter()
        for moment, count in row.moments.items():
            step = self.tracker.steps.step_of(moment)
            if step is not None:
                counts[step] += count
        return tuple(counts[step] for step in range(self.steps_seen()))

    def _own_runs(self, by_step: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """The counts in the steps of each run of the denoising loops that it happens in."""
        runs = self.tracker.steps.runs(step for step, count in enumerate(by_step) if count)
        return tuple(tuple(by_step[step] for step in run) for run in runs)

    def steps_seen(self) -> int:
        """Steps of all denoising loops."""
        return self.tracker.steps.total

    def _second_witness(self, key: _RowKey) -> tuple[str, ...]:
        return ("set_sync_debug_mode",) if self.warned and key[1:3] in self.warned else ()

    def _disagreements(self) -> Iterator[Unseen]:
        """Where the device's own warnings and the dispatcher's table do not agree; nothing on a device that
        gives no warnings."""
        if self.warned is None:
            return
        told = {key[1:3] for key in self.noted}
        for place, chain in self.warned.items():
            if place not in told:
                yield Unseen(
                    what="a wait that only set_sync_debug_mode saw",
                    why="it came from code that does not pass PyTorch's dispatcher",
                    site=make_site(chain, None),
                )
        for key, row in self.noted.items():
            if key[1:3] not in self.warned and key[0] not in _NEVER_WARNED:
                yield Unseen(
                    kind="doubt",
                    what=f"a {key[0]} that set_sync_debug_mode did not see",
                    why="the table says that it blocks, the device's own warnings do not",
                    site=make_site(row.chain, None),
                )

    def unseen(self) -> tuple[Unseen, ...]:
        """What could not be looked into."""
        opaque = (
            Unseen(
                what=f"custom operator {name}",
                why="its kernel is compiled code: waits inside it do not pass through PyTorch's dispatcher",
                site=make_site(chain, None),
            )
            for name, chain in self.opaque_ops.items()
        )
        placeholder = (
            Unseen(
                kind="value",
                what=f"a copy of {what} to the host",
                why=f"its values are unknown; {assumed} stood in for them, and what the CPU decided from "
                "them may differ on a real run",
                site=make_site(chain, None),
            )
            for chain, (what, assumed, moment) in self.placeholder_values.items()
            if self.tracker.steps.step_of(moment) is not None
        )
        return (*opaque, *placeholder, *self._untold(), *self._disagreements())

    def _untold(self) -> Iterator[Unseen]:
        doubt = self.tracker.steps.doubt
        if doubt is not None:
            yield Unseen(kind="doubt", what="which loop denoises", why=_UNTOLD[doubt])


def _together(noted: list[_Row]) -> _Row:
    """What was noted under several keys, as of the first of them."""
    first, *others = noted
    if not others:
        return first
    return replace(
        first,
        offload=any(row.offload for row in noted),
        modules=set().union(*(row.modules for row in noted)),
        moments=sum((row.moments for row in noted), Counter()),
        count=sum(row.count for row in noted),
        bytes=sum(row.bytes for row in noted),
        known=all(row.known for row in noted),
        assumed=next((row.assumed for row in noted if row.assumed is not None), None),
        contents=set().union(*(row.contents for row in noted)),
    )


def _per_step(runs: Sequence[Sequence[int]]) -> float:
    """Of the steps between the first and the last of each loop. A loop of two steps has none, and its second
    stands for them; but the last step of the call only where it is the only one."""
    counts = [count for run in runs for count in steady(run)]
    if len(counts) > 1 and len(runs[-1]) == 2:
        counts.pop()
    return median(counts) if counts else 0.0


def _first_step_only(runs: Sequence[Sequence[int]]) -> bool:
    """Whether it happens in first steps alone, in a loop that has others."""
    later = [count for run in runs for count in run[1:]]
    return bool(later) and not any(later)


def _digest(tensor: torch.Tensor) -> int | None:
    """Of a host tensor's bytes; None for a device tensor or one too large to be a constant."""
    if tensor is None or tensor.device.type != "cpu" or tensor.nbytes > SMALL_BYTES:
        return None
    return hash((tuple(tensor.shape), tensor.dtype, tuple(tensor.detach().flatten().tolist())))


def _part_of(frames: list[FrameType]) -> str | None:
    return "callback" if any(f.f_code.co_name.startswith("callback") for f in frames) else None


def _is_offloader(frame: FrameType) -> bool:
    """Whether it moves weights: a hook of an offloading scheme, or what puts these hooks on again after a
    call."""
    path = importable_path(frame.f_code.co_filename)[0]
    return path in _OFFLOADERS or (path == _PUTS_HOOKS and frame.f_code.co_name.endswith("_offload"))


def _patterns(modules: set[str]) -> tuple[str, ...]:
    """Names of modules, with `*` for the numbers of several that differ in nothing else."""
    alike: dict[str, list[str]] = {}
    for name in sorted(modules):
        pattern = ".".join("*" if part.isdigit() else part for part in name.split("."))
        alike.setdefault(pattern, []).append(name)
    return tuple(names[0] if len(names) == 1 else pattern for pattern, names in alike.items())


def _common_module(modules: set[str]) -> str | None:
    """The module itself, or what their names have in common: `*` for numbers, or for all that follows."""
    patterns = _patterns(modules)
    if len(patterns) <= 1:
        return next(iter(patterns), None)
    split = [name.split(".") for name in sorted(modules)]
    shared = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join([*shared, "*"]) if shared else None
