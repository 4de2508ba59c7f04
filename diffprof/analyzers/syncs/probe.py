"""Runs one call of the pipeline and records every operation that makes, or would make, the host wait."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from diffprof.analyzers.syncs.owner import Owner, owner_of
from diffprof.devices.simulated import Blocking, Observer
from diffprof.model.callsite import Place, caller, importable_path, is_machinery, make_site, places, stack
from diffprof.model.recording import SyncRow, Unseen, median, steady
from diffprof.targets.pipeline import LoopPosition, PhaseTracker, loop_position, module_names, with_role

Key = tuple[str, str, int, bool]
"""(kind, file name, line, in the loop): what makes two blocking operations the same row."""

SMALL_BYTES = 64 * 1024
"""Uploads up to this size are compared between steps, to tell constants from data."""

_NEVER_WARNED = ("staged-copy", "synchronize")
"""What the sync debug mode says nothing of: copies that are not waited for, `cudaDeviceSynchronize`."""

_READS = ("value-read", "tensor-from-device-scalars")
_OFFLOADERS = ("accelerate/hooks.py", "diffusers/hooks/group_offloading.py")


@dataclass
class _Row:
    event: Blocking
    chain: tuple[Place, ...]
    phase: str
    part: str | None
    offload: bool
    owner: Owner | None = None
    modules: set[str] = field(default_factory=set)
    steps: Counter[int] = field(default_factory=Counter)
    count: int = 0
    bytes: int = 0
    known: bool = True
    assumed: Any = None
    contents: set[int | None] = field(default_factory=set)


class SyncObserver(Observer):
    """Turns blocking operations into rows, one a site and kind."""

    def __init__(self, pipe: Any, tracker: PhaseTracker) -> None:
        self.tracker = tracker
        self.denoisers = frozenset(name.rsplit(".", 1)[-1] for name in with_role(pipe, "denoiser"))
        self.names = module_names(pipe)
        self.call_code = getattr(inspect.unwrap(type(pipe).__call__), "__code__", None)
        self.rows: dict[Key, _Row] = {}
        self.loops: set[int] = set()
        self.first_index: dict[int, int] = {}
        self.ops = 0
        self.opaque_ops: dict[str, tuple[Place, ...]] = {}
        self.warned: dict[tuple[str, int], tuple[Place, ...]] | None = None
        self.invented_values: dict[tuple[Place, ...], str] = {}

    # --- what the device tells ------------------------------------------------------------------------

    def op(self, signature: Any) -> None:
        self.ops += 1

    def opaque(self, name: str) -> None:
        if name not in self.opaque_ops:
            self.opaque_ops[name] = self._chain(list(stack()))

    def invented(self, shape: tuple[int, ...], dtype: str) -> None:
        frames = list(stack())
        if loop_position(frames, self.denoisers) is not None:
            what = f"{dtype}{list(shape)}"
            self.invented_values.setdefault(places(frames)[:1], what)

    def witness(self, message: str) -> None:
        """The device's own warning that the host waits, on the stack that caused it."""
        for frame in stack():
            if not is_machinery(frame.f_code.co_filename):
                place = (frame.f_code.co_filename, frame.f_lineno)
                self.warned = self.warned or {}
                self.warned.setdefault(place, places(list(stack())))
                return

    def blocking(self, event: Blocking) -> None:
        self.note(event)

    def note(self, event: Blocking) -> Key:
        """Note one wait; returns the key of its row."""
        frames = list(stack())
        position = loop_position(frames, self.denoisers)
        at = next((f for f in frames if not is_machinery(f.f_code.co_filename)), frames[0])
        # Reading an index for a host table is a value read; that it is a table is told by the row's owner.
        kind = "value-read" if event.kind == "host-index" else str(event.kind)
        key = (kind, at.f_code.co_filename, at.f_lineno, position is not None)
        row = self.rows.get(key)
        if row is None:
            phase = self.tracker.current
            name = "denoise" if position else self._outside(phase.name)
            row = self.rows[key] = _Row(
                event=event,
                chain=self._chain(frames),
                phase=name,
                part=(phase.part or _part_of(frames)) if position else None,
                offload=any(_is_offloader(f) for f in frames),
                owner=owner_of(at, event, self.names) if kind in _READS else None,
            )
        row.count += event.waits
        row.bytes += event.bytes
        row.known &= event.known
        if row.assumed is None:
            row.assumed = event.assumed
        row.contents.add(_digest(event.tensor))
        if (module := self._module_of(frames)) is not None:
            row.modules.add(module)
        if position is not None:
            row.steps[self._step(position)] += event.waits
        return key

    # --- where the call stands ------------------------------------------------------------------------

    def _step(self, position: LoopPosition) -> int:
        loop = hash((position.code, position.loop.first))
        if position.index is None:
            return self.tracker.steps_done
        return position.index - self.first_index.setdefault(loop, position.index)

    def _outside(self, phase: str) -> str:
        """The phase of something that is not in the loop although the loop has begun."""
        if phase != "denoise":
            return phase
        return "decode" if self.tracker.steps_done else "prepare"

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
            name = self.names.get(id(frame.f_locals.get("self")))
            if name is not None:
                return name
        return None

    # --- the result -----------------------------------------------------------------------------------

    def sections(self) -> dict[str, Any]:
        """Sections of the recording."""
        return {"syncs": self.sync_rows(), "ops": self.ops}

    def sync_rows(self) -> tuple[SyncRow, ...]:
        """All rows, in the order in which they were first seen."""
        return tuple(self._finished(row, key) for key, row in self.rows.items())

    def _finished(self, row: _Row, key: Key) -> SyncRow:
        steps = self.steps_seen()
        by_step = tuple(row.steps.get(i, 0) for i in range(steps)) if key[3] else ()
        owner = row.owner
        return SyncRow(
            kind=key[0],
            op=row.event.op,
            reason=row.event.reason,
            source=row.event.source,
            site=make_site(row.chain, _common_module(row.modules)),
            phase=row.phase,
            part=row.part,
            in_loop=key[3],
            count=row.count,
            per_step=median(steady(by_step)) if by_step else 0.0,
            by_step=by_step,
            first_step_only=len(by_step) > 1 and by_step[0] > 0 and not any(by_step[1:]),
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
            offload=row.offload,
            constant=None if row.count == 1 or None in row.contents else len(row.contents) == 1,
            witnesses=("dispatch", *self._second_witness(key)),
        )

    def steps_seen(self) -> int:
        """Iterations of the longest denoising loop."""
        seen = [max(row.steps) + 1 for row in self.rows.values() if row.steps]
        return max([self.tracker.steps_total, *seen])

    def _second_witness(self, key: Key) -> tuple[str, ...]:
        return ("set_sync_debug_mode",) if self.warned and key[1:3] in self.warned else ()

    def _disagreements(self) -> Iterator[Unseen]:
        """Where the device's own warnings and the dispatcher's table do not agree; nothing on a device that
        gives no warnings."""
        if self.warned is None:
            return
        told = {key[1:3] for key in self.rows}
        for place, chain in self.warned.items():
            if place not in told:
                yield Unseen(
                    what="a wait that only set_sync_debug_mode saw",
                    why="it came from code that does not pass PyTorch's dispatcher",
                    site=make_site(chain, None),
                )
        for key, row in self.rows.items():
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
        invented = (
            Unseen(
                kind="value",
                what=f"a copy of {what} to the host",
                why="nobody knows its values; zeros stood in for them, and what the host decided from "
                "them may differ on a real run",
                site=make_site(chain, None),
            )
            for chain, what in self.invented_values.items()
        )
        return (*opaque, *invented, *self._disagreements())


def _digest(tensor: Any) -> int | None:
    """Of a host tensor's bytes; None for a device tensor or one too large to be a constant."""
    if tensor is None or tensor.device.type != "cpu" or tensor.nbytes > SMALL_BYTES:
        return None
    return hash((tuple(tensor.shape), tensor.dtype, tuple(tensor.detach().flatten().tolist())))


def _part_of(frames: list[FrameType]) -> str | None:
    return "callback" if any(f.f_code.co_name.startswith("callback") for f in frames) else None


def _is_offloader(frame: FrameType) -> bool:
    return importable_path(frame.f_code.co_filename)[0] in _OFFLOADERS


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
